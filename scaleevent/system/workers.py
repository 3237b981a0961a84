"""Worker processes: an executor that survives the death of a worker, and an end with the parent."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from types import ModuleType
from typing import ParamSpec, TypeVar

from scaleevent.system.platform import end_with_starter, leave_stop_signals_to_others, signals_held

P = ParamSpec("P")
T = TypeVar("T")

POLL_SECONDS = 0.5


class ProcessExecutor(Executor):
    """Runs every task in one of several processes, which start when they are first needed.

    It differs from `concurrent.futures.ProcessPoolExecutor` in what happens when things go wrong:

    - Every worker has its own pipe, driven by a thread of this process. Workers share no queue,
      lock or semaphore, so a dead one blocks nobody, and only the task it was at fails.
    - `shutdown(cancel_futures=True)` kills the workers at once, whatever they are doing.
    - Workers never receive stop signals, and they end when this process does.
    """

    def __init__(self, workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers)
        self._own = threading.local()  # `worker`: the process that this thread drives, and its pipe
        self._processes: list[BaseProcess] = []
        self._lock = threading.Lock()  # of the list
        self._kill = Finalize(self, kill, (self._processes,), exitpriority=0)  # acts only once

    def submit(self, task: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a task; the task, its arguments and its result must be picklable.

        The future raises what the task raised, or `BrokenExecutor` if its process died.
        """
        return self._threads.submit(self._run, partial(task, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks, and end the workers.

        Args:
            wait: Return only when all threads and processes are gone.
            cancel_futures: Cancel waiting tasks and kill running ones, instead of finishing both.
        """
        self._threads.shutdown(wait and not cancel_futures, cancel_futures=cancel_futures)
        if wait or cancel_futures:
            with self._lock:
                self._kill()
            self._threads.shutdown(wait)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _run(self, task: partial[T]) -> T:
        """Have this thread's worker run a task, and wait for the outcome."""
        message = pickle.dumps(task)
        if not hasattr(self._own, "worker"):
            self._own.worker = self._start(message)
        process, connection = self._own.worker
        try:
            connection.send_bytes(message)
            answer = connection.recv_bytes()
        except (EOFError, OSError):
            del self._own.worker
            process.join()
            raise BrokenExecutor(describe(process.pid, process.exitcode)) from None
        error: Exception | None
        result: T
        error, result = pickle.loads(answer)
        if error is not None:
            raise error
        return result

    def _start(self, first: bytes) -> tuple[BaseProcess, Connection]:
        """A worker that can run a task like the first one, pickled."""
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs,), daemon=True
        )
        with self._lock:
            if not self._kill.still_active():
                raise BrokenExecutor("shut down before the task began")
            try:
                with signals_held(), script_left_out(first):
                    process.start()
            except OSError as error:  # it died at once, or the system refuses another process
                raise BrokenExecutor(f"a process that could not start: {error}") from None
            self._processes.append(process)
        theirs.close()  # now the pipe ends with the process
        return process, ours


_main_module = threading.Lock()  # held by the one who replaces it


@contextmanager
def script_left_out(sent: bytes) -> Iterator[None]:
    """Processes that start inside do not begin with the user's script.

    multiprocessing has every process import the main module first: a script that is not written for
    that would start over in each of them. Only what is defined in the script needs it.

    Args:
        sent: What the processes get, pickled; with a name of the main module in it, they import it.
    """
    with _main_module:
        main = sys.modules["__main__"]
        if b"__main__" not in sent:
            sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def kill(processes: Sequence[BaseProcess]) -> None:
    """End worker processes at once, and wait until they are gone."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def describe(process: int | None, code: int | None) -> str:
    """Name a dead process, such as "process 4711, killed by SIGKILL"."""
    if code is not None and code < 0:
        return f"process {process}, killed by {signal.Signals(-code).name}"
    return f"process {process}, left with exit code {code}"


def _serve(connection: Connection) -> None:
    """In a worker: run tasks as they come."""
    end_with_parent()
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            answer = pickle.dumps((None, pickle.loads(message)()))
        except Exception as error:
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
            answer = pickle.dumps((error, None))
        connection.send_bytes(answer)


def end_with_parent() -> None:
    """In a worker: leave at once when the process that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with_starter()
    _leave_after(parent.join)


def end_with_launcher(launcher: int, ours: bool) -> None:
    """In a rank: leave at once when its launcher is gone, `ours` or torchrun."""
    if ours:
        end_with_starter()

    def wait() -> None:
        while os.getppid() == launcher:
            time.sleep(POLL_SECONDS)

    _leave_after(wait)


def _leave_after(wait: Callable[[], object]) -> None:
    def leave() -> None:
        leave_stop_signals_to_others()
        wait()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
