"""Who started this process, and as which of how many: told by complete sets of variables.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, and so does `--gpus N`.
srun sets SLURM_STEP_ID, SLURM_PROCID, SLURM_LOCALID and a number of tasks; an allocation's shell or
batch script has no SLURM_STEP_ID, or one of SLURM's own, and is one process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from scaleevent.errors import EnvironmentProblem

LAUNCHER = "SCALEEVENT_LAUNCHER"  # process id of the `--gpus N` that started this rank
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
FIRST_SHELL_STEP = 0xFFFFFFF0  # step numbers from here on are SLURM's own: batch, interactive


@dataclass(frozen=True)
class Place:
    """One process among those of a run."""

    rank: int  # index of this process
    world: int  # number of processes
    local: int  # index among those of this machine
    here: int  # number of processes of this machine, as far as is known; else all
    host: str = ""  # where the processes meet, unless there is only one
    port: int = 0


def find_place() -> Place:
    """This process's place in its run, from the environment.

    Raises:
        EnvironmentProblem: A set of variables that is not complete, or makes no sense.
    """
    names = _names()
    if names is None:
        return Place(0, 1, 0, 1)
    rank, world, local = (_number(name) for name in names)
    if rank >= world:
        raise EnvironmentProblem(
            "a process outside its run",
            where=names[0], found=rank, expected=f"less than {names[1]}, which is {world}",
        )  # fmt: skip
    if world == 1:
        return Place(0, 1, local, 1)
    _require(
        ADDRESS,
        f"{world} processes need an address to meet at",
        "export MASTER_ADDR=$(scontrol show hostnames | head -n 1) MASTER_PORT=29500"
        if names[0] != "RANK"
        else "start with torchrun, which sets it",
    )
    here = _number("LOCAL_WORLD_SIZE") if os.environ.get("LOCAL_WORLD_SIZE") else world
    return Place(rank, world, local, here, os.environ["MASTER_ADDR"], _number("MASTER_PORT"))


def speaks_for_all() -> bool:
    """Whether this process tells of an error that all processes of a run meet alike."""
    return "RANK" not in os.environ or first_of_run()


def first_of_run() -> bool:
    """Whether this process is the one of its run that writes files."""
    try:
        return find_place().rank == 0
    except EnvironmentProblem:
        return True


def _names() -> tuple[str, str, str] | None:
    """The variables that hold rank, number of ranks and local rank, if somebody started ranks."""
    if "RANK" not in os.environ and {"SLURM_STEP_ID", "SLURM_PROCID"} <= os.environ.keys():
        if _number("SLURM_STEP_ID") >= FIRST_SHELL_STEP:
            return None
        per_step = "SLURM_STEP_NUM_TASKS"  # SLURM_NTASKS may be the allocation's
        tasks = per_step if per_step in os.environ else "SLURM_NTASKS"
        _require((tasks, "SLURM_LOCALID"), "a part of what srun sets is missing")
        return "SLURM_PROCID", tasks, "SLURM_LOCALID"
    if not any(name in os.environ for name in TORCHRUN):
        return None
    found = " ".join(name for name in TORCHRUN if name in os.environ)
    _require(
        TORCHRUN,
        "a part of what torchrun sets is missing",
        f"start with torchrun or --gpus; for one process: unset {found}",
    )
    return TORCHRUN


def _require(names: tuple[str, ...], what: str, hint: str | None = None) -> None:
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        found = (f"{n}={os.environ[n]}" for n in names if n in os.environ)
        raise EnvironmentProblem(
            what,
            where="environment variables",
            found=", ".join(found) or None,
            expected=f"{', '.join(missing)} too",
            hint=hint,
        )


def _number(name: str) -> int:
    """A variable that counts something."""
    text = os.environ[name]
    if not (text.isascii() and text.isdigit()):
        raise EnvironmentProblem("not a number", where=name, found=text, expected="0, 1, 2, ...")
    return int(text)
