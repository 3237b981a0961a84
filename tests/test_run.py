"""A run without a command line: batches over ranks, precision, folder, fingerprint, resume."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from scaleevent.config.run import ScheduledSettings
from scaleevent.errors import CheckpointError, ConfigError, EnvironmentProblem
from scaleevent.system.files import read_json_lines
from scaleevent.system.ranks import Ranks
from scaleevent.training.loop import Trainable, TrainSettings
from scaleevent.training.run import Drawn, Run

CPU = torch.device("cpu")
SHORT = {"epochs": 2, "lr": 0.1, "clip": 0.0, "log_every": 1, "device": "cpu"}


class Noisy(Trainable):
    """A weight that follows its input and noise of the step."""

    weights: ClassVar = {"square": 1.0}

    def __init__(self):
        torch.manual_seed(0)
        self._model = nn.Linear(1, 1)
        self.begun = []

    @property
    def model(self):
        return self._model

    def begin_step(self, step, steps):
        self.begun.append((step, steps))

    def step(self, model, batch):
        return {"square": (model(batch["x"]) + torch.rand(())).square().mean()}, {}


def samples(count=8):
    return [{"x": torch.tensor([float(i)])} for i in range(count)]


def train(out, fingerprint=None, **settings):
    """Train in a folder; the trained weight and what the objective saw."""
    cfg = ScheduledSettings(out=out, **SHORT | settings)
    objective = Noisy()
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=cfg.lr)
    drawn = Drawn(samples(), lambda epoch: np.arange(8) + 0 * epoch, 8, 4)
    fingerprint = fingerprint or cfg.with_effect()
    with (
        Run.open(cfg, "test", quiet=True) as run,
        run.started(objective.model, optimizer, fingerprint) as first,
    ):
        run.train(objective, optimizer, drawn, first, fingerprint)
    return objective


@pytest.mark.parametrize(("world", "batch"), [(1, 7), (2, 8), (4, 8)])
def test_a_batch_divides_over_the_ranks(tmp_path, world, batch):
    cfg = ScheduledSettings(out=tmp_path)
    run = Run(cfg, "test", Ranks(0, world, CPU), True, cfg)
    assert run.local_batch(batch) * world == batch
    with pytest.raises(ConfigError, match="--batch"):
        Run(cfg, "test", Ranks(0, 3, CPU), True, cfg).local_batch(batch)


@pytest.mark.parametrize(
    ("precision", "device", "bf16"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("fp32", "cuda", False),
        ("bf16", "cpu", True),
    ],
)
def test_mixed_precision_by_default_on_a_gpu_only(precision, device, bf16):
    cfg = ScheduledSettings(precision=precision)
    assert cfg.computes_in_bf16(Ranks(0, 1, torch.device(device)).on_gpu) == bf16
    assert TrainSettings(cfg, 5).steps == 5 * cfg.epochs


def test_several_processes_need_a_launcher(tmp_path):
    cfg = ScheduledSettings(out=tmp_path / "run", gpus=2, device="cpu")
    with pytest.raises(ConfigError, match="one Python process"), Run.open(cfg, "test"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_its_record_and_every_step_is_announced(tmp_path):
    objective = train(tmp_path)
    assert objective.begun == [(step, 4) for step in range(4)]
    assert not objective.model.training
    assert "epochs: 2" in (tmp_path / "config.yaml").read_text()
    assert [line["step"] for line in read_json_lines(tmp_path / "log.jsonl") if "loss" in line] == [
        1, 2, 3, 4,
    ]  # fmt: skip


def test_a_resumed_run_draws_the_same(tmp_path, caplog):
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", {"same": 1}, epochs=1)
    caplog.clear()
    parts = train(tmp_path / "parts", {"same": 1}, resume=True)
    assert "nothing to resume" not in caplog.text
    assert parts.begun == [(2, 4), (3, 4)]
    assert torch.equal(whole.model.weight, parts.model.weight)


def test_a_run_with_nothing_to_resume_says_so(tmp_path, caplog):
    train(tmp_path / "new", resume=True)
    assert f"nothing to resume in {tmp_path / 'new'}" in caplog.text
    caplog.clear()
    train(tmp_path / "other")
    assert "nothing to resume" not in caplog.text


def test_resume_needs_the_same_settings_and_data(tmp_path):
    train(tmp_path, {"lr": 0.1, "data": ["a"]})
    with pytest.raises(ConfigError, match="--lr"):
        train(tmp_path, {"lr": 0.2, "data": ["a"]}, resume=True)
    with pytest.raises(CheckpointError, match="other data"):
        train(tmp_path, {"lr": 0.1, "data": ["b"]}, resume=True)
    train(tmp_path, {"lr": 0.1, "data": ["a"]}, resume=True, log_every=7)  # without effect


def test_a_used_folder_needs_consent(tmp_path):
    train(tmp_path)
    with pytest.raises(EnvironmentProblem, match="not empty"):
        train(tmp_path)
    assert train(tmp_path, overwrite=True).begun[0] == (0, 4)


def test_settings_without_effect_are_not_in_the_fingerprint():
    named = ScheduledSettings().with_effect()
    assert {"lr", "epochs", "seed", "schedule", "precision"} <= named.keys()
    assert not named.keys() & ScheduledSettings.NO_EFFECT
    assert ScheduledSettings.NO_EFFECT <= ScheduledSettings.model_fields.keys()


@pytest.mark.parametrize(
    ("has", "precision", "said"),
    [
        (False, "bf16", "1 x cpu, bf16 (emulated: fp32 is faster on this processor)"),
        (True, "bf16", "1 x cpu, bf16"),
        (None, "bf16", "1 x cpu, bf16"),
        (False, "fp32", "1 x cpu"),
    ],
)
def test_a_processor_that_emulates_bf16_is_told(has, precision, said, tmp_path, monkeypatch):
    monkeypatch.setattr("scaleevent.training.run.has_bfloat16", lambda: has)
    cfg = ScheduledSettings(out=tmp_path, **SHORT | {"precision": precision})
    with Run.open(cfg, "test", quiet=True) as run:
        assert run.machine == said
