"""Checkpoints to files that run elsewhere, each compared with its checkpoint before it is kept.

`safetensors` and `meta` are weights, under timm's and under Meta's names; `exported` (torch.export,
.pt2) and `onnx` are whole programs that run without ScaleEvent. Every file stores the metadata of
`describe`, which explains its inputs and outputs.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from scaleevent.checkpoint import load_encoder, save_encoder
from scaleevent.decoders.decoder import Decoder
from scaleevent.deployment.parity import Parity, Run
from scaleevent.deployment.program import Deployed, LoadedCheckpoint
from scaleevent.encoders.encoder import Encoder, build_encoder
from scaleevent.encoders.weights import convert_weights
from scaleevent.errors import CheckpointError, MissingPackageError
from scaleevent.system.files import SteadyFile, staged, writing
from scaleevent.system.sealed import KEY
from scaleevent.training.tensors import load_tensors, save_tensors

FORMATS = ("safetensors", "meta", "exported", "onnx")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # optional packages that a format needs
EXTRA_FILE = f"{KEY}.json"  # the metadata inside a .pt2
OPSET = 18  # the ONNX operator set that torch.onnx translates to without a later conversion


@dataclass(frozen=True)
class Artifact:
    """A file to write, and how to load and run it.

    Attributes:
        name: File name.
        format: One of `FORMATS`.
        reference: The model whose outputs the file must reproduce.
        write: Writes the file.
        reload: Loads the file as its users do.
        any_batch: Whether it takes any number of samples, or exactly one.
    """

    name: str
    format: str
    reference: Deployed
    write: Callable[[Path], None]
    reload: Callable[[Path], Run]
    any_batch: bool = True


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
    return [name for name in FORMATS if asked in ("all", name) and name not in missing], missing


def artifacts(checkpoint: LoadedCheckpoint, formats: Sequence[str]) -> list[Artifact]:
    """The files of the given formats: traced and converted, not yet written.

    Raises:
        CheckpointError: The model cannot be converted to one of the formats.
    """
    found: list[Artifact] = []
    model, deployed = checkpoint.predictor.model, checkpoint.deployed
    if "safetensors" in formats:
        found.append(_encoder_file(checkpoint))
        if isinstance(model, Decoder):
            found.append(_decoder_file(checkpoint, model))
    if "meta" in formats:
        found.append(_meta_file(checkpoint))
    if "exported" in formats or "onnx" in formats:
        program, any_batch = trace(deployed)
        stem = deployed.task if any_batch else f"{deployed.task}_batch1"
        if "exported" in formats:
            found.append(_exported_file(stem, program, checkpoint, any_batch))
        if "onnx" in formats:
            found.append(_onnx_file(stem, program, checkpoint, any_batch))
    return found


def write_checked(
    files: Sequence[Artifact], folder: Path, parity: Parity, advance: Callable[[], None]
) -> dict[str, float]:
    """Write, reload and compare all files; they are renamed into place only if all of them pass.

    Args:
        files: From `artifacts`.
        folder: Where they are written.
        parity: Compares their outputs with those of the checkpoint.
        advance: Called after each file.

    Returns:
        By file name, the largest difference as a fraction of the checkpoint's largest value.

    Raises:
        CheckpointError: A file computes something else; the message gives the difference.
        EnvironmentProblem: The folder cannot be written.
    """
    differences = {}
    with ExitStack() as files_to_be:
        for file in files:
            path = files_to_be.enter_context(staged(folder / file.name))
            with writing(folder / file.name):
                file.write(path)
            try:
                differences[file.name] = parity.difference(
                    file.reference, file.reload(path), any_batch=file.any_batch
                )
            except CheckpointError as problem:
                problem.what, problem.where = f"not exported: {problem.what}", file.name
                raise
            advance()
    return differences


def trace(model: Deployed) -> tuple[ExportedProgram, bool]:
    """Trace the model, for any number of samples where its code allows that, else for one.

    Returns:
        The program, and whether it takes any number of samples.

    Raises:
        CheckpointError: The model's code cannot be traced.
    """
    samples = Dim("samples", min=1)
    for any_batch in (True, False):
        count = 2 if any_batch else 1  # torch.export would treat a size of 1 as a constant
        inputs = tuple(torch.zeros(count, 3, *model.size) for _ in model.inputs)
        shapes = tuple({0: samples} for _ in inputs) if any_batch else None
        try:
            with torch.no_grad():
                return torch.export.export(model, inputs, dynamic_shapes=shapes), any_batch
        except Exception as error:  # any operation of the model may fail
            problem = error
    raise CheckpointError(
        "torch.export cannot trace this model",
        found=str(problem).strip().partition("\n")[0],
        hint="--format safetensors exports its weights",
    ) from problem


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


def _encoder_file(checkpoint: LoadedCheckpoint) -> Artifact:
    """The encoder as an encoder checkpoint, which timm can load too."""

    def write(path: Path) -> None:
        save_encoder(path, checkpoint.predictor.encoder, _encoder_description(checkpoint))

    def reload(path: Path) -> Run:
        return Deployed(load_encoder(path), checkpoint.deployed.size)

    reference = checkpoint.deployed_encoder
    return Artifact("encoder.safetensors", "safetensors", reference, write, reload)


def _decoder_file(checkpoint: LoadedCheckpoint, decoder: Decoder) -> Artifact:
    """The decoder's own tensors, under the names of its origin."""

    def write(path: Path) -> None:
        save_tensors(path, decoder.own_state(), {"kind": "decoder", "export": checkpoint.about})

    def reload(path: Path) -> Run:
        tensors, _ = load_tensors(path, "decoder")
        again = type(decoder)(decoder.encoder, **decoder.settings)
        again.load_own(tensors, path)
        return Deployed(again.eval(), checkpoint.deployed.size)

    return Artifact("decoder.safetensors", "safetensors", checkpoint.deployed, write, reload)


