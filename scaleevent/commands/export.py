"""`scaleevent export`: a checkpoint as files for other programs."""

from __future__ import annotations

from scaleevent.config.export import ExportConfig
from scaleevent.config.settings import keep_settings
from scaleevent.deployment.artifacts import artifacts, writable, write_checked
from scaleevent.deployment.model_card import model_card
from scaleevent.deployment.parity import INPUTS, TOLERANCE, Parity
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.errors import MissingPackageError
from scaleevent.system.files import Json, sha256_file, write_bytes, write_json
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
    """
    formats, missing = writable(cfg.format)
    cfg.check()
    checkpoint = LoadedCheckpoint(cfg.checkpoint, cfg.size)
    files = artifacts(checkpoint, formats)
    with cfg.claimed():
        with progress("export", len(files), "files", not quiet) as ticker:
            parity = Parity(checkpoint.predictor.settings)
            differences = write_checked(files, cfg.out, parity, ticker.advance)
        entries: dict[str, Json] = {
            file.name: {
                "format": file.format,
                "bytes": (cfg.out / file.name).stat().st_size,
                "sha256": sha256_file(cfg.out / file.name),
                "samples": "any" if file.any_batch else 1,
                "difference": differences[file.name],
            }
            for file in files
        }
        left = {name: error for name, error in missing.items() if cfg.format == "all"}
        report = _report(cfg, checkpoint.about, entries, left)
        write_bytes(cfg.out / "README.md", model_card(checkpoint, entries).encode())
        keep_settings(cfg, cfg.out)
        write_json(cfg.out / "export.json", report.to_json())
    return report


def _report(
    cfg: ExportConfig, model: Json, entries: dict[str, Json], left: dict[str, MissingPackageError]
) -> Report:
    rows = tuple(
        (name, entry["format"], entry["samples"], entry["bytes"] / 1e6, entry["difference"])
        for name, entry in entries.items()
    )
    notes = (
        f"difference: the largest from the checkpoint on {INPUTS} inputs, one of them empty, as a "
        f"fraction of its largest output; at most {TOLERANCE:g}",
        f"folder: {cfg.out}",
        *(f"left out: {error.what}; {error.hint}" for error in left.values()),
    )
    facts = {"checkpoint": str(cfg.checkpoint), "model": model, "files": entries}
    facts["left_out"] = sorted(left)
    columns = ("file", "format", "samples at once", "MB", "difference")
    return Report("export", f"export of {cfg.checkpoint}", columns, rows, notes, facts)
