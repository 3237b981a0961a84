"""The program, also as `python -m scaleevent`: what holds from its first moment on."""

from __future__ import annotations

import os
import sys

from scaleevent.system.launchers import LAUNCHER, speaks_for_all
from scaleevent.system.signals import StopSignal, ignore_stop_signals, raise_stop_signals
from scaleevent.system.workers import end_with_launcher


def main() -> None:
    """Run a command line; a stop signal is answered from here on, and ends in an exit code."""
    raise_stop_signals()
    _let_idle_threads_sleep()
    try:
        _end_with_launcher()
        from scaleevent.cli import main as command_line

        command_line()
    except StopSignal as stop:
        ignore_stop_signals()
        message, code = stop.told()
        if speaks_for_all():
            print(message, file=sys.stderr)
        sys.exit(code)
    finally:
        ignore_stop_signals()


def _let_idle_threads_sleep() -> None:
    """Threads that wait for others leave the core to programs beside this one, after 1,000 turns.

    GNU's OpenMP, which computes for torch, spins 300 times as long: see examples/bench_threads.py.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _end_with_launcher() -> None:
    if LAUNCHER in os.environ:
        end_with_launcher(int(os.environ[LAUNCHER]), ours=True)
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_launcher(os.getppid(), ours=False)


if __name__ == "__main__":
    main()
