"""The predictor: what training saw, from events or from as little of a recording as it needs."""

import doctest

import numpy as np
import pytest
import torch

import scaleevent.predictor
from scaleevent.checkpoint import save_encoder, save_task
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats import open_recording
from scaleevent.grids.inputs import InputSettings, voxel_input
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window, WindowRule, choose_window
from scaleevent.predictor import Predictor
from tests.conftest import random_events
from tests.event_files import write_dsec

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 40, 56  # of the sensor; the input shows rows 1 to 37 of it
SPEC = {
    "name": "vit_small_patch16_dinov3",
    "kwargs": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "init_values": 0.1},
}
RULES = [
    WindowRule(),
    WindowRule(duration_us=3_000),
    WindowRule("time", duration_us=20_000),
    WindowRule("count", events_per_pixel=0.5, duration_us=1_000),
    WindowRule("count", events_per_pixel=100.0, duration_us=1_000),
]


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(SPEC)
    encoder.input = InputSettings(32, 48, 8)
    return encoder.eval()


def task_model(task: str) -> Linear:
    own = {"segmentation": {"classes": 5}, "depth": {"max_depth": 50.0}, "flow": {}}[task]
    model = Linear(small_encoder(), task, **own)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def events() -> Events:
    return random_events(6_000, HEIGHT, WIDTH, 100_000, seed=3, start_us=5_000)


def network_input(events: Events, window: Window, settings: InputSettings) -> torch.Tensor:
    """As a benchmark's samples make it, step by step."""
    voxel = voxelize(events, window, settings.bins)
    fit = settings.fit(events.height, events.width)
    return torch.from_numpy(voxel_input(voxel, fit, settings.normaliser))[None]


@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("at", [80_000, 5_000, 200_000])
def test_features_are_the_encoders_tokens_of_the_window(events, at, rule):
    encoder = small_encoder()
    window = choose_window(events, at, rule or WindowRule())
    with torch.no_grad():
        tokens = encoder.tokens(network_input(events, window, encoder.input))[0]
    predictor = Predictor(encoder)
    features = predictor.features(events, at, rule)
    assert features.shape == (4, 6, 24) and features.dtype == torch.float32
    assert torch.equal(features.flatten(0, 1), tokens) and not features.requires_grad
    assert torch.equal(predictor.features(events, window), features)


def test_a_model_is_used_in_evaluation_mode_and_stays_where_it_is():
    model = task_model("depth").train()
    predictor = Predictor(model)
    assert predictor.model is model and not model.training and not predictor.encoder.training
    assert predictor.settings is model.encoder.input and predictor.grid == (4, 6)


@pytest.fixture(scope="module", params=["npz", "h5"])
def path(request, tmp_path_factory, events):
    folder = tmp_path_factory.mktemp("recording")
    if request.param == "h5":
        return write_dsec(folder / "events.h5", events)
    np.savez(folder / "events.npz", **{name: getattr(events, name) for name in "txyp"})
    return folder / "events.npz"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("at", [80_000, 5_000, 200_000, Window(30_000, 50_000)])
def test_a_recording_equals_its_events(path, events, at, rule):
    predictor = Predictor(task_model("flow"))
    recording = open_recording(path, size=(HEIGHT, WIDTH))
    features = predictor.features(events, at, rule)
    assert torch.equal(predictor.features(recording, at, rule), features)
    flow = predictor.predict(events, at, rule)
    assert torch.equal(predictor.predict(recording, at, rule), flow)
    opened = predictor.features(open_recording(path), at, rule)  # with the file's own sensor size
    assert torch.equal(predictor.features(str(path), at, rule), opened)


def test_a_silence_longer_than_the_window_is_no_start_of_the_recording(tmp_path):
    early = random_events(300, HEIGHT, WIDTH, 10_000, seed=0)
    late = random_events(20, HEIGHT, WIDTH, 10_000, seed=1, start_us=900_000)
    events = Events.concatenate([early, late], HEIGHT, WIDTH)
    path = write_dsec(tmp_path / "events.h5", events)
    predictor = Predictor(small_encoder())
    for rule in RULES:
        expected = predictor.features(events, 910_000, rule)
        found = predictor.features(open_recording(path, size=(HEIGHT, WIDTH)), 910_000, rule)
        assert torch.equal(found, expected), rule


