"""`scaleevent probe`: a linear head on the frozen encoder; its features are computed once."""

from __future__ import annotations

from scaleevent.benchmarks.task_report import TaskResult
from scaleevent.commands.task_run import run_task
from scaleevent.config.downstream import ProbeConfig
from scaleevent.system.random_state import kept_random_state


@kept_random_state()
def run(cfg: ProbeConfig, quiet: bool = True) -> TaskResult:
    """Train a linear head on a frozen encoder, and score it on the test set.

    Args:
        cfg: All settings.
        quiet: No progress on stderr.

    Returns:
        The scores beside baselines and published ones; with several ranks, on the first of them.

    Raises:
        ConfigError: Settings, checkpoint and data that do not fit each other.
        DataError: Data or a checkpoint that are damaged, or of another kind.
        DivergedError: A loss that is not finite.
        StoppedError: A stop signal came; the state is saved.
    """
    return run_task(cfg.as_finetuning(), "probe", quiet, record=cfg)
