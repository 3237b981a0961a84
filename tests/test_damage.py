"""What `Recording` does with damage: strict, up to a fraction, and clock resets as segments."""

import numpy as np
import pytest
from PIL import Image

from scaleevent.commands import info, prepare, voxelize
from scaleevent.config.data import InfoConfig, PrepareConfig, VoxelizeConfig
from scaleevent.config.settings import load_config
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats import open_recording, read_events, recording_facts
from scaleevent.formats.recording import MAX_SEGMENTS, Recording
from scaleevent.formats.source import Flaw, RawBlock, Segment, Source
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pairing import EventStream
from scaleevent.pairs.store import PairStore
from tests import event_files
from tests.event_files import some_events, write_raw

HEADER = ("evt 2.0", "geometry 240x180", "end")


class Blocks(Source):
    """A source of given blocks; an exception among them is raised."""

    format, size, notes = "made up", (180, 240), {}

    def __init__(self, *parts):
        self.parts = parts

    def blocks(self, start_us, end_us):
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part


def recording(*parts, **options) -> Recording:
    return Recording("made up", Blocks(*parts), 180, 240, **options)


def block(times, first=0, x=None, **more) -> RawBlock:
    t = np.asarray(times, np.int64)
    x = np.zeros(len(t), np.uint16) if x is None else np.asarray(x)
    return RawBlock(first, t, x, np.zeros(len(t), np.uint16), np.ones(len(t), np.uint8), **more)


def joined(*parts: Events) -> np.ndarray:
    """EVT2 words of recordings one after another."""
    return np.concatenate([event_files.evt2_words(part) for part in parts])


# Tolerated up to a fraction


def test_events_off_the_sensor(tmp_path):
    part = block(range(1000), x=[*range(240), 240, *[5] * 758, 2000])
    with pytest.raises(DataError, match="off the sensor") as caught:
        list(recording(part).blocks())
    assert (
        "event 240" in str(caught.value)
        and "2 such events" in str(caught.value)
        and "--on-error skip" in str(caught.value)
    )
    lenient = recording(part, max_bad=0.002)
    (events,) = lenient.blocks()
    assert len(events) == 998 and events.x.max() == 239
    assert lenient.counts.dropped == {"off the sensor": 2}
    assert lenient.counts.flaws["events off the sensor"].count == 2
    with pytest.raises(DataError, match="too much damage") as caught:
        list(recording(part, max_bad=0.0019).blocks())
    assert "2 of 1000" in str(caught.value) and "--max-bad" in str(caught.value)


def test_flaws_of_a_reader_are_errors_or_are_added_up():
    bad = [Flaw("unknown words", f"byte {at}", "0xff", count=3) for at in (40, 80)]
    parts = [block([1, 2], flaws=(bad[0],)), block([3], 2, flaws=(bad[1],))]
    with pytest.raises(DataError, match="unknown words") as caught:
        list(recording(*parts).blocks())
    assert "made up, byte 40" in str(caught.value)
    lenient = recording(*parts, max_bad=1.0)
    assert sum(map(len, lenient.blocks())) == 3
    (flaw,) = lenient.counts.flaws.values()
    assert (flaw.count, flaw.where) == (6, "byte 40")
    with pytest.raises(DataError, match="6 of 9"):
        list(recording(*parts, max_bad=0.5).blocks())


@pytest.mark.parametrize("wild", [-(2**63), 2**62, 2**63 - 1])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_times_that_are_too_large(wild, place):
    times = np.arange(1000)
    times[place] = wild
    with pytest.raises(DataError, match="out of range") as caught:
        list(recording(block(times)).blocks())
    assert f"event {place}" in str(caught.value)
    lenient = recording(block(times), max_bad=0.01)
    kept = Events.concatenate(lenient.blocks(), 180, 240)
    assert kept.t.tolist() == [k for k in range(1000) if k != place]
    assert lenient.counts.dropped == {"time out of range": 1}


def test_what_is_no_event_is_counted_and_not_decoded():
    parts = [block([1], ignored={"triggers": 2}), block([2], 1, ignored={"triggers": 3, "imu": 0})]
    read = recording(*parts)
    assert sum(map(len, read.blocks())) == 2
    assert read.counts.ignored == {"triggers": 5} and read.counts.decoded == 2


