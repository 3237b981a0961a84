"""Published files of Depth Anything V2: which of their tensors are the head, and under what names.

The original files hold `pretrained.*` (a DINOv2 encoder) and `depth_head.*`; Hugging Face's
`DepthAnythingForDepthEstimation` names the same head `neck.*` and `head.*`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scaleevent.errors import CheckpointError

PUBLISHED_PATCH = 14  # pixels, of DINOv2

# huggingface/transformers:src/transformers/models/depth_anything/
# convert_depth_anything_to_hf.py, read backwards
_FROM_HUGGING_FACE: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"projects.\1."),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"resize_layers.\1."),
    (r"^neck\.convs\.(\d)\.", lambda found: f"scratch.layer{int(found[1]) + 1}_rn."),
    (
        r"^neck\.fusion_stage\.layers\.(\d)\.",
        lambda found: f"scratch.refinenet{4 - int(found[1])}.",
    ),
    (r"^(scratch\.refinenet\d)\.projection\.", r"\1.out_conv."),
    (r"\.residual_layer([12])\.convolution([12])\.", r".resConfUnit\1.conv\2."),
    (r"^head\.conv1\.", "scratch.output_conv1."),
    (r"^head\.conv2\.", "scratch.output_conv2.0."),
    (r"^head\.conv3\.", "scratch.output_conv2.2."),
]

# names of the released files, e.g. depth_anything_v2_metric_vkitti_vits.pth and
# Depth-Anything-V2-Metric-Outdoor-Small-hf; without "metric" they are relative
_FILE_NAME = re.compile(r"depth[-_]anything[-_]v2[-_](?:(metric)[-_])?([a-z]+)", re.IGNORECASE)
_MAX_DEPTHS = {"hypersim": 20.0, "indoor": 20.0, "vkitti": 80.0, "outdoor": 80.0}


def convert_head(
    tensors: Mapping[str, Tensor], where: object = None
) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """The layout, the head's tensors under bare original names, and the file's other keys.

    Keys that belong to the head by their prefix but are unknown keep their names, to be reported by
    whoever loads. Published names may stand behind ``module.``.

    Raises:
        CheckpointError: No depth head, or one with values that are not finite.
    """
    names = {name.removeprefix("module."): name for name in tensors}
    prefixes: tuple[str, ...]
    if any(name.startswith("depth_head.") for name in names):
        layout, prefixes = "depth-anything-v2", ("depth_head.",)
    elif any(name.startswith("neck.fusion_stage.") for name in names):
        layout, prefixes = "huggingface", ("neck.", "head.")
    elif any(name.startswith("scratch.refinenet") for name in names):
        layout, prefixes = "depth-anything-v2 head", ("",)
    else:
        raise CheckpointError(
            "no depth head of Depth Anything V2 in the file",
            where=where,
            found=f"keys {', '.join(sorted(tensors)[:8])}",
            expected="depth_head.*, or neck.* and head.* (Hugging Face)",
        )
    state = {_own(n, layout): tensors[full] for n, full in names.items() if n.startswith(prefixes)}
    unused = tuple(full for name, full in names.items() if not name.startswith(prefixes))
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(
            "weights that are not finite", where=where, found=", ".join(broken[:8])
        )
    return layout, state, unused


class PublishedDepth(NamedTuple):
    """What the name of a released file tells."""

    kind: Literal["metric", "relative"]
    max_depth: float | None  # metres; None where the name does not tell


def published_depth(where: object) -> PublishedDepth | None:
    """What a file's name tells of its head; None for names that are not of released files."""
    name = _FILE_NAME.search(str(where))
    if name is None:
        return None
    return PublishedDepth("metric" if name[1] else "relative", _MAX_DEPTHS.get(name[2].lower()))


def origin_notes(where: object, kind: str, max_depth: float, patch: int) -> tuple[str, ...]:
    """What a user should know about a published head in a decoder with these settings.

    The tensors do not tell what a head was trained for; a released file's name does.
    """
    notes = []
    published = published_depth(where)
    if published is None:
        notes.append(
            f"the file does not say whether its depth is metric or relative: used as {kind}"
        )
    else:
        trained = published.max_depth or max_depth
        if published.kind != kind:
            notes.append(
                f"a {published.kind} head in a {kind} decoder: the weights fit, the last "
                "activation differs, so predictions mean nothing before training"
            )
        elif kind == "metric" and trained != max_depth:
            notes.append(f"trained for max_depth {trained:g} m, here {max_depth:g} m")
    if patch != PUBLISHED_PATCH:
        notes.append(
            f"trained with patches of {PUBLISHED_PATCH} pixels, here {patch}: only the scale of "
            "the last enlargement differs"
        )
    return tuple(notes)


def _own(name: str, layout: str) -> str:
    """A published name of the head without prefix and under the original name."""
    if layout == "huggingface":
        for pattern, replacement in _FROM_HUGGING_FACE:
            name = re.sub(pattern, replacement, name)
    return name.removeprefix("depth_head.")
