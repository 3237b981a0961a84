"""The commands as functions: typed results; nothing printed, ended, or drawn from global state."""

import ast
import json
import os
import random
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from event_files import evt3_words, write_raw
from test_own_benchmark import planted_classes, write_user
from test_own_labels import write_recording

import scaleevent
from scaleevent.errors import ConfigError, ScaleEventError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "scaleevent"
TINY = {"size": (48, 64), "epochs": 1, "device": "cpu"}
SECTION = (ROOT / "README.md").read_text().partition("### In Python")[2].partition("\n### ")[0]


def settings(at: Path) -> dict:
    """Makes the settings of each verb, in an order in which they find what they need."""
    own, run = {"data": [at / "mine"], "benchmark": "custom"}, at / "run"
    recording, encoder = at / "user/a.npz", str(run / "encoder.safetensors")
    task = at / "fine/task.safetensors"
    return {
        "prepare": lambda: scaleevent.PrepareConfig(
            name="custom", roots=[at / "user"], labels=Path("labels"), size=(48, 64),
            out=at / "mine",
        ),
        "voxelize_recordings": lambda: scaleevent.VoxelizeConfig(
            root=at / "user", out=at / "voxels", size=(48, 64)
        ),
        "info": lambda: scaleevent.InfoConfig(path=at / "mine"),
        "pretrain": lambda: scaleevent.PretrainConfig.with_preset(
            data=[at / "street"], preset="demo", draws=8, batch=4, validation=0.5, out=run, **TINY
        ),
        "probe": lambda: scaleevent.ProbeConfig(
            checkpoint=encoder, out=at / "probe", **own, **TINY
        ),
        "finetune": lambda: scaleevent.FinetuneConfig.with_preset(
            checkpoint=encoder, out=at / "fine", decoder="linear", **own, **TINY
        ),
        "evaluate": lambda: scaleevent.EvalConfig(checkpoint=task, device="cpu", **own),
        "predict": lambda: scaleevent.PredictConfig(
            checkpoint=encoder, recordings=[recording], size=(48, 64), out=at / "seen",
            device="cpu",
        ),
        "export": lambda: scaleevent.ExportConfig(
            checkpoint=task, out=at / "deploy", format="safetensors,meta"
        ),
        "report": lambda: scaleevent.ReportConfig(runs=[run, at / "probe"], out=at / "page.html"),
    }  # fmt: skip


VERBS = (
    "prepare", "voxelize_recordings", "info", "pretrain", "probe", "finetune", "evaluate",
    "predict", "export", "report",
)  # fmt: skip


def states() -> tuple:
    """The global random states."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), (kind, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What each verb returned, printed, and left of the random states; and the folder."""
    at = tmp_path_factory.mktemp("api")
    write_user(at / "user", planted_classes())
    street = {"name": "street", "scenes": 12, "size": (48, 64), "out": at / "street"}
    scaleevent.prepare(scaleevent.PrepareConfig(**street))
    found = {}
    for number, name in enumerate(VERBS):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        before, said = states(), StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            result = getattr(scaleevent, name)(settings(at)[name]())
        found[name] = result, said.getvalue(), before == states()
    return found, at


# Properties of all verbs


@pytest.mark.parametrize("name", VERBS)
def test_nothing_is_printed(done, name):
    assert done[0][name][1] == ""


@pytest.mark.parametrize("name", VERBS)
def test_the_global_random_state_stays(done, name):
    assert done[0][name][2]


@pytest.mark.parametrize("name", VERBS)
def test_the_json_is_that_of_the_command_line(done, name):
    result = done[0][name][0]
    document = json.loads(json.dumps(result.to_json()))
    command = {"evaluate": "eval", "voxelize_recordings": "voxelize"}.get(name, name)
    assert document["schema"] == f"scaleevent.{command}/1"
    assert document.keys() == {"schema", "version", "title", "rows", "notes", *result.facts}
    kept = {"pretrain": "run", "probe": "probe", "finetune": "fine", "predict": "seen"}
    if name in kept:
        assert document == json.loads((done[1] / kept[name] / "report.json").read_text())


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_documented(name):
    verb = getattr(scaleevent, name)
    for part in ("Args:", "Returns:" if name != "report" else "report", "Raises:"):
        assert part in verb.__doc__
    result = verb.__annotations__["return"]
    assert "Attributes:" in getattr(scaleevent, result).__doc__


def test_errors_are_raised_and_the_program_goes_on(tmp_path):
    """Each verb with something that is not there."""
    there = settings(tmp_path)
    for name in VERBS:
        with pytest.raises(ScaleEventError):
            getattr(scaleevent, name)(there[name]())


