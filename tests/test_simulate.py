"""The event simulator against a published-model oracle and a slow loop."""

from pathlib import Path

import numpy as np
import pytest

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.simulation.esim import (
    THRESHOLD_FLOOR,
    EventSimulator,
    merge_events,
    noise_events,
    spread_thresholds,
)

GOLDEN = Path(__file__).parent / "data" / "simulation.npz"


def simulate(frames, times, positive, negative, refractory=0.0, level=None):
    """Rows t, x, y, p, in the order they came."""
    simulator = EventSimulator(frames[0], times[0], positive, negative, refractory, level)
    parts = [simulator.advance(f, t) for f, t in zip(frames[1:], times[1:], strict=True)]
    return np.stack([np.concatenate(c).astype(float) for c in zip(*parts, strict=True)], axis=1)


def by_pixel(rows):
    """Sorted by y, x, then time, order within equal times kept."""
    return rows[np.lexsort((rows[:, 0], rows[:, 1], rows[:, 2]))]


def slow(frames, times, positive, negative, refractory, level):
    """The model, pixel by pixel and threshold by threshold, in plain python."""
    rows = []
    height, width = frames[0].shape
    for y in range(height):
        for x in range(width):
            memory = float(level[y, x])
            last = None
            for k in range(len(frames) - 1):
                a, b = float(frames[k][y, x]), float(frames[k + 1][y, x])
                t0, t1 = times[k], times[k + 1]
                while b > a and memory + positive[y, x] <= b:
                    memory += positive[y, x]
                    t = t0 + (memory - a) / (b - a) * (t1 - t0)
                    if last is None or t - last >= refractory:
                        rows.append((t, x, y, 1))
                        last = t
                while b < a and memory - negative[y, x] >= b:
                    memory -= negative[y, x]
                    t = t0 + (memory - a) / (b - a) * (t1 - t0)
                    if last is None or t - last >= refractory:
                        rows.append((t, x, y, 0))
                        last = t
    return np.array(rows, float)


@pytest.mark.parametrize(
    ("name", "frames", "times"),
    [
        ("a", "log_eps0.001", "t_s"),
        ("b", "log_eps0.001", "t_s"),
        ("c", "log_eps0.001", "t_s"),
        ("d", "log_eps1e-05", "t_s"),
        ("dyadic", "log_dyadic", "t_dyadic_s"),
        ("dyadic_refr", "log_dyadic", "t_dyadic_s"),
        ("ramp", "ramp_log", "ramp_t_s"),
    ],
)
def test_equals_the_oracle(name, frames, times):
    with np.load(GOLDEN) as golden:
        positive, negative, refractory = golden[f"{name}__cfg"]
        rows = by_pixel(simulate(golden[frames], golden[times], positive, negative, refractory))
        xyp = golden[f"{name}__oracle__xyp"]
        t = golden[f"{name}__oracle__t"]
    np.testing.assert_array_equal(rows[:, 1:3], xyp[:, :2])
    np.testing.assert_array_equal(2 * rows[:, 3] - 1, xyp[:, 2])
    np.testing.assert_allclose(rows[:, 0], t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("refractory", [0.0, 0.03])
def test_equals_a_slow_loop(refractory):
    rng = np.random.default_rng(3)
    frames = np.cumsum(rng.normal(0, 0.3, (7, 6, 5)), axis=0)
    frames[3, 2] = frames[2, 2]  # a row that stands still
    times = np.cumsum(rng.uniform(0.01, 0.1, 7))
    positive = rng.uniform(0.05, 0.4, (6, 5))
    negative = rng.uniform(0.05, 0.4, (6, 5))
    level = frames[0] - rng.uniform(-negative, positive)
    before = frames.copy()
    rows = simulate(frames, times, positive, negative, refractory, level)
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(
        by_pixel(rows), by_pixel(slow(frames, times, positive, negative, refractory, level))
    )
    assert (np.diff(rows[:, 0]) >= 0).all()


def test_many_events_in_one_interval_and_ties_in_row_order():
    rows = simulate(np.array([np.zeros((2, 3)), np.full((2, 3), 100.0)]), [0.0, 1.0], 0.25, 0.25)
    assert len(rows) == 6 * 400
    np.testing.assert_array_equal(rows[:6, 1], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(rows[:6, 2], [0, 0, 0, 1, 1, 1])


def test_the_callers_frame_may_be_reused():
    frame = np.zeros((1, 1))
    simulator = EventSimulator(frame, 0.0, 0.2, 0.2)
    frame += 0.5
    t, *_ = simulator.advance(frame, 1.0)
    np.testing.assert_allclose(t, [0.4, 0.8])


def test_thresholds_spread_around_the_mean_above_the_floor():
    thresholds = spread_thresholds(np.random.default_rng(0), 0.2, 0.03, 100, 120)
    assert thresholds.shape == (100, 120)
    assert abs(thresholds.mean() - 0.2) < 1e-3
    assert abs(thresholds.std() - 0.03) < 1e-3
    wild = spread_thresholds(np.random.default_rng(0), 0.02, 1.0, 10, 10)
    assert wild.min() == THRESHOLD_FLOOR


def test_noise_has_the_rate_and_stays_in_the_interval():
    noise = noise_events(np.random.default_rng(1), 5.0, 1000, 201_000, 40, 60)
    assert abs(len(noise) - 2400) < 5 * np.sqrt(2400)
    assert noise.t[0] >= 1000 and noise.t[-1] < 201_000
    assert (noise.height, noise.width) == (40, 60)
    assert 0.4 < noise.p.mean() < 0.6
    assert len(noise_events(np.random.default_rng(1), 0.0, 0, 10, 4, 4)) == 0


def test_merge_keeps_all_events_in_order():
    rng = np.random.default_rng(2)
    first = noise_events(rng, 50.0, 0, 100, 30, 40)
    second = noise_events(rng, 90.0, 0, 100, 30, 40)
    both = merge_events(first, second)
    rows = [np.stack((e.t, e.x, e.y, e.p), axis=1) for e in (first, second, both)]
    expected = np.concatenate(rows[:2])
    np.testing.assert_array_equal(rows[2], expected[np.argsort(expected[:, 0], kind="stable")])
    with pytest.raises(DataError, match="two sensors"):
        merge_events(first, Events.empty(30, 41))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"first": np.zeros(3)}, DataError, "not an"),
        ({"first": np.full((2, 2), np.nan)}, DataError, "not finite"),
        ({"positive": 0.0}, ConfigError, "positive threshold"),
        ({"negative": np.full((2, 2), -1.0)}, ConfigError, "negative threshold"),
        ({"negative": np.ones((3, 2))}, ConfigError, "wrong shape"),
        ({"refractory": -1.0}, ConfigError, "refractory"),
        ({"level": np.full((2, 2), -0.2)}, DataError, "remembered level"),
    ],
)
def test_bad_settings_are_refused(change, error, message):
    settings = {"first": np.zeros((2, 2)), "t": 0.0, "positive": 0.2, "negative": 0.2}
    with pytest.raises(error, match=message):
        EventSimulator(**(settings | change))


