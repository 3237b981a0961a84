"""`embedded-event`: the event encoder of the package and its heads, wherever they are named."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_end_to_end import call

from scaleevent.checkpoint import load_described, load_encoder, load_task, save_head, save_task
from scaleevent.config.benchmarks import BENCHMARKS
from scaleevent.datasets.held_out import scored_recordings
from scaleevent.datasets.street import recording_name
from scaleevent.encoders.encoder import build_encoder
from scaleevent.errors import CheckpointError
from scaleevent.prediction.models import open_model
from scaleevent.system.locations import EMBEDDED_TASKS, PACKAGE, embedded_file
from scaleevent.system.sealed import read_description
from scaleevent.training.tensors import load_tensors, save_tensors

ROOT = Path(__file__).parents[1]
NAMES = [*EMBEDDED_TASKS]
ENCODER = embedded_file("embedded-event")
HEADS = [embedded_file(name, task=True) for name in NAMES]
UNSEEN = 9102  # a family of scenes of these tests


def recordings(path, key="data"):
    return read_description(path)[key]["recordings"]


def test_the_files_are_small_and_say_where_they_are_from():
    files = [ENCODER, *HEADS]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    for path in files:
        about = read_description(path)["training"]
        assert (ROOT / about["script"]).is_file()
        assert "simulated events" in about["data"] and "96x128" in about["data"]
        assert "no real recording among them" in about["limits"]
        assert f"of {len(recordings(ENCODER)):,} rendered" in about["data"]
        text = json.dumps(read_description(path))
        assert not re.search(r"/(tmp|work|home|root)\b", text)
    assert sorted(PACKAGE.glob("data/street_event*")) == sorted(files)


def test_every_scene_that_was_learned_from_is_recorded():
    """So that benchmarks refuse them; none is of a benchmark or of another's first run."""
    about = read_description(ENCODER)["training"]
    assert len(set(about["families"])) == 2 * len(about["films"])
    assert all(family % 2 for family in about["families"])  # `pretrain --seed N` has family 2 N
    assert not {one.rendered.get("seed") for one in BENCHMARKS.values()} & {*about["families"]}
    names = {name.rsplit("-", 1)[0] for path in HEADS for name in recordings(path)}
    names |= {name.rsplit("-", 1)[0] for name in recordings(ENCODER)}
    assert names == {recording_name(family, 0).rsplit("-", 1)[0] for family in about["families"]}
    for path in HEADS:
        assert not set(recordings(path)) & set(recordings(ENCODER))
        assert recordings(path, "pretraining") == recordings(ENCODER)
        assert not scored_recordings("street").keys() & {*recordings(path), *recordings(ENCODER)}


@pytest.mark.parametrize("name", NAMES)
def test_one_name_is_a_task_model_or_its_encoder(name):
    decoder, description = load_described(name)
    assert description["kind"] == "task" and decoder.task == description["task"]
    encoder = build_encoder("tiny", name)
    assert encoder.history == {"recordings": recordings(ENCODER)}
    assert encoder.remarks[0].startswith(f"{name}: taught by simulated events")
    state, _ = load_tensors(ENCODER, "encoder")
    for one in (decoder.encoder, encoder, load_encoder(name)):
        own = one.vit.state_dict()
        assert all(torch.equal(own[key], value.float()) for key, value in state.items())
    opened = open_model(name, (180, 240))
    assert opened.task == decoder.task and opened.benchmark_task is not None
    (note,) = opened.notes
    assert (
        note.startswith(f"{name}: taught by simulated events")
        and "no real recording among them" in note
    )


@pytest.fixture
def head(tmp_path):
    """The files of the depth head in a folder of their own."""
    for path in (ENCODER, HEADS[1]):
        shutil.copy(path, tmp_path)
    return tmp_path / HEADS[1].name


def test_a_head_is_the_task_model_with_the_encoder_beside_it(head, tmp_path):
    decoder, description = load_task(head)
    save_task(tmp_path / "whole.safetensors", decoder, {})
    whole, _ = load_task(tmp_path / "whole.safetensors")
    assert whole.state_dict().keys() == decoder.state_dict().keys()
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in decoder.state_dict().items())
    assert np.array_equal(whole.place_prior, decoder.place_prior)
    save_head(tmp_path / "again.safetensors", whole, head.parent / ENCODER.name, {})
    assert load_task(tmp_path / "again.safetensors")[0].place_prior is not None
    (tmp_path / ENCODER.name).unlink()
    load_task(tmp_path / "whole.safetensors")
    with pytest.raises(CheckpointError, match="file not found"):
        load_task(head)


def test_a_head_refuses_another_encoder(head):
    state, known = load_tensors(ENCODER, "encoder")
    state["norm.bias"] = state["norm.bias"] + 1
    save_tensors(head.parent / ENCODER.name, state, known)
    with pytest.raises(CheckpointError, match="a head of another encoder"):
        load_task(head)


@pytest.mark.parametrize("beside", ["x", {"name": "../street_event.safetensors", "sha256": "0"}])
def test_a_head_names_a_file_beside_it(head, beside):
    tensors, known = load_tensors(head, "task")
    save_tensors(head, tensors, known | {"encoder_file": beside})
    with pytest.raises(CheckpointError, match="not that of a head"):
        load_task(head)


