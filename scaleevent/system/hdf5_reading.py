"""Inside the process in which HDF5 files of others are read; `hdf5_process` starts it.

A request and its answer are a line of JSON each; values travel in shared memory. Only hard links
are followed, datasets stored in other files are refused, and all data that is declared must be
present (otherwise HDF5 would fill the gaps with zeros). Files in the old layout have no checksums
over their structure, so what it says is compared where it says it twice.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from math import prod
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the Blosc and Zstandard filters with HDF5
import numpy as np

from scaleevent.errors import DataError, ScaleEventError
from scaleevent.system.allocator import keep_freed_memory
from scaleevent.system.files import Json
from scaleevent.system.hdf5 import open_hdf5
from scaleevent.system.hdf5_process import DAMAGED, identity_of
from scaleevent.system.platform import OUT_OF_TIME, STOP_SIGNALS, limit_memory, limit_time
from scaleevent.system.refusals import error_number

PROCESSOR_SECONDS = 3.0
"""Processor time for one step, such as one dataset or one read; beyond, the process is killed."""

_INDEXED = 1e9  # bytes of a file a second whose chunks are found; the time of a large one is longer
_DECODED = 2e7  # bytes a second

_MEMORY = 4 << 30  # address space; a damaged size may ask for any amount
_IDLE_SECONDS = 5.0  # then files are closed, as if nobody read them
_OPEN_FILES = 16
_MAX_CHUNK_BYTES = 64 << 20
_TEXT_BYTES = 1000  # of a text that is read
_MAX_READ_BYTES = 1 << 30
_MAX_GROUPS = 5000
_MAX_ITEMS = 100_000
_PROBES = 8  # values of a chunk that are compared with the fill value

Range = tuple[int, int]
Files = OrderedDict[tuple[int, ...], "OpenFile"]
"""Open files by device and inode, the least recently used first."""


def serve(memory: int) -> None:
    """Answer requests from standard input until it ends, or the parent process does."""
    for number in STOP_SIGNALS:  # the parent decides
        signal.signal(number, signal.SIG_IGN)
    if OUT_OF_TIME:
        signal.signal(OUT_OF_TIME, signal.SIG_DFL)
    limit_memory(_MEMORY)
    answers = os.dup(1)
    os.dup2(2, 1)  # libraries may print
    keep_freed_memory()
    shared = Shared(memory)
    files: Files = OrderedDict()
    for line in _lines(files):
        _more_time()
        try:
            answer = _answer(json.loads(line), files, shared)
        except ScaleEventError as error:
            parts = {name: getattr(error, name) for name in ("where", "found", "expected", "hint")}
            shown = {name: str(part) for name, part in parts.items() if part is not None}
            answer = {"raised": [type(error).__name__, error.what, shown]}
        except BaseException as error:
            text = str(error).split("\n")[0].strip("'\"") or type(error).__name__
            answer = {"failed": [text, error_number(error)]}
        limit_time(0)
        _write(answers, json.dumps(answer).encode() + b"\n")


def _lines(files: Files) -> Iterator[bytes]:
    """Requests; files that are not asked for are closed."""
    parent, idle, held = os.getppid(), 0, b""
    while os.getppid() == parent:
        if not select.select([0], [], [], 1.0)[0]:
            idle += 1
            if idle == _IDLE_SECONDS:
                _close(files)
            continue
        part = os.read(0, 1 << 16)
        if not part:
            return
        idle, held = 0, held + part
        *lines, held = held.split(b"\n")
        yield from lines


def _close(files: Files) -> None:
    while files:
        _more_time()
        files.popitem()[1].close()
    limit_time(0)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _more_time(seconds: float = PROCESSOR_SECONDS) -> None:
    """Allow the next step its processor time; the signal at its end kills this process."""
    limit_time(seconds)


class Shared:
    """Memory shared with the parent process, as large as the largest answer so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._used = 0

    def clear(self) -> None:
        """Begin an answer."""
        self._used = 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, int]:
        """An array in the shared memory, and its place there."""
        place = -(-self._used // 64) * 64
        self._used = place + prod(shape) * dtype.itemsize
        if self._used > _MAX_READ_BYTES:
            raise DataError("too much to read at once", found=shape)
        if self._map is None or len(self._map) < self._used:
            size = max(1 << 24, 1 << (self._used - 1).bit_length())
            os.ftruncate(self._descriptor, size)
            self._map = mmap.mmap(self._descriptor, size)
        return np.ndarray(shape, dtype, self._map, place), place


def _answer(request: Json, files: Files, shared: Shared) -> Json:
    """Do what `hdf5_process` asks for."""
    kind, arguments = request["kind"], request["arguments"]
    path, shown, identity = Path(request["path"]), request["shown"], request["identity"]
    inode = tuple(identity[:2])
    _refuse_changed(path, shown, identity)
    if inode in files and files[inode].identity != identity:
        files.pop(inode).close()  # first: HDF5 shares what it knows of a file that is open
    if inode not in files:
        files[inode] = OpenFile(path, shown, identity)
    known = files[inode]
    files.move_to_end(inode)
    while len(files) > _OPEN_FILES:
        files.popitem(last=False)[1].close()
    shared.clear()
    try:
        if kind == "items":
            return {"items": known.items()}
        if kind == "attributes":
            return {"attributes": known.attributes(*arguments)}
        if kind == "text":
            return {"text": known.text(*arguments)}
        if kind == "ragged":
            return {"arrays": known.ragged(shared, *arguments)}
        if kind == "check":
            return {"filters": known.checked(*arguments).filters}
        if kind == "chunk":
            return {"chunk": known.chunk(shared, *arguments)}
        return {"arrays": [known.read(shared, *part) for part in arguments]}
    except BaseException:
        files.pop(inode).close()
        raise


def describe(dtype: np.dtype) -> str | Json:
    """A type as JSON: its name, or the fields of a record."""
    if dtype.fields is None:
        return dtype.str
    fields = [
        {"name": name, "dtype": describe(f[0].base), "shape": f[0].shape, "offset": f[1]}
        for name, f in dtype.fields.items()
    ]
    return {"fields": fields, "itemsize": dtype.itemsize}


def _refuse_changed(path: Path, shown: str, identity: list[int]) -> None:
    """Refuse a file that is not the one that was examined: its parts would not fit together."""
    try:
        same = identity_of(path) == identity[:-1]
    except FileNotFoundError:
        same = False
    if not same:
        raise DataError(
            "the file has changed since it was opened",
            where=shown,
            hint="wait until it is written, then read it again",
        )


class OpenFile:
    """A file, open, and its datasets that were checked.

    Args:
        path: Its absolute path.
        shown: The path as the user gave it.
        identity: What `identity_of` said of it, and a number that may tell two writes apart.
    """

    def __init__(self, path: Path, shown: str, identity: list[int]) -> None:
        self.path, self.shown, self.identity = path, shown, identity
        # rdcc_w0: of the cached chunks, those read to their end are evicted first
        self.file = open_hdf5(path, shown, rdcc_w0=1.0)
        self.bytes = path.stat().st_size
        _refuse_changed(path, shown, identity)
        versions = self.file.id.get_create_plist().get_version()
        self.summed = versions[0] >= 3  # every structure has a checksum
        self._checked: dict[str, CheckedDataset] = {}

    def close(self) -> None:
        """Close it; what is left of a damaged file may not let itself be closed."""
        with suppress(Exception):
            self.file.close()

    def items(self) -> list[Json]:
        """Groups by name, datasets with their facts and links with their kind, as in a walk."""
        found: list[Json] = []
        for name, item in _walk(self.file, "/", set()):
            _more_time()
            found.append({"name": name, "kind": type(item).__name__})
            if isinstance(item, h5py.Group):
                found[-1]["kind"] = "Group"  # that of the file has a type of its own
            elif isinstance(item, h5py.Dataset):
                found[-1] |= {"shape": item.shape, "chunks": item.chunks}
                found[-1]["dtype"] = describe(item.dtype)
            if len(found) > _MAX_ITEMS:
                raise DataError("too many datasets", where=self.shown, expected=_MAX_ITEMS)
        return found

    def attributes(self, names: list[str], keys: list[str]) -> list[Json]:
        """Attributes with these keys, in lower case, of some groups and datasets."""
        found = []
        for name in names:
            owner = self.file[name].attrs
            values = {key.lower(): owner[key] for key in owner if key.lower() in keys}
            found.append({key: _plain(value) for key, value in values.items()})
        return found

    def text(self, name: str) -> str:
        """A dataset that is one short text."""
        data = self.file[name]
        single = isinstance(data, h5py.Dataset) and data.shape == ()
        if (
            not single
            or data.external
            or data.is_virtual
            or not h5py.check_string_dtype(data.dtype)
        ):
            raise DataError("not a text", where=f"{self.shown}, dataset {name}")
        return bytes(data[()])[:_TEXT_BYTES].decode("utf-8", "replace")

    def ragged(
        self, shared: Shared, name: str, first: int, last: int, column: int | None
    ) -> list[Json]:
        """Lengths (rows, columns) and all bytes of items of any length, in the shared memory."""
        data = self.file[name]
        table = isinstance(data, h5py.Dataset) and len(data.shape or ()) == 2
        if not table or data.external or data.is_virtual or not is_ragged(data.dtype):
            raise DataError("not items of bytes", where=f"{self.shown}, dataset {name}")
        _more_time()
        rows = data[first:last] if column is None else data[first:last, column : column + 1]
        items = [np.asarray(item, np.uint8) for item in rows.ravel()]
        told = []
        lengths = np.array([len(item) for item in items], np.int64).reshape(rows.shape)
        joined = np.concatenate([np.empty(0, np.uint8), *items])
        for values in (lengths, joined):
            array, place = shared.array(values.shape, values.dtype)
            array[...] = values
            told.append({"dtype": values.dtype.str, "shape": values.shape, "place": place})
        return told

    def checked(self, name: str) -> CheckedDataset:
        """A dataset that is safe to read."""
        if name not in self._checked:
            _more_time(PROCESSOR_SECONDS + self.bytes / _INDEXED)
            self._checked[name] = CheckedDataset(self, name)
        return self._checked[name]

    def read(self, shared: Shared, name: str, row: int | None, part: Range | None) -> Json:
        """Type, shape and place of values put into the shared memory; see `hdf5_process.Part`."""
        checked = self.checked(name)
        data = checked.data
        if part is None:
            part = (0, data.shape[0] if data.shape else 0)
        if data.shape == ():
            array, place = shared.array((), data.dtype)
            array[()] = data[()]
        else:
            count = max(part[1] - part[0], 0)
            rows = slice(*part)
            shape, axis = (count, *data.shape[1:]), 0
            if row is not None:
                shape, axis = (count,), 1
            array, place = shared.array(shape, data.dtype)
            _more_time(PROCESSOR_SECONDS + array.nbytes / _DECODED)
            if array.size:
                data.read_direct(array, rows if row is None else (row, rows))
                checked.refuse_gaps(array, axis, part, row)
        return {"dtype": describe(data.dtype), "shape": array.shape, "place": place}

    def chunk(self, shared: Shared, name: str, start: int) -> tuple[int, int]:
        """Filter mask and length of a chunk, put into the shared memory as it is stored."""
        mask, stored = self.checked(name).data.id.read_direct_chunk((start,))
        array, _ = shared.array((len(stored),), np.dtype(np.uint8))
        array[:] = np.frombuffer(stored, np.uint8)
        return mask, len(stored)


def is_ragged(dtype: np.dtype) -> bool:
    """Whether each value is a sequence of bytes of a length of its own."""
    return bool(h5py.check_vlen_dtype(dtype) == np.uint8)


def _plain(value: object) -> object:
    """An attribute as JSON."""
    if isinstance(value, bytes | np.bytes_):
        return value.decode("latin-1")
    if isinstance(value, str):
        return str(value)
    return np.ravel(np.asarray(value)).tolist()


def _walk(group: h5py.Group, prefix: str, seen: set[h5py.Group]) -> Iterator[tuple[str, object]]:
    """Groups and datasets that hard links lead to, each group once, and other links."""
    seen.add(group)
    yield prefix.rstrip("/") or "/", group
    for name in group:
        if not name:
            raise DataError(DAMAGED, where=group.file.filename, found="an empty name")
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            yield prefix + name, link
            continue
        child = group[name]
        if isinstance(child, h5py.Dataset):
            yield prefix + name, child
        elif isinstance(child, h5py.Group) and child not in seen and len(seen) < _MAX_GROUPS:
            yield from _walk(child, f"{prefix}{name}/", seen)


class CheckedDataset:
    """A dataset, after checking that reading it is safe and returns what was stored."""

    def __init__(self, opened: OpenFile, name: str) -> None:
        self.refuse = refuse = partial(DataError, where=f"{opened.shown}, dataset {name}")
        data = self.data = opened.file[name]
        self.summed, self._end = opened.summed, opened.bytes
        if not isinstance(data, h5py.Dataset):
            raise refuse("not a dataset", found=type(data).__name__)
        if data.external or data.is_virtual:
            raise refuse("the data lie in another file", expected="data inside this file")
        if data.dtype.hasobject or data.dtype.kind not in "iufbV":
            raise refuse("not numbers", found=data.dtype)
        if data.shape is None:
            raise refuse("dataset without data")
        pairs = zip(data.shape, data.maxshape, strict=True)
        if any(most is not None and most < size for size, most in pairs):
            raise refuse(DAMAGED, found=f"{data.shape} of at most {data.maxshape}")
        self._check_type(data.id.get_type())
        self.filters: list[int] = []
        if data.chunks is None:
            self._check_whole()
        else:
            self._check_chunks()

    def _check_type(self, kind: h5py.h5t.TypeID) -> None:
        """Refuse numbers without bits."""
        if isinstance(kind, h5py.h5t.TypeCompoundID):
            for index in range(kind.get_nmembers()):
                self._check_type(kind.get_member_type(index))
        elif isinstance(kind, h5py.h5t.TypeAtomicID) and not kind.get_precision():
            raise self.refuse(DAMAGED, found="numbers of 0 bits")

    def _check_whole(self) -> None:
        """Check a dataset that is stored in one piece."""
        data, refuse = self.data, self.refuse
        stored, declared = data.id.get_storage_size(), prod(data.shape) * data.dtype.itemsize
        if stored < declared:
            raise refuse("data are missing", found="less stored than declared", expected=data.shape)
        if stored > declared:
            raise refuse(DAMAGED, found=f"{stored} bytes stored", expected=declared)
        place = data.id.get_offset()
        if declared and place is not None:
            if not data.file.userblock_size + 8 <= place <= self._end - declared:
                raise refuse(DAMAGED, found=f"data at byte {place} of {self._end}")

    def _check_chunks(self) -> None:
        """Check that all chunks are there, each once, and can be decoded."""
        data, refuse = self.data, self.refuse
        whole = prod(data.chunks) * data.dtype.itemsize
        if whole > _MAX_CHUNK_BYTES:
            raise refuse("chunk too large", found=data.chunks, expected=f"{_MAX_CHUNK_BYTES} bytes")
        grid = [-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True)]
        chunks = data.id.get_num_chunks()
        if chunks < prod(grid):
            raise refuse("data are missing", found=f"{chunks} chunks", expected=f"{prod(grid)}")
        if chunks > prod(grid):
            raise refuse(DAMAGED, found=f"{chunks} chunks", expected=f"{prod(grid)}")
        plan = data.id.get_create_plist()
        for index in range(plan.get_nfilters()):
            code, _, _, name = plan.get_filter(index)
            self.filters.append(code)
            if not h5py.h5z.filter_avail(code) and not _decoded_by_us(code, data.dtype):
                raise refuse(
                    "compression filter not available",
                    found=f"filter {code} {name.decode('latin-1')}",
                    hint="rewrite the file with Blosc, Zstandard, gzip or no compression",
                )
        found: list[tuple[tuple[int, ...], int, int]] = []
        # a callback that returns nothing goes on
        data.id.chunk_iter(lambda c: found.append((c.chunk_offset, c.byte_offset, c.size)))
        if not found:
            return
        starts, left = np.divmod([chunk[0] for chunk in found], data.chunks)
        places, sizes = np.array([chunk[1:] for chunk in found]).T
        order = np.ravel_multi_index(starts.T, grid, "clip")
        if left.any() or not np.array_equal(np.sort(order), np.arange(chunks)):
            raise refuse(DAMAGED, found="an index that names other chunks")
        if len(np.unique(places)) != chunks or min(places) < 8 or max(places + sizes) > self._end:
            raise refuse(DAMAGED, found="an index that leads astray")
        if not self.filters and (sizes != whole).any():
            raise refuse(DAMAGED, found="chunks of several sizes", expected=whole)

    def refuse_gaps(self, array: np.ndarray, axis: int, part: Range, row: int | None) -> None:
        """Refuse values that HDF5 filled in because it did not find a chunk by the old index.

        Args:
            array: What was read.
            axis: Axis of the dataset of which `part` was read.
            part: First and last + 1 there.
            row: Index on axis 0, if `axis` is 1.
        """
        data = self.data
        if self.summed or data.chunks is None:
            return
        step, (first, last) = data.chunks[axis], part
        chunks = np.arange(first // step, -(-last // step))
        grid = zip(data.shape, data.chunks, strict=True)
        others: list[Sequence[int]] = [range(-(-size // chunk)) for size, chunk in grid]
        if row is not None:
            others[0] = range(row // data.chunks[0], row // data.chunks[0] + 1)
        if all(len(other) == 1 for at, other in enumerate(others) if at != axis):
            begins = np.maximum(chunks * step, first)
            ends = np.minimum((chunks + 1) * step, last)
            probes = np.linspace(begins, ends - 1, _PROBES).astype(int) - first
            same = self._filled(array[probes]).reshape(*probes.shape, -1)
            chunks = chunks[same.all(axis=(0, 2))]
        others[axis] = chunks.tolist()
        for at in product(*others):
            data.id.read_direct_chunk(tuple(a * c for a, c in zip(at, data.chunks, strict=True)))

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Which values are as HDF5 fills gaps."""
        fill = np.full(1, self.data.fillvalue, self.data.dtype)
        if values.dtype.names is not None:  # bytes between the fields are anything
            return np.asarray(values == fill)
        stored = np.ascontiguousarray(values)[..., None].view(np.uint8)
        return np.asarray((stored == fill.view(np.uint8)).all(-1))


def _decoded_by_us(code: int, dtype: np.dtype) -> bool:
    """Whether a filter is Prophesee's ECF codec on events, see `formats.hdf5_ecf`."""
    return code == 0x8ECF and set(dtype.names or ()) == {"x", "y", "p", "t"}
