"""What every data set becomes for `prepare`: a list of independent tasks that yield pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from scaleevent.pairs.pair import Pair


class PairSource(Protocol):
    """One task of `prepare`, written as one shard; picklable, and it opens nothing until asked.

    Attributes:
        name: Unique in the data set and safe as a file name.
        inputs: Files read; their sizes and times tell whether a finished shard is still true.
        expected: Images or labels it will look at.
        found: What was recognised, for people.
    """

    name: str
    inputs: tuple[Path, ...]
    expected: int
    found: str

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """All pairs, in a fixed order, adding to the tally (`pairs.pairing.pair_images`)."""
