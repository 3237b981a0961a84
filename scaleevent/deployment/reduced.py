"""ONNX files of reduced precision: half the bytes, or a quarter, at a loss that is measured.

`onnx-fp16` holds weights and computes in float16, with float32 inputs and outputs. `onnx-int8`
holds the weights of linear layers in 8 bits, a scale an output channel, and scales each layer's
input as it comes (onnxruntime's dynamic quantisation). Static quantisation, with scales from
calibration windows, lost three times as much on the embedded encoder (tokens 9.6 % off instead of
2.9 %, root mean square) and a third more on a ViT-S, at no higher speed: activations of a
transformer differ too much between inputs. Patch embedding, norms and softmax stay in float32.

On x86 processors without VNNI instructions, products of 8 bits may saturate: the loss that `export`
prints is that of the machine it runs on.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scaleevent.deployment.artifact import Artifact
from scaleevent.deployment.parity import Limits
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.deployment.programs import Translated, by_onnxruntime
from scaleevent.system.sealed import KEY

FP16, INT8 = "onnx-fp16", "onnx-int8"
LIMITS = {FP16: Limits(warn=0.005, refuse=0.05), INT8: Limits(warn=0.05, refuse=0.3)}
LAYERS = ["MatMul", "Gemm"]  # that have weights of 8 bits


def reduced_file(
    precision: str,
    stem: str,
    converted: Translated,
    checkpoint: LoadedCheckpoint,
    samples: int | None,
) -> Artifact:
    """An ONNX file of reduced precision; its loss is measured when it is written.

    Args:
        precision: A key of `LIMITS`.
        stem: Of the name.
        converted: In float32, from `translate`.
        checkpoint: What is exported.
        samples: As for `Artifact`.
    """
    name = f"{stem}_{precision.removeprefix('onnx-')}.onnx"

    def write(path: Path) -> None:
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(converted.model_proto)
        about = checkpoint.about | {"precision": precision.removeprefix("onnx-")}
        with _quiet():
            if precision == FP16:
                from onnxruntime.transformers.float16 import convert_float_to_float16

                model = convert_float_to_float16(model, keep_io_types=True)
            else:
                from onnxruntime.quantization import QuantType, quantize_dynamic

                quantize_dynamic(
                    model, path, op_types_to_quantize=LAYERS, per_channel=True,
                    weight_type=QuantType.QInt8,
                )  # fmt: skip
                model = onnx.load(path)
        onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
        onnx.save(model, path)

    reload, limits = by_onnxruntime(checkpoint, samples), LIMITS[precision]
    return Artifact(name, precision, checkpoint.deployed, write, reload, samples, limits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice of the converters: that values beyond float16 are cut shows in the loss."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
