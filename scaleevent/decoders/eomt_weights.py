"""Published EoMT weights: whose names a file uses, and its parts under ours.

The layouts are those of tue-mps/eomt, lightly-ai/lightly-train (task models), huggingface/
transformers (EomtDinov3) and zhiwen-xdu/ScaleEvent (downstream).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from scaleevent.encoders.weights import check_keys, convert_weights
from scaleevent.errors import CheckpointError
from scaleevent.training.tensors import under

Layout = Literal["tue-mps", "lightly-train", "huggingface", "scaleevent"]

_BACKBONE = r"network\.encoder\.backbone\."
_HEAD = r"(q|class_head|mask_head|upscale|transfer)\."
# File name to own name; what becomes "encoder.*" carries a name that `convert_weights` knows.
_RENAMES: dict[Layout, list[tuple[str, str]]] = {
    # Over DINOv3 this is a Hugging Face model in timm's clothes (tue-mps/eomt:models/vit.py).
    "tue-mps": [
        (_BACKBONE + r"patch_embed\.(?=cls_token|register_tokens|patch_e)", "encoder.embeddings."),
        (_BACKBONE + r"blocks\.", "encoder.layer."),
        (_BACKBONE, "encoder."),
        (r"network\." + _HEAD, r"\1."),
    ],
    "lightly-train": [
        (r"model\.backbone\.", "encoder."),
        (r"model\.queries\.", "q."),
        (r"model\." + _HEAD, r"\1."),
    ],
    "huggingface": [
        (r"(?=embeddings\.)", "encoder."),
        (r"layers\.(?=\d)", "encoder.layer."),
        (r"layernorm\.", "encoder.norm."),
        (r"query\.", "q."),
        (r"class_predictor\.", "class_head."),
        (r"mask_head\.fc1\.", "mask_head.0."),
        (r"mask_head\.fc2\.", "mask_head.2."),
        (r"mask_head\.fc3\.", "mask_head.4."),
        (r"upscale_block\.block\.(\d+)\.layernorm2d\.", r"upscale.\1.norm."),
        (r"upscale_block\.block\.", "upscale."),
    ],
    "scaleevent": [(r"(?:module\.)?encoder\.", "encoder."), (r"(?:module\.)?" + _HEAD, r"\1.")],
}
_QUERIES: dict[str, Layout] = {
    "network.q.weight": "tue-mps",
    "model.queries.weight": "lightly-train",
    "query.weight": "huggingface",
    "module.q.weight": "scaleevent",
    "q.weight": "scaleevent",
}
# The state of masked attention, the class weights of the loss, and the image normalisation.
_BUFFERS = re.compile(r"(^|\.)(attn_mask_probs|criterion\.empty_weight|encoder\.pixel_(mean|std))$")
_OPTIONAL = re.compile(r"attn\.[qv]_bias$")
_CLASS_HEAD = ("class_head.weight", "class_head.bias")
_TRANSFER = ("transfer.weight", "transfer.bias")

# Mean size of LayerNorm weights below which they can only be differences: trained ones stay near
# their start at 1, and fine-tuning moves them by about its learning rate a step.
_DELTA_NORM = 0.05


@dataclass(frozen=True)
class Published:
    """A file's tensors, sorted."""

    layout: Layout  # whose names the file uses
    head: dict[str, Tensor]  # the head's tensors under own names
    encoder: dict[str, Tensor]  # the image encoder's under names that `convert_weights` knows
    # own name (or "encoder.*", or empty for buffers) of every name in the file
    names: dict[str, str]


def sort_published(tensors: Mapping[str, Tensor], where: object = None) -> Published:
    """Detect the layout and give every tensor its place.

    Raises:
        CheckpointError: No known layout, or keys that have no place in it, all named.
    """
    plain = {name: name.replace("_orig_mod.", "") for name in tensors}  # without torch.compile's
    layouts = {_QUERIES[name] for name in plain.values() if name in _QUERIES}
    if len(layouts) != 1:
        raise CheckpointError(
            "not the weights of an EoMT model",
            where=where,
            found=", ".join(sorted(tensors)[:8]),
            expected="the queries of one model, under one of " + ", ".join(_QUERIES),
        )
    layout = layouts.pop()
    found = {name: _own_name(bare, layout) for name, bare in plain.items()}
    names = {name: own for name, own in found.items() if own is not None}
    if strange := sorted(found.keys() - names.keys()):
        raise CheckpointError(
            f"keys that the layout {layout} does not have", where=where, found=", ".join(strange)
        )
    placed = {own: tensors[name] for name, own in names.items() if own}
    head = {own: tensor for own, tensor in placed.items() if not own.startswith("encoder.")}
    return Published(layout, head, under(placed, "encoder."), names)


