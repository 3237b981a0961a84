"""Draws, splits and batches: closed forms and frequencies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from torch.utils.data import Dataset

from scaleevent.errors import DataError, EnvironmentProblem
from scaleevent.pairs.draws import StepBatches, draw_epoch
from scaleevent.pairs.loading import load_batches
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.splits import split_samples


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


def test_a_store_named_again_is_held_out_with_all_its_repeats():
    samples = Samples(["a", "b", "b", "c"], ["a", "d"])
    samples.stores = [samples.stores[0], samples.stores[1], samples.stores[0]]
    samples._sizes = [4, 2, 4]
    for seed in range(4):
        split = split_samples(samples, 0.2, seed)
        sides = [
            {(store % 2, samples.stores[store].recordings[row]) for store, row in located}
            for located in (map(samples.locate, side) for side in (split.train, split.validation))
        ]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 5
        assert len(split.train) + len(split.validation) == 10


def by_hand(names, fraction, seed):
    """Which recordings of stores are held out: one after the other, from who has given least."""
    queues = {}
    for s, own in enumerate(names):
        queues[s] = list(dict.fromkeys(own))
        if seed:
            order = np.random.default_rng([seed, len(own)]).permutation(len(queues[s]))
            queues[s] = [queues[s][k] for k in order]
    total, held = sum(map(len, names)), []

    def given(s):
        """The part of a store up to the middle of its next recording."""
        gone = sum(names[s].count(name) for t, name in held if t == s)
        return (gone + names[s].count(queues[s][-1]) / 2) / len(names[s])

    while sum(names[s].count(name) for s, name in held) < fraction * total:
        left = [s for s in queues if len(queues[s]) > 1]
        if not left:
            break
        store = min(left, key=given)
        held.append((store, queues[store].pop()))
    return held


@pytest.mark.parametrize("seed", [0, 3])
def test_the_draws_are_those_of_a_slow_loop(seed):
    names = (["b", "a", "c", "a"], ["a", "d", "d"])
    samples = Samples(*names)
    every = [(s, name) for s, own in enumerate(names) for name in own]
    rng = np.random.default_rng([seed, 2])
    store_draws = rng.integers(0, 7, 50)
    which, member = rng.random(50), rng.random(50)
    expected = []
    for k, draw in enumerate(store_draws):
        store = every[draw][0]
        own = sorted(set(names[store]))
        name = own[int(which[k] * len(own))]
        places = [n for n, one in enumerate(every) if one == (store, name)]
        expected.append(places[int(member[k] * len(places))])
    drawn = draw_epoch(samples, np.arange(7), 50, seed, 2, "released")
    assert drawn.tolist() == expected


def test_uniform_draws_are_whole_passes():
    samples = Samples(["a"] * 10)
    indices = np.array([1, 3, 5, 7])
    drawn = draw_epoch(samples, indices, 10, seed=1, epoch=0, sampling="uniform")
    for start in (0, 4):
        assert sorted(drawn[start : start + 4]) == [1, 3, 5, 7]
    assert len(drawn) == 10
    again = draw_epoch(samples, indices, 10, seed=1, epoch=0, sampling="uniform")
    other = draw_epoch(samples, indices, 10, seed=1, epoch=1, sampling="uniform")
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)


def test_released_draws_have_the_stated_frequencies():
    """Store by its pairs, then recording uniformly: short recordings are over-sampled."""
    samples = Samples(["a"] * 6 + ["b"] * 2, ["c"] * 4)
    draws = 60_000
    drawn = draw_epoch(samples, np.arange(12), draws, seed=0, epoch=0, sampling="released")
    fraction = np.bincount(drawn, minlength=12) / draws
    expected = np.array([8 / 12 / 2 / 6] * 6 + [8 / 12 / 2 / 2] * 2 + [4 / 12 / 4] * 4)
    chi_square = draws * ((fraction - expected) ** 2 / expected).sum()
    assert chi_square < 31.3  # 0.1 % point of 11 degrees of freedom
    part = draw_epoch(samples, np.array([1, 6, 9]), 500, seed=0, epoch=0, sampling="released")
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


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.4, 0.7, 0.99])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_whole_recordings_are_held_out_of_every_store_in_proportion(fraction, seed):
    rng = np.random.default_rng([seed, 7])
    stores = [(12, 3), (40, 9), (2, 30), (7, 20), (3, 2)]  # recordings, and their longest
    names = [
        [f"r{k}" for k in rng.permutation(count) for _ in range(int(rng.integers(1, longest + 1)))]
        for count, longest in stores
    ]
    for chosen in (names, names[::-1], *([one] for one in names)):
        split = split_samples(Samples(*chosen), fraction, seed)
        every = [(s, name) for s, own in enumerate(chosen) for name in own]
        held = by_hand(chosen, fraction, seed)
        assert split.validation.tolist() == [k for k, one in enumerate(every) if one in held]
        assert sorted([*split.train, *split.validation]) == list(range(len(every)))
        assert {every[k][0] for k in split.train} == set(range(len(chosen))) and not split.dropped


def test_a_small_store_at_the_end_is_not_all_that_is_held_out():
    names = [f"r{k // 10}" for k in range(1000)]
    samples = Samples(names, names[:400], names[:40])
    for fraction, counts in ((0.05, [60, 20, 0]), (0.2, [200, 80, 10])):
        held = split_samples(samples, fraction).validation
        assert np.histogram(held, [0, 1000, 1400, 1440])[0].tolist() == counts


def test_a_resumed_run_must_find_the_pairs_again_that_were_chosen():
    store = SimpleNamespace(fingerprint="f", folder=Path("f"), representation="zhu")
    one = PairSamples([MagicMock(**vars(store), __len__=lambda _: 4)], None)
    assert one.fingerprint(np.arange(3), tagged=False) == ["f"]  # as in earlier versions
    told = [one.fingerprint(np.arange(n), tagged=True) for n in (2, 3, 3)]
    assert told[0] != told[1] == told[2] and told[1][0] == "f"


def test_stores_of_one_recording_give_a_stretch_each():
    ends = np.arange(1, 21) * 100
    samples = Samples(["a"] * 20, ["a"] * 20, ["b"], windows=np.stack([ends - 150, ends], 1))
    samples.stores[2].windows_us = np.array([[0, 100]])
    split = split_samples(samples, 0.1)
    assert split.validation.tolist() == [18, 19, 38, 39] and split.dropped == 2
    assert split.train.tolist() == [*range(17), *range(20, 37), 40]
    mixed = Samples(["a"] * 20, ["c", "d"] * 10, windows=np.stack([ends - 150, ends], 1))
    split = split_samples(mixed, 0.1)
    assert split.validation.tolist() == [18, 19, *range(21, 40, 2)] and split.dropped == 1


def test_a_single_recording_is_cut_in_time_with_a_gap():
    ends = np.arange(1, 11) * 100
    windows = np.stack([ends - 150, ends], 1)
    split = split_samples(Samples(["a"] * 10, windows=windows), 0.3)
    assert split.validation.tolist() == [7, 8, 9]
    assert split.train.tolist() == [0, 1, 2, 3, 4, 5]  # sample 6 ends inside window 7
    assert split.dropped == 1
    assert windows[split.train, 1].max() <= windows[split.validation, 0].min()


def test_the_split_seed_draws_recordings_and_0_takes_the_last():
    names = [f"r{k // 2}" for k in range(20)]
    found = {seed: split_samples(Samples(names), 0.3, seed) for seed in range(6)}
    assert found[0].validation.tolist() == list(range(14, 20))
    for seed, split in found.items():
        held = split.validation.reshape(-1, 2)
        assert len(held) == 3 and (held[:, 1] == held[:, 0] + 1).all()  # recordings stay whole
        assert sorted([*split.train, *split.validation]) == list(range(20)) and split.seed == seed
    assert len({tuple(split.validation) for split in found.values()}) > 3
    again = split_samples(Samples(names), 0.3, 4)
    assert np.array_equal(again.validation, found[4].validation)


def test_a_drawn_stretch_of_a_recording_shares_no_event_on_either_side():
    ends = np.arange(1, 41) * 100
    windows = np.stack([ends - 150, ends], 1)
    starts = set()
    for seed in range(1, 12):
        split = split_samples(Samples(["a"] * 40, windows=windows), 0.25, seed)
        first, last = split.validation[[0, -1]]
        assert split.validation.tolist() == list(range(first, last + 1)) and last - first == 9
        held_start, held_end = windows[first, 0], windows[last, 1]
        for one in split.train:
            assert windows[one, 1] <= held_start or windows[one, 0] >= held_end
        assert len(split.train) + split.dropped == 30
        starts.add(int(first))
    assert len(starts) > 4


def test_nothing_held_out():
    split = split_samples(Samples(["a"] * 3), 0.0)
    assert split.train.tolist() == [0, 1, 2] and not len(split.validation)


class Damaged(Dataset):
    """Indices, and an error in place of 3."""

    def __getitem__(self, index):
        if index == 3:
            raise DataError("shard is damaged", where="pair 3", hint="prepare it again")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_sample_arrives_with_its_number(workers):
    batches = load_batches(Damaged(), [[0, 1], [2, 3], [4, 5]], workers)
    assert next(batches).tolist() == [0, 1]
    with pytest.raises(DataError) as caught:
        next(batches)
    raised = DataError("shard is damaged", where="pair 3 (sample 3)", hint="prepare it again")
    assert str(caught.value) == str(raised)


class Processes(Dataset):
    """The process that makes a sample."""

    def __getitem__(self, index):
        return os.getpid()


@pytest.mark.slow
def test_a_killed_worker_is_one_error():
    batches = load_batches(Processes(), [[0]] * 20, 2)
    worker = int(next(batches))
    assert worker != os.getpid()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(EnvironmentProblem) as caught:
        list(batches)
    assert f"process {worker}, killed by SIGKILL" in str(caught.value)
    assert "1 of 2 worker processes" in str(caught.value) and "--workers" in str(caught.value)


class Slow(Processes):
    """Takes its time, so that there is always a worker at work."""

    def __getitem__(self, index):
        time.sleep(0.1)
        return index


LOAD = """
import signal, sys
from scaleevent.pairs.loading import load_batches
from test_samples import Slow

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by jobs in the background
    for batch in load_batches(Slow(), [[index] for index in range(1000)], 2):
        print(int(batch), flush=True)
        if sys.argv[1] == "fail":
            raise ValueError("the consumer fails")
