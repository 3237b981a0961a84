"""Finished, running and interrupted runs as one page that needs nothing else."""
