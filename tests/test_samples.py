"""Draws, splits and batches: closed forms and frequencies."""

from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import Dataset

from scaleevent.errors import DataError
from scaleevent.pairs.samples import StepBatches, draw_epoch, load_batches, split_samples


class Samples:
    """What the sampling functions look at, without files."""

    def __init__(self, *recordings, windows=None):
        self.stores = [
            SimpleNamespace(recordings=np.array(names), windows_us=windows) for names in recordings
        ]
        self._sizes = [len(names) for names in recordings]

    def __len__(self):
        return sum(self._sizes)

    def locate(self, index):
        for number, size in enumerate(self._sizes):
            if index < size:
                return number, index
            index -= size
        raise IndexError


def test_uniform_draws_are_whole_passes():
    samples = Samples(["a"] * 10)
    numbers = np.array([1, 3, 5, 7])
    drawn = draw_epoch(samples, numbers, 10, seed=1, epoch=0, law="uniform")
    for start in (0, 4):
        assert sorted(drawn[start : start + 4]) == [1, 3, 5, 7]
    assert len(drawn) == 10
    again = draw_epoch(samples, numbers, 10, seed=1, epoch=0, law="uniform")
    other = draw_epoch(samples, numbers, 10, seed=1, epoch=1, law="uniform")
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)


def test_released_draws_follow_the_law():
    """Store by its pairs, then recording uniformly: short recordings are over-sampled."""
    samples = Samples(["a"] * 6 + ["b"] * 2, ["c"] * 4)
    draws = 60_000
    drawn = draw_epoch(samples, np.arange(12), draws, seed=0, epoch=0, law="released")
    share = np.bincount(drawn, minlength=12) / draws
    expected = np.array([8 / 12 / 2 / 6] * 6 + [8 / 12 / 2 / 2] * 2 + [4 / 12 / 4] * 4)
    chi_square = draws * ((share - expected) ** 2 / expected).sum()
    assert chi_square < 31.3  # 0.1 % point of 11 degrees of freedom
    part = draw_epoch(samples, np.array([1, 6, 9]), 500, seed=0, epoch=0, law="released")
    assert set(part) == {1, 6, 9}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_see_the_global_batches(world):
    epochs = [np.arange(20) + 100 * epoch for epoch in range(2)]

    def batches(rank):
        return StepBatches(epochs.__getitem__, 2, 2, 8, first_step=1, rank=rank, world=world)

    parts = [list(batches(rank)) for rank in range(world)]
    together = [sum((part[step] for part in parts), []) for step in range(len(parts[0]))]
    assert together == [list(range(8, 16)), list(range(100, 108)), list(range(108, 116))]
    assert len(batches(0)) == 3


def test_whole_recordings_are_held_out():
    split = split_samples(Samples(["a"] * 5 + ["b"] * 3, ["a"] * 4), 0.25)
    assert split.validation.tolist() == [8, 9, 10, 11]  # the second store's "a" is another one
    assert split.train.tolist() == list(range(8)) and split.dropped == 0


def test_a_single_recording_is_cut_in_time_with_a_gap():
    ends = np.arange(1, 11) * 100
    windows = np.stack([ends - 150, ends], 1)
    split = split_samples(Samples(["a"] * 10, windows=windows), 0.3)
    assert split.validation.tolist() == [7, 8, 9]
    assert split.train.tolist() == [0, 1, 2, 3, 4, 5]  # number 6 ends inside window 7
    assert split.dropped == 1
    assert windows[split.train, 1].max() <= windows[split.validation, 0].min()


def test_nothing_held_out():
    split = split_samples(Samples(["a"] * 3), 0.0)
    assert split.train.tolist() == [0, 1, 2] and not len(split.validation)


class Damaged(Dataset):
    """Numbers, and an error in place of 3."""

    def __getitem__(self, index):
        if index == 3:
            raise DataError("shard is damaged", where="pair 3", hint="prepare it again")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_sample_is_told_as_it_is(workers):
    batches = load_batches(Damaged(), [[0, 1], [2, 3], [4, 5]], workers)
    assert next(batches).tolist() == [0, 1]
    with pytest.raises(DataError) as caught:
        next(batches)
    told = DataError("shard is damaged", where="pair 3", hint="prepare it again")
    assert str(caught.value) == str(told)
