"""Checkpoints to files that run elsewhere, each compared with its checkpoint before it is kept.

`safetensors` and `meta` are weights, under timm's and under Meta's names; `hub` is a folder for the
Hugging Face hub; `exported` (torch.export, .pt2) and `onnx` are whole programs that run without
ScaleEvent, `onnx-fp16` and `onnx-int8` the same at reduced precision. Every file stores the
metadata of `LoadedCheckpoint.about`, which explains its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from scaleevent.config.export import EXPORT_FORMATS
from scaleevent.decoders.decoder import Decoder
from scaleevent.deployment.artifact import Artifact
from scaleevent.deployment.hub_folder import hub_artifacts
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.deployment.programs import exported_file, onnx_file, trace, translate
from scaleevent.deployment.reduced import FP16, INT8, LIMITS, reduced_file
from scaleevent.deployment.weight_files import decoder_file, meta_file, own_encoder_file
from scaleevent.errors import MissingPackageError

EXACT = tuple(name for name in EXPORT_FORMATS if name not in (*LIMITS, "hub"))
"""Those of "all": the others lose something, or are a folder of their own."""
_ONNX = ("onnx", "onnxscript", "onnxruntime")
PACKAGES = {"onnx": _ONNX, FP16: _ONNX, INT8: _ONNX}  # optional packages that a format needs


def writable(asked: str) -> tuple[list[str], dict[str, MissingPackageError]]:
    """The formats that can be written here, and why others are left out.

    Args:
        asked: Formats with commas between; or "all", of which those without their packages are left
            out.

    Raises:
        MissingPackageError: One format is asked for, and a package is missing.
    """
    missing = {
        name: MissingPackageError(package, "export", f"the format {name}")
        for name, packages in PACKAGES.items()
        for package in packages
        if find_spec(package) is None
    }
    if asked == "all":
        left = {name: error for name, error in missing.items() if name in EXACT}
        return [name for name in EXACT if name not in left], left
    names = asked.split(",")
    for name in names:
        if name in missing:
            raise missing[name]
    return names, missing


def artifacts(
    checkpoint: LoadedCheckpoint, formats: Sequence[str], samples: int | None = None
) -> list[Artifact]:
    """The files of the given formats: traced and converted, not yet written.

    Args:
        checkpoint: What is exported.
        formats: Of `EXPORT_FORMATS`.
        samples: How many the programs take at once; None for any number, where that is possible.

    Raises:
        CheckpointError: The model cannot be converted to one of the formats.
    """
    found: list[Artifact] = []
    model = checkpoint.predictor.model
    if "safetensors" in formats:
        found.append(own_encoder_file(checkpoint))
        if isinstance(model, Decoder):
            found.append(decoder_file(checkpoint, model))
    if "hub" in formats:
        found += hub_artifacts(checkpoint)
    if "meta" in formats:
        found.append(meta_file(checkpoint))
    return found + _programs(checkpoint, formats, samples)


def _programs(
    checkpoint: LoadedCheckpoint, formats: Sequence[str], samples: int | None
) -> list[Artifact]:
    """Whole programs: the model is traced once, and translated once."""
    translated = [name for name in formats if name in PACKAGES]
    if not translated and "exported" not in formats:
        return []
    program, any_batch = trace(checkpoint.deployed, samples)
    samples = None if any_batch else samples or 1
    stem = checkpoint.deployed.task + (f"_batch{samples}" if samples else "")
    found = []
    if "exported" in formats:
        found.append(exported_file(stem, program, checkpoint, samples))
    if translated:
        converted = translate(program, checkpoint, samples)
        if "onnx" in translated:
            found.append(onnx_file(stem, converted, checkpoint, samples))
        reduced = [name for name in translated if name in LIMITS]
        found += [reduced_file(name, stem, converted, checkpoint, samples) for name in reduced]
    return found
