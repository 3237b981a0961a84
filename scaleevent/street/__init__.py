"""The built-in procedural street: images, events and exact labels."""
