"""Tensors with a JSON description, in sealed safetensors files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from scaleevent.encoders.tensor_files import read_tensors
from scaleevent.errors import CheckpointError
from scaleevent.system.files import Json
from scaleevent.system.sealed import Stored, check_kind, write_sealed

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip


def save_tensors(path: Path, tensors: dict[str, Tensor], description: Json) -> None:
    """Write tensors and their description to a .safetensors file, atomically.

    `format` and `version` are added to the description, and a hash over the whole file. The same
    tensors and description give the same bytes.

    Raises:
        CheckpointError: A value is not finite: such a state is never written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    bad = [n for n, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise CheckpointError("weights are not finite, so not saved", where=path, found=bad[:8])
    stored = {
        name: Stored(_DTYPES[value.dtype], tuple(value.shape), _bytes(value))
        for name, value in tensors.items()
    }
    write_sealed(path, stored, description)


def load_tensors(path: Path, *kinds: str) -> tuple[dict[str, Tensor], Json]:
    """Read a .safetensors file of ours and check it; it is one of `kinds`, such as `encoder`.

    Raises:
        CheckpointError: Not ours, of another kind or a newer format, truncated, or changed.
    """
    tensors, description = read_tensors(path)
    if description is None:
        raise CheckpointError(
            "not a ScaleEvent checkpoint",
            where=path,
            found="a weight file without our description",
            hint=f"`scaleevent pretrain --teacher {path}` and `scaleevent probe BENCHMARK {path}` "
            "take weights of other origins",
        )
    check_kind(description, path, *kinds)
    return tensors, description


def content_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors behind a prefix, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Numbers as float32, whatever the file holds; the rest as it is."""
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _bytes(value: Tensor) -> memoryview:
    """The values of a contiguous tensor on the CPU."""
    return value.flatten().view(torch.uint8).numpy().data
