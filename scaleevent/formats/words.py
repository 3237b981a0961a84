"""Files that are one stream of words, read in blocks and decoded by a state machine.

The decoder is a numba function that goes through an array of words once and may stop anywhere; all
it must remember is in its state. A file can therefore be decoded in pieces of any size, and from
any position whose state is known: every pass records some, as a time index for the next pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numba as nb
import numpy as np
from numpy import ndarray

from scaleevent.formats.source import BLOCK, FileSource, Flaw, RawBlock, TimeIndex, empty_columns

DROPPED, TRIGGERS, OTHER, UNKNOWN, FIRST_UNKNOWN, TALLY = range(6)
"""Entries of the tally that a decoder fills: unusable events, words that are triggers, other words,
undecodable words, and the index of the first undecodable word (-1: none). `TALLY` is its length."""

CLOCK = (0, 0)  # state of `unwrap` before the first word: latest time, number of wraps

_HALF = 1 << 31


@dataclass(frozen=True)
class Machine:
    """How the words of a format become events.

    Args:
        word: Type of a stored word.
        state: The state before the first word.
        decode: (words, state, tally, t, x, y, p) -> number of words used and of events written. It
            stops if fewer than `max_events` places are left in the outputs or if the words end
            inside a unit, such as a record.
        max_events: Maximum number of events in one unit.
        dropped: Why the events counted as `DROPPED` cannot be used.
        triggers: Name of the words counted as `TRIGGERS`.
        others: Name of the words counted as `OTHER`.
        unfinished: Entries of the state that are not 0 inside a packet, where no whole file ends.
    """

    word: np.dtype
    state: tuple[int, ...]
    decode: Callable[..., tuple[int, int]]
    max_events: int = 1
    dropped: str = "before the first time and row"
    triggers: str = "external triggers"
    others: str = "other words"
    unfinished: tuple[int, ...] = ()


@dataclass(frozen=True)
class WordSource(FileSource):
    """Decoder of one file of words.

    Args:
        start: Position of the first word in bytes.
        machine: The decoder of the words.
        upside_down: Rows are counted from the bottom; needs `size`.
        mirrored: Columns are counted from the right; needs `size`.
        index: Positions recorded by earlier passes.
    """

    start: int
    machine: Machine
    upside_down: bool = False
    mirrored: bool = False
    index: TimeIndex[tuple[int, int, ndarray]] = field(
        default_factory=TimeIndex, compare=False, repr=False
    )

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """The events from the last recorded position before the range, or from the beginning."""
        machine, size = self.machine, self.machine.word.itemsize
        begin = (0, self.start, np.array(machine.state, np.int64))
        first, byte, state = self.index.before(start_us, begin)
        state = state.copy()
        left = np.empty(0, machine.word)
        with self.path.open("rb") as file:
            file.seek(byte)
            while data := file.read(BLOCK * size):
                words = np.frombuffer(data, machine.word, len(data) // size)
                if len(left):
                    words = np.concatenate([left, words])
                used = 1
                while used and len(words):
                    used, block = self._decode(words, state, first, byte)
                    words, byte = words[used:], byte + used * size
                    first += len(block) + sum(block.dropped.values())
                    yield block
                    self.index.note(block.t, first, (first, byte, state.copy()))
                left = words
        left_over = self.path.stat().st_size - byte
        if left_over or any(state[entry] for entry in machine.unfinished):
            found = "the end of the file inside a packet"
            if left_over:
                found = f"{left_over} bytes after the last whole one"
            expected = f"{self.format} words of {size} bytes" if size > 1 else "a whole record"
            hint = "copy the file again; a recording cut short loses its last events"
            flaw = Flaw("truncated file", f"byte {byte}", found, expected, hint)
            yield RawBlock.empty(first, flaw)

    def _decode(
        self, words: np.ndarray, state: np.ndarray, first: int, byte: int
    ) -> tuple[int, RawBlock]:
        """Decode some words: the number of words used, and their events on the sensor."""
        used, block = decode_words(self.machine, self.format, words, state, first, byte)
        if self.size is not None and self.upside_down:
            block = replace(block, y=_mirror(block.y, self.size[0]))
        if self.size is not None and self.mirrored:
            block = replace(block, x=_mirror(block.x, self.size[1]))
        return used, block


def decode_words(
    machine: Machine, encoding: str, words: np.ndarray, state: np.ndarray, first: int, byte: int
) -> tuple[int, RawBlock]:
    """Decode words as far as one block has room for their events.

    Args:
        machine: The decoder.
        encoding: Name of the format, for messages.
        words: (N,) words of the type `machine.word`.
        state: (S,) int64, the decoder's state after the words before; updated in place.
        first: Index in the recording of the first event.
        byte: Position of the first word in bytes, for messages.

    Returns:
        The number of words used, and their events. A decoder that uses none needs more words.
    """
    room = min(BLOCK, len(words) * machine.max_events) + machine.max_events
    t, x, y, p = empty_columns(room)
    tally = np.zeros(TALLY, np.int64)
    tally[FIRST_UNKNOWN] = -1
    used, n = machine.decode(words, state, tally, t, x, y, p)
    flaws: tuple[Flaw, ...] = ()
    if tally[UNKNOWN]:
        at, size = int(tally[FIRST_UNKNOWN]), machine.word.itemsize
        where, found = f"byte {byte + at * size}", f"{int(words[at]):#0{2 * size + 2}x}"
        expected, hint = f"{encoding} words", "the file is damaged or of a newer format"
        count = int(tally[UNKNOWN])
        flaws = (Flaw("unknown words", where, found, expected, hint, count),)
    dropped = {machine.dropped: int(tally[DROPPED])}
    ignored = {machine.triggers: int(tally[TRIGGERS]), machine.others: int(tally[OTHER])}
    return used, RawBlock(first, t[:n], x[:n], y[:n], p[:n], dropped, ignored, flaws)


@nb.njit(nogil=True, cache=True, inline="always")
def unwrap(value: int, latest: int, wraps: int) -> tuple[int, int, int]:
    """Extend a 32-bit time to int64; also returns the new latest time and number of wraps.

    A backward step of more than half the range is a wrap; an event from just before the wrap may
    still follow it.
    """
    now = int(np.int64(value)) + (wraps << 32)
    step = now - latest
    if step < -_HALF:
        wraps += 1
        now += 1 << 32
    elif step > _HALF and wraps:
        now -= 1 << 32
    return now, max(latest, now), wraps


def _mirror(column: np.ndarray, size: int) -> np.ndarray:
    """Size - 1 - column; coordinates outside the sensor are left unchanged."""
    return np.where(column < size, np.uint16(size - 1) - column, column)
