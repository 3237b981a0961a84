"""Images with their events: made, stored, read, drawn."""
