"""The benchmarks by name: task, input size and what their protocol leaves open.

Their data sets and the paper's settings are in `scaleevent.config.benchmarks`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent.config.benchmarks import DDD17_CLASSES, DSEC_CLASSES
from scaleevent.grids.geometry import STRETCH
from scaleevent.street.scene import CLASSES as STREET_CLASSES
from scaleevent.street.scene import PALETTE as STREET_PALETTE
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import Task


@dataclass(frozen=True)
class Benchmark:
    """One benchmark."""

    task: Task  # what is predicted and how it is measured
    size: tuple[int, int]  # rows and columns of the network's input
    notes: tuple[str, ...] = ()  # where the protocol differs from others, or is not published
    # up to which difference of aspect ratios the whole label is shown: `Fit.stretch`
    stretch: float = STRETCH
    # the part of the data that is scored: `validation` where test labels are not public
    eval_split: str = "test"


NATIVE = "scored on the labels' own pixels; the released code scores at the input's size"
_STRETCHED = "the input is of the released code's shape and shows the whole label"
_STREET = "embedded data: the first 70 % of the scenes train, the rest test"
_DEPTH_CODE = "no evaluation code was released: both published forms of the metric are given"

BENCHMARKS: dict[str, Benchmark] = {
    "dsec-semantic": Benchmark(
        Segmentation.of(DSEC_CLASSES), (672, 960), stretch=0.02,
        notes=(
            NATIVE, f"{_STRETCHED}: 1.8 % higher",
            "labels are predictions of an image network on the aligned frames",
        ),
    ),
    "ddd17-seg": Benchmark(
        Segmentation.of(DDD17_CLASSES), (416, 704), stretch=0.025,
        notes=(NATIVE, f"{_STRETCHED}: 2.2 % higher"),
    ),
    "dsec-depth": Benchmark(
        Depth(80.0, crop=(320, 640)), (480, 640),
        notes=(_DEPTH_CODE, "scored in the central 320x640, as DepthAnyEvent"),
    ),
    "mvsec-depth": Benchmark(Depth(80.0), (480, 640), notes=(_DEPTH_CODE,)),
    "mvsec-flow": Benchmark(
        Flow(("indoor_flying1", "indoor_flying2", "indoor_flying3")), (480, 640),
        notes=(
            "on pixels with ground truth and events; the paper's unit of Out is unclear",
            "the paper scores the three indoor scenes; epe is over all test samples of the store",
        ),
    ),
    "dsec-flow": Benchmark(
        Flow(), (480, 640), eval_split="validation",
        notes=(
            "scored on the held-out training sequences of J-Cuadrado/OF_EV_SNN",
            "the test set's ground truth is not public: see --submission",
        ),
    ),
    "street-semantic": Benchmark(
        Segmentation(STREET_CLASSES, STREET_PALETTE), (96, 128), notes=(_STREET,)
    ),
    "street-depth": Benchmark(Depth(80.0), (96, 128), notes=(_STREET,)),
    "street-flow": Benchmark(
        Flow(), (96, 128), notes=(_STREET, "all motion at twice the usual speed")
    ),
}  # fmt: skip
