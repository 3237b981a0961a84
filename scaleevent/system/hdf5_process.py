"""Read HDF5 files of others in a process of their own, which damaged ones may crash or hang.

libhdf5 and its decompressors trust what a file says. One process, started at the first such file,
serves all files of this one: a dead process is damage of the file it was at. It ends with this
process, and files that nobody reads are closed after seconds.
"""

from __future__ import annotations

import atexit
import itertools
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import NoReturn

import numpy as np

from scaleevent import errors
from scaleevent.errors import DataError, EnvironmentProblem
from scaleevent.system.files import Json
from scaleevent.system.platform import CRASHES, OUT_OF_TIME, after_fork, shared_memory, windows
from scaleevent.system.refusals import refusal

DAMAGED = "damaged HDF5 file"

_PATIENCE = 900.0  # seconds; waiting for a disk takes no processor time, which is limited apart
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); " + (
    "from scaleevent.system.hdf5_reading import serve; serve(int(sys.argv[2]))"
)
_MAX_CRASHES = 3
_TICK = 2.0  # seconds; the coarsest time stamps of common file systems
_numbers = itertools.count(1)
_COPY_AGAIN = "copy the file again; a download or recording cut short looks like this"


@dataclass(frozen=True)
class Dataset:
    """Facts of one dataset.

    Args:
        name: Its path in the file.
        shape: Its shape; None if it has no data.
        dtype: Type of its values.
        chunks: Shape of the pieces that are compressed; None if it is stored as a whole.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: np.dtype
    chunks: tuple[int, ...] | None

    @property
    def group(self) -> str:
        """Name of the group it is in."""
        return self.name.rpartition("/")[0] or "/"

    @property
    def nbytes(self) -> int:
        """Size of all values."""
        return prod(self.shape or ()) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0


@dataclass(frozen=True)
class Part:
    """What to read of a dataset.

    Args:
        name: The dataset.
        rows: First and last + 1 on its first axis; None: all.
        row: Index on its first axis; `rows` then counts on the second.
    """

    name: str
    rows: tuple[int, int] | None = None
    row: int | None = None


class Hdf5File:
    """An HDF5 file of others, whose structure is examined once and which is read in parts.

    Picklable: another process reads it through a process of its own, and only if it is unchanged.

    Args:
        path: The file.
        identity: What tells that it is unchanged; None: as it is now.

    Attributes:
        groups: Names of all groups.
        datasets: Facts of all datasets, by name.
        links: Kind of what only points to data elsewhere, by name; none of it is followed.

    Raises:
        DataError: Damaged, not closed by its writer, or changed while it is read.
        EnvironmentProblem: The system refuses, or another process is writing it.
    """

    def __init__(self, path: Path, identity: tuple[int, ...] | None = None) -> None:
        self.path = Path(path)
        self._absolute = os.path.abspath(path)
        self._identity = identity or _identity(self.path)
        self._crashes = 0
        items = _items(self._absolute, str(path), self._identity)
        kinds = {item["name"]: item["kind"] for item in items}
        self.groups = [name for name, kind in kinds.items() if kind == "Group"]
        self.links = {name: kind for name, kind in kinds.items() if kind.endswith("Link")}
        self.datasets = {
            item["name"]: Dataset(
                item["name"], _shape(item["shape"]), _dtype(item["dtype"]), _shape(item["chunks"])
            )
            for item in items
            if item["kind"] == "Dataset"
        }

    def __reduce__(self) -> tuple[type[Hdf5File], tuple[Path, tuple[int, ...]]]:
        return Hdf5File, (self.path, self._identity)

    @property
    def given_up(self) -> bool:
        """Whether so many reads of this file ended badly that no further one is tried."""
        return self._crashes >= _MAX_CRASHES

    def checked(self, name: str) -> Dataset:
        """The dataset, after checking that reading it is safe and gives what was stored.

        Raises:
            DataError: It is not in the file or not numbers, parts are missing, a filter is unknown.
        """
        if name not in self.datasets:
            away = self.links.get(name) == "ExternalLink"
            what = "the data lie in another file" if away else "no such dataset"
            raise DataError(what, where=f"{self.path}, dataset {name}", found=self.links.get(name))
        self.filters(name)
        return self.datasets[name]

    def filters(self, name: str) -> list[int]:
        """Numbers of the filters of a dataset, which is checked."""
        return _filters(self._absolute, str(self.path), self._identity, name)

    def attributes(self, names: list[str], keys: tuple[str, ...]) -> list[Json]:
        """Of groups and datasets the attributes with these keys: strings, or lists of numbers."""
        answer = self._ask("attributes", names, keys)
        found: list[Json] = answer["attributes"]
        return found

    def text(self, name: str) -> str:
        """A dataset that is one short text, such as the name of a lens model.

        Raises:
            DataError: It is not in the file, or no text.
        """
        if name not in self.datasets:
            raise DataError("no such dataset", where=f"{self.path}, dataset {name}")
        text: str = self._ask("text", name)["text"]
        return text

    def ragged(
        self, name: str, first: int, last: int, column: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows first .. last - 1 of a table whose items are bytes, each of its own length.

        Args:
            name: The table, of two dimensions.
            first: First row.
            last: Last row + 1.
            column: The only column to read; None: all.

        Returns:
            (rows, columns) int64 lengths, and (N,) uint8: all items one after the other.

        Raises:
            DataError: It is not in the file, or no such table.
        """
        if name not in self.datasets:
            raise DataError("no such dataset", where=f"{self.path}, dataset {name}")
        with _lock:
            found = self._ask("ragged", name, first, last, column)["arrays"]
            lengths, items = (
                _copy(np.dtype(a["dtype"]), tuple(a["shape"]), a["place"]) for a in found
            )
        return lengths, items

    def read(self, *parts: Part) -> list[np.ndarray]:
        """The values of some datasets, together."""
        asked = [(part.name, part.row, part.rows) for part in parts]
        with _lock:
            found = self._ask("read", *asked)["arrays"]
            return [_copy(_dtype(a["dtype"]), tuple(a["shape"]), a["place"]) for a in found]

    def chunk(self, name: str, start: int) -> tuple[int, np.ndarray]:
        """Mask of the filters left out, and (N,) uint8: the chunk of row `start` as stored."""
        with _lock:
            mask, length = self._ask("chunk", name, start)["chunk"]
            return mask, _copy(np.dtype(np.uint8), (length,), 0)

    def _ask(self, kind: str, *arguments: object) -> Json:
        if self.given_up:
            raise DataError(
                DAMAGED,
                where=self.path,
                found=f"the HDF5 library failed on it {self._crashes} times",
                hint=_COPY_AGAIN,
            )
        try:
            return _ask(kind, self._absolute, str(self.path), self._identity, *arguments)
        except _LibraryFailure:
            self._crashes += 1
            raise


