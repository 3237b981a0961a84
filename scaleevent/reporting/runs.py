"""What a folder that a command has written tells: settings, log, results, pictures."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from scaleevent.config.settings import ORIGINS, read_yaml
from scaleevent.errors import ConfigError, DataError
from scaleevent.images import open_image
from scaleevent.system.documents import MAX_BYTES, read_bounded
from scaleevent.system.files import Json, read_json
from scaleevent.system.locations import MANIFEST, output_kind
from scaleevent.system.owner import claimants
from scaleevent.system.refusals import reading
from scaleevent.system.reports import counted

REPORTS = ("report.json", "export.json")  # what a finished command leaves
LOG = "log.jsonl"
CURVES = "curves"  # the kind of a folder of pictures that `report` itself has drawn
PICTURES, PICTURE_BYTES = 12, 8 << 20  # of a run that are shown, and the size of each
SERIES = 3  # pictures of a series that are shown
FINISHED, RUNNING, INTERRUPTED = "finished", "running", "interrupted"


@dataclass(frozen=True)
class Picture:
    """A picture of a run."""

    name: str  # of its file
    about: str  # what it shows, for those who cannot see it
    png: bytes  # the file
    size: tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class RunRecord:
    """One folder, read and checked."""

    folder: Path
    name: str  # as the user gave it
    command: str  # that wrote it: pretrain, probe, finetune, eval, export, prepare, ...
    state: str  # finished, running or interrupted
    told: str  # how far it is, or who writes there, for people
    settings: Json
    origins: Mapping[str, str]  # where each setting comes from, as far as it is recorded
    log: tuple[Mapping[str, float], ...] = ()  # records, each with its `step`
    report: Json = field(default_factory=dict)  # as `Report.to_json`; empty where unfinished
    pictures: tuple[Picture, ...] = ()
    left_out: tuple[str, ...] = ()  # what is not shown, and why

    @property
    def family(self) -> str:
        """What runs must have in common for their numbers to be compared."""
        benchmark = self.settings.get("benchmark") or self.report.get("benchmark")
        return f"{self.command} {benchmark}" if benchmark else self.command

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The results by name: every number of the report's table that is of this run."""
        found = {}
        for row in self.report.get("rows", ()):
            (_, label), *values = row.items()
            if "as published" in str(label):
                continue
            for column, value in values:
                if _is_number(value) and column != "before":
                    found[str(label) if column == "after" else f"{label}: {column}"] = float(value)
        return found


def read_runs(folders: list[Path]) -> list[RunRecord]:
    """All folders.

    Raises:
        ConfigError: A folder is named twice.
        DataError: As `read_run`.
    """
    seen: dict[Path, Path] = {}
    for folder in folders:
        other = seen.setdefault(folder.resolve(), folder)
        if other is not folder:
            raise ConfigError("a run is named twice", where="runs", found=f"{other} and {folder}")
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> RunRecord:
    """What one folder tells.

    Raises:
        DataError: Nothing is there, it is no output of ours, or a file in it is damaged.
    """
    if not folder.is_dir():
        within = folder.is_file() and _is_output(folder.parent)
        raise DataError(
            "a file, not a run" if folder.exists() else "no such run", where=folder,
            expected="a folder that a command of scaleevent has written",
            hint=f"`scaleevent report {folder.parent}`" if within else None,
        )  # fmt: skip
    if not _is_output(folder):
        below = sorted(path.name for path in folder.iterdir() if _is_output(path))
        named = shlex.join(str(folder / name) for name in below[:8])
        raise DataError(
            "not a run, an evaluation, an export or a store", where=folder,
            found=f"outputs in it: {', '.join(below[:8])}" if below else "nothing of scaleevent",
            expected="config.yaml, report.json, export.json or manifest.json",
            hint=f"`scaleevent report {named}`" if below else None,
        )  # fmt: skip
    if (folder / MANIFEST).is_file() or output_kind(folder) in ("pairs", "voxels"):
        return _store(folder)
    return _run(folder)


