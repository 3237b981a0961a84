"""`--gpus N`: the same command on N ranks, and what to run where that cannot be."""

from __future__ import annotations

import sys

import torch

from scaleevent.config.catalog import DEFAULT_ARCHITECTURE
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.config.run import ScheduledSettings
from scaleevent.system.launchers import find_place
from scaleevent.system.ranks import launch


def launch_ranks(command: str, cfg: ScheduledSettings) -> int | None:
    """Run `--gpus` ranks of this command line if that takes a launch; their exit code."""
    if find_place().world > 1:
        return None
    same = [sys.executable, "-m", "scaleevent", *sys.argv[1:]]
    return launch(cfg.gpus, cfg.device, same, runs_here(cfg))


def runs_here(cfg: ScheduledSettings) -> str:
    """A command that needs no more GPUs than there are."""
    found = torch.cuda.device_count()
    if not isinstance(cfg, PretrainConfig):
        return f"the same command with --gpus {max(1, found)}"
    arch = cfg.arch or DEFAULT_ARCHITECTURE
    return cfg.command(f"--arch {arch} --gpus {found}") if found else cfg.command()