"""


def started(tmp_path, how):
    """A process that loads with two workers and has had a first batch."""
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, script, how], env=os.environ | {"PYTHONPATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "0\n"
    return process


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    process = started(tmp_path, "run")
    process.kill()
    process.communicate(timeout=60)  # returns when no process holds its output any more


@pytest.mark.slow
def test_an_interrupt_from_the_terminal_reaches_only_the_run(tmp_path):
    """^C goes to all processes of a group; one of them answers, with one traceback."""
    process = started(tmp_path, "run")
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=200)[1]
    assert error.count("Traceback") == 1 and error.endswith("\nKeyboardInterrupt\n")
    assert "DataLoader worker" not in error  # as torch calls a process


@pytest.mark.slow
def test_workers_do_not_keep_a_failed_run_alive(tmp_path):
    process = started(tmp_path, "fail")
    error = process.communicate(timeout=200)[1]
    assert process.returncode == 1 and "the consumer fails" in error


KILLED_EARLY = """
import os, signal, time
from scaleevent.pairs.loading import load_batches
from test_samples import Slow

class Early(Slow):
    def __setstate__(self, state):  # in a worker that has hardly begun
        server = os.getppid()
        os.kill(server, signal.SIGKILL)
        while os.getppid() == server:
            time.sleep(0.01)

