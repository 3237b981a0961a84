"""Tensors with a JSON description and a content hash in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scaleevent.errors import CheckpointError
from scaleevent.system.files import Json, atomic_path
from scaleevent.version import __version__

FORMAT = 1
KEY = "scaleevent"
_HINTS = {
    ("encoder", "task"): "an encoder gets a task by `scaleevent probe` or `scaleevent finetune`",
    ("task", "encoder"): "`scaleevent export --format safetensors` takes the encoder out of it",
}


def save_tensors(path: Path, tensors: dict[str, Tensor], description: Json) -> None:
    """Write tensors and their description to a .safetensors file, atomically.

    `format`, `version` and `sha256` of the tensors are added to the description.

    Raises:
        CheckpointError: A value is not finite: such a state is never written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    bad = [n for n, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise CheckpointError("weights are not finite, so not saved", where=path, found=bad[:8])
    described = {"format": FORMAT, "version": __version__, **description}
    described["sha256"] = content_hash(tensors)
    with atomic_path(path, sum(value.nbytes for value in tensors.values())) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(described)})


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], Json]:
    """Read a .safetensors file of ours and check it; `kind` is `encoder`, `task` or `state`.

    Raises:
        CheckpointError: Not ours, of another kind or a newer format, truncated, or changed.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError("file not found", where=path) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError("not a whole safetensors file", where=path, found=error) from None
    if KEY not in metadata:
        raise CheckpointError(
            "not a ScaleEvent checkpoint",
            where=path,
            found="a safetensors file without our description",
            hint="weights of other origins are read by --teacher and build_encoder",
        )
    description = json.loads(metadata[KEY])
    if description["format"] > FORMAT:
        raise CheckpointError(
            "written by a newer version", where=path, found=description["version"],
            expected=f"format {FORMAT} of {__version__}",
        )  # fmt: skip
    check_kind(description, kind, path)
    if description["sha256"] != content_hash(tensors):
        raise CheckpointError("the weights have changed since they were written", where=path)
    return tensors, description


def read_description(path: Path) -> Json | None:
    """What a checkpoint of ours says about itself, without its tensors; None for other files."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return json.loads(metadata[KEY]) if KEY in metadata else None


def check_kind(description: Json, kind: str, path: Path) -> None:
    """Refuse a checkpoint of another kind than `encoder`, `task` or `state`, naming both."""
    found = description["kind"]
    if found != kind:
        raise CheckpointError(
            "another kind of checkpoint", where=path, found=found, expected=kind,
            hint=_HINTS.get((found, kind)),
        )  # fmt: skip


def content_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors behind a prefix, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Numbers as float32, whatever the file holds; the rest as it is."""
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
