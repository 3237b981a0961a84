"""Late events, wrong time stamps and clock resets: each told from the others by what follows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleevent.commands import prepare
from scaleevent.config.data import PrepareConfig
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.formats import arrays, clock, open_recording, recording_facts
from scaleevent.formats.recording import Recording
from scaleevent.formats.source import JITTER_US, RawBlock, Segment
from scaleevent.pairs.store import PairStore
from tests.clock_streams import (
    LATE_US,
    SIZE,
    Stamps,
    plant,
    positions,
    recording,
    some_base,
    some_edges,
)

MS = 1000


def judged(times, edges=(), **options):
    """Positions as delivered, positions left out, and the tally."""
    read = recording(times, edges, **({"max_bad": 1.0} | options))
    got = positions(read.blocks())
    counts = read.counts
    assert counts.decoded == len(times) == counts.kept + sum(counts.dropped.values())
    return got, sorted(set(range(len(times))) - set(got.tolist())), counts


# Random faults with known answers


def check_planted(rng, planted, stretches):
    edges = some_edges(rng, len(planted.times), np.flatnonzero(planted.wrong))
    got, _, counts = judged(planted.times, edges)
    assert got.tolist() == planted.order().tolist()
    assert len(counts.segments) == stretches
    wrong = int(planted.wrong.sum())
    assert counts.dropped.total() == counts.bad == wrong
    assert planted.late() <= counts.reordered <= planted.late() + wrong
    for number, part in enumerate(counts.segments):
        t = planted.times[(planted.segment == number) & ~planted.wrong]
        assert (part.first_us, part.last_us, part.events) == (t.min(), t.max(), len(t))


@pytest.mark.parametrize("seed", range(10))
def test_of_late_events_wrong_stamps_and_resets_each_is_known(seed):
    for number in range(15):
        rng = np.random.default_rng([seed, number])
        base = some_base(rng, int(rng.choice([1, 1, 2, 3])))
        longest = int(rng.integers(1, clock.RESET))
        check_planted(rng, plant(rng, base, int(rng.integers(0, 4)), longest), len(base))


REAL = [
    "events/expelliarmus/evt2_sample.raw",
    "events/PyAedatTools/IMU_translBoxes.aedat",
    "events/event_based_image_rec_inverse_problem/shapes_rotation/events.txt",
    "events/pydvs/poster_6dof.npz",
]


@pytest.mark.parametrize("name", REAL)
def test_faults_in_the_times_of_real_recordings(name):
    folder = os.environ.get("SCALEEVENT_TEST_DATA")
    if not folder:
        pytest.skip("SCALEEVENT_TEST_DATA is not set: real recordings are not checked")
    t = next(open_recording(Path(folder) / name).blocks()).t[:20_000]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        base = [t, t - 4 * LATE_US - int(rng.integers(10**6))][: seed + 1]
        planted = plant(rng, base, 40, 3)
        check_planted(rng, planted, len(base))


def least_left_out(times):
    """The fewest events without which the rest is in order, but for lateness; by brute force."""
    least = {-(1 << 62): 0}  # latest time believed -> events left out
    for t in times:
        after: dict[int, int] = {}
        for latest, lost in least.items():
            keeps = t >= latest - LATE_US
            for reached, cost in ((max(latest, t), lost), (latest, lost + 1))[: 1 + (t > latest)]:
                cost = cost if keeps else lost + 1
                reached = reached if keeps else latest
                after[reached] = min(after.get(reached, 1 << 60), cost)
        least = after
    return min(least.values())


@pytest.mark.parametrize("seed", range(8))
def test_as_few_events_as_possible_are_left_out(seed):
    compared = 0
    for number in range(25):
        rng = np.random.default_rng([seed, number])
        step = int(10 ** rng.uniform(2, 5))
        times = np.cumsum(rng.integers(0, 2 * step, 80))
        for _ in range(rng.integers(1, 4)):  # anything at all, in a few places
            at = int(rng.integers(25, 55))
            part = slice(at, at + int(rng.integers(1, 4)))
            times[part] = rng.integers(-100, 180, len(times[part])) * step
        least = least_left_out(times.tolist())
        edges = some_edges(rng, len(times))
        _, lost, counts = judged(times, edges)
        if least < clock.RESET and len(counts.segments) == 1:
            assert len(lost) == least
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("seed", range(6))
def test_how_a_stream_is_cut_into_blocks_changes_nothing(seed):
    for number in range(6):
        rng = np.random.default_rng([seed, number])
        times = np.concatenate(some_base(rng, 3))
        wild = rng.random(len(times)) < rng.choice([0.01, 0.1, 0.4])
        times[wild] = rng.integers(times.min(), times.max() + 1, int(wild.sum()))
        for _ in range(3):  # runs that agree with each other
            at, back = int(rng.integers(len(times))), int(rng.integers(-(10**7), 10**7))
            times[at : at + rng.integers(1, 60)] += back
        got, _, whole = judged(times)
        for edges in ([*range(1, len(times))], some_edges(rng, len(times)), [3, 150]):
            again, _, counts = judged(times, edges)
            assert again.tolist() == got.tolist()
            assert (counts.segments, counts.dropped) == (whole.segments, whole.dropped)
            assert counts.reordered == whole.reordered


# Cases by hand

TEN = [1_000_000 + k * MS for k in range(10)]
HUNDRED = [1_000_000 + k * MS for k in range(100)]


def changed(times, **places):
    """The times with some moved by so many ms: at3=-1000."""
    times = list(times)
    for place, ms in places.items():
        times[int(place[2:])] += ms * MS
    return times


def shifted(times, ms):
    return [t + ms * MS for t in times]


MINUTES = [k * 60_000 * MS for k in range(1, 40)]
CASES = {
    "one early": (changed(TEN, at4=-1000), [4], 1),
    "one ahead": (changed(TEN, at4=1000), [4], 1),
    "the first ahead": (changed(TEN, at0=1000), [0], 1),
    "the first three ahead": (changed(TEN, at0=1000, at1=900, at2=5000), [0, 1, 2], 1),
    "the first two years early": ([0, 5, *shifted(TEN, 10**12)], [0, 1], 1),
    "the last two years ahead": ([*TEN, 10**15, 10**15 + 5], [10, 11], 1),
    "a pause of two days": (TEN + shifted(TEN, 2 * 24 * 3600 * 1000), [], 1),
    "an event every hour": ([k * 3600 * 10**6 for k in range(100)], [], 1),
    "the last early": (changed(TEN, at9=-1000), [9], 1),
    "the last two early": (changed(TEN, at8=-500, at9=-1000), [8, 9], 1),
    "the last but one ahead": (changed(TEN, at8=1000), [8], 1),
    "ahead, then early": (changed(HUNDRED, at50=4000, at51=-900), [50, 51], 1),
    "early, then ahead": (changed(HUNDRED, at50=-900, at51=4000), [50, 51], 1),
    "early between two ahead": (changed(HUNDRED, at7=900, at8=-900, at9=99), [7, 8, 9], 1),
    "every eleventh": (
        changed(HUNDRED, **{f"at{k}": -700 * k for k in range(5, 99, 11)}),
        [*range(5, 99, 11)],
        1,
    ),
    "within 50 ms": (changed(HUNDRED, at30=-20, at50=40, at52=-9, at95=-49), [], 1),
    "a pause": (HUNDRED[:50] + shifted(HUNDRED[50:], 10**6), [], 1),
    "early after a pause": (
        HUNDRED[:50] + shifted(HUNDRED[50:52], 10**6) + [10**8] + shifted(HUNDRED[52:], 10**6),
        [52],
        1,
    ),
    "an event a minute": (MINUTES, [], 1),
    "an event a minute, one early": ([*MINUTES[:20], 3 * MS, *MINUTES[20:]], [20], 1),
    "an event a minute, one ahead": ([*MINUTES[:20], 10**10, *MINUTES[20:]], [20], 1),
    "an event a minute, twice": (MINUTES * 2, [], 2),
    "a run of early stamps": (
        HUNDRED[:40] + shifted(HUNDRED[40:70], -800) + HUNDRED[70:],
        [*range(40, 70)],
        1,
    ),
    "a run of stamps ahead": (
        HUNDRED[:40] + shifted(HUNDRED[40:70], 800) + HUNDRED[70:],
        [*range(40, 70)],
        1,
    ),
    "a reset": (HUNDRED + shifted(HUNDRED, -1000), [], 2),
    "a reset after ten, before ten": (TEN + shifted(TEN, -1000), [], 2),
    "a reset before four": (HUNDRED + shifted(HUNDRED[:4], -1000), [], 2),
    "a reset after four": (HUNDRED[:4] + shifted(HUNDRED, -1000), [], 2),
    "two resets": (TEN + shifted(TEN, -400) + shifted(TEN, -900), [], 3),
    "a second recording that walks past the first": (
        [k * 10 * MS for k in range(50)] + [k * 10 * MS for k in range(200)],
        [],
        2,
    ),
    "a second recording with a pause beyond the first": (
        HUNDRED + shifted(HUNDRED[:20], -1000) + shifted(HUNDRED, 10_000),
        [],
        2,
    ),
    "a reset, and one wrong stamp behind it": (
        HUNDRED + changed(shifted(HUNDRED, -1000), at1=-500, at3=3000, at20=90_000),
        [101, 103, 120],
        2,
    ),
    "a reset in a run of wrong stamps": (
        HUNDRED + [5, 10**9, 10**6 * 5] + shifted(HUNDRED, -1000),
        [101, 102],  # the first might be the first of the second recording, and is earlier
        2,
    ),
    "an event of before the reset after it": (
        HUNDRED + [MS, 2 * MS, HUNDRED[-1] + 1, *range(3 * MS, 40 * MS, MS)],
        [102],
        2,
    ),
    "two packets in the wrong order": (
        HUNDRED[:20] + HUNDRED[25:30] + HUNDRED[20:25] + HUNDRED[30:],
        [],
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_fault_at_a_time(name):
    times, wrong, stretches = CASES[name]
    for cut in (1, 2, 3, 7, 1000):
        got, lost, counts = judged(times, range(cut, len(times), cut))
        assert (lost, len(counts.segments)) == (wrong, stretches)
        t = np.array(times)[got]
        assert np.count_nonzero(np.diff(t) < 0) == stretches - 1


@pytest.mark.parametrize("ahead", [-1, 1])
@pytest.mark.parametrize("length", [1, 2, clock.RESET - 1, clock.RESET, 500, 3000, 3001])
def test_stamps_wrong_together_are_damage_if_the_clock_returns(monkeypatch, length, ahead):
    """As those of a damaged time word; beyond a limit the clock is believed."""
    monkeypatch.setattr(clock, "RUN", 3000)
    times = np.arange(0, 20_000 * 10, 10) + 10**7
    times[9000 : 9000 + length] += ahead * 5 * 10**6
    for edges in ((), (8999,), (9001,), (9000 + length,), (4000, 9400, 11_000)):
        _, lost, counts = judged(times, edges)
        if length <= 3000:
            assert lost == [*range(9000, 9000 + length)] and len(counts.segments) == 1
        else:
            assert not lost and len(counts.segments) == 2


@pytest.mark.parametrize("seed", range(8))
def test_runs_of_wrong_stamps_anywhere(seed):
    """Shifted together or senseless, of 5 to 1500 events, in streams of any rate."""
    for number in range(4):
        rng = np.random.default_rng([seed, number])
        steady = np.cumsum(rng.integers(0, 2 * int(10 ** rng.uniform(0.5, 3.5)), 12_000)) + 10**7
        times, wrong = steady.copy(), np.zeros(12_000, bool)
        for at in (300, 4000, 8000):
            part = slice(at, at + int(10 ** rng.uniform(0.7, 3.1)))
            span = int(times[part][-1] - times[at])
            if rng.random() < 0.7:  # far ahead or back, but nowhere near another fault
                times[part] += (10 * (int(steady[-1]) + span)) * int(rng.choice([-1, 1]))
            else:
                times[part] = rng.integers(0, 2**40, len(times[part]))
            wrong[part] = True
        _, lost, counts = judged(times, some_edges(rng, len(times), [300, 4000, 8000]))
        assert len(counts.segments) == 1
        assert not set(lost) - set(np.flatnonzero(wrong).tolist())
        assert wrong.sum() - len(lost) <= 3  # senseless ones that are right by chance


def test_a_run_of_senseless_stamps_is_damage():
    """As a damaged part of a file gives them; few of them can be believed by chance."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        times = np.arange(0, 6000 * 100, 100) + 10**8
        times[2000:2600] = rng.integers(0, 2**34, 600)
        _, lost, counts = judged(times, some_edges(rng, len(times)))
        assert len(counts.segments) == 1 and set(lost) <= set(range(2000, 2600))
        assert len(lost) > 590


