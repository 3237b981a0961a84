"""HDF5 files of ours: read without locks, written whole, the system's refusals told as such."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py

from scaleevent.errors import DataError, EnvironmentProblem
from scaleevent.system.files import SteadyFile, staged, writing
from scaleevent.system.platform import locked_for_writing
from scaleevent.system.refusals import refusal

_NO_DRIVER = b"\xff" * 8
_HELD = "already open for"  # what libhdf5 says of the flags that a writer clears when it is done


def open_hdf5(path: Path, shown: object = None, **options: float) -> h5py.File:
    """Open an HDF5 file for reading.

    The file is not locked, since many network file systems refuse that. A lock that a writer
    holds is respected nevertheless.

    Args:
        path: The file.
        shown: Its name in errors, unless it is the path.
        options: Further options of `h5py.File`.

    Raises:
        EnvironmentProblem: The system refuses, or another process has it open for writing.
        DataError: Its writer did not close it, or it has a driver of its own.
        OSError: Not HDF5, or damaged.
    """
    where = path if shown is None else shown
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(1 << 12)
            _refuse_writers(file.fileno(), where)
            _refuse_drivers(head, where)
        return h5py.File(path, "r", locking=False, **options)
    except OSError as error:
        problem = refusal(error, where)
        if problem is not None:
            raise problem from error
        if _HELD in str(error):
            raise DataError(
                "HDF5 file not closed by its writer",
                where=where,
                found="the mark of a file open for writing",
                hint="if it is still being written, wait for its end; if its writer died, "
                "`h5clear -s` removes the mark, and the end of the data may be missing",
            ) from error
        raise


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """An HDF5 file to write, which gets its name when the block ends without an error.

    Its structure has checksums, so that damage is found before it is used.

    Args:
        path: The file.

    Yields:
        The file, and a function that raises if something could not be written by now.

    Raises:
        EnvironmentProblem: The disk is full, or refuses for another reason; raised whatever else
            went wrong because of that.
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(staged(path))
        with writing(path):
            steady = SteadyFile(temporary)

        def check() -> None:
            with writing(path, steady.size):
                steady.check()

        stack.callback(check)
        stack.enter_context(steady)
        yield stack.enter_context(h5py.File(steady, "w", libver="v110")), check


def _refuse_writers(descriptor: int, where: object) -> None:
    """Refuse a file that another process has locked for writing, where the system knows."""
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
        return
    if locked_for_writing(descriptor):
        raise EnvironmentProblem(
            "another process is writing this HDF5 file",
            where=where,
            found="its lock",
            hint="wait until that process has closed it",
        )


def _refuse_drivers(head: bytes, where: object) -> None:
    """Refuse a file that names its own driver: data in other files, or memory without limit.

    Only the old superblocks, versions 0 and 1, can name a driver, after three addresses.
    """
    at = head.find(b"\x89HDF\r\n\x1a\n")
    version, size = head[at + 8 : at + 9], head[at + 13 : at + 14]
    if version in (b"\0", b"\1") and size == b"\x08":
        place = at + 24 + 4 * version[0] + 3 * 8
        if head[place : place + 8] != _NO_DRIVER:
            raise DataError(
                "HDF5 file with a driver of its own",
                where=f"{where}, byte {place}",
                found=head[place : place + 8].hex(" "),
                expected="none",
                hint="split files are not read: write it as one",
            )
