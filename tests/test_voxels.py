"""The voxel kernel against recorded grids of the reference code, a float64 oracle, and itself."""

import threading

import numpy as np
import pytest
from conftest import DATA, random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.grids import voxels
from scaleevent.grids.voxels import voxelize, voxelize_packed
from scaleevent.grids.windows import Window
from scaleevent.packing import PackedEvents
from scaleevent.system.allocator import zeros_for_scatter

CASES = ["uniform", "bar", "gps_time", "all_pos", "all_neg", "single", "same_t", "two", "cancel"]


def oracle(events: Events, window: Window | None, bins: int) -> np.ndarray:
    """The published formula in float64, times as exact integers until the division."""
    t = events.t
    start, end = (window.start_us, window.end_us) if window else (t[0], t[-1])
    inside = (t >= start) & (t < end) if window else np.ones(len(t), bool)
    span = max(int(end) - int(start), 1)
    grid = np.zeros((bins + 1, events.height, events.width))
    low, rest = np.divmod((t[inside] - start) * (bins - 1), span)
    f = rest / span
    sign = events.p[inside] * 2.0 - 1.0
    y, x = events.y[inside], events.x[inside]
    np.add.at(grid, (low, y, x), sign * (1 - f))
    np.add.at(grid, (low + 1, y, x), sign * f)
    return grid[:bins]


def assert_within_stated_error(grid: np.ndarray, exact: np.ndarray) -> None:
    error = np.abs(grid - exact)
    allowed = 2e-5 + 2.0**-23 * np.abs(exact)
    worst = np.unravel_index(np.argmax(error - allowed), error.shape)
    assert np.all(error <= allowed), f"{grid[worst]} for {exact[worst]} at {worst}"


def one_pixel(t: np.ndarray, p: np.ndarray) -> Events:
    zeros = np.zeros(len(t), np.uint16)
    return Events(t.astype(np.int64), zeros, zeros, p.astype(np.uint8), 1, 1)


# Recorded grids of the reference code


def recorded_case(name: str) -> Events:
    with np.load(DATA / "events.npz") as archive:
        height, width = map(int, archive["hw"])
        columns = {c: archive[f"{name}__{c}"] for c in "txyp"}
    return Events.from_columns(**columns, height=height, width=width)


@pytest.mark.parametrize("bins", [3, 5])
@pytest.mark.parametrize("reference", ["e2vid_numpy", "e2vid_torch"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_code(name, reference, bins):
    with np.load(DATA / "representations.npz") as archive:
        expected = archive[f"{name}__{reference}__B{bins}"]
    np.testing.assert_allclose(
        voxelize(recorded_case(name), bins=bins), expected, atol=2e-6, rtol=0
    )


def test_empty_case_gives_zeros_where_the_reference_raises():
    grid = voxelize(recorded_case("empty"), bins=3)
    assert grid.shape == (3, 36, 48)
    assert not grid.any()


def test_unsorted_case_is_refused():
    with pytest.raises(DataError, match="not sorted"):
        recorded_case("unsorted")


def test_opposite_events_cancel_to_exact_zero():
    grid = voxelize(recorded_case("cancel"), bins=5)
    assert np.count_nonzero(grid) == np.count_nonzero(oracle(recorded_case("cancel"), None, 5))


# Against the oracle


@pytest.mark.parametrize("bins", [1, 2, 3, 5, 16, 200])
@pytest.mark.parametrize("window", [None, Window(2_000, 45_000), Window(-9_000, 61_003)])
def test_equals_the_oracle(bins, window):
    events = random_events(30_000, 24, 31, 50_000, seed=bins)
    assert_within_stated_error(voxelize(events, window, bins), oracle(events, window, bins))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2), st.integers(0, 1)), max_size=25),
    st.integers(-5, 40),
    st.integers(0, 40),
    st.integers(1, 9),
)
@settings(deadline=None)
def test_equals_the_oracle_on_any_small_window(rows, start, length, bins):
    rows = sorted(rows)
    t, x, p = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    events = Events.from_columns(t, x, np.zeros(len(t), int), p, 1, 3)
    window = Window(start, start + length)
    assert_within_stated_error(voxelize(events, window, bins), oracle(events, window, bins))


def test_planted_events_at_edges():
    """Window [100, 500), 5 bins: normalised time (t - 100) / 100."""
    t = np.array([99, 100, 150, 200, 299, 300, 499, 500])
    p = np.array([1, 1, 1, 0, 1, 1, 1, 1])
    grid = voxelize(one_pixel(t, p), Window(100, 500), 5)[:, 0, 0]
    expected = [1 + 0.5, 0.5 - 1 + 0.01, 0.99 + 1, 0.01, 0.99]
    np.testing.assert_allclose(grid, expected, atol=1e-6)