@pytest.mark.parametrize("late", [5 * MS, 20 * MS, JITTER_US])
def test_late_packets_are_sorted_also_without_any_tolerance(late):
    times = np.arange(0, 400 * MS, 100)
    packets = np.split(times, range(50, len(times), 50))  # of 5 ms each
    k = late // (5 * MS)
    for at in range(0, len(packets) - k, 2 * k):
        packets[at], packets[at + k - 1] = packets[at + k - 1], packets[at]
    shuffled = np.concatenate(packets)
    read = recording(shuffled, range(70, len(shuffled), 70))
    got = positions(read.blocks())
    assert np.array_equal(shuffled[got], times)
    assert read.counts.reordered == int((np.maximum.accumulate(shuffled) > shuffled).sum())


# What is said


def test_damage_is_named_and_a_reset_explained():
    with pytest.raises(DataError, match="wrong time stamps") as caught:
        list(recording(changed(HUNDRED, at40=-1000, at60=-1000)).blocks())
    said = str(caught.value)
    assert "event 40\n" in said and "t = 40000 us" in said and "at 1039000 us" in said
    assert "50 ms" in said and "--on-error skip" in said
    with pytest.raises(DataError, match="wrong time stamps") as caught:
        list(recording(changed(HUNDRED, at40=1000)).blocks())
    assert "event 40\n" in str(caught.value) and "t = 2040000 us" in str(caught.value)
    with pytest.raises(DataError, match="time steps back") as caught:
        list(recording(HUNDRED + shifted(HUNDRED, -1000)).blocks())
    said = str(caught.value)
    assert "event 100\n" in said and "t = 0 us, 1099000 us before" in said and "reset" in said