def fit_head(
    head: Mapping[str, Tensor], own: Mapping[str, Tensor], where: object = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What of a published head goes into a decoder, and notes on what differs.

    Args:
        head: Tensors under own names.
        own: The decoder's tensors.
        where: Named in errors.

    Raises:
        CheckpointError: Keys missing, unexpected or of other shapes, all named.
    """
    state, notes = {name: tensor.float() for name, tensor in head.items()}, []
    fresh: set[str] = set()
    if "class_head.weight" in state:
        theirs, ours = len(state["class_head.weight"]) - 1, len(own["class_head.weight"]) - 1
        if theirs != ours:
            notes.append(f"class head re-initialised: {theirs} -> {ours} classes")
            fresh.update(_CLASS_HEAD)
    if "transfer.weight" in own and "transfer.weight" not in state:
        width, narrow = own["transfer.weight"].shape
        notes.append(f"transfer, from {narrow} to {width} channels, starts fresh")
        fresh.update(_TRANSFER)
    if "q.weight" in state:
        queries, (count, width) = state["q.weight"], own["q.weight"].shape
        if "transfer.weight" in fresh and queries.shape[1] > width:
            notes.append(f"queries keep the first {width} of {queries.shape[1]} channels")
            queries = queries[:, :width]
        if len(queries) != count:
            how = "first kept" if len(queries) > count else "repeated"
            notes.append(f"queries: {len(queries)} -> {count}, {how}")
            queries = queries.repeat(-(-count // len(queries)), 1)[:count]
        state["q.weight"] = queries
    state = {name: tensor for name, tensor in state.items() if name not in fresh}
    shapes = {name: tuple(value.shape) for name, value in own.items() if name not in fresh}
    hint = 'a head wider than the encoder fits with mode="scaleevent" or width=...'
    check_keys(state, shapes, where, hint)
    return state, tuple(notes)


def published_encoder(
    tensors: Mapping[str, Tensor],
    base: Mapping[str, Tensor] | None = None,
    delta: bool | None = None,
    where: object = None,
) -> dict[str, Tensor]:
    """The image encoder inside a published EoMT file, for `convert_weights`.

    The models that tue-mps publishes on DINOv3 hold the encoder as differences to Meta's weights,
    which they may not pass on (tue-mps/eomt:model_zoo/dinov3.md).

    Args:
        tensors: The file.
        base: Weights of the encoder that differences are added to, in any layout.
        delta: Whether the file holds differences; None decides by their size.
        where: Named in errors.

    Raises:
        CheckpointError: No EoMT file; or differences without the base they belong to.
    """
    encoder = sort_published(tensors, where).encoder
    if delta is None:
        delta = _is_delta(encoder, base, where)
    if not delta:
        return encoder
    if base is None:
        raise CheckpointError(
            "the file holds differences to an encoder, not its weights",
            where=where,
            expected="the DINOv3 weights that they belong to, to be added",
            hint="name them: --encoder-weights FILE",
        )
    difference, start = convert_weights(encoder, where).state, convert_weights(base).state
    common = difference.keys() & start.keys()
    fitting = {name for name in common if difference[name].shape == start[name].shape}
    # biases of queries and values are left out where they are zero throughout
    optional = {name for name in difference.keys() ^ start.keys() if _OPTIONAL.search(name)}
    if wrong := (difference.keys() | start.keys()) - fitting - optional:
        raise CheckpointError(
            "the differences belong to another encoder", where=where, found=", ".join(sorted(wrong))
        )
    return difference | start | {name: difference[name] + start[name] for name in common}


def _is_delta(
    encoder: Mapping[str, Tensor], base: Mapping[str, Tensor] | None, where: object
) -> bool:
    """Whether tensors are differences: nearer to 0 than to the base, or tiny norm weights."""
    if base is None:
        norms = [tensor for name, tensor in encoder.items() if re.search(r"norm\d?\.weight$", name)]
        sizes = [norm.float().abs().mean().item() for norm in norms]
        return bool(norms) and sum(sizes) / len(norms) < _DELTA_NORM
    found, start = convert_weights(encoder, where).state, convert_weights(base).state
    common = [name for name in found if name in start and found[name].shape == start[name].shape]
    size = sum(found[name].square().sum() for name in common)
    distance = sum((found[name] - start[name]).square().sum() for name in common)
    return bool(size < distance)


def _own_name(name: str, layout: Layout) -> str | None:
    """The own name of a file's key; empty for buffers, None where it has no place."""
    if _BUFFERS.search(name):
        return ""
    for pattern, replacement in _RENAMES[layout]:
        new, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return new
    return None
