"""What a run keeps beside its last step, and when it stops by itself."""

import json
import shutil
from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_end_to_end import TINY, call
from test_run import SHORT, Noisy, samples

from scaleevent.config.run import ScheduledSettings
from scaleevent.errors import StoppedError
from scaleevent.system.files import read_json, read_json_lines
from scaleevent.system.ranks import Ranks
from scaleevent.training.best import Best
from scaleevent.training.loop import TrainSettings
from scaleevent.training.loop import train as train_loop
from scaleevent.training.run import Drawn, Run
from scaleevent.training.tensors import load_tensors, save_tensors

LONG = SHORT | {"epochs": 4}  # eight steps


def train(out, planted=None, higher=False, noisy=True, **settings):
    """Train a toy whose number after every validation is planted; the toy and the best's keeper."""
    cfg = ScheduledSettings(out=out, **LONG | settings)
    toy = Noisy()
    optimizer = torch.optim.AdamW(toy.model.parameters(), lr=cfg.lr)
    drawn = Drawn(samples(), lambda epoch: np.arange(8), 8, 4)

    def save(path, kept):
        save_tensors(path, toy.model.state_dict(), {"kind": "encoder"} | kept)

    best = Best(out, "val_loss", higher, save)

    def validate():
        if noisy:
            torch.rand(7)
            np.random.rand(7)
        return {} if planted is None else {"val_loss": float(planted[len(toy.begun) + begun])}

    with (
        Run.open(cfg, "test", quiet=True) as run,
        run.started(toy.model, optimizer, {"same": 1}, best) as begun,
    ):
        run.train(toy, optimizer, drawn, begun, {"same": 1}, validate, best)
    return toy, best


@pytest.mark.parametrize(
    ("planted", "higher", "expected"),
    [
        ([9, 5, 4, 3, 3.5, 3, 8, 3, 3], False, 3),  # the first of equals
        ([9, 5, 4, 3, 3.5, 3, 8, 3, 3], True, 6),
        ([0, nan, 4, inf, -inf, 5, nan, 6, 7], False, 2),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], False, 8),
    ],
)
def test_the_planted_best_is_kept(tmp_path, planted, higher, expected):
    _, best = train(tmp_path, planted, higher, validate_every=1)
    value = planted[expected]
    assert best.kept == {"step": expected, "metric": "val_loss", "value": value}
    assert read_json(tmp_path / "best.json") == best.kept | {"file": "best.safetensors"}
    tensors, description = load_tensors(tmp_path / "best.safetensors", "encoder")
    assert description["best"] == best.kept and description["step"] == expected
    assert f"{value:.4g} after {expected} step" in best.describe()
    assert torch.equal(tensors["weight"], weight_after(tmp_path, expected))


def weight_after(folder, steps):
    """The weight after so many steps, found by a run that stops there."""
    toy = Noisy()
    cfg = ScheduledSettings(out=folder / f"until{steps}", max_hours=1, **LONG)
    cfg.out.mkdir()
    optimizer = torch.optim.AdamW(toy.model.parameters(), lr=cfg.lr)
    halves = [torch.stack([one["x"] for one in samples()[k : k + 4]]) for k in (0, 4)]
    with pytest.raises(StoppedError):
        train_loop(
            toy, optimizer, [{"x": half} for half in halves * 4], TrainSettings(cfg, 2),
            Ranks(0, 1, torch.device("cpu")), time_is_up=lambda: len(toy.begun) == steps,
        )  # fmt: skip
    assert len(toy.begun) == steps
    return toy.model.weight


