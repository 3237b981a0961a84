"""The owner of a folder: one process at a time writes there, on file systems without locks too.

A claim is a file `.owner-N` in the folder, made only if it is not there yet. One who finds the
claim of a dead process makes the next number instead of removing it, so of several at most one
succeeds; whoever has made a claim looks again for others before it counts.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from scaleevent.errors import InUseError
from scaleevent.system.documents import parse_json, read_bounded
from scaleevent.system.platform import (
    make_folder,
    process_space,
    process_started,
    remove_file,
    sync_folder,
)

ATTEMPTS = 100
CLAIM_BYTES = 10_000
WHOLE_SECONDS = 2.0  # for a claim to be written; one that stays damaged is of a dead process


@dataclass(frozen=True)
class Owner:
    """A process, such that no other one anywhere is taken for it."""

    pid: int
    host: str
    space: str  # see `process_space`
    started: str  # see `process_started`
    since: str  # when it claimed the folder, for people

    @classmethod
    def this(cls) -> Owner:
        """This process."""
        pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        return cls(pid, socket.gethostname(), process_space(), process_started(pid) or "", since)

    def described(self) -> str:
        """Which process, where and since when, for people."""
        return f"process {self.pid} on {self.host}, since {self.since}"

    def alive(self) -> bool | None:
        """Whether the process lives; None if it is of another host or container."""
        here = self.this()
        if (self.host, self.space) != (here.host, here.space):
            return None
        found = process_started(self.pid)
        return found is not None and (not found or not self.started or found == self.started)


def check_owner(folder: Path, take_over: bool = False, besides: Path | None = None) -> None:
    """Refuse a folder that another process owns.

    Args:
        folder: May be missing.
        take_over: Take owners on other hosts for dead.
        besides: A claim that does not count: one's own.

    Raises:
        InUseError: Another process owns it, or may own it.
    """
    for path in claims(folder):
        owner = None if path == besides else _read(path)
        alive = owner.alive() if owner else False
        if owner is None or not alive and (alive is not None or take_over):
            continue
        elsewhere = alive is None
        raise InUseError(
            "the output folder belongs to a run on another host or in another container"
            if elsewhere else "another run is writing to the output folder",
            where=folder,
            found=owner.described(),
            hint="if that run is dead, --take-over goes on"
            if elsewhere else "wait until it has ended, or choose another --out",
        )  # fmt: skip


def claimants(folder: Path) -> list[tuple[Owner, bool | None]]:
    """Who claims a folder, and whether each lives, as `Owner.alive`."""
    owners = [owner for path in claims(folder) if (owner := _read(path)) is not None]
    return [(owner, owner.alive()) for owner in owners]


@contextmanager
def owned(folder: Path, take_over: bool = False) -> Iterator[Path]:
    """Own a folder, made if need be, for a block; gives the claim.

    Raises:
        InUseError: Another process owns it, or may own it.
        OSError: It cannot be written.
    """
    me = Owner.this()
    claim = _claim(folder, me, take_over)
    try:
        yield claim
    finally:
        with suppress(OSError):
            if _read(claim) == me:  # not that of one who took the folder over
                remove_file(claim)


def claims(folder: Path) -> list[Path]:
    """The claims on a folder."""
    try:
        return [path for path in folder.iterdir() if re.fullmatch(r"\.owner-\d{1,9}", path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _claim(folder: Path, me: Owner, take_over: bool) -> Path:
    for attempt in range(ATTEMPTS):
        numbers = [int(path.name.rpartition("-")[2]) for path in claims(folder)]
        check_owner(folder, take_over)  # second, so that all these are of dead ones
        path = folder / f".owner-{max(numbers, default=0) + 1}"
        try:
            make_folder(folder)
            file = path.open("xb")
        except (FileExistsError, FileNotFoundError):  # another one claimed it first, or removed it
            if attempt == ATTEMPTS - 1:
                raise
            continue
        try:
            with file:
                file.write(json.dumps(asdict(me)).encode())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(folder)
            check_owner(folder, take_over, besides=path)
            for dead in claims(folder):
                if dead != path:
                    remove_file(dead)
        except BaseException:
            remove_file(path)
            raise
        break
    return path


def _read(claim: Path) -> Owner | None:
    """The owner that a claim names; None if the claim is gone or damaged."""
    until = time.monotonic() + WHOLE_SECONDS
    while True:
        try:
            stored = parse_json(read_bounded(claim, CLAIM_BYTES))
            if not isinstance(stored, dict):
                return None
            owner = Owner(**stored)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            if time.monotonic() > until:
                return None
            time.sleep(0.02)
        else:
            texts = (owner.host, owner.space, owner.started, owner.since)
            whole = isinstance(owner.pid, int) and all(isinstance(text, str) for text in texts)
            return owner if whole and owner.pid > 0 else None
