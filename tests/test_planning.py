"""`prepare --dry-run`: pairs, bytes and time, as the run itself has them."""

import json
import time

import numpy as np
import pytest
from davis_files import IMAGES_US, START_US, davis_events, write_scene
from fakes import fake_events, write_custom, write_pictures, write_times, write_videos
from PIL import Image
from test_alignment import HEIGHT, MOVING, WIDTH, write_film
from test_end_to_end import call

from scaleevent.datasets import custom
from scaleevent.pairs import planning
from scaleevent.pairs.planning import sampled
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
    ("line", "tolerance"),
    [
        ("street --scenes 60 --size 96x128", 0.2),
        ("custom FOLDER/rig", 0.2),
        ("mvsec FOLDER/scenes", 0.2),
        ("visevent FOLDER/videos", 0.2),
    ],
)
def test_pairs_and_bytes_are_those_of_the_run(tmp_path, capsys, line, tolerance):
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
    assert estimate["bytes"] == pytest.approx(written, rel=tolerance)
    assert any(note.startswith(f"about {estimate['pairs']:,} pairs, ") for note in told["notes"])


def test_the_time_is_a_range_that_holds_the_runs(tmp_path, capsys):
    line = f"prepare street --scenes 80 --size 96x128 -o {tmp_path / 'pairs'}"
    call(f"{line} --overwrite")  # what is compiled once is compiled
    estimate, _ = planned(capsys, line)
    began = time.perf_counter()
    call(f"{line} --overwrite")
    took = time.perf_counter() - began
    shortest, longest = estimate["seconds"]
    assert shortest < 2 * took and longest / shortest == pytest.approx(planning.SLACK**2, rel=0.01)
    one, _ = planned(capsys, line)
    four, told = planned(capsys, f"{line} --jobs 4")
    assert four["seconds"][0] < one["seconds"][0] and "with 4 jobs" in str(told["notes"])


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
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    assert len(sampled(source).made) == 1


def test_the_shift_of_the_first_pairs_is_told(tmp_path, capsys):
    film = write_film(tmp_path / "film", MOVING, (4, -3))
    line = f"prepare custom {film} --size {HEIGHT}x{WIDTH} -o {tmp_path / 'pairs'}"
    _, told = planned(capsys, line)
    shifts = [note for note in told["notes"] if note.startswith("best shift of events over ")]
    assert len(shifts) == 1 and "images: x +4, y -3 pixels" in shifts[0], told["notes"]
    assert told["alignment"]["pixels"]["shift"] == [4, -3]


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
    assert "--picture has no effect without --dry-run" in capsys.readouterr().err
