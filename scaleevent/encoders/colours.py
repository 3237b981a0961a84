"""Mean and standard deviation of the colours that an image network was trained with.

They belong to the weights: DINOv3's are ImageNet's (its satellite models have others), CLIP and
SigLIP have their own. timm keeps them in its configurations, published weights in a JSON file
beside them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from scaleevent.errors import CheckpointError
from scaleevent.grids.inputs import IMAGENET_MEAN, IMAGENET_STD, Channels

SATELLITE = "vit_large_patch16_dinov3.sat493m"  # Meta's files of it have "sat493m" in their names
BESIDE = ("preprocessor_config.json", "config.json")  # of transformers, of timm
_JSON_BYTES = 1_000_000


@dataclass(frozen=True)
class Colours:
    """Mean and standard deviation of each colour, for values of 0 to 1."""

    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    origin: str = "ImageNet's, as for DINOv3"  # for people

    def __str__(self) -> str:
        mean, std = (", ".join(f"{one:.4g}" for one in values) for values in (self.mean, self.std))
        return f"mean {mean}, std {std} ({self.origin})"


def colours_of_timm(name: str) -> Colours:
    """Those of weights that timm publishes as ``NAME`` or ``NAME.TAG``."""
    config: Any = timm.get_pretrained_cfg(name)
    return Colours(tuple(config.mean), tuple(config.std), f"timm's for {name}")


def colours_of_file(path: Path, source: str) -> Colours:
    """Those of a DINOv3 weight file: told by a file beside it or by its name, else ImageNet's.

    Args:
        path: The file.
        source: What the user calls it.

    Raises:
        CheckpointError: The file beside it tells what cannot be used.
    """
    for name in BESIDE:
        beside = path.parent / name
        if beside.is_file() and beside.stat().st_size <= _JSON_BYTES:
            told = _told(beside)
            if told is not None:
                return told
    return colours_of_timm(SATELLITE) if "sat493m" in source.lower() else Colours()


def _told(path: Path) -> Colours | None:
    """Mean and std in a published configuration, if it has them."""
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None  # of something else
    if not isinstance(config, dict):
        return None
    inner = config.get("pretrained_cfg")
    places = [(config, "image_mean", "image_std")]
    if isinstance(inner, dict):
        places.append((inner, "mean", "std"))
    for place, mean, std in places:
        match place.get(mean), place.get(std):
            case None, None:
                continue
            case [
                [int() | float(), int() | float(), int() | float()] as means,
                [int() | float(), int() | float(), int() | float()] as stds,
            ] if min(stds) > 0:
                return Colours(tuple(means), tuple(stds), f"from {path}")
            case found:
                raise CheckpointError(
                    "mean and std of the colours cannot be used",
                    where=f"{path}, {mean}, {std}",
                    found=found,
                    expected="three numbers each, deviations above 0",
                )
    return None
