"""Optical flow and pictures between frames against motions and pictures that are known exactly."""

import numpy as np
import pytest

from scaleevent.errors import DataError
from scaleevent.simulation.flow import optical_flow
from scaleevent.simulation.upsampling import MOST_STEPS, Between, by_flow

rng = np.random.default_rng(8)
WAVES = rng.uniform(-0.9, 0.9, (60, 2)), rng.uniform(0, 6.3, 60)


def texture(x, y):
    """Brightness 0 to 255 at any place, from a sum of waves."""
    waves, phases = WAVES
    total = sum(np.sin(a * x + b * y + c) for (a, b), c in zip(waves, phases, strict=True))
    return np.clip(128 + 14 * total, 0, 255)


def grid(height, width):
    y, x = np.mgrid[:height, :width].astype(float)
    return x, y


def light(brightness):
    """(H, W, 1) linear light whose brightness, as the estimator sees it, is this."""
    return ((brightness / 255) ** 2).astype(np.float32)[..., None]


@pytest.mark.parametrize("size", [(120, 160), (241, 323)])
@pytest.mark.parametrize(
    "motion", [(0.4, -0.3, 1.0, 0.0), (6.5, 3.25, 1.0, 0.0), (-3.0, 2.0, 1.03, 0.02)]
)
def test_flow_of_a_picture_that_shifts_grows_and_turns(size, motion):
    u, v, zoom, turn = motion
    x, y = grid(*size)
    a, b = zoom * np.cos(turn), zoom * np.sin(turn)
    cx, cy = size[1] / 2, size[0] / 2
    new_x = cx + a * (x - cx) - b * (y - cy) + u  # where the point at (x, y) is later
    new_y = cy + b * (x - cx) + a * (y - cy) + v
    dx, dy = x - cx - u, y - cy - v  # and what is then seen at (x, y)
    old_x, old_y = cx + (a * dx + b * dy) / zoom**2, cy + (a * dy - b * dx) / zoom**2
    flow = optical_flow(texture(x, y), texture(old_x, old_y))
    assert flow.shape == (2, *size) and flow.dtype == np.float32
    error = np.hypot(flow[0] - (new_x - x), flow[1] - (new_y - y))[12:-12, 12:-12]
    assert error.mean() < 0.12 and np.quantile(error, 0.95) < 0.25


def test_the_same_picture_and_a_flat_one_do_not_move():
    x, y = grid(60, 80)
    np.testing.assert_allclose(optical_flow(texture(x, y), texture(x, y)), 0, atol=1e-4)
    flat = np.full((60, 80), 99.0)
    np.testing.assert_allclose(optical_flow(flat, flat), 0)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 40)])
def test_small_pictures(size):
    one = np.random.default_rng(1).uniform(0, 255, size)
    assert np.isfinite(optical_flow(one, one[::-1])).all()
    middle = by_flow(light(one), light(one[::-1])).at(0.5)
    assert middle.shape == (*size, 1) and np.isfinite(middle).all()


def test_two_sizes_are_refused():
    with pytest.raises(DataError, match="one size"):
        optical_flow(np.zeros((4, 5)), np.zeros((4, 6)))


def scene(s):
    """A textured square that moves 10 px right and 4 down over a still texture, at time s."""
    x, y = grid(120, 160)
    left, top = 40 + 10 * s, 30 + 4 * s
    inside = (x >= left) & (x < left + 50) & (y >= top) & (y < top + 40)
    return np.where(inside, 0.6 * texture(x - left + 500, y - top), 60 + 0.7 * texture(x, y))


@pytest.mark.parametrize("s", [0.25, 0.5, 0.8])
def test_what_is_hidden_and_what_appears(s):
    """The picture between is far nearer the truth than a fade, at the square's edges too."""
    first, second, truth = (light(scene(k)) for k in (0.0, 1.0, s))
    between = by_flow(first, second)
    assert 10.0 < between.motion < 14.0 and between.matched > 0.9
    ours = np.sqrt(between.at(s)) - np.sqrt(truth)
    fade = np.sqrt((1 - s) * first + s * second) - np.sqrt(truth)
    edge = np.zeros((120, 160), bool)  # whatever the square passes or touches
    edge[26:80, 36:106] = True
    edge[40:64, 56:84] = False
    for part in (np.ones_like(edge), edge):
        assert np.mean(ours[part] ** 2) < 0.3 * np.mean(fade[part] ** 2)


@pytest.mark.parametrize("s", [0.3, 0.7])
def test_what_comes_in_at_the_border_is_taken_from_the_frame_that_shows_it(s):
    x, y = grid(120, 160)
    first, second, truth = (light(texture(x + 5 * k, y)) for k in (0.0, 1.0, s))
    middle = by_flow(first, second).at(s)
    fade = (1 - s) * first + s * second
    for columns in (slice(0, 4), slice(-4, None)):
        ours, plain = (np.sqrt(p[:, columns]) - np.sqrt(truth[:, columns]) for p in (middle, fade))
        assert np.mean(ours**2) < 0.15 * np.mean(plain**2)


def test_nothing_jumps_at_the_frames_and_colours_move_together():
    first, second = (np.repeat(light(scene(k)), 3, 2) * [1, 0.5, 0.25] for k in (0.0, 1.0))
    between = by_flow(first, second)
    assert np.abs(np.sqrt(between.at(1e-4)) - np.sqrt(first)).mean() < 2e-3
    assert np.abs(np.sqrt(between.at(1 - 1e-4)) - np.sqrt(second)).mean() < 2e-3
    middle = between.at(0.5)
    np.testing.assert_allclose(middle[..., 1], 0.5 * middle[..., 0], rtol=1e-5)
    np.testing.assert_allclose(middle[..., 2], 0.25 * middle[..., 0], rtol=1e-5)


def test_motion_of_what_cannot_be_seen_does_not_count():
    flat = np.full((80, 80), 120.0) + np.random.default_rng(2).uniform(-0.5, 0.5, (80, 80))
    assert by_flow(light(flat), light(flat.T)).motion == 0


def test_steps():
    def steps(motion, step=1.0):
        return Between(motion, lambda s: np.zeros((1, 1, 1), np.float32)).steps(step)

    assert [steps(m) for m in (0.0, 0.5, 1.0, 1.2, 7.0, 7.01)] == [1, 1, 1, 2, 7, 8]
    assert steps(7.0, 0.5) == 14 and steps(1e9) == MOST_STEPS


def test_the_same_pictures_give_the_same_bytes():
    first, second = light(scene(0.0)), light(scene(1.0))
    assert by_flow(first, second).at(0.3).tobytes() == by_flow(first, second).at(0.3).tobytes()


def test_the_order_of_questions_does_not_matter():
    first, second = light(scene(0.0)), light(scene(1.0))
    fractions = np.arange(1, 12) / 12
    one, other = by_flow(first, second), by_flow(first, second)
    ascending = {s: one.at(s) for s in fractions}
    for s in np.random.default_rng(0).permutation(fractions):
        np.testing.assert_array_equal(other.at(s), ascending[s])


def test_finer_steps_of_the_moving_part_alone():
    """A tile that nothing crosses fades from frame to frame; one with motion is made often."""
    first, second = light(scene(0.0)), light(scene(1.0))
    middle = by_flow(first, second).at(0.5)
    fade = 0.5 * (first + second)
    np.testing.assert_allclose(middle[96:, 128:], fade[96:, 128:], atol=1e-6)
    assert np.abs(middle - fade)[26:80, 36:106].mean() > 0.02
    rough = by_flow(first, second, step_px=100.0).at(0.5)
    np.testing.assert_allclose(rough, fade, atol=1e-6)
