"""The pair store: images with their event windows and labels, in sharded HDF5, written once.

It stores events and makes voxels when they are read, so that the number of bins, tau and the
representation can still be chosen at training time. A store is a folder:

    manifest.json     format, data set, settings, counts, one entry (hash, size, pairs) per shard
    NAME.h5           a shard: the pairs of one task of `prepare`
    NAME.json         the shard's entry, written after the shard; `prepare --resume` relies on it
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from weakref import ReferenceType, ref

import numpy as np

from scaleevent.errors import DataError
from scaleevent.pairs.manifest import Entry, Manifest, read_document
from scaleevent.pairs.shard import Shard
from scaleevent.system.files import Json, move_file, sha256_file, write_json
from scaleevent.system.locations import MANIFEST, address_of, check_store
from scaleevent.system.platform import files_allowed, remove_file
from scaleevent.system.remote import RemoteStore
from scaleevent.system.reports import counted


def finish_shard(
    path: Path,
    pairs: int,
    counts: dict[str, int],
    fingerprint: str,
    tags: dict[str, str] | None = None,
) -> Json:
    """Write a finished shard's entry next to it.

    Args:
        path: The shard.
        pairs: Their number.
        counts: Tally of what was read and dropped.
        fingerprint: Hash of what it was made from.
        tags: Of its recordings by name, where their source told any.

    Returns:
        The entry.
    """
    entry: Json = {
        "file": path.name, "job": fingerprint, "pairs": pairs, "counts": counts,
    }  # fmt: skip
    if pairs:
        entry |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    else:
        path.unlink()  # of a recording without any pair only the tally is kept
    entry |= {"tags": tags} if tags else {}  # last, as where an `Entry` is read again
    write_json(path.with_suffix(".json"), entry)
    return entry


def publish_shard(made: Path, path: Path) -> None:
    """Move a finished shard and its entry from where they were made to where they belong.

    The entry comes last: a shard without one, or with that of another shard, does not count.
    """
    if made.exists():
        move_file(made, path)
    else:
        remove_file(path)  # an earlier one of the same recording, which had pairs
    move_file(made.with_suffix(".json"), path.with_suffix(".json"))


def shard_done(path: Path, fingerprint: str) -> Json | None:
    """The entry of a shard that was finished with this fingerprint and is undamaged, else None."""
    entry = shard_entry(path, fingerprint)
    whole = entry is not None and (not entry["pairs"] or sha256_file(path) == entry["sha256"])
    return entry if whole else None


def shard_entry(path: Path, fingerprint: str) -> Json | None:
    """The entry of a shard that was finished with this fingerprint and has its size, else None."""
    try:
        entry = read_document(path.with_suffix(".json"), Entry)
    except DataError:  # missing or damaged: the shard is written again
        return None
    if entry.job != fingerprint:
        return None
    whole = not entry.pairs or (path.exists() and path.stat().st_size == entry.bytes)
    return entry.model_dump(exclude_unset=True) if whole else None


MOST_OPEN = 512  # shards of a process: HDF5 takes some 1.5 MB for each
FETCHED_AGAIN = "delete the file: it is fetched again"
_USED: OrderedDict[tuple[int, int], ReferenceType[PairStore]] = OrderedDict()
"""The open shards of all stores of this process, the least recently used first.

