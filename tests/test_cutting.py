"""Windows of a stream of blocks: those of the whole recording, read once and hardly held."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.events import Events
from scaleevent.grids.windows import WindowRule, choose_window
from scaleevent.prediction import cutting
from scaleevent.prediction.cutting import Quiet, Tally, cut_windows
from scaleevent.prediction.schedules import AtRate, AtTimes, EveryEvents, Span
from tests.conftest import random_events

HEIGHT, WIDTH = 24, 40
RULES = [
    WindowRule(cell=8),
    WindowRule(cell=8, duration_us=2_000),
    WindowRule("time", duration_us=7_000),
    WindowRule("count", events_per_pixel=0.3),
    WindowRule("count", events_per_pixel=1_000.0),
]


@pytest.fixture(scope="module")
def events() -> Events:
    """With a long silence in the middle, and many equal stamps."""
    dense = random_events(4_000, HEIGHT, WIDTH, 60_000, seed=1, start_us=1_000_000)
    later = random_events(3_000, HEIGHT, WIDTH, 50_000, seed=2, start_us=1_400_000)
    t = np.concatenate([dense.t, later.t]) // 40 * 40
    columns = {name: np.concatenate([getattr(dense, name), getattr(later, name)]) for name in "xyp"}
    return Events(t, **columns, height=HEIGHT, width=WIDTH)


def in_blocks(events: Events, seed: int = 0, most: int = 400):
    rng = np.random.default_rng(seed)
    at = 0
    while at < len(events):
        step = int(rng.integers(1, most))
        yield events[at : at + step]
        at += step


def by_hand(events: Events, ends, rule, after=False):
    """Windows of the whole recording, chosen one by one."""
    found = []
    for end in ends:
        window = choose_window(events, end, rule)
        inside = events.between(window.start_us, window.end_us)
        follows = 2 * window.end_us - window.start_us
        if len(inside) and not (after and follows > events.t[-1] + 1):
            found.append((window, inside, events.between(window.end_us, follows)))
    return found


def same(one: Events, other: Events) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in "txyp")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("most", [3, 400, 10**6])
def test_windows_are_those_of_the_whole_recording(events, rule, after, most, monkeypatch):
    monkeypatch.setattr(cutting, "PRUNED", 64)
    period, first, last = 3_000, int(events.t[0]), int(events.t[-1])
    ends = range(first + period, last + period + 1, period)
    expected = by_hand(events, ends, rule, after)
    tally = Tally()
    cuts = list(cut_windows(in_blocks(events, 3, most), AtRate(1e6 / period), rule, after=after,
                            tally=tally))  # fmt: skip
    assert [cut.window for cut in cuts] == [window for window, _, _ in expected]
    assert all(same(cut.events, inside) for cut, (_, inside, _) in zip(cuts, expected, strict=True))
    if after:
        for cut, (_, _, follows) in zip(cuts, expected, strict=True):
            assert same(cut.after[1], follows)
    assert tally.windows == len(cuts) and tally.events == len(events)
    assert tally.windows + tally.empty + tally.unfollowed == len(ends)
    assert [cut.index for cut in cuts] == list(range(len(cuts)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=80), st.integers(1, 9), st.integers(1, 9))
def test_every_n_events_whatever_the_blocks(gaps, number, block):
    t = np.cumsum(gaps) // 7
    events = Events.from_columns(t, t % 5, t % 3, t % 2, 3, 5)
    ends = np.unique(t[number - 1 :: number] + 1)
    rule = WindowRule("time", duration_us=10)
    cuts = list(cut_windows((events[k : k + block] for k in range(0, len(t), block)),
                            EveryEvents(number), rule))  # fmt: skip
    assert [cut.window.end_us for cut in cuts] == ends.tolist()
    for cut in cuts:
        assert same(cut.events, events.between(cut.window.end_us - 10, cut.window.end_us))


def test_given_times_outside_the_events_are_counted(events):
    first, last = int(events.t[0]), int(events.t[-1])
    asked = np.array([first - 5, first, first + 9_000, first + 9_000, last, last + 1, last + 2])
    tally = Tally()
    cuts = list(cut_windows(in_blocks(events), AtTimes(asked), RULES[2], tally=tally))
    assert [cut.window.end_us for cut in cuts] == [first + 9_000, last, last + 1]
    assert (tally.windows, tally.beyond) == (3, 3)
    relative = AtTimes(np.array([9_000]), since_first=True)
    (cut,) = cut_windows(in_blocks(events), relative, RULES[2])
    assert cut.window.end_us == first + 9_000


def test_the_window_after_may_end_with_the_last_event(events):
    last = int(events.t[-1])
    asked = AtTimes(np.array([last + 1 - 7_000, last + 2 - 7_000]))
    tally = Tally()
    (cut,) = cut_windows(in_blocks(events), asked, RULES[2], after=True, tally=tally)
    assert cut.after[0].end_us == last + 1 and cut.after[1].t[-1] == last
    assert (tally.windows, tally.unfollowed) == (1, 1)


def test_a_span_ends_the_reading(events):
    taken = []

    def blocks():
        for block in in_blocks(events, most=50):
            taken.append(block)
            yield block

    first = int(events.t[0])
    span = Span(10_000, 9_500)
    cuts = list(cut_windows(blocks(), AtRate(1_000), RULES[2], span=span))
    assert [cut.window.end_us - first for cut in cuts] == list(range(11_000, 19_001, 1_000))
    assert taken[-1].t[-1] < first + 25_000  # the rest was never asked for
    assert cuts[0].events.t[0] < first + 10_000  # the window looks back beyond the start


def test_a_clock_reset_begins_anew(events):
    again = Events(events.t - 900_000, events.x, events.y, events.p, HEIGHT, WIDTH)
    tally = Tally()
    cuts = list(cut_windows([*in_blocks(events), *in_blocks(again)], AtRate(100), RULES[0],
                            tally=tally))  # fmt: skip
    halves = [[cut for cut in cuts if cut.stretch == k] for k in (0, 1)]
    assert len(halves[0]) == len(halves[1]) > 5
    for one, other in zip(*halves, strict=True):
        assert one.window.end_us - one.first_us == other.window.end_us - other.first_us
        assert same(one.events, Events(other.events.t + 900_000, other.events.x, other.events.y,
                                       other.events.p, HEIGHT, WIDTH))  # fmt: skip
    assert [windows for _, _, windows in tally.stretches] == [len(half) for half in halves]


def test_the_rate_does_not_drift(events):
    cuts = cut_windows([events, Quiet(1_000_000 + 10_000_000)], AtRate(30), RULES[2])
    ends = {cut.window.end_us - 1_000_000 for cut in cuts}
    assert ends <= {round(k * 1e6 / 30) for k in range(1, 400)}


def test_word_of_quiet_makes_a_window_whole(events):
    given_out = []
    first = int(events.t[0])

    def blocks():
        yield events.between(None, first + 9_000)
        given_out.append(len(cuts))
        yield Quiet(first + 10_000)
        given_out.append(len(cuts))

    cuts = []
    for cut in cut_windows(blocks(), AtRate(100), RULES[2]):
        cuts.append(cut)
    assert given_out == [0, 1]


LONG = [RULES[0], WindowRule("time", duration_us=500_000), RULES[3]]


@pytest.mark.parametrize("rule", LONG)
@pytest.mark.parametrize("after", [False, True])
def test_an_hour_of_events_is_not_held(rule, after, monkeypatch):
    """By construction: what lives at any time is a few windows, however many blocks came."""
    monkeypatch.setattr(cutting, "PRUNED", 500)
    made = []

    def blocks():
        for k in range(3_600):
            made.append(k)
            t = np.arange(100, dtype=np.int64) * 10_000 + k * 1_000_000
            yield Events.from_columns(t, t // 7 % WIDTH, t // 3 % HEIGHT, t % 2, HEIGHT, WIDTH)

    tracemalloc.start()
    windows = 0
    for cut in cut_windows(blocks(), AtRate(1), rule, after=after):
        windows += 1
        if cut.index == 100:
            early = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert windows > 3_500 and len(made) == 3_600
    assert largest - early < 400_000  # all of it would be 4.7 MB
