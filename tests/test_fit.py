"""One `Fit` for events, images, labels, depth and flow, against slow independent computations."""

from math import floor

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage, optimize

from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.events import Events
from scaleevent.grids.density import patch_density
from scaleevent.grids.geometry import Fit, homography_map, pixel_grid, warp_image
from scaleevent.grids.inputs import InputSettings, image_input
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.task import nearest

SENSORS = {
    "DSEC": (480, 640), "DAVIS346": (260, 346), "Gen4": (720, 1280), "KITTI": (375, 1242),
    "EventScape": (256, 512), "ATIS": (240, 304), "upright": (640, 480),
}  # fmt: skip
TARGET = (240, 320)
RADIUS = 6.0


def fits(pad: bool) -> dict[str, Fit]:
    return {name: Fit(*size, *TARGET, pad=pad) for name, size in SENSORS.items()}


def stretch(fit: Fit) -> float:
    down, across = fit.scale
    return abs(down / across - 1)


def in_input(x: float, y: float, fit: Fit) -> tuple[float, float]:
    """A sensor's point in the input, by scalar arithmetic on a box of its own."""
    shape = fit.target_width / fit.target_height
    rows, columns = fit.height, fit.width
    if abs(shape * rows / columns - 1) > 0.01:
        if (columns > shape * rows) != fit.pad:
            columns = round(rows * shape)
        else:
            rows = round(columns / shape)
    u = (x - (fit.width - columns) // 2 + 0.5) * fit.target_width / columns - 0.5
    v = (y - (fit.height - rows) // 2 + 0.5) * fit.target_height / rows - 0.5
    return u, v


def centred(points: np.ndarray, fit: Fit) -> np.ndarray:
    """The same without whole pixels: centre on centre, one scale."""
    scales = (fit.target_height / fit.height, fit.target_width / fit.width)
    scale = min(scales) if fit.pad else max(scales)
    middle = np.array([fit.width, fit.height]) / 2
    return (points + 0.5 - middle) * scale + [TARGET[1] / 2 - 0.5, TARGET[0] / 2 - 0.5]


def seen_by_frames(matrix: np.ndarray, x: float, y: float) -> tuple[float, float]:
    a, b, c = (row[0] * x + row[1] * y + row[2] for row in matrix.tolist())
    return a / c, b / c


def discs(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) number, from 1, of the point that is within `RADIUS` of each pixel's centre."""
    y, x = np.mgrid[:height, :width]
    found = np.zeros((height, width), np.uint8)
    for number, (px, py) in enumerate(points, 1):
        found[np.hypot(x - px, y - py) <= RADIUS] = number
    return found


def centres(values: np.ndarray, near: np.ndarray, reach: int = 14) -> np.ndarray:
    """Centre of gravity of (H, W) values around each of some points."""
    found = []
    for x, y in near.round().astype(int):
        part = np.s_[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        weight = values[part].astype(np.float64)
        rows, columns = np.mgrid[part]
        found.append([(weight * columns).sum(), (weight * rows).sum()] / weight.sum())
    return np.array(found)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("name", SENSORS)
def test_planted_points_agree_within_half_a_pixel(name, pad):
    """Discs as a frame camera sees them, as events and as a label: each where it belongs."""
    fit = fits(pad)[name]
    height, width = fit.height, fit.width
    rng = np.random.default_rng(height + pad)
    side = min(height, width * 3 / 4)
    matrix = np.array([[1.3, 0.04, 9.0], [-0.03, 1.28, 14.0], [4e-5, -3e-5, 1.0]])
    grid = np.array([(a, b) for a in (-0.35, 0.0, 0.35) for b in (-0.33, 0.0, 0.33)])
    on_sensor = grid * [side * 4 / 3, side] + [width / 2, height / 2] + rng.uniform(-3, 3, (9, 2))
    on_frame = np.array([seen_by_frames(matrix, x, y) for x, y in on_sensor])
    # the other way round, by a solver: what the frame camera sees comes from that event pixel
    back = optimize.fsolve(
        lambda p: np.subtract(seen_by_frames(matrix, *p), on_frame[0]), on_sensor[0] + 5
    )
    np.testing.assert_allclose(back, on_sensor[0], atol=1e-6)
    expected = np.array([in_input(x, y, fit) for x, y in on_sensor])
    np.testing.assert_allclose(fit.to_input(on_sensor), expected, atol=1e-9)
    np.testing.assert_allclose(expected, centred(on_sensor, fit), atol=max(fit.scale))
    np.testing.assert_allclose(fit.to_sensor(fit.to_input(on_sensor)), on_sensor, atol=1e-9)

    frame_size = (floor(1.6 * height) + 60, floor(1.6 * width) + 60)
    frame = np.where(discs(on_frame, *frame_size), 255, 0).astype(np.uint8)
    frame = np.rint(ndimage.gaussian_filter(frame.astype(np.float64), 1)).astype(np.uint8)
    warped, valid = warp_image(frame, homography_map(matrix, pixel_grid(height, width)))
    assert valid.any()
    pixels = image_input(np.repeat(warped[..., None], 3, 2), fit, (0, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(centres(pixels[0], expected), expected, atol=0.5)

    label = discs(on_sensor, height, width)
    y, x = np.nonzero(label)
    events = Events.from_columns(
        t=np.arange(len(x)), x=x, y=y, p=np.ones(len(x), int), height=height, width=width
    )
    settings = InputSettings(*TARGET, 16, normaliser="none", mean=(0, 0, 0), std=(1, 1, 1), pad=pad)
    assert settings.fit(height, width) == fit
    voxel = settings.prepare(voxelize(events, Window(0, len(x)), 3), fit).sum(0)
    np.testing.assert_allclose(centres(voxel, expected), expected, atol=0.5)
    fitted = nearest(label, fit)
    assert set(np.unique(fitted)) == {*range(10), *([255] if fit.pads else [])}
    for number, where in enumerate(expected, 1):
        own = centres(fitted == number, where[None])
        np.testing.assert_allclose(own[0], where, atol=0.5)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("name", SENSORS)
def test_depth_keeps_its_values_and_flow_moves_points_where_they_move(name, pad):
    fit = fits(pad)[name]
    y, x = np.mgrid[: fit.height, : fit.width].astype(np.float64)
    depth = (2 + x / 50 + y / 90).astype(np.float32)
    flow = np.stack([3 + x / 200, -2 + y / 150]).astype(np.float32)
    depths, flows = Depth().target(depth, fit, ""), Flow().target(flow, fit, "")
    places = fit.to_sensor(pixel_grid(*TARGET))
    inside = ((places >= 0) & (places <= [fit.width - 1, fit.height - 1])).all(-1)
    assert inside.mean() > 0.39 and (pad or inside.mean() > 0.97)
    rows, columns = (ndimage.map_coordinates(values, places[..., ::-1].transpose(2, 0, 1), order=1)
                     for values in (y, x))  # fmt: skip
    np.testing.assert_allclose(depths[inside], (2 + columns / 50 + rows / 90)[inside], atol=0.05)
    moved = places + np.stack([3 + columns / 200, -2 + rows / 150], -1)
    expected = np.array([[in_input(*one, fit) for one in line] for line in moved[::40, ::40]])
    found = (pixel_grid(*TARGET) + flows.transpose(1, 2, 0))[::40, ::40]
    np.testing.assert_allclose(found[inside[::40, ::40]], expected[inside[::40, ::40]], atol=0.5)
    beyond = (places < -0.6).any(-1) | (places > [fit.width - 0.4, fit.height - 0.4]).any(-1)
    assert beyond.any() == fit.pads
    assert np.isnan(depths[beyond]).all() and np.isnan(flows[:, beyond]).all()


@pytest.mark.parametrize("fit", [Fit(260, 346, 480, 640), Fit(720, 1280, 240, 320)])
def test_an_image_warped_by_fitted_flow_is_the_other_fitted_image(fit):
    y, x = np.mgrid[: fit.height, : fit.width].astype(np.float64)
    flow = np.stack([6 + x / 100, -5 + y / 80])
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=x.shape), 6)
    second = np.rint(127 + 60 * noise / noise.std()).clip(0, 255)
    first = ndimage.map_coordinates(second, (y + flow[1], x + flow[0]), order=1, mode="nearest")
    images = [
        image_input(np.repeat(np.rint(one).astype(np.uint8)[..., None], 3, 2), fit)[0] * 0.229
        for one in (first, second)
    ]
    v, u = np.mgrid[: fit.target_height, : fit.target_width].astype(np.float64)
    target = Flow().target(flow.astype(np.float32), fit, "")

    def off(values):
        warped = ndimage.map_coordinates(images[1], (v + values[1], u + values[0]), order=1)
        return np.abs(warped - images[0])[20:-20, 20:-20].mean()

    assert off(target) < 0.02 < 0.06 < min(off(target * 0), off(nearest(flow, fit)))


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("name", SENSORS)
def test_predictions_come_back_to_their_own_pixels(name, pad):
    fit = fits(pad)[name]
    label = np.random.default_rng(1).integers(0, 9, (fit.height, fit.width), np.uint8)
    back = fit.onto_sensor(fit.crop_label(label), 255)
    assert back.dtype == np.uint8 and back.shape == label.shape
    kept = back != 255
    assert np.array_equal(back[kept], label[kept])
    top, left, rows, columns = fit.crop
    assert kept.sum() == min(rows, fit.height) * min(columns, fit.width)
    assert fit.crop_label(label)[fit.on_sensor].size == kept.sum()
    coarse = nearest(label, fit)  # a prediction that is right, at the input's size
    for y, x in np.argwhere(kept)[:: kept.sum() // 40]:
        u, v = fit.to_input(np.array([x, y], float))
        near = coarse[max(floor(v), 0) : floor(v) + 2, max(floor(u), 0) : floor(u) + 2]
        assert min(fit.scale) < 1 or back[y, x] in near


@given(
    st.integers(8, 1300), st.integers(8, 1300), st.integers(1, 5), st.integers(1, 5),
    st.sampled_from([4, 16]), st.booleans(),
)  # fmt: skip
def test_no_sensor_is_stretched_by_more_than_a_hundredth(height, width, h, w, patch, pad):
    fit = Fit(height, width, h * patch, w * patch, pad=pad)
    top, left, rows, columns = fit.crop
    assert stretch(fit) <= 0.01
    across = min(height * w / h, width), max(height * w / h, width)
    if pad:
        assert rows >= height and columns >= width and columns <= across[1] + w + 1
        assert fit.pads == (rows > height or columns > width) and top <= 0 and left <= 0
    else:
        assert rows <= height and columns <= width and columns >= across[0] - w - 1
        assert not fit.pads and top >= 0 and left >= 0
    gaps = (top + top + rows - height, left + left + columns - width)
    assert all(gap in (-1, 0) for gap in gaps)  # centred


@given(
    st.integers(4, 60), st.integers(4, 60), st.integers(1, 4), st.integers(1, 4),
    st.sampled_from([4, 8]),
)  # fmt: skip
def test_tokens_of_a_padded_sensor_by_brute_force(height, width, h, w, patch):
    fit = Fit(height, width, h * patch, w * patch, pad=True)
    assume(fit.pads)
    rows, columns = fit.cells(patch)
    fine = (pixel_grid(h * patch * 8, w * patch * 8) + 0.5) / 8 - 0.5  # eighths of input pixels
    inside = (
        (fit.to_sensor(fine) + 0.5 >= 0) & (fit.to_sensor(fine) + 0.5 <= [width, height])
    ).all(-1)
    brute = inside.reshape(h, patch * 8, w, patch * 8).mean((1, 3))
    shown = fit.shown(patch)
    np.testing.assert_allclose(shown, brute, atol=1.1 / (patch * 8))
    voxel = np.ones((3, height, width), np.float32)
    density = patch_density(voxel, patch, fit)
    assert density.shape == shown.shape == (h, w)
    assert ((density == 0) == (shown == 0)).all() and set(np.unique(density)) <= {0.0, 3.0}
    for number, pixel, edges in ((height, 1, rows), (width, 0, columns)):
        for k in range(number):
            centre = (fit.to_input(np.full(2, k))[pixel] + 0.5) / patch
            if abs(centre - round(centre)) > 1e-9:
                assert edges[floor(centre)] <= k < edges[floor(centre) + 1]


def test_only_named_protocols_stretch():
    labels = {"dsec-semantic": (440, 640), "ddd17-seg": (200, 346)}
    for name, benchmark in BENCHMARKS.items():
        camera = (96, 128) if name.startswith("street") else (480, 640)
        size = labels.get(name, (260, 346) if name.startswith("mvsec") else camera)
        fit = Fit(*size, *benchmark.size, stretch=benchmark.stretch)
        assert fit.crop == (0, 0, *size), name
        said = [note for note in benchmark.notes if "shows the whole label" in note]
        assert bool(said) == (stretch(fit) > 0.01) == (benchmark.stretch > 0.01), name
        if said:
            assert said[0].endswith(f"{100 * stretch(fit):.1f} % higher")
