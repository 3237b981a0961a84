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

    task: str | None  # key of `DEFAULT_DECODERS`; None: its stores say, see `config.labels`
    data: str  # the data set that `prepare` makes for it
    recipe: Recipe | None = None  # the paper's, where there is one
    # whether the labels of its test set are not public, so that predictions are handed in
    submission: bool = False
    # how many of its first labels each sequence has in the lists of the released loaders
    released_labels: Mapping[str, int] = field(default_factory=dict)
    # settings of `prepare` for an embedded benchmark, rendered on first use
    rendered: Mapping[str, Any] = field(default_factory=dict)

    @property
    def embedded(self) -> bool:
        """Whether its data are rendered and its networks small, for a CPU."""
        return bool(self.rendered)

    @property
    def preset(self) -> str:
        """The preset of `finetune` that holds where none is named."""
        return "demo" if self.embedded else "own" if self.task is None else "paper"


# zhiwen-xdu/ScaleEvent:scale_event/dataset/data_specs/dsec_seg_{train,test}{,_seqlen}_v2.txt and
# ddd17_seg_{train{,_seqlen},test{,_seqlen}_v2}.txt at 0fd5605. They hold lengths only: that the
# label files were numbered in the order of time from the first label on is inferred.
_DSEC_LABELS = {
    "zurich_city_00_a": 884, "zurich_city_01_a": 681, "zurich_city_02_a": 235,
    "zurich_city_04_a": 701, "zurich_city_05_a": 1671, "zurich_city_06_a": 1523,
    "zurich_city_07_a": 1463, "zurich_city_08_a": 787,
    "zurich_city_13_a": 379, "zurich_city_14_c": 1191, "zurich_city_15_a": 1239,
}  # fmt: skip
_DDD17_LABELS = {
    "dir0": 4605, "dir3": 1320, "dir4": 6945, "dir6": 1140, "dir7": 995, "dir1": 3571,
}  # fmt: skip

_FLOW = Recipe(1e-6, 2e-6, 24, 20)
_SCENES = {"seed": 1, "scenes": 1000}

BENCHMARKS: dict[str, BenchmarkEntry] = {
    "dsec-semantic": BenchmarkEntry(
        "segmentation", "dsec-semantic", Recipe(2e-6, 4e-6, 12, 30), released_labels=_DSEC_LABELS
    ),
    "ddd17-seg": BenchmarkEntry(
        "segmentation", "ddd17-seg", Recipe(2e-6, 5e-6, 40, 20), released_labels=_DDD17_LABELS
    ),
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
    "custom": BenchmarkEntry(None, "custom"),  # labels of users' own
}