def _meta_file(checkpoint: LoadedCheckpoint) -> Artifact:
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


def _encoder_description(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """How the encoder was trained, as far as the checkpoint records it, and the export.

    `data` names the recordings of its training, so that benchmarks can refuse to test on them.
    """
    known, export = checkpoint.description, {"export": checkpoint.about}
    if isinstance(checkpoint.predictor.model, Encoder):
        pretrained = ("teacher", "token_scale", "structure", "config", "data", "step", "metrics")
        return {key: known[key] for key in pretrained if key in known} | export
    finetuned = ("benchmark", "protocol", "config", "encoder", "data")
    before = known.get("pretraining", {})
    seen = {*before.get("recordings", ()), *known.get("data", {}).get("recordings", ())}
    return {
        "data": before | {"recordings": sorted(seen)},
        "finetuned": {key: known[key] for key in finetuned if key in known},
        **export,
    }


def _exported_file(
    stem: str, program: ExportedProgram, checkpoint: LoadedCheckpoint, any_batch: bool
) -> Artifact:
    """The program in the format of torch.export."""

    def write(path: Path) -> None:
        with SteadyFile(path) as file:
            extra = {EXTRA_FILE: json.dumps(checkpoint.about)}
            torch.export.save(program, file, extra_files=extra)
        file.check()

    def reload(path: Path) -> Run:
        with open(path, "rb") as file:
            return torch.export.load(file).module()

    return Artifact(f"{stem}.pt2", "exported", checkpoint.deployed, write, reload, any_batch)


def _onnx_file(
    stem: str, program: ExportedProgram, checkpoint: LoadedCheckpoint, any_batch: bool
) -> Artifact:
    """The program as ONNX, run by onnxruntime on the CPU."""
    from torch.onnx import errors

    model = checkpoint.deployed
    # the axis is shared by all inputs: naming it once names it for `after` too
    axes: dict[str, dict[int, str]] | None = None
    if any_batch:
        axes = {name: {0: "N"} if name == "voxel" else {} for name in model.inputs}
    logger = logging.getLogger("onnxscript")  # it warns of every operation that it does not fold
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=model.inputs,
            output_names=[model.output],
            dynamic_shapes=axes,
            verbose=False,
        )
    except errors.OnnxExporterError as problem:
        raise CheckpointError(
            "the model cannot be translated to ONNX",
            found=str(problem).strip().partition("\n")[0],
            hint="--format exported keeps torch's operations",
        ) from problem
    finally:
        logger.setLevel(level)
    if converted is None:
        raise CheckpointError("torch.onnx returned no program")
    converted.model.metadata_props[KEY] = json.dumps(checkpoint.about)

    def reload(path: Path) -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*inputs: Tensor) -> Tensor:
            values = (each.numpy() for each in inputs)
            (output,) = session.run(None, dict(zip(model.inputs, values, strict=True)))
            return torch.from_numpy(output)

        return run

    return Artifact(f"{stem}.onnx", "onnx", model, converted.save, reload, any_batch)
