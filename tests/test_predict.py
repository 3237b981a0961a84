"""`predict`: planted answers, the same as `Predictor` on the whole file, and files read back."""

import csv
import errno
import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from test_end_to_end import call

import scaleevent
from scaleevent.checkpoint import save_encoder, save_task
from scaleevent.config.benchmarks import IGNORE
from scaleevent.config.predict import PredictConfig
from scaleevent.config.settings import load_config
from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.clusters import fit_clusters, nearest_cluster
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EnvironmentProblem,
    MissingPackageError,
)
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events
from scaleevent.formats.hdf5 import Hdf5Source
from scaleevent.formats.source import Frame
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window, WindowRule, choose_window
from scaleevent.pairs.window_words import stored_rule
from scaleevent.pictures import FeatureColours, distinct_colours, draw_depth
from scaleevent.prediction.cutting import Cut
from scaleevent.prediction.drawing import WIDE, Painter
from scaleevent.prediction.models import OpenedModel, open_model
from scaleevent.prediction.recordings import folder_names
from scaleevent.prediction.schedules import AtRate, EveryEvents, Span
from scaleevent.prediction.sources import EventSource, LatestFrame, recorded
from scaleevent.prediction.streaming import Plan, predictions, sample_of
from scaleevent.prediction.timing import STAGES
from scaleevent.prediction.views import SAMPLE, DepthView, choose_view
from scaleevent.prediction.writers import VideoWriter
from scaleevent.predictor import Predictor
from tests.event_files import some_events, write_aedat4, write_dsec, write_text

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 40, 56  # of the sensor; the input shows rows 1 to 37 of it
SPEC = {
    "name": "vit_small_patch16_dinov3",
    "kwargs": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "init_values": 0.1},
}
OWN = {"segmentation": {"classes": 5}, "depth": {"max_depth": 50.0}, "flow": {}}
FILL = {"segmentation": IGNORE, "depth": np.nan, "flow": np.nan}