def test_only_the_stretch_that_the_window_needs_is_read(path, events, monkeypatch):
    recording = open_recording(path, size=(HEIGHT, WIDTH))
    asked, blocks = [], type(recording).blocks

    def spied(self, start_us=None, end_us=None):
        asked.append((start_us, end_us))
        return blocks(self, start_us, end_us)

    monkeypatch.setattr(type(recording), "blocks", spied)
    Predictor(task_model("flow")).predict(recording, 80_000, WindowRule("time", duration_us=20_000))
    assert asked == [(None, 80_000), (60_000, 80_000), (80_000, 100_000)]  # of the first, a block
    asked.clear()
    Predictor(small_encoder()).features(recording, Window(30_000, 50_000))
    assert asked == [(30_000, 50_000)]


@pytest.mark.parametrize(
    ("task", "shape", "dtype"),
    [
        ("segmentation", (37, 56), torch.int64),
        ("depth", (37, 56), torch.float32),
        ("flow", (2, 37, 56), torch.float32),
    ],
)
def test_a_task_model_gives_its_map_on_the_sensors_pixels(events, tmp_path, task, shape, dtype):
    model, window = task_model(task), Window(30_000, 50_000)
    inputs = [network_input(events, window, model.encoder.input)]
    if task == "flow":
        inputs.append(network_input(events, Window(50_000, 70_000), model.encoder.input))
    with torch.no_grad():
        expected = model.predict(model(*inputs), (37, 56))[0]
    path = tmp_path / "task.safetensors"
    save_task(path, model, {})
    for predictor in (Predictor(model), Predictor.load(path)):
        found = predictor.predict(events, window)
        assert found.shape == shape and found.dtype == dtype and torch.equal(found, expected)
        assert torch.equal(
            predictor.features(events, window), Predictor(model.encoder).features(events, window)
        )


def test_encoders_load_at_another_size_too(events, tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, small_encoder(), {})
    expected = Predictor(small_encoder()).features(events, 80_000)
    assert torch.equal(Predictor.load(path).features(events, 80_000), expected)
    larger = Predictor.load(path, size=(40, 56))
    assert larger.features(events, 80_000).shape == (5, 7, 24)
    assert larger.encoder.input == InputSettings(40, 56, 8)
    with pytest.raises(ConfigError, match="divide into patches"):
        Predictor.load(path, size=(41, 56))


def test_the_words_name_the_settings():
    encoder = small_encoder()
    encoder.input = InputSettings(32, 48, 8, 3, "robust8", 0.05)
    words = Predictor(encoder).preparation
    for part in ("3 time bins", "32 x 48", "5%", "`robust8`"):
        assert part in words
    assert "after" not in words and "`after`" in Predictor(task_model("flow")).preparation


def test_refusals(events, tmp_path):
    encoder = small_encoder()
    with pytest.raises(ConfigError, match="predicts no task"):
        Predictor(encoder).predict(events, 80_000)
    path = tmp_path / "two.npz"
    again = {name: np.concatenate([getattr(events, name)] * 2) for name in "txyp"}
    np.savez(path, **again)
    with pytest.raises(DataError, match="clock was reset"):
        Predictor(encoder).features(open_recording(path, max_bad=0.1), 80_000)
    one = open_recording(path, size=(HEIGHT, WIDTH), max_bad=0.1, segment=1)
    expected = Predictor(encoder).features(events, 80_000)
    assert torch.equal(Predictor(encoder).features(one, 80_000), expected)
    encoder.input = None
    with pytest.raises(ConfigError, match="how its input is made"):
        Predictor(encoder)


def test_the_example_of_the_docstring():
    result = doctest.testmod(scaleevent.predictor)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("task", ["segmentation", "depth", "flow"])
def test_a_padded_prediction_is_of_all_of_the_sensor(task, events):
    cropped, padded = task_model(task), task_model(task)
    padded.encoder.input = InputSettings(32, 48, 8, pad=True)
    cropped, padded = Predictor(cropped), Predictor(padded)
    assert "centred in pixels without events" in padded.preparation
    assert "none if the aspect ratios" in padded.preparation
    window = Window(5_000, 80_000)
    small, whole = (one.predict(events, window).numpy() for one in (cropped, padded))
    fit = padded.settings.fit(HEIGHT, WIDTH)
    assert fit.pads and whole.shape[-2:] == (HEIGHT, WIDTH) != small.shape[-2:]
    voxel = padded.settings.prepare(voxelize(events, window, 3), fit)
    network = {"voxel": torch.from_numpy(voxel)[None]}
    if task == "flow":
        after = voxelize(events.between(80_000, 155_000), Window(80_000, 155_000), 3)
        network["after"] = torch.from_numpy(padded.settings.prepare(after, fit))[None]
    with torch.no_grad():
        box = padded.model.predict(padded.model(**network), fit.crop[2:])[0].numpy()
    assert np.array_equal(fit.onto_sensor(box, 0), whole)