def test_the_readable_part_of_a_file_that_breaks_off_is_kept():
    parts = [block(range(10)), block(range(10, 20), 10), DataError("bad chunk", where="row 20")]
    with pytest.raises(DataError, match="bad chunk"):
        list(recording(*parts).blocks())
    lenient = recording(*parts, max_bad=0.0)
    assert Events.concatenate(lenient.blocks(), 180, 240).t.tolist() == list(range(20))
    assert "row 20" in lenient.counts.flaws["the rest cannot be read"].found
    with pytest.raises(DataError, match="bad chunk"):  # nothing could be read
        list(recording(parts[-1], max_bad=1.0).blocks())


def test_what_cannot_be_read_of_a_known_number_counts_as_damage():
    class Promised(Blocks):
        def total(self):
            return 100

    parts = [block(range(10)), DataError("bad bytes", where="byte 9")]
    half = Recording("made up", Promised(*parts), 180, 240, max_bad=0.9)
    assert sum(map(len, half.blocks())) == 10
    assert half.counts.dropped == {"unreadable": 90} and half.counts.decoded == 100
    with pytest.raises(DataError, match="90 of 100"):
        list(Recording("made up", Promised(*parts), 180, 240, max_bad=0.89).blocks())


def test_a_truncated_file_is_an_error_or_its_whole_part(tmp_path):
    events = some_events()
    path = write_raw(tmp_path / "a.raw", joined(events), *HEADER)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="truncated file") as caught:
        read_events(path)
    assert f"byte {len(whole) - 4}" in str(caught.value)
    assert read_events(path, max_bad=0.0).t.tolist() == events.t[:-1].tolist()
    report = info.run(InfoConfig(path=path))
    assert report.facts["events"] == len(events) - 1
    assert "3 bytes" in report.facts["damage"]["truncated file"]


@pytest.mark.parametrize(
    ("given", "fraction"), [("0.1%", 0.001), ("5 %", 0.05), ("0.5", 0.5), (1, 1)]
)
def test_max_bad_is_a_fraction_or_a_percentage(given, fraction):
    flags = {"root": "a", "max_bad": given, "on_error": "skip"}
    assert load_config(VoxelizeConfig, flags).tolerated == pytest.approx(fraction)
    assert load_config(VoxelizeConfig, {"root": "a"}).tolerated is None

    with pytest.raises(ConfigError, match="no effect without on_error skip"):
        load_config(VoxelizeConfig, {"root": "a", "max_bad": "5.5%"})


@pytest.mark.parametrize("given", ["101%", "-1", "nan", "x%", "often"])
def test_other_fractions_are_refused(given):
    with pytest.raises(ConfigError, match="max_bad"):
        load_config(VoxelizeConfig, {"root": "a", "max_bad": given, "on_error": "skip"})


# Segments


def test_what_steps_back_all_the_time_is_in_no_order():
    """However many steps back there are, one pass finds them."""
    rng = np.random.default_rng(0)
    times = rng.integers(0, 10**9, 300_000)
    with pytest.raises(DataError, match="too much damage|not in order of time"):
        list(recording(block(times), max_bad=0.5).blocks())
    often = np.tile(np.arange(0, 300_000, 1000), MAX_SEGMENTS)
    parts = [block(often[at : at + 7000], at) for at in range(0, len(often), 7000)]
    read = recording(*parts, max_bad=0.0)
    assert sum(map(len, read.blocks())) == len(often) == read.counts.kept
    assert len(read.counts.segments) == MAX_SEGMENTS
    parts.append(block(range(5), len(often)))
    with pytest.raises(DataError, match="not in order of time") as caught:
        list(recording(*parts, max_bad=1.0).blocks())
    assert f"event {len(often)}" in str(caught.value)


def test_times_that_stand_still_are_refused_before_memory_fills(monkeypatch):
    monkeypatch.setattr("scaleevent.formats.clock.CROWD", 2000)
    monkeypatch.setattr("scaleevent.formats.clock.RUN", 500)
    still = [block(np.zeros(900), at) for at in range(0, 9000, 900)]
    with pytest.raises(DataError, match="too many events at one time") as caught:
        list(recording(*still, max_bad=1.0).blocks())
    assert "2700 events from 0 to 0 us" in str(caught.value)
    assert "--time-unit" not in str(caught.value)  # these times have a unit
    guessed = Recording("made up", Blocks(*still), 180, 240, {"time unit": "ms"})
    with pytest.raises(DataError, match="another unit than ms: --time-unit"):
        list(guessed.blocks())
    steady = [block(range(at, at + 900), at) for at in range(0, 9000, 900)]
    assert sum(map(len, recording(*steady).blocks())) == 9000