def small_encoder(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    encoder = Encoder(SPEC)
    encoder.input = InputSettings(32, 48, 8)
    return encoder.eval()


def task_model(task: str) -> Linear:
    model = Linear(small_encoder(), task, **OWN[task])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


class Sums(Decoder):
    """Reports, as a depth, the sum of all bins: brighter minus darker events of each pixel."""

    task, weights = "depth", {}

    def __init__(self, encoder):
        super().__init__(encoder, {"max_depth": 99.0})

    def forward(self, voxel, after=None):
        return voxel

    def loss(self, raw, target):
        return {}

    def predict(self, raw, size):
        assert raw.shape[-2:] == size
        return raw.sum(1)

    def load_published(self, tensors, where=None):
        return Loaded("sums", ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("predict")
    for task in OWN:
        save_task(root / f"{task}.safetensors", task_model(task), {})
    save_encoder(root / "encoder.safetensors", small_encoder(), {})
    save_encoder(root / "other.safetensors", small_encoder(1), {})
    events = some_events(9_000, HEIGHT, WIDTH, span_us=400_000, seed=5)
    write_dsec(root / "one.h5", events)
    write_dsec(root / "two.h5", some_events(5_000, HEIGHT, WIDTH, span_us=300_000, seed=6))
    return root


def predict(folder, checkpoint, *recordings, out, **options):
    paths = [folder / name for name in recordings]
    config = PredictConfig(
        checkpoint=str(folder / f"{checkpoint}.safetensors"), recordings=paths, out=out,
        size=(HEIGHT, WIDTH), device="cpu", **options,
    )  # fmt: skip
    return scaleevent.predict(config, quiet=True)


def lines_of(out) -> list[dict[str, str]]:
    with open(out / "times.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_model_whose_answer_is_known(moving_bar):
    """Each pixel's value is the balance of the events that a slow loop finds in the window."""
    encoder = Encoder(SPEC)
    height, width = moving_bar.height, moving_bar.width
    encoder.input = InputSettings(height, width, 8, 3, "none", mean=(0, 0, 0), std=(1, 1, 1))
    view = DepthView(OpenedModel("sums", Predictor(Sums(encoder)), {}, ()))
    source = EventSource(
        "bar", height, width, lambda: (moving_bar[k : k + 777] for k in range(0, 10**6, 777))
    )
    rule = WindowRule("time", duration_us=20_000)
    found = list(predictions(source, view, Plan(AtRate(50), rule)))
    assert len(found) > 3
    for one in found:
        expected = np.zeros((height, width))
        for k in range(len(moving_bar)):
            if one.cut.window.start_us <= moving_bar.t[k] < one.cut.window.end_us:
                expected[moving_bar.y[k], moving_bar.x[k]] += 1 if moving_bar.p[k] else -1
        np.testing.assert_allclose(one.values, expected, atol=1e-3)


@pytest.mark.parametrize("task", OWN)
@pytest.mark.parametrize("when", [{"rate": 40.0}, {"every_events": 1_100}])
def test_each_window_is_that_of_the_whole_file(folder, tmp_path, task, when):
    out = tmp_path / "out"
    report = predict(folder, task, "one.h5", out=out, write=["npy"], **when)
    predictor = Predictor.load(folder / f"{task}.safetensors")
    events = read_events(folder / "one.h5", size=(HEIGHT, WIDTH))
    fit = predictor.settings.fit(HEIGHT, WIDTH)
    lines = lines_of(out)
    assert len(lines) == report.facts["recordings"][0]["windows"] > 4
    for line in lines:
        end = int(line["window_end_us"])
        window = choose_window(events, end, WindowRule())
        assert (window.start_us, window.stop) == (int(line["window_start_us"]), line["stop"])
        assert int(line["events"]) == len(events.between(window.start_us, end))
        assert float(line["seconds"]) == pytest.approx((end - events.t[0]) / 1e6, abs=1e-6)
        seen = predictor.predict(events, end).numpy()
        rows, columns = fit.on_sensor
        top, left = fit.crop[:2]
        expected = np.full((*seen.shape[:-2], HEIGHT, WIDTH), FILL[task], np.float64)
        expected[..., top : top + seen.shape[-2], left : left + seen.shape[-1]] = seen
        found = np.load(out / line["file"])
        assert found.dtype == (np.uint8 if task == "segmentation" else np.float32)
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
    assert np.isnan(found[..., 0, :]).all() or (found[0] == IGNORE).all()  # the crop leaves it out


def test_every_kind_of_file_is_read_back(folder, tmp_path):
    av = pytest.importorskip("av")
    out = tmp_path / "out"
    predict(folder, "depth", "one.h5", out=out, write=["video,hdf5", "npy,png"], rate=40.0)
    lines = lines_of(out)
    arrays = [np.load(out / f"maps/{k:06d}.npy") for k in range(len(lines))]
    assert lines[3]["file"] == "pictures/000003.png maps/000003.npy maps.h5 video.mp4"
    with h5py.File(out / "maps.h5") as file:
        np.testing.assert_array_equal(file["map"][:], np.stack(arrays))
        assert file["window_us"][:, 1].tolist() == [int(line["window_end_us"]) for line in lines]
        assert file["events"][:].tolist() == [int(line["events"]) for line in lines]
        assert file["map"].fletcher32 and file.attrs["unit"].startswith("depth along")
        assert file.attrs["sensor"].tolist() == [HEIGHT, WIDTH]
    pictures = [np.asarray(Image.open(out / f"pictures/{k:06d}.png")) for k in range(len(lines))]
    assert len({picture.shape for picture in pictures}) == 1
    with av.open(str(out / "video.mp4")) as video:
        frames = list(video.decode(video=0))
        seconds = [float(frame.pts * frame.time_base) for frame in frames]
    ends = np.array([int(line["window_end_us"]) for line in lines])
    np.testing.assert_allclose(np.array(seconds) - seconds[0], (ends - ends[0]) / 1e6, atol=1e-4)
    for frame, picture in zip(frames, pictures, strict=True):
        shown = frame.to_ndarray(format="rgb24")[: len(picture), : picture.shape[1]]
        assert np.abs(shown.astype(int) - picture).mean() < 12  # lossy, in half the colours
    report = json.loads((out / "report.json").read_text())
    timing = report["recordings"][0]["timing"]
    assert timing["windows"] == len(lines)
    assert set(timing["milliseconds"]) == {*STAGES, "latency"}
    shares = [timing["milliseconds"][stage]["share"] for stage in STAGES]
    assert sum(shares) == pytest.approx(1)


def test_colours_are_those_of_the_legend_where_no_event_is(folder, tmp_path):
    out = tmp_path / "out"
    predict(folder, "depth", "one.h5", out=out, write=["png", "npy"], layout="overlay",
            duration=0.1, window="time", window_ms=2)  # fmt: skip
    (line, *_) = lines_of(out)
    png, npy = line["file"].split()
    picture, depth = np.asarray(Image.open(out / png)), np.load(out / npy)
    events = read_events(folder / "one.h5", int(line["window_start_us"]),
                         int(line["window_end_us"]), size=(HEIGHT, WIDTH))  # fmt: skip
    hit = np.zeros((HEIGHT, WIDTH), bool)
    hit[events.y, events.x] = True
    factor = picture.shape[1] // WIDTH
    top = next(k for k in range(60) if (picture[k] == 0).all())  # unseen rows are black
    shown = picture[top : top + HEIGHT * factor : factor, ::factor]
    seen = np.isfinite(depth)
    np.testing.assert_array_equal(shown[seen & ~hit], draw_depth(depth)[seen & ~hit])
    assert (shown[~seen] == 0).all() and not seen.all()
    assert (shown[seen & hit] < draw_depth(depth)[seen & hit]).any()


@pytest.mark.parametrize("checkpoint", ["depth", "encoder"])
def test_a_recording_without_a_window_does_not_end_the_others(folder, tmp_path, checkpoint, capsys):
    """It is named at the end, with exit code 3; what the others gave is whole."""
    times = np.array([1_000_000, 1_000_001])
    for name in ("short.npz", "brief.npz"):
        np.savez(tmp_path / name, t=times, x=[1, 2], y=[1, 2], p=[0, 1])
    recordings = [folder / "one.h5", tmp_path / "short.npz", folder / "two.h5"]
    line = f"predict {folder / checkpoint}.safetensors {' '.join(map(str, recordings))}"
    line += f" --size {HEIGHT}x{WIDTH} --device cpu --start 0.1"
    call(f"{line} --write npy -o {tmp_path / 'out'}", 3)
    told = capsys.readouterr().err
    assert "no prediction of 1 of 3 recordings" in told and "where: short" in told
    assert "no window ends within the events" in told and "2 others are whole" in told
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [one["recording"] for one in report["recordings"]] == ["one", "two"]
    assert list(report["failed"]) == ["short"] and not (tmp_path / "out/short").exists()
    for name in ("one", "two"):
        predict(folder, checkpoint, f"{name}.h5", out=tmp_path / name, write=["npy"], start=0.1, **(
            {"basis": tmp_path / "out/basis.safetensors"} if checkpoint == "encoder" else {}
        ))  # fmt: skip
        for path in (tmp_path / name).glob("maps/*.npy"):
            assert path.read_bytes() == (tmp_path / "out" / name / "maps" / path.name).read_bytes()
    none = f"predict {folder / checkpoint}.safetensors {tmp_path / 'short.npz'}"
    none += f" --size {HEIGHT}x{WIDTH} --device cpu --start 0.1"
    call(f"{none} {tmp_path / 'brief.npz'} --write npy -o {tmp_path / 'none'}", 3)
    assert "2 of 2" in capsys.readouterr().err and not (tmp_path / "none").exists()
    call(f"{none} --write npy -o {tmp_path / 'none'}", 2)  # of one, its own error
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("options", [{}, {"clusters": 4}])
def test_a_basis_is_shared(folder, tmp_path, options):
    """One of several recordings, then loaded for one of them: the same pictures and maps."""
    both, again = tmp_path / "both", tmp_path / "again"
    report = predict(folder, "encoder", "one.h5", "two.h5", out=both, write=["npy", "png"],
                     **options)  # fmt: skip
    assert [one["recording"] for one in report.facts["recordings"]] == ["one", "two"]
    predict(folder, "encoder", "two.h5", out=again, write=["npy", "png"],
            basis=both / "basis.safetensors")  # fmt: skip
    files = sorted(path.relative_to(again) for path in again.glob("*/0*"))
    assert len(files) > 10
    for file in files:
        assert (again / file).read_bytes() == (both / "two" / file).read_bytes()
    other = predict(folder, "other", "two.h5", out=tmp_path / "other", duration=0.1,
                    basis=both / "basis.safetensors")  # fmt: skip
    assert any("learnt with another encoder" in note for note in other.notes)


def test_features_are_spread_over_the_cells_of_their_tokens(folder):
    opened = open_model(str(folder / "encoder.safetensors"), (HEIGHT, WIDTH))
    events = read_events(folder / "one.h5", size=(HEIGHT, WIDTH))
    source = EventSource("one", HEIGHT, WIDTH, lambda: iter([events]))
    plan = Plan(EveryEvents(3_000), WindowRule("time", duration_us=50_000))
    view = choose_view(opened, patch=(30, 20))
    fit = opened.predictor.settings.fit(HEIGHT, WIDTH)
    for one in predictions(source, view, plan):
        features = opened.predictor.features(events, one.cut.window).numpy()
        units = features / np.linalg.norm(features, axis=-1, keepdims=True)
        row, column = ((np.array([20.0, 30.0]) - fit.crop[:2] + 0.5) * fit.scale // 8).astype(int)
        for y, x in ((20, 30), (3, 3), (36, 55), (12, 50)):
            i, j = ((np.array([y, x]) - fit.crop[:2] + 0.5) * fit.scale // 8).astype(int)
            assert one.values[y, x] == pytest.approx(units[i, j] @ units[row, column], abs=1e-5)
        assert one.values[20, 30] == pytest.approx(1, abs=1e-5)
        assert np.isnan(one.values[0]).all()
        picture = np.full((HEIGHT, WIDTH, 3), 99, np.uint8)
        view.mark(picture)
        assert (picture[20, 30] == 255).all() and (picture[20, 33] == 255).all()
        assert (picture[20, 34] == 0).all() and (picture[20, 35] == 99).all()


def test_clusters_find_planted_directions():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], (300, 200, 100))
    centres = np.eye(3, 16)
    tokens = centres[truth] * rng.uniform(1, 9, (600, 1)) + 0.05 * rng.normal(size=(600, 16))
    found = fit_clusters(tokens, 3, seed=4)
    np.testing.assert_array_equal(nearest_cluster(tokens, found), truth)  # the largest first
    np.testing.assert_array_equal(found, fit_clusters(tokens, 3, seed=4))
    alike = fit_clusters(np.ones((5, 4)), 3, seed=0)
    assert np.isfinite(alike).all() and (nearest_cluster(np.ones((5, 4)), alike) == 0).all()


def test_cluster_colours_are_distinct():
    colours = distinct_colours(20).astype(int)
    apart = np.abs(colours[:, None] - colours).sum(-1) + 999 * np.eye(20, dtype=int)
    assert apart.min() > 25
    np.testing.assert_array_equal(distinct_colours(5), colours[:5])


def test_the_recording_is_read_once(folder, tmp_path, monkeypatch):
    reads = []
    blocks = Hdf5Source.blocks

    def counted(self, start_us, end_us):
        reads.append((start_us, end_us))
        return blocks(self, start_us, end_us)

    monkeypatch.setattr(Hdf5Source, "blocks", counted)
    predict(folder, "depth", "one.h5", out=tmp_path / "a", write=["npy"], rate=200)
    assert len(lines_of(tmp_path / "a")) > 70 and len(reads) == 1
    reads.clear()
    predict(folder, "encoder", "one.h5", out=tmp_path / "b", write=["npy"])
    assert len(reads) == 2  # once before, for colours that all pictures share


@pytest.mark.parametrize("kind", ["adaptive", "time", "count"])
def test_a_part_is_as_of_the_whole(folder, tmp_path, kind):
    """Also where the file's index lets the reading begin within it."""
    rule = {"window": kind, **({} if kind == "count" else {"window_ms": 30})}
    for name, options in (("whole", {}), ("part", {"start": 0.2, "duration": 0.1})):
        predict(folder, "depth", "one.h5", out=tmp_path / name, write=["npy"], rate=100, **rule,
                **options)  # fmt: skip
    whole = {line["window_end_us"]: line for line in lines_of(tmp_path / "whole")}
    part = lines_of(tmp_path / "part")
    assert len(part) == 10 and float(part[0]["seconds"]) == pytest.approx(0.21)
    for line in part:
        same = whole[line["window_end_us"]]
        assert {**same, "index": 0, "file": 0} == {**line, "index": 0, "file": 0}
        one, other = (
            np.load(tmp_path / "whole" / same["file"]),
            np.load(tmp_path / "part" / line["file"]),
        )
        np.testing.assert_array_equal(one, other)


def test_frames_are_drawn_where_there_are_some(folder, tmp_path):
    events = some_events(4_000, HEIGHT, WIDTH, start_us=0, span_us=2_500_000)
    dark, bright = (np.full((HEIGHT, WIDTH), grey, np.uint8) for grey in (90, 250))
    frames = [(100_000, 120_000, dark), (600_000, 640_000, bright)]
    path = write_aedat4(tmp_path / "davis.aedat4", [events], frames, (HEIGHT, WIDTH))
    pytest.importorskip("aedat")
    config = PredictConfig(checkpoint=str(folder / "depth.safetensors"), recordings=[path],
                           out=tmp_path / "out", rate=4, layout="overlay", device="cpu",
                           write=["png", "npy"])  # fmt: skip
    report = scaleevent.predict(config, quiet=True)
    assert "6 pictures drawn on the recording's frames" in report.notes
    brightness = []
    for line in lines_of(tmp_path / "out"):
        png, npy = line["file"].split()
        plain = draw_depth(np.load(tmp_path / "out" / npy)).astype(float)
        shown = np.asarray(Image.open(tmp_path / "out" / png)).astype(float)
        factor = shown.shape[1] // WIDTH
        picture = shown[25 : 25 + HEIGHT * factor : factor, ::factor]
        brightness.append(picture[10:30].sum() / plain[10:30].sum())
    seconds = [float(line["seconds"]) for line in lines_of(tmp_path / "out")]
    of_dark = [b for b, s in zip(brightness, seconds, strict=True) if 0.11 <= s < 0.62]
    of_bright = [b for b, s in zip(brightness, seconds, strict=True) if 0.62 <= s < 1.62]
    assert (len(of_dark), len(of_bright)) == (2, 4)
    assert max(of_dark) < 0.75 < min(of_bright)


def test_the_latest_frame_is_that_of_the_middle_of_its_exposure():
    grey = np.zeros((4, 6), np.uint8)
    frames = [Frame(grey, 0, 20), Frame(grey + 1, 30, 50), Frame(np.zeros((5, 6)), 90, 110)]
    source = EventSource("x", 4, 6, lambda: iter(()), lambda: iter(frames))
    latest = LatestFrame(source)
    found = [latest.at(time) for time in (9, 10, 39, 40, 99)]
    assert found[0] is None
    assert [one.image.max() for one in found[1:]] == [0, 0, 1, 1]
    assert latest.note is None
    assert latest.at(100) is None and "6x5" in latest.note
    assert LatestFrame(source).at(5_000_000) is None


def test_the_rule_of_the_training_data(folder, tmp_path):
    model = small_encoder()
    rules = {
        "stored": {"window": {"window": "time", "window_ms": 30.0}},
        "stamped": {"stamp": {"window": "count, 0.2 events a pixel"}},
        "neither": {"stamp": {"window": "the span of the label"}},
        "later": {"window": {"window": "psychic"}},
    }
    found = {}
    for name, description in rules.items():
        save_encoder(tmp_path / f"{name}.safetensors", model, description)
        opened = open_model(str(tmp_path / f"{name}.safetensors"), (HEIGHT, WIDTH))
        found[name] = stored_rule(opened.description)
    assert found["stored"] == (WindowRule("time", duration_us=30_000), "the checkpoint")
    rule, where = found["stamped"]
    assert (rule.kind, rule.events_per_pixel, where) == ("count", 0.2, "the checkpoint's stamp")
    assert found["neither"] is None and found["later"] is None
    config = {"recordings": [folder / "one.h5"], "size": (HEIGHT, WIDTH), "device": "cpu"}
    said = {}
    for name, more in (("stored", {}), ("neither", {}), ("asked", {"window": "count"})):
        checkpoint = tmp_path / f"{name if name != 'asked' else 'stored'}.safetensors"
        report = scaleevent.predict(
            PredictConfig(checkpoint=str(checkpoint), out=tmp_path / name, duration=0.1, **config,
                          **more), quiet=True,
        )  # fmt: skip
        said[name] = next(line for line in report.facts["choices"] if line.startswith("windows:"))
    assert said["stored"] == (
        "windows: the last 30 ms; that of the training data, stored in the checkpoint"
    )
    assert "the default" in said["neither"] and "as asked" in said["asked"]


def test_a_clock_reset_is_two_stretches(folder, tmp_path):
    events = some_events(4_000, HEIGHT, WIDTH, start_us=5_000_000, span_us=300_000)
    columns = {name: np.tile(getattr(events, name), 2) for name in "xyp"}
    t = np.concatenate([events.t, events.t - 4_000_000])
    np.savez(tmp_path / "reset.npz", t=t, **columns)
    config = PredictConfig(checkpoint=str(folder / "depth.safetensors"), device="cpu",
                           recordings=[tmp_path / "reset.npz"], size=(HEIGHT, WIDTH),
                           out=tmp_path / "out", write=["npy"], on_error="skip")  # fmt: skip
    report = scaleevent.predict(config, quiet=True)
    assert any(note.startswith("the clock was reset: 2 stretches") for note in report.notes)
    lines = lines_of(tmp_path / "out")
    halves = [[line for line in lines if line["stretch"] == str(k)] for k in (0, 1)]
    assert len(halves[0]) == len(halves[1]) > 7
    for one, other in zip(*halves, strict=True):
        assert one["seconds"] == other["seconds"] and one["events"] == other["events"]
        np.testing.assert_array_equal(
            np.load(tmp_path / "out" / one["file"]), np.load(tmp_path / "out" / other["file"])
        )


AT = {
    "absolute": ("1051000\n1101000 # microseconds\n", {}, [50_000, 100_000]),
    "relative": ("0.05\n0.1\n", {"at_origin": "first"}, [50_000, 100_000]),
    "seconds": ("1.051\n1.101\n", {}, [50_000, 100_000]),
    "stated": ("50\n100\n", {"at_unit": "ms", "at_origin": "first"}, [50_000, 100_000]),
}


@pytest.mark.parametrize("name", AT)
def test_given_times(folder, tmp_path, name):
    text, options, after = AT[name]
    (tmp_path / "at.txt").write_text(text)
    events = some_events(9_000, HEIGHT, WIDTH, start_us=1_001_000, span_us=400_000)
    events = Events(events.t - events.t[0] + 1_001_000, *(getattr(events, c) for c in "xyp"),
                    HEIGHT, WIDTH)  # fmt: skip
    write_dsec(tmp_path / "later.h5", events)
    config = PredictConfig(checkpoint=str(folder / "depth.safetensors"), device="cpu",
                           recordings=[tmp_path / "later.h5"], size=(HEIGHT, WIDTH),
                           out=tmp_path / "out", write=["npy"], at=tmp_path / "at.txt",
                           **options)  # fmt: skip
    scaleevent.predict(config, quiet=True)
    assert [int(line["window_end_us"]) - 1_001_000 for line in lines_of(tmp_path / "out")] == after


BAD_SETTINGS = {
    "write: expected some of png, npy, hdf5, video (did you mean png?)": {"write": ["pgn"]},
    "rate and at exclude each other": {"rate": 20, "at": "x"},
    "at_unit has no effect without at": {"at_unit": "s"},
    "patch and clusters exclude each other": {"patch": "1,2", "clusters": 3},
    "basis has no effect with patch": {"patch": "1,2", "basis": "x"},
    "expected a pixel as column,row": {"patch": "12"},
    "window_events has no effect with window adaptive": {"window_events": 2},
    "seed has no effect without clusters": {"seed": 3},
    "seed has no effect with basis": {"seed": 3, "clusters": 4, "basis": "x"},
    "layout has no effect without png or video": {"layout": "overlay", "write": ["npy"]},
    "frames has no effect without png or video": {"frames": False, "write": ["hdf5"]},
}


@pytest.mark.parametrize("told", BAD_SETTINGS)
def test_settings_that_contradict_each_other(told):
    with pytest.raises(ConfigError) as caught:
        load_config(PredictConfig, {"checkpoint": "x", **BAD_SETTINGS[told]})
    assert told in str(caught.value)


REFUSED = {
    "only for encoders": ("depth", "one.h5", {"clusters": 3}, ConfigError),
    "the network does not see this pixel": ("encoder", "one.h5", {"patch": (3, 0)}, ConfigError),
    "no such file or folder": ("depth", "none.h5", {}, DataError),
    "not an event recording": ("depth", "depth.safetensors", {}, DataError),
    "another kind of checkpoint": ("basis", "one.h5", {}, CheckpointError),
    "a basis of another kind": (
        "encoder", "one.h5", {"clusters": 3, "basis": "basis.safetensors"}, CheckpointError
    ),
    "no window ends within the events": ("depth", "one.h5", {"start": 9.0}, ConfigError),
    "none of the given times lies": ("depth", "one.h5", {"at": "far.txt"}, ConfigError),
    "the unit of the times is ambiguous": ("depth", "one.h5", {"at": "near.txt"}, DataError),
    "not a time": ("depth", "one.h5", {"at": "words.txt"}, DataError),
    "no times in this file": ("depth", "one.h5", {"at": "empty.txt"}, DataError),
    "does not divide into patches": ("depth", "one.h5", {"input_size": (30, 48)}, ConfigError),
    "no events": ("depth", "silent.h5", {}, DataError),
}  # fmt: skip


@pytest.mark.parametrize("told", REFUSED)
def test_what_is_refused_leaves_nothing_behind(folder, tmp_path, told):
    checkpoint, recording, options, kind = REFUSED[told]
    for name, text in (("far", "0.1\n0.2\n99.5\n"), ("near", "1\n2\n3\n"), ("words", "1.5\nsoon\n"),
                       ("empty", "# none\n")):  # fmt: skip
        (folder / f"{name}.txt").write_text(text)
    if not (folder / "basis.safetensors").exists():
        predict(folder, "encoder", "one.h5", out=folder / "run", duration=0.1)
        (folder / "run/basis.safetensors").rename(folder / "basis.safetensors")
        write_dsec(folder / "silent.h5", Events.empty(HEIGHT, WIDTH))
    options = {k: folder / v if k in ("at", "basis") else v for k, v in options.items()}
    if told.startswith("none of"):
        (folder / "far.txt").write_text("70.1\n80.2\n99.5\n")
    with pytest.raises(kind) as caught:
        predict(folder, checkpoint, recording, out=tmp_path / "out", write=["png", "hdf5", "video"],
                **options)  # fmt: skip
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("span_us", [50, 8_801, 33_000])
def test_the_rate_that_a_brief_recording_needs_is_told_and_does(folder, tmp_path, span_us):
    write_dsec(tmp_path / "brief.h5", some_events(2_000, HEIGHT, WIDTH, span_us=span_us))
    with pytest.raises(ConfigError, match="no window ends within the events") as caught:
        predict(folder, "depth", tmp_path / "brief.h5", out=tmp_path / "out", rate=0.5)
    option, rate = str(caught.value.hint).split()
    assert option == "--rate"
    predict(folder, "depth", tmp_path / "brief.h5", out=tmp_path / "out", rate=float(rate))
    assert lines_of(tmp_path / "out")


def test_times_on_another_clock_are_told(folder, tmp_path):
    events = some_events(2_000, HEIGHT, WIDTH, start_us=5_000_000, span_us=400_000)
    write_dsec(tmp_path / "late.h5", events)
    cases = [("50000\n100000\n", "--at-origin first"), ("5050\n5200\n", "--at-unit ms"),
             ("50.5\n100.25\n", "--at-unit ms --at-origin first")]  # fmt: skip
    for text, way in cases:
        (tmp_path / "at.txt").write_text(text)
        config = PredictConfig(checkpoint=str(folder / "depth.safetensors"), device="cpu",
                               recordings=[tmp_path / "late.h5"], size=(HEIGHT, WIDTH),
                               out=tmp_path / "out", at=tmp_path / "at.txt")  # fmt: skip
        with pytest.raises((ConfigError, DataError)) as caught:
            scaleevent.predict(config, quiet=True)
        assert way in str(caught.value.hint)


def test_an_output_folder_is_not_overwritten(folder, tmp_path):
    out = tmp_path / "out"
    predict(folder, "depth", "one.h5", out=out, duration=0.1)
    with pytest.raises(EnvironmentProblem, match="not empty"):
        predict(folder, "depth", "one.h5", out=out, duration=0.1)
    predict(folder, "depth", "one.h5", out=out, duration=0.1, overwrite=True, write=["npy"])
    assert not (out / "pictures").exists() and (out / "maps").is_dir()


@pytest.mark.parametrize("what", ["recording", "times", "basis", "checkpoint"])
def test_a_path_without_permission_is_told(folder, tmp_path, monkeypatch, what):
    """Of a file within a folder that may not be entered, nothing can be found out at all."""
    place = tmp_path / "locked"
    paths = {name: place / f"x{name}.safetensors" for name in ("recording", "checkpoint")}
    options = {name: place / f"x.{name}" for name in ("at", "basis")}
    really = Path.stat

    def stat(path, **more):
        if path.parent == place:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    config = PredictConfig(
        checkpoint=str(paths["checkpoint"] if what == "checkpoint" else "embedded"),
        recordings=[paths["recording"] if what == "recording" else folder / "one.h5"],
        at=options["at"] if what == "times" else None,
        basis=options["basis"] if what == "basis" else None, out=tmp_path / "out",
    )  # fmt: skip
    with pytest.raises(EnvironmentProblem, match="cannot read: Permission denied"):
        config.check()


def test_every_recording_has_a_folder_of_its_own():
    paths = ["x/a.raw", "y/a.raw", "a-1.raw", "A-2.raw", "b c.raw", "B-C.dat", "z.raw"]
    names = folder_names(list(map(Path, paths)))
    assert len({name.lower() for name in names}) == len(paths)
    assert names[2:4] == ["a-1", "A-2"] and names[-1] == "z"
    assert folder_names([Path("x/.."), Path("z.raw")])[0] == Path.cwd().stem


def test_a_video_needs_its_package(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match="writing a video needs the package av"):
        predict(folder, "depth", "one.h5", out=tmp_path / "out", write=["video"])
    assert not (tmp_path / "out").exists()


def test_names_of_weights(tmp_path):
    opened = open_model("embedded", (100, 130))
    assert opened.task is None and opened.notes
    settings = opened.predictor.settings
    assert (settings.height, settings.width) == (96, 128)
    assert settings.fit(100, 130).crop == (0, 0, 100, 130)  # all of the sensor is seen
    wide = open_model("embedded", (720, 1280)).predictor.settings
    assert wide.width == 40 * 8
    with pytest.raises(ConfigError):
        open_model("timm:no_such_model", (100, 130), offline=True)


def test_text_recordings_and_sensors_of_any_size(folder, tmp_path):
    events = some_events(900, 12, 20, span_us=100_000)
    rows = [(f"{t / 1e6:.6f}", x, y, p) for t, x, y, p in
            zip(events.t, events.x, events.y, events.p, strict=True)]  # fmt: skip
    write_text(tmp_path / "small.txt", rows)
    source = recorded(open_recording(tmp_path / "small.txt", size=(12, 20), time_unit="s"), "small",
                      Span(), WindowRule())  # fmt: skip
    opened = open_model(str(folder / "depth.safetensors"), (12, 20))
    found = list(predictions(source, choose_view(opened), Plan(AtRate(50), WindowRule(cell=8))))
    assert len(found) >= 4 and found[0].values.shape == (12, 20)


def test_one_token_has_a_colour():
    """Black would say that the network does not see it."""
    tokens = np.full((1, 1, 6), 0.1 + 0.2)
    basis = FeatureColours.fitted(tokens)
    found = basis.colours(basis.components(tokens))
    assert np.isfinite(basis.basis).all() and found.tolist() == [[[127, 127, 127]]]
    assert basis.colours(np.full((1, 3), np.nan)).tolist() == [[0, 0, 0]]


def test_the_smallest_sensor(tmp_path):
    """One window of one pixel: a single token is all that colours can be chosen from."""
    size = {"height": 1, "width": 1}
    events = Events.from_columns([0, 9_000, 40_000], [0] * 3, [0] * 3, [1, 0, 1], **size)
    source = EventSource("one", 1, 1, lambda: iter([events]))
    opened = open_model("embedded", (1, 1))
    plan = Plan(AtRate(15), WindowRule("time", duration_us=50_000))
    [found] = list(predictions(source, choose_view(opened), plan))
    assert found.values.shape == (3, 1, 1) and np.isfinite(found.values).all()


@pytest.mark.parametrize("sensor", [(300, 1), (1, 300), (30, 40), (720, 1280)])
def test_pictures_of_any_sensor_are_legible_and_not_huge(sensor):
    source = EventSource("any", *sensor, lambda: iter([]))
    view = choose_view(open_model("embedded", sensor), patch=(0, 0))
    cut = Cut(0, 0, 0, Window(0, 10), Events.empty(*sensor))
    for beside in (True, False):
        picture = Painter(view, LatestFrame(source), "any", beside).draw(cut, np.zeros(sensor))
        rows, columns, _ = picture.shape
        assert WIDE <= columns <= 2600 and rows <= 1600


@pytest.mark.parametrize("rate", [0.0004, 100_000.0])
def test_videos_of_any_rate(folder, tmp_path, rate):
    av = pytest.importorskip("av")
    view = DepthView(open_model(str(folder / "depth.safetensors"), (HEIGHT, WIDTH)))
    period = round(1e6 / rate)
    with VideoWriter(tmp_path, rate) as video:
        for number in range(3):
            cut = Cut(number, 0, 0, Window(0, (number + 1) * period), Events.empty(HEIGHT, WIDTH))
            video.write(cut, view.colours(np.ones((HEIGHT, WIDTH))), np.zeros((64, 64, 3), "u1"))
    with av.open(str(tmp_path / "video.mp4")) as file:
        times = [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]
    assert np.diff(times) == pytest.approx(max(1 / rate, 1 / 60_000), rel=1e-3)


def test_what_colours_are_chosen_from_does_not_grow_with_the_recordings(folder):
    """Memory is that of a few windows, and each recording has its part in them."""
    events = read_events(folder / "one.h5", size=(HEIGHT, WIDTH))
    sources = [EventSource(str(n), HEIGHT, WIDTH, lambda: iter([events])) for n in range(40)]
    view = choose_view(open_model(str(folder / "encoder.safetensors"), (HEIGHT, WIDTH)))
    plan = Plan(AtRate(200), WindowRule("time", duration_us=20_000))
    sample, windows = sample_of(sources, view, plan)
    each = len(list(plan.cut(sources[0], view)))
    assert windows == 40 * each and 40 <= len(sample) <= 160 < 40 * SAMPLE
    assert len(sample_of(sources[:1], view, plan)[0]) > SAMPLE


REAL = os.environ.get("SCALEEVENT_TEST_DATA")
RECORDED = {  # file: its sensor (height, width)
    "events/expelliarmus/evt3_sample.raw": (720, 1280),
    "davis/cuke-emlb/demo-01.aedat4": (260, 346),
    "events/event_camera_py/test_events_1.bag": (480, 640),
    "events/loris/NCARS_obj_004397_td.dat": None,
    "events/event_based_image_rec_inverse_problem/shapes_rotation/events.txt": (180, 240),
}


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="SCALEEVENT_TEST_DATA does not name a folder of real files")
@pytest.mark.parametrize("name", RECORDED)
def test_real_recordings(name, tmp_path):
    """Maps are on the sensor, known everywhere, and differ where events are."""
    if not (Path(REAL) / name).exists():
        pytest.skip(f"{name} is absent")
    for package, ending in (("aedat", ".aedat4"), ("rosbags", ".bag")):
        if name.endswith(ending):
            pytest.importorskip(package)
    config = PredictConfig(
        checkpoint="embedded", recordings=[Path(REAL) / name], out=tmp_path / "out", device="cpu",
        duration=0.09, write=["npy", "png"], patch=(30, 30),
    )  # fmt: skip
    report = scaleevent.predict(config, quiet=True)
    lines = lines_of(tmp_path / "out")
    assert 1 <= len(lines) <= 3
    for line in lines:
        png, npy = line["file"].split()
        found = np.load(tmp_path / "out" / npy)
        assert list(found.shape) == report.facts["recordings"][0]["sensor"]
        assert RECORDED[name] in (None, found.shape)
        assert np.isfinite(found).mean() > 0.9 and found[30, 30] == pytest.approx(1, abs=1e-4)
        assert np.nanstd(found) > 0.01
        assert np.asarray(Image.open(tmp_path / "out" / png)).std() > 5
