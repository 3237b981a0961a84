"""Workers of a Dask cluster as an executor: `--dask tcp://HOST:8786`.

Tasks and results travel as pickles, as all that Dask sends, so the network must be a trusted one.
A task whose worker died runs again on another one, which the tasks of `prepare` are made for.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from scaleevent.errors import EnvironmentProblem, MissingPackageError, ScaleEventError
from scaleevent.version import __version__

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as RemoteFuture

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS, JOIN_SECONDS = 10.0, 30.0
PACKAGES = ("numpy", "numba", "h5py", "hdf5plugin", "Pillow", "av", "aedat", "rosbags")
SEEN = 100  # files that are compared, at most
SAME = "the same versions of Python and packages on all workers and here"
SHARED = "folders that all workers have, by the same absolute paths"


@dataclass(frozen=True)
class Surroundings:
    """What a worker must have as the process that hands out the work: software, files."""

    software: tuple[tuple[str, str], ...]  # names and versions
    files: tuple[tuple[str, int, int], ...]  # paths, sizes, times of change in ns

    @classmethod
    def here(cls, files: Sequence[Path]) -> Surroundings:
        """Of this process, with some files that its tasks read or find in their folder."""
        seen = files[:: max(1, -(-len(files) // SEEN))]
        return cls(software(), tuple((str(path), *_looks(path)) for path in seen))

    def problem(self) -> EnvironmentProblem | None:
        """What this process has otherwise."""
        own = dict(software())
        other = [(name, own.get(name, "none"), text) for name, text in self.software]
        other = [one for one in other if one[1] != one[2]]
        if other:
            return EnvironmentProblem(
                "a Dask worker has other software, which may make other bytes",
                found=", ".join(f"{name} {text}" for name, text, _ in other),
                expected=", ".join(f"{name} {text}" for name, _, text in other),
                hint=SAME,
            )
        for path, *looks in self.files:
            try:
                found = _looks(Path(path))
            except OSError as error:
                return EnvironmentProblem(
                    "a Dask worker does not see a file",
                    found=f"{error.strerror} in {os.getcwd()}", expected=path, hint=SHARED,
                )  # fmt: skip
            if list(found) != looks:
                return EnvironmentProblem(
                    "a Dask worker sees another file of this name",
                    found=f"{path}, {found[0]:,} bytes", expected=f"{looks[0]:,} bytes, as here",
                    hint=SHARED,
                )  # fmt: skip
        return None


@cache
def software() -> tuple[tuple[str, str], ...]:
    """Names and versions of what may shape a byte; of this package the hash of its code too."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(path.read_bytes())
    found = {
        "Python": platform.python_version(),
        "scaleevent": f"{__version__} ({code.hexdigest()[:8]})",
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return tuple(found.items())


class DaskExecutor(Executor):
    """Runs tasks on the workers of a Dask scheduler.

    Args:
        address: Of the scheduler, such as tcp://10.0.0.1:8786.
        files: What every worker must see as this process does, see `Surroundings`.

    Raises:
        MissingPackageError: Dask is not installed.
        EnvironmentProblem: No scheduler there, no worker, or workers that cannot do the work alike.
    """

    def __init__(self, address: str, files: Sequence[Path]) -> None:
        try:
            import distributed
        except ImportError as error:
            raise MissingPackageError("distributed", "dask", "--dask") from error
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it tells is told here
        self._surroundings = Surroundings.here(files)
        self._remote: dict[object, RemoteFuture[Any]] = {}  # by future, the unfinished ones
        _ask_scheduler(address)
        self._client: Client = distributed.Client(
            address, timeout=CONNECT_SECONDS, set_as_default=False
        )
        try:
            self._check_workers(address)
        except BaseException:
            self._client.close()
            raise

    def _check_workers(self, address: str) -> None:
        """Refuse a cluster that has no worker, or one that would not do the work alike."""
        try:
            self._client.wait_for_workers(1, timeout=JOIN_SECONDS)
        except TimeoutError:
            raise EnvironmentProblem(
                "the Dask scheduler has no workers", where=address,
                hint=f"start some with `dask worker {address} --nthreads 1 --nworkers auto`",
            ) from None  # fmt: skip
        told = self._client.run(self._surroundings.problem, on_error="return")
        bad = {worker: problem for worker, problem in told.items() if problem is not None}
        for worker, problem in bad.items():
            if not isinstance(problem, ScaleEventError):
                problem = EnvironmentProblem(
                    "a Dask worker cannot run scaleevent", found=_first_line(problem), hint=SAME
                )
            problem.where = f"worker {worker}, one of {len(bad)} such of {len(told)}"
            raise problem

    def submit(self, task: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a task; the task, its arguments and its result must be picklable.

        The future raises what the task raised, or `BrokenExecutor` if several workers died of the
        task, or the scheduler did.
        """
        local: Future[T] = Future()
        # looked at again on the worker: it may have joined later
        work = partial(_run, self._surroundings, partial(task, *args, **kwargs))
        remote: RemoteFuture[T] = self._client.submit(work, pure=False)
        self._remote[local] = remote  # Dask forgets a task that nobody holds
        remote.add_done_callback(partial(self._pass_on, local))
        return local

    def _pass_on(self, local: Future[T], remote: RemoteFuture[T]) -> None:
        """Hand the outcome of a task over to those who wait for it."""
        self._remote.pop(local, None)
        if not local.set_running_or_notify_cancel():
            return
        try:
            if remote.status not in ("finished", "error"):  # cancelled by others, or lost
                raise BrokenExecutor("the connection to the Dask scheduler is lost")
            local.set_result(remote.result())
        except Exception as error:
            killed = type(error).__name__ in ("KilledWorker", "CancelledError")
            local.set_exception(BrokenExecutor(_first_line(error)) if killed else error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; the workers go on for others.

        Args:
            wait: Return only when all tasks are done.
            cancel_futures: Cancel waiting tasks; Dask cannot end one that runs.
        """
        if cancel_futures and self._remote:
            self._client.cancel(list(self._remote.values()), force=True)
        elif wait:
            for remote in list(self._remote.values()):
                with suppress(Exception):  # that of a task, which its future tells
                    remote.result()
        self._client.close(timeout=CONNECT_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


def _ask_scheduler(address: str) -> None:
    """Refuse an address at which no scheduler answers, whatever else does.

    `distributed.Client` is not asked first: at a server of something else it waits for ever, and
    one that failed is finalised when garbage is collected, under a lock that the start of another
    client may hold.
    """
    import distributed

    async def identity() -> Any:
        arguments = distributed.Security().get_connection_args("client")
        async with distributed.rpc(
            address, timeout=CONNECT_SECONDS, connection_args=arguments
        ) as there:
            return await there.identity()

    problem = partial(
        EnvironmentProblem, "no Dask scheduler answers", where=address,
        expected="the address that `dask scheduler` prints, such as tcp://10.0.0.1:8786",
    )  # fmt: skip
    try:
        found = asyncio.run(asyncio.wait_for(identity(), 2 * CONNECT_SECONDS))
    except TimeoutError:
        raise problem(found="silence") from None
    except (OSError, ValueError, TypeError) as error:
        raise problem(found=_first_line(error)) from None
    if found.get("type") != "Scheduler":
        raise problem(found=f"a Dask {str(found.get('type')).lower()}")


def _run(surroundings: Surroundings, task: Callable[[], T]) -> T:
    """On a worker: a task, unless this worker would not do it as others do."""
    problem = surroundings.problem()
    if problem is not None:
        problem.where = platform.node()
        raise problem
    return task()


def _looks(path: Path) -> tuple[int, int]:
    """Size and time of change of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _first_line(error: object) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
