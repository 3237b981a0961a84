"""What an export leaves beside its files: their entries, README.md, config.json, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleevent.deployment.artifact import Artifact, ExportedFile
from scaleevent.deployment.hub_folder import hub_config, hub_notes
from scaleevent.deployment.model_card import model_card
from scaleevent.deployment.parity import INPUTS, TOLERANCE, Loss
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.errors import MissingPackageError
from scaleevent.system.files import Json, sha256_file, write_bytes, write_json
from scaleevent.system.hub_folders import CONFIG
from scaleevent.system.locations import names_only
from scaleevent.system.reports import Report, Section

FLOAT32 = "float32"  # name of the checkpoint among programs that are scored


@dataclass(frozen=True, kw_only=True)
class ExportResult(Report):
    """What `export` has written.

    Attributes:
        out: The folder.
        files: By name.
        left_out: Formats of `all` whose packages are not installed.
    """

    out: Path
    files: Mapping[str, ExportedFile]
    left_out: tuple[str, ...] = ()

    def own(self) -> Json:
        """See `Report`."""
        files = {name: file.to_json() for name, file in self.files.items()}
        return {"files": files, "left_out": list(self.left_out)}


def write_results(
    checkpoint: LoadedCheckpoint,
    files: Sequence[Artifact],
    differences: Mapping[str, float | Loss],
    folder: Path,
    *,
    left: Mapping[str, MissingPackageError],
    scores: Json,
    latency: tuple[Section, Json] | None,
    settings: Json,
) -> ExportResult:
    """Write export.json, README.md and, for the hub, config.json beside checked files.

    Args:
        checkpoint: What was exported.
        files: What was written.
        differences: By file name, from `write_checked`.
        folder: Where.
        left: Formats that were left out, and why.
        scores: By file name and `FLOAT32` the task's headline number, with `metric` and `samples`;
            empty where nothing was scored.
        latency: From `latency_table`, where it was measured.
        settings: Of the command, for the record.

    Returns:
        The files with the measured differences, and how they are used.
    """
    entries = {file.name: _entry(file, differences[file.name], folder, scores) for file in files}
    hub = any(file.format == "hub" for file in files)
    notes = [
        f"difference: the largest from the checkpoint on {INPUTS} inputs, one of them empty, as a "
        f"fraction of its largest output; at most {TOLERANCE:g} where precision is kept",
        *(line for file in files for line in _loss_notes(file, differences[file.name])),
        *_score_notes(scores),
        f"folder: {folder}",
        *(hub_notes(checkpoint, folder) if hub else ()),
        *(f"left out: {error.what}; {error.hint}" for error in left.values()),
    ]
    record = {"checkpoint": checkpoint.name, "model": checkpoint.about}
    record |= ({"scores": scores} if scores else {}) | settings | (latency[1] if latency else {})
    rows = tuple(
        (name, one.format, one.samples or "any", one.bytes / 1e6, one.difference)
        for name, one in entries.items()
    )
    report = ExportResult(
        "export", f"export of {checkpoint.name}",
        ("file", "format", "samples at once", "MB", "difference"), rows, tuple(notes), record,
        (latency[0],) if latency else (), out=folder, files=entries, left_out=tuple(sorted(left)),
    )  # fmt: skip
    if hub:
        write_json(folder / CONFIG, hub_config(checkpoint))
    write_bytes(folder / "README.md", model_card(checkpoint, entries, hub).encode())
    document = report.to_json()
    if hub:  # for others, to whom this machine's folders are nothing
        told = [note.replace(str(folder), folder.name) for note in notes]
        document = names_only(document | {"title": "export", "notes": told})
    write_json(folder / "export.json", document)
    return report


def _entry(file: Artifact, found: float | Loss, folder: Path, scores: Json) -> ExportedFile:
    """The facts of a file."""
    path, loss = folder / file.name, found if isinstance(found, Loss) else None
    scored = loss is not None and file.name in scores
    return ExportedFile(
        path=path,
        format=file.format,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        samples=file.samples,
        difference=found.largest if isinstance(found, Loss) else found,
        loss=loss,
        score=(scores["metric"], scores[FLOAT32], scores[file.name]) if scored else None,
    )


def _loss_notes(file: Artifact, found: float | Loss) -> list[str]:
    """What reduced precision costs on the outputs."""
    if not isinstance(found, Loss) or file.limits is None:
        return []
    line = f"{file.name}: {found.rms:.2%} off (root mean square); {found.means}"
    if found.rms <= file.limits.warn:
        return [line]
    return [f"{line}: more than {file.limits.warn:.1%}, so score it before you rely on it (--data)"]


def _score_notes(scores: Json) -> list[str]:
    """What reduced precision costs on the benchmark."""
    if not scores:
        return []
    metric, samples = scores["metric"], scores["samples"]
    numbers = [f"{name} {scores[name]:.4g}" for name in scores["programs"]]
    return [f"{metric} on {samples:,} test samples: {', '.join(numbers)}"]
