"""A checkpoint's weights alone, under timm's and under Meta's names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleevent.checkpoint import load_encoder, save_encoder
from scaleevent.decoders.decoder import Decoder
from scaleevent.deployment.artifact import Artifact
from scaleevent.deployment.parity import Run
from scaleevent.deployment.program import Deployed, LoadedCheckpoint
from scaleevent.encoders.encoder import Encoder, build_encoder
from scaleevent.encoders.weights import convert_weights
from scaleevent.errors import CheckpointError
from scaleevent.training.tensors import load_tensors, save_tensors


def encoder_file(
    checkpoint: LoadedCheckpoint, name: str, format: str, reload: Callable[[Path], Run]
) -> Artifact:
    """The encoder as an encoder checkpoint, which timm can load too.

    Args:
        checkpoint: What is exported.
        name: Of the file.
        format: One of `FORMATS`.
        reload: Loads the file as its users do.
    """

    def write(path: Path) -> None:
        save_encoder(path, checkpoint.predictor.encoder, _encoder_description(checkpoint))

    return Artifact(name, format, checkpoint.deployed_encoder, write, reload)


def own_encoder_file(checkpoint: LoadedCheckpoint) -> Artifact:
    """`encoder_file`, loaded by ScaleEvent."""

    def reload(path: Path) -> Run:
        return Deployed(load_encoder(path), checkpoint.deployed.size)

    return encoder_file(checkpoint, "encoder.safetensors", "safetensors", reload)


def decoder_file(checkpoint: LoadedCheckpoint, decoder: Decoder) -> Artifact:
    """The decoder's own tensors, under the names of its origin."""

    def write(path: Path) -> None:
        save_tensors(path, decoder.own_state(), {"kind": "decoder", "export": checkpoint.about})

    def reload(path: Path) -> Run:
        tensors, _ = load_tensors(path, "decoder")
        again = type(decoder)(decoder.encoder, **decoder.settings)
        again.load_own(tensors, path)
        return Deployed(again.eval(), checkpoint.deployed.size)

    return Artifact("decoder.safetensors", "safetensors", checkpoint.deployed, write, reload)


def meta_file(checkpoint: LoadedCheckpoint) -> Artifact:
    """The encoder under Meta's names."""
    tensors = meta_tensors(checkpoint.predictor.encoder)
    own = {
        "kind": "encoder",
        "layout": "meta",
        "arch": dict(checkpoint.predictor.encoder.spec),
        "input": asdict(checkpoint.predictor.settings),
        "export": checkpoint.about,
    }

    def write(path: Path) -> None:
        save_tensors(path, tensors, own | _encoder_description(checkpoint))

    def reload(path: Path) -> Run:
        encoder = build_encoder(weights=path, keep_periods=True)
        return Deployed(encoder.eval(), checkpoint.deployed.size)

    return Artifact("encoder_meta.safetensors", "meta", checkpoint.deployed_encoder, write, reload)


def meta_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The weights of a DINOv3 encoder under Meta's names, every tensor of Meta's module.

    The inverse of `convert_weights`. Meta's module has more than the network uses: a mask token
    (zeros here), a bias of queries, keys and values (zeros if the encoder has none) with a mask
    that keeps it for queries and values only, and the rotary periods
    (facebookresearch/dinov3:dinov3/models/vision_transformer.py, dinov3/layers/attention.py).

    Raises:
        CheckpointError: Not a DINOv3 network.
    """
    state = encoder.vit.state_dict()
    width = encoder.width
    zeros = torch.zeros(width)
    tensors = {"mask_token": torch.zeros(1, width)}
    periods = getattr(getattr(encoder.vit, "rope", None), "periods", None)
    if periods is not None:
        tensors["rope_embed.periods"] = periods.float()
    for i in range(encoder.depth):
        attention = f"blocks.{i}.attn"
        query, value = (state.pop(f"{attention}.{part}_bias", zeros) for part in "qv")
        tensors[f"{attention}.qkv.bias"] = torch.cat([query, zeros, value])
        tensors[f"{attention}.qkv.bias_mask"] = torch.cat([zeros + 1, zeros, zeros + 1])
    for name, tensor in state.items():
        name = re.sub(r"^reg_token$", "storage_tokens", name)
        tensors[re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name)] = tensor
    if periods is None or "storage_tokens" not in tensors:
        raise CheckpointError(
            "Meta's names exist for DINOv3 networks only",
            found=encoder.spec["name"],
            hint="--format safetensors keeps timm's names",
        )
    convert_weights(tensors)
    return tensors


def _encoder_description(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """How the encoder was trained, as far as the checkpoint records it, and the export.

    `data` names the recordings of its training, so that benchmarks can refuse to test on them.
    """
    known, export = checkpoint.description, {"export": checkpoint.about}
    if isinstance(checkpoint.predictor.model, Encoder):
        pretrained = (
            "teacher", "token_scale", "structure", "config", "data", "window", "step", "metrics",
        )  # fmt: skip
        return {key: known[key] for key in pretrained if key in known} | export
    finetuned = ("benchmark", "protocol", "config", "encoder", "teacher", "data", "metrics")
    before = known.get("pretraining", {})
    seen = {*before.get("recordings", ()), *known.get("data", {}).get("recordings", ())}
    return {
        "data": before | {"recordings": sorted(seen)},
        "finetuned": {key: known[key] for key in finetuned if key in known},
        **{key: known[key] for key in ("window",) if key in known},
        **export,
    }
