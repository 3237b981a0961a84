"""One shard of a pair store: an HDF5 file with a few hundred to two thousand pairs.

Everything whose size differs between pairs is a flat pool of values with N+1 offsets: `image`,
`before/words` (the events of the window that ends at the image, see `packing`; `before/gaps` is
almost always empty), `after/...` (the window that starts at the image, for two-frame flow),
`labels/TASK`, `valid`. In place of `before/words`, voxel shards hold `voxel`, and shards made of
pictures of events `picture/voxel` and `picture/shown`. All datasets carry
checksums (fletcher32), so a flipped bit raises an error instead of changing the events.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import h5py
import hdf5plugin
import numpy as np

from scaleevent.errors import DataError, ScaleEventError
from scaleevent.events import Events
from scaleevent.grids.voxels import voxelize_packed
from scaleevent.grids.windows import STOPS, Window
from scaleevent.packing import PackedEvents
from scaleevent.pairs.pair import EventPicture, Label, Pair, decode_image
from scaleevent.system.documents import MalformedError, parse_json
from scaleevent.system.hdf5 import new_hdf5, open_hdf5
from scaleevent.system.refusals import refusal

FORMAT = 2  # of the file: raised where earlier versions could not read it
CONTENT = 2  # of the pairs: raised where the same recordings and settings give others than before
MAX_SIDE = 1 << 15  # pixels
MAX_BYTES = 512 << 20  # of one value, or of one table of a shard
CHUNK_BYTES = 65_536  # the fastest of the measured sizes for reading windows

Kind = TypeVar("Kind")


class ShardWriter:
    """Writes one shard, pair by pair, under a temporary name.

    Use as a context manager; the shard gets its name when the block ends without an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.pairs = 0

    def __enter__(self) -> ShardWriter:
        self._recordings: dict[str, int] = {}
        # Held until the end: HDF5 places a dataset's data when the last reference to it goes, which
        # would else depend on who looks at these frames: a profiler, such as a Dask worker has.
        self._datasets: dict[str, h5py.Dataset] = {}
        with ExitStack() as stack:
            self._file, self._check = stack.enter_context(new_hdf5(self.path))
            stack.push(self._finish)
            self._file.attrs["format"] = FORMAT
            self._exits = stack.pop_all()  # left open until `__exit__`
        return self

    def add(self, pair: Pair, voxel: np.ndarray | None = None) -> None:
        """Append a pair; if a (B, H, W) float32 voxel is given, it is stored instead of the events.

        Raises:
            DataError: Events outside their window, a sensor of about 2^31 pixels, a validity mask
                and a sensor of different sizes, or labels of one task with different types.
            EnvironmentProblem: The disk is full, or refuses for another reason.
        """
        self._check()
        self._pool("image", np.frombuffer(pair.image, np.uint8), compress=False)
        if pair.picture is not None:
            _expect(not len(pair.events), "events beside a picture of them", pair.recording, "both")
            for name in ("voxel", "shown"):
                data = np.frombuffer(getattr(pair.picture, name), np.uint8)
                self._pool(f"picture/{name}", data, compress=False)
            self._window("before", pair.window)
        elif voxel is None:
            self._events("before", pair.window, pair.events)
        else:
            self._row("voxel", voxel, np.float32, rows=1)
            self._window("before", pair.window)
        if pair.after is not None:
            self._events("after", *pair.after)
            self._row("after/pair", self.pairs)
        for task, label in pair.labels.items():
            name = f"labels/{task}"
            self._pool(name, np.ascontiguousarray(label.values).reshape(-1))
            self._row(f"{name}/shape", label.values.shape)
            self._row(f"{name}/span_us", (label.start_us, label.end_us))
            self._row(f"{name}/pair", self.pairs)
        if pair.valid is not None:
            _expect(
                pair.valid.shape == (pair.events.height, pair.events.width),
                "validity mask and sensor differ in size", pair.recording, pair.valid.shape,
            )  # fmt: skip
            self._pool("valid", np.packbits(pair.valid))
            self._row("valid/pair", self.pairs)
        self._row("image_us", pair.image_us)
        self._row("sensor", (pair.events.height, pair.events.width))
        self._row("recording", self._recordings.setdefault(pair.recording, len(self._recordings)))
        provenance = json.dumps(pair.provenance, sort_keys=True).encode()
        self._pool("provenance", np.frombuffer(provenance, np.uint8))
        self.pairs += 1

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)

    def _finish(self, kind: object, *_: object) -> None:
        """Write what is known only at the end, unless an error ended the block."""
        if kind is None:
            names = json.dumps(list(self._recordings)).encode()
            self._pool("recordings", np.frombuffer(names, np.uint8))  # attributes have no checksum
            self._file.attrs["pairs"] = self.pairs
            for dataset in self._datasets.values():
                dataset.flush()

    def _events(self, name: str, window: Window, events: Events) -> None:
        inside = len(events) == len(events.between(window.start_us, window.end_us))
        _expect(inside, "events do not fit their window", name, f"{events} in {window}")
        packed = PackedEvents.pack(events, window.start_us)
        self._pool(f"{name}/words", packed.words)
        self._pool(f"{name}/gaps", packed.gaps.reshape(-1))
        self._window(name, window)

    def _window(self, name: str, window: Window) -> None:
        self._row(f"{name}/window_us", (window.start_us, window.end_us))
        self._row(f"{name}/stop", STOPS.index(window.stop))

    def _pool(self, name: str, values: np.ndarray, compress: bool = True) -> None:
        """Append values to a flat pool, and the pool's new end to the offsets."""
        if f"{name}/values" not in self._datasets:
            chunk = CHUNK_BYTES // values.itemsize
            self._create(f"{name}/values", (0,), values.dtype, chunk, compress)
            self._row(f"{name}/offset", 0)
        pool = self._datasets[f"{name}/values"]
        _expect(pool.dtype == values.dtype, "values of several types", name, values.dtype)
        first = pool.shape[0]
        pool.resize((first + len(values),))
        pool[first:] = values
        self._row(f"{name}/offset", first + len(values))

    def _row(self, name: str, row: Any, dtype: Any = np.int64, rows: int = 1024) -> None:
        """Append one row to a table that is stored in chunks of `rows` rows."""
        row = np.asarray(row, dtype)
        if name not in self._datasets:
            self._create(name, (0, *row.shape), dtype, rows, compress=True)
        table = self._datasets[name]
        table.resize(table.shape[0] + 1, axis=0)
        table[-1] = row

    def _create(
        self, name: str, shape: tuple[int, ...], dtype: Any, chunk: int, compress: bool
    ) -> None:
        codec = dict(hdf5plugin.Blosc("lz4", 5, hdf5plugin.Blosc.BITSHUFFLE)) if compress else {}
        self._datasets[name] = self._file.create_dataset(
            name, shape, dtype, maxshape=(None, *shape[1:]), chunks=(chunk, *shape[1:]),
            fletcher32=True, **codec,
        )  # fmt: skip


