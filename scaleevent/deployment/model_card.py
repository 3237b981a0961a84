"""README.md of an export: the files, their inputs and outputs, their origin and their licence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from scaleevent.config.run import RunSettings
from scaleevent.deployment.artifact import ExportedFile
from scaleevent.deployment.licence import licence_of, origins_of
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.prediction.models import rule_text
from scaleevent.system.files import Json
from scaleevent.system.hub_folders import CONFIG, TASK, WEIGHTS
from scaleevent.system.locations import without_passwords
from scaleevent.system.reports import cell
from scaleevent.version import __version__

HOW = {
    "encoder.safetensors": "timm's names: `scaleevent.load_encoder(FILE)` or "
    "`timm.create_model(NAME, checkpoint_path=FILE, **KWARGS)`",
    "decoder.safetensors": "the decoder's own weights under the names of its origin",
    "encoder_meta.safetensors": "Meta's names: `model.load_state_dict(load_file(FILE))` on the "
    "network of facebookresearch/dinov3",
    WEIGHTS: f"the encoder under timm's names, with {CONFIG}: see Use",
    TASK: "the whole task model: see Use",
    ".pt2": "`torch.export.load(FILE).module()`; open such files only from people you trust",
    ".onnx": "`onnxruntime.InferenceSession(FILE)`",
}
PIPELINES = {
    "encoder": "image-feature-extraction", "segmentation": "image-segmentation",
    "depth": "depth-estimation",
}  # fmt: skip
SHOWN = 12  # recordings that are named


def model_card(
    checkpoint: LoadedCheckpoint, files: Mapping[str, ExportedFile], hub: bool = False
) -> str:
    """The text of README.md.

    Args:
        checkpoint: What was exported.
        files: What was written, by file name.
        hub: Whether it is for the Hugging Face hub, which reads keys at its beginning.
    """
    about, known = checkpoint.about, checkpoint.description
    title = f"Event-based {about['task']}" if "task" in about else "Event encoder"
    (output, shape), *_ = about["outputs"].items()
    teacher, best = (known.get("teacher") or {}).get("source"), known.get("best")
    lines = [
        *(_front_matter(checkpoint) if hub else []),
        f"# {title}" + (f", {about['benchmark']}" if about.get("benchmark") else ""),
        "",
        f"Exported by ScaleEvent {__version__} from the checkpoint with SHA-256 "
        f"`{about['source']['file_sha256']}`.",
        "",
        f"- Encoder: `{about['arch']['name']}` {json.dumps(about['arch']['kwargs'])}",
        *([f"- Teacher: {teacher}"] if teacher else []),
        *([_chosen(best)] if best else []),
        *([f"- Decoder: {json.dumps(about['decoder'])}"] if "decoder" in about else []),
        *([f"- Classes: {', '.join(about['classes'])}"] if "classes" in about else []),
        "",
        *(_use(checkpoint) if hub else []),
        "## Input and output",
        "",
        *(f"- Input `{name}`: float32 {_shape(size)}" for name, size in about["inputs"].items()),
        f"- Output `{output}`: float32 {_shape(shape['shape'])}, {shape['meaning']}",
        f"- Preparation: {about['preparation']}.",
        f"- Window: {rule_text(checkpoint.predictor.rule)}",
        *(f"- {key}: {value}" for key, value in about["input"].items()),
        "",
        "The same is stored in each file, under the key `scaleevent` (in a .pt2: the extra file "
        "`scaleevent.json`).",
        "",
        *_training(known),
        "## Files",
        "",
        "| file | samples at once | difference from the checkpoint | use | SHA-256 |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {file.samples or 'any'} | {file.difference:.1e} "
            f"| {HOW.get(name) or HOW[Path(name).suffix]} | `{file.sha256}` |"
            for name, file in files.items()
        ),
        "",
        "Made by `scaleevent export CHECKPOINT -o FOLDER`; sizes are in `export.json` too. Weight "
        "files of ScaleEvent hold a SHA-256 of themselves, which it checks when it loads them.",
        "",
        "## Licence",
        "",
        licence_of(known).text,
    ]
    return "\n".join(lines) + "\n"


def _front_matter(checkpoint: LoadedCheckpoint) -> list[str]:
    """The keys that the hub reads, as YAML."""
    known, task = checkpoint.description, checkpoint.deployed.task
    keys: Json = {**licence_of(known).front, "library_name": "timm"}
    if task in PIPELINES:
        keys["pipeline_tag"] = PIPELINES[task]
    bases = [re.fullmatch(r"hf-hub:([^@]+)(@.*)?", origin) for origin in origins_of(known)]
    if found := [base[1] for base in bases if base]:
        keys["base_model"] = found
    keys["tags"] = ["event-camera", "neuromorphic", "scaleevent", "timm", task]
    text = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=1000)
    return ["---", *text.splitlines(), "---", ""]


def _chosen(best: Json) -> str:
    """Which step of a run its best one is."""
    score = f"{best['metric']} {cell(best['value'])}"
    return f"- Step: {best['step']:,}, the best of its run on held-out samples: {score}"


def _use(checkpoint: LoadedCheckpoint) -> list[str]:
    """How the folder is loaded, under the name it has on the hub."""
    predictor = checkpoint.predictor
    lines = [
        "## Use",
        "",
        "Put `hf-hub:ORG/NAME` for the name that this repository has, or `local-dir:FOLDER` for a "
        "folder on your machine.",
        "",
        "```python",
        "import timm  # the encoder alone; voxels are prepared as told below",
        "",
        'vit = timm.create_model("hf-hub:ORG/NAME", pretrained=True).eval()',
        "tokens = vit.forward_features(voxels)[:, vit.num_prefix_tokens :]  # (N, L, "
        f"{predictor.encoder.width})",
        "```",
        "",
        "```python",
        "import scaleevent  # events in, whatever the camera",
        "",
        'predictor = scaleevent.Predictor.load("hf-hub:ORG/NAME")',
        'features = predictor.features("recording.raw", at=1_000_000)  # microseconds',
    ]
    if checkpoint.deployed.task != "encoder":
        lines.append('prediction = predictor.predict("recording.raw", at=1_000_000)')
    return [*lines, "```", ""]


def _training(known: Json) -> list[str]:
    """Data, settings and metrics, as far as the checkpoint records them."""
    lines: list[str] = []
    parts = {"Pretraining data": known.get("pretraining"), "Data": known.get("data")}
    for title, data in parts.items():
        if data:
            lines += [f"## {title}", "", *_data_lines(data), ""]
    if metrics := known.get("metrics"):
        lines += ["## Metrics", "", *_metric_lines(known, metrics), ""]
    if config := known.get("config"):
        effective = {
            key: value for key, value in config.items() if key not in RunSettings.NO_EFFECT
        }
        text = without_passwords(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True))
        lines += ["## Settings of the run", "", "```yaml", text.rstrip(), "```", ""]
    return lines


def _data_lines(data: Json) -> list[str]:
    """What a model has seen."""
    lines = []
    recordings = data.get("recordings")
    if recordings:
        named = ", ".join(recordings[:SHOWN]) + (", .." if len(recordings) > SHOWN else "")
        lines.append(f"- Recordings: {len(recordings):,} ({named})")
    elif recordings is not None:
        lines.append("- Recordings: none of a camera")
    for key, value in data.items():
        if isinstance(value, str | int | float):
            lines.append(f"- {key.replace('_', ' ')}: {cell(value)}")
        elif key == "stores" and isinstance(value, list):
            lines.append(f"- Hashes of the pair stores: {', '.join(map(str, value))}")
    return lines or ["Not recorded."]


def _metric_lines(known: Json, metrics: Json) -> list[str]:
    """A table of the numbers in the checkpoint."""
    lines = []
    if benchmark := known.get("benchmark"):
        lines = [f"On the test set of {benchmark}, supervision `{known.get('protocol')}`.", ""]
    pairs = any(isinstance(value, list) for value in metrics.values())
    lines += ["| metric | before | after |", "|---|---|---|"] if pairs else [
        "| metric | value |", "|---|---|"]  # fmt: skip
    for name, value in metrics.items():
        cells = value if isinstance(value, list) else [value]
        lines.append(f"| {' | '.join([name, *map(cell, cells)])} |")
    return lines


def _shape(sizes: list[str | int]) -> str:
    return f"({', '.join(map(str, sizes))})"
