"""Prophesee words as they arrive: header and words may be cut anywhere, even within a word."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats.headers import MAX_HEADER_BYTES, is_whole
from scaleevent.formats.prophesee import ENCODINGS, MARK, Layout, read_layout
from scaleevent.formats.source import BLOCK, Flaw, RawBlock
from scaleevent.formats.words import decode_words

GARBAGE, GARBAGE_WORDS = 0.05, 4096
"""Share of unknown words above which a stream is something else, and words that are looked at
together: of random words at least a quarter is unknown."""


class EvtStream:
    """Decoder of a stream of EVT2, EVT2.1 or EVT3 words with or without a header before them.

    What it makes of a stream is what `open_recording` makes of the same bytes in a file, however
    they are cut.

    Args:
        name: What the stream is called in messages.
        encoding: EVT2, EVT2.1 or EVT3, of a stream without a header. One with a header tells it.

    Attributes:
        layout: What the header says; None until it has arrived as a whole.

    Example:
        >>> from scaleevent.live.evt_stream import EvtStream
        >>> stream = EvtStream("a camera", encoding="EVT2")
        >>> time, event = 0x8000_0001, 0x1000_0803  # 64 us; ON at column 1, row 3
        >>> data = time.to_bytes(4, "little") + event.to_bytes(4, "little")
        >>> [len(block) for part in (data[:3], data[3:]) for block in stream.push(part)]
        [1]
    """

    def __init__(self, name: str, encoding: str | None = None) -> None:
        if encoding is not None and encoding not in ENCODINGS:
            raise ConfigError(
                "unknown encoding of a stream", found=encoding, expected=", ".join(ENCODINGS)
            )
        self._name, self._encoding = name, encoding
        self.layout: Layout | None = None
        self._left = b""  # bytes that arrived and are not decoded
        self._state = np.empty(0, np.int64)
        self._seen, self._unknown = 0, 0  # words since garbage was last looked for
        self._first, self._byte = 0, 0  # index of the next event, position of the next word

    @property
    def received(self) -> bool:
        """Whether anything has come."""
        return self.layout is not None or bool(self._left)

    @property
    def time_us(self) -> int | None:
        """The time before which no event will come any more; None before the first time word."""
        if self.layout is None or self._state[0] < 0:
            return None
        high, wraps, *rest = self._state.tolist()
        if self.layout.encoding == "EVT3":
            return int(wraps << 24 | high << 12 | rest[0])
        return int(wraps << 34 | high << 6)

    def push(self, data: bytes) -> Iterator[RawBlock]:
        """Decode what can be decoded with these further bytes.

        Raises:
            NotEventsError: The stream begins with something else.
            DataError: Its header is broken or names an unknown encoding, or its words are garbage.
            ConfigError: Its header contradicts the encoding that was given.
        """
        self._left += data
        if self.layout is None and is_whole(self._left, MARK):
            self._begin()
        yield from self._decode()

    def finish(self) -> Iterator[RawBlock]:
        """Decode what is left when the stream has ended; half a word is reported as a flaw.

        Raises:
            NotEventsError: As `push`.
            DataError: As `push`.
            ConfigError: As `push`.
        """
        if self.layout is None:
            self._begin()
        yield from self._decode()
        self._refuse_garbage(())
        if self._left and self.layout is not None:
            size = self.layout.machine.word.itemsize
            found = f"{len(self._left)} bytes after the last whole one"
            expected = f"{self.layout.encoding} words of {size} bytes"
            where = f"byte {self._byte}"
            yield RawBlock.empty(self._first, Flaw("truncated stream", where, found, expected))

    def _begin(self) -> None:
        """Read the header, or take the stream for bare words."""
        if self._left.startswith(MARK):
            self.layout = read_layout(self._left[:MAX_HEADER_BYTES], self._name)
            if self._encoding not in (None, self.layout.encoding):
                raise ConfigError(
                    "the stream is in another format than given",
                    where=self._name,
                    found=f"{self.layout.encoding}, by its header",
                    expected=f"{self._encoding}, as given",
                    hint="leave the format out: the header tells it",
                )
        elif self._encoding is None:
            raise NotEventsError(
                "the stream does not begin as a RAW recording does",
                where=self._name,
                found=f"first bytes {self._left[:16]!r}" if self._left else "nothing",
                expected='header lines such as "% evt 3.0", then EVT2, EVT2.1 or EVT3 words',
                hint="bare words without a header: say which, such as --format EVT3 --size 720x1280"
                if self._left
                else "does the program that writes it run?",
            )
        else:
            machine = ENCODINGS[self._encoding]
            self.layout = Layout(self._encoding, machine, None, {}, 0)
        self._byte = self.layout.start
        self._left = self._left[self._byte :]
        self._state = np.array(self.layout.machine.state, np.int64)

    def _decode(self) -> Iterator[RawBlock]:
        if self.layout is None:
            return
        machine = self.layout.machine
        size = machine.word.itemsize
        data, at, most = self._left, 0, BLOCK  # bytes, position in them, words at a time
        while len(data) - at >= size:
            count = min((len(data) - at) // size, most)
            words, before = np.frombuffer(data, machine.word, count, at), self._state.copy()
            used, block = decode_words(
                machine, self.layout.encoding, words, self._state, self._first, self._byte
            )
            unknown = sum(flaw.count for flaw in block.flaws)
            if used > GARBAGE_WORDS and unknown > GARBAGE * GARBAGE_WORDS:
                self._state, most = before, GARBAGE_WORDS  # what came before garbage counts
                continue
            at += used * size
            self._byte += used * size
            self._first += len(block) + sum(block.dropped.values())
            self._left = data[at:]
            self._seen += used
            self._unknown += unknown
            if self._seen >= GARBAGE_WORDS:
                self._refuse_garbage(block.flaws)
            yield block

    def _refuse_garbage(self, flaws: tuple[Flaw, ...]) -> None:
        """Refuse words of which too many do not exist."""
        assert self.layout is not None
        if self._unknown > GARBAGE * self._seen:
            size = self.layout.machine.word.itemsize
            raise DataError(
                f"the stream is not {self.layout.encoding}",
                where=f"{self._name}, {flaws[0].where if flaws else f'byte {self._byte}'}",
                found=f"{self._unknown:,} unknown among {self._seen:,} words of {size} bytes",
                expected=f"at most {GARBAGE:.0%}",
                hint="a byte lost on the way shifts all words after it: begin the stream anew; "
                "or it is of another format",
            )
        self._seen = self._unknown = 0