def test_info_says_what_the_weights_are(capsys):
    for name in ("embedded", *NAMES):
        call(f"info {name}")
        told = " ".join(capsys.readouterr().out.replace("│", "").split())
        about = read_description(embedded_file(name, task=True))["training"]
        assert told.startswith(name) and about["data"][:40] in told and about["script"] in told


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("predict embeded-event x.npz", "embedded-event"),
        ("export embedded-evnt", "embedded-event"),
        ("eval street-depth embedded-event-dept", "embedded-event-depth"),
        ("probe street-depth embeded", "embedded"),
    ],
)
def test_a_name_with_a_slip_is_answered_with_the_right_one(
    tmp_path, monkeypatch, capsys, line, near
):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", t=np.arange(9), x=np.arange(9), y=np.arange(9), p=np.ones(9, bool))
    call(line, None)
    assert re.search(rf"\b{near}(?![\w-])", capsys.readouterr().err)


def test_it_is_no_image_teacher(capsys, tmp_path):
    call(f"pretrain --teacher embedded-event -o {tmp_path / 'run'}", None)
    assert "sees events, and a teacher sees images" in capsys.readouterr().err


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes that nothing in the package has learned from."""
    folder = tmp_path_factory.mktemp("unseen") / "pairs"
    call(f"prepare street --scenes 80 --seed {UNSEEN} -o {folder}")
    return folder


@pytest.mark.slow
def test_it_knows_more_than_the_place(scenes, capsys):
    """On scenes of a family of its own."""
    for name, benchmark, key in zip(
        NAMES, ("street-semantic", "street-depth"), ("miou", "rmse"), strict=True
    ):
        capsys.readouterr()
        call(f"eval {benchmark} {name} --data {scenes} --json")
        rows = {row[""]: row for row in json.loads(capsys.readouterr().out)["rows"]}
        ours = next(row for text, row in rows.items() if text.startswith("ours"))
        place = rows["place only"]
        if key == "miou":
            assert ours[key] > place[key] + 8
        else:
            assert ours[key] < 0.9 * place[key]


@pytest.mark.slow
def test_scenes_that_it_has_seen_are_refused(tmp_path, capsys):
    about = read_description(ENCODER)["training"]
    of_encoder, of_heads = about["families"][0], about["families"][-1]
    for family, line in (
        (of_encoder, "probe street-semantic embedded-event"),
        (of_encoder, "eval street-semantic embedded-event"),
        (of_heads, "eval street-depth embedded-event-depth"),
    ):
        folder = tmp_path / f"pairs-{family}"
        if not folder.exists():
            call(f"prepare street --scenes 4 --seed {family} -o {folder}")
        capsys.readouterr()
        out = f" -o {tmp_path / 'run'}" if line.startswith("probe") else ""
        call(f"{line} --data {folder}{out}", None)
        assert f"street-{family}-000003" in capsys.readouterr().err


def test_predict_shows_something_at_once(tmp_path, capsys):
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 200_000, 20_000))
    np.savez(tmp_path / "a.npz", t=t, x=rng.integers(0, 64, 20_000), y=rng.integers(0, 48, 20_000),
             p=rng.integers(0, 2, 20_000))  # fmt: skip
    for name in NAMES:
        out = tmp_path / name
        call(f"predict {name} {tmp_path / 'a.npz'} --size 48x64 --time-unit us -o {out}")
        assert capsys.readouterr().err.count("no real recording among them") == 1
        assert len(list((out / "pictures").glob("*.png"))) > 3
        told = json.loads((out / "report.json").read_text())["choices"]
        assert sum("no real recording among them" in line for line in told) == 1


def test_it_is_exported_like_any_task_model(tmp_path):
    call(f"export embedded-event --format safetensors -o {tmp_path / 'out'}")
    exported = load_encoder(tmp_path / "out/encoder.safetensors")
    x = torch.randn(1, 3, 96, 128)
    decoder, _ = load_task("embedded-event")
    assert torch.equal(exported(x), decoder.encoder(x))
    call(f"export embedded-event --format hub -o {tmp_path / 'hub'}")
    again, _ = load_task(f"local-dir:{tmp_path / 'hub'}")  # whole, without a file beside it
    assert torch.equal(again(x), decoder(x))
    card = (tmp_path / "hub/README.md").read_text()
    assert "license: apache-2.0" in card


@pytest.mark.slow
def test_the_script_that_made_it(tmp_path):
    """From scenes to the three files, with few of everything: that it runs, not how good it is."""
    script = ROOT / read_description(ENCODER)["training"]["script"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, script, tmp_path, "--steps", "2", "--scenes", "48"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"distilled: 2 steps, \d+ CPU s", done.stdout) and "place only" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in (ENCODER, *HEADS)}
    for path in HEADS:
        decoder, made = load_task(tmp_path / path.name)
        assert made.keys() == read_description(path).keys()
        assert torch.isfinite(decoder(torch.zeros(1, 3, 96, 128))).all()
