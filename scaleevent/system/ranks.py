"""Ranks: one process, torchrun's, SLURM's, or N that we launch ourselves."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scaleevent.errors import ConfigError, EnvironmentProblem, ScaleEventError, StoppedError
from scaleevent.system.launchers import LAUNCHER, Place, find_place
from scaleevent.system.platform import wake
from scaleevent.system.reports import remark
from scaleevent.system.signals import on_stop
from scaleevent.system.workers import describe

PATIENCE = timedelta(hours=1)  # of ranks that wait for the main one: it downloads, renders, checks
MEETING_SECONDS = 600  # in which all processes of a run must have started
SILENT_SECONDS = 5  # of waiting for others, before it is said
SHUTDOWN_SECONDS = 300  # for ranks to save a large state after a stop signal
LEAVE_SECONDS = 10  # for ranks to leave by themselves after another one has died
POLL_SECONDS = 0.1
TOLD = "told"  # key of the store: how many processes had something to say about the end
LOST = re.compile(  # what gloo, NCCL and the store say when another process is gone
    r"gloo|nccl|TCPStore|Connection (closed|reset)|Broken pipe|Socket (closed|Timeout)", re.I
)
GO_ON = "the same command with --resume goes on (eval: the same command again)"


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of a run."""

    rank: int  # index of this process
    world: int  # number of processes
    device: torch.device  # where this process computes

    @property
    def main(self) -> bool:
        """True on rank 0, which alone writes files and logs."""
        return self.rank == 0

    @property
    def on_gpu(self) -> bool:
        """Whether this process computes on a GPU."""
        return self.device.type == "cuda"

    def mean(self, values: Sequence[float | Tensor]) -> list[float]:
        """Element-wise mean over the ranks."""
        return [value / self.world for value in self.sum(values)]

    def sum(self, values: Sequence[float | Tensor]) -> list[float]:
        """Element-wise sum over the ranks."""
        stacked = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64, device=self.device).detach() for v in values]
        )
        if self.world > 1:
            dist.all_reduce(stacked)
        return stacked.tolist()

    def any(self, *flags: bool) -> list[bool]:
        """Which of the flags are set on any rank."""
        return [count > 0 for count in self.sum([float(flag) for flag in flags])]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors on all ranks with those of rank 0."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, values: list[Any]) -> list[Any]:
        """The concatenated lists of all ranks, on every rank."""
        if self.world == 1:
            return values
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]

    def loader_workers(self, asked: int | None) -> int:
        """Number of loader processes: as asked, else none on a CPU and up to 8 for a GPU."""
        if asked is not None:
            return asked
        return min(8, (os.cpu_count() or 1) // self.world) if self.on_gpu else 0

    def wait(self) -> None:
        """Block until all ranks arrive."""
        if self.world > 1:
            dist.barrier()


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU if there is one.

    Raises:
        ConfigError: Not a device that we compute on.
        EnvironmentProblem: The device is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name, re.ASCII):
        raise ConfigError(
            "no such device", where="--device", found=name, expected="auto, cpu, cuda or cuda:N"
        )
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("no CUDA device here", found=name, hint="--device cpu")
    if device.type == "cuda":
        _check_index(device.index or 0, name)
    return device


def _check_index(number: int, where: object) -> None:
    """Raise if the GPU index does not exist."""
    found = torch.cuda.device_count()
    if number >= found:
        raise EnvironmentProblem(
            "no GPU of this number here",
            where=where,
            found=f"GPU {number}",
            expected=f"0 to {found - 1}",
        )


@contextmanager
def ranks(device_name: str) -> Iterator[Ranks]:
    """Join the ranks of an outer launcher, or be the only one.

    Where a run has several processes, its error is printed by one of them: the first to fail.
    """
    place = find_place()
    device = choose_device(device_name)
    if place.world == 1:
        yield Ranks(0, 1, device)
        return
    store = _meeting_point(place)
    try:
        if device.type == "cuda":
            device = torch.device("cuda", place.local)
            _check_index(device.index, "LOCAL_RANK")
            torch.cuda.set_device(device)
        _wait_for_all(store, place)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.world,
            timeout=PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )
        yield Ranks(place.rank, place.world, device)
    except Exception as error:
        _end(error, store, place)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _end(error: Exception, store: dist.Store, place: Place) -> None:
    """End this rank: it raises or prints the error if it is the first of all, else it is silent.

    Raises:
        Exception: The error, or what it means where another process is gone.
        SystemExit: The error is told.
    """
    lost = isinstance(error, RuntimeError) and LOST.search(str(error))
    if lost and LAUNCHER in os.environ:  # which knows who, and how
        raise SystemExit(EnvironmentProblem.exit_code)
    if lost:
        error = EnvironmentProblem(
            "another process of this run is gone, or cannot be reached",
            where=f"rank {place.rank} of {place.world}",
            found=str(error).splitlines()[0].partition(". This is")[0],  # gloo goes on at length
            hint=f"its launcher says which; {GO_ON}",
        )
    try:
        first = store.add(TOLD, 1) == 1
    except RuntimeError:  # the process that kept the count is gone
        first = True
    code = error.exit_code if isinstance(error, ScaleEventError) else 1
    if first and isinstance(error, ScaleEventError):
        print(error, file=sys.stderr, flush=True)
    if first and not isinstance(error, ScaleEventError):
        raise error
    raise SystemExit(code)


