"""The sensor model against a slow loop, against the laws of its noise, and by its bad input."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import kstest

from scaleevent.errors import ConfigError, DataError
from scaleevent.simulation.sensor import SENSORS, Sensor, SimulatedCamera


def film(sensor, frames, times, seed=0, illumination=1.0):
    """The camera, and rows t, x, y, p of a clip."""
    rng = np.random.default_rng(seed)
    camera = SimulatedCamera(sensor, rng, *frames[0].shape, illumination)
    camera.start(frames[0], times[0])
    parts = [camera.advance(f, t) for f, t in zip(frames[1:], times[1:], strict=True)]
    return camera, np.stack([np.concatenate(c).astype(float) for c in zip(*parts, strict=True)], 1)


def random_clip(seed, frames=12, height=5, width=6):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (frames, height, width)), np.cumsum(rng.uniform(0.002, 0.02, frames))


def low_pass(t, y, w, span, ramp):
    """The slope of a pixel's output whose input goes along a line."""
    return w * (ramp[0] + (t - span[0]) / (span[1] - span[0]) * (ramp[1] - ramp[0]) - y)


def slow(camera, sensor, frames, times, illumination):
    """One pixel at a time in plain python; the low pass by a solver of differential equations."""
    rows = []
    height, width = frames[0].shape
    for y in range(height):
        for x in range(width):
            light = [f[y, x] * illumination for f in frames]
            log = [math.log(value + sensor.dark) for value in light]
            drift = sensor.leak_hz * camera.positive[y, x]
            output, memory, last = log[0], log[0], -math.inf
            before = output
            for k in range(1, len(frames)):
                t0, t1 = times[k - 1], times[k]
                if math.isfinite(sensor.cutoff_hz):
                    share = 20 / 275 + 255 / 275 * min(light[k], 1)
                    w = 2 * math.pi * sensor.cutoff_hz * share

                    change = partial(low_pass, w=w, span=(t0, t1), ramp=log[k - 1 : k + 1])
                    solved = solve_ivp(change, (t0, t1), [output], rtol=1e-10, atol=1e-12)
                    output = float(solved.y[0, -1])
                else:
                    output = log[k]
                after = output + drift * (t1 - times[0])
                up, down = camera.positive[y, x], camera.negative[y, x]
                while (
                    after > before
                    and memory + up <= after
                    or (after < before and memory - down >= after)
                ):
                    memory += up if after > before else -down
                    t = t0 + (memory - before) / (after - before) * (t1 - t0)
                    if t - last >= sensor.refractory:
                        rows.append((t, x, y, after > before))
                        last = t
                before = after
    return np.array(rows, float)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cutoff_hz": 40.0},
        {"leak_hz": 20.0},
        {"refractory": 0.004},
        {"cutoff_hz": 25.0, "leak_hz": 5.0, "refractory": 0.003, "dark": 0.02, "spread": 0.3,
         "threshold": (0.1, 0.3), "balance": (1.3, 0.2)},
    ],
)  # fmt: skip
@pytest.mark.parametrize("illumination", [1.0, 0.1])
def test_equals_a_slow_loop(changes, illumination):
    sensor = replace(SENSORS["ideal"], **changes)
    frames, times = random_clip(1)
    camera, rows = film(sensor, frames, times, illumination=illumination)
    expected = slow(camera, sensor, frames, times, illumination)
    order = [np.lexsort((r[:, 0], r[:, 1], r[:, 2])) for r in (rows, expected)]
    rows, expected = rows[order[0]], expected[order[1]]
    np.testing.assert_array_equal(rows[:, 1:], expected[:, 1:])
    np.testing.assert_allclose(rows[:, 0], expected[:, 0], rtol=0, atol=1e-8)
    assert len(rows) > 200 * illumination


