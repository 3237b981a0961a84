"""Data sets that `prepare` knows: one module each, with `sources(config) -> list[PairSource]`."""

from scaleevent.datasets import (
    custom,
    ddd17_seg,
    dsec,
    dsec_depth,
    dsec_flow,
    dsec_semantic,
    mvsec_depth,
    mvsec_flow,
    street,
)

DATASETS = {
    "street": street,
    "custom": custom,
    "dsec": dsec,
    "dsec-semantic": dsec_semantic,
    "dsec-depth": dsec_depth,
    "dsec-flow": dsec_flow,
    "ddd17-seg": ddd17_seg,
    "mvsec-depth": mvsec_depth,
    "mvsec-flow": mvsec_flow,
}
