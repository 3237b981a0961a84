"""The size of a sensor that a file does not state."""

from __future__ import annotations

from pathlib import Path

from scaleevent.errors import DataError
from scaleevent.formats.source import Source

COMMON_SENSORS = (
    (128, 128),
    (180, 240),
    (240, 304),
    (260, 346),
    (320, 320),
    (480, 640),
    (720, 1280),
)
"""(height, width) of the event cameras most recordings come from."""


LARGEST = 2048
"""Rows or columns of a sensor that is found by its events."""


def measured_size(
    source: Source, path: Path, tolerant: bool = False
) -> tuple[tuple[int, int], str]:
    """(height, width) from the largest coordinates, and how it was found.

    A sensor's last rows or columns may never fire, so a common sensor at most 5 % larger on both
    sides is taken instead. Reads the whole recording.

    Args:
        source: The decoder.
        path: The file, for the message.
        tolerant: Pass over damage, and over coordinates from `LARGEST` on: reading the recording
            will tell of them.

    Raises:
        DataError: Coordinates that no sensor has, or damage.
    """
    height = width = 1
    try:
        for block in source.blocks(None, None):
            x, y = block.x, block.y
            if len(block) and tolerant and max(x.max(), y.max()) >= LARGEST:
                seen = (x < LARGEST) & (y < LARGEST)
                x, y = x[seen], y[seen]
            if len(x):
                height, width = max(height, int(y.max()) + 1), max(width, int(x.max()) + 1)
    except DataError:
        if not tolerant:
            raise
    if max(height, width) > LARGEST:
        raise DataError(
            "the file does not state its sensor's size, and its events do not tell it",
            where=path,
            found=f"coordinates up to x = {width - 1}, y = {height - 1}",
            expected=f"below {LARGEST}",
            hint="give the sensor's rows x columns: --size 480x640; "
            "or the file is damaged, or its columns are others: --columns",
        )
    seen = f"largest coordinates of the events, {width}x{height}"
    for rows, columns in COMMON_SENSORS:
        if height <= rows <= 1.05 * height and width <= columns <= 1.05 * width:
            return (rows, columns), seen
    return (height, width), seen
