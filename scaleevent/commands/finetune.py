"""`scaleevent finetune`: train a task model on a benchmark, encoder included."""

from __future__ import annotations

from scaleevent.commands.task_run import run_task
from scaleevent.system.reports import Report
from scaleevent.task_config import FinetuneConfig


def run(cfg: FinetuneConfig, quiet: bool = False) -> Report:
    """See `scaleevent.commands.task_run.run_task`."""
    return run_task(cfg, "finetune", quiet)
