"""The pair store: images with their event windows and labels, in sharded HDF5, written once.

Events are the truth here: voxels are made on the fly, so bins, tau, window of bins and
representation stay free at training time. A store is a folder:

    manifest.json     format, data set, settings, counts, one entry (hash, size, pairs) a shard
    NAME.h5           a shard: the pairs of one task of `prepare`
    NAME.json         the shard's entry, written after it; what `prepare` resumes from
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.errors import DataError
from scaleevent.pairs.shard import FORMAT, Shard
from scaleevent.system.files import MARKER, read_json, sha256_file, write_json

MANIFEST = "manifest.json"


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

    @property
    def representation(self) -> str:
        """What grids its events became, or will: "zhu" unless voxelize was told otherwise."""
        return self.manifest.get("settings", {}).get("representation", "zhu")

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
