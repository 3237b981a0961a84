"""Metrics as the benchmarks' own code computes them: `update` per sample, `compute` over all."""
