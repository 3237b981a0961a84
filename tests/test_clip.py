"""Clips through a simulated camera: time, repeated frames, cuts, motion blur."""

from dataclasses import replace

import numpy as np
import pytest

from scaleevent.errors import DataError
from scaleevent.simulation.clip import TO_LIGHT, Filming, film
from scaleevent.simulation.sensor import SENSORS, SimulatedCamera
from scaleevent.simulation.upsampling import Between

rng = np.random.default_rng(0)
WIDE = 40 + 160 * np.kron(rng.random((12, 60)), np.ones((8, 8)))  # blocks of 8 pixels


def view(shift, texture=WIDE):
    """(64, 80, 3) uint8 of the texture, moved left by `shift` pixels."""
    whole, part = int(shift), shift % 1
    left = texture[16:80, 20 + whole : 100 + whole]
    right = texture[16:80, 21 + whole : 101 + whole]
    return np.repeat(np.round((1 - part) * left + part * right)[..., None], 3, 2).astype(np.uint8)


def run(frames, times=None, sensor="ideal", seed=0, **filming):
    times = range(0, 40_000 * len(frames), 40_000) if times is None else times
    height, width, _ = frames[0].shape
    camera = SimulatedCamera(SENSORS[sensor], np.random.default_rng(seed), height, width)
    clip = list(zip(range(len(frames)), times, frames, strict=True))
    return list(film(iter(clip), camera, Filming(**filming)))


def times_of(moments):
    return np.concatenate([m.events.t for m in moments if m.events is not None])


def test_events_lie_between_the_frames_and_are_spread_over_the_time():
    """Without upsampling an edge's events come in a burst; with it, all along the interval."""
    moments = run([view(6 * k) for k in range(5)], [7, 40_007, 90_007, 100_007, 180_007])
    for before, now in zip(moments, moments[1:], strict=False):
        assert len(now.events)
        assert before.time_us <= now.events.t[0] <= now.events.t[-1] <= now.time_us
        counts = np.histogram(now.events.t, 6, (before.time_us, now.time_us))[0]
        assert counts.min() > 0.5 * counts.max()
    assert [m.shot for m in moments] == [0] * 5 and len(moments[0].events) == 0
    np.testing.assert_array_equal(moments[2].image, view(12))


