"""`scaleevent finetune`: train a task model on a benchmark, encoder included."""

from __future__ import annotations

from scaleevent.commands.task_run import run_task
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.system.reports import Report


def run(cfg: FinetuneConfig, quiet: bool = False) -> Report:
    """See `scaleevent.commands.task_run.run_task`."""
    return run_task(cfg, "finetune", quiet)
