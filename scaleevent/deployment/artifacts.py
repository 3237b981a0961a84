"""Checkpoints to files that run elsewhere, each compared with the checkpoint before it counts.

`safetensors` and `meta` are weights, under timm's and under Meta's names; `exported` (torch.export,
.pt2) and `onnx` are whole programs that need nothing of ours. `describe` says what goes in and out
of them, and travels in every file.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from scaleevent.deployment.program import Deployed, Source, describe
from scaleevent.encoders.encoder import Encoder, build_encoder
from scaleevent.encoders.weights import convert_weights
from scaleevent.errors import CheckpointError, MissingPackageError
from scaleevent.system.files import atomic_path
from scaleevent.training.tensors import KEY, load_tensors, save_tensors

FORMATS = ("safetensors", "meta", "exported", "onnx")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # beyond our own, by format
EXTRA_FILE = f"{KEY}.json"  # the description inside a .pt2
OPSET = 18  # of ONNX: what torch.onnx translates to before any conversion


@dataclass(frozen=True)
class Artifact:
    """A file to write and how to run it again.

    Attributes:
        name: File name.
        format: One of `FORMATS`.
        reference: What the file must compute.
        write: Writes it.
        reload: Reads it in the way its users do.
        any_batch: Whether it takes any number of samples, or exactly one.
    """

    name: str
    format: str
    reference: Deployed
    write: Callable[[Path], None]
    reload: Callable[[Path], Run]
    any_batch: bool = True


def check_packages(formats: Sequence[str]) -> None:
    """Refuse, before any work, a format whose packages are not installed.

    Raises:
        MissingPackageError: The first of them that is absent.
    """
    for name in formats:
        for package in PACKAGES.get(name, ()):
            if find_spec(package) is None:
                raise MissingPackageError(package, "export", f"the format {name}")


def artifacts(source: Source, formats: Sequence[str]) -> list[Artifact]:
    """The files of some formats: traced and converted, not yet written.

    Raises:
        CheckpointError: The model has no form in one of them.
    """
    about = describe(source)
    found: list[Artifact] = []
    if "safetensors" in formats:
        found.append(_encoder_file(source, about))
        if isinstance(source.model, Decoder):
            found.append(_decoder_file(source, about))
    if "meta" in formats:
        found.append(_meta_file(source, about))
    if "exported" in formats or "onnx" in formats:
        program, any_batch = trace(source.deployed)
        stem = source.name if any_batch else f"{source.name}_batch1"
        if "exported" in formats:
            found.append(_exported_file(stem, program, source.deployed, about, any_batch))
        if "onnx" in formats:
            found.append(_onnx_file(stem, program, source.deployed, about, any_batch))
    return found


def write_checked(
    files: Sequence[Artifact], folder: Path, parity: Parity, advance: Callable[[], None]
) -> dict[str, float]:
    """Write all files, read each back, compare; they get their names only if all of them pass.

    Args:
        files: From `artifacts`.
        folder: Where to.
        parity: Compares.
        advance: Called after each file.

    Returns:
        By file name, the largest difference as a share of the checkpoint's largest value.

    Raises:
        CheckpointError: A file computes something else; the number is named.
        EnvironmentProblem: The folder cannot be written.
    """
    differences = {}
    with ExitStack() as staged:
        for file in files:
            path = staged.enter_context(atomic_path(folder / file.name))
            file.write(path)
            try:
                differences[file.name] = parity.difference(
                    file.reference, file.reload(path), any_batch=file.any_batch
                )
            except CheckpointError as problem:
                raise CheckpointError(
                    f"not exported: {problem.what}", where=file.name, found=problem.found,
                    expected=problem.expected, hint=problem.hint,
                ) from problem  # fmt: skip
            advance()
    return differences


def trace(model: Deployed) -> tuple[ExportedProgram, bool]:
    """The model as a graph, for any number of samples where its code allows that, else for one.

    Returns:
        The program, and whether it takes any number of samples.

    Raises:
        CheckpointError: Its code cannot be traced.
    """
    samples = Dim("samples", min=1)
    for any_batch in (True, False):
        count = 2 if any_batch else 1  # a traced size of 1 would be taken for a constant
        inputs = tuple(torch.zeros(count, 3, *model.size) for _ in model.inputs)
        shapes = tuple({0: samples} for _ in inputs) if any_batch else None
        try:
            with torch.no_grad():
                return torch.export.export(model, inputs, dynamic_shapes=shapes), any_batch
        except Exception as error:  # tracing runs the model: any of its operations may refuse
            problem = error
    raise CheckpointError(
        "torch.export cannot trace this model",
        found=str(problem).strip().partition("\n")[0],
        hint="--format safetensors exports its weights",
    ) from problem


def meta_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The weights of a DINOv3 encoder under Meta's names, all that Meta's module asks for.

    The inverse of `convert_weights`. Meta's module has more than the network uses: a mask token
    (zeros here), a bias on queries, keys and values (zeros where the encoder has none) with a mask
    that lets it pass for queries and values, and the rotary periods
    (facebookresearch/dinov3:dinov3/models/vision_transformer.py, dinov3/layers/attention.py).

    Raises:
        CheckpointError: Another kind of network.
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


def _encoder_file(source: Source, about: dict[str, Any]) -> Artifact:
    """The encoder as an encoder checkpoint, which timm loads too."""

    def write(path: Path) -> None:
        save_encoder(path, source.encoder, _encoder_description(source) | {"export": about})

    def reload(path: Path) -> Run:
        return Deployed(load_encoder(path), source.deployed.size)

    return Artifact("encoder.safetensors", "safetensors", source.deployed_encoder, write, reload)


def _decoder_file(source: Source, about: dict[str, Any]) -> Artifact:
    """The decoder's own tensors, under the names of its origin."""
    decoder = source.model

    def write(path: Path) -> None:
        save_tensors(path, decoder.own_state(), {"kind": "decoder", "export": about})

    def reload(path: Path) -> Run:
        tensors, _ = load_tensors(path, "decoder")
        again = type(decoder)(source.encoder, **decoder.settings)
        again.load_own(tensors, path)
        return Deployed(again.eval(), source.deployed.size)

    return Artifact("decoder.safetensors", "safetensors", source.deployed, write, reload)