def test_the_events_are_those_of_a_film_that_shows_every_step():
    """Six frames 6 px apart against the same film at 1 px: nearly the same events."""
    coarse = run([view(6 * k) for k in range(6)])
    fine = run([view(k) for k in range(31)], np.arange(31) * 40_000 // 6)

    def counted(moments, p):
        grid = np.zeros((64, 80))
        for m in moments:
            np.add.at(grid, (m.events.y[m.events.p == p], m.events.x[m.events.p == p]), 1)
        return grid[8:-8, 8:-40].ravel()

    for p in (0, 1):
        ours, truth = counted(coarse, p), counted(fine, p)
        assert abs(ours.sum() / truth.sum() - 1) < 0.1
        assert np.corrcoef(ours, truth)[0, 1] > 0.9


def test_repeated_frames_of_a_rate_conversion_do_not_stop_the_motion():
    """24 frames shown as 30: every fourth comes twice."""
    shifts = [0, 2, 4, 6, 6, 8, 10, 12, 14, 14, 16]
    moments = run([view(s) for s in shifts])
    assert [m.events is None for m in moments] == [k in (4, 9) for k in range(11)]
    during = [times_of(moments[:6]), times_of(moments[:4])]
    halves = np.histogram(np.setdiff1d(*during), 2, (120_000, 200_000))[0]
    assert halves.min() > 0.7 * halves.max()  # it goes on through the repeat
    assert [m.index for m in moments] == list(range(11))


def test_a_still_scene_stays_still():
    moments = run([view(0)] * 7 + [view(2)])
    t = times_of(moments)
    assert len(t) and t.min() >= 6 * 40_000


def test_noise_goes_on_in_a_still_scene():
    noisy = replace(SENSORS["ideal"], shot_hz=50.0)
    camera = SimulatedCamera(noisy, np.random.default_rng(0), 64, 80)
    clip = [(k, 40_000 * k, view(0 if k < 20 else 1)) for k in range(22)]
    t = times_of(list(film(iter(clip), camera, Filming(step_px=100))))
    counts = np.histogram(t[t < 19 * 40_000], 10)[0]
    assert counts.min() > 0.8 * counts.max() > 0


@pytest.mark.parametrize("shutter", [0, 20_000])
def test_no_events_across_a_cut(shutter):
    other = 40 + 160 * np.kron(np.random.default_rng(9).random((12, 60)), np.ones((8, 8)))
    frames = [view(2 * k) for k in range(4)] + [view(2 * k, other) for k in range(4)]
    moments = run(frames, shutter_us=shutter)
    assert [m.shot for m in moments] == [0] * 4 + [1] * 4
    assert [m.index for m in moments] == list(range(8))
    assert len(moments[4].events) == 0
    t = times_of(moments)
    assert not ((t > 120_000) & (t < 160_000)).any()
    alone = run(frames[4:], range(160_000, 320_000, 40_000), shutter_us=shutter)
    np.testing.assert_array_equal(times_of(moments[4:]), times_of(alone))
    for ours, one in zip(moments[4:], alone, strict=True):
        np.testing.assert_array_equal(ours.image, one.image)


def test_motion_blur_is_light_added_up_while_the_shutter_is_open():
    frames = [view(8 * k) for k in range(3)]
    moments = run(frames, shutter_us=40_000)
    light = TO_LIGHT["srgb"]
    truth = np.mean([light[view(8 + s)] for s in np.linspace(-4, 4, 9)], axis=0)
    error = np.abs(light[moments[1].image] - truth)[:, 8:-8]
    sharp = np.abs(light[frames[1]] - truth)[:, 8:-8]
    assert error.mean() < 0.15 * sharp.mean()
    for before, after in zip(run(frames), moments, strict=True):
        np.testing.assert_allclose(before.events.t, after.events.t, atol=50)


def test_blur_weighs_light_by_its_time_not_by_the_number_of_pictures():
    """Slow before the frame, fast after it: half of the exposure belongs to either side."""

    def grey(value):
        return np.full((64, 80, 3), value, np.uint8)

    def fade(first, second):
        slow = first.mean() < 0.1
        return Between(16.0 if slow else 120.0, lambda s: (1 - s) * first + s * second)

    moments = run([grey(20), grey(200), grey(190)], between=fade, shutter_us=80_000)
    before, at, after = TO_LIGHT["srgb"][[20, 200, 190]]
    found = TO_LIGHT["srgb"][moments[1].image].mean()
    assert abs(found - (before + 2 * at + after) / 4) < 0.02 * at


@pytest.mark.parametrize("shutter", [0, 40_000])
def test_a_long_still_scene_is_told_as_it_goes_and_blurs_nothing_before_it(shutter):
    """Its frames and its noise do not pile up, and what moves after it is not seen in it."""
    noisy = replace(SENSORS["ideal"], shot_hz=50.0)
    camera = SimulatedCamera(noisy, np.random.default_rng(0), 64, 80)
    asked = []

    def clip():
        for k in range(42):
            asked.append(k)
            yield k, 40_000 * k, view(max(0, 4 * (k - 39)))

    waiting, moments = [], []
    for moment in film(clip(), camera, Filming(shutter_us=shutter)):
        moments.append(moment)
        waiting.append(asked[-1] - moment.index)
    assert [m.index for m in moments] == list(range(42)) and max(waiting) <= 3
    assert [m.index for m in moments if m.repeats] == list(range(1, 40))
    still = [len(m.events) for m in moments[4:40]]
    assert 0.5 * 50 * 0.04 * 5120 < min(still) and max(still) < 1.5 * 50 * 0.04 * 5120
    for moment in moments[:40]:
        np.testing.assert_array_equal(moment.image, view(0))
    t = times_of(moments)
    assert (np.diff(t) >= 0).all()


def test_blur_of_frames_that_repeat():
    moments = run([view(s) for s in (0, 4, 4, 8)], shutter_us=10_000)
    assert [m.index for m in moments] == [0, 1, 2, 3] and moments[2].events is None


def test_a_learned_interpolator_can_take_the_place():
    """Any callable: here a fade, asked for the fractions that its motion needs."""
    asked = []

    def fade(first, second):
        def at(s):
            asked.append(s)
            return (1 - s) * first + s * second

        return Between(3.5, at)

    moments = run([view(0), view(3)], between=fade)
    assert asked == [0.25, 0.5, 0.75] and len(moments[1].events)


def test_bright_flicker_is_no_cut():
    frames = [np.clip(view(k) * f, 0, 255).astype(np.uint8)
              for k, f in enumerate((1, 0.85, 1, 0.8))]  # fmt: skip
    assert run(frames)[-1].shot == 0


def test_too_fast_for_the_steps_is_told():
    def jump(first, second):
        return Between(1000.0, lambda s: first)

    assert [m.capped for m in run([view(0), view(1)], between=jump)] == [False, True]


def test_bad_frames_are_refused():
    with pytest.raises(DataError, match="must increase"):
        run([view(0), view(1)], [5, 5])
    with pytest.raises(DataError, match="differ in size"):
        camera = SimulatedCamera(SENSORS["ideal"], rng, 64, 80)
        list(film([(0, 0, view(0)), (1, 1, view(0)[:32])], camera, Filming()))


@pytest.mark.parametrize("sensor", SENSORS)
def test_seed_alone_decides(sensor):
    frames = [view(3 * k) for k in range(4)]
    one, again, other = (run(frames, sensor=sensor, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(times_of(one), times_of(again))
    assert (sensor == "ideal") == np.array_equal(times_of(one), times_of(other))
