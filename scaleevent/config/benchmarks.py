"""The benchmarks by name: what settings, help and data sets need to know of them.

Nothing here imports numpy or torch. Tasks and protocols are in `scaleevent.benchmarks.registry`,
published results in `scaleevent.benchmarks.published`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

IGNORE = 255  # label id of pixels that do not count

# uzh-rpg/ess:DSEC; colours of Cityscapes
DSEC_CLASSES = {
    "background": (70, 130, 180), "building": (70, 70, 70), "fence": (190, 153, 153),
    "person": (220, 20, 60), "pole": (153, 153, 153), "road": (128, 64, 128),
    "sidewalk": (244, 35, 232), "vegetation": (107, 142, 35), "car": (0, 0, 142),
    "wall": (102, 102, 156), "traffic sign": (220, 220, 0),
}  # fmt: skip
# Shathe/Ev-SegNet
DDD17_CLASSES = {
    "flat": (128, 64, 128), "background": (70, 70, 70), "object": (220, 220, 0),
    "vegetation": (107, 142, 35), "human": (220, 20, 60), "vehicle": (0, 0, 142),
}  # fmt: skip


class Recipe(NamedTuple):
    """How the paper fine-tunes ViT-L on a benchmark: a row of its table 9."""

    encoder_lr: float
    lr: float
    batch: int
    epochs: int


@dataclass(frozen=True)
class BenchmarkEntry:
    """One benchmark."""

    task: str  # key of `DEFAULT_DECODERS`
    data: str  # the data set that `prepare` makes for it
    recipe: Recipe | None = None  # the paper's, where there is one
    # whether the labels of its test set are not public, so that predictions are handed in
    submission: bool = False
    # settings of `prepare` for an embedded benchmark, rendered on first use
    rendered: Mapping[str, Any] = field(default_factory=dict)

    @property
    def embedded(self) -> bool:
        """Whether its data are rendered and its networks small, for a CPU."""
        return bool(self.rendered)


_FLOW = Recipe(1e-6, 2e-6, 24, 20)
_SCENES = {"seed": 1, "scenes": 1000}

BENCHMARKS: dict[str, BenchmarkEntry] = {
    "dsec-semantic": BenchmarkEntry("segmentation", "dsec-semantic", Recipe(2e-6, 4e-6, 12, 30)),
    "ddd17-seg": BenchmarkEntry("segmentation", "ddd17-seg", Recipe(2e-6, 5e-6, 40, 20)),
    "dsec-depth": BenchmarkEntry("depth", "dsec-depth", Recipe(1e-6, 2e-6, 12, 30)),
    "mvsec-depth": BenchmarkEntry("depth", "mvsec-depth", Recipe(2e-6, 4e-6, 40, 30)),
    "mvsec-flow": BenchmarkEntry("flow", "mvsec-flow", _FLOW),
    # the paper has no such experiment: the recipe is that of mvsec-flow
    "dsec-flow": BenchmarkEntry("flow", "dsec-flow", _FLOW, submission=True),
    "street-semantic": BenchmarkEntry("segmentation", "street", rendered=_SCENES),
    "street-depth": BenchmarkEntry("depth", "street", rendered=_SCENES),
    "street-flow": BenchmarkEntry(
        "flow", "street", rendered=_SCENES | {"after": True, "speed": 2.0}
    ),
}