def test_facts_of_a_recording_with_wrong_stamps():
    facts = recording_facts(recording(changed(HUNDRED, at40=-1000, at60=10**6), max_bad=1.0))
    assert (facts["first_us"], facts["last_us"]) == (HUNDRED[0], HUNDRED[-1])
    assert facts["dropped"] == {"wrong time stamps": 2} and len(facts["segments"]) == 1
    assert facts["damage"]["wrong time stamps"].startswith("2; first at event 40")


class Sampled(Stamps):
    """A source with an index."""

    def extent(self):
        return Segment(int(self.times[0]), int(self.times[-1]), len(self.times))

    def sample(self, parts):
        for first in np.linspace(0, len(self.times) - 50, parts).astype(int):
            t = self.times[first : first + 50]
            yield RawBlock(first, t, *np.zeros((2, 50), np.uint16), np.zeros(50, np.uint8))


def test_a_sample_that_meets_wrong_stamps_is_not_trusted(monkeypatch):
    monkeypatch.setattr("scaleevent.formats.facts.SAMPLED_ABOVE", 1000)
    times = np.arange(0, 10_000 * MS, MS)
    for late in (0, 40 * MS):
        times[5] -= late
        read = Recording("made up", Sampled(times), *SIZE, max_bad=1.0)
        assert "index" in recording_facts(read, full=False)["read"]
    times[9_995] -= 10**6
    read = Recording("made up", Sampled(times), *SIZE, max_bad=1.0)
    facts = recording_facts(read, full=False)
    assert facts["read"] == "every event" and facts["dropped"] == {"wrong time stamps": 1}
    times[9_995], times[-1] = times[9_994], 10**15
    facts = recording_facts(Recording("made up", Sampled(times), *SIZE, max_bad=1.0), full=False)
    assert facts["last_us"] == times[-2] and facts["dropped"] == {"wrong time stamps": 1}


