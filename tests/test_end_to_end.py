"""Every command on tiny input, as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import resources

import numpy as np
import pytest
import timm
import torch
from fakes import write_custom
from PIL import Image

from scaleevent import cli
from scaleevent.checkpoint import load_encoder
from scaleevent.errors import CheckpointError
from scaleevent.pairs.store import PairStore
from scaleevent.predictor import Predictor
from scaleevent.system.files import read_json_lines
from scaleevent.training.tensors import load_tensors

pytestmark = pytest.mark.slow

TINY = "--size 48x64 --epochs 2 --draws 16 --batch 8 --lr 5e-4 --log-every 1 --validation 0.3"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small street store, shared by the tests here."""
    folder = tmp_path_factory.mktemp("work")
    call(f"prepare street -o {folder / 'pairs'} --scenes 12 --size 48x64 --jobs 2")
    return folder


def call(line, code=0):
    """Run the command line in this process; None: any exit code but success or a bug's."""
    arguments = sys.argv
    sys.argv = ["scaleevent", *line.split()]
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = arguments
    left_with = left.value.code or 0
    assert left_with == code if code is not None else left_with > 1


def test_prepare_and_info(place, capsys):
    store = PairStore(place / "pairs")
    assert len(store) == 12 and len(set(store.recordings)) == 12
    call(f"info {place / 'pairs'} --json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "scaleevent.info/1" and facts["pairs"] == 12
    assert facts["events decoded"] == facts["events kept"] == facts["events in windows"]


def test_prepare_refuses_a_used_folder_and_dry_run_writes_nothing(place, capsys):
    call(f"prepare street -o {place / 'pairs'}", 5)
    assert "--resume goes on" in capsys.readouterr().err
    call(f"prepare street -o {place / 'none'} --dry-run")
    assert not (place / "none").exists()


def test_voxelize_a_folder(place, capsys):
    raw = place / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 200_000, 4000))
    columns = {"t": t, "x": rng.integers(0, 32, 4000), "y": rng.integers(0, 24, 4000)}
    np.savez(raw / "one.npz", **columns, p=rng.integers(0, 2, 4000))
    (raw / "calib.txt").write_text("fx fy cx cy k1 k2\n1 2 3 4 5 6\n")
    arguments = f"{raw} --bins 5 --rate 50 --size 24x32 -o {place / 'voxels'} --patch 8 --json"
    call(f"voxelize {arguments}")
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["pairs"] == 10 and len(report["passed_over"]) == 1
    store = PairStore(place / "voxels")
    voxels = np.stack([shard.voxel(row, 5) for shard, row in map(store.locate, range(10))])
    cells = np.abs(voxels).reshape(10, 5, 3, 8, 4, 8).sum((1, 3, 5))
    assert report["active_share"] == pytest.approx(np.mean(cells >= 64 / 4), abs=0.02)
    shard, row = store.locate(3)
    voxel = shard.voxel(row, 5)
    assert voxel.shape == (5, 24, 32)
    start, end = shard.rows("before/window_us")[row]
    inside = columns["t"][(columns["t"] >= start) & (columns["t"] < end)]
    assert np.abs(voxel).sum() <= len(inside)
    with Image.open(place / "voxels/preview.png") as picture:
        assert picture.width > 300


@pytest.mark.parametrize(
    ("number", "printed"), [(0, "no window holds events"), (9, "smaller than 16")]
)
def test_voxelize_of_little(tmp_path, capsys, number, printed):
    """No events, and a sensor smaller than a patch."""
    t = np.arange(number) * 10_000 - 500
    zeros = np.zeros(number, np.int64)
    np.savez(tmp_path / "a.npz", t=t, x=zeros, y=zeros, p=zeros)
    call(f"voxelize {tmp_path / 'a.npz'} --size 9x5 -o {tmp_path / 'out'} --json")
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["events decoded"] == number
    assert any(printed in note for note in report["notes"])
    assert (tmp_path / "out/preview.png").exists() == (number > 0)


