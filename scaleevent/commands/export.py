"""`scaleevent export`: a checkpoint as files for other programs."""

from __future__ import annotations

from scaleevent.config.export import ExportConfig
from scaleevent.deployment.artifact import write_checked
from scaleevent.deployment.artifacts import artifacts, writable
from scaleevent.deployment.parity import Parity
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.deployment.results import write_results
from scaleevent.system.reports import Report, progress


def run(cfg: ExportConfig, quiet: bool = False) -> Report:
    """Write a checkpoint in the requested formats, each file checked before it is kept.

    Args:
        cfg: All settings.
        quiet: No progress on stderr.

    Returns:
        The files with the measured differences.

    Raises:
        MissingPackageError: The format asked for needs a package that is not installed; of all
            formats such a one is left out, and said.
        CheckpointError: Not a checkpoint, a format that the model cannot be converted to, or a file
            that computes something else; then no file is left.
        EnvironmentProblem: A checkpoint on the hub cannot be fetched.
    """
    formats, missing = writable(cfg.format)
    cfg.check()
    checkpoint = LoadedCheckpoint(cfg.checkpoint, cfg.size, offline=cfg.offline)
    files = artifacts(checkpoint, formats)
    with cfg.claimed():
        with progress("export", len(files), "files", not quiet) as ticker:
            parity = Parity(checkpoint.predictor.settings)
            differences = write_checked(files, cfg.out, parity, ticker.advance)
        left = missing if cfg.format == "all" else {}
        return write_results(checkpoint, files, differences, cfg.out, left, cfg.with_origins())
