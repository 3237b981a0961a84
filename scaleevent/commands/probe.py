"""`scaleevent probe`: a linear head on the frozen encoder; its features are computed once."""

from __future__ import annotations

from scaleevent.commands.task_run import run_task
from scaleevent.config.downstream import ProbeConfig
from scaleevent.system.reports import Report


def run(cfg: ProbeConfig, quiet: bool = False) -> Report:
    """See `scaleevent.commands.task_run.run_task`."""
    return run_task(cfg.as_finetuning(), "probe", quiet, record=cfg)