def test_events_outside_the_window_are_left_out():
    events = random_events(5_000, 10, 12, 10_000, seed=3)
    window = Window(3_000, 7_000)
    inside = events.between(3_000, 7_000)
    assert 0 < len(inside) < len(events)
    np.testing.assert_array_equal(voxelize(events, window, 4), voxelize(inside, window, 4))


def test_degenerate_spans():
    same = random_events(50, 4, 4, 1, seed=0, start_us=77)
    grid = voxelize(same, bins=4)
    assert_within_stated_error(grid, oracle(same, None, 4))
    assert not grid[1:].any()
    assert not voxelize(same, Window(77, 77), 4).any()  # half-open and empty
    assert not voxelize(Events.empty(4, 4), Window(0, 10), 4).any()
    assert_within_stated_error(voxelize(same, Window(77, 78), 4), oracle(same, Window(77, 78), 4))


@pytest.mark.parametrize("span", [2**30, 2**31 - 1, 2**31, 2**31 + 1, 2**33 + 5, 2**45])
@pytest.mark.parametrize("bins", [2, 3, 16])
def test_huge_spans(span, bins):
    events = random_events(20_000, 9, 7, span, seed=4, start_us=-(2**40))
    window = Window(-(2**40), -(2**40) + span)
    assert_within_stated_error(voxelize(events, window, bins), oracle(events, window, bins))
    assert_within_stated_error(voxelize(events, None, bins), oracle(events, None, bins))


def test_epoch_time_changes_nothing():
    near = random_events(20_000, 9, 7, 50_000, seed=5)
    offset = 1_600_000_000_000_000
    far = Events(near.t + offset, near.x, near.y, near.p, 9, 7)
    np.testing.assert_array_equal(voxelize(near, None, 5), voxelize(far, None, 5))
    np.testing.assert_array_equal(
        voxelize(near, Window(100, 40_000), 5),
        voxelize(far, Window(offset + 100, offset + 40_000), 5),
    )


# Very many events on one pixel

MANY = 400_000


@pytest.mark.parametrize("bins", [1, 2, 3])
@pytest.mark.parametrize("polarity", ["random", "positive", "negative", "alternating", "halves"])
def test_many_events_on_one_pixel(polarity, bins):
    rng = np.random.default_rng(6)
    p = {
        "random": rng.integers(0, 2, MANY),
        "positive": np.ones(MANY),
        "negative": np.zeros(MANY),
        "alternating": np.arange(MANY) % 2,
        "halves": np.arange(MANY) < MANY // 2,
    }[polarity]
    events = one_pixel(np.sort(rng.integers(0, 10**7, MANY)), p)
    for window in (None, Window(0, 10**7)):
        assert_within_stated_error(voxelize(events, window, bins), oracle(events, window, bins))


@pytest.mark.parametrize("first", [0, 1])
def test_opposite_polarities_at_opposite_ends_of_an_interval(first):
    """Weights 0 and 1: sums of sign and of weight pull apart as far as they can."""
    t = np.repeat([0, 1000], MANY)
    p = np.repeat([first, 1 - first], MANY)
    grid = voxelize(one_pixel(t, p), bins=2)[:, 0, 0]
    assert grid.tolist() == [MANY * (2 * first - 1), MANY * (1 - 2 * first)]


@pytest.mark.parametrize("count", [2**17, 2**18 - 1, 2**18, 2**19 - 1, 2**20 + 1])
@pytest.mark.parametrize("polarity", [0, 1])
@pytest.mark.parametrize("late", [0, 1])
def test_equal_events_up_to_every_limit_of_the_packed_sums(count, polarity, late):
    t = np.full(count + 2, 1000 * late)
    t[0], t[-1] = 0, 1000
    p = np.full(count + 2, polarity)
    grid = voxelize(one_pixel(t, p), bins=2)[:, 0, 0]
    sign = 2 * polarity - 1
    assert grid.tolist() == [sign * (1 + count * (1 - late)), sign * (1 + count * late)]