def _meeting_point(place: Place) -> dist.Store:
    """The store where all ranks count themselves, kept by the launcher or by rank 0.

    Raises:
        EnvironmentProblem: It cannot be had.
    """
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by the launcher
    where = f"{place.host}:{place.port}"
    began, said = time.monotonic(), False
    while place.rank or kept:
        try:
            socket.create_connection((place.host, place.port), timeout=1).close()
            break
        except socket.gaierror as error:
            raise EnvironmentProblem("no such host", where=f"MASTER_ADDR={place.host}",
                                     found=error.strerror) from None  # fmt: skip
        except OSError:
            said = _waited(began, said, f"waiting for rank 0 of {place.world} at {where}", where)
    try:
        store = dist.TCPStore(
            place.host, place.port, is_master=not (place.rank or kept), wait_for_workers=False
        )
    except RuntimeError as error:
        raise EnvironmentProblem(
            "cannot meet the other processes of this run",
            where=where,
            found=str(error).splitlines()[0],
            hint="choose another MASTER_PORT",
        ) from None
    # torchrun starts ranks anew that failed
    return dist.PrefixStore(f"scaleevent/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _wait_for_all(store: dist.Store, place: Place) -> None:
    began, said, joined = time.monotonic(), False, store.add("joined", 1)
    while joined < place.world:
        if store.add(TOLD, 0):  # one has failed before it could join
            raise SystemExit(EnvironmentProblem.exit_code)
        line = f"waiting for {place.world - joined} of {place.world} ranks"
        where = f"{place.host}:{place.port}"
        said = _waited(began, said, f"{line} at {where}", where) or place.rank > 0
        joined = store.add("joined", 0)


def _waited(began: float, said: bool, line: str, where: str) -> bool:
    """A moment's wait for others, said once; whether it has been."""
    waited = time.monotonic() - began
    if waited > MEETING_SECONDS:
        raise EnvironmentProblem(
            "not all processes of this run have come",
            where=where,
            found=f"{line} for {MEETING_SECONDS} s",
            hint="check that all tasks were started, with the same MASTER_ADDR and MASTER_PORT",
        )
    if waited > SILENT_SECONDS and not said:
        remark(line)
        said = True
    time.sleep(POLL_SECONDS)
    return said


def launch(processes: int, device_name: str, command: Sequence[str], instead: str) -> int:
    """Run a command on so many ranks of this machine, and wait for their exit code.

    Raises:
        EnvironmentProblem: Fewer GPUs than asked for (`instead` runs on this machine), or a rank
            died without a word.
        StoppedError: The ranks had to be ended after a stop signal.
    """
    device = choose_device(device_name)
    found = torch.cuda.device_count()
    if device_name != "cpu" and found < processes:
        raise EnvironmentProblem(
            "fewer GPUs than asked for",
            where="--gpus",
            found=f"{found} GPU{'' if found == 1 else 's'} on this machine",
            expected=f"{processes}",
            hint=f"this runs here: {instead}",
        )
    if device.type == "cpu" and processes > 64:
        raise ConfigError("too many processes for one machine", where="--gpus", found=processes)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(1, (os.cpu_count() or 1) // processes)
    shared = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ} | {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        LAUNCHER: str(os.getpid()),
    }
    received: list[int] = []
    started: list[subprocess.Popen[bytes]] = []
    with on_stop(lambda number, frame: received.append(number)):
        try:
            for rank in map(str, range(processes)):
                # a session of its own: ^C reaches it once, through us
                started.append(
                    subprocess.Popen(
                        command, env=shared | {"RANK": rank, "LOCAL_RANK": rank},
                        start_new_session=True,
                    )
                )  # fmt: skip
            failed = _until_gone(started, received)
        finally:
            for process in started:
                process.kill()  # nothing, where it is gone
                process.wait()
    told = dist.PrefixStore("scaleevent/0", store).add(TOLD, 0)
    return _exit_code(started, failed, bool(told), received)


def _until_gone(
    ranks: Sequence[subprocess.Popen[bytes]], received: Sequence[int]
) -> dict[int, int]:
    """Wait for all ranks, passing stop signals on; the failed ones and their codes, in order.

    It does not wait for ever for those that outlive a failed one, or a stop.
    """
    failed: dict[int, int] = {}
    passed, end, running = 0, float("inf"), True
    while running and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        codes = [process.poll() for process in ranks]
        running = None in codes
        failed |= {rank: code for rank, code in enumerate(codes) if code and rank not in failed}
        if failed:
            end = min(end, time.monotonic() + LEAVE_SECONDS)
        if len(received) > passed:
            for process in ranks:
                if process.poll() is None:
                    wake(process.pid)
                    process.send_signal(received[passed])
            passed += 1
            wait = SHUTDOWN_SECONDS if passed == 1 else LEAVE_SECONDS
            end = min(end, time.monotonic() + wait)
    return failed


def _exit_code(
    ranks: Sequence[subprocess.Popen[bytes]],
    failed: dict[int, int],
    told: bool,
    received: Sequence[int],
) -> int:
    """The exit code of a run from those of its ranks; what none of them has said is raised."""
    codes = [process.returncode for process in ranks]
    if not any(codes):
        return 0
    if received and not told:
        said = StoppedError.exit_code, *(128 + number for number in received)
        if codes[0] in said:
            return codes[0]
        raise StoppedError("stopped on request; what was saved is kept", hint=GO_ON)
    if told:
        own = (c for c in failed.values() if c > 0 and c != EnvironmentProblem.exit_code)
        return next(own, EnvironmentProblem.exit_code)
    killed = (rank for rank, code in failed.items() if code < 0)
    rank = next(killed, next(iter(failed)))
    raise EnvironmentProblem(
        "a process of this run died",
        where=f"rank {rank} of {len(ranks)}",
        found=describe(ranks[rank].pid, failed[rank]),
        hint=f"usually memory; use a smaller --batch or fewer --workers; {GO_ON}",
    )
