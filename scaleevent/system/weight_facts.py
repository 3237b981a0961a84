"""What `scaleevent info` tells of a weight file, without torch: only what was read and checked."""

from __future__ import annotations

from math import prod
from pathlib import Path

from scaleevent.system.files import Json
from scaleevent.system.sealed import BESIDE, PLACE_PRIOR, read_header

FACTS = (  # keys of a checkpoint's description that are shown
    "version", "training", "step", "task", "labels", "benchmark", "protocol", "decoder", "arch",
    "input", "teacher", "token_scale", "structure", "window", "metrics", "best", "stamp", BESIDE,
    "sha256",
)  # fmt: skip

TRAINING = ("data", "limits", "script")  # that are listed
METRICS = 8  # that are listed


def weight_facts(path: Path) -> tuple[Json, tuple[str, ...]]:
    """Facts about a safetensors file, and notes.

    Raises:
        CheckpointError: It is damaged: not whole, or ours and changed.
    """
    header = read_header(path)
    described = header.description or {}
    if header.description is None:
        checked = "nothing: the file has no checksum of ours"
    elif header.protected:
        checked = "SHA-256 of the whole file"
    else:
        checked = "SHA-256 of the tensors; older: the description is not protected"
    tensors = [tensor for name, tensor in header.tensors.items() if name != PLACE_PRIOR]
    facts = {
        "kind": described.get("kind", "weights of another origin"),
        "checked": checked,
        "tensors": len(tensors),
        "parameters": sum(prod(tensor.shape) for tensor in tensors),
        "dtypes": ", ".join(sorted({tensor.dtype for tensor in tensors})),
        **{key: described[key] for key in FACTS if key in described},
    }
    return facts, (header.remark,) if header.remark else ()


def weight_rows(facts: Json) -> Json:
    """The same facts in some twenty lines: what a person wants to know first."""
    shown = {key: value for key, value in facts.items() if value is not None}
    match facts.get("training"):
        case dict(training):
            shown["training"] = {key: training[key] for key in TRAINING if key in training}
    match facts.get("decoder"):
        case {"name": name}:
            shown["decoder"] = name
    match shown.get("labels"):
        case {"classes": list(classes)}:
            names = [str(one["name"]) for one in classes if isinstance(one, dict) and "name" in one]
            shown["labels"] = f"{len(names)} classes: {', '.join(names)}"
        case {"max_depth": float(farthest)}:
            shown["labels"] = f"depth up to {farthest:g} m"
        case _:
            shown.pop("labels", None)
    match facts.get("arch"):
        case {"name": name, "kwargs": {"embed_dim": width, "depth": depth}}:
            shown["arch"] = f"{name}, {depth} blocks of {width} channels"
        case {"name": name}:
            shown["arch"] = name
    match facts.get("input"):
        case {"height": height, "width": width, "bins": bins, "normaliser": normaliser}:
            shown["input"] = f"{height}x{width} pixels, {bins} bins, {normaliser}"
    match facts.get("stamp"):
        case {"labels": dict(labels), "draw": draw, "scored": scored}:
            count = sum(labels.values())
            shown["stamp"] = f"{count:,} labels of {len(labels)} sequences, {draw}, on {scored}"
    match facts.get("metrics"):
        case dict(metrics):
            main = {k: v for k, v in metrics.items() if not k.startswith("iou ")}
            shown["metrics"] = dict(list(main.items())[:METRICS])
            if left := len(metrics) - len(shown["metrics"]):
                shown["further metrics"] = f"{left} (--json lists all)"
    return shown
