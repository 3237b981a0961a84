"""Stop signals as a flag: work ends at the next safe point, with its state saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Whether a stop signal has come; a second one leaves at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    with on_stop(note):
        yield lambda: bool(received)


@contextmanager
def on_stop(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle stop signals within a block; outside the main thread, where none come, nothing."""
    try:
        old = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    except ValueError:
        old = {}
    try:
        yield
    finally:
        for number, handled in old.items():
            signal.signal(number, handled)


@contextmanager
def held_stop_signals() -> Iterator[None]:
    """Hold back stop signals from this thread; processes started meanwhile never receive any.

    A terminal sends ^C to all processes of a run: only the main one answers it.
    """
    resource_tracker.ensure_running()  # else it starts with the process and lifts the mask again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