def _meta_file(source: Source, about: dict[str, Any]) -> Artifact:
    """The encoder under Meta's names."""
    tensors = meta_tensors(source.encoder)
    own = {
        "kind": "encoder",
        "layout": "meta",
        "arch": dict(source.encoder.spec),
        "input": asdict(source.settings),
        "export": about,
    }

    def write(path: Path) -> None:
        save_tensors(path, tensors, own | _encoder_description(source))

    def reload(path: Path) -> Run:
        return Deployed(build_encoder(weights=path, keep_periods=True).eval(), source.deployed.size)

    return Artifact("encoder_meta.safetensors", "meta", source.deployed_encoder, write, reload)


def _encoder_description(source: Source) -> dict[str, Any]:
    """What is known of how the encoder came about.

    `data` names the recordings it was pretrained on, which benchmarks must not test it on.
    """
    known = source.description
    if isinstance(source.model, Encoder):
        keys = ("teacher", "token_scale", "config", "data", "step", "metrics")
        return {key: known[key] for key in keys if key in known}
    keys = ("benchmark", "protocol", "config", "encoder", "data")
    tuned = {key: known[key] for key in keys if key in known}
    before = known.get("pretraining", {})
    seen = {*before.get("recordings", ()), *known.get("data", {}).get("recordings", ())}
    return {"data": before | {"recordings": sorted(seen)}, "finetuned": tuned}


def _exported_file(
    stem: str, program: ExportedProgram, model: Deployed, about: dict[str, Any], any_batch: bool
) -> Artifact:
    """The program in torch's own format."""

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(about)})

    def reload(path: Path) -> Run:
        with open(path, "rb") as file:
            return torch.export.load(file).module()

    return Artifact(f"{stem}.pt2", "exported", model, write, reload, any_batch)


def _onnx_file(
    stem: str, program: ExportedProgram, model: Deployed, about: dict[str, Any], any_batch: bool
) -> Artifact:
    """The program as ONNX, run by onnxruntime on the CPU.

    Raises:
        CheckpointError: An operation has no translation.
    """
    from torch.onnx import errors

    # `after` shares the axis, and with it the name
    axes = {name: {} for name in model.inputs} | {"voxel": {0: "N"}} if any_batch else None
    try:
        with _errors_only("onnxscript"):  # it tells of every operation that it does not fold
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
    converted.model.metadata_props[KEY] = json.dumps(about)

    def reload(path: Path) -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*inputs: Tensor) -> Tensor:
            values = (each.numpy() for each in inputs)
            (output,) = session.run(None, dict(zip(model.inputs, values, strict=True)))
            return torch.from_numpy(output)

        return run

    return Artifact(
        f"{stem}.onnx", "onnx", model, lambda path: converted.save(path), reload, any_batch
    )


@contextmanager
def _errors_only(package: str) -> Iterator[None]:
    """Keep a package's warnings out of the log."""
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
