"""Labelled data, scores and published numbers, by benchmark."""
