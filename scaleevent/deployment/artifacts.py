"""Checkpoints to files that run elsewhere, each compared with its checkpoint before it is kept.

`safetensors` and `meta` are weights, under timm's and under Meta's names; `hub` is a folder for the
Hugging Face hub; `exported` (torch.export, .pt2) and `onnx` are whole programs that run without
ScaleEvent. Every file stores the metadata of `describe`, which explains its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from scaleevent.decoders.decoder import Decoder
from scaleevent.deployment.artifact import Artifact
from scaleevent.deployment.hub_folder import hub_artifacts
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.deployment.programs import exported_file, onnx_file, trace
from scaleevent.deployment.weight_files import decoder_file, meta_file, own_encoder_file
from scaleevent.errors import MissingPackageError

FORMATS = ("safetensors", "meta", "exported", "onnx", "hub")
APART = ("hub",)  # not among "all": a folder of its own
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # optional packages that a format needs


def writable(asked: str) -> tuple[list[str], dict[str, MissingPackageError]]:
    """The formats that can be written here, and why others are left out.

    Args:
        asked: A format; or "all", of which those without their packages are left out.

    Raises:
        MissingPackageError: One format is asked for, and a package is missing.
    """
    missing = {
        name: MissingPackageError(package, "export", f"the format {name}")
        for name, packages in PACKAGES.items()
        for package in packages
        if find_spec(package) is None
    }
    if asked in missing:
        raise missing[asked]
    if asked != "all":
        return [asked], missing
    return [name for name in FORMATS if name not in {*missing, *APART}], missing


def artifacts(checkpoint: LoadedCheckpoint, formats: Sequence[str]) -> list[Artifact]:
    """The files of the given formats: traced and converted, not yet written.

    Raises:
        CheckpointError: The model cannot be converted to one of the formats.
    """
    found: list[Artifact] = []
    model, deployed = checkpoint.predictor.model, checkpoint.deployed
    if "safetensors" in formats:
        found.append(own_encoder_file(checkpoint))
        if isinstance(model, Decoder):
            found.append(decoder_file(checkpoint, model))
    if "hub" in formats:
        found += hub_artifacts(checkpoint)
    if "meta" in formats:
        found.append(meta_file(checkpoint))
    if "exported" in formats or "onnx" in formats:
        program, any_batch = trace(deployed)
        stem = deployed.task if any_batch else f"{deployed.task}_batch1"
        if "exported" in formats:
            found.append(exported_file(stem, program, checkpoint, any_batch))
        if "onnx" in formats:
            found.append(onnx_file(stem, program, checkpoint, any_batch))
    return found