def _is_output(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = ("config.yaml", *REPORTS, MANIFEST)
    return output_kind(folder) not in ("", CURVES) or any(
        (folder / name).is_file() for name in names
    )


def _run(folder: Path) -> RunRecord:
    """A training run, an evaluation or an export."""
    report = next((_report(folder / n) for n in REPORTS if (folder / n).is_file()), {})
    file = folder / "config.yaml"
    settings = read_yaml(file) if file.is_file() else _settings_of(report)
    log = _log(folder / LOG)
    command = _command(report, settings) or output_kind(folder) or "run"
    state, told = _state(folder, bool(report))
    if log and state != FINISHED:
        epochs = [int(line["epoch"]) for line in log if "epoch" in line]
        far = f"step {int(log[-1]['step']):,}"
        if settings.get("epochs") and epochs:
            far += f", {epochs[-1]} of {settings['epochs']} epochs"
        told = f"{far}; {told}"
    pictures, left_out = _pictures(folder)
    return RunRecord(
        folder, str(folder), command, state, told, settings, _origins(folder, report), log,
        report, pictures, left_out,
    )  # fmt: skip


def _store(folder: Path) -> RunRecord:
    """A store of pairs or voxels."""
    command = "voxelize" if output_kind(folder) == "voxels" else "prepare"
    if not (folder / MANIFEST).is_file():
        state, told = _state(folder, False)
        return RunRecord(folder, str(folder), command, state, told, {}, {})
    match read_json(folder / MANIFEST):
        case {"kind": kind, "settings": dict(settings), "counts": dict(counts)} as manifest:
            pass
        case _:
            raise DataError("not a manifest of ours", where=folder / MANIFEST)
    shards = [shard for shard in manifest.get("shards", []) if isinstance(shard, dict)]
    state, told = _state(folder, True)
    rows = [{"": name, "number": number} for name, number in counts.items()]
    report: Json = {
        "title": f"a store of {kind}, {counted(len(shards), 'shard')}, "
        f"{sum(shard.get('bytes', 0) for shard in shards) / 1e6:,.1f} MB",
        "rows": rows, "notes": [], "version": manifest.get("version"), "shards": shards,
    }  # fmt: skip
    command = "voxelize" if kind == "voxels" else "prepare"
    return RunRecord(folder, str(folder), command, state, told, settings, {}, (), report)


def _state(folder: Path, finished: bool) -> tuple[str, str]:
    """Whether a command still writes there, has ended, or was interrupted."""
    for owner, alive in claimants(folder):
        if alive:
            return RUNNING, f"written by {owner.described()}"
        if alive is None:
            return RUNNING, f"written by {owner.described()}, if that still lives"
    if finished:
        return FINISHED, ""
    return INTERRUPTED, "its command can resume it"


def _report(path: Path) -> Json:
    """A report of ours.

    Raises:
        DataError: Not JSON, or not such a report.
    """
    report = read_json(path)
    match report:
        case {"schema": str(schema), "title": str(), "rows": list(rows), "notes": list(notes)} if (
            schema.startswith("scaleevent.")
            and all(isinstance(row, dict) and row for row in rows)
            and all(isinstance(note, str) for note in notes)
        ):
            return dict(report)
    raise DataError("not a report of ours", where=path, expected="title, rows and notes")


def _command(report: Json, settings: Json) -> str:
    """Which command wrote a folder: its report says so, else its settings tell."""
    if report:
        return str(report["schema"]).removeprefix("scaleevent.").partition("/")[0]
    if "benchmark" in settings:
        return "finetune" if "decoder" in settings else "probe"
    return "pretrain" if "objective" in settings else ""


def _settings_of(report: Json) -> Json:
    """The settings that a report holds itself."""
    found = report.get("settings", report.get("config"))
    if isinstance(found, dict):
        return found
    return {"checkpoint": report["checkpoint"]} if isinstance(report.get("checkpoint"), str) else {}


def _origins(folder: Path, report: Json) -> dict[str, str]:
    """Where settings come from: beside those of a run, or in the report itself."""
    path = folder / ORIGINS
    found = read_json(path) if path.is_file() else report.get("origins", {})
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise DataError("not a record of where settings come from", where=path)
    return found


def _log(path: Path) -> tuple[Mapping[str, float], ...]:
    """The records of a log; an unfinished last line is left out.

    Raises:
        DataError: A line is no record, or the file is too large.
    """
    if not path.is_file():
        return ()
    with reading(path, "cannot read the log"):
        data = read_bounded(path, MAX_BYTES)
    if len(data) > MAX_BYTES:
        raise DataError("a log too large to show", where=path, expected=f"at most {MAX_BYTES:,} B")
    records: list[Mapping[str, float]] = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not _is_number(record.get("step")):
            raise DataError(
                "damaged log", where=f"{path}, line {number}", expected="a JSON object with a step",
                hint="resume the run: that drops damaged lines",
            )  # fmt: skip
        records.append({key: value for key, value in record.items() if _is_number(value)})
    return tuple(records)


def _pictures(folder: Path) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """The PNGs of a folder that can be shown, and what is said of the others."""
    found: list[Picture] = []
    left_out: list[str] = []
    paths = sorted(folder.glob("*.png"), key=lambda path: (path.name != "panel.png", path.name))
    series = sorted([*folder.glob("pictures/*.png"), *folder.glob("*/pictures/*.png")])
    if series:  # of a prediction
        paths += {series[k * (len(series) - 1) // (SERIES - 1)]: None for k in range(SERIES)}
        left_out.append(f"{counted(len(series), 'picture')} of a series, of which some are shown")
    for path in paths[:PICTURES]:
        data = read_bounded(path, PICTURE_BYTES) if path.is_file() else b""
        if len(data) > PICTURE_BYTES:
            left_out.append(f"{path.name}: more than {PICTURE_BYTES >> 20} MB")
            continue
        try:
            with open_image(data, path, ("PNG",)) as image:
                size, about = image.size, str(image.info.get("Description", ""))
                image.load()
        except DataError:
            left_out.append(f"{path.name}: damaged")
            continue
        name = path.relative_to(folder).as_posix()
        found.append(Picture(name, about or f"the picture {name} of this run", data, size))
    if len(paths) > PICTURES:
        left_out.append(f"{len(paths) - PICTURES} more pictures in the folder")
    return tuple(found), tuple(left_out)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _fits(value)


def _fits(value: int | float) -> bool:
    """Whether an integer of any size is a float too."""
    return isinstance(value, float) or math.log2(abs(value) + 1) < 1023
