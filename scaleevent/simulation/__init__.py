"""Images to events."""
