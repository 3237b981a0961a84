"""Weight files of DINOv3-like vision transformers: any published layout in, timm names out.

Three layouts are read: Meta's ``.pth``, also with the prefixes and containers that training scripts
add, such as the ``module.event_encoder.`` of the authors' release, Hugging Face's
``DINOv3ViTModel``, and timm.
No key is skipped silently: each is converted, is one of the few without weights of the encoder
(`_WITHOUT_WEIGHTS`), or is an error. Only tensors are loaded, never pickled objects.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scaleevent.errors import CheckpointError

Layout = Literal["meta", "huggingface", "timm"]

_CONTAINERS = ("model", "state_dict", "teacher", "train_model")
_WRAPPERS = re.compile(r"((module|model|network|event_encoder|encoder|backbone)\.)*")
_PATCH_EMBEDDINGS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.weight")
_MARKS: dict[Layout, re.Pattern[str]] = {
    "meta": re.compile(r"storage_tokens$|\.ls[12]\.gamma$"),
    "huggingface": re.compile(r"^embeddings\.|\.layer_scale[12]\.lambda1$"),
    "timm": re.compile(r"^reg_token$|\.gamma_[12]$"),
}
_RENAMES: dict[Layout, list[tuple[str, str]]] = {
    "meta": [(r"^storage_tokens$", "reg_token"), (r"\.ls([12])\.gamma$", r".gamma_\1")],
    "huggingface": [
        (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
        (r"^(?:model\.)?layer\.(\d+)\.", r"blocks.\1."),
        (r"\.attention\.([qkv])_proj\.bias$", r".attn.\1_bias"),
        (r"\.attention\.([qkv])_proj\.weight$", r".attn.\1.weight"),
        (r"\.attention\.o_proj\.", ".attn.proj."),
        (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
        (r"\.mlp\.up_proj\.", ".mlp.fc1."),
        (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    ],
    "timm": [],
}
# The token of masked pretraining, the class-token norm of local crops, and buffers that are read
# separately.
_WITHOUT_WEIGHTS = re.compile(r"^mask_token$|^local_cls_norm\.|^rope_embed\.periods$|\.bias_mask$")
_SWIGLU = re.compile(r"\.mlp\.(w[123]|gate_proj|fc1_g)\.")


@dataclass(frozen=True)
class ViTShape:
    """Size of a network, as read from the shapes in its weight file.

    Attributes:
        width: Token channels, D.
        depth: Number of blocks.
        heads: Number of attention heads; None if the file has no rotary periods.
        patch: Side of a patch, pixels.
        channels: Input channels.
        registers: Number of register (storage) tokens.
        hidden: Channels inside the MLP.
        qkv_bias: Whether queries or values have a non-zero bias.
    """

    width: int
    depth: int
    heads: int | None
    patch: int
    channels: int
    registers: int
    hidden: int
    qkv_bias: bool

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all weights, under timm's names (timm/models/eva.py)."""
        width, hidden = self.width, self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "cls_token": (1, 1, width),
            "reg_token": (1, self.registers, width),
            "patch_embed.proj.weight": (width, self.channels, self.patch, self.patch),
            "patch_embed.proj.bias": (width,),
            "norm.weight": (width,),
            "norm.bias": (width,),
        }
        block = {
            "attn.qkv.weight": (3 * width, width),
            "attn.proj.weight": (width, width),
            "mlp.fc1.weight": (hidden, width),
            "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden),
        }
        vectors = ["gamma_1", "gamma_2", "attn.proj.bias", "mlp.fc2.bias"]
        vectors += [f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")]
        if self.qkv_bias:
            vectors += ["attn.q_bias", "attn.v_bias"]
        block |= dict.fromkeys(vectors, (width,))
        shapes |= {f"blocks.{i}.{name}": s for i in range(self.depth) for name, s in block.items()}
        return shapes


@dataclass(frozen=True)
class ViTWeights:
    """Weights of one vision transformer under timm's names.

    Attributes:
        layout: The layout of the file.
        shape: Size of the network.
        state: Float32 tensors under the names of `ViTShape.parameters`.
        periods: Rotary periods (head channels / 4,), None if the file has none.
        metadata: Text metadata of a safetensors file.
    """

    layout: Layout
    shape: ViTShape
    state: dict[str, Tensor]
    periods: Tensor | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path) -> ViTWeights:
    """Read a weight file of any layout, which is detected from its content.

    Raises:
        CheckpointError: As `read_tensors`; or not the complete weights of a known network.
    """
    tensors, metadata = read_tensors(path)
    return convert_weights(tensors, path, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Names and tensors of a weight file as published, and a safetensors file's text metadata.

    Raises:
        CheckpointError: The file is missing, damaged, or holds more than tensors.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as problem:
        raise CheckpointError("cannot read the weights", where=path, found=problem) from problem
    # torch.save writes a zip archive or, before 1.6, a bare pickle. Safetensors start with a length
    # of eight bytes, which can look like either, followed by the brace of its JSON header.
    if head[8:] != b"{" and head.startswith((b"PK", b"\x80")):
        return dict(_unwrap(_load_torch(path), path)), {}
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, file.metadata() or {}
    except SafetensorError as problem:
        raise CheckpointError(
            "not a readable weight file",
            where=path,
            found=problem,
            expected="safetensors, or tensors saved by torch.save",
            hint="fetch the file again; it may be incomplete",
        ) from problem


def detect_layout(keys: Iterable[str], where: object = None) -> Layout:
    """Detect the layout of these keys (without prefix).

    Raises:
        CheckpointError: No known layout, or keys of several.
    """
    names = list(keys)
    found = [layout for layout, mark in _MARKS.items() if any(map(mark.search, names))]
    if len(found) != 1:
        raise CheckpointError(
            "cannot tell the layout of the weights",
            where=where,
            found=f"{', '.join(found) or 'no known keys'}; first keys: {_listing(sorted(names))}",
            expected="DINOv3 weights in one of the layouts " + ", ".join(_MARKS),
        )
    return found[0]


def convert_weights(
    tensors: Mapping[str, Tensor], where: object = None, metadata: dict[str, str] | None = None
) -> ViTWeights:
    """Convert a state dict of any layout to timm's names.

    Args:
        tensors: Names and tensors as published; may share one wrapper prefix.
        where: Named in errors.
        metadata: Text metadata of the file, returned with the weights.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape; all are named.
    """
    tensors = _without_prefix(tensors, where)
    swiglu = [name for name in tensors if _SWIGLU.search(name)]
    if swiglu:
        raise CheckpointError(
            "the network has SwiGLU blocks, which are not supported",
            where=where,
            found=_listing(swiglu),
            expected="an MLP of two layers, as in DINOv3 ViT-S, B and L",
        )
    layout = detect_layout(tensors, where)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in _RENAMES[layout]:
            new = re.sub(pattern, replacement, new)
        if new in state:
            raise CheckpointError(
                "two keys mean the same weight", where=where, found=name, expected=new
            )
        state[new] = tensor.float()
    periods = state.get("rope_embed.periods")
    state = _join_qkv(state, where)
    state = {name: tensor for name, tensor in state.items() if not _WITHOUT_WEIGHTS.search(name)}
    shape = _shape_of(state, periods, where)
    check_keys(state, shape.parameters(), where)
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError("weights that are not finite", where=where, found=_listing(broken))
    return ViTWeights(layout, shape, state, periods, metadata or {})


def check_keys(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    where: object = None,
    hint: str | None = None,
) -> None:
    """Compare weights with the names and shapes of a network.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape; all are named.
    """
    missing = sorted(shapes.keys() - state.keys())
    unexpected = sorted(state.keys() - shapes.keys())
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {shapes[name]}"
        for name in sorted(shapes.keys() & state.keys())
        if tuple(state[name].shape) != shapes[name]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    found = [f"{len(names)} {kind}: {_listing(names)}" for kind, names in kinds.items() if names]
    if found:
        raise CheckpointError(
            "the weights do not make up the network",
            where=where,
            found="; ".join(found),
            expected=f"{len(shapes)} tensors",
            hint=hint,
        )


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
        raise CheckpointError(
            "not a readable weight file",
            where=path,
            found=f"{type(problem).__name__}: {problem}",
            hint="fetch the file again; it may be incomplete",
        ) from problem


def _unwrap(loaded: object, where: object) -> Mapping[str, Tensor]:
    """The state dict inside the containers that training scripts save."""
    while isinstance(loaded, Mapping) and not any(map(torch.is_tensor, loaded.values())):
        inner = [name for name in _CONTAINERS if isinstance(loaded.get(name), Mapping)]
        if not inner:
            break
        loaded = loaded[inner[0]]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in loaded.items()
    ):
        raise CheckpointError(
            "no state dict in the file",
            where=where,
            found=type(loaded).__name__,
            expected=f"names and tensors, bare or under {', '.join(_CONTAINERS)}",
        )
    return loaded


