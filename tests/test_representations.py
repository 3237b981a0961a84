"""Every representation against the recorded output of its reference."""

from functools import partial

import numpy as np
import pytest
from conftest import DATA, random_events

from scaleevent.commands import voxelize as voxelize_command
from scaleevent.config import catalog
from scaleevent.config.catalog import NORMALISERS
from scaleevent.config.data import VoxelizeConfig
from scaleevent.errors import DataError
from scaleevent.grids import representations as r
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import InputSettings, voxel_input
from scaleevent.grids.representations import REPRESENTATIONS, Columns, represent
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.store import PairStore
from tests.event_files import evt2_words, some_events, write_raw

EXACT, SUMS, NORMED = 0.0, 2e-6, 5e-6
GOLDEN = {
    "dae_histogram": (r.dae_histogram, EXACT),
    "dae_voxel_norm__B5": (lambda e: r.population_norm(r.dsec(e, 5)), NORMED),
    "e2vid_norm__B5": (lambda e: r.population_norm(r.e2vid(e, 5)), NORMED),
    "eraft_mvsec_norm__B5": (lambda e: r.unbiased_norm(r.e2vid(e, 5)), NORMED),
    "ess_histogram": (r.count, EXACT),
    "ess_voxel__B5": (lambda e: r.ess(e, 5), SUMS),
    "ess_voxel_norm__B5": (lambda e: r.population_norm(r.ess(e, 5)), NORMED),
    "ess_voxel_sep__B3": (lambda e: r.ess(e, 3, apart=True), SUMS),
    "event_utils_numpy__B3": (lambda e: r.event_utils(e, 3), SUMS),
    "event_utils_torch__B5": (lambda e: r.event_utils(e, 5), SUMS),
    "openeb_cube__nb5_dt50000_incr4_clip1": (
        lambda e: r.openeb_cube(e, 5, 50_000, 4, 1, apart=False), EXACT),
    "openeb_cube_split__nb3_dt50000": (
        lambda e: r.openeb_cube(e, 3, 50_000, 1, 100, apart=True), EXACT),
    "openeb_diff__incr5_clip1": (lambda e: r.openeb_difference(e, 5, 1), EXACT),
    "openeb_histo__incr5_clip1": (lambda e: r.openeb_histogram(e, 5, 1), EXACT),
    "openeb_event_volume_bilinear__nb5_dt50000": (
        lambda e: r.openeb_volume(e, 5, 0, 50_000), SUMS),
    "openeb_event_volume_nearest__nb5_dt50000": (
        lambda e: r.openeb_volume(e, 5, 0, 50_000, nearest=True), SUMS),
    "tencode": (r.tencode, 1e-6),
    "tencode_white": (partial(r.tencode, white=True), 1e-6),
    "tonic_frame_bins__3": (lambda e: r.tonic_frames(e, r.tonic_slices(e, bins=3)), EXACT),
    "tonic_frame_count__700": (
        lambda e: r.tonic_frames(e, r.tonic_slices(e, events_each=700)), EXACT),
    "tonic_frame_window__15000": (
        lambda e: r.tonic_frames(e, r.tonic_slices(e, window_us=15_000)), EXACT),
    "tonic_timesurface__dt15000_tau20000": (
        lambda e: r.tonic_time_surface(e, 15_000, 20_000), 1e-6),
}  # fmt: skip
for _bins in (3, 5, 15):
    GOLDEN |= {
        f"dsec_raw__B{_bins}": (partial(r.dsec, bins=_bins), SUMS),
        f"dsec_norm__B{_bins}": (lambda e, b=_bins: r.unbiased_norm(r.dsec(e, b)), NORMED),
        f"e2vid_numpy__B{_bins}": (partial(r.e2vid_numpy, bins=_bins), SUMS),
        f"e2vid_torch__B{_bins}": (partial(r.e2vid, bins=_bins), SUMS),
        f"tonic_voxel__B{_bins}": (lambda e, b=_bins: r.tonic(e, b)[:, None], EXACT),
    }

with np.load(DATA / "representations.npz") as _archive:
    RECORDED = {key: _archive[key] for key in _archive.files}


def recorded_case(name: str) -> Columns:
    """Events as given to the references: some with fractions of pixels, some out of order."""
    with np.load(DATA / "events.npz") as archive:
        return Columns(*(archive[f"{name}__{c}"] for c in "txyp"), *map(int, archive["hw"]))


@pytest.mark.parametrize("key", RECORDED)
def test_equals_the_reference(key):
    case, name = key.split("__", 1)
    make, tolerance = GOLDEN[name]
    found, expected = make(recorded_case(case)), RECORDED[key]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0, equal_nan=True)


def test_every_recorded_representation_is_there():
    assert {key.split("__", 1)[1] for key in RECORDED} == set(GOLDEN) - {
        f"{name}__B15" for name in ("e2vid_numpy", "e2vid_torch", "tonic_voxel")
    }
    assert len(RECORDED) == 164


@pytest.mark.parametrize("name", ["dsec_raw__B3", "dsec_norm__B5", "e2vid_numpy__B3",
                                  "e2vid_torch__B5", "ess_voxel__B5", "tonic_voxel__B3",
                                  "event_utils_numpy__B3"])  # fmt: skip
def test_no_events_give_zeros_where_the_reference_raises(name):
    grid = GOLDEN[name][0](recorded_case("empty"))
    assert grid.shape[-2:] == (36, 48) and not grid.any()


