"""AEDAT 1.0 and 2.0 of jAER and AEDAT 3 of cAER: address events and polarity packets.

jAER counts rows from the bottom and columns from the right, and AEDAT 3.0 counts rows from the
bottom; here both count from the top left, as in AEDAT 3.1.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scaleevent.errors import ConfigError, DataError
from scaleevent.formats.aedat_machines import DAVIS, DVS128, DVS128_SHORT, DVS640, PACKETS
from scaleevent.formats.headers import MAX_HEADER_BYTES, header_lines
from scaleevent.formats.source import ReadOptions
from scaleevent.formats.words import Machine, WordSource

SUFFIXES = (".aedat",)

MARK = b"#"
MAGIC = b"#!AER-DAT"
_VERSIONS = ("1.0", "2.0", "3.0", "3.1")
_SHORT = np.dtype([("address", ">u2"), ("time", ">i4")])
_FEW = 100  # events that show nothing about their camera
_MAX_INVALID = 0.01  # fraction of invalid records in a file that is taken for AEDAT 1.0


class Layout(NamedTuple):
    """Bits of an address: their decoder, and how many bits the largest address of a file has."""

    machine: Machine
    more_than: int
    at_most: int


_DVS, _WIDE_DVS, _DAVIS = Layout(DVS128, 0, 16), Layout(DVS640, 15, 21), Layout(DAVIS, 22, 31)


class Camera(NamedTuple):
    """A camera whose addresses are known."""

    name: str
    pattern: re.Pattern[str]  # its names in file headers
    size: tuple[int, int]  # (height, width)
    layout: Layout


def _camera(name: str, pattern: str, height: int, width: int, layout: Layout) -> Camera:
    return Camera(name, re.compile(pattern, re.IGNORECASE), (height, width), layout)


CAMERAS = (
    _camera("DVS128", "DVS128|Tmpdiff128", 128, 128, _DVS),
    _camera("DAVIS128", "DAVIS128", 128, 128, _DAVIS),
    _camera("DAVIS208", "DAVIS208", 192, 208, _DAVIS),
    _camera("DAVIS240", "DAVIS240|DVS240|SBRet10", 180, 240, _DAVIS),
    _camera("DAVIS346", "DAVIS346|DVS346", 260, 346, _DAVIS),
    _camera("DAVIS640", "DAVIS640", 480, 640, _DAVIS),
    _camera("DVS640", "DVS640", 480, 640, _WIDE_DVS),
)
"""DAVISRGBW640 and CDAVIS are missing, since their event pixels lie on a different grid."""

NAMES = ", ".join(camera.name for camera in CAMERAS)


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is AEDAT; version 4 has its own reader.

    Nothing marks a file of version 1.0 without a header: its name and its values decide.
    """
    old = path.suffix.lower() in (".aedat", ".dat") and not head.startswith(MAGIC)
    return head.startswith(MAGIC) or old and _are_short_records(head)


def open_source(path: Path, options: ReadOptions) -> WordSource:
    """The decoder of an AEDAT 1.0, 2.0 or 3 file; the format defines all but the camera.

    `options.camera` or `options.size` state the camera where the file does not name one.

    Raises:
        DataError: Another version, a header without end, compressed packets, or an unknown camera
            where its addresses or size are needed.
        ConfigError: `options.camera` is not known.
    """
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    lines, start = header_lines(head, MARK)
    version = "1.0"
    if head.startswith(MAGIC):
        version = head.split(b"\n", 1)[0][len(MAGIC) :].strip().decode("latin-1")
    refuse = partial(DataError, where=f"{path}, header")
    if version not in _VERSIONS or head.startswith(MAGIC) and not lines:
        expected = ", ".join((*_VERSIONS, "4.0"))
        raise refuse("unsupported AEDAT version", found=version[:20], expected=expected)
    if start > MAX_HEADER_BYTES - (1 << 16):
        raise DataError(
            "AEDAT header without end",
            where=f"{path}, byte {start}",
            found=f"comment lines up to there in the first {len(head)} bytes",
        )
    if version in ("1.0", "2.0"):
        camera, chip, choices = _address_camera(path, version, lines, options)
        if version == "2.0" and (options.camera or choices):
            _check_layout(path, camera, head[start:])
        machine = DVS128_SHORT if version == "1.0" else camera.layout.machine
        notes = {"camera": chip or camera.name}
        form = f"AEDAT {version}"
        return WordSource(
            path, form, camera.size, notes, start, machine, True, True, choices=choices
        )
    if any(re.match(r"Format:.*SerializedTS", line) for line in lines):
        raise refuse(
            "compressed AEDAT 3 packets are not supported",
            found="format SerializedTS",
            expected="format RAW",
            hint="write the recording again without compression",
        )
    cameras = [line.partition(":")[2].strip() for line in lines if re.match(r"Source \d+:", line)]
    stated = _stated(options)
    known = {stated} if stated else {_known(name) for name in cameras}
    only = known.pop() if len(known) == 1 else None
    size = only.size if only else None
    if version == "3.0" and size is None:
        raise refuse(
            "AEDAT 3.0 counts rows from the bottom of a camera that is not known",
            found=", ".join(cameras) or "no line Source",
            expected=NAMES,
            hint="name it, such as --camera DAVIS346",
        )
    notes = {"camera": ", ".join(cameras)} if cameras else {}
    choices = tuple[str, ...]()
    if len(cameras) > 1:
        choices = (f"events of one camera, the first that has any, of {', '.join(cameras)}",)
    form, upside_down = f"AEDAT {version}", version == "3.0"
    return WordSource(path, form, size, notes, start, PACKETS, upside_down, choices=choices)


