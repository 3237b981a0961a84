"""AEDAT 2.0 of jAER and AEDAT 3.1 of cAER: address events and polarity packets.

jAER counts rows from the bottom and columns from the right; here they count from the top left.
"""

from __future__ import annotations

import re
from pathlib import Path

from scaleevent.errors import DataError
from scaleevent.formats.aedat_machines import DAVIS, DVS128, PACKETS
from scaleevent.formats.headers import MOST_BYTES, header_lines
from scaleevent.formats.words import WordSource

MARK = b"#"
_MAGIC = {b"#!AER-DAT2": "2.0", b"#!AER-DAT3": "3.1"}
CHIPS = (
    (re.compile(r"DVS128"), (128, 128)),
    (re.compile(r"DAVIS\w*128"), (128, 128)),
    (re.compile(r"DAVIS\w*208"), (192, 208)),
    (re.compile(r"DAVIS\w*240|SBRet10|SeeBetter"), (180, 240)),
    (re.compile(r"DAVIS\w*346"), (260, 346)),
    (re.compile(r"DAVIS\w*640"), (480, 640)),
)
"""(height, width) of the cameras by the names that headers give them."""


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is AEDAT 2.0 or 3.x."""
    return head[:10] in _MAGIC


def open_source(path: Path, time_unit: str | None) -> WordSource:
    """The decoder of an AEDAT 2.0 or 3.1 file; `time_unit` is not needed, the format fixes it.

    Raises:
        DataError: A header without end, or of a camera whose addresses are not known.
    """
    with path.open("rb") as file:
        head = file.read(MOST_BYTES)
    lines, start = header_lines(head, MARK)
    version = _MAGIC[head[:10]]
    told = [line for line in lines if re.match(r"\s*(AEChip|Source \d+):", line)]
    chip = told[0].partition(":")[2].strip().split(".")[-1] if told else ""
    size = next((size for name, size in CHIPS if name.search(chip)), None)
    notes = {"camera": chip} if chip else {}
    if version == "3.1":
        return WordSource(path, "AEDAT 3.1", size, notes, start, PACKETS)
    if size is None:
        raise DataError(
            "AEDAT 2.0 of a camera whose addresses are not known",
            where=f"{path}, header",
            found=chip or "no line AEChip",
            expected="DVS128, or DAVIS128, 208, 240, 346 or 640",
        )
    machine = DVS128 if "DVS128" in chip else DAVIS
    return WordSource(
        path, "AEDAT 2.0", size, notes, start, machine, upside_down=True, mirrored=True
    )
