"""The embedded world: a procedural street with exact labels."""
