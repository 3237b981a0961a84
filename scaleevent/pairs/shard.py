"""One shard of a pair store: an HDF5 file of some hundred to two thousand pairs.

Every per-pair item of varying size is a flat pool of values and N+1 offsets: `image`,
`before/words` (the events of the window that ends at the image, see `packing`; `before/gaps` is
almost always empty), `after/...` (the window that starts at the image, for two-frame flow),
`labels/TASK`, `valid`. Voxel shards hold `voxel` in place of `before/words`. All datasets carry
checksums (fletcher32), so a flipped bit is an error, not other events.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.grids.voxels import voxelize_packed
from scaleevent.grids.windows import STOPS, Window
from scaleevent.packing import PackedEvents
from scaleevent.pairs.pair import Label, Pair
from scaleevent.system.files import atomic_path

FORMAT = 2
CHUNK_BYTES = 65_536  # the best of the sizes measured for reading windows


class ShardWriter:
    """Writes one shard, pair by pair, under a temporary name.

    Use as a context manager; the shard appears under its name when the block ends well.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.pairs = 0

    def __enter__(self) -> ShardWriter:
        self._atomic = atomic_path(self.path)
        self._temporary = self._atomic.__enter__()
        self._file = h5py.File(self._temporary, "w", libver="v110")
        self._file.attrs["format"] = FORMAT
        self._recordings: dict[str, int] = {}
        return self

    def add(self, pair: Pair, voxel: np.ndarray | None = None) -> None:
        """Append a pair; with a (B, H, W) float32 voxel, that is stored instead of its events.

        Raises:
            DataError: Events outside their window, a sensor of about 2^31 pixels, a validity mask
                of another size than the sensor, or labels of one task in several types.
        """
        self._pool("image", np.frombuffer(pair.image, np.uint8), compress=False)
        if voxel is None:
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

    def __exit__(self, kind: type | None, value: BaseException | None, trace: Any) -> None:
        if kind is None:
            names = json.dumps(list(self._recordings)).encode()
            self._pool("recordings", np.frombuffer(names, np.uint8))  # attributes have no checksum
            self._file.attrs["pairs"] = self.pairs
        self._file.close()
        self._atomic.__exit__(kind, value, trace)

    def _events(self, name: str, window: Window, events: Events) -> None:
        inside = not len(events) or (
            window.start_us <= events.t[0] and events.t[-1] < window.end_us
        )
        _expect(inside, "events do not fit their window", name, f"{events} in {window}")
        packed = PackedEvents.pack(events, window.start_us)
        self._pool(f"{name}/words", packed.words)
        self._pool(f"{name}/gaps", packed.gaps.reshape(-1))
        self._window(name, window)

    def _window(self, name: str, window: Window) -> None:
        self._row(f"{name}/window_us", (window.start_us, window.end_us))
        self._row(f"{name}/stop", STOPS.index(window.stop))

    def _pool(self, name: str, values: np.ndarray, compress: bool = True) -> None:
        """Append values to a flat pool and its end to the offsets."""
        if f"{name}/values" not in self._file:
            chunk = CHUNK_BYTES // values.itemsize
            self._create(f"{name}/values", (0,), values.dtype, chunk, compress)
            self._row(f"{name}/offset", 0)
        pool = self._file[f"{name}/values"]
        _expect(pool.dtype == values.dtype, "values of several types", name, values.dtype)
        first = pool.shape[0]
        pool.resize((first + len(values),))
        pool[first:] = values
        self._row(f"{name}/offset", first + len(values))

    def _row(self, name: str, row: Any, dtype: Any = np.int64, rows: int = 1024) -> None:
        """Append one row to a table with so many rows a chunk."""
        row = np.asarray(row, dtype)
        if name not in self._file:
            self._create(name, (0, *row.shape), dtype, rows, compress=True)
        table = self._file[name]
        table.resize(table.shape[0] + 1, axis=0)
        table[-1] = row

    def _create(self, name: str, shape: tuple, dtype: Any, chunk: int, compress: bool) -> None:
        codec = hdf5plugin.Blosc("lz4", 5, hdf5plugin.Blosc.BITSHUFFLE) if compress else {}
        self._file.create_dataset(
            name, shape, dtype, maxshape=(None, *shape[1:]), chunks=(chunk, *shape[1:]),
            fletcher32=True, **codec,
        )  # fmt: skip


def _expect(holds: bool, what: str, where: object, found: object) -> None:
    """Refuse a pair that the store's types would change without a word."""
    if not holds:
        raise DataError(what, where=where, found=found)


