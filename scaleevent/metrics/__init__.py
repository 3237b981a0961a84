"""The metrics, as each benchmark's own code computes them."""
