"""Tensors out of weight files: safetensors, ours checked, and what torch.save wrote.

This is the only place that opens such files for their values. Only tensors are loaded, never
pickled objects.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scaleevent.errors import CheckpointError
from scaleevent.system.files import Json
from scaleevent.system.refusals import refusal
from scaleevent.system.reports import remark
from scaleevent.system.sealed import read_header, readable, starts_like_safetensors

_CONTAINERS = ("model", "state_dict", "teacher", "train_model")
SAID: set[str] = set()  # remarks on files, each said once a process


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Json | None]:
    """Names and tensors of a weight file as published, and the description of a file of ours.

    Tensors in the containers that training scripts save are named without them.

    Raises:
        CheckpointError: The file is missing, damaged, or holds more than tensors.
    """
    return _read(path, unwrap=True)


def read_every_tensor(path: Path) -> tuple[dict[str, Tensor], Json | None]:
    """As `read_tensors`, but all tensors of nested containers, their names joined by dots.

    Raises:
        CheckpointError: As `read_tensors`.
    """
    return _read(path, unwrap=False)


def _read(path: Path, unwrap: bool) -> tuple[dict[str, Tensor], Json | None]:
    path = Path(path)
    _refuse_distributed(path)
    if starts_like_safetensors(path):
        return _load_safetensors(path)
    loaded = _load_torch(path)
    while unwrap and isinstance(loaded, Mapping) and not any(map(torch.is_tensor, loaded.values())):
        inner = [name for name in _CONTAINERS if isinstance(loaded.get(name), Mapping)]
        if not inner:
            break
        loaded = loaded[inner[0]]
    tensors = dict(_flat(loaded))
    if not tensors:
        raise CheckpointError(
            "no state dict in the file",
            where=path,
            found=type(loaded).__name__,
            expected=f"names and tensors, bare or in containers such as {', '.join(_CONTAINERS)}",
        )
    return tensors, None


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], Json | None]:
    header = read_header(path)
    if header.remark and header.remark not in SAID:
        remark(header.remark)
        SAID.add(header.remark)
    try:
        with readable(path), safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in header.tensors}, header.description
    except (SafetensorError, RuntimeError, ValueError, KeyError) as problem:
        raise CheckpointError(
            "not a readable weight file", where=path, found=problem,
            expected="safetensors, or tensors saved by torch.save",
        ) from problem  # fmt: skip


def _load_torch(path: Path) -> object:
    """Load a file of torch.save that holds only tensors."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise CheckpointError(
            "the file holds more than tensors, and loading that could run code",
            where=path,
            expected="a state dict of tensors",
            hint="convert it to safetensors where you trust it",
        ) from problem
    except Exception as problem:  # a damaged archive can raise almost any exception
        damage = CheckpointError(
            "not a readable weight file",
            where=path,
            found=f"{type(problem).__name__}: {problem}",
            hint="fetch the file again; it may be incomplete",
        )
        raise refusal(problem, path) or damage from problem


def _flat(loaded: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings; what lies beside them, such as an epoch, is not one."""
    if isinstance(loaded, Tensor):
        yield prefix, loaded
    elif isinstance(loaded, Mapping):
        for name, value in loaded.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))


def _refuse_distributed(path: Path) -> None:
    """Name a folder of torch.distributed.checkpoint for what it is."""
    folder = path if path.is_dir() else path.parent
    parts = [path] if path.suffix == ".distcp" else sorted(path.glob("*.distcp"))
    if parts or path.name == ".metadata" or (path / ".metadata").is_file():
        raise CheckpointError(
            "a checkpoint in parts, as torch.distributed.checkpoint writes it",
            where=path,
            found=", ".join(part.name for part in parts[:4]) or ".metadata",
            expected="one weight file",
            hint="join the parts: python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {folder} FILE.pth",
        )
