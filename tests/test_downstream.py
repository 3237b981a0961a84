"""probe, finetune and eval on a tiny street, as a user types them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_end_to_end import call

from scaleevent.checkpoint import load_encoder, load_task, save_encoder
from scaleevent.config.catalog import DECODERS, DecoderPart
from scaleevent.config.downstream import finetune_config
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import StoppedError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.files import read_json_lines

pytestmark = pytest.mark.slow

SMALL = "--size 32x48 --epochs 1 --batch 4 --log-every 1 --pictures 2"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A street store with the window after, and an encoder whose file says what it has seen."""
    folder = tmp_path_factory.mktemp("downstream")
    call(f"prepare street -o {folder / 'pairs'} --scenes 12 --seed 1 --size 32x48 --after")
    torch.manual_seed(0)
    encoder = Encoder(ARCHS["tiny"])
    encoder.input = InputSettings(32, 48, 8)
    data = {"recordings": ["street-0-000000"]}
    save_encoder(folder / "encoder.safetensors", encoder, {"data": data})
    return folder


def first_step(run):
    """The first log line of a step."""
    return next(entry for entry in read_json_lines(run / "log.jsonl") if "loss" in entry)


def line(place, command, task, out, rest=""):
    return (
        f"{command} street-{task} {place / 'encoder.safetensors'} --data {place / 'pairs'} "
        f"-o {place / out} {SMALL} {rest}"
    )


@pytest.mark.parametrize("task", ["semantic", "depth", "flow"])
def test_finetune_leaves_a_whole_run_that_eval_repeats(place, task, capsys):
    out = place / task
    call(line(place, "finetune", task, task))
    assert (out / "config.yaml").exists()
    steps = [entry for entry in read_json_lines(out / "log.jsonl") if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    with Image.open(out / "panel.png") as picture:
        assert picture.width > 500
    capsys.readouterr()
    call(f"eval street-{task} {out / 'task.safetensors'} --data {place / 'pairs'} --json "
         f"-o {place / task}-eval --pictures 2 --batch 4")  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    report = json.loads((out / "report.json").read_text())
    assert printed["metrics"] == report["metrics"]
    assert printed["rows"] == report["rows"]
    stamp = load_task(out / "task.safetensors")[1]["stamp"]
    assert printed["stamp"] == report["stamp"] == stamp
    assert set(stamp["labels"].values()) == {1} and len(stamp["labels"]) == 3
    assert (stamp["scored"], stamp["window"]) == ("32x48", "time, 50 ms")
    assert any(note.startswith("scored: 3 labels of 3 sequences: ") for note in report["notes"])
    headline = {"semantic": "miou", "depth": "rmse", "flow": "epe"}[task]
    (place_only,) = [row for row in printed["rows"] if row[""] == "place only"]
    assert np.isfinite(place_only[headline])
    assert load_task(out / "task.safetensors")[0].place_prior.shape[-2:] == (32, 48)
    assert json.loads((place / f"{task}-eval/report.json").read_text()) == printed
    with Image.open(place / f"{task}-eval/panel.png") as picture:
        assert picture.width > 500


def test_a_task_checkpoint_says_what_made_it(place):
    decoder, description = load_task(place / "depth/task.safetensors")
    assert description["benchmark"] == "street-depth" and description["protocol"] == "full"
    assert description["window"] == {"window": "time", "window_ms": 50.0}
    assert description["pretraining"] == {"recordings": ["street-0-000000"]}
    assert decoder.encoder.input.height == 32 and not decoder.training
    start = load_encoder(place / "encoder.safetensors").vit.state_dict()
    moved = [k for k, v in decoder.encoder.vit.state_dict().items() if not torch.equal(v, start[k])]
    assert any("blocks" in key for key in moved)


def test_probe_leaves_the_encoder_alone_and_cached_features_change_nothing(place, capsys):
    call(line(place, "probe", "semantic", "probe", "--epochs 3"))
    assert not (place / "probe/features.npy").exists()
    call(line(place, "probe", "semantic", "probe2", "--epochs 3 --no-cache"))
    one, two = (load_task(place / name / "task.safetensors")[0] for name in ("probe", "probe2"))
    start = load_encoder(place / "encoder.safetensors").vit.state_dict()
    for key, value in one.encoder.vit.state_dict().items():
        assert torch.equal(value, start[key])
    for key, value in one.own_state().items():  # features are cached as float16
        assert torch.allclose(value, two.own_state()[key], atol=2e-4)
    first, second = (first_step(place / name)["loss"] for name in ("probe", "probe2"))
    assert first == pytest.approx(second, rel=1e-4)
    call(line(place, "probe", "flow", "probe-flow"))
    call(line(place, "probe", "depth", "probe-depth"))


def test_a_subset_is_recorded_and_resume_goes_on(place, capsys):
    rest = "--fraction 0.2 --epochs 2 --subset random --seed 3"
    call(line(place, "finetune", "depth", "few", rest))
    chosen = json.loads((place / "few/subset.json").read_text())
    assert len(chosen) == 2 and {"recording", "image_us", "store"} == chosen[0].keys()
    report = json.loads((place / "few/report.json").read_text())
    assert report["data"]["samples_per_epoch"] == 9 and report["config"]["steps"] == "full"
    assert any("9 samples of 2, as many steps as of all labels" in n for n in report["notes"])
    log = read_json_lines(place / "few/log.jsonl")
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]
    for state in (place / "few/state").glob("step-00000004*"):
        state.unlink()
    (place / "few/state/last.json").write_text(
        json.dumps({"file": "step-00000002.safetensors", "step": 2})
    )
    call(line(place, "finetune", "depth", "few", rest + " --resume"))
    again = read_json_lines(place / "few/log.jsonl")
    assert [entry["loss"] for entry in again if "loss" in entry] == pytest.approx(
        [entry["loss"] for entry in log if "loss" in entry], rel=1e-5
    )
    call(line(place, "finetune", "depth", "few", rest + " --resume --lr 1e-5"), 2)
    assert "--lr" in capsys.readouterr().err
    call(line(place, "finetune", "depth", "few", rest + " --resume --steps subset"), 2)
    assert "--steps" in capsys.readouterr().err


