"""Writers of small event files, one per layout the readers know. Written from the descriptions."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from scaleevent.events import Events


def some_events(
    number: int = 2000,
    height: int = 180,
    width: int = 240,
    *,
    start_us: int = 1_000,
    span_us: int = 50_000,
    seed: int = 0,
) -> Events:
    """Random events, many of them sharing a stamp, the corner pixels among them."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(start_us, start_us + span_us, number)).astype(np.int64)
    x = rng.integers(0, width, number).astype(np.uint16)
    y = rng.integers(0, height, number).astype(np.uint16)
    x[:2], y[:2] = (0, width - 1), (0, height - 1)
    return Events(t, x, y, rng.integers(0, 2, number).astype(np.uint8), height, width)


def evt2_words(events: Events) -> np.ndarray:
    """EVT2 words: a TIME_HIGH wherever t >> 6 changes, then one word an event."""
    words = []
    high = None
    for t, x, y, p in rows_of(events):
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 28 | high & 0xFFFFFFF)
        words.append(p << 28 | (t & 0x3F) << 22 | x << 11 | y)
    return np.array(words, "<u4")


def evt3_words(events: Events) -> np.ndarray:
    """EVT3 words; neighbours on a row with one stamp and polarity go into vectors."""
    words = []
    high = low = row = None
    rows = list(rows_of(events))
    at = 0
    while at < len(rows):
        t, x, y, p = rows[at]
        if t >> 12 != high:
            high, low = t >> 12, 0
            words.append(0x8 << 12 | high & 0xFFF)
        if t & 0xFFF != low:
            low = t & 0xFFF
            words.append(0x6 << 12 | low)
        if y != row:
            row = y
            words.append(y)
        run = at
        while run + 1 < len(rows) and rows[run + 1] == (t, rows[run][1] + 1, y, p):
            run += 1
        length = run - at + 1
        if length == 1:
            words.append(0x2 << 12 | p << 11 | x)
        else:
            words.append(0x3 << 12 | p << 11 | x)
            for start in range(0, length, 12):
                part = min(12, length - start)
                words.append((0x4 if part > 8 else 0x5) << 12 | (1 << part) - 1)
        at = run + 1
    return np.array(words, "<u2")


