"""Prophesee RAW files, EVT2 and EVT3. Read in blocks of words; time is unwrapped from the start."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats import evt
from scaleevent.formats.recording import BLOCK, Frame, RawBlock

GENERATIONS = (
    (re.compile(r"genx320"), (320, 320)),
    (re.compile(r"gen ?4|imx636|imx646|evk4"), (720, 1280)),
    (re.compile(r"gen ?3"), (480, 640)),
)
"""(height, width) of the sensor generation a header without geometry names."""

_RAW_KEYS = {"evt", "format", "integrator_name", "camera_integrator_name", "plugin_name"}
_MOST_HEADER = 1 << 20


@dataclass(frozen=True)
class Encoding:
    """How the words of one RAW format are decoded."""

    word: np.dtype
    state: int
    decode: Callable[..., tuple[int, int, int]]


ENCODINGS = {
    "EVT2": Encoding(np.dtype("<u4"), evt.EVT2_STATE, evt.decode_evt2),
    "EVT3": Encoding(np.dtype("<u2"), evt.EVT3_STATE, evt.decode_evt3),
}


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is a RAW file: "% key value" lines of that family."""
    if not head.startswith(b"% "):
        return False
    keys = {line.split(" ")[1].lower() for line in _header_lines(head) if line.count(" ")}
    return bool(keys & _RAW_KEYS) or path.suffix.lower() == ".raw"


def open_source(path: Path, time_unit: str | None) -> RawSource:
    """The decoder of a RAW file; `time_unit` is not needed, the format fixes it.

    Raises:
        DataError: An encoding that is not read, a broken header, or half a word at the end.
    """
    with path.open("rb") as file:
        lines = _header_lines(file.read(_MOST_HEADER))
    start = sum(len(line) + 1 for line in lines)
    header = {}
    for line in lines:
        key, _, value = line.removeprefix("% ").strip().partition(" ")
        header[key] = value
    options = dict(
        part.split("=", 1) for part in header.get("format", "").split(";") if "=" in part
    )
    encoding = _encoding(header, path)
    half = (path.stat().st_size - start) % ENCODINGS[encoding].word.itemsize
    if half:
        raise DataError(
            "truncated file",
            where=f"{path}, byte {path.stat().st_size - half}",
            found=f"{half} bytes after the last whole word",
            expected=f"{encoding} words of {ENCODINGS[encoding].word.itemsize} bytes",
            hint="copy the file again; a recording cut short loses its last events",
        )
    return RawSource(path, encoding, _size(header, options, path), header, start)


def _header_lines(head: bytes) -> list[str]:
    """The header lines, up to "% end" or the first line that does not begin with "% "."""
    lines = []
    at = 0
    while head[at : at + 2] == b"% ":
        end = head.find(b"\n", at)
        if end < 0:
            break
        lines.append(head[at:end].decode("latin-1"))
        at = end + 1
        if lines[-1].strip() == "% end":
            break
    return lines


def _encoding(header: dict[str, str], path: Path) -> str:
    """EVT2 or EVT3 by the keys format, then evt; headers older than both mean EVT2."""
    named = header.get("format", "").split(";")[0].strip().upper()
    named = named or {"2.0": "EVT2", "2.1": "EVT2.1", "3.0": "EVT3"}.get(
        header.get("evt", "2.0").strip(), f"evt {header.get('evt')}"
    )
    if named not in ENCODINGS:
        raise DataError(
            "RAW encoding is not supported",
            where=f"{path}, header",
            found=named,
            expected=" or ".join(ENCODINGS),
        )
    return named


def _size(header: dict[str, str], options: dict[str, str], path: Path) -> tuple[int, int] | None:
    """(height, width) the header states, or the one of the sensor generation it names."""
    if "width" in options and "height" in options:
        stated = (options["height"], options["width"])
    elif "geometry" in header:
        stated = tuple(reversed(header["geometry"].strip().split("x")))
    else:
        told = " ".join(f"{key} {value}" for key, value in header.items() if key != "Date").lower()
        return next((size for pattern, size in GENERATIONS if pattern.search(told)), None)
    if len(stated) != 2 or not all(re.fullmatch(r"[1-9][0-9]{0,4}", part) for part in stated):
        raise DataError(
            "the header's sensor size is broken", where=f"{path}, header", found="x".join(stated)
        )
    return int(stated[0]), int(stated[1])


@dataclass(frozen=True)
class RawSource:
    """Decoder of one RAW file.

    Args:
        path: The file.
        format: "EVT2" or "EVT3".
        size: (height, width) from the header, or None.
        notes: The header.
        start: Byte where the words begin.
    """

    path: Path
    format: str
    size: tuple[int, int] | None
    notes: dict[str, str]
    start: int
    has_frames = False

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning, whatever the range: the clock's wraps must be counted."""
        encoding = ENCODINGS[self.format]
        state = evt.first_state(encoding.state)
        first = 0
        with self.path.open("rb") as file:
            file.seek(self.start)
            while len(words := np.fromfile(file, encoding.word, BLOCK)):
                while len(words):
                    places = BLOCK + evt.VECTOR
                    t, x, y, p = (
                        np.empty(places, kind)
                        for kind in (np.int64, np.uint16, np.uint16, np.uint8)
                    )
                    used, n, dropped = encoding.decode(words, state, t, x, y, p)
                    lost = {"before the first time and row": dropped}
                    yield RawBlock(first, t[:n], x[:n], y[:n], p[:n], lost)
                    first += n + dropped
                    words = words[used:]

    def frames(self) -> Iterator[Frame]:
        """None: RAW files hold events only."""
        return iter(())
