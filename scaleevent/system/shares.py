"""Several processes write into one output folder at a time, each its share of the work.

A share has a folder of its own in the output folder, which one process owns at a time. Files are
made there and moved to their names when they are whole, so that only the owner of a share removes
what a killed one has left, and nobody waits for anybody. As all shares make a file alike, it does
no harm where two of them make the same one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scaleevent.errors import ConfigError
from scaleevent.system.files import MARKER, check_folder, claimed_folder, write_bytes, writing
from scaleevent.system.owner import check_owner, claimants, claims
from scaleevent.system.platform import make_folder, remove_file

KIND = "share"  # what the folder of a share is marked with
FOLDER = re.compile(r"\.shard-(\d+)-of-(\d+)")
SLURM = "slurm"
ARRAY = tuple(f"SLURM_ARRAY_TASK_{part}" for part in ("ID", "COUNT", "MIN", "STEP"))

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One of several equal shares of a list of tasks: every `count`-th task from `number` on."""

    number: int  # from 1
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `3/8`, or `slurm`: that of this task of a job array.

        Raises:
            ValueError: It is neither.
            ConfigError: This is no task of an array, or of one with gaps.
        """
        if text == SLURM:
            return cls._of_array()
        found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(
                "expected a share and their number, 1/8 to 8/8, or slurm in a job array"
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def _of_array(cls) -> Share:
        """By what SLURM sets in every task of a job array, as the manual of sbatch lists it."""
        texts = [os.environ.get(name, "") for name in ARRAY]
        if not all(re.fullmatch(r"\d{1,9}", text) for text in texts):
            raise ConfigError(
                "--shard slurm is for the tasks of a SLURM job array",
                where="environment variables",
                found=", ".join(f"{n}={t}" for n, t in zip(ARRAY, texts, strict=True) if t) or None,
                expected=", ".join(ARRAY),
                hint="`sbatch --array=1-8` sets them; elsewhere name a share: --shard 3/8",
            )
        task, count, first, step = map(int, texts)
        last = int(os.environ.get("SLURM_ARRAY_TASK_MAX") or first + (count - 1) * step)
        if last - first != (count - 1) * step or not 0 <= task - first <= last - first:
            raise ConfigError(
                "a SLURM job array with gaps, which does not tell how many shares there are",
                where=ARRAY[0],
                found=f"task {task} of {count} from {first} to {last}",
                expected=f"{count} tasks in steps of {step}",
                hint='name the share: --shard "$SLURM_ARRAY_TASK_ID/8" for tasks of 1 to 8',
            )
        return cls((task - first) // step + 1, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, tasks: Sequence[T]) -> Sequence[T]:
        """Its tasks."""
        return tasks[self.number - 1 :: self.count]

    def holds(self, index: int) -> bool:
        """Whether a task, by its index from 0, is in it."""
        return index % self.count == self.number - 1

    def folder(self, out: Path) -> Path:
        """Where it works."""
        return out / f".shard-{self.number}-of-{self.count}"


@contextmanager
def joined_folder(out: Path, kind: str, share: Share, *, take_over: bool) -> Iterator[None]:
    """Own the folder of a share in an output folder of a `kind`, which is made and marked.

    One who had the same share on another host counts as dead: a scheduler runs no task twice at a
    time, and starts one that was lost on another host.

    Args:
        out: The output folder.
        kind: What it is marked with.
        share: Which share.
        take_over: Whether an owner of the whole output folder on another host is dead.

    Raises:
        EnvironmentProblem: See `claimed_folder`; or somebody owns the whole output folder.
    """
    check_folder(out, kind, resume=True, overwrite=False, take_over=take_over)
    with writing(out):
        make_folder(out)
        write_bytes(out / MARKER, f"{kind}\n".encode())
    own = share.folder(out)
    with claimed_folder(own, KIND, resume=True, overwrite=False, take_over=True):
        # looked at again once this share is claimed: whoever claims all looks for shares then
        check_owner(out, take_over)
        try:
            yield
        finally:
            _empty(own)


def check_shares(out: Path, take_over: bool) -> None:
    """Refuse an output folder in which shares are at work, and remove those of dead processes.

    Raises:
        InUseError: A process works there, or may work there.
    """
    folders = share_folders(out)
    for folder in folders:
        check_owner(folder, take_over)
    for folder in folders:
        _remove(folder)


def remove_dead_shares(out: Path) -> None:
    """Remove the folders of shares whose processes are known to be dead."""
    for folder in share_folders(out):
        if all(alive is False for _, alive in claimants(folder)):
            _remove(folder)


def at_work(out: Path, share: Share) -> str:
    """Who works at a share, for people."""
    told = [
        f"{owner.described()}{'' if alive else ', if it is alive'}"
        for owner, alive in claimants(share.folder(out))
        if alive is not False
    ]
    return "; ".join(told) or "nobody is at work"


def share_folders(out: Path) -> list[Path]:
    """The folders of shares in an output folder."""
    return sorted(path for path in Path(out).iterdir() if FOLDER.fullmatch(path.name))


def _empty(folder: Path) -> None:
    """Remove all but the claims."""
    with suppress(FileNotFoundError):
        for path in set(folder.iterdir()) - set(claims(folder)):
            remove_file(path)


def _remove(folder: Path) -> None:
    _empty(folder)
    for path in claims(folder):
        remove_file(path)
    with suppress(OSError):
        folder.rmdir()