def test_validation_changes_nothing_of_the_last_step(tmp_path):
    plain, _ = train(tmp_path / "plain", None, noisy=False)
    often, _ = train(tmp_path / "often", range(9), validate_every=3)
    assert torch.equal(plain.model.weight, often.model.weight)

    def losses(name):
        lines = read_json_lines(tmp_path / name / "log.jsonl")
        return [line["loss"] for line in lines if "loss" in line]

    assert losses("plain") == losses("often")
    scored = [line for line in read_json_lines(tmp_path / "often/log.jsonl") if "val_loss" in line]
    assert [(line["step"], line.get("epoch")) for line in scored] == [
        (2, 1), (3, None), (4, 2), (6, 3), (8, 4),
    ]  # fmt: skip
    assert not (tmp_path / "plain/best.safetensors").exists()
    assert not (tmp_path / "plain/best.json").exists()


@pytest.mark.parametrize("every", [None, 1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("first", [0, 1, 4, 7])
def test_how_often_it_is_validated_is_foretold(every, first):
    settings = TrainSettings(ScheduledSettings(epochs=5, validate_every=every), 4)
    left = [step for step in range(first + 1, 21) if settings.validates_after(step)]
    assert settings.validations(first) == len(left)
    assert {4, 8, 12, 16, 20} & set(range(first + 1, 21)) <= set(left)


class Clock:
    """Seconds that pass only when a step is begun."""

    def __init__(self, monkeypatch, a_step):
        self.now, self.a_step = 12345.0, a_step
        monkeypatch.setattr("scaleevent.training.run.monotonic", lambda: self.now)
        begin = Noisy.begin_step

        def begin_step(toy, step, steps):
            self.now += self.a_step
            begin(toy, step, steps)

        monkeypatch.setattr(Noisy, "begin_step", begin_step)


def test_a_run_stops_after_its_hours_and_goes_on_with_as_many(tmp_path, monkeypatch):
    planted = [9, 8, 1, 8, 8, 8, 8, 2, 3]
    whole, best = train(tmp_path / "whole", planted, validate_every=1)
    Clock(monkeypatch, 1800.0)
    parts = tmp_path / "parts"
    hours = {"max_hours": 1.4, "validate_every": 1}
    for resumed, done in ((False, 3), (True, 6)):  # every start has 1.4 hours of its own
        with pytest.raises(StoppedError, match=f"1.4 h are over(.|\n)*step {done} of 8") as left:
            train(parts, planted, resume=resumed, **hours)
        assert left.value.exit_code == 75 and "--resume" in str(left.value)
        assert read_json(parts / "best.json")["step"] == 2
    (parts / "best.json").unlink()  # it is repeated by the checkpoint
    again, kept = train(parts, planted, resume=True, **hours)
    assert torch.equal(whole.model.weight, again.model.weight)
    assert kept.kept == best.kept == {"step": 2, "metric": "val_loss", "value": 1.0}
    assert read_json(parts / "best.json")["step"] == 2
    assert load_file(parts / "best.safetensors").keys() == {"weight", "bias"}
    assert torch.equal(*(load_file(one / "best.safetensors")["weight"]
                         for one in (parts, tmp_path / "whole")))  # fmt: skip
    assert "max_hours" not in (parts / "config.yaml").read_text()  # of a start, not of the run
    assert "validate_every: 1" in (parts / "config.yaml").read_text()


def test_a_step_is_done_in_every_start_however_short(tmp_path, monkeypatch):
    Clock(monkeypatch, 1e6)
    for done in range(1, 9):
        with pytest.raises(StoppedError, match=f"step {done} of 8"):
            train(tmp_path, max_hours=0.001, resume=True)
    toy, _ = train(tmp_path, max_hours=0.001, resume=True)  # what follows the last step
    assert toy.begun == []


def test_the_time_of_any_rank_stops_all(tmp_path):
    """The clock of this one has not run out, but another's has."""
    asked = []

    def any_rank(*flags):
        asked.append(flags)
        return [flags[0], flags[1], len(asked) == 3]

    ranks = SimpleNamespace(**{name: getattr(Ranks(0, 1, torch.device("cpu")), name) for name in (
        "rank", "world", "device", "main", "on_gpu", "wait", "mean")}, any=any_rank)  # fmt: skip
    cfg = ScheduledSettings(out=tmp_path, max_hours=2, **LONG)
    toy = Noisy()
    optimizer = torch.optim.SGD(toy.model.parameters(), lr=0.1)
    batches = [one | {"x": one["x"][None]} for one in samples()]
    with pytest.raises(StoppedError, match=r"2.0 h are over(.|\n)*step 3 of 8"):
        train_loop(toy, optimizer, batches, TrainSettings(cfg, 2), ranks)
    assert asked == [(False, False, False)] * 3


def test_the_best_of_another_run_is_forgotten(tmp_path):
    train(tmp_path, range(9), validate_every=1)
    _, best = train(tmp_path, [9] * 9, overwrite=True)
    assert best.kept["value"] == 9
    for state in (tmp_path / "state").iterdir():
        state.unlink()
    _, best = train(tmp_path, None, resume=True)  # nothing to resume: it begins anew
    assert best.kept is None and not (tmp_path / "best.safetensors").exists()
    assert "no number" in best.describe()


def test_a_resumed_run_tells_of_an_earlier_best_with_the_same_bytes(tmp_path):
    planted = [9, 1, 2, 3, 4, 5, 6, 7, 8]  # the first step is the best
    _, straight = train(tmp_path / "straight", planted, validate_every=1)
    (tmp_path / "resumed").mkdir()
    shutil.copy(straight.path, tmp_path / "resumed")
    resumed = Best(tmp_path / "resumed", "val_loss", False, lambda path, kept: None)
    resumed.begin(1)
    assert json.dumps(resumed.fact()) == json.dumps(straight.fact())
    assert resumed.pointer.read_bytes() == straight.pointer.read_bytes()


def test_a_damaged_best_is_replaced_by_the_next(tmp_path):
    train(tmp_path, range(9), validate_every=1)
    (tmp_path / "best.safetensors").write_bytes(b"damaged")
    _, best = train(tmp_path, range(9), validate_every=1, resume=True)
    assert best.kept is None


# From the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A street store, and a pretraining run that was validated after every step."""
    folder = tmp_path_factory.mktemp("best")
    call(f"prepare street -o {folder / 'pairs'} --scenes 16 --size 48x64")
    call(f"pretrain {folder / 'pairs'} -o {folder / 'run'} {TINY} --arch tiny --validate-every 1")
    return folder


@pytest.mark.slow
def test_pretrain_keeps_its_best(place, capsys):
    log = read_json_lines(place / "run/log.jsonl")
    scores = {line["step"]: line["val_loss"] for line in log if "val_loss" in line and line["step"]}
    assert list(scores) == [1, 2, 3, 4]
    pointer = read_json(place / "run/best.json")
    step = min(scores, key=scores.get)
    assert pointer == {"step": step, "metric": "val_loss", "value": scores[step],
                       "file": "best.safetensors"}  # fmt: skip
    assert read_json(place / "run/report.json")["best"] == pointer
    call(f"pretrain {place / 'pairs'} -o {place / 'plain'} {TINY} --arch tiny")
    assert f"best: {place / 'plain/best.safetensors'} (val_loss" in capsys.readouterr().out
    often, plain = (load_file(place / one / "encoder.safetensors") for one in ("run", "plain"))
    assert all(torch.equal(often[name], plain[name]) for name in plain)
    best = load_file(place / "run/best.safetensors")
    assert best.keys() == often.keys()
    assert (step == 4) == all(torch.equal(often[name], best[name]) for name in best)
    call(f"info {place / 'run/best.safetensors'} --json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["step"] == step and facts["best"]["value"] == scores[step]
    first = next(line["val_loss"] for line in log if "val_loss" in line)
    assert facts["metrics"] == {"held-out loss": [first, scores[step]]}


@pytest.mark.slow
def test_without_pairs_held_out_there_is_no_best(place, capsys):
    line = f"pretrain {place / 'pairs'} -o {place / 'none'} {TINY.replace('0.3', '0')} --arch tiny"
    call(line)
    assert "no best: no pair was held out" in capsys.readouterr().out
    assert read_json(place / "none/report.json")["best"] is None
    assert not (place / "none/best.safetensors").exists()
    call(f"{line} --validate-every 1 --overwrite", 2)
    assert "validate_every has no effect without validation" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "metric", "choose"), [("semantic", "miou", max), ("depth", "dav2_rmse", min)]
)
def test_a_task_model_is_chosen_on_labels_that_neither_train_nor_test(
    place, task, metric, choose, capsys
):
    out = place / task
    call(
        f"finetune street-{task} {place / 'run/best.safetensors'} --data {place / 'pairs'} "
        f"-o {out} --size 48x64 --epochs 2 --batch 4 --log-every 1 --pictures 0 --validation 0.2 "
        "--validate-every 1 --decoder linear"
    )
    told = capsys.readouterr()
    assert "labels choose the best step: the last 20% of the training recordings" in told.err
    log = read_json_lines(out / "log.jsonl")
    scores = {line["step"]: line[f"val_{metric}"] for line in log if f"val_{metric}" in line}
    pointer = read_json(out / "best.json")
    assert pointer["value"] == choose(scores.values()) == scores[pointer["step"]]
    assert pointer["metric"] == f"val_{metric}"
    assert read_json(out / "report.json")["best"] == pointer
    _, best = load_tensors(out / "best.safetensors", "task")
    _, last = load_tensors(out / "task.safetensors", "task")
    assert "metrics" not in best and "stamp" not in best and "best" not in last
    data = best["data"]
    held, trained = data["selecting_samples"], set(data["recordings"])
    assert held and data["training_samples"] == len(trained)
    chosen = {one["recording"] for one in read_json(out / "subset.json")}
    assert chosen == trained
    call(f"eval street-{task} {out / 'task.safetensors'} --data {place / 'pairs'} --json")
    report = json.loads(capsys.readouterr().out)
    assert not trained & report["stamp"]["labels"].keys()
    assert held + len(trained) + len(report["stamp"]["labels"]) == 16
    # and the commands that take a model take it
    call(f"eval street-{task} {out / 'best.safetensors'} --data {place / 'pairs'} --json")
    again = json.loads(capsys.readouterr().out)["metrics"]
    assert (again == report["metrics"]) == (pointer["step"] == max(scores))


@pytest.mark.slow
def test_every_command_takes_the_best(place, tmp_path, capsys):
    best = place / "run/best.safetensors"
    np.savez(
        tmp_path / "events.npz", t=np.arange(2000) * 100, x=np.arange(2000) % 64,
        y=np.arange(2000) % 48, p=np.arange(2000) % 2,
    )  # fmt: skip
    recording = tmp_path / "events.npz"
    call(f"predict {best} {recording} -o {tmp_path / 'seen'} --size 48x64 --rate 10")
    call(f"export {best} -o {tmp_path / 'out'} --format safetensors")
    kept = read_json(place / "run/best.json")
    card = (tmp_path / "out/README.md").read_text()
    assert f"- Step: {kept['step']}, the best of its run on held-out samples: val_loss " in card
    call(
        f"probe street-depth {best} --data {place / 'pairs'} -o {tmp_path / 'probe'} --epochs 1 "
        "--size 48x64 --pictures 0"
    )
    told = capsys.readouterr()
    assert "no labels are held out, so the last step is kept, and no best one" in told.out
    assert not (tmp_path / "probe/best.safetensors").exists()


@pytest.mark.slow
def test_nothing_to_score_is_told(place, tmp_path, capsys):
    line = (
        f"probe street-depth embedded --data {place / 'pairs'} -o {tmp_path / 'probe'} --epochs 1"
    )
    call(f"{line} --size 48x64 --validate-every 1", 2)
    assert "--validation 0.1 holds out" in capsys.readouterr().err
