"""Tasks: targets, metrics, constant baselines and pictures of each kind of dense prediction."""
