"""The size of a sensor that a file does not state."""

from __future__ import annotations

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


def measured_size(source: Source) -> tuple[tuple[int, int], str]:
    """(height, width) from the largest coordinates, and how it was found.

    A sensor's last rows or columns may never fire, so a common sensor at most 5 % larger on both
    sides is taken instead. Reads the whole recording.
    """
    height = width = 1
    for block in source.blocks(None, None):
        if len(block):
            height = max(height, int(block.y.max()) + 1)
            width = max(width, int(block.x.max()) + 1)
    seen = f"largest coordinates of the events, {width}x{height}"
    for rows, columns in COMMON_SENSORS:
        if height <= rows <= 1.05 * height and width <= columns <= 1.05 * width:
            return (rows, columns), seen
    return (height, width), seen
