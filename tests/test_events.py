"""`Events`: what it refuses, and that slices are views of the same memory."""

import pickle

import numpy as np
import pytest
from conftest import random_events
from hypothesis import given
from hypothesis import strategies as st

from scaleevent.errors import DataError
from scaleevent.events import Events, first_backward_step

GOOD = {
    "t": np.array([5, 5, 9], np.int64),
    "x": np.array([0, 3, 2], np.uint16),
    "y": np.array([1, 0, 1], np.uint16),
    "p": np.array([0, 1, 1], np.uint8),
}


@pytest.mark.parametrize("name", "txyp")
@pytest.mark.parametrize(
    "change",
    [
        lambda column: column.astype(np.float64),
        lambda column: column.astype(np.int32),
        lambda column: column.reshape(3, 1),
        lambda column: column.tolist(),
        lambda column: None,
    ],
)
def test_column_of_another_type_is_named(name, change):
    with pytest.raises(DataError, match=f"column {name} has the wrong type"):
        Events(**GOOD | {name: change(GOOD[name])}, height=2, width=4)


@pytest.mark.parametrize("name", "xyp")
def test_column_of_another_length_is_named(name):
    with pytest.raises(DataError, match=f"{name} has 2, t has 3"):
        Events(**GOOD | {name: GOOD[name][:2]}, height=2, width=4)


@pytest.mark.parametrize(
    ("name", "values", "place", "found"),
    [
        ("x", [0, 4, 5], "event 1 and 1 more", "x = 4"),
        ("x", [0, 3, 65535], "event 2\n", "x = 65535"),
        ("y", [2, 0, 0], "event 0\n", "y = 2"),
        ("p", [0, 1, 255], "event 2\n", "p = 255"),
    ],
)
def test_value_off_the_sensor_is_located(name, values, place, found):
    column = np.array(values, GOOD[name].dtype)
    with pytest.raises(DataError) as caught:
        Events(**GOOD | {name: column}, height=2, width=4)
    assert place in str(caught.value)
    assert found in str(caught.value)


def test_time_that_steps_back_is_located():
    with pytest.raises(DataError) as caught:
        Events(**GOOD | {"t": np.array([5, 9, 8], np.int64)}, height=2, width=4)
    assert caught.value.where == "event 2"
    assert caught.value.found == "t = 8 us after 9 us"


@pytest.mark.parametrize("at", [1, 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 20) + 6])
def test_backward_step_is_found_across_blocks(at):
    t = np.arange((1 << 20) + 7, dtype=np.int64)
    assert first_backward_step(t) is None
    t[at] = t[at - 1] - 1
    assert first_backward_step(t) == at


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_backward_step_equals_a_plain_loop(times):
    expected = next((i for i in range(1, len(times)) if times[i] < times[i - 1]), None)
    assert first_backward_step(np.array(times, np.int64)) == expected


def test_columns_are_read_only_views_of_the_callers_memory():
    columns = {name: column.copy() for name, column in GOOD.items()}
    events = Events(**columns, height=2, width=4)
    for name, column in columns.items():
        assert np.shares_memory(getattr(events, name), column)
        assert column.flags.writeable  # the caller's own array is left as it was
        with pytest.raises(ValueError, match="read-only"):
            getattr(events, name)[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            getattr(events[1:], name)[0] = 1
    with pytest.raises(AttributeError):
        events.height = 5


def test_slices_are_views():
    events = random_events(100, 8, 8, 1000, seed=0)
    part = events[20:50]
    assert len(part) == 30
    assert (part.height, part.width) == (8, 8)
    for name in "txyp":
        assert np.shares_memory(getattr(part, name), getattr(events, name))
        np.testing.assert_array_equal(getattr(part, name), getattr(events, name)[20:50])
    with pytest.raises(TypeError):
        events[::2]
    with pytest.raises(TypeError):
        events[3]


@given(
    st.lists(st.integers(0, 20), max_size=12).map(sorted),
    st.none() | st.integers(-3, 24),
    st.none() | st.integers(-3, 24),
)
def test_between_is_half_open(times, start, end):
    zeros = [0] * len(times)
    events = Events.from_columns(times, zeros, zeros, zeros, 1, 1)
    kept = [t for t in times if (start is None or t >= start) and (end is None or t < end)]
    assert events.between(start, end).t.tolist() == kept


def test_from_columns_takes_any_integer_type():
    events = Events.from_columns(
        [1, 2], np.array([3, 0], np.int64), np.array([1, 0], np.int8), np.array([True, False]), 2, 4
    )
    assert {name: getattr(events, name).dtype for name in "txyp"} == {
        name: column.dtype for name, column in GOOD.items()
    }
    assert events.p.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "values", "bad"),
    [
        ("x", np.array([0, -1, 2]), 1),
        ("y", np.array([0, 1, 1 << 16]), 2),
        ("p", np.array([256, 0, 1]), 0),
        ("p", np.array([1, -1, 1]), 1),
        ("t", np.array([0, 1, 1 << 63], np.uint64), 2),
    ],
)
def test_from_columns_never_wraps_a_value(name, values, bad):
    with pytest.raises(DataError) as caught:
        Events.from_columns(**GOOD | {name: values}, height=2, width=4)
    assert caught.value.where == f"event {bad}"
    assert caught.value.found == f"{name} = {values[bad]}"


@pytest.mark.parametrize("name", "txyp")
def test_from_columns_refuses_fractions(name):
    with pytest.raises(DataError, match=f"event {name} is not an integer"):
        Events.from_columns(**GOOD | {name: np.array([0.5, 1.0, 2.0])}, height=2, width=4)


def test_concatenate_checks_the_joints():
    events = random_events(30, 8, 8, 1000, seed=1)
    joined = Events.concatenate([events[:10], events[10:10], events[10:]], 8, 8)
    for name in "txyp":
        np.testing.assert_array_equal(getattr(joined, name), getattr(events, name))
    assert len(Events.concatenate([], 8, 8)) == 0
    with pytest.raises(DataError, match="not sorted"):
        Events.concatenate([events[20:], events[:20]], 8, 8)


def test_empty_and_pickle():
    empty = Events.empty(3, 5)
    assert len(empty) == 0
    assert repr(empty) == "Events(0 on 5x3)"
    events = pickle.loads(pickle.dumps(random_events(9, 3, 5, 100, seed=2)))
    assert len(events) == 9
    assert repr(events).startswith("Events(9 on 5x3")
