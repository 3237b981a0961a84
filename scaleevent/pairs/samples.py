"""Pairs on disk to training samples under one running index."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from scaleevent.config.data import window_in
from scaleevent.errors import DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.sample_inputs import INPUTS, Input, StoredPair
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import Json

LOAD_SECONDS = 180  # that a batch may take to load


class PairSamples(Dataset[dict[str, Tensor]]):
    """Samples of one or more stores under a running index.

    Args:
        stores: Pair stores, in order; one may be there several times, to be drawn more often.
        settings: The network's input.
        inputs: What a sample holds, by name; each is made of a `StoredPair`.

    Raises:
        DataError: A store of voxels in another representation than the default.
    """

    def __init__(
        self,
        stores: Sequence[PairStore],
        settings: InputSettings,
        inputs: Mapping[str, Input] = INPUTS,
    ) -> None:
        self.settings, self.inputs = settings, inputs
        known: dict[tuple[Path, bool], PairStore] = {}  # a store that is named twice is opened once
        self.stores = [
            known.setdefault((store.folder.resolve(), store.simulated), store) for store in stores
        ]
        for store in self.stores:
            if store.representation != "zhu":
                raise DataError(
                    "stored in a representation that an encoder is not trained on",
                    where=store.where,
                    found=store.representation,
                    expected="zhu, which `encode` makes of events too",
                    hint="voxelize again without --representation, or prepare pairs",
                )
        self._ends = np.cumsum([len(store) for store in self.stores])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Index of the store that holds a sample, and the sample's index in that store."""
        store = int(np.searchsorted(self._ends, index, "right"))
        return store, int(index - self._ends[store] + len(self.stores[store]))

    def shard(self, index: int) -> tuple[Shard, int]:
        """The shard that holds a sample, and the sample's row in it; see `numbered`."""
        draw, index = divmod(int(index), len(self))
        store, inside = self.locate(index)
        return self.stores[store].drawn(inside, draw)

    @property
    def simulated(self) -> bool:
        """Whether some samples are others each time they are drawn."""
        return any(store.simulated for store in self.stores)

    def numbered(
        self, order: Callable[[int], np.ndarray], draws: int
    ) -> Callable[[int], np.ndarray]:
        """The same order, where samples are simulated each with the number of its draw, from 1 on.

        Sample i in draw n has the index n len(self) + i, so that what a worker makes of it follows
        from the index alone: whichever worker, rank or resumed run it is.

        Args:
            order: From an epoch to its (draws,) indices, over all ranks.
            draws: Samples of an epoch.
        """
        if not self.simulated:
            return order

        def with_numbers(epoch: int) -> np.ndarray:
            indices = order(epoch)
            return indices + len(self) * (1 + epoch * draws + np.arange(len(indices)))

        return with_numbers

    @property
    def patience(self) -> int:
        """Seconds that a batch may take to load: more where pairs are simulated."""
        return LOAD_SECONDS * (10 if self.simulated else 1)

    def recordings(self, indices: np.ndarray) -> set[str]:
        """The recordings that samples are from."""
        names = np.concatenate([store.recordings.astype(str) for store in self.stores])
        return set(names[indices].tolist())

    def fingerprint(self, indices: np.ndarray, tagged: bool) -> list[str]:
        """What a resumed run must find again: hashes of the stores and of which pairs are taken.

        The latter only where stores and settings do not decide on it: pairs chosen by tags, which
        can be told anew; and several stores, of which earlier versions held out others.

        Args:
            indices: Of the samples that are trained on.
            tagged: Whether they were chosen by tags.
        """
        which = [f"{zlib.crc32(indices.tobytes()):08x}"] if tagged or len(self.stores) > 1 else []
        return [*(store.fingerprint for store in self.stores), *which]

    @property
    def window(self) -> Json | None:
        """The settings of the rule that all windows were chosen by; None of several, or of none."""
        rules = [window_in(store.manifest.get("settings", {})) for store in self.stores]
        return rules[0] if all(rule == rules[0] for rule in rules) else None

    def check_images(self) -> None:
        """Check that every pair has an image, which distillation needs.

        Raises:
            DataError: Some have none, as when `voxelize` read recordings without frames.
        """
        for store in self.stores:
            missing = int((store.image_bytes == 0).sum())
            if missing:
                raise DataError(
                    f"{missing} of {len(store)} pairs have no image, which distillation needs",
                    where=store.where,
                    hint="leave out recordings without frames, or make pairs: "
                    "`scaleevent prepare custom FOLDER -o PAIRS`",
                )

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pair = StoredPair(*self.shard(index), self.settings, int(index) % len(self))
        return {name: make(pair) for name, make in self.inputs.items()}


def store_numbers(stores: Sequence[PairStore]) -> np.ndarray:
    """(samples,) int64: a number for every store, the same wherever it is named again."""
    numbers = {id(store): number for number, store in enumerate(stores)}
    return np.repeat([numbers[id(s)] for s in stores], [len(s.recordings) for s in stores])


def recording_numbers(stores: Sequence[PairStore]) -> np.ndarray:
    """(samples,) int64: a number for every recording, the same wherever a store is named again."""
    numbers: dict[int, np.ndarray] = {}
    total = 0
    for store in stores:
        if id(store) not in numbers:
            names, member = np.unique(store.recordings, return_inverse=True)
            numbers[id(store)] = member + total
            total += len(names)
    return np.concatenate([numbers[id(store)] for store in stores])
