"""The memory of batches, used again as soon as nobody has the batch that is in it.

The system clears every page that it hands out. For a batch of 16 pairs of 480x640 that takes as
long as reading the pairs and making tensors of them, and in the memory that workers share with the
run even longer (examples/bench_store.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from itertools import count
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

Tensors = dict[str, Tensor]


class Stacked:
    """Makes batches of samples, in whatever process loads them; each has slots of its own."""

    def __init__(self) -> None:
        self._slots: dict[int, Tensors] = {}

    def __call__(self, slot: int, samples: list[object]) -> object:
        """What `default_collate` makes of the samples, in the memory of a slot if they fit there.

        Samples that are not dictionaries of tensors get memory of their own each time.
        """
        kept = self._slots.get(slot)
        if kept is None or not _fit(samples, kept):
            batch: object = default_collate(samples)  # in a worker, in memory that it shares
            if _plain(batch):
                self._slots[slot] = batch
            return batch
        parts = {name: memory[: len(samples)] for name, memory in kept.items()}
        for name, part in parts.items():
            torch.stack([sample[name] for sample in samples], out=part)
        return parts


class Slots:
    """Which slots of which worker are free; in the process that takes the batches.

    Args:
        workers: Processes that load; 0 is this one.
    """

    def __init__(self, workers: int) -> None:
        self._of_worker: list[list[int]] = [[] for _ in range(max(workers, 1))]
        self._numbers = count()
        self._mapped: dict[int, Tensors] = {}  # a batch of each slot: its memory stays mapped here
        # the arrays through which a slot's memory is used, empty where nobody uses it; slots that
        # are not in here wait for their batch
        self._users: dict[int, list[weakref.ref[np.ndarray]]] = {}

    def assign(self, batches: Iterable[list[int]]) -> Iterator[list[int]]:
        """Each batch's indices after the number of a free slot of the worker whose turn it is."""
        for number, indices in enumerate(batches):
            own = self._of_worker[number % len(self._of_worker)]
            slot = next(filter(self._free, own), None)
            if slot is None:
                slot = next(self._numbers)
                own.append(slot)
            self._users.pop(slot, None)
            yield [slot, *indices]

    def _free(self, slot: int) -> bool:
        users = self._users.get(slot)
        return users is not None and all(user() is None for user in users)

    def lend(self, slot: int, batch: object) -> object:
        """The batch that was put into a slot, which is free again when nothing refers to it.

        A tensor, and every view of it, refers to the array that it was made of.
        """
        self._users[slot] = []
        if not _plain(batch) or any(tensor.is_pinned() for tensor in batch.values()):
            return batch  # in other memory than a slot's
        self._mapped[slot] = batch
        arrays = {name: tensor.view(torch.uint8).numpy() for name, tensor in batch.items()}
        self._users[slot] = [weakref.ref(array) for array in arrays.values()]
        return {name: torch.from_numpy(arrays[name]).view(batch[name].dtype) for name in batch}


def _plain(batch: object) -> TypeGuard[Tensors]:
    """Whether it is a dictionary of tensors with values and no more, in this machine's memory."""
    return isinstance(batch, dict) and all(
        isinstance(one, Tensor)
        and (one.layout, one.device.type, one.requires_grad) == (torch.strided, "cpu", False)
        for one in batch.values()
    )


def _fit(samples: list[object], kept: Tensors) -> TypeGuard[list[Tensors]]:
    """Whether these samples have the kept batch's names, types and sizes, and are no more."""
    wanted = {name: (memory.dtype, memory.shape[1:]) for name, memory in kept.items()}
    return all(len(samples) <= len(memory) for memory in kept.values()) and all(
        _plain(sample) and {k: (v.dtype, v.shape) for k, v in sample.items()} == wanted
        for sample in samples
    )