# Files


def write_npz(path, t, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 32, len(t)), rng.integers(0, 24, len(t))
    np.savez(path, t=np.asarray(t), x=x, y=y, p=rng.integers(0, 2, len(t)))
    return path


@pytest.fixture
def small_reads(monkeypatch):
    """Blocks of 100 events, and a place noted every 700, which is more than are held."""
    monkeypatch.setattr(arrays, "BLOCK", 100)
    monkeypatch.setattr(clock, "RUN", 150)

    def opened(path, **options):
        read = open_recording(path, size=(24, 32), time_unit="us", **options)
        read.source.index.every = 700
        return read

    return opened


def test_ranges_of_a_file_with_late_events_are_those_of_the_whole(tmp_path, small_reads):
    rng = np.random.default_rng(0)
    steady = np.sort(rng.integers(0, 2000 * MS, 6000))
    delay = np.where(rng.random(6000) < 0.2, rng.integers(0, LATE_US, 6000), 0)
    t = steady[np.argsort(steady + delay, kind="stable")]
    read = small_reads(write_npz(tmp_path / "a.npz", t))
    whole = Events.concatenate(read.blocks(), 24, 32)
    assert np.array_equal(whole.t, steady) and read.counts.reordered > 500
    for _ in range(60):
        start, end = np.sort(rng.integers(-10 * MS, 2100 * MS, 2)).tolist()
        part = Events.concatenate(read.blocks(start, end), 24, 32)
        expected = whole.between(start, end)
        for name in "txyp":
            assert np.array_equal(getattr(part, name), getattr(expected, name))
    list(read.blocks(1500 * MS, 1600 * MS))
    assert read.counts.decoded < 3000


