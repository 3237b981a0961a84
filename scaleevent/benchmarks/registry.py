"""The benchmarks by name: task, classes, input size and what their protocol leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scaleevent.street.scene import CLASSES as STREET_CLASSES
from scaleevent.street.scene import PALETTE as STREET_PALETTE
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import Task

WHOLE = 0.05  # labels whose aspect ratio is this close to the input's are scaled without a crop


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        task: What is predicted and how it is measured.
        size: Rows and columns of the network's input.
        data: Name of the data set that `prepare` makes for it.
        stretch: Of `Fit`.
        notes: Where the protocol differs from others, or is not published.
        street: Settings of `prepare street`, for the embedded benchmarks.
        scored: The part of the data that is scored: `validation` where test labels are not public.
    """

    task: Task
    size: tuple[int, int]
    data: str
    stretch: float = WHOLE
    notes: tuple[str, ...] = ()
    street: dict[str, object] = field(default_factory=dict)
    scored: str = "test"


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


def _segmentation(classes: dict[str, tuple[int, int, int]]) -> Segmentation:
    return Segmentation(tuple(classes), np.array(list(classes.values()), np.uint8))


NATIVE = "scored on the labels' own pixels; the released code scores at the input's size"
_STREET = "embedded data: the first 70 % of the scenes train, the rest test"
_DEPTH_CODE = "no evaluation code was released: both published forms of the metric are given"
_STREET_SCENES = {"seed": 1, "scenes": 1000}

BENCHMARKS: dict[str, Benchmark] = {
    "dsec-semantic": Benchmark(
        _segmentation(DSEC_CLASSES),
        (672, 960),
        "dsec-semantic",
        notes=(NATIVE, "labels are predictions of an image network on the aligned frames"),
    ),
    "ddd17-seg": Benchmark(_segmentation(DDD17_CLASSES), (416, 704), "ddd17-seg", notes=(NATIVE,)),
    "dsec-depth": Benchmark(
        Depth(80.0, crop=(320, 640)), (480, 640), "dsec-depth",
        notes=(_DEPTH_CODE, "scored in the central 320x640, as DepthAnyEvent"),
    ),
    "mvsec-depth": Benchmark(Depth(80.0), (480, 640), "mvsec-depth", notes=(_DEPTH_CODE,)),
    "mvsec-flow": Benchmark(
        Flow(("indoor_flying1", "indoor_flying2", "indoor_flying3")), (480, 640), "mvsec-flow",
        notes=(
            "on pixels with ground truth and events; the paper's unit of Out is unclear",
            "the paper scores the three indoor scenes; epe is over all test samples of the store",
        ),
    ),
    "dsec-flow": Benchmark(
        Flow(), (480, 640), "dsec-flow",
        scored="validation",
        notes=(
            "scored on the held-out training sequences of J-Cuadrado/OF_EV_SNN",
            "the test set's ground truth is not public: see --submission",
        ),
    ),
    "street-semantic": Benchmark(
        Segmentation(STREET_CLASSES, STREET_PALETTE), (96, 128), "street",
        notes=(_STREET,), street=_STREET_SCENES,
    ),
    "street-depth": Benchmark(
        Depth(80.0), (96, 128), "street", notes=(_STREET,), street=_STREET_SCENES
    ),
    "street-flow": Benchmark(
        Flow(), (96, 128), "street",
        notes=(_STREET, "all motion at twice the usual speed"),
        street=_STREET_SCENES | {"after": True, "speed": 2.0},
    ),
}  # fmt: skip
