"""Every public benchmark from files as published to a number, as a user types it."""

import json

import numpy as np
import pytest
from test_end_to_end import call

from scaleevent.datasets.flow_png import decode_flow
from tests import davis_files, dsec_files

pytestmark = pytest.mark.slow

NEW = "--arch tiny --size 48x64 --epochs 1 --batch 4 --pictures 1"


def write_dsec_semantic(root):
    dsec_files.write_semantic(root, "E", "zurich_city_00_a")
    dsec_files.write_semantic(root, "E", "zurich_city_13_a")


def write_dsec_depth(root):
    dsec_files.write_depth(root, "E", "zurich_city_00_a")
    dsec_files.write_depth(root, "E", "zurich_city_05_a")


def write_dsec_flow(root):
    dsec_files.write_flow(root, "E", "zurich_city_01_a")
    dsec_files.write_flow(root, "E", "thun_00_a")


def write_ddd17(root):
    davis_files.write_drive(root, "dir0")
    davis_files.write_drive(root, "dir1")


def write_mvsec_depth(root):
    davis_files.write_depth(root, "outdoor_day2")
    davis_files.write_depth(root, "outdoor_night2")


def write_mvsec_flow(root):
    davis_files.write_flow(root, "outdoor_day2")
    davis_files.write_flow(root, "indoor_flying2")


