"""Estimation of the sensor size for files that do not state it."""

from __future__ import annotations

from pathlib import Path

from scaleevent.errors import DataError
from scaleevent.formats.source import Source

SENSORS = ((128, 128), (180, 240), (240, 304), (260, 346), (320, 320), (480, 640), (720, 1280))
"""(height, width) of common event cameras."""

LARGEST = 2048  # maximum number of rows or columns of a sensor that is estimated from its events


def measured_size(
    source: Source, path: Path, tolerant: bool = False
) -> tuple[tuple[int, int], str]:
    """Estimate (height, width) from the largest coordinates, and describe the estimate.

    The last rows or columns of a sensor may never fire, so a common sensor that is at most 5 %
    larger on both sides is used instead. Reads the whole recording.

    Args:
        source: The decoder.
        path: The file, for error messages.
        tolerant: Skip damage and coordinates of `LARGEST` or more; they are reported when the
            recording is read.

    Raises:
        DataError: Damage, or coordinates that are too large for any sensor.
    """
    height = width = 1
    try:
        for block in source.blocks(None, None):
            x, y = block.x, block.y
            if len(block) and tolerant and max(x.max(), y.max()) >= LARGEST:
                plausible = (x < LARGEST) & (y < LARGEST)
                x, y = x[plausible], y[plausible]
            if len(x):
                height, width = max(height, int(y.max()) + 1), max(width, int(x.max()) + 1)
    except DataError:
        if not tolerant:
            raise
    if max(height, width) > LARGEST:
        raise DataError(
            "the file does not state its sensor's size, and it does not follow from the events",
            where=path,
            found=f"coordinates up to x = {width - 1}, y = {height - 1}",
            expected=f"below {LARGEST}",
            hint="give the sensor's rows x columns: --size 480x640; "
            "or the file is damaged, or its columns are others: --columns",
        )
    note = f"largest coordinates of the events, {width}x{height}"
    for rows, columns in SENSORS:
        if height <= rows <= 1.05 * height and width <= columns <= 1.05 * width:
            return (rows, columns), note
    return (height, width), note