@pytest.mark.parametrize("half", [2**15, 2**16, 2**17, 2**18, 2**19])
def test_sum_of_signs_at_half_range_with_a_negative_sum_of_weights(half):
    """A borrow hides one unit of the upper field; the next chunk must still fit."""
    runs = [  # (events, pixel, polarity, time)
        (half - 2, 0, 1, 0),  # the sum of signs stays just below half of the range ...
        (2, 1, 1, 0),
        (half // 2 + 1, 0, 1, 0),  # ... and reaches it while the sum of weights is negative
        (half // 2 - 1, 0, 0, 500),
        (half, 0, 1, 500),
        (1, 1, 1, 1000),
    ]
    x, p, t = (np.concatenate([np.full(run[0], run[i]) for run in runs]) for i in (1, 2, 3))
    events = Events.from_columns(t, x, np.zeros_like(x), p, 1, 2)
    np.testing.assert_array_equal(
        voxelize(events, bins=2), oracle(events, None, 2).astype(np.float32)
    )


def test_error_stays_small_where_large_sums_cancel():
    """The bins hold small differences of large sums of weights."""
    t = np.sort(np.concatenate([np.arange(900, 1000), np.arange(1001, 1100)])).repeat(20)
    p = (t > 1000).astype(np.uint8)
    events = one_pixel(t, p)
    for window in (Window(0, 2000), Window(899, 1101)):
        assert_within_stated_error(voxelize(events, window, 3), oracle(events, window, 3))


@pytest.mark.parametrize("when", [1, 333_333, 999_999])
def test_error_of_one_repeated_stamp_is_that_of_its_weight(when):
    """Equal weights round alike: 2^-27 an event, and one rounding of the result."""
    t = np.full(MANY, when)
    t[0], t[-1] = 0, 1_000_000
    events = one_pixel(t, np.ones(MANY))
    exact = oracle(events, None, 2)
    error = np.abs(voxelize(events, bins=2) - exact)
    assert np.all(error <= 2.0**-27 * MANY + 2.0**-23 * np.abs(exact))


# The result depends on the events alone


@pytest.mark.parametrize("chunk", [1, 7, 2048, 5000])
@pytest.mark.parametrize("bins", [1, 2, 5])
def test_chunks_change_no_bit(monkeypatch, chunk, bins):
    events = random_events(6_000, 6, 5, 40_000, seed=7)
    whole = voxelize(events, Window(500, 39_000), bins)
    monkeypatch.setattr(voxels, "CHUNK", chunk)
    np.testing.assert_array_equal(voxelize(events, Window(500, 39_000), bins), whole)


def test_moved_sums_change_no_bit(monkeypatch):
    events = random_events(6_000, 6, 5, 40_000, seed=8)
    whole = voxelize(events, None, 4)
    monkeypatch.setattr(voxels, "CHUNK", 100)
    monkeypatch.setattr(voxels, "_fullest", lambda sums: voxels.ROOM)
    np.testing.assert_array_equal(voxelize(events, None, 4), whole)


def test_order_of_equal_stamps_changes_no_bit():
    events = random_events(20_000, 6, 5, 300, seed=9)
    order = np.lexsort((np.random.default_rng(0).random(len(events)), events.t))
    shuffled = Events(events.t, *(getattr(events, c)[order] for c in "xyp"), height=6, width=5)
    assert not np.array_equal(shuffled.x, events.x)
    np.testing.assert_array_equal(voxelize(events, None, 3), voxelize(shuffled, None, 3))


def test_threads_at_once_change_no_bit():
    streams = [random_events(50_000, 48, 64, 40_000, seed=seed) for seed in range(4)]
    alone = [voxelize(events, bins=3) for events in streams]
    results = {}

    def work(number: int) -> None:
        results[number] = [voxelize(streams[number], bins=3) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, grids in results.items():
        for grid in grids:
            np.testing.assert_array_equal(grid, alone[number])
    assert len(results) == 4


def test_scratch_is_clean_after_other_sizes_and_after_an_error(monkeypatch):
    small = random_events(3_000, 6, 5, 40_000, seed=10)
    large = random_events(3_000, 60, 50, 40_000, seed=11)
    expected = voxelize(small, bins=4)
    voxelize(large, bins=9)
    np.testing.assert_array_equal(voxelize(small, bins=4), expected)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(voxels, "_unpack", fail)
        with pytest.raises(MemoryError):
            voxelize(large, bins=4)
    np.testing.assert_array_equal(voxelize(small, bins=4), expected)


# Properties


@pytest.mark.parametrize("bins", [1, 3, 5])
def test_flipped_polarity_negates(bins):
    events = random_events(20_000, 12, 9, 40_000, seed=12)
    flipped = Events(events.t, events.x, events.y, 1 - events.p, 12, 9)
    np.testing.assert_array_equal(voxelize(flipped, None, bins), -voxelize(events, None, bins))


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_bins_add_up_to_the_signs(bins):
    events = random_events(20_000, 12, 9, 40_000, seed=13)
    signs = np.zeros((12, 9))
    np.add.at(signs, (events.y, events.x), events.p * 2.0 - 1)
    total = voxelize(events, None, bins).astype(np.float64).sum(0)
    np.testing.assert_allclose(total, signs, atol=1e-4)


def test_input_is_left_as_it_was():
    events = random_events(5_000, 12, 9, 40_000, seed=14)
    before = [getattr(events, c).copy() for c in "txyp"]
    voxelize(events, Window(100, 30_000), 3)
    for column, name in zip(before, "txyp", strict=True):
        np.testing.assert_array_equal(getattr(events, name), column)


# `out`


def test_out_is_overwritten_and_returned():
    events = random_events(5_000, 12, 9, 40_000, seed=15)
    out = np.full((3, 12, 9), np.nan, np.float32)
    assert voxelize(events, bins=3, out=out) is out
    np.testing.assert_array_equal(out, voxelize(events, bins=3))
    voxelize(Events.empty(12, 9), bins=3, out=out)
    assert not out.any()
    one = np.full((1, 12, 9), np.nan, np.float32)
    voxelize(events, bins=1, out=one)
    np.testing.assert_array_equal(one, voxelize(events, bins=1))


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((3, 12, 9), np.float64),
        np.zeros((2, 12, 9), np.float32),
        np.zeros((3, 12, 18), np.float32)[..., ::2],
        np.zeros((9, 12, 3), np.float32).T,
    ],
)
def test_out_of_another_kind_is_refused(out):
    with pytest.raises(ConfigError, match="out does not fit"):
        voxelize(random_events(5, 12, 9, 40_000, seed=16), bins=3, out=out)


@pytest.mark.parametrize("bins", [0, -1])
def test_no_bins_are_refused(bins):
    with pytest.raises(ConfigError, match="at least one bin"):
        voxelize(random_events(5, 12, 9, 40_000, seed=17), bins=bins)


# Packed events


def assert_packed_is_the_same(events: Events, window: Window, bins: int) -> None:
    packed = PackedEvents.pack(events, window.start_us)
    grid = voxelize_packed(packed, window, bins)
    assert grid.dtype == np.float32
    np.testing.assert_array_equal(grid, voxelize(events, window, bins))


@pytest.mark.parametrize("bins", [1, 2, 3, 5, 16, 200])
@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2049, 30_000])
def test_packed_events_give_the_same_bits(bins, count):
    events = random_events(count, 24, 31, 50_000, seed=bins, start_us=10**15)
    assert_packed_is_the_same(events, Window(10**15, 10**15 + 50_000), bins)
    assert_packed_is_the_same(events, Window(10**15 - 9, 10**15 + 61_003), bins)