def _address_camera(
    path: Path, version: str, lines: list[str], options: ReadOptions
) -> tuple[Camera, str, tuple[str, ...]]:
    """The camera that the header, the caller or the size tells; its name in the header; choices."""
    named = [line.partition(":")[2] for line in lines if line.strip().startswith("AEChip:")]
    chip = named[0].strip().split(".")[-1] if named else ""
    camera, choices = _stated(options) or _known(chip), tuple[str, ...]()
    if camera and options.camera and chip and _known(chip) is not camera:
        choices = (f"addresses of a {camera.name}, as stated; the file names {chip}",)
    if camera is None and not chip and options.size:
        simulated = any("v2e" in line for line in lines)  # whose 640x480 is the last one
        cameras = CAMERAS[::-1] if simulated else CAMERAS
        camera = next((each for each in cameras if each.size == tuple(options.size)), None)
        choices = (f"addresses of a {camera.name}, from the sensor's size",) if camera else ()
    if camera is None:
        raise DataError(
            f"AEDAT {version} of a camera whose addresses are not known",
            where=f"{path}, header",
            found=chip or "no line AEChip",
            expected="DVS128" if version == "1.0" else NAMES,
            hint="name one with its addresses, such as --camera DVS128"
            + ("" if chip else ", or say its size, such as --size 128x128"),
        )
    if version == "1.0" and camera.layout is not _DVS:
        raise ConfigError(
            "AEDAT 1.0 has addresses of another camera",
            where=path,
            found=camera.name,
            expected="DVS128",
            hint="--camera DVS128",
        )
    return camera, chip, choices


def _check_layout(path: Path, camera: Camera, data: bytes) -> None:
    """Refuse a camera of which the caller is mistaken, as its addresses are too large or small."""
    records = np.frombuffer(data[: len(data) // 8 * 8], ">u4")[::2]
    addresses = np.sort(records[records >> 31 == 0])
    if len(addresses) < _FEW:
        return
    bits = int(addresses[int(0.99 * len(addresses))]).bit_length()  # a few may be damaged
    if not camera.layout.more_than < bits <= camera.layout.at_most:
        fits = (c for c in CAMERAS if c.layout.more_than < bits <= c.layout.at_most)
        raise DataError(
            f"the addresses are not those of a {camera.name}",
            where=f"{path}, header",
            found=f"addresses of {bits} bits",
            expected=f"{camera.layout.more_than + 1} to {camera.layout.at_most} bits",
            hint=f"they fit {', '.join(c.name for c in fits) or 'no camera known here'}",
        )


def _stated(options: ReadOptions) -> Camera | None:
    """The camera that the caller names."""
    if options.camera is None:
        return None
    camera = _known(options.camera)
    if camera is None:
        raise ConfigError("unknown camera", where="--camera", found=options.camera, expected=NAMES)
    return camera


def _known(name: str) -> Camera | None:
    """The camera of this name."""
    return next((camera for camera in CAMERAS if camera.pattern.search(name)), None)


def _are_short_records(head: bytes) -> bool:
    """Whether what follows the header, if there is one, are addresses and times of AEDAT 1.0."""
    data = head[header_lines(head, MARK)[1] :]
    records = np.frombuffer(data[: len(data) // _SHORT.itemsize * _SHORT.itemsize], _SHORT)
    address, steps = records["address"], np.diff(records["time"].astype(np.int64))
    if len(records) < 4 or len(np.unique(address)) < 2 or not steps.any():
        return False
    invalid = np.count_nonzero(steps < 0) + np.count_nonzero(address >> 15)
    spread = np.count_nonzero(steps > 60_000_000)  # us
    return bool(invalid + spread <= _MAX_INVALID * len(records))
