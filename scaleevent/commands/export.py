"""`scaleevent export`: a checkpoint as files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scaleevent.config.export import ExportConfig
from scaleevent.deployment.artifacts import (
    FORMATS,
    Artifact,
    artifacts,
    check_packages,
    write_checked,
)
from scaleevent.deployment.parity import INPUTS, TOLERANCE, Parity
from scaleevent.deployment.program import Source, describe, load_source
from scaleevent.system.files import (
    check_folder,
    claimed_folder,
    sha256_file,
    write_bytes,
    write_json,
)
from scaleevent.system.reports import Report, progress
from scaleevent.version import __version__

KIND = "export"
HOW = {
    "encoder.safetensors": "timm's names: `scaleevent.load_encoder(FILE)` or "
    "`timm.create_model(NAME, checkpoint_path=FILE, **KWARGS)`",
    "decoder.safetensors": "the decoder's own weights under the names of its origin",
    "encoder_meta.safetensors": "Meta's names: `model.load_state_dict(load_file(FILE))` on the "
    "network of facebookresearch/dinov3",
    ".pt2": "`torch.export.load(FILE).module()`; open such files only from people you trust",
    ".onnx": "`onnxruntime.InferenceSession(FILE)`",
}
DINOV3 = (
    "These weights were distilled from, or started from, DINOv3 weights, which are under Meta's "
    "DINOv3 License (https://ai.meta.com/resources/models-and-libraries/dinov3-license/). That "
    "licence covers derived weights too: pass a copy of it on with these files."
)
OTHER = (
    "The checkpoint does not name DINOv3 as its teacher or start. If one of those was a DINOv3 "
    "model, Meta's DINOv3 License covers these weights; the terms of the training data apply too."
)


def run(cfg: ExportConfig, quiet: bool = False) -> Report:
    """Write a checkpoint in the formats asked for, each checked before it gets its name.

    Args:
        cfg: All settings.
        quiet: No progress on stderr.

    Returns:
        The files with the measured differences.

    Raises:
        MissingPackageError: A format needs a package that is not installed.
        CheckpointError: Not a checkpoint, no form in a format, or a file that computes something
            else; then no file is left.
    """
    formats = FORMATS if cfg.format == "all" else (cfg.format,)
    check_packages(formats)
    folder = {"resume": False, "overwrite": cfg.overwrite}
    check_folder(cfg.out, KIND, **folder)
    source = load_source(cfg.checkpoint, cfg.size)
    files = artifacts(source, formats)
    with claimed_folder(cfg.out, KIND, **folder):
        with progress("export", len(files), "files", not quiet) as ticker:
            differences = write_checked(files, cfg.out, Parity(source.settings), ticker.advance)
        report = _report(cfg, source, files, differences)
        card = model_card(source, report.facts["files"])
        write_bytes(cfg.out / "README.md", card.encode())
        write_json(cfg.out / "export.json", report.to_json())
    return report


def _report(
    cfg: ExportConfig, source: Source, files: list[Artifact], differences: dict[str, float]
) -> Report:
    entries: dict[str, dict[str, Any]] = {
        file.name: {
            "format": file.format,
            "bytes": (cfg.out / file.name).stat().st_size,
            "sha256": sha256_file(cfg.out / file.name),
            "samples": "any" if file.any_batch else 1,
            "difference": differences[file.name],
        }
        for file in files
    }
    rows = tuple(
        (name, entry["format"], entry["samples"], entry["bytes"] / 1e6, entry["difference"])
        for name, entry in entries.items()
    )
    notes = (
        f"difference: the largest from the checkpoint on {INPUTS} inputs, one of them empty, as a "
        f"share of its largest output; at most {TOLERANCE:g}",
        f"folder: {cfg.out}",
    )
    facts = {"checkpoint": str(cfg.checkpoint), "model": describe(source), "files": entries}
    columns = ("file", "format", "samples at once", "MB", "difference")
    return Report("export", f"export of {cfg.checkpoint}", columns, rows, notes, facts)


def model_card(source: Source, files: dict[str, dict[str, Any]]) -> str:
    """README.md of an export: what it is, what goes in and out, how it was made, its licence."""
    about = describe(source)
    settings = about["input"]
    (output, shape), *_ = about["outputs"].items()
    known = {key: value for key, value in source.description.items() if key != "arch"}
    teacher = (source.description.get("teacher") or {}).get("source")
    lines = [
        f"# {_title(source, about)}",
        "",
        f"Exported by ScaleEvent {__version__} from the checkpoint with SHA-256 "
        f"`{about['source']['file_sha256']}`.",
        "",
        f"- Encoder: `{about['arch']['name']}` {json.dumps(about['arch']['kwargs'])}",
        *([f"- Teacher: {teacher}"] if teacher else []),
        *([f"- Decoder: {json.dumps(about['decoder'])}"] if "decoder" in about else []),
        *([f"- Classes: {', '.join(about['classes'])}"] if "classes" in about else []),
        "",
        "## Input and output",
        "",
        *(f"- Input `{name}`: float32 {_shape(size)}" for name, size in about["inputs"].items()),
        f"- Output `{output}`: float32 {_shape(shape['shape'])}, {shape['meaning']}",
        f"- Preparation: {about['preparation']}.",
        *(f"- {key}: {value}" for key, value in settings.items()),
        "",
        "The same is stored in each file, under the key `scaleevent` (in a .pt2: the extra file "
        "`scaleevent.json`).",
        "",
        "## Files",
        "",
        "| file | samples at once | difference from the checkpoint | use |",
        "|---|---|---|---|",
        *(
            f"| {name} | {entry['samples']} | {entry['difference']:.1e} | {_use(name)} |"
            for name, entry in files.items()
        ),
        "",
        "Made by `scaleevent export CHECKPOINT -o FOLDER`; sizes and hashes are in `export.json`.",
        "",
        "## Licence",
        "",
        DINOV3 if "dinov3" in json.dumps(known).lower() else OTHER,
    ]
    return "\n".join(lines) + "\n"


def _title(source: Source, about: dict[str, Any]) -> str:
    if source.name == "encoder":
        return "Event encoder"
    return f"Event-based {source.name}" + (f", {about['benchmark']}" if about["benchmark"] else "")


def _shape(sizes: list[Any]) -> str:
    return f"({', '.join(map(str, sizes))})"


def _use(name: str) -> str:
    return HOW.get(name) or HOW[Path(name).suffix]