class Shard:
    """One shard, open for reading.

    Raises:
        DataError: Damaged, of another format, or with links that leave the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            # no chunk cache: pairs come in random order, and each open data set would hold one
            self.file = h5py.File(path, "r", rdcc_nbytes=0)
            format_number = int(self.file.attrs["format"])
            self.pairs = int(self.file.attrs["pairs"])
        except (OSError, KeyError, ValueError) as error:
            raise DataError("not a whole shard of a pair store", where=path, found=error) from None
        if format_number != FORMAT:
            raise DataError(
                "pair store of another format", where=path, found=format_number, expected=FORMAT
            )
        self._held: dict[str, np.ndarray] = {}
        self._open: dict[str, h5py.Dataset] = {}
        self._found: dict[str, bool] = {}
        self.recordings: list[str] = json.loads(self.pool("recordings", 0).tobytes())

    def rows(self, name: str) -> np.ndarray:
        """A small per-pair table, read once."""
        if name not in self._held:
            self._held[name] = self._guarded(name, slice(None))
        return self._held[name]

    def pool(self, name: str, index: int) -> np.ndarray:
        """The values of one item of a pool."""
        offset = self.rows(f"{name}/offset")
        return self._guarded(f"{name}/values", slice(offset[index], offset[index + 1]))

    def image(self, index: int) -> bytes:
        """Encoded image."""
        return self.pool("image", index).tobytes()

    def events(self, index: int) -> tuple[Events, Window]:
        """Events and their window, which ends at the image."""
        packed, window = self._packed("before", index, index)
        return packed.unpack(), window

    def after(self, index: int) -> tuple[Events, Window] | None:
        """Events and window that start at the image, or None where this pair has none."""
        item = self._item("after", index)
        if item is None:
            return None
        packed, window = self._packed("after", item, index)
        return packed.unpack(), window

    def _packed(self, name: str, item: int, index: int) -> tuple[PackedEvents, Window]:
        start, end = map(int, self.rows(f"{name}/window_us")[item])
        height, width = map(int, self.rows("sensor")[index])
        words, gaps = self.pool(f"{name}/words", item), self.pool(f"{name}/gaps", item)
        stop = STOPS[int(self.rows(f"{name}/stop")[item])]
        packed = PackedEvents(words, gaps.reshape(-1, 2), start, height, width)
        return packed, Window(start, end, stop)

    def _item(self, name: str, index: int) -> int | None:
        """Number of a pair's item in a pool that not all pairs have a part in."""
        if not self._holds(name):
            return None
        at = np.flatnonzero(self.rows(f"{name}/pair") == index)
        return int(at[0]) if len(at) else None

    def voxel(self, index: int, bins: int) -> np.ndarray:
        """(B, H, W) float32 at native resolution: made from the events, or as materialised.

        Raises:
            DataError: A materialised voxel has another number of bins.
        """
        if not self._holds("voxel"):
            return voxelize_packed(*self._packed("before", index, index), bins)
        voxel = self._guarded("voxel", index)
        if len(voxel) != bins:
            raise DataError(
                "voxels of another bin count", where=self.path, found=len(voxel), expected=bins
            )
        return voxel

    def label(self, task: str, index: int) -> Label | None:
        """Ground truth of a task, or None where this pair has none."""
        name = f"labels/{task}"
        item = self._item(name, index)
        if item is None:
            return None
        values = self.pool(name, item).reshape(self.rows(f"{name}/shape")[item])
        return Label(values, *map(int, self.rows(f"{name}/span_us")[item]))

    def valid(self, index: int) -> np.ndarray | None:
        """(H, W) bool, or None where the whole image is valid."""
        item = self._item("valid", index)
        if item is None:
            return None
        height, width = map(int, self.rows("sensor")[index])
        bits = np.unpackbits(self.pool("valid", item), count=height * width)
        return bits.reshape(height, width).astype(bool)

    def provenance(self, index: int) -> dict[str, Any]:
        """Where the pair came from."""
        return json.loads(self.pool("provenance", index).tobytes())

    def _guarded(self, name: str, part: slice | int) -> np.ndarray:
        try:
            if name not in self._open:
                self._open[name] = self._checked(self.file[name])
            return self._open[name][part]
        except (OSError, KeyError) as error:
            raise self._damaged(name, error) from None

    def _holds(self, name: str) -> bool:
        try:
            if name not in self._found:
                self._found[name] = name in self.file
            return self._found[name]
        except (OSError, KeyError) as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> DataError:
        return DataError(
            "shard is damaged",
            where=f"{self.path}:{name}",
            found=str(error).splitlines()[0],
            hint="run prepare again with --resume: it remakes only damaged shards",
        )

    def _checked(self, dataset: h5py.Dataset) -> h5py.Dataset:
        """Refuse data that other files hold."""
        elsewhere = dataset.file.filename != self.file.filename
        if elsewhere or dataset.external or dataset.is_virtual:
            raise DataError("dataset points outside its file", where=f"{self.path}:{dataset.name}")
        return dataset
