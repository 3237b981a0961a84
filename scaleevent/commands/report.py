"""`scaleevent report`: runs as one page."""

from __future__ import annotations

from scaleevent.config.report import ReportConfig
from scaleevent.reporting.page import check_free, write_page
from scaleevent.reporting.runs import read_runs
from scaleevent.system.reports import Report


def run(cfg: ReportConfig, quiet: bool = False) -> Report:
    """Write the page; the report lists the runs in it.

    Raises:
        ConfigError: A run is named twice.
        DataError: A folder is nothing of ours, or damaged.
        EnvironmentProblem: Something else is at the place of the page.
    """
    check_free(cfg.out, cfg.overwrite)
    runs = read_runs(cfg.runs)
    size = write_page(cfg.out, runs, cfg.overwrite)
    rows = tuple((run.name, run.command, run.state) for run in runs)
    notes = (f"page: {cfg.out} ({size / 1e6:.1f} MB); open it in a browser, no network needed",)
    facts = {"page": str(cfg.out), "bytes": size}
    return Report("report", "report", ("run", "command", "state"), rows, notes, facts)
