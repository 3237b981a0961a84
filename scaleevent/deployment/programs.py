"""A checkpoint as a whole program: traced by torch.export, translated to ONNX."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from scaleevent.deployment.artifact import Artifact
from scaleevent.deployment.parity import Run
from scaleevent.deployment.program import Deployed, LoadedCheckpoint
from scaleevent.errors import CheckpointError
from scaleevent.system.files import SteadyFile
from scaleevent.system.sealed import KEY

EXTRA_FILE = f"{KEY}.json"  # the metadata inside a .pt2
OPSET = 18  # the ONNX operator set that torch.onnx translates to without a later conversion

Translated = Any  # torch.onnx.ONNXProgram, whose module takes seconds to import


def trace(model: Deployed, samples: int | None = None) -> tuple[ExportedProgram, bool]:
    """Trace the model, for any number of samples where its code allows that, else for one.

    Args:
        model: In evaluation mode.
        samples: Trace it for exactly so many; None for any number.

    Returns:
        The program, and whether it takes any number of samples.

    Raises:
        CheckpointError: The model's code cannot be traced.
    """
    any_number = Dim("samples", min=1)
    for any_batch in (True, False) if samples is None else (False,):
        # torch.export would treat a size of 1 as a constant
        count = 2 if any_batch else samples or 1
        inputs = tuple(torch.zeros(count, 3, *model.size) for _ in model.inputs)
        shapes = tuple({0: any_number} for _ in inputs) if any_batch else None
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


def exported_file(
    stem: str, program: ExportedProgram, checkpoint: LoadedCheckpoint, samples: int | None
) -> Artifact:
    """The program in the format of torch.export."""

    def write(path: Path) -> None:
        with SteadyFile(path) as file:
            extra = {EXTRA_FILE: json.dumps(checkpoint.about)}
            torch.export.save(program, file, extra_files=extra)
        file.check()

    def reload(path: Path) -> Run:
        with open(path, "rb") as file:
            return one_of(torch.export.load(file).module(), samples)

    return Artifact(f"{stem}.pt2", "exported", checkpoint.deployed, write, reload, samples)


def translate(
    program: ExportedProgram, checkpoint: LoadedCheckpoint, samples: int | None
) -> Translated:
    """The program as ONNX, with the metadata that explains its inputs and outputs.

    Raises:
        CheckpointError: It has an operation that ONNX has not.
    """
    from torch.onnx import errors

    model = checkpoint.deployed
    # the axis is shared by all inputs: naming it once names it for `after` too
    axes: dict[str, dict[int, str]] | None = None
    if samples is None:
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
    return converted


def onnx_file(
    stem: str, converted: Translated, checkpoint: LoadedCheckpoint, samples: int | None
) -> Artifact:
    """The program as ONNX, run by onnxruntime on the CPU."""
    reload, model = by_onnxruntime(checkpoint, samples), checkpoint.deployed
    return Artifact(f"{stem}.onnx", "onnx", model, converted.save, reload, samples)


def by_onnxruntime(checkpoint: LoadedCheckpoint, samples: int | None) -> Callable[[Path], Run]:
    """Loads an ONNX file as robots do; of a fixed number of samples, see `one_of`."""

    def reload(path: Path) -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = checkpoint.deployed.inputs

        def run(*inputs: Tensor) -> Tensor:
            values = (each.numpy() for each in inputs)
            (output,) = session.run(None, dict(zip(names, values, strict=True)))
            return torch.from_numpy(output)

        return one_of(run, samples)

    return reload


def one_of(run: Run, samples: int | None) -> Run:
    """A program of one sample from one of `samples`: the others are mirror images of it.

    They must not change the output of the first.
    """

    def first(*inputs: Tensor) -> Tensor:
        others = ([each.flip(-1)] * ((samples or 1) - 1) for each in inputs)
        filled = (torch.cat([each, *more]) for each, more in zip(inputs, others, strict=True))
        return run(*filled)[:1]

    return run if samples in (None, 1) else first