@pytest.mark.parametrize("span", [1, 2, 7, 50])
def test_packed_events_at_the_edges_of_intervals(span):
    events = random_events(9_000, 5, 4, span, seed=span)
    for bins in (2, 3, 4, 9):
        assert_packed_is_the_same(events, Window(0, span), bins)
        assert_packed_is_the_same(events, Window(0, 100 * span), bins)


@pytest.mark.parametrize("span", [2**24, 2**31 + 1, 2**45])
def test_packed_events_with_gaps_or_a_huge_span(span):
    events = random_events(3_000, 480, 640, span, seed=18)
    assert len(PackedEvents.pack(events, 0).gaps)
    assert_packed_is_the_same(events, Window(0, span), 3)
    early = random_events(3_000, 480, 640, 1_000, seed=18)
    assert_packed_is_the_same(early, Window(0, span), 3)


@pytest.mark.parametrize("count", [voxels.CHUNK, voxels.CHUNK + 1, MANY])
def test_packed_events_on_one_pixel(count):
    events = one_pixel(np.sort(np.random.default_rng(19).integers(0, 10**7, count)), np.ones(count))
    assert_packed_is_the_same(events, Window(0, 10**7), 2)


def test_packed_pixel_off_the_sensor_leaves_the_scratch_clean():
    events = random_events(9_000, 24, 20, 50_000, seed=20)
    packed, window = PackedEvents.pack(events, 0), Window(0, 50_000)
    expected = voxelize_packed(packed, window, 3)
    packed.words[8_500] = 20 << 1
    with pytest.raises(DataError, match="event 8500"):
        voxelize_packed(packed, window, 3)
    np.testing.assert_array_equal(voxelize(events, window, 3), expected)


def test_packed_events_refuse_no_bins():
    packed = PackedEvents.pack(random_events(5, 12, 9, 40_000, seed=21), 0)
    with pytest.raises(ConfigError, match="at least one bin"):
        voxelize_packed(packed, Window(0, 40_000), 0)


def test_memory_for_scatter_is_zeroed_and_writable():
    for count in (1, 1000, 640 * 480 * 2):
        memory = zeros_for_scatter(count)
        assert memory.shape == (count,)
        assert memory.dtype == np.int64
        assert not memory.any()
        memory[:] = 7
        assert memory[::-1].sum() == 7 * count
