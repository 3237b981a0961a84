"""The readers of the package rosbags, with bounded decompression and more of their checks.

Importing this module needs the package.
"""

from __future__ import annotations

import heapq
import sys
from bz2 import BZ2Decompressor
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from struct import Struct
from urllib.parse import quote
from zlib import crc32

import apsw
from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Bag1Reader
from rosbags.rosbag1.reader import Chunk, ChunkInfo, Header, ReaderError, RecordType, read_uint32
from rosbags.rosbag2 import storage_mcap
from rosbags.rosbag2.storage_mcap import ChunkInfo as ChunkIndex
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

ALWAYS = 64 << 20
"""Decompressed bytes that are always accepted, many times what recorders put into a chunk."""

RATIO = 32
"""Times its own size that compressed data may grow beyond that; events grow less than tenfold."""

_MAX_BLOB = 1 << 28  # bytes in one field of a SQLite file

_IN_CHUNKS = (3, 4, 5)  # kinds of records in a chunk: schemas, channels, messages
_MESSAGE = 5
_MESSAGE_HEAD = Struct("<HIQ")  # channel, number, time of recording

_DECOMPRESSORS = {"bz2": BZ2Decompressor, "lz4": LZ4FrameDecompressor, "zstd": ZstdDecompressor}


def decompress(data: bytes, kind: str, size: int | None = None) -> bytes:
    """Decompress bz2, lz4 or zstd data, with memory bounded by their size.

    Args:
        data: The compressed bytes.
        kind: Name of the compression.
        size: The decompressed size that the file declares; None: it declares none.

    Raises:
        ValueError: More data than declared, or than is plausible.
    """
    most = max(ALWAYS, RATIO * len(data))
    if size is not None and size > most:
        raise ValueError(f"{len(data)} bytes of {kind} declare to be {size} bytes, over {most}")
    limit = most if size is None else size
    parts, total = [], 0
    while data:  # a stream may be followed by another one
        stream = _DECOMPRESSORS[kind]()
        while not stream.eof and total <= limit:
            parts.append(stream.decompress(data, max_length=limit + 1 - total))
            total += len(parts[-1])
            if not parts[-1] and not stream.eof:
                raise ValueError(f"{kind} data end too early")
            data = b""
        if total > limit:
            raise ValueError(f"{kind} data hold more than {limit} bytes")
        data = stream.unused_data or b""
    if size is not None and total != size:
        raise ValueError(f"{kind} data hold {total} bytes, not {size} as declared")
    return parts[0] if len(parts) == 1 else b"".join(parts)


# rosbags gives the entries of this table the declared size, which its own leave unused
storage_mcap.DECOMPRESSORS |= {
    kind: partial(lambda data, size, kind: decompress(data, kind, size), kind=kind)
    for kind in ("lz4", "zstd")
}


def _whole(data: bytes, size: int) -> bytes:
    """Data that are not compressed, checked against the declared size."""
    if len(data) != size:
        raise ValueError(f"a chunk of {len(data)} bytes, not {size} as declared")
    return data


def _by_topic(connections: list[Connection], counts: Mapping[int, int]) -> dict[str, int]:
    """Sum of counts by id over the connections of each topic."""
    topics: Counter[str] = Counter()
    for link in connections:
        topics[link.topic] += counts.get(link.id, 0)
    return topics