def evt21_words(events: Events) -> np.ndarray:
    """EVT2.1 words; neighbours of one stamp, polarity and stretch of 32 columns share one."""
    words, high, run = [], None, None
    for t, x, y, p in rows_of(events):
        if t >> 6 != high:
            high, run = t >> 6, None
            words.append(8 << 60 | (high & 0xFFFFFFF) << 32)
        key, bit = (t, y, p, x // 32), 1 << x % 32
        if key == run and words[-1] & 0xFFFFFFFF < bit:
            words[-1] |= bit
        else:
            words.append(p << 60 | (t & 63) << 54 | x // 32 * 32 << 43 | y << 32 | bit)
            run = key
    return np.array(words, "<u8")


def rows_of(events: Events) -> Iterable[tuple[int, int, int, int]]:
    """(t, x, y, p) of every event."""
    return zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True)


def write_dat(
    path: Path, events: Events, *header: str, version: int = 2, kind: int = 12, size: int = 8
) -> Path:
    """A Prophesee DAT file; header lines without their "% "."""
    data = "".join(f"% {line}\n" for line in header).encode() + bytes([kind, size])
    row, polarity = (14, 28) if version == 2 else (9, 17)
    for t, x, y, p in rows_of(events):
        data += struct.pack("<II", t & 0xFFFFFFFF, x | y << row | p << polarity)
    path.write_bytes(data)
    return path


def write_es(path: Path, events: Events, kind: int = 1) -> Path:
    """An event stream; rows from the bottom."""
    data = (
        b"Event Stream" + bytes([2, 0, 0, kind]) + struct.pack("<HH", events.width, events.height)
    )
    now = 0
    for t, x, y, p in rows_of(events):
        while t - now >= 127:
            data += b"\xff"
            now += 127
        data += struct.pack("<BHH", (t - now) << 1 | p, x, events.height - 1 - y)
        now = t
    path.write_bytes(data)
    return path


def write_atis_bin(path: Path, events: Events) -> Path:
    """Five-byte records; an overflow record wherever another 2^13 us are over."""
    data, later = b"", 0
    for t, x, y, p in rows_of(events):
        while t - later >= 1 << 13:
            later += 1 << 13
            data += bytes([0, 240, 0, 0, 0])
        data += bytes([x, y]) + (p << 23 | t - later).to_bytes(3, "big")
    path.write_bytes(data)
    return path


def write_aedat2(path: Path, events: Events, chip: str = "DAVIS240C", head: str = "") -> Path:
    """jAER's addresses: rows from the bottom, columns from the right."""
    text = f"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.{chip}\r\n{head}"
    data = text.encode()
    for t, x, y, p in rows_of(events):
        column, row = events.width - 1 - x, events.height - 1 - y
        if "DVS128" in chip:
            address = row << 8 | column << 1 | 1 - p
        elif "DVS640" in chip:
            address = row << 11 | column << 1 | p
        else:
            address = row << 22 | column << 12 | p << 11
        data += struct.pack(">II", address, t & 0xFFFFFFFF)
    path.write_bytes(data)
    return path


def aedat3_packet(
    events: Events, source: int = 1, kind: int = 1, overflow: int = 0, valid: int = 1
) -> bytes:
    """A packet of libcaer."""
    head = struct.pack("<hhiiiiii", kind, source, 8, 4, overflow, *[len(events)] * 3)
    return head + b"".join(
        struct.pack("<II", x << 17 | y << 2 | p << 1 | valid, t & 0x7FFFFFFF)
        for t, x, y, p in rows_of(events)
    )


def write_aedat3(path: Path, *packets: bytes, camera: str = "DAVIS240C") -> Path:
    """AEDAT 3.1."""
    text = f"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: {camera}\r\n#!END-HEADER\r\n"
    path.write_bytes(text.encode() + b"".join(packets))
    return path


def write_raw(path: Path, words: np.ndarray, *header: str) -> Path:
    """A Prophesee RAW file: header lines without their "% ", then words."""
    lines = "".join(f"% {line}\n" for line in header)
    path.write_bytes(lines.encode() + words.tobytes())
    return path


def write_dsec(path: Path, events: Events, offset: int = 0, ms_to_idx=None) -> Path:  # noqa: ANN001
    """DSEC's events.h5: Blosc columns, times relative to t_offset, an index per millisecond."""
    t = events.t - offset
    if ms_to_idx is None:
        last = int(t[-1]) // 1000 if len(t) else 0
        ms_to_idx = np.searchsorted(t, np.arange(last + 1) * 1000, "left")
    with h5py.File(path, "w") as file:
        for name, column in (("x", events.x), ("y", events.y), ("t", t), ("p", events.p)):
            dtype = np.uint32 if name == "t" else column.dtype
            file.create_dataset(
                f"events/{name}",
                data=column.astype(dtype),
                chunks=(1000,),
                maxshape=(None,),
                **hdf5plugin.Blosc(),
            )
        file["t_offset"] = np.int64(offset)
        file["ms_to_idx"] = np.asarray(ms_to_idx, np.uint64)
    return path


def write_hdf5(path: Path, columns: dict[str, np.ndarray], **attributes: object) -> Path:
    """Any datasets by name, and attributes of the file."""
    with h5py.File(path, "w") as file:
        for name, data in columns.items():
            file[name] = data
        file.attrs.update(attributes)
    return path


def write_text(path: Path, rows: Iterable[Iterable], head: str = "", mark: str = " ") -> Path:
    """Lines of values between marks, after a head."""
    path.write_text(head + "".join(mark.join(map(str, row)) + "\n" for row in rows))
    return path


def in_seconds(events: Events, order: str = "txyp") -> list[list[str]]:
    """Rows of text with the time in seconds, six decimals."""
    columns = {name: getattr(events, name).tolist() for name in "xyp"}
    columns["t"] = [f"{t // 1_000_000}.{t % 1_000_000:06d}" for t in events.t.tolist()]
    return [list(row) for row in zip(*(columns[name] for name in order), strict=True)]


def write_aedat4(
    path: Path,
    packets: Iterable[Events],
    frames: Iterable[tuple[int, int, np.ndarray]] = (),
    size: tuple[int, int] = (180, 240),
    more: Iterable[tuple[str, str, list]] = (),
    compression: tuple[int, Callable[[bytes], bytes]] = (0, bytes),
) -> Path:
    """An AEDAT4 file; frames are (exposure begin, end, (H, W) or (H, W, 3) BGR).

    Stream 0 are events, 1 frames, both of camera "one"; `more` are type ("EVTS", "FRME"), camera
    and content of streams from 2 on. `compression` is its number and function.
    """
    height, width = size
    stream = (
        '<node name="{0}"><attr key="typeIdentifier" type="string">{1}</attr>'
        '<attr key="originalOutputName" type="string">{1}{0}</attr><node name="info">'
        f'<attr key="sizeX" type="int">{width}</attr><attr key="sizeY" type="int">{height}</attr>'
        '<attr key="source" type="string">{2}</attr></node></node>'
    )
    streams = [("EVTS", "one", list(packets)), ("FRME", "one", list(frames)), *more]
    nodes = [stream.format(id, kind, source) for id, (kind, source, _) in enumerate(streams)]
    xml = f'<dv version="2.0"><node name="outInfo">{"".join(nodes)}</node></dv>'.encode()
    header = _table(
        "IOHE", [struct.pack("<i", compression[0]), struct.pack("<q", -1)], xml + b"\0", len(xml)
    )
    data = b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header
    for id, (kind, _, content) in enumerate(streams):
        make = {"EVTS": _events_table, "FRME": _frame_table}[kind]
        data += b"".join(_packet(id, make(part), compression[1]) for part in content)
    path.write_bytes(data)
    return path


def _events_table(events: Events) -> bytes:
    rows = np.zeros(
        len(events), {"names": list("txyp"), "formats": ["<i8", "<i2", "<i2", "u1"],
                      "offsets": [0, 8, 10, 12], "itemsize": 16}
    )  # fmt: skip
    for name in "txyp":
        rows[name] = getattr(events, name)
    return _table("EVTS", [], rows.tobytes(), len(rows))


def _frame_table(frame: tuple[int, int, np.ndarray]) -> bytes:
    begin, end, image = frame
    times = [struct.pack("<q", value) for value in (begin, begin, end, begin, end)]
    kind = struct.pack("<b", 0 if image.ndim == 2 else 16)
    shape = [struct.pack("<h", value) for value in (image.shape[1], image.shape[0], 0, 0)]
    return _table("FRME", [*times, kind, *shape], image.tobytes(), image.size)


def _packet(stream: int, table: bytes, compress: Callable[[bytes], bytes]) -> bytes:
    prefixed = compress(struct.pack("<I", len(table)) + table)
    return struct.pack("<II", stream, len(prefixed)) + prefixed


def _table(identifier: str, fields: list[bytes], vector: bytes, length: int) -> bytes:
    """A flatbuffer of one table: plain fields in order, then one vector or string."""
    offsets = []
    body = b""
    for value in [*fields, b"\0\0\0\0"]:
        body += b"\0" * (-(len(body) + 4) % len(value))
        offsets.append(len(body) + 4)
        body += value
    index = struct.pack("<HH", 4 + 2 * len(offsets), 4 + len(body))
    index += struct.pack(f"<{len(offsets)}H", *offsets)
    # a packet's 4-byte size prefix counts in alignment: 8-byte fields, or else structs, must fit
    index += b"\0" * (-len(index) % 8 + (4 if fields else 0))
    start = 8 + len(index)
    at = start + offsets[-1]
    end = start + 4 + len(body)
    body = body[:-4] + struct.pack("<I", end - at)
    root = struct.pack("<I", start) + identifier.encode()
    return root + index + struct.pack("<i", len(index)) + body + struct.pack("<I", length) + vector
