"""Weight files of DINOv3-like vision transformers: any published layout in, timm names out.

Three layouts are read: Meta's, Hugging Face's ``DINOv3ViTModel``, and timm's, in any containers and
behind any prefix that training scripts add: the encoder is where its patch embedding is. No key is
skipped silently: each is converted, is one of the few without weights of the encoder
(`_WITHOUT_WEIGHTS`), lies beside a complete encoder, which the remarks tell, or is an error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from scaleevent.encoders.tensor_files import read_every_tensor
from scaleevent.errors import CheckpointError

Layout = Literal["meta", "huggingface", "timm"]

# what torch's compiler, FSDP and activation checkpointing put between the parts of a name
_WRAPPED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
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
# Parts that networks with a bare encoder have beside its blocks.
_HEADS = re.compile(r"^(\w*head\w*|classifier|fc|fc_norm)\.")
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
        remarks: Lines on what the file holds beside them, for people.
        prefix: What their names in the file began with, such as ``module.encoder.``.
    """

    layout: Layout
    shape: ViTShape
    state: dict[str, Tensor]
    periods: Tensor | None = None
    remarks: tuple[str, ...] = ()
    prefix: str = ""


def read_weights(path: Path) -> ViTWeights:
    """Read a weight file of any layout, which is detected from its content.

    Raises:
        CheckpointError: As `read_every_tensor`; or not the complete weights of a known network.
    """
    return convert_weights(read_every_tensor(path)[0], path)


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


def convert_weights(tensors: Mapping[str, Tensor], where: object = None) -> ViTWeights:
    """Convert a state dict of any layout to timm's names.

    Args:
        tensors: Names and tensors as published; the encoder's may share any prefix.
        where: Named in errors.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape; all are named.
    """
    tensors, remarks, prefix = _encoder_of(tensors, where)
    beside = {name: tensor for name, tensor in tensors.items() if _HEADS.search(name)}
    if beside:
        try:
            found = _convert({n: t for n, t in tensors.items() if n not in beside}, where)
        except CheckpointError:
            beside = {}  # not a complete encoder: the error names all keys
    if not beside:
        found = _convert(tensors, where)
    remarks += _left_out(beside)
    return replace(found, remarks=tuple(remarks), prefix=prefix)


def _convert(tensors: Mapping[str, Tensor], where: object) -> ViTWeights:
    """Convert the tensors of one encoder, without prefix."""
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
    return ViTWeights(layout, shape, state, periods)


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


def _encoder_of(
    tensors: Mapping[str, Tensor], where: object
) -> tuple[dict[str, Tensor], list[str], str]:
    """The tensors of one encoder, named without their prefix, remarks on the others, the prefix.

    The encoder is where its patch embedding is. Of several the teacher's is taken, or else the
    moving average of the weights.

    Raises:
        CheckpointError: No encoder, or several without a rule which one; all are named.
    """
    names = {name: _WRAPPED.sub("", name) for name in tensors}
    anchors = [(f".{new}", f".{end}") for new in names.values() for end in _PATCH_EMBEDDINGS]
    prefixes = sorted({
        f"{name.removesuffix(end)}."[1:] for name, end in anchors if name.endswith(end)
    })  # fmt: skip
    if not prefixes:
        raise CheckpointError(
            "the patch embedding of a vision transformer was not found",
            where=where,
            found=f"keys {_listing(sorted(tensors))}",
            expected=f"{' or '.join(_PATCH_EMBEDDINGS)}, behind any prefix",
        )
    chosen = prefixes if len(prefixes) == 1 else _preferred(prefixes)
    if len(chosen) != 1:
        raise CheckpointError(
            "the file holds several vision transformers",
            where=where,
            found=", ".join(prefix.rstrip(".") or "(no prefix)" for prefix in prefixes),
            expected="one, or one named teacher or ema",
            hint="save the one you mean in a file of its own",
        )
    (prefix,) = chosen
    found: dict[str, Tensor] = {}
    for name, new in names.items():
        if new.startswith(prefix):
            own = new.removeprefix(prefix)
            if own in found:
                raise CheckpointError("two keys mean the same weight", where=where, found=name)
            found[own] = tensors[name]
    remarks = _left_out([name for name, new in names.items() if not new.startswith(prefix)])
    if len(prefixes) > 1:
        others = ", ".join(other.rstrip(".") for other in prefixes if other != prefix)
        remarks.insert(0, f"encoder taken: {prefix.rstrip('.')}; the file holds {others} too")
    return found, remarks, prefix


def _preferred(prefixes: list[str]) -> list[str]:
    """Those of the teacher, or else those of the moving average."""
    for word in ("teacher", "ema"):
        named = [p for p in prefixes if word in re.split(r"[._]", p) and "gram" not in p]
        if named:
            return named
    return []


def _left_out(names: Collection[str]) -> list[str]:
    """One line on tensors that lie beside the encoder, by what they belong to."""
    owners = Counter(
        ".".join(name.split(".")[:2]) if name.count(".") > 1 else name for name in names
    )
    if not names:
        return []
    shown = [f"{owner} ({count})" if count > 1 else owner for owner, count in owners.items()]
    return [f"left out beside the encoder: {_listing(shown)}"]


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
