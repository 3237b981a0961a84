"""Bytes as they arrive through standard input or at the end of a growing file."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from scaleevent.errors import ConfigError, DataError, EnvironmentProblem
from scaleevent.live.pace import Timer
from scaleevent.system.platform import windows
from scaleevent.system.refusals import reading, refusal

CHUNK = 1 << 18
"""Most bytes read at once: below one frame's time of the fastest cameras."""

POLL_SECONDS = 0.01  # between two looks at a file that has not grown
WAIT_SECONDS = 0.1  # between two looks at the clock while a pipe is silent


class Silence:
    """Ends a source that has been silent for too long.

    Args:
        timer: The clock.
        seconds: How long a source may say nothing.
        stop: Whether to end now, for another reason.

    Attributes:
        stop: As given; may be set later.
        ended: Whether the silence was too long.
    """

    def __init__(
        self, timer: Timer, seconds: float, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.timer, self.seconds = timer, seconds
        self.stop = stop
        self._heard = timer.now()
        self.ended = False

    def broken(self) -> None:
        """Something has come."""
        self._heard = self.timer.now()

    def over(self) -> bool:
        """Whether to wait no longer."""
        self.ended = self.timer.now() - self._heard > self.seconds
        return self.ended or self.stop()


def standard_input() -> int:
    """The descriptor of standard input.

    Raises:
        ConfigError: It is a terminal, or closed.
    """
    hint = "let a camera's program write into it: PROGRAM | scaleevent .., or a file: < FILE.raw"
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        raise ConfigError("standard input is closed", where="-", hint=hint) from None
    if os.isatty(descriptor):
        raise ConfigError(
            "standard input is a terminal", where="-", expected="a stream of events", hint=hint
        )
    return descriptor


def read_pipe(descriptor: int, silence: Silence, name: str) -> Iterator[bytes]:
    """What comes through a pipe, in pieces of at most `CHUNK` bytes, until it is closed.

    Args:
        descriptor: Open for reading.
        silence: When to stop waiting. On Windows, where nothing tells whether a pipe has something,
            only a closed pipe ends it.
        name: What it is called in messages.

    Raises:
        EnvironmentProblem: It cannot be read.
    """
    while not silence.over():
        try:
            if not windows() and not select.select([descriptor], [], [], WAIT_SECONDS)[0]:
                continue
            data = os.read(descriptor, CHUNK)
        except OSError as error:
            raise _unreadable(error, name) from error
        if not data:
            return
        silence.broken()
        yield data


def follow_file(path: Path, silence: Silence) -> Iterator[bytes]:
    """What a file has, and then what is appended to it, in pieces of at most `CHUNK` bytes.

    Args:
        path: The file; it may be empty as yet.
        silence: When to stop waiting for more, which is the only end.

    Raises:
        DataError: There is no such file, or it has become shorter.
        EnvironmentProblem: It cannot be read.
    """
    if path.is_dir():
        raise DataError("a folder where a growing file is expected", where=path)
    with reading(path, "cannot read the file"), path.open("rb", buffering=0) as file:
        read = 0
        while not silence.over():
            data = file.read(CHUNK)
            if data:
                read += len(data)
                silence.broken()
                yield data
                continue
            if (size := os.fstat(file.fileno()).st_size) < read:
                raise DataError(
                    "the file has become shorter while it was read",
                    where=path,
                    found=f"{size:,} bytes",
                    expected=f"{read:,} or more",
                    hint="another program writes it anew: begin again with the new file",
                )
            silence.timer.sleep(POLL_SECONDS)


def _unreadable(error: OSError, name: str) -> EnvironmentProblem:
    found = error.strerror or str(error)
    return refusal(error, name) or EnvironmentProblem("cannot read", where=name, found=found)