BENCHMARKS = {
    "dsec-semantic": (write_dsec_semantic, "", "miou"),
    "dsec-depth": (write_dsec_depth, "", "rmse"),
    "dsec-flow": (write_dsec_flow, "", "epe"),
    "ddd17-seg": (write_ddd17, "", "miou"),
    "mvsec-depth": (write_mvsec_depth, "", "rmse"),
    "mvsec-flow": (write_mvsec_flow, "--all-frames", "epe"),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_from_published_files_to_a_number(tmp_path, monkeypatch, capsys, name):
    write, settings, headline = BENCHMARKS[name]
    root = tmp_path / "raw"
    root.mkdir()
    write(root)
    shelf = tmp_path / "shelf"
    call(f"prepare {name} {root} -o {shelf / name} {settings}")
    monkeypatch.setenv("SCALEEVENT_DATA", str(shelf))
    decoder = "--decoder linear" if "seg" in name or "semantic" in name else ""
    call(f"finetune {name} random -o {tmp_path / 'run'} {NEW} {decoder}")
    capsys.readouterr()
    call(f"eval {name} {tmp_path / 'run/task.safetensors'} --json")  # nothing else to say
    report = json.loads(capsys.readouterr().out)
    ours = report["rows"][0]
    assert ours[""].startswith("ours") and np.isfinite(ours[headline])
    published = [row for row in report["rows"] if "as published" in row[""]]
    assert (name == "dsec-flow") == (not published)
    if published:
        assert "ScaleEvent ViT-S" in published[0][""]
        assert any(row.get(headline) or name == "mvsec-flow" for row in published)
        assert published[0][""].endswith("as published (a)")
        assert any(note.startswith("(a) under another protocol") for note in report["notes"])
    stamp = report["stamp"]
    trained = json.loads((tmp_path / "run/report.json").read_text())
    assert stamp == trained["stamp"] and stamp["input"] == "48x64"
    assert sum(stamp["labels"].values()) == trained["data"]["test_samples"] > 0
    assert set(stamp["labels"]).isdisjoint(trained["data"]["recordings"])
    if name == "dsec-semantic":
        assert stamp["labels"] == {"zurich_city_13_a": len(dsec_files.SEMANTIC_US)}
        assert stamp["scored"] == f"{dsec_files.LABEL_ROWS}x{dsec_files.WIDTH}"
    if name == "mvsec-depth":
        assert report["rows"][2][""] == "ours, night, dav2"
    if name == "mvsec-flow":  # under the names of the paper's table
        assert ours["epe indoor_flying2"] > 0 and published[0]["epe indoor_flying2"] == 0.38


def test_predictions_to_hand_in(tmp_path, capsys):
    root = tmp_path / "raw"
    root.mkdir()
    write_dsec_flow(root)
    dsec_files.write_flow_test(root, "D", "thun_01_a")
    call(f"prepare dsec-flow {root} -o {tmp_path / 'pairs'}")
    data = f"--data {tmp_path / 'pairs'}"
    new = f"finetune dsec-flow random {data} {NEW} --decoder linear"
    call(f"{new} -o {tmp_path / 'cropped'}")
    call(
        f"eval dsec-flow {tmp_path / 'cropped/task.safetensors'} {data} --submission {tmp_path}", 2
    )
    assert "every pixel" in capsys.readouterr().err
    size = f"{dsec_files.HEIGHT}x{dsec_files.WIDTH}"
    call(f"{new} -o {tmp_path / 'run'} --size {size}")
    task, out = tmp_path / "run/task.safetensors", tmp_path / "handed"
    call(f"eval dsec-flow {task} {data} --submission {out}")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert files == [f"thun_01_a/{index:06d}.png" for *_, index in dsec_files.TEST_SPANS_US]
    flow, valid = decode_flow((out / files[0]).read_bytes())
    assert flow.shape == (2, dsec_files.HEIGHT, dsec_files.WIDTH) and not valid.any()


def ddd17_store(tmp_path):
    """The flag that names a prepared store."""
    (tmp_path / "raw").mkdir()
    write_ddd17(tmp_path / "raw")
    call(f"prepare ddd17-seg {tmp_path / 'raw'} -o {tmp_path / 'pairs'}")
    return f"--data {tmp_path / 'pairs'}"


def test_at_input_size_is_another_number(tmp_path, capsys):
    data = ddd17_store(tmp_path)
    call(f"finetune ddd17-seg random {data} -o {tmp_path / 'run'} {NEW} --decoder linear")
    capsys.readouterr()
    pixels, scored = [], []
    for flag in ("", "--at-input-size"):
        call(f"eval ddd17-seg {tmp_path / 'run/task.safetensors'} {data} --json {flag}")
        report = json.loads(capsys.readouterr().out)
        pixels.append(report["metrics"]["pixels"])
        scored.append(report["stamp"]["scored"])
    assert pixels[1] < pixels[0]
    assert scored == ["200x267", "48x64"]  # what the input shows of 200x346


def test_the_released_draw_stands_beside_the_exact_score(tmp_path, capsys):
    data = ddd17_store(tmp_path)
    new = f"finetune ddd17-seg random {data} {NEW} --decoder linear --preset released --epochs 1"
    capsys.readouterr()
    call(f"{new} --batch 2 -o {tmp_path / 'run'} --json")
    trained = json.loads(capsys.readouterr().out)
    assert trained["config"]["sampling"] == trained["config"]["labels"] == "released"
    assert trained["data"]["samples_per_epoch"] == 2 * trained["data"]["training_samples"]
    found = []
    for flag in ("", "--draw released", "--draw released --labels released"):
        call(f"eval ddd17-seg {tmp_path / 'run/task.safetensors'} {data} --json {flag}")
        found.append(json.loads(capsys.readouterr().out))
    exact, drawn, listed = found
    assert exact["metrics"] == drawn["metrics"] == listed["metrics"]
    assert "released draws" not in exact
    spread = drawn["released draws"]
    assert spread["number"] == 20 and spread["mean"]["samples"] == exact["metrics"]["samples"]
    names = [row[""] for row in drawn["rows"]]
    assert "ours, mean of 20 released draws, all classes" in names
    assert "ours, SD of 20 released draws, all classes" in names
    here = trained["data"]["training_samples"] + trained["data"]["test_samples"]
    for report in (trained, listed):  # the files here hold only some of them
        assert any(n.startswith(f"{here:,} of the 18,576 training and") for n in report["notes"])