def test_a_reset_behind_a_noted_place_is_seen_from_there(tmp_path, small_reads):
    """A read that begins there must know where the clock was."""
    t = np.concatenate([np.arange(2100), np.arange(-2000, 3000)]) * MS + 10**7
    for place in (700, 1400, 2100):
        read = small_reads(write_npz(tmp_path / f"{place}.npz", np.delete(t, slice(place, 2100))))
        for block in read.blocks(None, int(t[100])):
            assert len(block)
        try:
            list(read.blocks(None, int(t[place - 1])))
        except DataError:
            pass
        with pytest.raises(DataError, match="time steps back"):
            list(read.blocks(int(t[2099]) + 50 * MS, int(t[2099]) + 90 * MS))


def test_four_wrong_stamps_cost_four_events_and_no_pair(tmp_path):
    """Twenty thousand events in two seconds, and 17 pictures beside them."""
    t = np.arange(20_000) * 100
    t[[3000, 9000, 9001, 15_000]] -= 10**6
    write_npz(tmp_path / "events.npz", t)
    (tmp_path / "images").mkdir()
    times = [200 * MS + 100 * MS * number for number in range(17)]
    for number in range(17):
        Image.new("RGB", (32, 24)).save(tmp_path / "images" / f"{number:02}.png")
    (tmp_path / "timestamps.txt").write_text("\n".join(map(str, times)))
    given = {"roots": [tmp_path], "size": (24, 32), "time_unit": "us", "frame_time_unit": "us"}
    made = PrepareConfig(name="custom", **given, on_error="skip", out=tmp_path / "pairs")
    report = prepare.run(made, quiet=True)
    assert PairStore(tmp_path / "pairs").windows_us[:, 1].tolist() == times
    counts = report.facts["counts"]
    assert counts["pairs"] == counts["images"] == 17
    assert (counts["events decoded"], counts["events kept"]) == (20_000, 19_996)
    assert counts["events dropped: wrong time stamps"] == 4
    with pytest.raises(DataError, match="wrong time stamps"):
        prepare.run(PrepareConfig(name="custom", **given, out=tmp_path / "none"), quiet=True)


# Bounds


def test_a_camera_too_fast_to_wait_for_loses_what_is_too_late_and_says_so(monkeypatch):
    monkeypatch.setattr(clock, "WAITING", 2000)
    monkeypatch.setattr(clock, "RUN", 500)
    times = np.arange(20_000)  # a million a second
    assert judged(times, range(400, 20_000, 400))[0].tolist() == times.tolist()
    times[10_010] = 9990  # not late for what waits
    times[15_010] = 9000
    got, lost, counts = judged(times, range(400, 20_000, 400))
    assert lost == [15_010] and counts.dropped == {"wrong time stamps": 1}
    assert (np.diff(times[got]) >= 0).all()
    with pytest.raises(DataError, match="wrong time stamps"):
        list(recording(times, range(400, 20_000, 400)).blocks())


STREAM = """
import sys
import numpy as np
from scaleevent.formats.recording import Recording
from scaleevent.formats.source import RawBlock, Source
from tests.peak_memory import peak_mib

class Fast(Source):
    format, size, notes = "made up", (9, 9), {}
    def blocks(self, start_us, end_us):
        pixel, p = np.zeros(1 << 18, np.uint16), np.zeros(1 << 18, np.uint8)
        for first in range(0, 50_000_000, 1 << 18):
            t = (first + np.arange(1 << 18)) // 1000  # a billion events a second
            if sys.argv[1] == "late":
                t[::50_000] -= 3 * 1000
            yield RawBlock(first, t, pixel.copy(), pixel.copy(), p.copy())

before = peak_mib()
read = Recording("made up", Fast(), 9, 9)
assert sum(map(len, read.blocks())) == read.counts.kept > 49_999_999
assert (read.counts.reordered > 900) == (sys.argv[1] == "late")
print(peak_mib() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in order", "late"])
def test_memory_of_the_fastest_camera(kind):
    done = subprocess.run(
        [sys.executable, "-c", STREAM, kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 250
