"""Checkpoints: safetensors with a JSON description and a hash over the whole file inside it.

`encoder` files hold bare timm names: with the `arch` of the description,
``timm.create_model(name, checkpoint_path=FILE, **kwargs)`` loads them without ScaleEvent. In `task`
files the names of the encoder start with ``encoder.`` and those of the decoder, which are the names
of its origin, with ``decoder.``. `PLACE_PRIOR` is no weight but a baseline, see
`Decoder.place_prior`; files of before it lack it. A `task` file without the encoder is a head: it
names the `encoder` file beside it, whose hash must be the one that the head was trained on.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaleevent.config.catalog import DECODERS
from scaleevent.decoders import decoder_name
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder, described_encoder
from scaleevent.encoders.hub import weight_file
from scaleevent.errors import CheckpointError
from scaleevent.system.files import Json
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.sealed import BESIDE, PLACE_PRIOR, read_header
from scaleevent.training.tensors import floats, load_tensors, save_tensors, under


def save_encoder(path: Path, encoder: Encoder, description: Json) -> None:
    """Write an encoder with bare timm names, together with its input settings."""
    own = {"kind": "encoder"} | _described(encoder)
    save_tensors(path, encoder.vit.state_dict(), own | description)


def save_task(path: Path, decoder: Decoder, description: Json) -> None:
    """Write a task model with everything that is needed to rebuild it."""
    tensors = {f"encoder.{key}": value for key, value in decoder.encoder.vit.state_dict().items()}
    save_tensors(path, tensors | _head_tensors(decoder), _described_task(decoder) | description)


def save_head(path: Path, decoder: Decoder, encoder_file: Path, description: Json) -> None:
    """Write a task model without its encoder, which is a file of ours in the same folder."""
    known = read_header(encoder_file).description or {}
    beside = {"name": encoder_file.name, "sha256": known["sha256"]}
    own = _described_task(decoder) | {BESIDE: beside}
    save_tensors(path, _head_tensors(decoder), own | description)


def _described_task(decoder: Decoder) -> Json:
    described = {"name": decoder_name(decoder), "settings": decoder.settings}
    own: Json = {"kind": "task", "task": decoder.task, "decoder": described}
    return own | _described(decoder.encoder)


def _head_tensors(decoder: Decoder) -> dict[str, Tensor]:
    """Everything of a task model that is not its encoder."""
    tensors = {f"decoder.{key}": value for key, value in decoder.own_state().items()}
    if decoder.place_prior is not None:
        tensors[PLACE_PRIOR] = torch.from_numpy(decoder.place_prior)
    return tensors


@kept_random_state()
def load_task(path: Path | str) -> tuple[Decoder, Json]:
    """Load a task checkpoint: the model in evaluation mode, and its description.

    Args:
        path: As for `load_model`.

    Raises:
        CheckpointError: See `load_tensors`; or keys that do not fit.
        EnvironmentProblem: See `weight_file`.
    """
    path = weight_file(path, task=True)
    tensors, description = load_tensors(path, "task")
    return _task(tensors, description, path), description


@kept_random_state()
def load_encoder(path: Path | str) -> Encoder:
    """Load an encoder checkpoint, in evaluation mode, with the settings of its input.

    Args:
        path: As for `load_model`; of a task model on the hub, its encoder.

    Raises:
        CheckpointError: See `load_tensors`; or keys that do not fit.
        EnvironmentProblem: See `weight_file`.
    """
    path = weight_file(path)
    tensors, description = load_tensors(path, "encoder")
    return described_encoder(tensors, description, path).eval()


def load_model(path: Path | str, size: tuple[int, int] | None = None) -> Encoder | Decoder:
    """Load an encoder or a task model, whichever a checkpoint holds, in evaluation mode.

    Args:
        path: A .safetensors file written by ScaleEvent, ``embedded``, ``local-dir:FOLDER`` as
            `scaleevent export --format hub` writes it, or ``hf-hub:ORG/NAME[@REVISION]``.
        size: Rows and columns of the network input; None keeps the checkpoint's.

    Raises:
        CheckpointError: As `load_encoder` and `load_task`.
        EnvironmentProblem: See `weight_file`.
    """
    return load_described(path, size)[0]


@kept_random_state()
def load_described(
    path: Path | str, size: tuple[int, int] | None = None
) -> tuple[Encoder | Decoder, Json]:
    """`load_model`, and what the checkpoint says of itself."""
    path = weight_file(path, task=True)
    tensors, description = load_tensors(path, "encoder", "task")
    if description["kind"] == "task":
        model: Encoder | Decoder = _task(tensors, description, path)
    else:
        model = described_encoder(tensors, description, path).eval()
    encoder = model if isinstance(model, Encoder) else model.encoder
    if size is not None and encoder.input is not None:
        encoder.input = replace(encoder.input, height=size[0], width=size[1])
    return model, description


def _described(encoder: Encoder) -> Json:
    settings = asdict(encoder.input) if encoder.input else None
    return {"arch": dict(encoder.spec), "input": settings}


def _task(tensors: dict[str, Tensor], description: Json, path: Path | str) -> Decoder:
    """The task model of a file, in evaluation mode."""
    match description.get("decoder"):
        case {"name": str(name), "settings": dict(settings)} if all(
            isinstance(key, str) for key in settings
        ):
            pass
        case found:
            raise CheckpointError(
                "the description is not that of a task model", where=f"{path}, decoder",
                found=str(found)[:200], expected='{"name": ..., "settings": {...}}',
            )  # fmt: skip
    if name not in DECODERS:
        raise CheckpointError(
            "a decoder that this version does not have",
            where=path,
            found=name,
            expected=", ".join(DECODERS),
        )
    encoder = described_encoder(_encoder_tensors(tensors, description, path), description, path)
    try:
        decoder: Decoder = DECODERS[name].load()(encoder, **settings)
    except Exception as problem:  # any value of a setting may fail anywhere
        raise CheckpointError(
            "the decoder cannot be built from its description",
            where=f"{path}, decoder",
            found=f"{settings}: {getattr(problem, 'what', problem)}"[:400],
        ) from problem
    decoder.load_own(floats(under(tensors, "decoder.")), path)
    decoder.place_prior = _place_prior(tensors, decoder.task, path)
    return decoder.eval()


def _encoder_tensors(
    tensors: dict[str, Tensor], description: Json, path: Path | str
) -> dict[str, Tensor]:
    """Those of the encoder in a task file, or in the file beside it that a head names."""
    beside = description.get(BESIDE)
    if beside is None:
        return under(tensors, "encoder.")
    match beside:
        case {"name": str(name), "sha256": str(sha256)} if Path(name).name == name:
            found, known = load_tensors(Path(path).parent / name, "encoder")
        case _:
            raise CheckpointError(
                "the description is not that of a head", where=f"{path}, {BESIDE}",
                found=str(beside)[:200], expected='{"name": ..., "sha256": ...}',
            )  # fmt: skip
    if known["sha256"] != sha256:
        raise CheckpointError(
            "a head of another encoder", where=path, found=f"{name} with SHA-256 {known['sha256']}",
            expected=sha256,
        )  # fmt: skip
    return found


def _place_prior(tensors: dict[str, Tensor], task: str, path: Path | str) -> np.ndarray | None:
    """The baseline that a task file holds, if it does."""
    found = tensors.get(PLACE_PRIOR)
    if found is None:
        return None
    dtype = torch.uint8 if task == "segmentation" else torch.float16
    leading = (2,) if task == "flow" else ()
    shape = tuple(found.shape)
    if found.dtype != dtype or len(shape) != len(leading) + 2 or shape[:-2] != leading:
        raise CheckpointError(
            "the place prior is not one of this task", where=f"{path}, {PLACE_PRIOR}",
            found=f"{found.dtype} {shape}", expected=f"{dtype} {(*leading, 'h', 'w')}",
        )  # fmt: skip
    return found.numpy()
