"""k-means of features by their direction."""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2

STARTS, STEPS = 8, 50  # of the search for centres


def fit_clusters(tokens: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """(K, D) float64 centres of (M, D) tokens, each scaled to length 1 first.

    The best of `STARTS` starts (k-means++, drawn from the seed); in the order of their size, the
    largest first. Tokens that are fewer than clusters, or alike, leave centres equal.
    """
    units = _units(tokens.astype(np.float64))
    best: np.ndarray | None = None
    least = np.inf
    for start in range(STARTS):
        try:
            with np.errstate(invalid="ignore", divide="ignore"):  # of tokens that are all alike
                centres, _ = kmeans2(
                    units, clusters, STEPS, minit="++", missing="raise",
                    seed=np.random.default_rng([seed, start]),
                )  # fmt: skip
        except (ClusterError, ValueError):  # a cluster lost its last token
            continue
        error = float(_distances(units, centres).min(1).sum())
        if error < least:
            best, least = centres, error
    if best is None:
        best = units[np.linspace(0, len(units) - 1, clusters).astype(int)]
    sizes = np.bincount(nearest_cluster(units, best), minlength=clusters)
    ordered: np.ndarray = best[np.argsort(-sizes, kind="stable")]
    return ordered


def nearest_cluster(tokens: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(...) uint8 index of the centre that is nearest to each of (..., D) tokens."""
    flat = _units(tokens.reshape(-1, tokens.shape[-1]).astype(np.float64))
    nearest: np.ndarray = _distances(flat, centres).argmin(1).astype(np.uint8)
    return nearest.reshape(tokens.shape[:-1])


def _units(tokens: np.ndarray) -> np.ndarray:
    units: np.ndarray = tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    return units


def _distances(tokens: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(M, K) squared distances, up to a constant of each token."""
    distances: np.ndarray = (centres**2).sum(1) - 2 * tokens @ centres.T
    return distances
