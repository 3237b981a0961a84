"""The pair store: images with their event windows and labels, in sharded HDF5, written once.

Events are the truth here: voxels are made on the fly, so bins, tau, window of bins and
representation stay free at training time. A store is a folder:

    manifest.json     format, data set, settings, counts, one entry (hash, size, pairs) a shard
    NAME.h5           a shard, some hundred to two thousand pairs of one task of `prepare`
    NAME.json         the shard's entry, written after it; what `prepare` resumes from

A shard holds every per-pair item of varying size as a flat pool of values and N+1 offsets:
`image`, `before/{t,x,y,p}` (the window that ends at the image; t in us after its start),
`after/...` (the window that starts at the image, for two-frame flow), `labels/TASK`, `valid`.
All datasets carry checksums (fletcher32), so a flipped bit is an error, not other events.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from scaleevent.durable import MARKER, atomic_path, read_json, sha256_file, write_json
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.pairs import Label, Pair
from scaleevent.voxels import voxelize
from scaleevent.windows import STOPS, Window

FORMAT = 1
MANIFEST = "manifest.json"
CHUNK = 65_536  # values; the best of the sizes measured for reading windows
EVENT_COLUMNS = {"t": np.uint32, "x": np.uint16, "y": np.uint16, "p": np.uint8}


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
            DataError: Events outside their window, a window of over 71 minutes, a validity mask of
                another size than the sensor, or labels of one task in several types.
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
            window.start_us <= events.t[0]
            and events.t[-1] < min(window.end_us, window.start_us + 2**32)
        )
        _expect(inside, "events do not fit their window", name, f"{events} in {window}")
        times = events.t - window.start_us
        for column, dtype in EVENT_COLUMNS.items():
            values = times if column == "t" else getattr(events, column)
            self._pool(f"{name}/{column}", values.astype(dtype))
        self._window(name, window)

    def _window(self, name: str, window: Window) -> None:
        self._row(f"{name}/window_us", (window.start_us, window.end_us))
        self._row(f"{name}/stop", STOPS.index(window.stop))

    def _pool(self, name: str, values: np.ndarray, compress: bool = True) -> None:
        """Append values to a flat pool and its end to the offsets."""
        if f"{name}/values" not in self._file:
            self._create(f"{name}/values", (0,), values.dtype, CHUNK, compress)
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


def finish_shard(path: Path, pairs: int, counts: dict[str, int], job: str) -> dict[str, Any]:
    """Write the entry beside a finished shard; from now on `prepare` takes it as done."""
    entry = {"file": path.name, "job": job, "pairs": pairs, "counts": counts}
    if pairs:
        entry |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    else:
        path.unlink()  # a recording without a pair leaves its tally only
    write_json(path.with_suffix(".json"), entry)
    return entry


def shard_done(path: Path, job: str) -> dict[str, Any] | None:
    """The entry of a shard that was finished for the same job and is whole, else None."""
    entry_path = path.with_suffix(".json")
    if not entry_path.exists():
        return None
    entry = read_json(entry_path)
    if entry["job"] != job:
        return None
    whole = not entry["pairs"] or (path.exists() and sha256_file(path) == entry["sha256"])
    return entry if whole else None


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
        return self._events("before", index, index)

    def after(self, index: int) -> tuple[Events, Window] | None:
        """Events and window that start at the image, or None where this pair has none."""
        item = self._item("after", index)
        return None if item is None else self._events("after", item, index)

    def _events(self, name: str, item: int, index: int) -> tuple[Events, Window]:
        start, end = map(int, self.rows(f"{name}/window_us")[item])
        columns = {column: self.pool(f"{name}/{column}", item) for column in EVENT_COLUMNS}
        times = columns.pop("t").astype(np.int64)
        times += start
        height, width = map(int, self.rows("sensor")[index])
        stop = STOPS[int(self.rows(f"{name}/stop")[item])]
        return Events(times, **columns, height=height, width=width), Window(start, end, stop)

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
            return voxelize(*self.events(index), bins)
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
            return name in self.file
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


class PairStore:
    """A prepared folder: its manifest, and its pairs by one running number.

    Shards are opened on first use, once in every process.

    Raises:
        DataError: No manifest, another format, or shards missing or of another size (all named).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).exists():
            raise DataError(
                "not a prepared pair store",
                where=self.folder,
                expected=f"a folder with {MANIFEST}, as `scaleevent prepare` writes it",
                hint="an interrupted prepare is finished by the same command with --resume"
                if (self.folder / MARKER).exists()
                else "recordings become one with `scaleevent prepare custom FOLDER -o pairs`",
            )
        self.manifest = read_json(self.folder / MANIFEST)
        if self.manifest.get("format") != FORMAT:
            raise DataError(
                "pair store of another format",
                where=self.folder / MANIFEST,
                found=self.manifest.get("format"),
                expected=FORMAT,
            )
        self.shards = [entry for entry in self.manifest["shards"] if entry["pairs"]]
        for entry in self.shards:
            if Path(entry["file"]).name != entry["file"]:
                raise DataError("a shard outside its store", where=folder, found=entry["file"])
        lost = [entry["file"] for entry in self.shards if not self._whole(entry)]
        if lost:
            raise DataError(
                f"{len(lost)} of {len(self.shards)} shards are missing or of the wrong size",
                where=self.folder,
                found=", ".join(lost[:20]),
                hint="run prepare again with --resume: it remakes only these",
            )
        self._ends = np.cumsum([entry["pairs"] for entry in self.shards])
        self._open: dict[int, Shard] = {}
        self._process = os.getpid()

    def _whole(self, entry: dict[str, Any]) -> bool:
        path = self.folder / entry["file"]
        return path.is_file() and path.stat().st_size == entry["bytes"]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard of a pair and the pair's number in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._process != os.getpid():  # HDF5 handles do not survive a fork
            self._open, self._process = {}, os.getpid()
        number = int(np.searchsorted(self._ends, index, "right"))
        if number not in self._open:
            self._open[number] = Shard(self.folder / self.shards[number]["file"])
        first = self._ends[number] - self.shards[number]["pairs"]
        return self._open[number], int(index - first)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @cached_property
    def recordings(self) -> np.ndarray:
        """(len,) str: the recording of every pair."""
        return self._column(lambda shard: np.array(shard.recordings)[shard.rows("recording")])

    @cached_property
    def windows_us(self) -> np.ndarray:
        """(len, 2) int64: begin and end of every pair's window."""
        return self._column(lambda shard: shard.rows("before/window_us"))

    @cached_property
    def image_bytes(self) -> np.ndarray:
        """(len,) int64: size of every encoded image; 0 where a pair has none."""
        return self._column(lambda shard: np.diff(shard.rows("image/offset")))

    def _column(self, read: Any) -> np.ndarray:
        starts = self._ends - [entry["pairs"] for entry in self.shards]
        return np.concatenate([read(self.locate(int(first))[0]) for first in starts])

    @cached_property
    def fingerprint(self) -> str:
        """Hash over all shards' hashes: the data's identity in run records."""
        joined = "".join(entry["sha256"] for entry in self.shards)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


def verify_shards(store: PairStore) -> None:
    """Re-hash every shard.

    Raises:
        DataError: Shards whose content changed since they were written, all named.
    """
    bad = [e["file"] for e in store.shards if sha256_file(store.folder / e["file"]) != e["sha256"]]
    if bad:
        raise DataError(
            "shards have changed since they were written", where=store.folder, found=bad
        )
