"""Data sets that `prepare` knows: one module each, with `sources(config) -> list[PairSource]`."""

from scaleevent.datasets import custom, dsec, street

DATASETS = {"street": street, "custom": custom, "dsec": dsec}
