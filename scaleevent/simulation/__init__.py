"""Simulated event cameras: from images to events."""