def _without_prefix(tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """Remove the wrapper prefix; keys without it stay and are reported as unexpected."""
    anchors = [(name, end) for name in tensors for end in _PATCH_EMBEDDINGS if name.endswith(end)]
    prefixes = {name.removesuffix(end) for name, end in anchors}
    prefix = next(iter(prefixes), "")
    if len(prefixes) != 1 or not _WRAPPERS.fullmatch(prefix):
        seen = f"prefixes {sorted(prefixes)}" if prefixes else f"keys {_listing(sorted(tensors))}"
        raise CheckpointError(
            "the patch embedding of one vision transformer was not found",
            where=where,
            found=seen,
            expected=" or ".join(_PATCH_EMBEDDINGS) + ", bare or behind " + _WRAPPERS.pattern,
        )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _join_qkv(state: dict[str, Tensor], where: object) -> dict[str, Tensor]:
    """One fused qkv weight per block, and query and value biases only if any is not zero.

    Meta multiplies the bias with a stored mask, which is NaN until it is filled and then 1 for
    query, 0 for key, 1 for value (facebookresearch/dinov3:dinov3/layers/attention.py). The released
    S, B and L files are reported to hold zeros throughout, for which timm has models without bias.
    """
    state = dict(state)
    for name in [name for name in state if name.endswith(".attn.q.weight")]:
        parts = [name.replace(".q.", f".{part}.") for part in "qkv"]
        if len({state[part].shape if part in state else None for part in parts}) == 1:
            state[name.replace(".q.", ".qkv.")] = torch.cat([state.pop(part) for part in parts])
    for name in [name for name in state if name.endswith(".attn.qkv.bias")]:
        bias = state[name]
        mask = state.get(f"{name}_mask", torch.ones_like(bias))
        if mask.shape != bias.shape or len(bias) % 3:
            continue  # stays and is reported as unexpected
        if mask.isnan().any():
            mask = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(bias) // 3)
        for part, values in zip("qkv", (state.pop(name) * mask).chunk(3), strict=True):
            state[name.replace("qkv.bias", f"{part}_bias")] = values
    biases = [name for name in state if re.search(r"\.attn\.[qkv]_bias$", name)]
    filled = [name for name in biases if state[name].any()]
    if keys := [name for name in filled if name.endswith("k_bias")]:
        raise CheckpointError(
            "the network has a bias on its attention keys, which DINOv3 models do not",
            where=where,
            found=_listing(keys),
        )
    drop = [name for name in biases if not filled or name.endswith("k_bias")]
    return {name: value for name, value in state.items() if name not in drop}


def _shape_of(state: Mapping[str, Tensor], periods: Tensor | None, where: object) -> ViTShape:
    """Read the network's size from its weights; `check_keys` reports what contradicts it."""
    blocks = {m[1] for m in map(re.compile(r"^blocks\.(\d+)\.").match, state) if m}
    first, registers = state.get("blocks.0.mlp.fc1.weight"), state.get("reg_token")
    try:
        width, channels, patch, _ = state["patch_embed.proj.weight"].shape
        return ViTShape(
            width=width,
            depth=len(blocks),
            heads=None if periods is None else width // (4 * len(periods)),
            patch=patch,
            channels=channels,
            registers=4 if registers is None else registers.shape[1],
            hidden=4 * width if first is None else first.shape[0],
            qkv_bias=any(name.endswith(".attn.q_bias") for name in state),
        )
    except (ValueError, IndexError, ZeroDivisionError) as problem:
        raise CheckpointError(
            "weights without the axes they should have", where=where, found=problem
        ) from None


def _listing(names: list[str], limit: int = 8) -> str:
    """The first few names and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
