"""`info` says of all that the toolkit writes, and of folders, what it is and what matters."""

import json
import re

import numpy as np
import pytest
import torch
from fakes import write_custom
from safetensors.torch import save_file
from test_end_to_end import call

from scaleevent.checkpoint import save_task
from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.decoders.dpt import DPT
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.files import write_json


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("info")
    write_custom(folder / "raw/one")
    write_custom(folder / "raw/two")
    call(f"prepare custom {folder / 'raw/one'} -o {folder / 'pairs'} --quantile 0.2")
    call(f"prepare street -o {folder / 'street'} --scenes 4 --size 48x64 --seed 7")
    return folder


def told(path):
    report = info.run(InfoConfig(path=path))
    return dict(report.rows), report


def test_a_store_says_what_it_holds_and_what_was_chosen(place):
    rows, report = told(place / "pairs")
    assert rows["kind"] == "pairs" and rows["data set"] == "custom" and rows["pairs"] == 3
    assert rows["sensor, rows x columns"] == "48x64" and rows["labels"] == "none"
    assert rows["with an image"] == 3 and rows["of"] == "one"
    assert re.fullmatch(r"[\d.]+ ms in the median, [\d.]+ to [\d.]+", rows["window"])
    settings = {name for name in rows if name.startswith("setting")}
    assert settings == {"settings: window", "settings: quantile"}
    assert not {"scenes", "speed", "darkness"} & {name.partition(": ")[2] for name in settings}
    assert report.facts["fingerprint"] and report.facts["bytes"] > 0
    rows, _ = told(place / "street")
    assert rows["labels"] == "depth 4, flow 4, semantics 4" and rows["settings: seed"] == 7
    assert rows["window"].startswith("50 ms")


def test_a_shard_is_no_recording_without_events(place):
    rows, _ = told(next((place / "street").glob("*.h5")))
    assert rows["kind"] == "shard" and rows["pairs"] == 4 and rows["sensor, rows x columns"]


def test_a_folder_of_recordings_lists_them_and_what_to_do(place):
    rows, report = told(place / "raw")
    assert rows["kind"] == "folder of recordings" and rows["recordings"] == 2
    assert rows["file: one/events.npz"].startswith("npz, npy")
    assert "`scaleevent voxelize" in " ".join(report.notes)
    rows, _ = told(place)
    assert rows["output: pairs"] == "pairs" and rows["output: street"] == "pairs"


def test_a_folder_of_nothing_we_know_and_an_unfinished_store(place, tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(DataError, match=r"neither a store, a run nor(.|\n)*notes.md"):
        told(tmp_path)
    (tmp_path / ".scaleevent").write_text("voxels\n")
    with pytest.raises(DataError, match="the same `voxelize` command with --resume"):
        told(tmp_path)


def test_a_run_says_how_far_it_is(tmp_path):
    (tmp_path / ".scaleevent").write_text("run\n")
    (tmp_path / "config.yaml").write_text("preset: demo\narch: tiny\ndata: [a, b]\nseed: 3\n")
    (tmp_path / "log.jsonl").write_text('{"step": 0, "epoch": 0}\n{"step": 7, "loss": 1.5}\n')
    rows, report = told(tmp_path)
    assert rows["kind"] == "run" and rows["state"] == "not finished" and rows["steps"] == 7
    assert rows["preset"] == "demo" and rows["data"] == "a, b"
    with open(tmp_path / "log.jsonl", "a") as log:  # the last steps need not have a loss
        log.write('{"step": 8, "epoch": 1, "val_loss": 2.5}\n')
    best = {"step": 8, "metric": "val_loss", "value": 2.5, "file": "best.safetensors"}
    write_json(tmp_path / "best.json", best)
    rows, report = told(tmp_path)
    assert rows["steps"] == 8 and report.facts["best"] == best
    assert rows["best: value"] == 2.5
    assert report.notes == ("the same command with --resume goes on",)
    (tmp_path / "encoder.safetensors").write_bytes(b"x")
    write_json(tmp_path / "report.json", {"title": "pretrain: 9 steps", "rows": [
        {"on held-out pairs": "loss", "before": 2.0, "after": 1.0}]})  # fmt: skip
    rows, report = told(tmp_path)
    assert rows["state"] == "finished" and rows["result: loss"] == "before 2, after 1"
    assert rows["wrote"] == str(tmp_path / "encoder.safetensors") in report.notes[0]
    (tmp_path / "log.jsonl").write_text("broken\n")
    with pytest.raises(DataError, match="damaged log"):
        told(tmp_path)


def test_a_weight_file_says_what_it_holds_and_what_was_checked(tmp_path):
    """The place prior travels in the file, and is no tensor of the model."""
    decoder = DPT(Encoder(ARCHS["tiny"]), 40.0)
    decoder.encoder.input = InputSettings(48, 64, 8)
    decoder.place_prior = np.ones((48, 64), np.float32)
    save_task(tmp_path / "task.safetensors", decoder, {"benchmark": "street-depth"})
    rows, _ = told(tmp_path / "task.safetensors")
    state = decoder.encoder.vit.state_dict() | decoder.own_state()
    assert rows["kind"] == "task" and rows["checked"] == "SHA-256 of the whole file"
    assert rows["tensors"] == f"{len(state):,}" or rows["tensors"] == len(state)
    parameters = sum(value.numel() for value in state.values())
    assert str(rows["parameters"]).replace(",", "") == str(parameters)
    assert rows["dtypes"] == "F32"
    save_file(
        {"a": torch.ones(3, dtype=torch.float16), "b": torch.ones(2, 2)}, tmp_path / "b.safetensors"
    )
    rows, _ = told(tmp_path / "b.safetensors")
    assert rows["checked"] == "nothing: the file has no checksum of ours"
    assert rows["kind"] == "weights of another origin" and rows["dtypes"] == "F16, F32"
    assert int(rows["parameters"]) == 7 and int(rows["tensors"]) == 2


@pytest.mark.slow
def test_a_task_file_and_its_run_fit_on_a_screen(place, capsys):
    out = place / "semantic"
    call(f"probe street-semantic random --arch tiny --data {place / 'street'} --size 48x64 "
         f"--epochs 1 --batch 2 --pictures 0 --device cpu -o {out}")  # fmt: skip
    rows, report = told(out / "task.safetensors")
    assert len(rows) <= 24 and "metrics: miou" in rows
    assert rows["input"] == "48x64 pixels, 3 bins, contrast" and rows["decoder"] == "linear"
    assert "iou car" in report.facts["metrics"]
    rows, _ = told(out)
    assert rows["benchmark"] == "street-semantic" and rows["wrote"] == str(out / "task.safetensors")
    capsys.readouterr()
    call(f"info {out} --json")
    assert json.loads(capsys.readouterr().out)["kind"] == "run"
