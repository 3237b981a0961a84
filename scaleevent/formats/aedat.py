"""AEDAT 2.0 of jAER and AEDAT 3 of cAER: address events and polarity packets.

jAER counts rows from the bottom and columns from the right, and AEDAT 3.0 counts rows from the
bottom; here both count from the top left, as in AEDAT 3.1.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from scaleevent.errors import DataError
from scaleevent.formats.aedat_machines import DAVIS, DVS128, PACKETS
from scaleevent.formats.headers import MAX_HEADER_BYTES, header_lines
from scaleevent.formats.source import ReadOptions
from scaleevent.formats.words import WordSource

SUFFIXES = (".aedat",)

MARK = b"#"
MAGIC = b"#!AER-DAT"
_VERSIONS = ("2.0", "3.0", "3.1")

CHIPS = (
    (re.compile(r"DVS128", re.IGNORECASE), (128, 128)),
    (re.compile(r"DAVIS128", re.IGNORECASE), (128, 128)),
    (re.compile(r"DAVIS208", re.IGNORECASE), (192, 208)),
    (re.compile(r"DAVIS240|DVS240|SBRet10", re.IGNORECASE), (180, 240)),
    (re.compile(r"DAVIS346", re.IGNORECASE), (260, 346)),
    (re.compile(r"DAVIS640", re.IGNORECASE), (480, 640)),
)
"""(height, width) of the cameras, by their names in file headers.

All but the first use DAVIS addresses. DAVISRGBW640 and CDAVIS are missing, since their event pixels
lie on a different grid.
"""


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is AEDAT; version 4 has its own reader."""
    return head.startswith(MAGIC)


def open_source(path: Path, options: ReadOptions) -> WordSource:
    """The decoder of an AEDAT 2.0 or 3 file; `options` is ignored, as the format defines the rest.

    Raises:
        DataError: Another version, a header without end, compressed packets, or an unknown camera
            where its addresses or size are needed.
    """
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    lines, start = header_lines(head, MARK)
    version = head.split(b"\n", 1)[0][len(MAGIC) :].strip().decode("latin-1")
    refuse = partial(DataError, where=f"{path}, header")
    if version not in _VERSIONS or not lines:
        expected = ", ".join((*_VERSIONS, "4.0"))
        raise refuse("unsupported AEDAT version", found=version[:20], expected=expected)
    if start > MAX_HEADER_BYTES - (1 << 16):
        raise DataError(
            "AEDAT header without end",
            where=f"{path}, byte {start}",
            found=f"comment lines up to there in the first {len(head)} bytes",
        )
    known = "DVS128, or DAVIS128, 208, 240, 346 or 640"
    if version == "2.0":
        stated = [line.partition(":")[2] for line in lines if line.strip().startswith("AEChip:")]
        chip = stated[0].strip().split(".")[-1] if stated else ""
        size, machine = _size(chip), DVS128 if CHIPS[0][0].search(chip) else DAVIS
        if size is None:
            what = "AEDAT 2.0 of a camera whose addresses are not known"
            raise refuse(what, found=chip or "no line AEChip", expected=known)
        notes = {"camera": chip}
        return WordSource(
            path, "AEDAT 2.0", size, notes, start, machine, upside_down=True, mirrored=True
        )
    if any(re.match(r"Format:.*SerializedTS", line) for line in lines):
        raise refuse(
            "compressed AEDAT 3 packets are not supported",
            found="format SerializedTS",
            expected="format RAW",
            hint="write the recording again without compression",
        )
    cameras = [line.partition(":")[2].strip() for line in lines if re.match(r"Source \d+:", line)]
    sizes = {_size(camera) for camera in cameras}
    size = sizes.pop() if len(sizes) == 1 else None
    if version == "3.0" and size is None:
        what = "AEDAT 3.0 counts rows from the bottom of a camera that is not known"
        raise refuse(what, found=", ".join(cameras) or "no line Source", expected=known)
    notes = {"camera": ", ".join(cameras)} if cameras else {}
    upside_down = version == "3.0"
    return WordSource(path, f"AEDAT {version}", size, notes, start, PACKETS, upside_down)


def _size(camera: str) -> tuple[int, int] | None:
    """(height, width) of a camera by its name."""
    return next((size for name, size in CHIPS if name.search(camera)), None)