def test_only_the_program_prints_and_ends():
    """But for a rank whose launcher has told the error already, and results that are asked to."""
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}: {ast.unparse(node)[:30]}"
        for path in PACKAGE.rglob("*.py") if path.name not in ("cli.py", "__main__.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "sys.exit", "exit", "quit", "os._exit")
        or isinstance(node, ast.Raise) and "SystemExit" in ast.unparse(node)
    }  # fmt: skip
    assert {one.partition(":")[0] for one in found} <= {
        "system/reports.py", "system/ranks.py", "system/workers.py", "system/signals.py",
        "system/hdf5_reading.py", "system/hdf5_process.py", "system/loader_server.py",
        "system/vitals.py",
    }, found  # fmt: skip


def test_who_watches_sees_progress_on_stderr_alone(tmp_path, capsys):
    write_recording(tmp_path / "raw/a.npz", 0)
    config = scaleevent.VoxelizeConfig(root=tmp_path / "raw", out=tmp_path / "v", size=(48, 64))
    scaleevent.voxelize_recordings(config, quiet=False)
    said = capsys.readouterr()
    assert said.out == ""


# Results


def test_results_have_what_was_made(done):
    found, at = done
    result = {name: one for name, (one, *_) in found.items()}
    store = scaleevent.PairStore(at / "mine")
    assert result["prepare"].pairs == len(store) == result["prepare"].counts["pairs"]
    assert result["prepare"].is_whole and result["prepare"].out == at / "mine"
    voxels = result["voxelize_recordings"]
    assert voxels.pairs > 0 and 0 <= voxels.active_share <= 1 and 0 <= voxels.empty_share <= 1
    assert result["info"].kind == "pairs" and result["info"].facts["pairs"] == len(store)
    assert result["report"].page.read_bytes().startswith(b"<!doctype html>")
    assert result["report"].bytes == result["report"].page.stat().st_size


def test_pretraining_tells_its_numbers(done):
    result = done[0]["pretrain"][0]
    assert result.checkpoint == done[1] / "run/encoder.safetensors" and result.steps == 2
    loss = result.metrics["held-out loss"]
    assert loss.before > 0 and loss.after > 0
    rows = result.to_json()["probes"]["rows"]
    assert list(result.probes) == list(rows) and "student after" in rows
    for name, scores in result.probes.items():
        assert scores.miou == rows[name]["mIoU, ridge"]["miou"]["value"]
        assert scores.balanced.classes == rows[name]["mIoU, balanced"]["iou"]
        assert scores.rmse == rows[name]["depth RMSE, m"]["rmse"]["value"]
    change = result.metrics["probe mIoU, ridge"]
    assert change.after == result.probes["student after"].miou


@pytest.mark.parametrize("name", ["probe", "finetune", "evaluate"])
def test_scores_are_numbers_by_name(done, name):
    result, *_ = done[0][name]
    assert result.score == result.miou == result.metrics["miou"]
    assert result.samples == sum(result.stamp.labels.values()) == 5
    assert result.baselines["place only"]["acc"] == 100
    assert all(isinstance(one, int | float) for one in result.metrics.values())
    with pytest.raises(AttributeError, match="no sparse_epe of custom"):
        result.epe  # noqa: B018
    assert not hasattr(result, "rmse")
    assert isinstance(scaleevent.load_model(done[0]["finetune"][0].checkpoint).task, str)


def test_predictions_and_exports_tell_their_files(done):
    result, *_ = done[0]["predict"]
    (one,) = result.recordings
    assert one.recording == "a" and one.sensor == (48, 64) and one.folder == result.out
    assert one.windows == len(list((result.out / "pictures").glob("*.png"))) > 0
    stages = one.timing.milliseconds
    assert stages["latency"].median > 0 and one.timing.windows == one.windows
    assert sum(time.share for name, time in stages.items() if name != "latency") == (
        pytest.approx(1)
    )
    result, *_ = done[0]["export"]
    assert {file.name for file in result.out.glob("*.safetensors")} == set(result.files)
    for name, file in result.files.items():
        assert file.path == result.out / name and file.bytes == file.path.stat().st_size
        assert file.difference < 1e-4 and file.samples is None


def test_a_model_is_loaded_whichever_it_is(done):
    run, fine = done[0]["pretrain"][0], done[0]["finetune"][0]
    assert isinstance(scaleevent.load_model(run.checkpoint), scaleevent.Encoder)
    task = scaleevent.load_model(str(fine.checkpoint), size=(96, 128))
    assert task.task == "segmentation" and task.encoder.input.height == 96
    before = states()
    for load in (scaleevent.load_model, scaleevent.load_encoder, scaleevent.Predictor.load):
        load(run.checkpoint)
    scaleevent.load_task(fine.checkpoint)
    scaleevent.build_encoder(weights=run.checkpoint)
    assert before == states()


