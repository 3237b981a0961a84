"""The loop: equal to a hand-written one, resumable bit for bit, stops before damage."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from pydantic import create_model
from torch import nn

from scaleevent.config.run import ScheduledSettings
from scaleevent.errors import CheckpointError, ConfigError, DivergedError, StoppedError
from scaleevent.system.files import read_json_lines
from scaleevent.system.ranks import Ranks
from scaleevent.training.loop import Trainable, TrainSettings, train
from scaleevent.training.state import load_state, mend_log
from scaleevent.training.tensors import save_tensors

ALONE = Ranks(0, 1, torch.device("cpu"))
WEIGHTS = {"square": 2.0}
SAME = {"lr": 1.0, "data": ["a"]}


def make():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)


def batches(first=0, steps=12):
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(step)
        yield {"x": torch.randn(8, 4, generator=generator)}


class Square(Trainable):
    """The mean square of a linear layer's output; NaN for the input `spoil`."""

    weights = WEIGHTS

    def __init__(self, model, spoil):
        self._model, self.spoil = model, spoil

    @property
    def model(self):
        return self._model

    def step(self, model, batch):
        out = model(batch["x"])
        if self.spoil is not None and torch.equal(batch["x"], self.spoil):
            out = out * torch.nan
        return {"square": out.square().mean()}, {"largest": lambda: float(out.detach().max())}


def settings_of(steps_per_epoch, **settings):
    kind = create_model("Warm", __base__=ScheduledSettings, encoder_warmup_steps=(int, 0))
    return TrainSettings(kind(**settings), steps_per_epoch)


def run(folder, settings, model, optimizer, first=0, spoil=None, on_step=lambda record: None):
    folder.mkdir(exist_ok=True)
    settings = TrainSettings(
        settings.cfg.model_copy(update={"out": folder}), settings.steps_per_epoch
    )
    train(
        Square(model, spoil), optimizer, batches(first, settings.steps), settings, ALONE,
        first_step=first, fingerprint=SAME, on_step=on_step,
    )  # fmt: skip


