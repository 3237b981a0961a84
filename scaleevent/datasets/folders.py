"""What `scaleevent info` tells of a folder that is no store: a command's output, or recordings."""

from __future__ import annotations

import shlex
from pathlib import Path

from scaleevent.config.settings import read_yaml
from scaleevent.datasets.custom_files import found_beside
from scaleevent.datasets.recordings import files_below
from scaleevent.errors import DataError
from scaleevent.formats import recording_kind
from scaleevent.system.files import Json, read_json, read_json_lines
from scaleevent.system.locations import MANIFEST, POINTER, RESULTS, output_kind
from scaleevent.system.reports import cell

SHOWN = 20  # files or folders
WITH_FRAMES = ("AEDAT4", "ROS")  # formats that may hold frames
SETTINGS = ("benchmark", "checkpoint", "objective", "preset", "arch", "teacher", "decoder", "data",
            "size", "fraction", "epochs", "draws", "batch", "lr", "seed")  # fmt: skip


def folder_facts(folder: Path) -> tuple[Json, tuple[str, ...]]:
    """Facts about a folder, and what to do with it.

    Raises:
        DataError: Nothing in it is of a kind that we know.
    """
    kind = output_kind(folder)
    if kind in ("pairs", "voxels"):
        command = "prepare" if kind == "pairs" else "voxelize"
        raise DataError(
            f"a store that `{command}` has not finished", where=folder,
            hint=f"the same `{command}` command with --resume finishes it",
        )  # fmt: skip
    if kind == "run" or (folder / "config.yaml").is_file():
        return _run(folder)
    if kind:
        reports = [folder / name for name in ("report.json", "export.json")]
        there = [path for path in reports if path.is_file()]
        return {"kind": kind} | (_reported(there[0]) if there else {}), ()
    return _files(folder)


def _run(folder: Path) -> tuple[Json, tuple[str, ...]]:
    """A training run: what it was asked for, how far it is, what came out."""
    file = folder / "config.yaml"
    settings = read_yaml(file) if file.is_file() else {}
    try:
        steps = [line["step"] for line in read_json_lines(folder / "log.jsonl")]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("damaged log", where=folder / "log.jsonl", found=error) from None
    result = next((folder / name for name in RESULTS if (folder / name).is_file()), None)
    finished = (folder / "report.json").is_file()
    facts: Json = {
        "kind": "run",
        "state": "finished" if finished else "not finished",
        "steps": steps[-1] if steps else 0,
        "wrote": str(result) if result else None,
        **({"best": read_json(folder / POINTER)} if (folder / POINTER).is_file() else {}),
        **{key: settings[key] for key in SETTINGS if settings.get(key) not in (None, [])},
        **(_reported(folder / "report.json") if finished else {}),
    }
    if not finished:
        return facts, ("the same command with --resume goes on",)
    return facts, (f"`scaleevent info {shlex.quote(str(result))}` tells more",) if result else ()


def _reported(path: Path) -> Json:
    """The title and the rows of a report."""
    match read_json(path):
        case {"title": str(title), "rows": list(rows)}:
            pass
        case _:
            raise DataError("not a report of ours", where=path)
    result = {}
    for row in rows:
        (_, name), *values = row.items()
        result[str(name)] = ", ".join(f"{key} {cell(v)}" for key, v in values if v is not None)
    return {"report": title, "result": result}


def _files(folder: Path) -> tuple[Json, tuple[str, ...]]:
    """Recordings, by format; and stores and runs below."""
    below, ours = files_below(folder, folder / "voxels")
    found: dict[str, str] = {}
    for path in below:
        try:
            size = sum(part.stat().st_size for part in (path, *path.glob("*")) if part.is_file())
            kind = recording_kind(path)
            found[str(path.relative_to(folder))] = f"{kind}, {size / 1e6:,.1f} MB"
        except DataError:  # not a recording
            continue
    outputs = {path.relative_to(folder.resolve()).as_posix(): output_kind(path) for path in ours}
    if not found and not outputs:
        raise DataError(
            "neither a store, a run nor a folder of recordings", where=folder,
            found=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "empty",
            expected=f"{MANIFEST}, config.yaml or recordings",
        )  # fmt: skip
    kinds = "folder of recordings" if found else "folder of outputs"
    facts: Json = {"kind": kinds, "recordings": len(found)}
    facts["file"] = dict(list(found.items())[:SHOWN])
    facts |= {"output": dict(list(outputs.items())[:SHOWN])} if outputs else {}
    if not found:
        return facts, ()
    paths = {name: shlex.quote(str(folder / name)) for name in found}
    notes = [f"`scaleevent info {next(iter(paths.values()))}` tells about one of them"]
    framed = (n for n in found if found_beside(folder / n) or found[n].startswith(WITH_FRAMES))
    if (one := next(framed, None)) is not None:
        notes.append(f"`scaleevent prepare custom {paths[one]} -o PAIRS` pairs one with its frames")
    notes.append(f"`scaleevent voxelize {shlex.quote(str(folder))}` takes the events of all")
    return facts, tuple(notes)