if __name__ == "__main__":
    samples = Early()
    samples.state = 0
    list(load_batches(samples, [[0]] * 20, 1))
"""


@pytest.mark.slow
def test_a_server_that_dies_before_its_worker_began_is_one_error(tmp_path):
    script = tmp_path / "early.py"
    script.write_text(KILLED_EARLY)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run([sys.executable, script], env=environment, text=True, capture_output=True)
    assert run.stderr.count("Traceback") == 1 and "AssertionError" not in run.stderr
    assert "1 of 1 worker processes died" in run.stderr


FORK = """
import os, signal, sys, time
import scaleevent.system.loader_server
server = os.getpid()
if os.fork() == 0:
    while {orphan} and os.getppid() == server:
        time.sleep(0.01)
    sys.excepthook(FileNotFoundError, FileNotFoundError("a semaphore"), None)
    os._exit(0)
os.kill(server, signal.SIGKILL) if {orphan} else os.wait()
"""


@pytest.mark.parametrize("orphan", [True, False])
def test_a_fork_whose_server_is_dead_says_nothing(orphan):
    command = [sys.executable, "-c", FORK.format(orphan=orphan)]
    told = subprocess.run(command, capture_output=True, text=True).stderr
    assert ("a semaphore" in told) is not orphan


def test_a_server_that_dies_while_workers_start_is_told(monkeypatch):
    def refuse(loader):
        raise EOFError("unexpected EOF")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", refuse)
    with pytest.raises(EnvironmentProblem, match=r"could not start[\s\S]*unexpected EOF"):
        next(load_batches(list(range(4)), [[0], [1]], 0))
