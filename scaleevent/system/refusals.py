"""Tell the system's refusals apart from damage where a file cannot be read.

`files` does the same where one cannot be written.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scaleevent.errors import DataError, EnvironmentProblem
from scaleevent.system.platform import files_allowed

_AGAIN = (
    "the same command again (--resume where it had written something); "
    "if it persists, look at the disk or network folder"
)
_HINTS = {
    "EACCES": "have its owner allow you to read it (ls -l shows who may)",
    "EPERM": "have its owner allow you to read it (ls -l shows who may)",
    "EMFILE": "allow more open files, such as `ulimit -n 4096`, or use fewer workers",
    "ENFILE": "close other programs, or have the machine's limit of open files raised",
    "ENOMEM": "free memory or use fewer workers",
    "EAGAIN": "wait for other programs to end, or use fewer workers",
    "EBUSY": "wait until no other program uses the file",
    "ENOSPC": "free some space",
    "EDQUOT": "free some space",
    "EIO": "look at the disk (`dmesg`), then copy the file from another place",
    **dict.fromkeys(
        ("ESTALE", "ENOLCK", "ENODEV", "ENXIO", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ENOSYS",
         "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO",
         "EOPNOTSUPP", "ENOTSUP", "EPROTO", "ESHUTDOWN", "EDEADLK"),
        _AGAIN,
    ),
}  # fmt: skip
REFUSALS = {getattr(errno, name): hint for name, hint in _HINTS.items() if hasattr(errno, name)}
"""What to do, by the number of the system's error: those that say nothing about the file."""

# h5py and Rust pass the number on in their message only
_NUMBER = re.compile(r"(?:os error|[Ee]rrno)(?: =)? (\d{1,4})\b")


def refusal(error: BaseException, where: object) -> EnvironmentProblem | None:
    """The problem to raise instead of damage if the system, not the file, caused an error."""
    for cause in causes(error):
        if isinstance(cause, MemoryError):
            hint = "free memory or use fewer workers; if it persists, the file is damaged"
            return EnvironmentProblem("not enough memory to read", where=where, hint=hint)
        number = error_number(cause)
        if number is not None and number in REFUSALS:
            found = None
            if number == errno.EMFILE:
                found = f"{files_allowed()} files allowed"
            what = f"cannot read: {os.strerror(number)}"
            return EnvironmentProblem(what, where=where, found=found, hint=REFUSALS[number])
    return None


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Read a file: what the system raises becomes its refusal, or else a DataError `what`."""
    try:
        yield
    except FileNotFoundError:
        raise _not_there(path, "file not found") from None
    except OSError as error:
        damage = DataError(what, where=path, found=error.strerror or error)
        raise refusal(error, path) or damage from error


def check_there(path: Path) -> os.stat_result:
    """Refuse a path at which nothing is; what the system tells of it.

    Raises:
        DataError: As said.
        EnvironmentProblem: The system does not let it be looked at.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _not_there(path, "no such file or folder") from None
    except OSError as error:
        damage = DataError("cannot read", where=path, found=error.strerror or error)
        raise refusal(error, path) or damage from error


def _not_there(path: Path, what: str) -> DataError:
    """The error for a path at which nothing is, or a link that leads nowhere."""
    if not os.path.islink(path):
        return DataError(what, where=path)
    return DataError(
        "a link to a file that is not there", where=path, found=os.readlink(path),
        hint="mount its disk, or fetch the files that such links stand for (git annex)",
    )  # fmt: skip


def may_be_file(path: Path) -> bool:
    """Whether a path is of a file, or a link that leads nowhere: reading it tells that."""
    return path.is_file() or path.is_symlink() and not path.exists()


def error_number(error: BaseException) -> int | None:
    """The number of the system's error, perhaps from the message."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    hit = _NUMBER.search(str(error))
    return int(hit[1]) if hit else None


def causes(error: BaseException | None, hidden: bool = False) -> Iterator[BaseException]:
    """An error and those it came from; `hidden`: those too that ``from None`` hides."""
    for _ in range(20):  # a chain may be a circle
        if error is None:
            return
        yield error
        shown = hidden or not error.__suppress_context__
        error = error.__cause__ or (error.__context__ if shown else None)