def test_thresholds_are_drawn_for_each_clip_and_spread_over_its_pixels():
    sensor = Sensor("", threshold=(0.1, 0.3), balance=(1.2, 0.05), spread=0.1)
    cameras = [SimulatedCamera(sensor, np.random.default_rng(s), 60, 80) for s in range(200)]
    means = np.array([c.positive.mean() for c in cameras])
    assert kstest((means - 0.1) / 0.2, "uniform").pvalue > 1e-3
    ratios = np.array([c.negative.mean() / c.positive.mean() for c in cameras])
    assert abs(ratios.mean() - 1.2) < 0.02 and abs(ratios.std() - 0.05) < 0.015
    spreads = [c.positive.std() / c.positive.mean() for c in cameras]
    assert 0.09 < min(spreads) and max(spreads) < 0.11


def still(light, seconds, pictures, size=(50, 60)):
    return [np.full(size, light)] * (pictures + 1), np.linspace(1.0, 1.0 + seconds, pictures + 1)


@pytest.mark.parametrize(("light", "rate"), [(0.0, 8.0), (1.0, 2.0), (0.5, 5.0)])
def test_shot_noise_is_poisson_and_less_where_it_is_bright(light, rate):
    sensor = Sensor("", shot_hz=8.0, settled=False)
    _, rows = film(sensor, *still(light, 4.0, 40))
    assert abs(len(rows) - rate * 4 * 3000) < 5 * math.sqrt(rate * 4 * 3000)
    counts = np.bincount((rows[:, 2] * 60 + rows[:, 1]).astype(int), minlength=3000)
    assert abs(counts.var() / counts.mean() - 1) < 5 * math.sqrt(2 / 3000)
    assert abs(rows[:, 3].mean() - 0.5) < 5 * 0.5 / math.sqrt(len(rows))
    gaps = np.diff(rows[:, 0])
    assert kstest(gaps * len(rows) / 4.0, "expon").pvalue > 1e-4
    assert rows[0, 0] > 1.0 and rows[-1, 0] <= 5.0 and (gaps >= 0).all()


def test_sensitive_pixels_are_noisier():
    sensor = Sensor("", shot_hz=20.0, spread=0.2, settled=False)
    camera, rows = film(sensor, *still(0.0, 10.0, 10))
    for sign, thresholds in ((1, camera.positive), (0, camera.negative)):
        pixels = rows[rows[:, 3] == sign]
        pixels = (pixels[:, 2] * 60 + pixels[:, 1]).astype(int)
        counts = np.bincount(pixels, minlength=3000)
        expected = 100 * 0.2 / thresholds.ravel()
        usual = expected < 300
        assert abs((counts / expected)[usual].mean() - 1) < 0.01
        assert np.corrcoef(counts[usual], expected[usual])[0, 1] > 0.8


def test_refractory_time_holds_between_all_events_of_a_pixel():
    """Also between noise and signal; and it costs what it must: rate / (1 + rate x time)."""
    sensor = Sensor("", shot_hz=200.0, refractory=5e-3, settled=False)
    _, rows = film(sensor, *still(0.0, 2.0, 100))
    pixel = rows[:, 2] * 60 + rows[:, 1]
    order = np.lexsort((rows[:, 0], pixel))
    gaps = np.diff(rows[order, 0])[np.diff(pixel[order]) == 0]
    assert gaps.min() >= 5e-3
    assert abs(len(rows) / (2 * 3000) - 200 / (1 + 200 * 5e-3)) < 1.5
    frames, times = random_clip(2)
    _, rows = film(replace(sensor, shot_hz=50.0), frames, times)
    pixel = rows[:, 2] * 6 + rows[:, 1]
    order = np.lexsort((rows[:, 0], pixel))
    assert np.diff(rows[order, 0])[np.diff(pixel[order]) == 0].min() >= 5e-3