# By name, of a window


EVENTS = random_events(4000, 24, 32, 60_000, 0, start_us=10_000)
WINDOW = Window(20_000, 50_000)
CHANNELS = {"count": 2, "frame": 1, "time_surface": 2, "tencode": 3}


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_a_representation_of_a_window(name):
    grid = represent(name, EVENTS, WINDOW, 5)
    assert grid.shape == (CHANNELS.get(name, 5), 24, 32) and grid.dtype == np.float32
    assert np.isfinite(grid).all() and grid.any()
    inside = EVENTS.between(WINDOW.start_us, WINDOW.end_us)
    np.testing.assert_array_equal(grid, represent(name, inside, WINDOW, 5))
    empty = represent(name, EVENTS, Window(0, 5), 5)
    assert empty.shape == grid.shape and not empty.any()


def test_integer_pixels_give_one_grid_by_many_names():
    inside = EVENTS.between(WINDOW.start_us, WINDOW.end_us)
    expected = voxelize(inside, bins=5)
    for name in ("e2vid", "dsec", "ess", "event_utils"):
        np.testing.assert_allclose(represent(name, EVENTS, WINDOW, 5), expected, atol=3e-5)


def test_counts_frames_and_surfaces_say_what_they_say():
    inside = EVENTS.between(WINDOW.start_us, WINDOW.end_us)
    off, on = represent("count", EVENTS, WINDOW)
    assert off.sum() + on.sum() == len(inside) and on.sum() == inside.p.sum()
    np.testing.assert_array_equal(represent("frame", EVENTS, WINDOW)[0], on - off)
    surface = represent("time_surface", EVENTS, WINDOW)
    newest = inside[-1:]
    where = newest.p[0], newest.y[0], newest.x[0]
    age = (WINDOW.end_us - newest.t[0]) / 30_000
    assert surface[where] == pytest.approx(np.exp(-age)) == surface.max()
    assert ((surface > 0) == np.stack([off, on]).astype(bool)).all()


def test_names_of_settings_are_those_of_the_code():
    assert set(catalog.REPRESENTATIONS) == set(REPRESENTATIONS)


# Normalisers, compared with the references


@pytest.mark.parametrize(("name", "reference"), [
    ("std_pop", r.population_norm), ("std_unbiased", r.unbiased_norm)])  # fmt: skip
def test_normalisers_by_deviation_equal_the_references(name, reference):
    grid = r.dsec(recorded_case("uniform"), 3)
    found, scale, shift = NORMALISERS[name].load()(grid.copy())
    np.testing.assert_allclose(found, reference(grid.astype(np.float64)), atol=NORMED, rtol=0)
    assert (scale, shift) == (1, 0) and ((found == 0) == (grid == 0)).all()


def test_eight_bits_are_whole_numbers():
    grid = r.e2vid(recorded_case("bar"), 3)
    for name in ("minmax", "symmetric"):
        levels, scale, shift = NORMALISERS[f"{name}8"].load()(grid.copy())
        assert (scale, shift) == (1 / 255, 0)
        assert (levels == np.rint(levels)).all() and levels.min() >= 0 and levels.max() <= 255
        same, exact_scale, exact_shift = NORMALISERS[name].load()(grid.copy())
        np.testing.assert_allclose(levels / 255, same * exact_scale + exact_shift, atol=0.5 / 254)
    assert NORMALISERS["symmetric8"].load()(grid.copy())[0][grid == 0][0] == 128


def test_a_hot_pixel_does_not_take_all_the_range():
    grid = r.e2vid(recorded_case("uniform"), 3)
    grid[0, 0, 0] = 1000
    plain, robust = (
        np.ptp(NORMALISERS[n].load()(grid.copy())[0][1]) for n in ("symmetric8", "robust8")
    )
    assert robust > 100 > 5 > plain


@pytest.mark.parametrize("name", NORMALISERS)
@pytest.mark.parametrize("values", [[], [1], [-3], [2, 2, 2], [1, -1], [1e30, -1e30], [1e-30]])
def test_normalisers_are_finite(name, values):
    grid = np.zeros((3, 8, 8), np.float32)
    grid.reshape(-1)[: len(values)] = values
    assert np.isfinite(voxel_input(grid, Fit(8, 8, 8, 8), name)).all()


# The command


def test_voxelize_stores_any_representation_and_training_refuses_it(tmp_path):
    events = some_events(20_000, span_us=200_000)
    path = write_raw(tmp_path / "a.raw", evt2_words(events), "evt 2.0", "geometry 240x180", "end")
    stores = {}
    for name in ("zhu", "count"):
        cfg = VoxelizeConfig(root=path, out=tmp_path / name, representation=name)
        counts = voxelize_command.run(cfg, quiet=True).facts["counts"]
        stores[name] = PairStore(tmp_path / name), counts["cells active"]
    store, active = stores["count"]
    assert store.representation == "count" and active == stores["zhu"][1]
    shard, row = store.locate(0)
    window = Window(*map(int, store.windows_us[0]))
    np.testing.assert_array_equal(shard.voxel(row, 2), represent("count", events, window))
    settings = InputSettings(48, 64, 8)
    with pytest.raises(DataError, match="representation"):
        PairSamples([store], settings)
    PairSamples([stores["zhu"][0]], settings)
