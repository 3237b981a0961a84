"""`voxelize`'s tasks: which files, with frames or at a rate, every event in a window, stops."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scaleevent.commands import prepare, voxelize
from scaleevent.config.data import PrepareConfig, VoxelizeConfig
from scaleevent.datasets.recordings import UNPAIRED, EventWindows, sources
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats import open_recording
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pairing import EventStream
from scaleevent.pairs.store import MANIFEST, PairStore
from tests import event_files
from tests.event_files import some_events
from tests.fakes import IMAGES_US, write_custom, write_times


def windows(path: Path, t: np.ndarray, rule: WindowRule, period_us: int) -> EventWindows:
    """Windows over a file of events at these times."""
    np.savez(path, t=t, x=np.arange(len(t)) % 7, y=t % 5, p=t % 2)
    options = {"time_unit": "us", "columns": None, "max_bad": None, "segment": None}
    span = (int(t[0]), int(t[-1])) if len(t) else None
    return EventWindows("a", path, (8, 8), options, rule, period_us, span, "")


def as_a_slow_loop(source: EventWindows) -> tuple[list, Counter]:
    """The pairs with no window left out."""
    made, counts = [], Counter()
    stream = EventStream(
        open_recording(source.path, size=source.size, **source.options), source.rule
    )
    for end in source.ends:
        window, events = stream.window_before(end)
        counts["images"] += 1
        counts["pairs" if len(events) else "images dropped: empty window"] += 1
        if len(events):
            made.append((end, window, events.t.tolist()))
    return made, counts


gaps = st.one_of(st.integers(0, 30), st.integers(900, 1100), st.integers(0, 200_000))


@given(
    gaps=st.lists(gaps, min_size=0, max_size=40),
    start=st.integers(0, 10**6),
    kind=st.sampled_from(["time", "adaptive", "count"]),
    duration_us=st.sampled_from([300, 1000, 5000]),
)
@settings(max_examples=150, deadline=None)
def test_windows_are_those_of_a_slow_loop(tmp_path_factory, gaps, start, kind, duration_us):
    t = np.cumsum([start, *gaps])
    rule = WindowRule(kind, duration_us=duration_us)
    source = windows(tmp_path_factory.getbasetemp() / "a.npz", t, rule, 1000)
    counts = Counter()
    made = [(p.image_us, p.window, p.events.t.tolist()) for p in source.pairs(counts)]
    expected, tally = as_a_slow_loop(source)
    assert made == expected
    assert counts["images"] == source.expected == tally["images"]
    assert +counts == +tally | {"events decoded": len(t), "events kept": len(t)}
    if (kind, duration_us) == ("time", 1000):  # every event is in one window
        assert sum((events for *_, events in made), []) == t.tolist()


@pytest.mark.parametrize("gap", [0, 1, 1000, 1001])
def test_the_last_event_is_in_a_window(tmp_path, gap):
    t = np.array([5000, 5000 + gap])
    made = list(windows(tmp_path / "a.npz", t, WindowRule("time", 1000), 1000).pairs(Counter()))
    assert sum((pair.events.t.tolist() for pair in made), []) == t.tolist()
    alone = list(
        windows(tmp_path / "a.npz", t[:1], WindowRule("time", 1000), 1000).pairs(Counter())
    )
    assert [pair.events.t.tolist() for pair in alone] == [[5000]]


def test_events_far_away_in_time_cost_no_time(tmp_path):
    """Of a plan made by hand; `voxelize` itself refuses it. One or two would be damage."""
    t = np.append(np.arange(0, 200_000, 10), 10**15 + np.arange(3))
    source, counts = windows(tmp_path / "a.npz", t, WindowRule("time", 50_000), 50_000), Counter()
    assert len(list(source.pairs(counts))) == counts["pairs"] == 5
    assert counts["images"] == 10**15 // 50_000 + 1
    assert counts["images dropped: empty window"] == counts["images"] - 5
    with pytest.raises(ConfigError, match="(?s)out of all proportion.*--rate") as caught:
        run(tmp_path / "a.npz", tmp_path / "v", size=(8, 8), time_unit="us")
    assert "20,000,000,000 windows" in caught.value.found and "years" in caught.value.found
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(("events", "seconds", "refused"), [
    (20_000, 1100, True),  # more windows than events
    (23_000, 1100, False),
    (50, 490, False),  # few windows of few events
    (2_000_000, 90_000, True),  # longer than any recording
])  # fmt: skip
def test_plans_out_of_proportion_are_refused(tmp_path, events, seconds, refused):
    t = np.linspace(0, seconds * 1e6, events).astype(np.int64)
    zero = np.zeros(events, np.int64)
    np.savez(tmp_path / "a.npz", t=t, x=zero, y=zero, p=zero)
    config = VoxelizeConfig(
        root=tmp_path / "a.npz", out=tmp_path / "v", size=(8, 8), time_unit="us"
    )
    if refused:
        with pytest.raises(ConfigError, match="time unit"):
            sources(config)
    else:
        assert sources(config)[0][0].expected == seconds * 20 + 1


# Frames where they can be used


def run(root: Path, out: Path, **options):
    return voxelize.run(VoxelizeConfig(root=root, out=out, **options), quiet=True)


def test_a_frame_stream_without_a_frame(tmp_path):
    path = event_files.write_aedat4(tmp_path / "a.aedat4", [some_events(2000)])
    report = run(path, tmp_path / "v")
    assert report.facts["counts"]["pairs"] >= 1
    assert report.facts["not_used"] == [f"frames of {path}: no frames for this recording"]
    assert any(note.startswith("not used, a window every 50 ms") for note in report.notes)
    with pytest.raises(DataError, match="no frames"):
        prepare.run(PrepareConfig(name="custom", roots=[path], out=tmp_path / "p"), quiet=True)


@pytest.mark.parametrize("without", ["pictures", "times"])
def test_a_folder_of_frames_that_cannot_be_used(tmp_path, without):
    root = write_custom(tmp_path / "raw")
    if without == "pictures":
        for picture in (root / "images").iterdir():
            picture.unlink()
    else:
        (root / "timestamps.txt").unlink()
    report = run(root, tmp_path / "v", time_unit="us", size=(48, 64))
    assert report.facts["counts"]["pairs"] == 4
    (line,) = report.facts["not_used"]
    assert str(root / "events.npz") in line


def test_frames_of_another_clock_do_not_fail_the_other_recordings(tmp_path):
    write_custom(tmp_path / "raw" / "good")
    bad = write_custom(tmp_path / "raw" / "bad")
    write_times(bad / "timestamps.txt", [time + 10**9 for time in IMAGES_US])
    report = run(tmp_path / "raw", tmp_path / "v", time_unit="us", size=(48, 64))
    counts = report.facts["counts"]
    assert counts[UNPAIRED] == 1 and any(UNPAIRED in note for note in report.notes)
    names = Counter(PairStore(tmp_path / "v").recordings.tolist())
    assert names == {"good-events": 3, "bad-events": 4}
    assert counts["events decoded"] == counts["events kept"] == 40_000
    assert counts["images"] == counts["pairs"] == 7


# Resets of the clock


def two_stretches(path: Path, frames: list[list[int]]) -> tuple[Events, Events]:
    """An AEDAT4 file with a reset, and frames of 1 ms that begin at these times."""
    parts = some_events(4000, start_us=100_000), some_events(3000, start_us=0, span_us=30_000)
    pictures = [
        (time, time + 1000, np.full((180, 240), time % 251, np.uint8))
        for stretch in frames
        for time in stretch
    ]
    event_files.write_aedat4(path, parts, pictures)
    return parts


def test_a_segment_takes_its_own_frames(tmp_path):
    path = tmp_path / "a.aedat4"
    parts = two_stretches(path, [[110_000, 130_000, 140_000], [5000, 15_000]])
    for number, times in enumerate(([110_500, 130_500, 140_500], [5500, 15_500])):
        config = PrepareConfig(
            name="custom", roots=[path], out=tmp_path / f"{number}", segment=number + 1
        )
        prepare.run(config, quiet=True)
        store = PairStore(tmp_path / f"{number}")
        assert store.windows_us[:, 1].tolist() == times
        for row, (start, end) in enumerate(store.windows_us.tolist()):
            shard, inside = store.locate(row)
            events, _ = shard.events(inside)
            assert events.t.tolist() == parts[number].between(start, end).t.tolist()


def test_frames_whose_clock_was_reset_another_number_of_times(tmp_path):
    path = tmp_path / "a.aedat4"
    two_stretches(path, [[110_000, 130_000]])
    config = PrepareConfig(name="custom", roots=[path], out=tmp_path / "p", segment=2)
    with pytest.raises(DataError, match="1 segments of frames, 2 of events"):
        prepare.run(config, quiet=True)


def test_pictures_of_a_segment_where_their_times_were_reset_too(tmp_path):
    first, second = some_events(4000, start_us=100_000), some_events(3000, span_us=30_000, seed=1)
    columns = {k: np.append(getattr(first, k), getattr(second, k)) for k in "txyp"}
    root = tmp_path / "raw"
    root.mkdir()
    np.savez(root / "a.npz", **columns)
    write_times(root / "timestamps.txt", [110_000, 140_000, 5000, 15_000, 25_000])
    (root / "images").mkdir()
    for number in range(5):
        picture = np.full((180, 240, 3), 50 * number, np.uint8)
        Image.fromarray(picture).save(root / "images" / f"{number}.png")
    shared = {"name": "custom", "roots": [root], "size": (180, 240), "time_unit": "us",
              "frame_time_unit": "us"}  # fmt: skip
    prepare.run(PrepareConfig(**shared, out=tmp_path / "p", segment=2), quiet=True)
    store = PairStore(tmp_path / "p")
    assert store.windows_us[:, 1].tolist() == [5000, 15_000, 25_000]
    write_times(root / "timestamps.txt", [110_000, 140_000, 5000, 15_000, 2000])
    with pytest.raises(DataError, match="3 segments of frames, 2 of events"):
        prepare.run(PrepareConfig(**shared, out=tmp_path / "q", segment=2), quiet=True)


def test_voxelize_of_a_reset_goes_by_rate_and_counts_each_event_once(tmp_path):
    path = tmp_path / "a.aedat4"
    two_stretches(path, [[110_000, 130_000], [5000, 15_000]])
    report = run(path, tmp_path / "v", on_error="skip", rate=100)
    counts = report.facts["counts"]
    assert report.facts["not_used"] == [f"frames of {path}: the clock was reset"]
    assert sorted(set(PairStore(tmp_path / "v").recordings)) == ["a-1", "a-2"]
    assert counts["events decoded"] == counts["events kept"] == 7000
    assert not any(key.startswith("events dropped") for key in counts)


def test_damage_of_a_file_with_several_stretches_counts_once(tmp_path):
    first, second = some_events(4000, start_us=100_000), some_events(3000, span_us=30_000, seed=1)
    columns = {k: np.append(getattr(first, k), getattr(second, k)).astype(int) for k in "txyp"}
    columns["x"][[5, 4500]] = 999
    np.savez(tmp_path / "a.npz", **columns)
    report = run(
        tmp_path / "a.npz", tmp_path / "v", on_error="skip", size=(180, 240), time_unit="us"
    )
    counts = report.facts["counts"]
    assert counts["events decoded"] == 7000 and counts["events kept"] == 6998
    assert counts["events dropped: off the sensor"] == counts["damage: events off the sensor"] == 2


# Folders


def test_its_own_output_is_no_input(tmp_path):
    root = write_custom(tmp_path / "raw")
    options = {"time_unit": "us", "size": (48, 64)}
    run(root, root / "vox", **options)
    before = (root / "vox" / MANIFEST).read_bytes()
    report = run(root, root / "vox", resume=True, **options)
    assert (root / "vox" / MANIFEST).read_bytes() == before
    assert report.facts["passed_over"] == [f"{root / 'vox'}: an output folder of scaleevent"]
    run(root, tmp_path / "elsewhere", **options)
    assert len(PairStore(tmp_path / "elsewhere").shards) == 1


def test_copies_in_hidden_folders_are_no_recordings(tmp_path):
    root = write_custom(tmp_path / "raw")
    for folder in (".ipynb_checkpoints", "__MACOSX"):
        write_custom(root / folder)
    run(root, tmp_path / "voxels", time_unit="us", size=(48, 64))
    assert len(PairStore(tmp_path / "voxels").shards) == 1


def test_a_manifest_does_not_outlive_the_shards_it_describes(tmp_path):
    root = write_custom(tmp_path / "raw")
    options = {"time_unit": "us", "size": (48, 64)}
    run(root, tmp_path / "v", **options)
    (root / "events.npz").write_bytes(b"PK\x03\x04 damaged since")
    (root / "b.raw").write_bytes(b"% evt 3.0\n% geometry 64x48\n% end\n" + bytes(1))
    (root / "events.npz").unlink()
    with pytest.raises(DataError, match="truncated"):
        run(root, tmp_path / "v", resume=True, **options)
    with pytest.raises(DataError):
        PairStore(tmp_path / "v")
