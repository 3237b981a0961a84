"""`scaleevent report`: runs as one page."""

from __future__ import annotations

from pathlib import Path

from scaleevent.config.report import ReportConfig
from scaleevent.reporting.page import PageResult, check_free, write_page
from scaleevent.reporting.plots import check_matplotlib, write_plots
from scaleevent.reporting.runs import CURVES, read_runs
from scaleevent.system.files import claimed_folder
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.reports import counted


@kept_random_state()
def run(cfg: ReportConfig, quiet: bool = True) -> PageResult:
    """Write the page; the report lists the runs in it.

    Args:
        cfg: All settings.
        quiet: Unused, since there is no progress to show.

    Raises:
        ConfigError: A run is named twice.
        DataError: A folder is nothing of ours, or damaged.
        EnvironmentProblem: Something else is at the place of the page or the curves.
        MissingPackageError: Curves as pictures are asked for, and matplotlib is not installed.
    """
    check_free(cfg.out, cfg.overwrite)
    runs = read_runs(cfg.runs)
    plots: list[Path] = []
    if cfg.curves is not None:
        check_matplotlib()
        with claimed_folder(cfg.curves, CURVES, resume=False, overwrite=cfg.overwrite):
            plots = write_plots(cfg.curves, runs)
    size = write_page(cfg.out, runs, cfg.overwrite)
    rows = tuple((run.name, run.command, run.state) for run in runs)
    notes = [f"page: {cfg.out} ({size / 1e6:.1f} MB); open it in a browser, no network needed"]
    notes += [f"curves: {counted(len(plots), 'picture')} in {cfg.curves}"] if plots else []
    return PageResult(
        "report", "report", ("run", "command", "state"), rows, tuple(notes),
        page=cfg.out, bytes=size, curves=tuple(plots),
    )  # fmt: skip