def test_a_dry_run_is_a_result_of_its_own(tmp_path):
    given = {"name": "street", "scenes": 4, "size": (48, 64), "out": tmp_path / "s"}
    result = scaleevent.prepare(scaleevent.PrepareConfig(**given, dry_run=True))
    assert isinstance(result, scaleevent.DryRun) and result.pairs == 0
    assert result.images == result.estimate.pairs == 4 and result.estimate.bytes > 0
    assert result.to_json()["estimate"]["seconds"] == list(result.estimate.seconds)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "config",
    [
        scaleevent.PretrainConfig(preset="demo"),
        scaleevent.FinetuneConfig(benchmark="street-depth", checkpoint="random", preset="demo"),
    ],
    ids=["pretrain", "finetune"],
)
def test_a_preset_that_is_only_named_is_refused(config, tmp_path):
    verb = scaleevent.pretrain if hasattr(config, "objective") else scaleevent.finetune
    with pytest.raises(ConfigError, match="only named") as refused:
        verb(config.model_copy(update={"out": tmp_path / "run"}))
    assert "with_preset" in refused.value.hint and not (tmp_path / "run").exists()


# Types


USER = """
import scaleevent
from scaleevent import EvalConfig, PretrainConfig

result = scaleevent.pretrain(PretrainConfig(draws=8))
reveal_type(result.checkpoint)
reveal_type(result.probes["student after"].miou)
reveal_type(scaleevent.evaluate(EvalConfig(benchmark="custom", checkpoint=result.checkpoint)).miou)
reveal_type(scaleevent.load_model("a.safetensors"))
reveal_type(scaleevent.prepare(scaleevent.PrepareConfig(name="street")).counts)
reveal_type(scaleevent.info(scaleevent.InfoConfig(path=result.out)).kind)
result.probe
"""
REVEALED = [
    "pathlib.Path", "float", "float", "Encoder | scaleevent.decoders.decoder.Decoder",
    "Mapping[str, int]", "str",
]  # fmt: skip


def test_a_users_script_is_typed_from_outside(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(USER)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", script]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT,
                         env=os.environ | {"MYPYPATH": str(ROOT)})  # fmt: skip
    shown = re.findall(r'Revealed type is "(.*)"', run.stdout)
    assert len(shown) == len(REVEALED), run.stdout + run.stderr
    for told, expected in zip(shown, REVEALED, strict=True):
        assert told.replace("builtins.", "").endswith(expected)
    (error,) = [line for line in run.stdout.splitlines() if ": error: " in line]
    assert '"PretrainResult" has no attribute "probe"; maybe "probes"?' in error


# The README


def test_the_section_of_the_readme_runs(tmp_path):
    """Its code, in a folder with the recordings that it names."""
    blocks = re.findall(r"```python\n(import scaleevent\n.*?)```", SECTION, re.S)
    assert len(blocks) == 2
    write_user(tmp_path / "my_data", planted_classes())
    for path in (tmp_path / "my_data").glob("*.npz"):
        words = evt3_words(scaleevent.read_events(path, size=(48, 64)))
        write_raw(path.with_suffix(".raw"), words, "evt 3.0", "geometry 64x48")
        path.unlink()
    street = {"name": "street", "scenes": 12, "size": (48, 64), "out": tmp_path / "pairs"}
    scaleevent.prepare(scaleevent.PrepareConfig(**street))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SCALEEVENT_DATA": ""}
    command = [sys.executable, "-c", "\n".join(blocks)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith("True {") and run.stderr == ""


SCRIPT = """
import scaleevent

print("begun")
scaleevent.prepare(scaleevent.PrepareConfig(name="street", scenes=6, size=(48, 64), out="pairs"))
run = scaleevent.pretrain(
    scaleevent.PretrainConfig.with_preset(
        data=["pairs"], preset="demo", size=(48, 64), epochs=1, draws=32, batch=16,
        validation=0.4, workers=2, probe=False, out="run",
    )
)
print(run.checkpoint.name)
"""


def test_a_script_needs_no_guard(tmp_path):
    """Its worker processes do not begin with it, although nothing in it asks for a main program."""
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, text=True,
                         capture_output=True)  # fmt: skip
    assert (run.stdout.split(), run.returncode) == (["begun", "encoder.safetensors"], 0), run.stderr