def test_leak_gives_brighter_events_at_its_rate():
    sensor = Sensor("", leak_hz=3.0, leak_spread=0.2, spread=0.1)
    _, rows = film(sensor, *still(0.3, 10.0, 25))
    assert rows[:, 3].all()
    mean = 3.0 * math.exp(0.2**2 / 2)
    parts = np.histogram(rows[:, 0], 10, (1.0, 11.0))[0]
    assert abs(parts[1:].mean() / 3000 - mean) < 0.03
    assert parts[1:].max() / parts[1:].min() < 1.05 and parts[0] > 0.8 * parts[1]


def test_less_light_means_less_contrast_slower_pixels_and_more_noise():
    frames, times = random_clip(3, frames=40, height=30, width=40)
    sensor = replace(SENSORS["davis346"], shot_hz=0.0)
    counts = [len(film(sensor, frames, times, illumination=i)[1]) for i in (1.0, 0.1, 0.01)]
    assert counts[0] > 1.5 * counts[1] > 2 * counts[2] > 0
    dark = [len(film(Sensor("", shot_hz=5.0), *still(1.0, 2.0, 4), illumination=i)[1])
            for i in (1.0, 0.01)]  # fmt: skip
    assert 3.4 < dark[1] / dark[0] < 4.4


@pytest.mark.parametrize("name", SENSORS)
def test_every_preset_names_its_source_and_depends_on_the_seed_alone(name):
    assert len(SENSORS[name].source) > 20 and SENSORS[name].source in SENSORS[name].describe()
    frames, times = random_clip(4, frames=20, height=20, width=30)
    one, again, other = (film(SENSORS[name], frames, times, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert len(one) > 100 and (name == "ideal") == np.array_equal(one, other)


def test_presets_tell_what_is_assumed_and_what_was_chosen_on_its_own_test():
    told = {name: sensor.describe() for name, sensor in SENSORS.items()}
    assert "no evidence for others" in told["davis-fitted"]
    for name, said in told.items():
        assert "from memory" not in said
        if "remembered" in said:
            assert "assumed: " in said.partition("remembered")[0], name


def test_a_cut_gives_no_events_and_the_copy_of_the_sensor_stays():
    sensor = replace(SENSORS["davis346"], shot_hz=0.0, leak_hz=0.0)
    camera = SimulatedCamera(sensor, np.random.default_rng(0), 20, 30)
    camera.start(np.zeros((20, 30)), 0.0)
    thresholds = camera.positive.copy()
    camera.start(np.ones((20, 30)), 0.04)
    t, *_ = camera.advance(np.ones((20, 30)), 0.08)
    assert len(t) == 0
    np.testing.assert_array_equal(camera.positive, thresholds)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": (0.3, 0.2)}, {"threshold": (0.001, 0.2)}, {"spread": -0.1},
        {"refractory": math.nan}, {"cutoff_hz": 0.0}, {"shot_hz": -1.0}, {"dark": 0.0},
        {"leak_hz": 1e9}, {"balance": (0.0, 0.0)}, {"leak_spread": 9.0},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))} is out of range"):
        Sensor("", **changes)


def test_bad_pictures_are_refused():
    def camera(illumination=1.0):
        return SimulatedCamera(SENSORS["ideal"], np.random.default_rng(0), 2, 3, illumination)

    with pytest.raises(ConfigError, match="illumination"):
        camera(0.0)
    with pytest.raises(DataError, match="not started"):
        camera().advance(np.zeros((2, 3)), 1.0)
    one = camera()
    with pytest.raises(DataError, match="differ in size"):
        one.start(np.zeros((3, 2)), 0.0)
    with pytest.raises(DataError, match="not finite"):
        one.start(np.full((2, 3), np.nan), 0.0)
    one.start(np.zeros((2, 3)), 1.0)
    with pytest.raises(DataError, match="must increase"):
        one.advance(np.zeros((2, 3)), 1.0)
    with pytest.raises(DataError, match="not finite"):
        one.advance(np.full((2, 3), np.inf), 2.0)