def test_the_steps_of_a_subset_alone_are_no_published_protocol(place):
    call(
        line(place, "finetune", "depth", "own", "--fraction 0.5 --steps subset --sampling released")
    )
    log = read_json_lines(place / "own/log.jsonl")
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]  # twice five, by fours
    report = json.loads((place / "own/report.json").read_text())
    assert report["protocol"] == "0.5 by interval, its own steps"
    assert report["data"]["samples_per_epoch"] == 10


def on_two_ranks(command):
    """What a command prints that is launched on two processes of a thread each."""
    done = subprocess.run(
        [sys.executable, "-m", "scaleevent", *command.split(), "--device", "cpu", "--gpus", "2"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_ranks_measure_what_one_does(place, capsys, one_thread):
    command = (
        f"eval street-depth {place / 'depth/task.safetensors'} --data {place / 'pairs'} "
        "--json --batch 2"
    )
    call(f"{command} --device cpu")
    alone = json.loads(capsys.readouterr().out)["metrics"]
    assert json.loads(on_two_ranks(command))["metrics"] == alone


def test_a_loader_process_changes_nothing(place, capsys):
    command = (
        f"eval street-depth {place / 'depth/task.safetensors'} --data {place / 'pairs'} --json "
        "--batch 2 --workers"
    )
    printed = []
    for workers in (0, 1):
        call(f"{command} {workers}")
        printed.append(json.loads(capsys.readouterr().out)["metrics"])
    assert printed[0] == printed[1]


def test_what_cannot_be_is_refused(place, capsys):
    encoder, data = place / "encoder.safetensors", f"--data {place / 'pairs'}"
    task = place / "depth/task.safetensors"
    new = f"-o {place / 'refused'} --size 32x48"
    refused = {
        f"eval street-depth {encoder} {data}": "scaleevent probe",
        f"eval street-flow {task} {data}": "another task",
        f"eval street-depth {task} {data} --submission x": "dsec-flow",
        f"finetune street-depth {task} {data} {new}": "another kind of checkpoint",
        f"finetune dsec-depth {encoder} {data} {new}": "not of dsec-depth",
        f"finetune dsec-depth {encoder} {new}": "prepare dsec-depth",
        f"finetune street-depth {encoder} {data} {new} --decoder eomt": "for another task",
        f"finetune street-depth {encoder} {new} --preset released": "no such preset",
        f"finetune street-depth {encoder} {data} -o x --size 33x48": "multiples of 8",
    }
    for command, message in refused.items():
        call(command, None)
        printed = capsys.readouterr().err
        assert message in printed and "bug" not in printed, command
        assert not (place / "refused").exists()


def test_models_that_have_seen_the_test_set_are_refused(place, capsys):
    encoder = load_encoder(place / "encoder.safetensors")
    seen = {"recordings": ["street-1-000011"]}
    save_encoder(place / "seen.safetensors", encoder, {"data": seen})
    command = line(place, "finetune", "depth", "leak")
    command = command.replace("encoder.safetensors", "seen.safetensors")
    call(command, 2)
    assert "street-1-000011" in capsys.readouterr().err
    call(f"{command} --transductive")
    assert "transductive: pretrained on 1 of 3" in capsys.readouterr().out
    task = place / "leak/task.safetensors"
    call(f"eval street-depth {task} --data {place / 'pairs'}", 2)
    call(f"eval street-depth {task} --data {place / 'pairs'} --transductive")
    # its first nine scenes trained the model; in a shorter store some of them are the test set
    call(f"prepare street -o {place / 'short'} --scenes 8 --seed 1 --size 32x48")
    capsys.readouterr()
    call(f"eval street-depth {place / 'depth/task.safetensors'} --data {place / 'short'}", 2)
    assert "the model was trained on test recordings" in capsys.readouterr().err


def test_the_record_of_a_probe_repeats_it_and_a_stop_leaves_no_features(place, monkeypatch):
    call(line(place, "probe", "depth", "recorded", "--seed 2"))
    again = place / "recorded-again"
    call(f"probe -c {place / 'recorded/config.yaml'} -o {again}")
    first, second = map(first_step, (place / "recorded", again))
    assert first["loss"] == second["loss"] and first["lr"] == second["lr"]

    def stop(*given, **named):
        raise StoppedError("stopped on request")

    monkeypatch.setattr("scaleevent.training.run.train", stop)
    call(line(place, "probe", "depth", "stopped"), 75)
    assert not (place / "stopped/features.npy").exists()


def test_eomt_resumes_to_the_same_weights(place):
    whole, parts = place / "whole", place / "parts"
    for out in (whole, parts):
        call(line(place, "finetune", "semantic", out.name, "--save-every 1"))
    (parts / "state/step-00000002.safetensors").unlink()
    last = {"file": "step-00000001.safetensors", "step": 1}
    (parts / "state/last.json").write_text(json.dumps(last))
    call(line(place, "finetune", "semantic", "parts", "--save-every 1 --resume"))
    one, two = (load_task(out / "task.safetensors")[0].state_dict() for out in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_random_encoder_is_the_same_for_a_seed(place):
    losses = []
    for seed, out in ((0, "r0"), (0, "r0b"), (1, "r1")):
        command = line(place, "finetune", "depth", out, f"--seed {seed}")
        call(command.replace(str(place / "encoder.safetensors"), "random"))
        losses.append(first_step(place / out)["loss"])
    assert losses[0] == losses[1] != losses[2]
    assert np.isfinite(losses).all()


def test_eomt_predicts_in_windows_as_well(place, capsys):
    task = place / "semantic/task.safetensors"
    command = f"eval street-semantic {task} --data {place / 'pairs'} --json"
    printed = []
    for windows in ("", "--windows 32", "--windows 16"):
        capsys.readouterr()
        call(f"{command} {windows}")
        printed.append(json.loads(capsys.readouterr().out)["metrics"]["pixels"])
    assert len(set(printed)) == 1  # every pixel is predicted once
    call(f"{command} --windows 20", 2)
    call(f"eval street-depth {place / 'depth/task.safetensors'} --data {place / 'pairs'} "
         "--windows 16", 2)  # fmt: skip
    assert "only for segmentation" in capsys.readouterr().err


def test_a_decoder_is_one_file_and_one_line(place, monkeypatch, capsys):
    part = DecoderPart("toy_decoder:Toy", "classes by average colour", ("segmentation",))
    monkeypatch.setitem(DECODERS, "toy", part)
    train = f"finetune street-semantic random --data {place / 'pairs'} {SMALL} --decoder toy"
    call(f"{train} -o {place / 'toy'} --decoder-option x=2")
    decoder, description = load_task(place / "toy/task.safetensors")
    assert description["decoder"] == {"name": "toy", "settings": {"classes": 8, "x": 2}}
    assert description["config"]["decoder_options"] == {"x": "2"}
    again = f"-c {place / 'toy/config.yaml'} -o {place / 'toy-again'}"
    call(f"finetune {again}")
    other = load_task(place / "toy-again/task.safetensors")[0].own_state()
    assert all(torch.equal(value, other[name]) for name, value in decoder.own_state().items())
    printed = []
    for windows in ("", "--windows 32"):
        capsys.readouterr()
        call(f"eval street-semantic {place / 'toy/task.safetensors'} --data {place / 'pairs'} "
             f"--json {windows}")  # fmt: skip
        printed.append(json.loads(capsys.readouterr().out)["metrics"]["miou"])
    assert printed[0] != printed[1]  # its windows are all of the first class
    for wrong, message in (("y=3", "y=3"), ("x=two", "x=two"), ("x", "NAME=VALUE")):
        call(f"{train} -o {place / 'refused'} --decoder-option {wrong}", 2)
        printed = capsys.readouterr().err
        assert message in printed and ("how many layers" in printed or wrong == "x")
    call(f"finetune street-depth random --data {place / 'pairs'} -o {place / 'refused'} {SMALL} "
         "--decoder toy", 2)  # fmt: skip
    assert "toy: segmentation" in capsys.readouterr().err


def test_the_mode_of_eomt_is_an_option_with_an_old_name(tmp_path):
    flags = {"benchmark": "street-semantic", "checkpoint": "random"}
    assert finetune_config(flags).options == {"mode": "upstream"}  # of its preset
    assert finetune_config(flags | {"preset": "demo", "decoder": "linear"}).options == {}
    assert finetune_config(flags | {"eomt": "scaleevent"}).options == {"mode": "scaleevent"}
    option = {"decoder_options": ["mode=scaleevent"]}
    assert finetune_config(flags | option).options == {"mode": "scaleevent"}
    authors = {"benchmark": "dsec-semantic", "checkpoint": "random", "preset": "released"}
    released = {"mode": "scaleevent", "empty_masks": "true"}
    assert finetune_config(authors).options == released
    assert finetune_config(authors | {"decoder_options": ["queries=3"]}).options == (
        released | {"queries": "3"}
    )
    assert finetune_config(authors | {"empty_masks": False}).options == {"mode": "scaleevent"}
    old = tmp_path / "config.yaml"  # as recorded before there were options
    old.write_text("benchmark: street-depth\ncheckpoint: random\neomt: upstream\ndecoder: dpt\n")
    assert finetune_config({}, old).options == {}
    old.write_text("decoder_options: {mode: upstream, queries: 3}\n")
    cfg = finetune_config({"benchmark": "dsec-semantic", "checkpoint": "random"}, old)
    assert cfg.options == {"mode": "upstream", "queries": "3"}


@pytest.mark.parametrize("decoder", ["dpt", "eomt", "sea_raft"])
def test_two_ranks_train_as_one(place, decoder):
    task = {"eomt": "semantic", "sea_raft": "flow"}.get(decoder, "depth")
    on_two_ranks(line(place, "finetune", task, f"{decoder}-2", f"--decoder {decoder}"))
    log = read_json_lines(place / f"{decoder}-2/log.jsonl")
    assert np.isfinite([entry["loss"] for entry in log if "loss" in entry]).all()
    if decoder == "dpt":  # its loss is a root over all pixels, here of each rank
        call(line(place, "finetune", task, "dpt-1", "--decoder dpt --device cpu"))
        alone, both = (first_step(place / f"dpt-{ranks}")["loss"] for ranks in (1, 2))
        assert alone == pytest.approx(both, rel=0.15)