def test_bad_frames_are_refused():
    simulator = EventSimulator(np.zeros((2, 2)), 1.0, 0.2, 0.2)
    with pytest.raises(DataError, match="must increase"):
        simulator.advance(np.zeros((2, 2)), 1.0)
    with pytest.raises(DataError, match="differ in size"):
        simulator.advance(np.zeros((2, 3)), 2.0)
    with pytest.raises(DataError, match="not finite"):
        simulator.advance(np.full((2, 2), np.inf), 2.0)


def test_a_flash_of_nearly_equal_times_is_sorted_by_time_then_by_row():
    """A thousand events in one part of the interval, many of them at the same time."""
    rng = np.random.default_rng(4)
    first = rng.choice([0.0, 1e-9, 2e-9, 3e-9], (40, 50))
    t, x, y, p = EventSimulator(first, 0.0, 0.5, 0.5).advance(np.full((40, 50), 40.7), 1.0)
    alone = []  # one pixel at a time, then sorted by numpy
    for row in range(40):
        for column in range(50):
            pixel = EventSimulator(first[row : row + 1, column : column + 1], 0.0, 0.5, 0.5)
            times = pixel.advance(np.full((1, 1), 40.7), 1.0)[0]
            alone.append(
                np.stack((times, np.full_like(times, row), np.full_like(times, column)), 1)
            )
    rows = np.concatenate(alone)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    np.testing.assert_array_equal(np.stack((t, y, x), 1), rows)
    assert len(t) > 150_000 and p.all()


def test_a_level_rounded_to_its_threshold_gives_no_event_in_a_still_picture():
    """level + positive == first after rounding, although first - level < positive."""
    rng = np.random.default_rng(5)
    first = rng.uniform(0.5, 2.0, 200_000)
    level = np.nextafter(first - 0.3, np.inf)
    inside = first - level < 0.3
    first, level = first[inside][None], level[inside][None]
    assert (level + 0.3 >= first).any()
    simulator = EventSimulator(first, 0.0, 0.3, 0.3, level=level)
    assert all(len(column) == 0 for column in simulator.advance(first, 1.0))


def test_a_refused_frame_changes_nothing():
    simulator = EventSimulator(np.zeros((2, 2)), 0.0, 0.2, 0.2)
    with pytest.raises(DataError, match="not finite"):
        simulator.advance(np.array([[0.5, np.nan], [0.5, 0.5]]), 1.0)
    t, *_ = simulator.advance(np.full((2, 2), 0.5), 1.0)
    np.testing.assert_allclose(t, [0.4] * 4 + [0.8] * 4)
