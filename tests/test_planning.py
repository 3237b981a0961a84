"""`prepare --dry-run`: pairs, bytes and time, as the run itself has them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from davis_files import IMAGES_US, START_US, davis_events, write_scene
from fakes import fake_events, write_custom, write_pictures, write_times, write_videos
from PIL import Image
from test_alignment import HEIGHT, MOVING, WIDTH, write_film
from test_end_to_end import call

from scaleevent.datasets import custom
from scaleevent.events import Events
from scaleevent.grids.windows import Window
from scaleevent.pairs import planning
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.planning import plan, sampled
from scaleevent.pairs.store import PairStore


def planned(capsys, line):
    """The estimate of a dry run, and all that it says."""
    capsys.readouterr()
    call(f"{line} --dry-run --json")
    told = json.loads(capsys.readouterr().out)
    return told.get("estimate"), told


def noisy_rig(root, frames):
    """A recording with many frames that do not compress."""
    write_custom(root, fake_events())
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(frames)]
    write_pictures(root / "images", pictures)
    write_times(root / "timestamps.txt", np.linspace(1_010_000, 1_190_000, frames).astype(int))
    return root


@pytest.mark.parametrize(
    "line",
    [
        "street --scenes 60 --size 96x128",
        "custom FOLDER/rig",
        "mvsec FOLDER/scenes",
        "visevent FOLDER/videos",
    ],
)
def test_pairs_and_bytes_are_those_of_the_run(tmp_path, capsys, line):
    noisy_rig(tmp_path / "rig", 60)
    for scene in ("outdoor_day2", "motorcycle1"):
        write_scene(tmp_path / "scenes", scene)
    write_videos(tmp_path / "videos", "train", "a", "b", "c", "d", "e")
    line = f"prepare {line.replace('FOLDER', str(tmp_path))} -o {tmp_path / 'pairs'}"
    estimate, told = planned(capsys, line)
    call(line)
    store = PairStore(tmp_path / "pairs")
    assert estimate["pairs"] == pytest.approx(len(store), rel=0.1)
    written = sum(entry["bytes"] for entry in store.shards)
    assert estimate["bytes"] == pytest.approx(written, rel=0.2)
    assert any(note.startswith(f"about {estimate['pairs']:,} pairs, ") for note in told["notes"])


def test_images_before_the_events_are_not_taken_for_the_share_of_all(tmp_path, capsys):
    root = noisy_rig(tmp_path / "rig", 120)
    before, inside = np.linspace(900_000, 990_000, 40), np.linspace(1_010_000, 1_190_000, 80)
    write_times(root / "timestamps.txt", np.concatenate([before, inside]).astype(int))
    estimate, _ = planned(capsys, f"prepare custom {root} -o {tmp_path / 'pairs'}")
    assert estimate["pairs"] == pytest.approx(80, rel=0.05)


class Slow:
    """A source that moves a clock by hand: at first, and for each of its images."""

    name, found, expected, inputs = "slow", "", 100, ()

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def pairs(self, counts):
        self.clock.now += 50
        for number in range(self.expected):
            self.clock.now += self.seconds
            counts["images"] += 1
            yield Pair("slow", number + 1, b"", Events.empty(4, 4), Window(0, number + 1))


@pytest.fixture
def clock(monkeypatch):
    """The clock of `planning`, which stands still unless it is moved."""
    made = SimpleNamespace(now=0.0)
    made.perf_counter = lambda: made.now
    monkeypatch.setattr(planning, "time", made)
    return made


def test_the_time_is_a_range(clock, tmp_path):
    sources = [Slow(clock, 0.5), Slow(clock, 2.0)]
    for jobs, tasks, said in ((1, 1, "1 to 10"), (2, 2, "1 to 5"), (8, 2, "1 to 5")):
        report = plan("slow", tmp_path / "pairs", jobs, sources, [])
        assert report.facts["estimate"]["pairs"] == 200
        shortest, longest = report.facts["estimate"]["seconds"]
        assert shortest == pytest.approx(0.5 * 200 / tasks / planning.SLACK)
        assert longest == pytest.approx(2 * 200 / tasks * planning.SLACK)
        assert f"{said} minutes with {jobs} job" in report.notes[1]


def test_what_is_done_once_is_no_time_of_a_pair(clock, monkeypatch):
    sample = sampled(Slow(clock, 2.0))
    assert sample.seconds == pytest.approx(2) and len(sample.made) == 3  # 3 seconds are over
    assert sampled(Slow(clock, 0.1)).seconds == pytest.approx(0.1)
    monkeypatch.setattr(planning, "PAIRS", 1)  # with one pair it cannot be told apart
    assert sampled(Slow(clock, 2.0)).seconds == pytest.approx(52)


def test_what_would_stop_the_run_stops_the_plan(tmp_path, capsys):
    root = write_custom(tmp_path / "rig")
    (root / "images/000000.png").write_bytes(b"no picture")
    (root / "images/000000.png").rename(root / "images/000009.png")  # not the first, which is seen
    call(f"prepare custom {root} -o {tmp_path / 'pairs'} --dry-run", 3)
    assert "000009.png" in capsys.readouterr().err and not (tmp_path / "pairs").exists()


def test_only_a_few_pairs_are_made(tmp_path, monkeypatch):
    (source,) = custom.sources(
        custom.Settings(name="custom", roots=[noisy_rig(tmp_path / "rig", 60)])
    )
    sample = sampled(source)
    assert len(sample.made) == sample.looked_at == planning.PAIRS
    monkeypatch.setattr(planning, "EVENTS", 1000)
    assert len(sampled(source).made) < planning.PAIRS
    monkeypatch.setattr(planning, "SECONDS", 0.0)  # after the first pair
    assert len(sampled(source).made) == 2


def test_the_shift_of_the_first_pairs_is_told(tmp_path, capsys):
    film = write_film(tmp_path / "film", MOVING, (4, -3))
    line = f"prepare custom {film} --size {HEIGHT}x{WIDTH} -o {tmp_path / 'pairs'}"
    _, told = planned(capsys, line)
    shifts = [note for note in told["notes"] if note.startswith("best shift of events over ")]
    assert len(shifts) == 1 and "images: x +4, y -3 pixels" in shifts[0], told["notes"]
    assert told["alignment"]["pixels"]["shift"] == [4, -3]


def test_check_tells_clocks_counts_and_shift_and_draws(tmp_path, capsys, monkeypatch):
    """Of a recording without an index too, whose events are read, but not for long."""
    film = write_film(tmp_path / "film", MOVING, (4, -3))
    write_times(film / "timestamps.txt", [50, *range(100_000, 400_000, 50_000), 600_000])
    line = f"prepare custom {film} --size {HEIGHT}x{WIDTH} -o {tmp_path / 'pairs'} --check"

    def notes():
        call(f"{line} --json")
        return json.loads(capsys.readouterr().out)["notes"]

    told = notes()
    assert "film: images from 0.000 to 0.600 s, events from 0.000 to 0.478 s, 80% covered" in told
    (looked,) = (note for note in told if note.startswith("looked at: 8 images, 6 pairs, "))
    assert "1 images dropped (before the first event)" in looked
    assert "1 images dropped (after the last event)" in looked
    (shift,) = (note for note in told if note.startswith("best shift of events over 6 images: "))
    assert "x +4, y -3 pixels" in shift
    sheet = tmp_path / "pairs-check.png"
    assert f"picture of the first pairs: {sheet}" in told
    with Image.open(sheet) as drawn:
        assert drawn.width > 3 * WIDTH and shift in drawn.text["Description"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film", sheet.name]
    line = f"{line} --picture {tmp_path / 'elsewhere.png'}"
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    told = notes()
    assert f"picture of the first pairs: {tmp_path / 'elsewhere.png'}" in told
    assert "events from 0.000 to at least 0.478 s, at least 80% covered" in "".join(told)


def test_the_clocks_and_a_picture_of_the_first_pairs(tmp_path, capsys):
    root = write_scene(tmp_path / "scenes", right=False)
    line = f"prepare mvsec {root} -o {tmp_path / 'pairs'} --picture {tmp_path / 'sheet.png'}"
    _, told = planned(capsys, line)
    first, last = (f"{us / 1e6:.3f}" for us in (START_US - 1, IMAGES_US[-1]))
    events = davis_events()
    begin, end = (f"{us / 1e6:.3f}" for us in (events.t[0], events.t[-1]))
    assert (
        f"outdoor_day2_left: images from {first} to {last} s, events from {begin} to {end} s, "
        "100% covered"
    ) in told["notes"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 260 and sheet.height > 4 * 260
    assert not (tmp_path / "pairs").exists()
    capsys.readouterr()
    call(f"{line}", 2)
    assert "--picture has no effect without --check or --dry-run" in capsys.readouterr().err
