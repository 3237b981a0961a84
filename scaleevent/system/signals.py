"""Stop signals as a flag: work ends at the next safe point, with its state saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from scaleevent.errors import StoppedError
from scaleevent.system.platform import STOP_SIGNALS

Handler = Callable[[int, FrameType | None], None]
_claimed: list[tuple[Path, str]] = []  # output folders of this process, and how to go on there


def note_claim(folder: Path, hint: str) -> None:
    """From now on a stop leaves a part of an output, with which `hint` says how to go on."""
    _claimed.append((folder, hint))


def forget_claim(folder: Path) -> None:
    """That folder is finished, and a stop from now on leaves no part of an output there."""
    _claimed[:] = [claim for claim in _claimed if claim[0] != folder]


class StopSignal(BaseException):
    """A stop signal where no safe point is near: raised wherever the program is."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    def told(self) -> tuple[str, int]:
        """The message and the exit code: as a shell has it, unless there is something to resume."""
        if not _claimed:
            return str(self), 128 + self.number
        folder, hint = _claimed[-1]
        error = StoppedError(f"{self}; what is finished is kept", where=folder, hint=hint)
        return str(error), error.exit_code


def raise_stop_signals() -> None:
    """From now on a stop signal raises `StopSignal`; nothing is claimed yet."""
    _claimed.clear()
    _handle_stop(_raise)


def ignore_stop_signals() -> None:
    """From now on stop signals change nothing: the program is ending."""
    _handle_stop(signal.SIG_IGN)


class Stop:
    """Whether a stop signal has come, within `stop_requested`."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._waiting = False

    def __call__(self) -> bool:
        """Whether one has come."""
        return bool(self.received)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.received.append(number)
        if self._waiting or len(self.received) > 1:
            _raise(number, frame)

    @contextmanager
    def while_waiting(self, may_raise: bool = True) -> Iterator[None]:
        """A block that a stop signal ends at once: while it waits there is nothing to lose.

        Raises:
            StopSignal: One came, here or before.
        """
        self._waiting = may_raise
        try:
            if may_raise and self.received:
                raise StopSignal(self.received[0])
            yield
        finally:
            self._waiting = False


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """Note stop signals instead of acting on them; a second one leaves at once.

    One that was noted too late for the block takes effect after it.
    """
    stop = Stop()
    with on_stop(stop.note):
        yield stop
    if stop():
        signal.raise_signal(stop.received[0])


@contextmanager
def on_stop(handler: Handler) -> Iterator[None]:
    """Handle stop signals within a block; outside the main thread, where none come, nothing."""
    try:
        old = _handle_stop(handler)
    except ValueError:
        old = {}
    try:
        yield
    finally:
        for number, handled in old.items():
            signal.signal(number, handled)


def _handle_stop(handler: Handler | signal.Handlers) -> dict[int, Handler | int | None]:
    """Handle every stop signal, but not SIGHUP under nohup; returns the handlers until now."""
    found = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    nohup = [
        number for number in found if number != signal.SIGINT and found[number] == signal.SIG_IGN
    ]
    return {n: signal.signal(n, handler) for n in found if n not in nohup}


def _raise(number: int, frame: FrameType | None) -> None:
    raise StopSignal(number)