def unpack_mask(packed: bytes, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a mask's bits."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width)
    return bits.reshape(height, width).astype(bool)


def _expect(holds: bool, what: str, where: object, found: object) -> None:
    """Raise if a pair does not fit the store, which would otherwise change it silently."""
    if not holds:
        raise DataError(what, where=where, found=found)


class Shard:
    """One shard, open for reading.

    Args:
        path: The file.
        remedy: What helps if it is damaged; by default to make it again.

    Raises:
        DataError: The shard is damaged, has another format, or links to other files.
        EnvironmentProblem: The system refuses to open or read it.
    """

    remedy: str | None = None

    def __init__(self, path: Path, remedy: str | None = None) -> None:
        self.path, self.remedy = Path(path), remedy
        try:
            # no chunk cache: pairs are read in random order, and each dataset would hold a cache
            self.file = open_hdf5(self.path, rdcc_nbytes=0)
            format_number = int(self.file.attrs["format"])
            self.pairs = int(self.file.attrs["pairs"])
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            damage = DataError(
                "not a whole shard of a pair store", where=path, found=error, hint=remedy
            )
            raise refusal(error, path) or damage from None
        if format_number != FORMAT:
            raise DataError(
                "pair store of another format", where=path, found=format_number, expected=FORMAT
            )
        # Reading one pair touches some ten datasets, and opening a dataset by its name takes longer
        # than reading a row of it. Hence three caches by name:
        self._tables: dict[str, np.ndarray] = {}  # small per-pair tables, read whole
        # open datasets, checked to be of this file, and the bytes of one of their rows
        self._datasets: dict[str, tuple[h5py.Dataset, int]] = {}
        self._exists: dict[str, bool] = {}  # whether the file has such a dataset or group
        self.recordings: list[str] = self._json("recordings", 0, list)

    def rows(self, name: str) -> np.ndarray:
        """A small per-pair table, read once."""
        if name not in self._tables:
            self._tables[name] = self._read(name, None)
        return self._tables[name]

    def recording_of_pairs(self) -> np.ndarray:
        """(pairs,) str: the name of every pair's recording."""
        which = self.rows("recording")
        known = not len(which) or 0 <= int(which.min()) <= int(which.max()) < len(self.recordings)
        self._require(known, "recording", f"{len(self.recordings)} names")
        names: np.ndarray = np.array(self.recordings, str)[which]
        return names

    def row(self, name: str, index: int) -> np.ndarray:
        """One row of such a table."""
        table = self.rows(name)
        if not 0 <= index < len(table):
            raise self._damaged(name, f"{len(table)} rows, no row {index}")
        row: np.ndarray = table[index]
        return row

    def sensor(self, index: int) -> tuple[int, int]:
        """(height, width) of a pair's event camera."""
        height, width = map(int, self.row("sensor", index))
        self._require(0 < min(height, width) <= max(height, width) <= MAX_SIDE, "sensor", height)
        return height, width

    def pool(self, name: str, index: int) -> np.ndarray:
        """The values of one item of a pool."""
        offsets = self.rows(f"{name}/offset")[index : index + 2].tolist()
        if len(offsets) < 2 or not 0 <= offsets[0] <= offsets[1]:
            raise self._damaged(f"{name}/offset", offsets)
        return self._read(f"{name}/values", slice(*offsets))

    def image(self, index: int) -> bytes:
        """The encoded image; empty if the pair has none."""
        return self.pool("image", index).tobytes()

    def events(self, index: int) -> tuple[Events, Window]:
        """Events and their window, which ends at the image time; none where `picture` has one."""
        if self.picture(index) is not None:
            return Events.empty(*self.sensor(index)), self._window("before", index)
        packed, window = self._packed("before", index, index)
        return packed.unpack(), window

    @property
    def holds_pictures(self) -> bool:
        """Whether its pairs have pictures in place of events."""
        return self._has("picture")

    def picture(self, index: int) -> EventPicture | None:
        """The picture that a pair has in place of events, or None if it has events."""
        if not self.holds_pictures:
            return None
        names = ("picture/voxel", "picture/shown")
        voxel, shown = (self.pool(name, index).tobytes() for name in names)
        return EventPicture(voxel, shown)

    def after(self, index: int) -> tuple[Events, Window] | None:
        """Events and window that start at the image time, or None if the pair has none."""
        item = self._item("after", index)
        if item is None:
            return None
        packed, window = self._packed("after", item, index)
        return packed.unpack(), window

    def _packed(self, name: str, item: int, index: int) -> tuple[PackedEvents, Window]:
        window = self._window(name, item)
        height, width = self.sensor(index)
        words, gaps = self.pool(f"{name}/words", item), self.pool(f"{name}/gaps", item)
        self._require(len(gaps) % 2 == 0, f"{name}/gaps", len(gaps))
        return PackedEvents(words, gaps.reshape(-1, 2), window.start_us, height, width), window

    def _window(self, name: str, item: int) -> Window:
        start, end = map(int, self.row(f"{name}/window_us", item))
        stop = int(self.row(f"{name}/stop", item))
        self._require(0 <= stop < len(STOPS), f"{name}/stop", stop)
        return Window(start, end, STOPS[stop])

    def _item(self, name: str, index: int) -> int | None:
        """Index of a pair's item in an optional pool, or None if the pair has no item there."""
        if not self._has(name):
            return None
        at = np.flatnonzero(self.rows(f"{name}/pair") == index)
        return int(at[0]) if len(at) else None

    def voxel(self, index: int, bins: int) -> np.ndarray:
        """(B, H, W) float32 at native resolution: made from the events, or as stored.

        Of a picture in place of events, its colours from 0 to 1.

        Raises:
            DataError: The stored voxel has another number of bins.
        """
        if (picture := self.picture(index)) is not None:
            planes = decode_image(picture.voxel, f"{self.path}, pair {index}").transpose(2, 0, 1)
            if bins != len(planes):
                raise DataError(
                    "pictures of another bin count", where=self.path, found=3, expected=bins
                )
            return planes.astype(np.float32) / 255
        if not self._has("voxel"):
            packed, window = self._packed("before", index, index)
            return voxelize_packed(packed, window, bins)
        voxel = self.stored_voxel(index)
        if len(voxel) != bins:
            raise DataError(
                "voxels of another bin count", where=self.path, found=len(voxel), expected=bins
            )
        return voxel

    def stored_voxel(self, index: int) -> np.ndarray:
        """(C, H, W) float32 grid as `scaleevent voxelize` stored it, of any representation."""
        return self._read("voxel", index)

    def label(self, task: str, index: int) -> Label | None:
        """Ground truth of a task, or None if the pair has none."""
        name = f"labels/{task}"
        item = self._item(name, index)
        if item is None:
            return None
        values, shape = self.pool(name, item), self.row(f"{name}/shape", item)
        self._require(min(shape.tolist()) >= 0 and prod(shape.tolist()) == len(values), name, shape)
        start_us, end_us = map(int, self.row(f"{name}/span_us", item))
        return Label(values.reshape(shape), start_us, end_us)

    def events_of_pairs(self) -> np.ndarray:
        """(pairs,) events of every pair's window; empty where grids are stored instead."""
        stored = self._has("before/words")
        return np.diff(self.rows("before/words/offset")) if stored else np.zeros(0, np.int64)

    def labelled(self) -> dict[str, int]:
        """How many pairs have a label of each task."""
        if not self._has("labels"):
            return {}
        return {task: len(self.rows(f"labels/{task}/pair")) for task in self.file["labels"]}

    def valid(self, index: int) -> np.ndarray | None:
        """(H, W) bool, or None if the whole image is valid."""
        packed = self.packed_valid(index)
        return None if packed is None else unpack_mask(packed, *self.sensor(index))

    def packed_valid(self, index: int) -> bytes | None:
        """The same as bits, row after row: cheap to compare, and `unpack_mask` undoes it."""
        item = self._item("valid", index)
        if item is None:
            return None
        height, width = self.sensor(index)
        packed = self.pool("valid", item)
        self._require(len(packed) == -(-height * width // 8), "valid", f"{len(packed)} bytes")
        return packed.tobytes()

    def provenance(self, index: int) -> dict[str, Any]:
        """Where the pair came from."""
        return self._json("provenance", index, dict)

    def _json(self, name: str, index: int, kind: type[Kind]) -> Kind:
        try:
            value = parse_json(self.pool(name, index).tobytes())
        except MalformedError as error:
            raise self._damaged(name, error) from None
        if not isinstance(value, kind):
            raise self._damaged(name, type(value).__name__)
        return value

    def _read(self, name: str, part: slice | int | None) -> np.ndarray:
        """One row, the rows of a slice with both ends, or all."""
        try:
            if name not in self._datasets:
                dataset = self._checked(self.file[name])
                row_bytes = prod(dataset.shape[1:]) * dataset.dtype.itemsize
                self._datasets[name] = dataset, row_bytes
            dataset, row_bytes = self._datasets[name]
            part = slice(0, len(dataset)) if part is None else part
            rows = part.stop - part.start if isinstance(part, slice) else 1
            if rows * row_bytes > MAX_BYTES:
                raise self._damaged(name, f"{rows * row_bytes:,} bytes in one piece")
            values: np.ndarray = dataset[part]
            return values
        except (OSError, KeyError, RuntimeError) as error:
            raise self._damaged(name, error) from None

    def _has(self, name: str) -> bool:
        try:
            if name not in self._exists:
                self._exists[name] = name in self.file
            return self._exists[name]
        except (OSError, KeyError, RuntimeError) as error:
            raise self._damaged(name, error) from None

    def _require(self, holds: bool, name: str, found: object) -> None:
        """Refuse what `ShardWriter` does not write, but another program may have."""
        if not holds:
            raise self._damaged(name, found)

    def _damaged(self, name: str, error: object) -> ScaleEventError:
        refused = refusal(error, self.path) if isinstance(error, Exception) else None
        return refused or DataError(
            "shard is damaged",
            where=f"{self.path}:{name}",
            found=str(error).splitlines()[0],
            hint=self.remedy
            or "the command that wrote it, with --resume, remakes only damaged shards",
        )

    def _checked(self, dataset: h5py.Dataset) -> h5py.Dataset:
        """Raise if the data of a dataset is in another file."""
        elsewhere = dataset.file.filename != self.file.filename
        if elsewhere or dataset.external or dataset.is_virtual:
            raise DataError("dataset points outside its file", where=f"{self.path}:{dataset.name}")
        return dataset
