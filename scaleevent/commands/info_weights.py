"""What `scaleevent info` tells of a weight file, without torch: only what was read and checked."""

from __future__ import annotations

from math import prod
from pathlib import Path

from scaleevent.system.files import Json
from scaleevent.system.sealed import PLACE_PRIOR, read_header

FACTS = (  # keys of a checkpoint's description that are shown
    "version", "step", "task", "benchmark", "protocol", "decoder", "arch", "input", "teacher",
    "token_scale", "structure", "metrics", "stamp", "sha256",
)  # fmt: skip


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
