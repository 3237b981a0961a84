"""A checkpoint as a folder for the Hugging Face hub, which timm loads without ScaleEvent.

timm reads `config.json` and the encoder in `model.safetensors`. A task model lies beside them as a
whole, in `task.safetensors`, so that ScaleEvent loads it by the same name. Both weight files are
sealed as every checkpoint is. timm keeps no rotary periods: it computes those of the architecture,
and so does ScaleEvent for its students.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm

from scaleevent.checkpoint import load_task, save_task
from scaleevent.decoders.decoder import Decoder
from scaleevent.deployment.artifact import Artifact
from scaleevent.deployment.licence import licence_of
from scaleevent.deployment.parity import Run
from scaleevent.deployment.program import Deployed, LoadedCheckpoint
from scaleevent.deployment.weight_files import encoder_file
from scaleevent.encoders.encoder import Encoder
from scaleevent.encoders.tensor_files import read_tensors
from scaleevent.system.files import Json
from scaleevent.system.hub_folders import ALWAYS, OURS, TASK, WEIGHTS
from scaleevent.system.sealed import BESIDE
from scaleevent.version import __version__

# keys of a task checkpoint that `save_task` and the file format write
_WRITTEN = {"kind", "task", "decoder", "arch", "input", "format", "version", "sha256", BESIDE}


def hub_artifacts(checkpoint: LoadedCheckpoint) -> list[Artifact]:
    """The weight files of the folder: the encoder, and the task model where there is one."""
    files = [encoder_file(checkpoint, WEIGHTS, "hub", reload=_by_timm(checkpoint))]
    model = checkpoint.predictor.model
    if isinstance(model, Decoder):
        files.append(_task_file(checkpoint, model))
    return files


def hub_config(checkpoint: LoadedCheckpoint) -> Json:
    """The keys of config.json: the network and its images as timm reads them, and our own."""
    encoder, settings = checkpoint.predictor.encoder, checkpoint.predictor.settings
    task = isinstance(checkpoint.predictor.model, Decoder)
    return {
        "architecture": encoder.spec["name"],
        "num_classes": 0,
        "num_features": encoder.width,
        "model_args": _arguments(encoder),
        "pretrained_cfg": {
            "tag": "scaleevent",
            "custom_load": False,
            "input_size": [3, settings.height, settings.width],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": list(settings.mean),
            "std": list(settings.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": licence_of(checkpoint.description).front["license"],
        },
        OURS: {
            "kind": "task" if task else "encoder",
            "version": __version__,
            "model": checkpoint.about,
        },
    }


def hub_notes(checkpoint: LoadedCheckpoint, folder: Path) -> list[str]:
    """Lines for the user: how the folder is loaded, handed up and under which licence."""
    name = json.dumps(f"local-dir:{folder}", ensure_ascii=False)
    lines = [
        f"timm: timm.create_model({name}, pretrained=True)",
        f"ScaleEvent: scaleevent.Predictor.load({name})",
        f"on the hub: `hf upload ORG/NAME {folder}`, then hf-hub:ORG/NAME in both lines",
    ]
    reminder = licence_of(checkpoint.description).reminder
    return [*lines, reminder] if reminder else lines


def _arguments(encoder: Encoder) -> Json:
    """Those of `timm.create_model`."""
    return {**ALWAYS, **encoder.spec["kwargs"]}


def _by_timm(checkpoint: LoadedCheckpoint) -> Callable[[Path], Run]:
    """Loads the encoder as timm does: by its architecture, and every name must fit."""

    def reload(path: Path) -> Run:
        encoder = checkpoint.predictor.encoder
        vit: Any = timm.create_model(encoder.spec["name"], **_arguments(encoder))
        vit.load_state_dict(read_tensors(path)[0])
        vit.eval()
        return lambda voxel: vit.forward_features(voxel)[:, vit.num_prefix_tokens :]

    return reload


def _task_file(checkpoint: LoadedCheckpoint, decoder: Decoder) -> Artifact:
    """The whole task checkpoint: the same bytes as its run's where its input size is kept."""
    known = checkpoint.description
    own = {key: value for key, value in known.items() if key not in _WRITTEN}

    def write(path: Path) -> None:
        save_task(path, decoder, own | {"version": known["version"]})

    def reload(path: Path) -> Run:
        return Deployed(load_task(path)[0], checkpoint.deployed.size)

    return Artifact(TASK, "hub", checkpoint.deployed, write, reload)
