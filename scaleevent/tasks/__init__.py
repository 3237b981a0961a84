"""Tasks: targets, metrics, trivial predictions and pictures of each kind of dense prediction."""
