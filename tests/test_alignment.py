"""Shifts between events and images: planted ones are found, others are not imagined."""

import json
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fakes import write_pictures, write_times
from PIL import Image
from test_end_to_end import call

from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import custom
from scaleevent.events import Events
from scaleevent.pairs.alignment import (
    Alignment,
    Peak,
    Scene,
    measure,
    measure_prepared,
    scenes_of_store,
)
from scaleevent.pairs.store import PairStore

HEIGHT, WIDTH, MARGIN = 96, 128, 24
STEP_US, STEPS, EVERY = 2_000, 240, 25  # between states of the scene, their number, per image
STILL, MOVING, SIDEWAYS = "still", "moving", "sideways"


def texture() -> np.ndarray:
    """Blocks of random brightness, larger than the view by a margin on each side."""
    rng = np.random.default_rng(3)
    rows, columns = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    blocks = rng.integers(20, 230, (rows // 12, columns // 16))
    return np.kron(blocks, np.ones((12, 16)))


def view(scene: np.ndarray, state: int, motion: str) -> np.ndarray:
    """What a camera sees that moves in circles, or from side to side, or not at all."""
    if motion == STILL:
        x = y = 0
    elif motion == SIDEWAYS:
        x, y = 20 - abs(state * 0.5 % 80 - 40), 0
    else:
        angle = 2 * np.pi * state / 200
        x, y = 10 * np.cos(angle), 10 * np.sin(angle)
    top, left = MARGIN + round(y), MARGIN + round(x)
    return scene[top : top + HEIGHT, left : left + WIDTH]


@cache
def filmed(motion: str, noise: int) -> tuple[Events, list[np.ndarray], np.ndarray]:
    """Events, images and their times; `noise` events a state are anywhere, more on few pixels."""
    rng, scene = np.random.default_rng(0), texture()
    columns: list[list[np.ndarray]] = [[], [], [], []]
    hot = rng.integers(0, (WIDTH, HEIGHT), (40, 2))
    for state in range(1, STEPS):
        change = view(scene, state, motion) - view(scene, state - 1, motion)
        y, x = np.nonzero(np.abs(change) > 25)
        p = (change[y, x] > 0).astype(int)
        at = np.concatenate([rng.integers(0, (WIDTH, HEIGHT), (noise, 2)), hot[: noise // 2]])
        x, y = np.concatenate([x, at[:, 0]]), np.concatenate([y, at[:, 1]])
        p = np.concatenate([p, rng.integers(0, 2, len(at))])
        t = np.sort(rng.integers((state - 1) * STEP_US, state * STEP_US, len(x)))
        for column, part in zip(columns, (t, x, y, p), strict=True):
            column.append(part)
    events = Events.from_columns(*map(np.concatenate, columns), height=HEIGHT, width=WIDTH)
    states = np.arange(EVERY, STEPS - EVERY, EVERY)
    images = [np.rint(view(scene, int(state), motion)).astype(np.uint8) for state in states]
    return events, images, states * STEP_US


def write_film(
    folder: Path,
    motion: str,
    pixels: tuple[int, int] = (0, 0),
    late_ms: int = 0,
    text: bool = False,
) -> Path:
    """A recording whose events must be moved by `pixels` to lie on the images, and are late."""
    events, images, times = filmed(motion, noise=30 if motion == STILL else 4)
    x, y = pixels
    moved = [np.roll(image, (y, x), (0, 1)) for image in images]
    folder.mkdir(parents=True)
    if text:
        rows = zip(events.t, events.x, events.y, events.p, strict=True)
        lines = (f"{t / 1e6:.6f} {x} {y} {p}\n" for t, x, y, p in rows)
        (folder / "events.txt").write_text("".join(lines))
    else:
        np.savez(folder / "events.npz", **{name: getattr(events, name) for name in "txyp"})
    write_pictures(folder / "images", moved)
    write_times(folder / "timestamps.txt", times - 1000 * late_ms)
    return folder


def prepared(film: Path, out: Path, capsys, rest: str = "") -> dict:
    """The report of `prepare custom`."""
    capsys.readouterr()
    call(f"prepare custom {film} --size {HEIGHT}x{WIDTH} -o {out} --json {rest}")
    return json.loads(capsys.readouterr().out)


def warnings(report: dict) -> list[str]:
    return [note for note in report["notes"] if note.startswith("warning: events")]


@pytest.mark.parametrize(
    "motion, pixels", [(MOVING, (4, -3)), (MOVING, (0, 3)), (MOVING, (9, 7)), (SIDEWAYS, (-5, 0))]
)
def test_planted_pixels_are_found_and_warned_of(motion, pixels, tmp_path, capsys):
    report = prepared(write_film(tmp_path / "film", motion, pixels), tmp_path / "pairs", capsys)
    found = report["alignment"]["pixels"]
    assert np.abs(np.subtract(found["shift"], pixels)).max() <= 1
    assert found["clear"] and found["height"] > found["unshifted"]
    (warning,) = warnings(report)
    assert f"x {found['shift'][0]:+.0f}, y {found['shift'][1]:+.0f} pixels" in warning
    assert "--homography" in warning and "--offset-us" not in warning


@pytest.mark.parametrize("motion, late_ms", [(MOVING, 12), (MOVING, -20), (SIDEWAYS, 40)])
def test_planted_time_is_found_and_the_offset_mends_it(motion, late_ms, tmp_path, capsys):
    film = write_film(tmp_path / "film", motion, late_ms=late_ms)
    report = prepared(film, tmp_path / "pairs", capsys)
    found = report["alignment"]["milliseconds"]
    assert found["clear"] and abs(found["shift"][0] - late_ms) <= 2.5
    (warning,) = warnings(report)
    assert f"{found['shift'][0]:+g} ms" in warning
    (offset,) = [word for word in warning.split() if word.lstrip("-").isdecimal()][-1:]
    mended = prepared(film, tmp_path / "mended", capsys, f"--offset-us {offset}")
    assert not warnings(mended) and abs(mended["alignment"]["milliseconds"]["shift"][0]) <= 5
    (hint,) = [part for part in warning.split("`") if part.startswith("scaleevent")]
    picture = tmp_path / "pairs.png"
    call(shlex.join(shlex.split(hint)[1:-1]) + f" {picture}")
    assert picture.exists()


@pytest.mark.parametrize("motion", [MOVING, SIDEWAYS, STILL])
def test_nothing_is_warned_of_without_a_shift_or_without_motion(motion, tmp_path, capsys):
    report = prepared(write_film(tmp_path / "film", motion), tmp_path / "pairs", capsys)
    assert not warnings(report)
    assert report["alignment"]["pairs"] > 6
    assert any(note.startswith("best shift of events over") for note in report["notes"])


@pytest.mark.parametrize("seed", range(8, 14))
def test_chance_is_not_clear(seed):
    """Noise and pixels that fire by themselves, over one image again and again."""
    rng = np.random.default_rng(seed)
    image = np.repeat(view(texture(), 0, STILL)[..., None], 3, -1).astype(np.uint8)
    hot = rng.integers(0, (WIDTH, HEIGHT), (100, 2))
    scenes = []
    for number in range(8):
        anywhere = rng.integers(0, (WIDTH, HEIGHT), (8_000, 2))
        x, y = np.concatenate([hot[rng.integers(0, 100, 8_000)], anywhere]).T
        t = np.sort(rng.integers(-100_000, 100_000, len(x))) + number
        events = Events.from_columns(t, x, y, np.ones(len(x), int), HEIGHT, WIDTH)
        scenes.append(Scene(image, number, events, (-100_000, 100_000)))
    found = measure(scenes)
    assert not found.pixels.clear and not found.time.clear
    assert max(found.pixels.sigmas, found.time.sigmas) < 4.2


def test_along_an_edge_no_shift_is_better_than_none():
    image = np.full((60, 80, 3), 50, np.uint8)
    image[:, 40:] = 200
    y = np.tile(np.arange(60), 200)
    x = np.repeat(np.arange(200) % 2 + 39, 60)
    t = np.linspace(-100_000, 100_000, len(y)).astype(int)
    events = Events.from_columns(t, x, y, np.ones(len(y), int), 60, 80)
    found = measure([Scene(image, 0, events, (-100_000, 100_000))])
    assert found.pixels.shift == (0, 0) and not found.pixels.clear


@pytest.mark.parametrize("height, both", [(1.9, True), (1.2, False)])
def test_two_explanations_are_given_where_both_are_good(height, both):
    plane = Peak((4.0, 0.0), height=2.0, unshifted=1.0, gain=1.5, sigmas=9.0)
    time = Peak((20.0,), height=height, unshifted=1.0, gain=1.3, sigmas=9.0)
    (warning,) = Alignment(8, plane, time).warnings(Path("my pairs"), 500)
    assert "x +4, y +0 pixels" in warning and "scaleevent info 'my pairs'" in warning
    assert ("--offset-us 20500" in warning) == ("look alike" in warning) == both


def test_too_few_events_are_no_measurement():
    image = np.zeros((60, 80, 3), np.uint8)
    found = measure([Scene(image, 0, Events.empty(60, 80), (-100_000, 100_000))])
    assert found.pixels is None and found.time is None and found.warnings(Path("p"), 0) == []
    assert "not measured in pixels; not measured in time" in found.describe()
    assert measure([]).facts() == {"pairs": 0, "pixels": None, "milliseconds": None}


def test_a_file_without_an_index_is_read_in_part(tmp_path, capsys, monkeypatch):
    """And gives what one with an index gives; a damaged one is judged by its windows alone."""
    plain = prepared(write_film(tmp_path / "a", MOVING, late_ms=20), tmp_path / "pa", capsys)
    film = write_film(tmp_path / "b", MOVING, late_ms=20, text=True)
    prepared(film, tmp_path / "pb", capsys)
    (source,) = custom.sources(PrepareConfig(name="custom", roots=[film], size=(HEIGHT, WIDTH)))
    store = PairStore(tmp_path / "pb")
    assert json.loads(json.dumps(measure_prepared([source], store).facts())) == plain["alignment"]
    monkeypatch.setattr("scaleevent.pairs.alignment.HEAD_EVENTS", 20_000)
    assert 1 < measure_prepared([source], store).pairs < len(store)
    tolerant = replace(source, options=source.options | {"max_bad": 0.1})
    assert measure_prepared([tolerant], store).pairs == len(store)


def test_windows_that_join_tell_what_follows_an_image(tmp_path, capsys):
    film = write_film(tmp_path / "film", MOVING, late_ms=20)
    prepared(film, tmp_path / "pairs", capsys, "--window time --window-ms 50")
    store = PairStore(tmp_path / "pairs")
    scenes = scenes_of_store(store)
    start, end = scenes[3].covered_us
    assert start <= scenes[3].image_us - 100_000 and end >= scenes[3].image_us + 100_000
    assert measure(scenes).time.shift[0] == pytest.approx(20, abs=2.5)
    assert measure_prepared([], PairStore(tmp_path / "pairs")) is None


def test_the_picture_of_a_store_names_its_pairs_and_their_shift(tmp_path, capsys):
    film = write_film(tmp_path / "film", MOVING, (4, -3))
    prepared(film, tmp_path / "pairs", capsys)
    call(f"info {tmp_path / 'pairs'} --picture {tmp_path / 'a.png'} --json")
    report = json.loads(capsys.readouterr().out)
    assert any("x +4, y -3 pixels" in note for note in report["notes"])
    call(f"info {tmp_path / 'pairs'} --picture {tmp_path / 'b.png'}")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 2 * 260 * WIDTH / HEIGHT and picture.height > 4 * 260


def test_a_store_without_images_shows_events_alone_and_says_so(tmp_path, capsys):
    (tmp_path / "only").mkdir()
    write_film(tmp_path / "film", MOVING)
    (tmp_path / "film/events.npz").rename(tmp_path / "only/events.npz")
    call(f"voxelize {tmp_path / 'only'} --size {HEIGHT}x{WIDTH} -o {tmp_path / 'voxels'}")
    capsys.readouterr()
    call(f"info {tmp_path / 'voxels'} --picture {tmp_path / 'a.png'} --json")
    assert "no images in this store: events alone" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as alone, \
            Image.open(tmp_path / "voxels/preview.png") as preview:  # fmt: skip
        assert alone.width < 2 * 260 * WIDTH / HEIGHT  # no blank column
        assert preview.width < 5 * 192 * WIDTH / HEIGHT
