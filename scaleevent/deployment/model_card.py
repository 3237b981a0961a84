"""README.md of an export: what the files are, their inputs and outputs, their licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.version import __version__

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


def model_card(checkpoint: LoadedCheckpoint, files: dict[str, dict[str, Any]]) -> str:
    """The text of README.md.

    Args:
        checkpoint: What was exported.
        files: The entries of export.json by file name.
    """
    about = checkpoint.about
    title = f"Event-based {about['task']}" if "task" in about else "Event encoder"
    (output, shape), *_ = about["outputs"].items()
    known = {key: value for key, value in checkpoint.description.items() if key != "arch"}
    teacher = (known.get("teacher") or {}).get("source")
    lines = [
        f"# {title}" + (f", {about['benchmark']}" if about.get("benchmark") else ""),
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
        *(f"- {key}: {value}" for key, value in about["input"].items()),
        "",
        "The same is stored in each file, under the key `scaleevent` (in a .pt2: the extra file "
        "`scaleevent.json`).",
        "",
        "## Files",
        "",
        "| file | samples at once | difference from the checkpoint | use |",
        "|---|---|---|---|",
        *(
            f"| {name} | {entry['samples']} | {entry['difference']:.1e} "
            f"| {HOW.get(name) or HOW[Path(name).suffix]} |"
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


def _shape(sizes: list[Any]) -> str:
    return f"({', '.join(map(str, sizes))})"