@pytest.fixture(scope="module")
def run(place):
    """A finished tiny pretraining."""
    call(f"pretrain {place / 'pairs'} --arch tiny {TINY} -o {place / 'run'}")
    return place / "run"


def test_pretrain_leaves_a_whole_run(run, place, capsys):
    log = read_json_lines(run / "log.jsonl")
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {"l1", "intra", "cross", "active", "rank", "lr", "grad_norm", "samples_per_s",
            "data_wait_percent"} <= steps[0].keys()  # fmt: skip
    for line in steps:
        total = line["l1"] + 10 * line["intra"] + 4 * line["cross"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    report = json.loads((run / "report.json").read_text())
    rows = {row["on held-out pairs"]: row for row in report["rows"]}
    probes = {"mIoU, ridge", "mIoU, balanced", "depth RMSE, m"}
    residual = "residual cosine, active tokens"
    assert {"held-out loss", residual, *(f"probe {name}" for name in probes)} <= rows.keys()
    probed = report["probes"]
    assert probed["fitted"] + probed["scored"] == 4  # of 12 pairs those that do not train
    assert probed["interval"].startswith("none, of")
    assert set(probed["rows"]["scene + place"]) == probes
    after = probed["rows"]["student after"]["mIoU, balanced"]
    assert after["miou"]["value"] == rows["probe mIoU, balanced"]["after"] > 0
    assert after["miou"]["interval"] is None  # of two recordings there is none
    assert set(after["iou"]) >= {"sky", "pole"}
    assert any(note.startswith("residual:") for note in report["notes"])
    with Image.open(run / "panel.png") as picture:
        assert picture.width > 500
    assert (run / "config.yaml").exists()
    call(f"info {run / 'encoder.safetensors'} --json")
    assert json.loads(capsys.readouterr().out)["kind"] == "encoder"


def test_the_encoder_loads_in_timm_and_here(run):
    path = run / "encoder.safetensors"
    encoder = load_encoder(path)
    theirs = timm.create_model(
        encoder.spec["name"], checkpoint_path=str(path), **encoder.spec["kwargs"]
    ).eval()
    x = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        prefix = theirs.num_prefix_tokens
        assert torch.equal(theirs.forward_features(x)[:, prefix:], encoder.tokens(x))
    assert (encoder.input.height, encoder.input.width, encoder.input.patch) == (48, 64, 8)


def test_the_encoder_repeats_its_own_preprocessing(run, place):
    encoder = load_encoder(run / "encoder.safetensors")
    shard, row = PairStore(place / "pairs").locate(0)
    events, window = shard.events(row)
    features = Predictor(encoder).features(events, window)
    assert features.shape == (6, 8, 96) and torch.isfinite(features).all()
    from scaleevent.pairs.samples import PairSamples

    sample = PairSamples([PairStore(place / "pairs")], encoder.input)[0]
    with torch.no_grad():
        expected = encoder.tokens(sample["voxel"][None])
    assert torch.equal(features.flatten(0, 1), expected[0])


def test_a_changed_weight_is_noticed(run, tmp_path):
    content = bytearray((run / "encoder.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="changed"):
        load_encoder(tmp_path / "bad.safetensors")


def test_a_stopped_run_resumes_to_the_same_bytes(run, place):
    cut = place / "cut"
    call(f"pretrain {place / 'pairs'} --arch tiny {TINY} -o {cut} --no-probe")
    states = sorted((cut / "state").glob("step-*"))
    first = states[0]
    states[-1].unlink()
    (cut / "state/last.json").write_text(json.dumps({"file": first.name, "step": 2}))
    (cut / "encoder.safetensors").unlink()
    call(f"pretrain {place / 'pairs'} --arch tiny {TINY} -o {cut} --no-probe --resume")
    straight, _ = load_tensors(run / "encoder.safetensors", "encoder")
    resumed, _ = load_tensors(cut / "encoder.safetensors", "encoder")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert lines(run) == lines(cut)


def lines(folder):
    """The log but for what depends on the clock."""
    changing = {"samples_per_s", "data_wait_percent"}
    return [
        {key: line[key] for key in line.keys() - changing}
        for line in read_json_lines(folder / "log.jsonl")
    ]


def test_teacher_tokens_that_are_kept_change_no_bit(run, place):
    """Computed once, or in every step, in a loader process too."""
    computed = place / "computed"
    options = f"--arch tiny {TINY} --no-cache --workers 1 --no-probe -o {computed}"
    call(f"pretrain {place / 'pairs'} {options}")
    kept, _ = load_tensors(run / "encoder.safetensors", "encoder")
    again, _ = load_tensors(computed / "encoder.safetensors", "encoder")
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert lines(run) == lines(computed) and len(lines(run)) == 7


def test_a_balanced_run_keeps_its_weights(place, monkeypatch, capsys):
    """They are found once, recorded, and taken from the state by a resumed run."""
    out = place / "balanced"
    line = f"pretrain {place / 'pairs'} --arch tiny {TINY} --mask none --no-probe -o {out}"
    call(f"{line} --balance 0.25")
    whole = lines(out)
    _, description = load_tensors(out / "encoder.safetensors", "encoder")
    assert description["window"] == {"window": "time", "window_ms": 50.0}  # of its store
    weights = description["weights"]
    assert description["balance"] == description["config"]["balance"] == 0.25
    assert weights["intra"] / weights["cross"] == pytest.approx(10 / 4)
    for entry in whole:
        if "loss" in entry:
            total = sum(weights[name] * entry[name] for name in weights)
            assert entry["loss"] == pytest.approx(total, rel=1e-5)
    assert 0.1 < whole[0]["val_share_intra"] + whole[0]["val_share_cross"] < 0.5

    states = sorted((out / "state").glob("step-*"))
    states[-1].unlink()
    (out / "state/last.json").write_text(json.dumps({"file": states[0].name, "step": 2}))
    call(f"{line} --balance 0.5 --resume", 2)
    assert "balance" in capsys.readouterr().err
    monkeypatch.setattr("scaleevent.objectives.balance.balanced", None)  # it would be called
    call(f"{line} --balance 0.25 --resume")
    assert lines(out) == whole


def test_two_ranks_give_the_losses_of_one(place):
    """Same global batch on two gloo processes, launched by --gpus; with frozen tensors too."""
    arguments = f"pretrain {place / 'pairs'} --arch tiny {TINY} --no-probe --freeze released "
    arguments += "--precision fp32 -o "
    call(arguments + str(place / "one"))
    arguments += str(place / "two")
    done = subprocess.run(
        [sys.executable, "-m", "scaleevent", *arguments.split(), "--gpus", "2", "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (
        [x for x in read_json_lines(folder / "log.jsonl") if "loss" in x]
        for folder in (place / "one", place / "two")
    )
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"]
        for name in ("loss", "l1", "intra", "cross", "active", "lr"):
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_more_gpus_than_there_are(place, capfd):
    if torch.cuda.device_count() >= 8:
        pytest.skip("this machine has eight GPUs")
    call(f"pretrain {place / 'pairs'} --arch vitb --gpus 8 -o {place / 'gpus'}", 5)
    error = capfd.readouterr().err
    assert re.search(r"this runs here: scaleevent pretrain \S+ --preset demo -o \S+gpus", error)
    assert not (place / "gpus").exists()


def test_weights_that_cannot_be_had_name_a_command_that_runs_here(place, capfd):
    call(f"pretrain {place / 'pairs'} --arch vits --offline -o {place / 'offline'}", 5)
    error = capfd.readouterr().err
    assert re.search(r"this runs here: scaleevent pretrain \S+ --preset demo", error)


def test_the_architecture_of_a_teacher_file_is_detected(place):
    teacher = resources.files("scaleevent") / "data/tiny_teacher.safetensors"
    out = place / "detected"
    call(f"pretrain {place / 'pairs'} --teacher {teacher} {TINY} --no-probe -o {out}")
    assert load_encoder(out / "encoder.safetensors").width == 96


def test_errors_and_exit_codes(place, tmp_path, capfd):
    (tmp_path / "empty.raw").touch()
    (tmp_path / "bad.yaml").write_text("epoch: 3\n")
    for line, code, text in [
        (f"info {tmp_path / 'empty.raw'}", 3, "empty"),
        (f"info {tmp_path / 'absent.raw'}", 3, "no such file"),
        (f"pretrain {place / 'pairs'} -c {tmp_path / 'bad.yaml'}", 2, "did you mean epochs"),
        (f"pretrain {tmp_path / 'nowhere'}", 2, "no such pair store"),
        (f"pretrain {tmp_path} -o {tmp_path / 'r1'} --arch tiny", 3, "not a prepared pair store"),
        (f"pretrain {place / 'pairs'} --lr -1", 2, "lr"),
        (f"pretrain {place / 'pairs'} --arch tiny --device foo -o {tmp_path / 'r'}", 2, "device"),
        (f"pretrain {place / 'pairs'} --resume --overwrite", 2, "exclude each other"),
        (f"pretrain {place / 'pairs'} --arch tiny -o {tmp_path / 'empty.raw' / 'x'}", 5, "folder"),
        (f"prepare street -o {tmp_path / 'p'} --homography h.txt", 2, "only for custom"),
        (f"prepare street -o {tmp_path / 'p'} --window-events 1", 2, "every data set but street"),
        ("prepare", 2, "name is not given"),
        (f"pretrain {place / 'pairs'} --arch tiny --size 50x64 -o {tmp_path / 'r2'}", 2, "patch"),
        (f"pretrain {place / 'pairs'} --teacher {tmp_path / 'x.pth'} -o {tmp_path / 'r3'}", 3, ""),
        (f"prepare custom {tmp_path / 'nowhere'} -o {tmp_path / 'p'}", 3, "no such file"),
        (f"voxelize {tmp_path / 'bad.yaml'} -o {tmp_path / 'v'}", 3, "not an event recording"),
        ("prepare mars", 2, "name"),
        ("pretrain --nonsense 1", 2, "nonsense"),
    ]:
        call(line, code)
        error = capfd.readouterr().err
        assert text.lower() in error.lower(), line
        assert "Traceback" not in error, line
    assert not (tmp_path / "p").exists() and not (tmp_path / "v").exists()


def test_a_stopped_prepare_resumes_to_the_same_bytes(place):
    """SIGTERM: exit 75, workers end, no temporary file stays; --resume finishes the job."""
    arguments = ["prepare", "street", "--scenes", "100", "--size", "32x48", "-o"]
    command = [sys.executable, "-m", "scaleevent", *arguments, str(place / "stopped")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 200
        while not list((place / "stopped").glob(".0*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=200)[1]
    assert process.returncode == 75, error
    assert "--resume goes on" in error and "Traceback" not in error
    assert not list((place / "stopped").glob(".*.tmp"))
    call(f"{' '.join(arguments)} {place / 'stopped'} --resume")
    call(f"{' '.join(arguments)} {place / 'straight'} --jobs 2")

    def content(folder):
        return {path.name: path.read_bytes() for path in (place / folder).iterdir()}

    assert content("stopped") == content("straight")


def test_voxel_shards_of_a_recording_with_frames_train_too(place, capsys):
    root = write_custom(place / "rig")
    call(f"voxelize {root} -o {place / 'framed'} --json")
    assert json.loads(capsys.readouterr().out)["counts"]["pairs"] >= 3
    options = "--preset demo --size 48x64 --epochs 1 --draws 4 --batch 2 --validation 0.3"
    call(f"pretrain {place / 'framed'} {options} -o {place / 'framed-run'}")
    losses = [x["loss"] for x in read_json_lines(place / "framed-run/log.jsonl") if "loss" in x]
    assert losses and np.isfinite(losses).all()
    call(f"pretrain {place / 'voxels'} {options} -o {place / 'unframed'}", 3)
    assert "no image" in capsys.readouterr().err and not (place / "unframed").exists()
