"""Checkpoints: safetensors with a JSON description and a content hash inside the file.

`encoder` files hold bare timm names, so ``timm.create_model(name, checkpoint_path=FILE)`` loads
them without ScaleEvent. In `task` files the names of the encoder start with ``encoder.`` and those
of the decoder, which are the names of its origin, with ``decoder.``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scaleevent.config.catalog import DECODERS
from scaleevent.decoders import decoder_name
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder, checked_spec
from scaleevent.errors import CheckpointError
from scaleevent.grids.inputs import InputSettings
from scaleevent.training.tensors import floats, load_tensors, read_description, save_tensors, under


def save_encoder(path: Path, encoder: Encoder, description: dict[str, Any]) -> None:
    """Write an encoder with bare timm names, together with its input settings."""
    own = {"kind": "encoder"} | _described(encoder)
    save_tensors(path, encoder.vit.state_dict(), own | description)


def save_task(path: Path, decoder: Decoder, description: dict[str, Any]) -> None:
    """Write a task model with everything that is needed to rebuild it."""
    encoder = decoder.encoder
    own = {
        "kind": "task",
        "task": decoder.task,
        "decoder": {"name": decoder_name(decoder), "settings": decoder.settings},
        **_described(encoder),
    }
    tensors = {f"encoder.{key}": value for key, value in encoder.vit.state_dict().items()}
    tensors |= {f"decoder.{key}": value for key, value in decoder.own_state().items()}
    save_tensors(path, tensors, own | description)


def load_task(path: Path | str) -> tuple[Decoder, dict[str, Any]]:
    """Load a task checkpoint: the model in evaluation mode, and its description.

    Raises:
        CheckpointError: See `load_tensors`; or keys that do not fit.
    """
    tensors, description = load_tensors(Path(path), "task")
    encoder = _encoder(under(tensors, "encoder."), description, path)
    part = DECODERS.get(description["decoder"]["name"])
    if part is None:
        raise CheckpointError(
            "a decoder that this version does not have",
            where=path,
            found=description["decoder"]["name"],
            expected=", ".join(DECODERS),
        )
    decoder: Decoder = part.load()(encoder, **description["decoder"]["settings"])
    decoder.load_own(floats(under(tensors, "decoder.")), path)
    return decoder.eval(), description


def load_encoder(path: Path | str) -> Encoder:
    """Load an encoder checkpoint, in evaluation mode, with the settings of its input.

    Raises:
        CheckpointError: See `load_tensors`; or keys that do not fit.
    """
    tensors, description = load_tensors(Path(path), "encoder")
    return _encoder(tensors, description, path).eval()


def load_model(
    path: Path | str, size: tuple[int, int] | None = None
) -> tuple[Encoder | Decoder, dict[str, Any]]:
    """Load an encoder or task checkpoint, whichever it is, and its description.

    Args:
        path: A .safetensors file written by ScaleEvent.
        size: Rows and columns of the network input; None keeps the checkpoint's.

    Raises:
        CheckpointError: As `load_encoder` and `load_task`.
    """
    description = read_description(Path(path)) or {}
    is_task = description.get("kind") == "task"
    model = load_task(path)[0] if is_task else load_encoder(path)
    encoder = model if isinstance(model, Encoder) else model.encoder
    if size is not None and encoder.input is not None:
        encoder.input = replace(encoder.input, height=size[0], width=size[1])
    return model, description


def _described(encoder: Encoder) -> dict[str, Any]:
    settings = asdict(encoder.input) if encoder.input else None
    return {"arch": dict(encoder.spec), "input": settings}


def _encoder(tensors: dict[str, Tensor], description: dict[str, Any], path: Path | str) -> Encoder:
    encoder = Encoder(checked_spec(description["arch"]))
    encoder.load(floats(tensors), path)
    settings = description.get("input")
    encoder.input = InputSettings(**settings) if settings else None
    return encoder
