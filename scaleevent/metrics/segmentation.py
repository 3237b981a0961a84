"""Class overlap and pixel accuracy from confusion matrices of integer counts.

The counts of all samples are added before anything is divided, so the result depends neither on
batches nor on the number of processes. The numbers are those of uzh-rpg/ess:evaluation/metrics.py,
ldkong1205/OpenESS and zhiwen-xdu/ScaleEvent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaleevent.config.benchmarks import IGNORE
from scaleevent.errors import DataError


def update(
    prediction: np.ndarray, label: np.ndarray, classes: int, *, where: object = None
) -> dict[str, np.ndarray]:
    """Count one sample's pixels by class.

    Args:
        prediction: (H, W) integer classes below `classes`.
        label: (H, W) integer classes, or `IGNORE` for pixels that do not count.
        classes: Number of classes K.
        where: Name of the sample in error messages.

    Returns:
        The sample's state: `confusion`, (K, K) int64, with labels as rows and predictions as
        columns.

    Raises:
        DataError: Sizes differ, the arrays are not integers, or an id is outside the classes.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape:
        raise DataError(
            "prediction and label differ in size",
            where=where,
            found=f"prediction {prediction.shape}, label {label.shape}",
        )
    _check_ids("prediction", prediction, classes, where)
    _check_ids("label", label, classes, where, IGNORE)
    counted = label != IGNORE
    pairs = label[counted].astype(np.int64) * classes + prediction[counted].astype(np.int64)
    counts = np.bincount(pairs, minlength=classes**2)
    return {"confusion": counts.reshape(classes, classes).astype(np.int64)}


def compute(
    states: Sequence[Mapping[str, Any]], groups: Sequence[str] | None = None
) -> dict[str, float | list[float]]:
    """Overlap and accuracy from the pooled counts, in percent.

    Args:
        states: What `update` returned for each sample; matrices may be nested lists.
        groups: The sequence of each sample, which other metrics need; counts are pooled over all.

    Returns:
        `iou` of each class, C[c,c] / (row + column - C[c,c]), 0 for an absent class; `miou`, the
        mean over all classes, as in the references; `miou_present`, the mean without classes absent
        from labels and predictions; `acc`, the percentage of correct pixels; the number of `pixels`
        and `samples`; and `empty`, the number of samples without a pixel that counts.

    Raises:
        DataError: No sample has a pixel that counts.
    """
    matrices = [np.asarray(state["confusion"], np.int64) for state in states]
    empty = sum(not matrix.any() for matrix in matrices)
    if empty == len(matrices):
        raise DataError("no sample has a labelled pixel", found=f"{empty} samples")
    confusion = np.sum(matrices, axis=0)
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = 100 * hits / np.maximum(union, 1)
    return {
        "miou": float(iou.mean()),
        "miou_present": float(iou[union > 0].mean()),
        "acc": float(100 * hits.sum() / confusion.sum()),
        "iou": iou.tolist(),
        "pixels": int(confusion.sum()),
        "samples": len(matrices),
        "empty": empty,
    }


def _check_ids(
    name: str, ids: np.ndarray, classes: int, where: object, also: int | None = None
) -> None:
    """Raise, naming the first, if there are ids that are neither a class nor `also`."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"the {name} is not of integers", where=where, found=ids.dtype)
    wrong = np.argwhere(((ids < 0) | (ids >= classes)) & (ids != also))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{name} ids outside the classes",
            where=where,
            found=f"{ids[row, column]} at row {row}, column {column}; {len(wrong)} pixels in total",
            expected=f"0 to {classes - 1}" + (f" or {also}" if also is not None else ""),
        )
