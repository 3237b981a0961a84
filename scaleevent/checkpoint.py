"""Checkpoints: safetensors with a JSON description and a content hash inside the file.

`encoder` files hold bare timm names, so ``timm.create_model(name, checkpoint_path=FILE)`` loads
them without us. `task` files hold an encoder under ``encoder.`` and a decoder, under the names of
its origin, behind ``decoder.``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaleevent.config.catalog import DECODERS
from scaleevent.decoders import decoder_name
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import CheckpointError
from scaleevent.grids.inputs import InputSettings
from scaleevent.training.tensors import floats, load_tensors, save_tensors, under


def save_encoder(path: Path, encoder: Encoder, description: dict[str, Any]) -> None:
    """Write an encoder with bare timm names; its input settings go along."""
    settings = asdict(encoder.input) if encoder.input else None
    own = {"kind": "encoder", "arch": dict(encoder.spec), "input": settings}
    save_tensors(path, encoder.vit.state_dict(), own | description)


def save_task(path: Path, decoder: Decoder, description: dict[str, Any]) -> None:
    """Write a task model with everything that rebuilds it."""
    encoder = decoder.encoder
    own = {
        "kind": "task",
        "task": decoder.task,
        "decoder": {"name": decoder_name(decoder), "settings": decoder.settings},
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
    encoder.load(floats(under(tensors, "encoder.")), path)
    encoder.input = InputSettings(**description["input"])
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
    """An encoder of ours, in evaluation mode, that knows its own preprocessing.

    Raises:
        CheckpointError: See `load_tensors`; or keys that do not fit.
    """
    tensors, description = load_tensors(Path(path), "encoder")
    settings = description.get("input")
    encoder = Encoder.from_spec(description["arch"])
    encoder.load(floats(tensors), path)
    encoder.input = InputSettings(**settings) if settings else None
    return encoder.eval()
