"""Files that are one stream of words: read in blocks, decoded by a machine that keeps its state.

A machine is a numba function that goes through an array of words once and may stop anywhere; what
it must remember lies in its state. So a file is decoded in pieces of any size, and from any place
whose state was noted: every pass notes some, as an index by time for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numba as nb
import numpy as np

from scaleevent.formats.source import BLOCK, Flaw, RawBlock, Source, TimeIndex

DROPPED, TRIGGERS, OTHER, UNKNOWN, FIRST_UNKNOWN, TALLY = range(6)
"""Places in a machine's tally: events that cannot be used, words that are triggers, words that are
something else, words that cannot be; the first of those (-1: none); the tally's length."""

_HALF = 1 << 31


@dataclass(frozen=True)
class Machine:
    """How the words of a format become events.

    Args:
        word: Type of a word, as stored.
        state: Makes the state before the first word, int64.
        decode: (words, state, tally, t, x, y, p) -> words used, events written. It stops where
            fewer than `most` places are left in the outputs or the words end inside a unit.
        most: Most events one unit can hold.
        dropped: Why the events counted as `DROPPED` cannot be used.
        triggers: What the words counted as `TRIGGERS` are called.
        others: What the words counted as `OTHER` are called.
        unfinished: Whether a state lies inside a unit, such as a packet, where no file may end.
    """

    word: np.dtype
    state: Callable[[], np.ndarray]
    decode: Callable
    most: int = 1
    dropped: str = "before the first time and row"
    triggers: str = "external triggers"
    others: str = "other words"
    unfinished: Callable[[np.ndarray], bool] = lambda state: False


@dataclass(frozen=True)
class WordSource(Source):
    """Decoder of one file of words.

    Args:
        path: The file.
        format: Name of the format.
        size: (height, width) from the header, or None.
        notes: Header facts.
        start: Byte where the words begin.
        machine: How words become events.
        upside_down: Rows are counted from the bottom; needs `size`.
        mirrored: Columns are counted from the right; needs `size`.
        index: Notes of earlier passes.
    """

    path: Path
    format: str
    size: tuple[int, int] | None
    notes: dict[str, str]
    start: int
    machine: Machine
    upside_down: bool = False
    mirrored: bool = False
    index: TimeIndex = field(default_factory=TimeIndex, compare=False, repr=False)

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events from the last noted place before the range on, or from the beginning."""
        machine, size = self.machine, self.machine.word.itemsize
        first, byte, noted = self.index.before(start_us, (0, self.start, machine.state()))
        state = noted.copy()
        left = np.empty(0, machine.word)
        with self.path.open("rb") as file:
            file.seek(byte)
            while data := file.read(BLOCK * size):
                whole = len(data) // size
                words = np.frombuffer(data, machine.word, whole)
                if len(left):
                    words = np.concatenate([left, words])
                while True:
                    used, block = self._decode(words, state, first, byte)
                    words, byte = words[used:], byte + used * size
                    first += len(block) + sum(block.dropped.values())
                    yield block
                    if used:
                        self.index.note(block.t, first, (first, byte, state.copy()))
                    if not used or not len(words):
                        break
                left = words
                if len(data) % size:
                    break
        end = self.path.stat().st_size
        if byte != end or machine.unfinished(state):
            yield RawBlock.of_flaw(
                first,
                Flaw(
                    "truncated file",
                    f"byte {byte}",
                    f"{end - byte} bytes after the last whole one"
                    if byte != end
                    else "the end of the file inside a packet",
                    f"{self.format} words of {size} bytes" if size > 1 else "a whole record",
                    "copy the file again; a recording cut short loses its last events",
                ),
            )

    def _decode(
        self, words: np.ndarray, state: np.ndarray, first: int, byte: int
    ) -> tuple[int, RawBlock]:
        """Words used and the events of them."""
        machine = self.machine
        places = BLOCK + machine.most
        kinds = (np.int64, np.uint16, np.uint16, np.uint8)
        t, x, y, p = (np.empty(places, kind) for kind in kinds)
        tally = np.zeros(TALLY, np.int64)
        tally[FIRST_UNKNOWN] = -1
        used, n = machine.decode(words, state, tally, t, x, y, p)
        flaws: tuple[Flaw, ...] = ()
        if tally[UNKNOWN]:
            at = int(tally[FIRST_UNKNOWN])
            size = machine.word.itemsize
            flaws = (
                Flaw(
                    "unknown words",
                    f"byte {byte + at * size}",
                    f"{int(words[at]):#0{2 * size + 2}x}",
                    f"{self.format} words",
                    "the file is damaged or of a newer format",
                    int(tally[UNKNOWN]),
                ),
            )
        t, x, y, p = t[:n], x[:n], y[:n], p[:n]
        if self.upside_down:
            y = _counted_back(y, self.size[0])
        if self.mirrored:
            x = _counted_back(x, self.size[1])
        dropped = {machine.dropped: int(tally[DROPPED])}
        ignored = {machine.triggers: int(tally[TRIGGERS]), machine.others: int(tally[OTHER])}
        return used, RawBlock(first, t, x, y, p, dropped, ignored, flaws)


@nb.njit(nogil=True, cache=True, inline="always")
def unwrap(value, latest, wraps):  # noqa: ANN001, ANN201
    """A 32-bit time as int64, the latest time and the number of wraps after it.

    A step back of more than half the range is a wrap, and an event from just before one may follow
    it.
    """
    now = np.int64(value) + (wraps << 32)
    step = now - latest
    if step < -_HALF:
        wraps += 1
        now += 1 << 32
    elif step > _HALF and wraps:
        now -= 1 << 32
    return now, max(latest, now), wraps


def _counted_back(column: np.ndarray, size: int) -> np.ndarray:
    """The column as size - 1 - column; what is off the sensor stays off it."""
    return np.where(column < size, np.uint16(size - 1) - column, column)
