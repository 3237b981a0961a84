"""Metrics as the benchmarks' own code computes them: `update` per sample, `compute` over all."""

from __future__ import annotations

import numpy as np

from scaleevent.errors import DataError


def check_finite(prediction: np.ndarray, what: str, where: object) -> None:
    """Refuse a prediction (..., H, W) that is not finite, naming the first such value."""
    wrong = np.argwhere(~np.isfinite(prediction))
    if len(wrong):
        first = tuple(wrong[0])
        raise DataError(
            f"the predicted {what} is not finite",
            where=where,
            found=f"{prediction[first]} at row {first[-2]}, column {first[-1]}; "
            f"{len(wrong)} values in total",
        )
