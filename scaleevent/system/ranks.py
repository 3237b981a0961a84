"""Ranks: one process, torchrun's, SLURM's, or N that we launch ourselves."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scaleevent.errors import ConfigError, EnvironmentProblem
from scaleevent.system.signals import on_stop

EXIT_FILE = "SCALEEVENT_EXIT_FILE"  # where rank 0 leaves its exit code for the launcher
SHUTDOWN_SECONDS = 300  # time for ranks to save a large state after a stop signal
PATIENCE = timedelta(hours=1)  # of ranks that wait for the main one: it downloads, renders, checks


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

    def any(self, flag: bool) -> bool:
        """True if the flag is set on any rank."""
        return self.sum([float(flag)])[0] > 0

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


def launched() -> bool:
    """Whether an outer launcher (torchrun, srun) has set up ranks for us."""
    return "RANK" in os.environ or "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU if there is one.

    Raises:
        EnvironmentProblem: The device is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            "no such device", where="--device", found=name, expected="auto, cpu, cuda or cuda:N"
        ) from None
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
    """Join the ranks of an outer launcher, or be the only one."""
    device = choose_device(device_name)
    if not launched():
        yield Ranks(0, 1, device)
        return
    if "RANK" not in os.environ:  # srun without torchrun
        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise EnvironmentProblem(
                "ranks started by srun need an address to meet at",
                expected="MASTER_ADDR and MASTER_PORT",
                hint="export MASTER_ADDR=$(scontrol show hostnames | head -n 1) MASTER_PORT=29500",
            )
        os.environ["RANK"] = os.environ["SLURM_PROCID"]
        os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
        os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        _check_index(device.index, "LOCAL_RANK")
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=PATIENCE, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def launch(processes: int, device_name: str, arguments: Sequence[str], instead: str) -> int:
    """Run this command on so many ranks through torchrun, and wait for the exit code.

    Raises:
        EnvironmentProblem: Fewer GPUs than asked for; `instead` runs on this machine.
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
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", f"--shutdown-timeout={SHUTDOWN_SECONDS}",
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",
        "-m", "scaleevent", *arguments,
    ]  # fmt: skip
    threads = max(1, (os.cpu_count() or 1) // processes)
    with tempfile.TemporaryDirectory() as folder:
        exit_file = Path(folder) / "exit-code"  # torchrun itself turns every failure into 1
        own = {"OMP_NUM_THREADS": str(threads), "LOGLEVEL": "ERROR", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        environment = {**own, **os.environ, EXIT_FILE: str(exit_file)}
        # a session of its own: ^C reaches torchrun once, through us, and not every rank beside it
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            with on_stop(lambda number, frame: process.send_signal(number)):
                code = process.wait()
        return int(exit_file.read_text()) if exit_file.exists() else code