def test_equals_a_hand_written_loop(tmp_path):
    settings = settings_of(4, epochs=3, decay=0.5, warmup_steps=3, clip=0.05, log_every=1)
    model, optimizer = make()
    run(tmp_path, settings, model, optimizer)

    twin, twin_optimizer = make()
    losses = []
    for step, batch in enumerate(batches()):
        for group in twin_optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 ** (step // 4) * min(1, (step + 1) / 3)
        loss = 2 * twin(batch["x"]).square().mean()
        twin_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        twin_optimizer.step()
        losses.append(loss.item())
    assert torch.equal(model.weight, twin.weight)
    log = [line for line in read_json_lines(tmp_path / "log.jsonl") if "loss" in line]
    assert [line["loss"] for line in log] == losses
    assert {"lr", "grad_norm", "samples_per_s", "data_wait_percent", "largest"} <= log[0].keys()


@pytest.mark.parametrize(("cut", "log_every"), [(3, 1), (4, 1), (7, 1), (3, 2), (5, 4)])
def test_resume_is_exact(tmp_path, cut, log_every):
    settings = settings_of(4, epochs=3, schedule="cosine", save_every=cut, log_every=log_every)
    model, optimizer = make()
    run(tmp_path / "whole", settings, model, optimizer)

    done = []

    def stop(record):
        done.append(record)
        if len(done) == cut:
            os.kill(os.getpid(), signal.SIGTERM)

    cut_model, cut_optimizer = make()
    with pytest.raises(StoppedError) as stopped:
        run(tmp_path / "cut", settings, cut_model, cut_optimizer, on_step=stop)
    assert stopped.value.exit_code == 75

    again, again_optimizer = make()
    nn.init.zeros_(again.weight)
    first = load_state(tmp_path / "cut", again, again_optimizer, SAME)
    assert first == cut
    run(tmp_path / "cut", settings, again, again_optimizer, first)
    assert torch.equal(again.weight, model.weight)
    for key, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(value, again_optimizer.state_dict()["state"][key][name])

    def steps(folder):
        lines = read_json_lines(tmp_path / folder / "log.jsonl")
        return [(line["step"], line.get("loss")) for line in lines]

    assert steps("cut") == steps("whole")


def test_a_state_of_other_settings_is_refused(tmp_path):
    settings = settings_of(4, epochs=1)
    model, optimizer = make()
    run(tmp_path, settings, model, optimizer)
    with pytest.raises(ConfigError, match="--lr") as error:
        load_state(tmp_path, model, optimizer, {"lr": 2.0, "data": ["a"]})
    assert "lr 2.0" in str(error.value) and "lr 1.0" in str(error.value)
    with pytest.raises(CheckpointError, match="other data"):
        load_state(tmp_path, model, optimizer, {"lr": 1.0, "data": ["b"]})


@pytest.mark.parametrize("name", ["model/strange", "optimizer/x/exp_avg", "optimizer/0/"])
def test_a_state_that_somebody_else_made_is_refused(tmp_path, name):
    model, optimizer = make()
    description = {"kind": "state", "step": 3, "fingerprint": SAME}
    path = tmp_path / "state/step-00000003.safetensors"
    save_tensors(path, {name: torch.ones(2)}, description)
    with pytest.raises(CheckpointError, match="does not fit the run"):
        load_state(tmp_path, model, optimizer, SAME)


def test_a_damaged_newest_state_falls_back_to_the_older_one_aloud(tmp_path):
    settings = settings_of(4, epochs=2)
    model, optimizer = make()
    run(tmp_path, settings, model, optimizer)
    newest = tmp_path / "state" / json.loads((tmp_path / "state/last.json").read_text())["file"]
    content = bytearray(newest.read_bytes())
    content[-5] ^= 4  # one flipped bit in a moment
    newest.write_bytes(content)
    said = []
    assert load_state(tmp_path, model, optimizer, SAME, said.append) == 4
    assert len(said) == 1 and newest.name in said[0] and "older" in said[0]
    newest.unlink()
    assert load_state(tmp_path, model, optimizer, SAME, said.append) == 4
    assert len(said) == 2 and newest.name in said[1]
    (tmp_path / "state/step-00000004.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="--overwrite starts anew"):
        load_state(tmp_path, model, optimizer, SAME, said.append)


@pytest.mark.parametrize(
    "last", [b"", b'{"fi', b"{}", b"[]", b"7", b'{"file": 3}', b"\xff", b'{"file": "../x"}', None]
)
def test_a_damaged_pointer_to_the_newest_state_is_said(tmp_path, last):
    settings = settings_of(4, epochs=2)
    model, optimizer = make()
    run(tmp_path, settings, model, optimizer)
    said = []
    assert load_state(tmp_path, model, optimizer, SAME, said.append) == 8 and not said
    (tmp_path / "state/last.json").unlink()
    if last is not None:
        (tmp_path / "state/last.json").write_bytes(last)
    assert load_state(tmp_path, model, optimizer, SAME, said.append) == 8
    assert len(said) == 1 and "last.json" in said[0]


def test_a_damaged_log_is_mended_and_said(tmp_path):
    """Random damage: whole lines up to the step stay, everything else goes, nothing raises."""
    rng = np.random.default_rng(0)
    log = tmp_path / "log.jsonl"
    for _ in range(200):
        lines = [json.dumps({"step": step, "loss": step / 7}).encode() for step in range(1, 9)]
        damaged = rng.random(8) < 0.2
        for number in np.flatnonzero(damaged):
            cut = int(rng.integers(1, len(lines[number])))
            garbage = [lines[number][:cut], b"\xff" * cut, b"[]", b"7", b'{"step": "x"}', b"{}"]
            lines[number] = garbage[rng.integers(len(garbage))]
        log.write_bytes(b"\n".join(lines) + b"\n" * int(rng.integers(2)))
        said = []
        mend_log(log, 6, said.append)
        kept = [line["step"] for line in read_json_lines(log)]
        assert kept == [step for step in range(1, 7) if not damaged[step - 1]]
        assert bool(said) == bool(damaged[:7].any()) or damaged[7]
    log.unlink()
    said = []
    mend_log(log, 6, said.append)
    assert read_json_lines(log) == [] and "lost its beginning" in said[0]


def test_non_finite_loss_stops_before_the_update(tmp_path):
    settings = settings_of(6, epochs=1)
    model, optimizer = make()
    weights = []
    with pytest.raises(DivergedError) as diverged:
        run(
            tmp_path, settings, model, optimizer, spoil=list(batches())[3]["x"],
            on_step=lambda record: weights.append(model.weight.clone()),
        )  # fmt: skip
    assert "step 4" in str(diverged.value)
    assert diverged.value.exit_code == 6
    assert torch.equal(model.weight, weights[2])


def test_states_beyond_the_kept_ones_go(tmp_path):
    settings = settings_of(2, epochs=5)
    run(tmp_path, settings, *make())
    names = sorted(path.name for path in (tmp_path / "state").glob("*.safetensors"))
    assert names == ["step-00000008.safetensors", "step-00000010.safetensors"]


def test_other_schedules():
    def rates(stage="head", **settings):
        settings = settings_of(25, epochs=4, **settings)
        return np.array([settings.lr_factor(step, stage) for step in range(settings.steps)])

    slow = rates(schedule="exponential", decay=0.5, decay_every=2)
    assert np.array_equal(slow, np.repeat([1.0, 0.5], 50))
    assert np.allclose(rates(schedule="poly"), (1 - np.arange(100) / 100) ** 0.9)
    warm = {"schedule": "two-stage-poly", "warmup_steps": 10, "encoder_warmup_steps": 20}
    head, encoder = rates(**warm), rates("encoder", **warm)
    assert head.argmax() == 10 and encoder.argmax() == 30
    assert not encoder[:10].any() and head[5] == 0.5 and encoder[20] == 0.5
    cycle = rates(schedule="one-cycle")
    assert cycle[0] == 1 / 25 and cycle.argmax() == 9 and (np.diff(cycle[9:]) < 0).all()
