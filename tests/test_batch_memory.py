"""The memory of batches is used again, and never while somebody still has a batch."""

from __future__ import annotations

import gc
import sys
from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from scaleevent.pairs.batch_memory import Slots, Stacked
from scaleevent.pairs.loading import load_batches


class Numbers(Dataset):
    """Samples whose values tell their index, of several types; every seventh has another size."""

    def __init__(self, odd: int = 0) -> None:
        self.odd = odd

    def __getitem__(self, index):
        size = 5 if self.odd and index % self.odd == 0 else 40
        return {
            "image": torch.full((3, size), float(index)),
            "half": torch.full((size,), index, dtype=torch.bfloat16),
            "active": torch.arange(size) < index,
            "index": torch.tensor(index),
        }


def of_one_size(odd: int) -> list[list[int]]:
    """Batches of different lengths, each of samples of one size."""
    plain = [i for i in range(1, 60) if not odd or i % odd]
    batches = [plain[i : i + 3] for i in range(0, len(plain) - 3, 3)]
    batches[4:4] = [plain[:1], plain[:5]]
    return batches + ([[odd, 2 * odd], [3 * odd], plain[:3]] if odd else [plain[-2:]])


def expected(samples: Numbers, indices: list[int]) -> dict[str, torch.Tensor]:
    return default_collate([samples[index] for index in indices])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("odd", [0, 7])
@pytest.mark.parametrize("keep", ["all", "none", "views", "arrays", "every third"])
def test_batches_are_those_of_fresh_memory_whatever_is_kept_of_them(workers, odd, keep):
    samples, plan, kept = Numbers(odd), of_one_size(odd), []
    for number, batch in enumerate(load_batches(samples, plan, workers)):
        assert same(batch, expected(samples, plan[number]))
        if keep == "all" or (keep == "every third" and number % 3 == 0):
            kept.append((number, "image", batch["image"]))
        elif keep == "views":
            kept.append((number, "half", batch["half"][-1:, 2:]))
        elif keep == "arrays":
            kept.append((number, "active", batch["active"].numpy()))
    assert number + 1 == len(plan)
    for number, name, values in kept:
        whole = expected(samples, plan[number])[name]
        part = whole[-1:, 2:] if keep == "views" else whole
        assert torch.equal(torch.as_tensor(values), part)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_memory_is_used_again_once_a_batch_is_gone(workers):
    batches = load_batches(Numbers(), [[1, 2]] * 40, workers)
    places = {batch["image"].data_ptr() for batch in batches}
    # of each worker: two loaded ahead, the one that is looked at, the next one
    assert len(places) <= 4 * max(workers, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is shared by name")
def test_memory_that_a_worker_shares_is_mapped_once(monkeypatch):
    mapped = []
    mapping = torch.UntypedStorage._new_shared_fd_cpu
    monkeypatch.setattr(
        torch.UntypedStorage, "_new_shared_fd_cpu", lambda *a: mapped.append(a) or mapping(*a)
    )
    for batch in load_batches(Numbers(), [[1, 2]] * 40, 1):
        del batch
    assert 4 <= len(mapped) <= 4 * 4  # tensors of a batch, and slots


def test_memory_of_a_batch_that_is_kept_is_left_alone():
    batches = load_batches(Numbers(), [[1, 2]] * 40, 0)
    kept = [batch["image"][0, 0, :1] for batch in islice(batches, 20)]
    places = {view.data_ptr() for view in kept}
    assert len(places) == 20
    assert next(batches)["image"].data_ptr() not in places
    first = kept[0].data_ptr()
    del kept[0]
    gc.collect()
    assert first in {batch["image"].data_ptr() for batch in batches}


class Words(Dataset):
    """Samples that are not tensors only."""

    def __getitem__(self, index):
        return {"name": f"sample {index}", "index": index}


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_are_no_tensors_come_as_before(workers):
    plan = [[0, 1], [2, 3], [4]]
    batches = list(load_batches(Words(), plan, workers))
    assert [batch["name"] for batch in batches] == [[f"sample {i}" for i in one] for one in plan]
    assert [batch["index"].tolist() for batch in batches] == plan
    assert list(load_batches(range(9), plan, workers, collate=list)) == plan


def test_a_batch_in_pinned_memory_frees_its_slot_at_once(monkeypatch):
    slots = Slots(1)
    draws = slots.assign([[0]] * 3)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    taken = []
    for _ in range(3):
        slot, _ = next(draws)
        batch = {"index": torch.zeros(1)}
        assert slots.lend(slot, batch) is batch
        taken.append((slot, batch))
    assert [slot for slot, _ in taken] == [0, 0, 0]


def test_a_slot_that_waits_for_its_batch_is_not_free():
    slots = Slots(2)
    draws = [slot for slot, _ in islice(slots.assign([[0]] * 6), 6)]
    assert sorted(draws) == list(range(6))


def test_a_batch_is_stacked_in_its_slot_alone():
    stack, samples = Stacked(), [Numbers()[i] for i in (1, 2)]
    first, second = stack(0, samples), stack(1, samples)
    assert first["image"].data_ptr() != second["image"].data_ptr()
    again = stack(0, [Numbers()[i] for i in (8, 9)])
    assert again["image"].data_ptr() == first["image"].data_ptr()
    assert second["index"].tolist() == [1, 2]