class Ros1File(Bag1Reader):
    """A ROS 1 bag."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._index_end = 0

    def open(self) -> None:
        """Read the index.

        Raises:
            ValueError: It has more chunks than the header of the file states.
        """
        super().open()
        assert self.bio
        if not self.chunk_infos:
            self.bio.seek(len(b"#ROSBAG V2.0\n"))
            self._index_end = Header.read(self.bio, RecordType.BAGHEADER).get_uint64("index_pos")
        self.bio.seek(self._index_end)
        with suppress(ReaderError):  # whatever follows, if anything, is not part of the index
            while True:
                if Header.read(self.bio).get_uint8("op") == RecordType.CHUNK_INFO:
                    raise ValueError("the index has more chunks than the header of the file states")
                self.bio.seek(read_uint32(self.bio), 1)

    def declared(self) -> tuple[int, dict[str, int]]:
        """Number of messages by the index of chunks: of all topics, and by topic."""
        totals: Counter[int] = Counter()
        for chunk in self.chunk_infos:
            totals.update(chunk.connection_counts)
        return totals.total(), _by_topic(self.connections, totals)

    def read_chunk_info(self) -> ChunkInfo:
        """Entry of the index for a chunk; each chunk has one."""
        info = super().read_chunk_info()
        assert self.bio
        self._index_end = self.bio.tell()
        return info

    def read_chunk(self) -> Chunk:
        """Header of the chunk at the position of the file."""
        assert self.bio
        if self.bio.tell() in self.chunks:
            raise ValueError("the index has a chunk twice")
        start = self.bio.tell()
        header = Header.read(self.bio, RecordType.CHUNK)
        kind, size = header.get_string("compression"), header.get_uint32("size")
        self.bio.seek(start)
        chunk = super().read_chunk()
        unpack = partial(_whole, size=size)
        if kind != "none":
            unpack = partial(decompress, kind=kind, size=size)
        return chunk._replace(decompressor=unpack)


class Db3File(Sqlite3Reader):
    """A SQLite file of a ROS 2 bag."""

    def __init__(self, path: Path) -> None:
        super().__init__(Path(quote(str(path))))  # it becomes part of a URI

    def open(self) -> None:
        """Open the file."""
        super().open()
        assert self.dbconn
        self.dbconn.limit(apsw.SQLITE_LIMIT_LENGTH, _MAX_BLOB)

    def declared(self) -> tuple[int, dict[str, int]]:
        """Number of messages in the table: of all topics, and by topic."""
        return self.metadata.message_count, _by_topic(
            self.connections, {link.id: link.msgcount for link in self.connections}
        )


class McapFile(McapReader):
    """An MCAP file of a ROS 2 bag."""

    def open(self) -> None:
        """Read the summary at the end of the file.

        Raises:
            ValueError: It differs from its checksum.
        """
        super().open()
        assert self.bio
        footer = self._bytes(-37, 2, 29)
        start, checksum = int.from_bytes(footer[9:17], "little"), footer[25:]
        end = self.bio.tell() - 4
        if start and checksum != bytes(4):
            found = crc32(self._bytes(start, 0, end - start))
            if found != int.from_bytes(checksum, "little"):
                raise ValueError("the summary differs from its checksum")
        for chunk in self.chunks:
            if not chunk.message_index_offsets:  # rosbags would pass over it
                chunk.channel_count.update({link.id: 1 for link in self.connections})

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Messages in the order in which they were recorded; chunks of one time are in memory.

        Raises:
            ValueError: A damaged chunk, or more chunks of one time than any recorder writes.
        """
        if not self.chunks:
            yield from super().messages(connections, start, stop)
            return
        links = {link.id: link for link in connections}
        chunks = [
            chunk
            for chunk in self.chunks
            if links.keys() & chunk.channel_count.keys()
            and (start is None or start <= chunk.message_end_time)
        ]
        changes = [(chunk.message_start_time, chunk.uncompressed_size) for chunk in chunks]
        changes += [(chunk.message_end_time + 1, -chunk.uncompressed_size) for chunk in chunks]
        most = max(accumulate(size for _, size in sorted(changes)), default=0)
        limit = max([2 * ALWAYS, *(chunk.uncompressed_size for chunk in chunks)])
        if most > limit:
            raise ValueError(f"chunks of {most} bytes lie at one time, over {limit}")
        parts = [self._chunk_messages(chunk, set(links)) for chunk in chunks]
        for time, channel, data in heapq.merge(*parts, key=itemgetter(0)):
            if channel is not None and (start is None or time >= start):
                yield links[channel], time, data

    def _chunk_messages(
        self, chunk: ChunkIndex, channels: set[int]
    ) -> Iterator[tuple[int, int | None, bytes]]:
        """Time, channel and content of the messages of a chunk, sorted by time.

        Comes before them with the time of the first one, so that the chunk is read only when its
        turn has come. Damage is an error after the messages before it.
        """
        yield chunk.message_start_time, None, b""
        start = chunk.chunk_start_offset + 9
        checksum = int.from_bytes(self._bytes(start + 24, 0, 4), "little")
        start += 40 + len(chunk.compression)
        raw = storage_mcap.decompress(
            self._bytes(start, 0, chunk.compressed_size),
            chunk.compression,
            chunk.uncompressed_size,
            checksum,
        )
        messages: list[tuple[int, int | None, bytes]] = []
        at, trouble = 0, ""
        while at < len(raw) and not trouble:
            kind, size = raw[at], int.from_bytes(raw[at + 1 : at + 9], "little")
            end = at + 9 + size
            if (
                kind < 0x80
                and kind not in _IN_CHUNKS
                or end > len(raw)
                or kind == _MESSAGE
                and size < 22
            ):
                trouble = f"a record of kind {kind} and {size} bytes, {at} bytes into a chunk"
            elif kind == _MESSAGE:
                channel, _, time = _MESSAGE_HEAD.unpack_from(raw, at + 9)
                if channel in channels:
                    messages.append((time, channel, raw[at + 31 : end]))
            at = end
        yield from sorted(messages, key=itemgetter(0))
        if trouble:
            raise ValueError(trouble)

    def declared(self) -> tuple[int, dict[str, int]]:
        """Number of messages in the statistics: of all topics, and by topic."""
        return self.metadata.message_count, _by_topic(
            self.connections, {link.id: link.msgcount for link in self.connections}
        )

    def data_are_sound(self) -> bool:
        """Compare all data with their checksum, if the file has one."""
        record = self._bytes(self.data_end - 13, 0, 13)
        checksum = int.from_bytes(record[9:], "little")
        if record[:9] != b"\x0f\x04" + bytes(7) or not checksum:
            return True
        found, left = 0, self.data_end - 13
        while left and (data := self._bytes(self.data_end - 13 - left, 0, min(left, 1 << 20))):
            found, left = crc32(data, found), left - len(data)
        return found == checksum

    def _bytes(self, at: int, whence: int, size: int) -> bytes:
        assert self.bio
        self.bio.seek(at, whence)
        return self.bio.read(size)
