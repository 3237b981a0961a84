"""Vision transformers as dense encoders, and their weights."""