class _LibraryFailure(DataError):
    """The library crashed or did not come to an end."""

    code = DataError.code


def _shape(stored: list[int] | None) -> tuple[int, ...] | None:
    return None if stored is None else tuple(stored)


def _dtype(described: str | Json) -> np.dtype:
    """A type, see `hdf5_reading.describe`."""
    if isinstance(described, str):
        return np.dtype(described)
    fields = described["fields"]
    return np.dtype(
        {
            "names": [field["name"] for field in fields],
            "formats": [(_dtype(field["dtype"]), tuple(field["shape"])) for field in fields],
            "offsets": [field["offset"] for field in fields],
            "itemsize": described["itemsize"],
        }
    )


def identity_of(path: Path) -> list[int]:
    """What changes when a file is replaced or written."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _identity(path: Path) -> tuple[int, ...]:
    """`identity_of`, and a number that no other call gives where two writes may share a time."""
    try:
        identity = identity_of(path)
        fresh = identity[-1] > time.time_ns() - 1e9 * _TICK
        return (*identity, next(_numbers) if fresh else 0)
    except OSError as error:
        problem = refusal(error, path)
        if problem is not None:
            raise problem from error
        raise DataError("cannot read the file", where=path, found=error.strerror) from error


# Asking the process. What is known of an unchanged file is not asked again.


@lru_cache(maxsize=64)
def _items(path: str, shown: str, identity: tuple[int, ...]) -> list[Json]:
    items: list[Json] = _ask("items", path, shown, identity)["items"]
    return items


@lru_cache(maxsize=1024)
def _filters(path: str, shown: str, identity: tuple[int, ...], name: str) -> list[int]:
    filters: list[int] = _ask("check", path, shown, identity, name)["filters"]
    return filters


def _ask(kind: str, path: str, shown: str, identity: tuple[int, ...], *arguments: object) -> Json:
    """The answer of the reading process, or its error."""
    global _process
    with _lock:
        if _process is not None and not _process.alive():
            _process.end()
            _process = None
        _process = _process or _Process()
        request = {"kind": kind, "path": path, "shown": shown, "identity": identity}
        answer = _process.ask(request | {"arguments": arguments}, shown)
    if "raised" in answer:
        name, what, parts = answer["raised"]
        kind_of_error: type[errors.ScaleEventError] = getattr(errors, name)
        raise kind_of_error(what, **parts)
    if "failed" in answer:
        found, number = answer["failed"]
        problem = refusal(OSError(number, found), shown) if number else None
        hint = _COPY_AGAIN
        raise problem or DataError(DAMAGED, where=shown, found=found, hint=hint)
    return answer


def _copy(dtype: np.dtype, shape: tuple[int, ...], place: int) -> np.ndarray:
    """A copy of values of the latest answer; only under the lock that was held for it."""
    if _process is None:
        raise RuntimeError("nothing was asked")
    return _process.copy(dtype, shape, place)


class _Process:
    """The reading process, and the memory shared with it."""

    def __init__(self) -> None:
        if windows():
            raise EnvironmentProblem(
                "HDF5 files of others cannot be read on Windows",
                hint="read them under Linux or macOS (WSL), or save the events as .npz",
            )
        try:
            self._memory = shared_memory()
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # it computes nothing
            self._child = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(self._memory)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                bufsize=0, pass_fds=[self._memory], env=environment,
                start_new_session=True,  # a terminal sends ^C to all processes of a session
            )  # fmt: skip
        except OSError as error:
            where = "the process that reads HDF5 files"
            problem = refusal(error, where)
            if problem is None:
                problem = EnvironmentProblem("cannot start a process", where=where, found=error)
            raise problem from error
        assert self._child.stdin is not None and self._child.stdout is not None
        self._to, self._from = self._child.stdin.fileno(), self._child.stdout.fileno()
        self._held = b""
        self._map: mmap.mmap | None = None

    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def ask(self, request: Json, shown: str) -> Json:
        """One answer; whatever else happens, the process is ended."""
        try:
            data = json.dumps(request).encode() + b"\n"
            try:
                while data:
                    data = data[os.write(self._to, data) :]
                answer = self._line(shown)
            except BrokenPipeError:
                answer = b""
            if not answer:
                self._raise_death(shown)
            found: Json = json.loads(answer)
            return found
        except BaseException:
            self.end()
            raise

    def _line(self, shown: str) -> bytes:
        """A line that it writes; empty if it is dead."""
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        while b"\n" not in self._held:
            if not poll.poll(1000 * _PATIENCE):
                raise EnvironmentProblem(
                    "no answer from the disk", where=shown, found=f"{_PATIENCE:.0f} s of waiting",
                    hint="look at the disk or network folder",
                )  # fmt: skip
            part = os.read(self._from, 1 << 20)
            if not part:
                return b""
            self._held += part
        line, _, self._held = self._held.partition(b"\n")
        return line

    def _raise_death(self, shown: str) -> NoReturn:
        """Say how it died."""
        code = self._child.wait()
        if code == -OUT_OF_TIME:
            found = "its structure leads the HDF5 library round in circles"
            raise _LibraryFailure(DAMAGED, where=shown, found=found, hint=_COPY_AGAIN)
        if -code in CRASHES:
            found = f"its content crashes the HDF5 library ({signal.Signals(-code).name})"
            raise _LibraryFailure(DAMAGED, where=shown, found=found, hint=_COPY_AGAIN)
        ended = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        raise EnvironmentProblem(
            "the process that reads HDF5 files ended",
            where=shown,
            found=ended,
            hint='try `python -c "import h5py, hdf5plugin"`' if code >= 0
            else "free memory or use fewer workers" if ended == "SIGKILL"
            else "the same command again (--resume where it had written something)",
        )  # fmt: skip

    def copy(self, dtype: np.dtype, shape: tuple[int, ...], place: int) -> np.ndarray:
        """A copy of values in the shared memory."""
        end = place + prod(shape) * dtype.itemsize
        if end == place:
            return np.empty(shape, dtype)
        if self._map is None or len(self._map) < end:
            self._map = mmap.mmap(self._memory, os.fstat(self._memory).st_size)
        return np.ndarray(shape, dtype, self._map, place).copy()

    def end(self) -> None:
        """End it at once."""
        self._child.kill()
        self._child.wait()
        self._close()

    def forget(self) -> None:
        """In a fork: leave it to the process that started it."""
        self._child.returncode = 0
        self._close()

    def _close(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


_process: _Process | None = None
_lock = threading.RLock()


def _end() -> None:
    if _process is not None:
        _process.end()


def _forget() -> None:
    global _process, _lock
    if _process is not None:
        _process.forget()
    _process, _lock = None, threading.RLock()


atexit.register(_end)
after_fork(_forget)