By store (its `id`) and index of the shard in it.
"""


class PairStore:
    """A prepared folder: its manifest, and its pairs under one running index.

    Shards are opened on first use in every process. The least recently used of all its stores are
    closed where more would be open than `MOST_OPEN`, or a quarter of what the system allows.

    Args:
        folder: A folder that `scaleevent prepare` or `voxelize` wrote, or the address of one, such
            as s3://bucket/pairs (`system.remote`): its shards are fetched when they are read.

    Raises:
        DataError: No manifest, another format, or shards missing or of another size (all named).
        EnvironmentProblem: An address that cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from scaleevent import PairStore, PrepareConfig, prepare
        >>> report = prepare(PrepareConfig(name="street", scenes=2, out=Path("pairs")), quiet=True)
        >>> store = PairStore(Path("pairs"))
        >>> len(store)
        2
        >>> shard, row = store.locate(1)
        >>> events, window = shard.events(row)
        >>> shard.voxel(row, bins=3).shape
        (3, 96, 128)
        >>> shard.label("depth", row).values.shape  # metres
        (96, 128)
    """

    simulated = False  # whether a pair is another one each time it is drawn
    remote: RemoteStore | None = None  # where it is, unless on this machine

    def __init__(self, folder: Path) -> None:
        address = address_of(folder)
        self.remote = RemoteStore(address) if address is not None else None
        self.folder = Path(folder) if self.remote is None else self.remote.fetch_manifest()
        check_store(self.folder)
        manifest = read_document(self.folder / MANIFEST, Manifest)
        self.manifest = manifest.model_dump()
        self.shards = [entry for entry in self.manifest["shards"] if entry["pairs"]]
        here = [] if self.remote else self.shards
        lost = [entry["file"] for entry in here if not self._whole(entry)]
        if lost:
            raise DataError(
                f"{len(lost)} of {len(self.shards)} shards are missing or of the wrong size",
                where=self.folder,
                found=", ".join(lost[:20]),
                hint="the command that wrote it, with --resume, remakes only these",
            )
        self._ends = np.cumsum([entry["pairs"] for entry in self.shards])
        self._open: dict[int, Shard] = {}
        self._process = os.getpid()

    @property
    def where(self) -> str:
        """Its folder or address, for messages."""
        return self.remote.shown if self.remote else str(self.folder)

    @property
    def is_here(self) -> bool:
        """Whether all its shards are on this machine."""
        return self.remote is None or all(
            self.remote.cached(entry["sha256"]).exists() for entry in self.shards
        )

    @contextmanager
    def file(self, entry: Json) -> Iterator[Path]:
        """A shard as a file of this machine, for the block; see `RemoteStore.shard`."""
        if self.remote is None:
            yield self.folder / entry["file"]
            return
        with self.remote.shard(entry["file"], entry["bytes"], entry["sha256"]) as path:
            yield path

    @property
    def representation(self) -> str:
        """The stored grids' key in `REPRESENTATIONS`; "zhu" for a store of events."""
        return str(self.manifest.get("settings", {}).get("representation", "zhu"))

    def _whole(self, entry: Json) -> bool:
        path, size = Path(self.folder, entry["file"]), int(entry["bytes"])
        return path.is_file() and path.stat().st_size == size

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard of a pair, and the pair's row in the shard."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._process != os.getpid():  # HDF5 handles do not survive a fork
            self._open, self._process = {}, os.getpid()
        which = int(np.searchsorted(self._ends, index, "right"))
        if which not in self._open:
            with self.file(self.shards[which]) as path:
                shard = Shard(path, FETCHED_AGAIN if self.remote else None)
            if shard.pairs != self.shards[which]["pairs"]:
                raise DataError(
                    "a shard and the manifest disagree", where=shard.path,
                    found=f"{shard.pairs} pairs", expected=f"{self.shards[which]['pairs']}",
                )  # fmt: skip
            while len(_USED) >= _most_open():
                (_, oldest), reference = _USED.popitem(last=False)
                if (store := reference()) is not None:
                    store._open.pop(oldest, None)
            self._open[which] = shard
        _USED[id(self), which] = ref(self)
        _USED.move_to_end((id(self), which))
        first = self._ends[which] - self.shards[which]["pairs"]
        return self._open[which], int(index - first)

    @property
    def firsts(self) -> list[int]:
        """Index of the first pair of every shard."""
        firsts: list[int] = (self._ends - [entry["pairs"] for entry in self.shards]).tolist()
        return firsts

    def drawn(self, index: int, draw: int) -> tuple[Shard, int]:
        """The same, for a draw of the run, counted from 1; 0 stands for all but training."""
        return self.locate(index)

    def __getstate__(self) -> Json:
        return {**self.__dict__, "_open": {}}

    @cached_property
    def recordings(self) -> np.ndarray:
        """(len,) str: the name of every pair's recording."""
        return self._column(Shard.recording_of_pairs)

    @cached_property
    def windows_us(self) -> np.ndarray:
        """(len, 2) int64: start and end of every pair's window, microseconds."""
        return self._column(lambda shard: shard.rows("before/window_us"))

    @cached_property
    def sizes(self) -> np.ndarray:
        """(len, 2) int64: rows and columns of every pair's event camera."""
        return self._column(lambda shard: shard.rows("sensor"))

    @cached_property
    def image_bytes(self) -> np.ndarray:
        """(len,) int64: bytes of every encoded image; 0 if a pair has none."""
        return self._column(lambda shard: np.diff(shard.rows("image/offset")))

    def _column(self, read: Callable[[Shard], np.ndarray]) -> np.ndarray:
        columns = [read(self.locate(first)[0]) for first in self.firsts]
        for column, entry in zip(columns, self.shards, strict=True):
            if len(column) != entry["pairs"]:
                raise DataError(
                    "a shard is damaged", where=self.folder / entry["file"],
                    found=f"a table of {len(column)} rows", expected=f"{entry['pairs']}",
                )  # fmt: skip
        return np.concatenate(columns)

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the hashes of all shards; identifies the data in run records."""
        joined = "".join(entry["sha256"] for entry in self.shards)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


def _most_open() -> int:
    """Number of shards that a process may have open."""
    return max(1, min((files_allowed() or 4 * MOST_OPEN) // 4, MOST_OPEN))


def verify_shards(store: PairStore) -> Json:
    """Re-hash every shard, and say what was checked and what was not.

    Returns:
        `shards`, each with its file, bytes, pairs and sha256; `hash`; `pairs` and `bytes` in all;
        `not_checked`, a line each.

    Raises:
        DataError: Shards whose content changed since they were written, all named.
    """
    bad, pairs = [], 0
    for first, entry in zip(store.firsts, store.shards, strict=True):
        with store.file(entry) as path:
            if sha256_file(path) != entry["sha256"]:
                bad.append(str(path) if store.remote else entry["file"])
                continue
        pairs += store.locate(first)[0].pairs  # refuses another number than the manifest's
    if bad:
        raise DataError(
            "shards have changed since they were written", where=store.where,
            found=f"{len(bad)} of {len(store.shards)}: {', '.join(bad)}",
            expected="the SHA-256 of each in the manifest",
            hint=FETCHED_AGAIN
            if store.remote
            else "the command that wrote it, with --resume, remakes only these",
        )  # fmt: skip
    keys = ("file", "bytes", "pairs", "sha256")
    return {
        "hash": "SHA-256 of every byte of every shard, compared with the manifest",
        "shards": [{key: entry[key] for key in keys} for entry in store.shards],
        "pairs": pairs,
        "bytes": sum(entry["bytes"] for entry in store.shards),
        "not_checked": [
            f"{MANIFEST} itself: nothing holds its hash",
            "what the pairs show: no image was decoded, no event unpacked",
            *_unlisted(store),
        ],
    }


def _unlisted(store: PairStore) -> list[str]:
    """A line on what lies in the folder beside the store, if anything does."""
    if store.remote:
        return ["whether the address still has the shards that were in the cache"]
    listed = {Path(entry["file"]).stem for entry in store.manifest["shards"]}
    known = {f"{name}{suffix}" for name in listed for suffix in (".h5", ".json")} | {MANIFEST}
    found = (path.name for path in store.folder.iterdir() if not path.name.startswith("."))
    others = sorted(set(found) - known)
    shown = ", ".join(others[:8]) + (", .." if len(others) > 8 else "")
    return [f"{counted(len(others), 'other file')} in the folder: {shown}"] if others else []
