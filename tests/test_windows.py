"""Window rules against brute force, and the invariances they promise."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.errors import ConfigError
from scaleevent.events import Events
from scaleevent.formats import Counts
from scaleevent.grids.windows import Window, WindowRule, choose_window
from scaleevent.pairs.pairing import EventStream

RULE = WindowRule(duration_us=10_000, cell=8, quantile=0.25)


def brute_force(events: Events, end_us: int, rule: WindowRule) -> Window:
    """The smallest n such that the last n events fill enough cells, every count made afresh."""
    past = [i for i in range(len(events)) if events.t[i] < end_us]
    if not past:
        return Window(end_us, end_us, "start")
    recent = [i for i in past if events.t[i] >= end_us - rule.duration_us]
    pixels = events.height * events.width
    rows, columns = math.ceil(events.height / rule.cell), math.ceil(events.width / rule.cell)
    for n in range(1, len(recent) + 1):
        capped: dict[tuple[int, int], int] = {}
        for i in recent[-n:]:
            at = int(events.y[i]), int(events.x[i])
            capped[at] = min(capped.get(at, 0) + 1, rule.pixel_cap)
        full = 0
        for row in range(rows):
            for column in range(columns):
                inside = [
                    (y, x)
                    for y in range(row * rule.cell, min((row + 1) * rule.cell, events.height))
                    for x in range(column * rule.cell, min((column + 1) * rule.cell, events.width))
                ]
                count = sum(capped.get(at, 0) for at in inside)
                full += count >= max(rule.density * len(inside), 1)
        start = int(events.t[recent[-n]])
        if full >= rule.quantile * rows * columns and n >= rule.fewest * pixels:
            return Window(start, end_us, "density")
        if n >= int(rule.most * pixels):
            return Window(start, end_us, "n_max")
    if len(recent) < len(past):
        return Window(end_us - rule.duration_us, end_us, "t_max")
    return Window(int(events.t[0]), end_us, "start")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(16, 24), (13, 21)])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"quantile": 0.02},
        {"quantile": 1.0, "most": 0.8},
        {"density": 0.6, "pixel_cap": 1},
        {"fewest": 0.5},
        {"duration_us": 700},
    ],
)
def test_adaptive_equals_brute_force(seed, size, change):
    events = random_events(300, *size, 3_000, seed=seed)
    rule = replace(RULE, **change)
    for end_us in (0, 40, 1_500, 3_000):
        assert choose_window(events, end_us, rule) == brute_force(events, end_us, rule)


def test_brute_force_meets_every_stop_reason():
    events = random_events(300, 16, 24, 3_000, seed=0)
    stops = {
        choose_window(events, 3_000, replace(RULE, **change)).stop
        for change in ({}, {"quantile": 1.0, "most": 0.3}, {"duration_us": 100, "density": 9.0})
    }
    assert stops == {"density", "n_max", "t_max"}
    assert choose_window(events, 3_000, replace(RULE, density=9.0)).stop == "start"


@given(st.integers(1, 10**6), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_speed_of_the_scene_changes_no_chosen_event(speed, seed):
    slow = random_events(400, 16, 24, 2_000, seed=seed)
    fast = Events(slow.t * speed, slow.x, slow.y, slow.p, 16, 24)
    rule = replace(RULE, duration_us=2_000 * speed + 1)
    one = choose_window(slow, 2_000, rule)
    other = choose_window(fast, 2_000 * speed, rule)
    assert other.stop == one.stop
    assert other.start_us == one.start_us * speed


def test_events_tied_with_the_first_belong():
    """64 pixels of one cell light up, four at each stamp; 16 fill it, 13 would do for `fewest`."""
    t = np.repeat(np.arange(16) * 100, 4)
    at = np.arange(64)
    events = Events.from_columns(t, at % 8, at // 8, np.ones(64, int), 8, 8)
    rule = WindowRule(cell=8, quantile=1.0, density=14 / 64, fewest=0.0)
    window = choose_window(events, 1_501, rule)
    assert window == Window(1_200, 1_501, "density")  # 14 events reach into the fourth stamp ...
    assert len(events.between(window.start_us, window.end_us)) == 16  # ... which comes whole


def test_event_at_the_image_time_does_not_belong():
    events = random_events(300, 16, 24, 3_000, seed=3)
    end_us = int(events.t[200])
    window = choose_window(events, end_us, RULE)
    assert window == choose_window(events[: int(np.searchsorted(events.t, end_us))], end_us, RULE)
    assert events.between(window.start_us, window.end_us).t.max() < end_us


def test_hot_pixels_cannot_end_the_walk():
    """A quarter of 6 cells must fill: 2. One hot cell and capped hot pixels elsewhere do not."""
    rule = replace(RULE, fewest=0.0, most=1e9)
    hot_cell = random_events(5_000, 8, 8, 9_000, seed=4)
    hot_cell = Events(hot_cell.t, hot_cell.x, hot_cell.y, hot_cell.p, 16, 24)
    assert choose_window(hot_cell, 9_000, rule).stop == "start"
    column = np.tile([0, 8, 16, 0, 8, 16], 800)
    row = np.tile([0, 0, 0, 8, 8, 8], 800)
    pixels = Events.from_columns(np.arange(4_800), column, row, column * 0, 16, 24)
    assert choose_window(pixels, 9_000, rule).stop == "start"
    assert choose_window(pixels, 9_000, replace(rule, pixel_cap=16)).stop == "density"


@pytest.mark.parametrize("kind", ["adaptive", "time", "count"])
def test_older_history_changes_nothing(kind):
    """As documented: enough is one event older than the duration, or that many events."""
    events = random_events(4_000, 16, 24, 100_000, seed=5)
    rule = replace(RULE, kind=kind, quantile=0.7, density=0.5)
    end_us = 90_000
    past = int(np.searchsorted(events.t, end_us))
    needed = int(np.searchsorted(events.t, end_us - rule.duration_us)) - 1
    if kind == "count":
        needed = past - round(rule.events_per_pixel * 16 * 24)
    for drop in range(0, needed + 1, 97):
        assert choose_window(events[drop:], end_us, rule) == choose_window(events, end_us, rule)
        assert choose_window(events[drop:past], end_us, rule) == choose_window(events, end_us, rule)


def test_time_rule():
    events = random_events(100, 16, 24, 3_000, seed=6)
    rule = WindowRule(kind="time", duration_us=500)
    assert choose_window(events, 2_000, rule) == Window(1_500, 2_000)
    assert choose_window(Events.empty(16, 24), 2_000, rule) == Window(1_500, 2_000)


def test_count_rule():
    events = random_events(1_000, 10, 10, 10**6, seed=7)
    rule = WindowRule(kind="count", events_per_pixel=0.5)
    end_us = int(events.t[600])
    window = choose_window(events, end_us, rule)
    assert window == Window(int(events.t[550]), end_us)
    few = choose_window(events, int(events.t[30]), rule)
    assert few == Window(int(events.t[0]), int(events.t[30]), "start")
    exact = choose_window(events, int(events.t[50]), rule)
    assert exact == Window(int(events.t[0]), int(events.t[50]))


def test_count_rule_takes_at_least_one_event():
    events = random_events(5, 10, 10, 1_000, seed=8)
    rule = WindowRule(kind="count", events_per_pixel=1e-6)
    assert choose_window(events, 2_000, rule) == Window(int(events.t[-1]), 2_000)


@pytest.mark.parametrize("kind", ["adaptive", "count"])
def test_no_event_before_the_image(kind):
    rule = WindowRule(kind=kind)
    assert choose_window(Events.empty(16, 24), 7, rule) == Window(7, 7, "start")
    later = random_events(10, 16, 24, 100, seed=9, start_us=7)
    assert choose_window(later, 7, rule) == Window(7, 7, "start")


def test_window_that_ends_before_it_starts_is_refused():
    with pytest.raises(ConfigError, match="ends before it starts"):
        Window(5, 4)


@pytest.mark.parametrize("kind", ["adaptive", "time", "count"])
@pytest.mark.parametrize("block", [1, 3, 50, 1_000])
def test_blocks_of_a_stream_change_no_window(kind, block):
    """Many events have the same time stamp, so blocks begin and end inside ties."""
    events = random_events(1_000, 16, 24, 120, seed=10)
    events = Events(events.t * 250, events.x, events.y, events.p, 16, 24)
    rule = replace(RULE, kind=kind, duration_us=5_000, events_per_pixel=0.1)
    recording = SimpleNamespace(
        height=16,
        width=24,
        counts=Counts(),
        blocks=lambda: (events[i : i + block] for i in range(0, len(events), block)),
    )
    stream = EventStream(recording, rule)
    for end_us in range(1, 30_000, 1_130):
        window, chosen = stream.window_before(end_us)
        assert window == choose_window(events, end_us, rule)
        expected = events.between(window.start_us, window.end_us)
        for name in "txyp":
            np.testing.assert_array_equal(getattr(chosen, name), getattr(expected, name))


@pytest.mark.parametrize("seed", range(4))
def test_asking_for_more_never_shortens_the_window(seed):
    """Monotone in the fraction of cells, in the events that fill one, and in the cap of a pixel."""
    events = random_events(3000, 40, 56, 9_000, seed)
    base = replace(RULE, fewest=0.0, most=10.0)
    for key, values in (
        ("quantile", (0.02, 0.1, 0.3, 0.7, 1.0)),
        ("density", (0.05, 0.1, 0.25, 0.5, 1.0)),
        ("pixel_cap", (8, 4, 2, 1)),
        ("fewest", (0.0, 0.1, 0.5, 1.0)),
    ):
        starts = [
            choose_window(events, 9_000, replace(base, **{key: value})).start_us for value in values
        ]
        assert starts == sorted(starts, reverse=True), key


def test_all_but_one_of_the_needed_cells_may_be_hot():
    """M - 1 cells that fire without end fill themselves; the walk waits for one more."""
    cells = math.ceil(0.25 * 4 * 4)
    hot = np.arange(cells - 1)
    rng = np.random.default_rng(0)
    number = 5000
    cell = rng.choice(hot, number)
    x, y = cell % 4 * 8 + rng.integers(0, 8, number), cell // 4 * 8 + rng.integers(0, 8, number)
    x[:16], y[:16] = (
        24 + np.arange(16) % 8,
        24 + np.arange(16) // 8,
    )  # long ago: the one that counts
    events = Events.from_columns(np.arange(number), x, y, x % 2, 32, 32)
    window = choose_window(events, number, replace(RULE, fewest=0.0, most=10.0))
    assert (window.start_us, window.stop) == (0, "density")
