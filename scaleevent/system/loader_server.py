"""Imported first by the process that forks loader workers: it ends with its parent, in silence."""

import os
import sys
from types import TracebackType

from scaleevent.system.platform import end_with_starter

_SERVER = os.getpid()  # a forked worker has it from the server; another one is its own


def end_with_server() -> None:
    """In a worker: leave at once when the server is gone, or was gone before this could be asked.

    The run takes all workers of a dead server for dead, and what it then tells them is no work.
    """
    end_with_starter()
    if _orphan():
        os._exit(1)


def _orphan() -> bool:
    return _SERVER not in (os.getpid(), os.getppid())


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error, unless the server is dead: a fork then lacks what it needs, unmissed."""
    if not _orphan():
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == "-c":  # as multiprocessing starts it
    end_with_starter()
    sys.excepthook = _tell
