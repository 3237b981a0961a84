"""What an export leaves beside its files: their entries, README.md, config.json, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaleevent.deployment.artifact import Artifact
from scaleevent.deployment.hub_folder import hub_config, hub_notes
from scaleevent.deployment.model_card import model_card
from scaleevent.deployment.parity import INPUTS, TOLERANCE
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.errors import MissingPackageError
from scaleevent.system.files import Json, sha256_file, write_bytes, write_json
from scaleevent.system.hub_folders import CONFIG
from scaleevent.system.reports import Report


def write_results(
    checkpoint: LoadedCheckpoint,
    files: Sequence[Artifact],
    differences: dict[str, float],
    folder: Path,
    left: dict[str, MissingPackageError],
    settings: Json,
) -> Report:
    """Write export.json, README.md and, for the hub, config.json beside checked files.

    Args:
        checkpoint: What was exported.
        files: What was written.
        differences: By file name, from `write_checked`.
        folder: Where.
        left: Formats that were left out, and why.
        settings: Of the command, for the record.

    Returns:
        The files with the measured differences, and how they are used.
    """
    entries: dict[str, Json] = {
        file.name: {
            "format": file.format,
            "bytes": (folder / file.name).stat().st_size,
            "sha256": sha256_file(folder / file.name),
            "samples": "any" if file.any_batch else 1,
            "difference": differences[file.name],
        }
        for file in files
    }
    hub = any(file.format == "hub" for file in files)
    report = _report(checkpoint, entries, folder, left, hub, settings)
    if hub:
        write_json(folder / CONFIG, hub_config(checkpoint))
    write_bytes(folder / "README.md", model_card(checkpoint, entries, hub).encode())
    write_json(folder / "export.json", report.to_json())
    return report


def _report(
    checkpoint: LoadedCheckpoint,
    entries: dict[str, Json],
    folder: Path,
    left: dict[str, MissingPackageError],
    hub: bool,
    settings: Json,
) -> Report:
    rows = tuple(
        (name, entry["format"], entry["samples"], entry["bytes"] / 1e6, entry["difference"])
        for name, entry in entries.items()
    )
    notes = (
        f"difference: the largest from the checkpoint on {INPUTS} inputs, one of them empty, as a "
        f"fraction of its largest output; at most {TOLERANCE:g}",
        f"folder: {folder}",
        *(hub_notes(checkpoint, folder) if hub else ()),
        *(f"left out: {error.what}; {error.hint}" for error in left.values()),
    )
    facts = {"checkpoint": checkpoint.name, "model": checkpoint.about, "files": entries}
    facts |= {"left_out": sorted(left), **settings}
    columns = ("file", "format", "samples at once", "MB", "difference")
    return Report("export", f"export of {checkpoint.name}", columns, rows, notes, facts)
