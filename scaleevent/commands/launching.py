"""`--gpus N`: the same command on N ranks, and what to run where that cannot be."""

from __future__ import annotations

import tempfile

import torch

from scaleevent.config.catalog import DEFAULT_ARCHITECTURE
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.config.run import ComputeSettings
from scaleevent.config.settings import dump_yaml
from scaleevent.system.ranks import launch, launched


def launch_ranks(command: str, cfg: ComputeSettings, as_json: bool) -> int | None:
    """Run `--gpus` ranks of a command if that takes a launch; their exit code."""
    processes = getattr(cfg, "gpus", 1)
    if processes == 1 or launched():
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(dump_yaml(cfg))
        file.flush()
        arguments = [command, "--config", file.name, *(["--json"] if as_json else [])]
        return launch(processes, cfg.device, arguments, runs_here(command, cfg))


def runs_here(command: str, cfg: ComputeSettings) -> str:
    """A command that needs no more GPUs than there are."""
    found = torch.cuda.device_count()
    if not isinstance(cfg, PretrainConfig):
        return f"scaleevent {command} with --gpus {max(1, found)}"
    arch = cfg.arch or DEFAULT_ARCHITECTURE
    return cfg.command(f"--arch {arch} --gpus {found}") if found else cfg.command()
