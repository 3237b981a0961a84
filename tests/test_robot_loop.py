"""The robot's loop gets the numbers of `Predictor`, in a process without torch and ScaleEvent."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from scaleevent import Events, Predictor, Window, WindowRule
from scaleevent.checkpoint import save_encoder, save_task
from scaleevent.commands import export
from scaleevent.config.export import ExportConfig
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.encoder import Encoder
from scaleevent.grids.inputs import InputSettings
from scaleevent.predictor import network_input

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

LOOP = Path(__file__).parent.parent / "examples/robot_loop.py"
HEIGHT, WIDTH = 32, 48
SPEC = {
    "name": "vit_small_patch16_dinov3",
    "kwargs": {
        "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 1, "init_values": 0.1,
    },
}  # fmt: skip
ALONE = """
import runpy, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("torch", "scaleevent"), f"{name} is imported"
sys.meta_path.insert(0, Forbidden())
loop, *sys.argv = sys.argv[1], *sys.argv[1:]
runpy.run_path(loop, run_name="__main__")
"""


@torch.no_grad()
def exported(folder: Path, task: str | None = None) -> tuple[Predictor, Path]:
    """A model with random weights that matter, and its ONNX file."""
    torch.manual_seed(1)
    model = encoder = Encoder(SPEC)
    if task is not None:
        model = Linear(encoder, task, 5 if task == "segmentation" else None)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    encoder.input = InputSettings(HEIGHT, WIDTH, 8, normaliser="contrast", mean=(0.5, 0.4, 0.3))
    path = folder / "model.safetensors"
    if task is None:
        save_encoder(path, model, {})
    else:
        save_task(path, model, {})
    export.run(ExportConfig(checkpoint=path, out=folder / "deploy", format="onnx"), quiet=True)
    (file,) = (folder / "deploy").glob("*.onnx")
    return Predictor(model), file


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> tuple[Encoder, Path]:
    predictor, file = exported(tmp_path_factory.mktemp("encoder"))
    return predictor.encoder, file


def prepared(
    encoder: tuple[Encoder, Path], folder: Path, rule: WindowRule | None = None, **settings
) -> tuple[Predictor, Path]:
    """The same network with another input: it stands in the metadata alone."""
    model, file = encoder
    settings = replace(InputSettings(HEIGHT, WIDTH, 8, mean=(0.5, 0.4, 0.3)), **settings)
    program = onnx.load(file)
    own = {"input": asdict(settings), "window": asdict(rule or WindowRule("time"))}
    about = json.loads(program.metadata_props[0].value) | own
    onnx.helper.set_model_props(program, {"scaleevent": json.dumps(about)})
    onnx.save(program, folder / "model.onnx")
    model.input = settings
    return Predictor(model), folder / "model.onnx"


def events_on(rows: int, columns: int) -> Events:
    """A third of a second of events, denser in one corner; a pause of 100 ms without any."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(7_000, 347_000, 20_000))
    x, y = (rng.beta(1, 2, len(t)) * size for size in (columns, rows))
    kept = (t < 100_000) | (t >= 200_000)
    all_columns = (t, x.astype(int), y.astype(int), rng.random(len(t)) < 0.4)
    return Events.from_columns(*(each[kept] for each in all_columns), rows, columns)


def loop(file: Path, events: Events, folder: Path, *ms: str) -> subprocess.CompletedProcess:
    """Run the example where torch and ScaleEvent cannot be imported."""
    np.savez(folder / "recording.npz", t=events.t, x=events.x, y=events.y, p=events.p)
    line = [LOOP, file, folder / "recording.npz", f"{events.height}x{events.width}", *ms]
    command = [sys.executable, "-c", ALONE, *map(str, line)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def outputs(file: Path, events: Events, folder: Path, *ms: str) -> tuple[list[int], np.ndarray]:
    """What the loop computes; with 40 milliseconds some windows have no event."""
    done = loop(file, events, folder, *ms)
    assert done.returncode == 0 and not done.stderr, done.stderr
    with np.load(folder / "outputs.npz") as found:
        ticks, output = found["at"].tolist(), found["output"]
    assert ticks == list(range(int(events.t[0]) + 50_000, int(events.t[-1]) + 1, 50_000))
    return ticks, output


CASES = [
    ((32, 48), "minmax", False), ((180, 240), "contrast", False), ((240, 304), "symmetric", False),
    ((100, 346), "none", False), ((20, 30), "contrast", False), ((260, 346), "minmax", True),
    ((480, 640), "contrast", True), ((100, 346), "symmetric", True),
]  # fmt: skip


@pytest.mark.parametrize(("sensor", "normaliser", "pad"), CASES)
def test_features_are_those_of_the_predictor(encoder, tmp_path, sensor, normaliser, pad):
    predictor, file = prepared(encoder, tmp_path, normaliser=normaliser, pad=pad)
    events = events_on(*sensor)
    ticks, found = outputs(file, events, tmp_path, "40")
    assert any(len(events.between(at - 40_000, at)) == 0 for at in ticks)
    for at, tokens in zip(ticks, found, strict=True):
        expected = predictor.features(events, Window(at - 40_000, at)).flatten(0, 1).numpy()
        assert np.abs(tokens - expected).max() <= 1e-4 * np.abs(expected).max()


RULES = [
    WindowRule("time", 30_000), WindowRule("count", events_per_pixel=0.1),
    WindowRule("count", events_per_pixel=3.0),  # more than there are at first
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_windows_are_those_of_the_rule_in_the_file(encoder, tmp_path, rule):
    predictor, file = prepared(encoder, tmp_path, rule)
    events = events_on(60, 80)
    ticks, found = outputs(file, events, tmp_path)
    for at, tokens in zip(ticks, found, strict=True):
        expected = predictor.features(events, at, rule).flatten(0, 1).numpy()
        assert np.abs(tokens - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("task", ["segmentation", "depth", "flow"])
def test_predictions_are_those_of_the_predictor(tmp_path, task):
    predictor, file = exported(tmp_path, task)
    events = events_on(HEIGHT, WIDTH)
    ticks, found = outputs(file, events, tmp_path, "40")
    for at, output in zip(ticks, found, strict=True):
        expected = predictor.predict(events, Window(at - 40_000, at)).numpy()
        if task == "segmentation":
            assert (output.argmax(0) == expected).all()
            window = Window(at - 40_000, at)
            raw = predictor.model(network_input(events, window, predictor.settings)[None])
            expected = predictor.model.scores(raw, (HEIGHT, WIDTH))[0].detach().numpy()
        assert np.abs(output - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_it_lacks_is_named(encoder, tmp_path):
    events = events_on(HEIGHT, WIDTH)
    _, file = prepared(encoder, tmp_path, normaliser="robust8")
    done = loop(file, events, tmp_path)
    assert done.returncode == 1 and "it lacks {'robust8'}" in done.stderr
    _, file = prepared(encoder, tmp_path, WindowRule())
    done = loop(file, events, tmp_path)
    assert done.returncode == 1 and "it lacks {'adaptive'}" in done.stderr
    assert loop(file, events, tmp_path, "40").returncode == 0
    done = loop(file, events_on(5, 9), tmp_path, "40")
    assert done.returncode == 1 and "unstretched" in done.stderr


def test_every_rule_is_computed_or_refused():
    kinds = get_args(get_type_hints(WindowRule)["kind"])
    assert {rule.kind for rule in RULES} | {"adaptive"} == set(kinds)


def test_it_is_short():
    assert len(LOOP.read_text().splitlines()) <= 60