@pytest.fixture
def two_in_one(tmp_path):
    """A file with a clock reset: 50 ms of events, then 30 ms from time 0 on."""
    first = some_events(4000, start_us=100_000)
    second = some_events(3000, start_us=0, span_us=30_000, seed=1)
    path = write_raw(tmp_path / "raw" / "a.raw", joined(first, second), *HEADER)
    return path, first, second


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "raw").mkdir()


def test_a_reset_is_an_error_unless_segments_are_read(two_in_one):
    path, first, second = two_in_one
    with pytest.raises(DataError, match="time steps back") as caught:
        read_events(path)
    assert "event 4000" in str(caught.value) and "--on-error skip" in str(caught.value)
    for number, part in enumerate((first, second)):
        read = read_events(path, segment=number)
        assert read.t.tolist() == part.t.tolist() and read.x.tolist() == part.x.tolist()
        late = read_events(path, int(part.t[1000]), segment=number)
        assert late.t.tolist() == part.between(int(part.t[1000]), None).t.tolist()
    with pytest.raises(DataError, match="segment=0 .. 1"):
        read_events(path, max_bad=0.0)
    alone = read_events(path, 0, 20_000, max_bad=0.0)  # of the second stretch alone
    assert alone.t.tolist() == second.between(0, 20_000).t.tolist()
    with pytest.raises(ConfigError, match="no such segment") as caught:
        read_events(path, segment=2)
    assert "--segment 1 .. 2" in str(caught.value) and "segment=0 .. 1" in str(caught.value)
    with pytest.raises(ConfigError, match="no such segment"):
        read_events(path, segment=-1)
    stretches = open_recording(path, max_bad=0.0).stretches()
    assert [part.events for part in stretches] == [4000, 3000]


def test_info_tells_the_segments(two_in_one):
    path, first, second = two_in_one
    report = info.run(InfoConfig(path=path, picture=path.with_suffix(".png")))
    assert report.facts["events"] == 7000
    assert [part["events"] for part in report.facts["segments"]] == [4000, 3000]
    spans = [int(part.t[-1] - part.t[0]) for part in (first, second)]
    assert report.facts["duration_us"] == sum(spans)
    assert any("segment" in note for note in report.notes)
    assert path.with_suffix(".png").stat().st_size > 1000


def test_info_lists_the_first_of_many_segments(tmp_path):
    path = tmp_path / "a.npz"
    t = np.tile(np.arange(0, 500_000, 10_000), 25)
    np.savez(path, t=t, x=t % 7, y=t % 5, p=t % 2)
    report = info.run(InfoConfig(path=path, size=(8, 8), time_unit="us"))
    assert len(report.facts["segments"]) == 25
    rows = dict(report.rows)
    assert rows["segment 20"] == "0 .. 490000 us, 50 events" and "segment 21" not in rows
    assert rows["more segments"].startswith("5 ")


@pytest.mark.parametrize("late", [300_000, 620_000])
def test_info_and_picture_of_a_long_file_with_a_reset(tmp_path, monkeypatch, late):
    """Found by the sample, or only when the picture is drawn."""
    monkeypatch.setattr("scaleevent.formats.facts.SAMPLED_ABOVE", 100_000)
    first, second = some_events(late, span_us=2_000_000), some_events(640_000 - late)
    columns = {f"events/{k}": np.append(getattr(first, k), getattr(second, k)) for k in "txyp"}
    path = event_files.write_hdf5(tmp_path / "a.h5", columns, height=180, width=240)
    picture = tmp_path / "a.png"
    report = info.run(InfoConfig(path=path, time_unit="us", picture=picture))
    assert picture.stat().st_size > 1000
    assert len(report.facts["segments"]) == 2 and report.facts["events"] == 640_000


