"""Imported first by the process that forks loader workers: it ends with its parent, in silence."""

import os
import sys
from types import TracebackType

from scaleevent.system.platform import end_with_starter

_SERVER = os.getpid()


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error, unless the server is dead: a fork then lacks what it needs, unmissed."""
    if _SERVER in (os.getpid(), os.getppid()):
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == "-c":  # as multiprocessing starts it
    end_with_starter()
    sys.excepthook = _tell
