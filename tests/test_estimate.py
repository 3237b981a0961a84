"""How long a run will take: measured before its first step, and without a trace in its result."""

import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from fakes import write_custom
from test_end_to_end import call
from torch import nn

from scaleevent.config.run import ScheduledSettings
from scaleevent.system.files import read_json_lines
from scaleevent.system.ranks import Ranks
from scaleevent.training import estimate as module
from scaleevent.training.estimate import estimate, lasting
from scaleevent.training.loop import Trainable, TrainSettings
from scaleevent.training.run import Drawn, Run

ALONE = Ranks(0, 1, torch.device("cpu"))


class Stateful(Trainable):
    """Everything that a measured step could change: statistics, dropout, a count, gradients."""

    weights: ClassVar = {"square": 1.0}

    def __init__(self):
        torch.manual_seed(0)
        self._model = nn.Sequential(
            nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1)
        )
        self.steps = 0

    @property
    def model(self):
        return self._model

    def step(self, model, batch):
        self.steps += 1
        x = batch["x"].repeat(2, 1)  # two of each, for statistics of one sample
        return {"square": (model(x) + 0.01 * self.steps).square().mean()}, {}


def run(out, foretells, **settings):
    cfg = ScheduledSettings(out=out, lr=0.1, log_every=1, device="cpu", **{"epochs": 3} | settings)
    objective = Stateful()
    optimizer = torch.optim.AdamW(objective.model.parameters(), lr=cfg.lr)
    samples = [{"x": torch.tensor([float(i), 1.0])} for i in range(8)]
    drawn = Drawn(samples, lambda epoch: np.arange(8), 8, 4)
    with (
        Run.open(cfg, "test") as this,
        this.started(objective.model, optimizer, {"same": 1}) as first,
    ):
        objective.steps = first
        if foretells:
            state = torch.get_rng_state()
            this.foretell(objective, drawn, first)
            assert torch.equal(torch.get_rng_state(), state)
        this.train(objective, optimizer, drawn, first, {"same": 1})
    log = read_json_lines(out / "log.jsonl")
    return objective, log


def test_measuring_leaves_no_trace_in_the_result(tmp_path, capsys):
    told, log = run(tmp_path / "told", True)
    assert "6 steps will take about" in capsys.readouterr().err
    plain, other = run(tmp_path / "plain", False)
    assert "will take" not in capsys.readouterr().err
    state, same = told.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert told.steps == plain.steps == 6
    assert [entry.get("loss") for entry in log] == [entry.get("loss") for entry in other]
    assert not any("expected_s" in entry for entry in log)


def test_a_resumed_run_is_told_what_is_left_and_draws_the_same(tmp_path, capsys):
    whole, _ = run(tmp_path / "whole", False, epochs=5)
    run(tmp_path / "parts", True, epochs=1)
    assert "will take" not in capsys.readouterr().err  # two steps: not worth it
    parts, _ = run(tmp_path / "parts", True, epochs=5, resume=True)
    assert "8 steps will take" in capsys.readouterr().err
    state, same = whole.model.state_dict(), parts.model.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)


class Paced(Trainable):
    """A step takes so many seconds a sample on a clock of its own."""

    weights: ClassVar = {"zero": 1.0}

    def __init__(self, clock, pace=0.02):
        self._model = nn.Linear(1, 1)
        self.clock, self.pace = clock, pace

    def __deepcopy__(self, memo):
        return Paced(self.clock, self.pace)

    @property
    def model(self):
        return self._model

    def step(self, model, batch):
        self.clock[0] += self.pace * len(batch["x"])
        return {"zero": model(batch["x"]).sum() * 0}, {}


@pytest.mark.parametrize(("workers", "seconds"), [(0, 0.03), (1, 0.02), (2, 0.02)])
def test_what_is_expected_is_what_the_steps_take(monkeypatch, workers, seconds):
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    def load(count):
        clock[0] += 0.01 * count
        return {"x": torch.zeros(count, 1)}

    settings = TrainSettings(ScheduledSettings(epochs=10), 100)
    given = {"batch": 16, "workers": workers}
    whole = estimate(Paced(clock), load, settings, ALONE, first=0, **given)
    assert (whole.steps, whole.step) == (1000, pytest.approx(16 * seconds))
    assert whole.seconds == pytest.approx(1000 * 16 * seconds)
    rest = estimate(Paced(clock), load, settings, ALONE, first=900, evaluated=10, **given)
    assert rest.steps == 100
    assert rest.seconds == pytest.approx(100 * 16 * seconds + 10 * (0.02 + 0.01))
    assert estimate(Paced(clock), load, settings, ALONE, first=998, **given) is None


def test_a_slow_machine_is_measured_on_one_sample(monkeypatch):
    clock, asked = [0.0], []
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    def load(count):
        asked.append(count)
        clock[0] += 100.0 * count
        return {"x": torch.zeros(count, 1)}

    settings = TrainSettings(ScheduledSettings(epochs=10), 100)
    expected = estimate(Paced(clock, 10), load, settings, ALONE, batch=16, first=0, workers=8)
    assert asked == [1] and expected.step == pytest.approx(16 * 100 / 8)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.012 s"), (4.0, "4 s"), (75, "75 s"), (3000, "50 min"), (12_600, "3.5 h"),
        (56 * 86_400, "56 days"), (2.5 * 86_400, "2.5 days"),
    ],
)  # fmt: skip
def test_lengths_of_time_for_people(seconds, text):
    assert lasting(seconds) == text


@pytest.mark.slow
def test_on_a_cpu_pairs_of_ones_own_are_enough_and_the_time_is_said(tmp_path, capsys):
    call(f"prepare custom {write_custom(tmp_path / 'raw')} -o {tmp_path / 'pairs'}")
    line = f"pretrain {tmp_path / 'pairs'} --device cpu --epochs 1 --draws 40 --batch 8 --offline"
    capsys.readouterr()
    call(f"{line} -o {tmp_path / 'run'}")
    told = capsys.readouterr().err
    assert "preset cpu (the demo's size and length; the paper's: --preset paper-vits)" in told
    assert "input 96x128" in told and "5 steps will take about" in told
    call(f"{line} -o {tmp_path / 'quiet'} --json")
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 5 and "will take" not in out + err
