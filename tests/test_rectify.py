"""Voxels on another grid: a slow loop, and no event lost or counted twice."""

import numpy as np
import pytest
from conftest import random_events

from scaleevent.errors import ConfigError
from scaleevent.events import Events
from scaleevent.grids.rectify import scaling_map, voxelize_mapped
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window

WINDOW = Window(1000, 41_000)
EVENTS = random_events(3000, 24, 32, 50_000, 0)


def slow(events, places, window, bins, height, width):
    grid, lost = np.zeros((bins, height, width)), 0.0
    for t, x, y, p in zip(events.t, events.x, events.y, events.p, strict=True):
        if not window.start_us <= t < window.end_us:
            continue
        px, py = map(float, places[y, x])
        time = (int(t) - window.start_us) * (bins - 1) / (window.end_us - window.start_us)
        left = 1.0
        for row in range(height):
            for column in range(width):
                w = max(0, 1 - abs(px - column)) * max(0, 1 - abs(py - row))
                if w > 0:
                    left -= w
                    for b in range(bins):
                        grid[b, row, column] += (2.0 * p - 1) * w * max(0, 1 - abs(time - b))
        lost += left
    return grid, lost


@pytest.mark.parametrize("bins", [1, 3, 5])
def test_equals_a_slow_loop(bins):
    events = EVENTS[:300]
    rng = np.random.default_rng(0)
    places = scaling_map(24, 32, 14, 20) + rng.normal(0, 2, (24, 32, 2)).astype(np.float32)
    places[3, 4] = np.nan
    places[5] = np.inf
    grid, lost = voxelize_mapped(events, places, WINDOW, bins, (14, 20))
    with np.errstate(invalid="ignore"):
        expected, expected_lost = slow(events, places, WINDOW, bins, 14, 20)
    if bins == 1:  # with one bin every event counts fully
        expected, expected_lost = slow(events, places, Window(1000, 10**12), 1, 14, 20), None
        inside = events.between(1000, 41_000)
        expected, expected_lost = slow(inside, places, Window(1000, 10**12), 1, 14, 20)
    np.testing.assert_allclose(grid, expected, atol=1e-6)
    assert lost == pytest.approx(expected_lost, abs=1e-6)


@pytest.mark.parametrize("size", [(48, 64), (12, 16), (24, 32), (37, 21)])
def test_no_event_is_lost_or_doubled(size):
    one_sign = Events(EVENTS.t, EVENTS.x, EVENTS.y, np.ones_like(EVENTS.p), 24, 32)
    number = len(one_sign.between(WINDOW.start_us, WINDOW.end_us))
    places = scaling_map(24, 32, *size)
    grid, lost = voxelize_mapped(one_sign, places, WINDOW, 3, size)
    assert grid.sum(dtype=np.float64) + lost == pytest.approx(number, abs=1e-3)
    assert lost == pytest.approx(0, abs=1e-9)
    shifted, lost = voxelize_mapped(one_sign, places + np.float32(3.3), WINDOW, 3, size)
    assert lost > 0
    assert shifted.sum(dtype=np.float64) + lost == pytest.approx(number, abs=1e-3)


def test_the_sensors_own_grid_gives_its_voxels():
    grid, lost = voxelize_mapped(EVENTS, scaling_map(24, 32, 24, 32), WINDOW)
    assert lost == 0
    np.testing.assert_allclose(grid, voxelize(EVENTS, WINDOW), atol=2e-5)


def test_maps_of_other_sensors_are_refused():
    with pytest.raises(ConfigError, match="another sensor"):
        voxelize_mapped(EVENTS, scaling_map(24, 31, 24, 31), WINDOW)
    with pytest.raises(ConfigError, match="bin"):
        voxelize_mapped(EVENTS, scaling_map(24, 32, 24, 32), WINDOW, 0)
