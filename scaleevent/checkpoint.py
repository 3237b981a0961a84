"""Checkpoints: safetensors with a JSON description and a content hash inside the file.

`encoder` files hold bare timm names, so ``timm.create_model(name, checkpoint_path=FILE)`` loads
them without us. `task` files hold an encoder under ``encoder.`` and a decoder, under the names of
its origin, behind ``decoder.``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import scaleevent
from scaleevent.decoders import DECODERS
from scaleevent.decoders.decoder import Decoder
from scaleevent.durable import atomic_path
from scaleevent.encoder import Encoder
from scaleevent.errors import CheckpointError
from scaleevent.inputs import InputSettings

FORMAT = 1
KEY = "scaleevent"
HINTS = {
    ("encoder", "task"): "an encoder gets a task by `scaleevent probe` or `scaleevent finetune`",
    ("task", "encoder"): "`scaleevent export --format safetensors` takes the encoder out of it",
}


def save_tensors(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write tensors and their description atomically.

    Args:
        path: A .safetensors file.
        tensors: By name; copied to the CPU.
        description: JSON-able; `format`, `version` and `sha256` of the tensors are added.

    Raises:
        CheckpointError: A value is not finite: such a state is never written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    bad = [n for n, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise CheckpointError("weights are not finite, so not saved", where=path, found=bad[:8])
    described = {
        "format": FORMAT,
        "version": scaleevent.__version__,
        **description,
        "sha256": content_hash(tensors),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(described)})


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of ours and check it.

    Args:
        path: A .safetensors file.
        kind: What it must be: `encoder`, `task` or `state`.

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
            expected=f"format {FORMAT} of {scaleevent.__version__}",
        )  # fmt: skip
    if description["kind"] != kind:
        raise CheckpointError(
            "another kind of checkpoint",
            where=path,
            found=description["kind"],
            expected=kind,
            hint=HINTS.get((description["kind"], kind)),
        )
    if description["sha256"] != content_hash(tensors):
        raise CheckpointError("the weights have changed since they were written", where=path)
    return tensors, description


def read_description(path: Path) -> dict[str, Any] | None:
    """What a checkpoint of ours says about itself, without its tensors; None for other files."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return json.loads(metadata[KEY]) if KEY in metadata else None


def content_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_encoder(path: Path, encoder: Encoder, description: dict[str, Any]) -> None:
    """Write an encoder with bare timm names; its input settings go along."""
    settings = asdict(encoder.input) if encoder.input else None
    own = {"kind": "encoder", "arch": dict(encoder.spec), "input": settings}
    save_tensors(path, encoder.vit.state_dict(), own | description)


def save_task(path: Path, decoder: Decoder, description: dict[str, Any]) -> None:
    """Write a task model with everything that rebuilds it."""
    encoder = decoder.encoder
    name = next(name for name, kind in DECODERS.items() if type(decoder) is kind)
    own = {
        "kind": "task",
        "task": decoder.task,
        "decoder": {"name": name, "settings": decoder.settings},
        "arch": dict(encoder.spec),
        "input": asdict(encoder.input) if encoder.input else None,
    }
    tensors = {f"encoder.{key}": value for key, value in encoder.vit.state_dict().items()}
    tensors |= {f"decoder.{key}": value for key, value in decoder.own_state().items()}
    save_tensors(path, tensors, own | description)


def load_task(path: Path | str) -> tuple[Decoder, dict[str, Any]]:
    """A task model of ours in evaluation mode, and its description.

    Raises:
        CheckpointError: See `load_tensors`; or keys that do not fit.
    """
    tensors, description = load_tensors(Path(path), "task")
    encoder = Encoder.from_spec(description["arch"])
    encoder.load(_under(tensors, "encoder."), path)
    encoder.input = InputSettings(**description["input"])
    kind = DECODERS.get(description["decoder"]["name"])
    if kind is None:
        raise CheckpointError(
            "a decoder that this version does not have",
            where=path,
            found=description["decoder"]["name"],
            expected=", ".join(DECODERS),
        )
    decoder = kind(encoder, **description["decoder"]["settings"])
    decoder.load_own(_under(tensors, "decoder."), path)
    return decoder.eval(), description


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors behind a prefix, as float32 where they are numbers."""
    return {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def load_encoder(path: Path | str) -> Encoder:
    """An encoder of ours, in evaluation mode, that knows its own preprocessing.

    Raises:
        CheckpointError: See `load_tensors`; or keys that do not fit.
    """
    tensors, description = load_tensors(Path(path), "encoder")
    settings = description.get("input")
    encoder = Encoder.from_spec(description["arch"])
    encoder.load({name: value.float() for name, value in tensors.items()}, path)
    encoder.input = InputSettings(**settings) if settings else None
    return encoder.eval()