def test_windows_never_span_a_reset(two_in_one, tmp_path):
    path, first, second = two_in_one
    cfg = VoxelizeConfig(root=path, out=tmp_path / "v", rate=100, on_error="skip")
    report = voxelize.run(cfg, quiet=True)
    store = PairStore(tmp_path / "v")
    assert sorted(set(store.recordings)) == ["a-1", "a-2"]
    spans = {"a-1": (100_000, 160_000), "a-2": (-200_000, 40_000)}
    for name, (start, end) in zip(store.recordings, store.windows_us, strict=True):
        assert spans[name][0] <= start < end <= spans[name][1]
    counts = report.facts["counts"]
    assert counts["events decoded"] == counts["events kept"] + sum(
        number for key, number in counts.items() if key.startswith("events dropped")
    )
    with pytest.raises(DataError, match="time steps back"):
        voxelize.run(VoxelizeConfig(root=path, out=tmp_path / "w"), quiet=True)
    with pytest.raises(DataError, match="--segment"):
        stream = EventStream(open_recording(path, max_bad=0.0), WindowRule())
        stream.window_before(10**9)


def test_prepare_takes_one_segment(two_in_one, tmp_path):
    path, _, second = two_in_one
    times = [5_000, 15_000, 25_000]
    images = path.parent / "images"
    images.mkdir()
    for number in range(3):
        Image.fromarray(np.full((180, 240, 3), number, np.uint8)).save(images / f"{number}.png")
    (path.parent / "timestamps.txt").write_text("\n".join(map(str, times)))
    shared = {"name": "custom", "roots": [path.parent], "frame_time_unit": "us"}
    cfg = PrepareConfig(**shared, out=tmp_path / "p", segment=2)
    prepare.run(cfg, quiet=True)
    store = PairStore(tmp_path / "p")
    for row, (start, end) in enumerate(store.windows_us.tolist()):
        shard, inside = store.locate(row)
        events, _ = shard.events(inside)
        assert events.t.tolist() == second.between(start, end).t.tolist()
    assert store.windows_us[:, 1].tolist() == times
    with pytest.raises(DataError, match="clock was reset"):
        prepare.run(PrepareConfig(**shared, out=tmp_path / "q", on_error="skip"), quiet=True)


def test_bulk_data_pass_over_what_cannot_be_opened(two_in_one, tmp_path):
    path, *_ = two_in_one
    broken = path.with_name("b.raw")
    broken.write_bytes(b"% evt 3.0\n% geometry 0x\n% end\n")
    with pytest.raises(DataError, match="sensor size"):
        voxelize.run(VoxelizeConfig(root=path.parent, out=tmp_path / "v"), quiet=True)
    cfg = VoxelizeConfig(root=path.parent, out=tmp_path / "v", on_error="skip", rate=100)
    report = voxelize.run(cfg, quiet=True)
    assert any("b.raw" in line and "damaged" in line for line in report.facts["passed_over"])


# Facts


def test_the_peak_rate_is_never_below_the_mean():
    facts = recording_facts(recording(block(range(0, 5000, 5))))
    assert facts["mean_rate"] == pytest.approx(1000 / 4995e-6)
    assert facts["peak_rate"] == facts["mean_rate"]
    facts = recording_facts(recording(block([*range(0, 5000, 5), 10**6])))
    assert facts["peak_rate"] == pytest.approx(1000 / 0.01)


class Indexed(Blocks):
    """A source whose index tells how much there is."""

    def extent(self):
        return Segment(5, 10_000_004, 10_000_000)

    def sample(self, parts):
        for number in range(parts):
            yield block(range(number * 1000, number * 1000 + 100), number * 1000)


def test_long_recordings_are_sampled_and_say_so():
    read = Recording("made up", Indexed(RuntimeError("read everything")), 180, 240)
    facts = recording_facts(read, full=False)
    assert (facts["events"], facts["first_us"], facts["last_us"]) == (10_000_000, 5, 10_000_004)
    assert facts["positive_share"] == 1.0 and "6,400 of 10,000,000" in facts["read"]
    assert facts["peak_rate"] == pytest.approx(1e6, rel=0.02)
    assert "damage" not in facts
    with pytest.raises(RuntimeError, match="everything"):
        recording_facts(read)
    assert [part.events for part in read.stretches()] == [10_000_000]
