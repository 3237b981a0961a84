"""Events as words: what goes in comes out, whatever the sensor and the pauses."""

import numpy as np
import pytest
from conftest import random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.packing import PackedEvents


def assert_round_trip(events: Events, start_us: int) -> PackedEvents:
    packed = PackedEvents.pack(events, start_us)
    again = packed.unpack()
    assert (again.height, again.width) == (events.height, events.width)
    for name in "txyp":
        column = getattr(again, name)
        assert column.dtype == getattr(events, name).dtype
        assert not column.flags.writeable
        np.testing.assert_array_equal(column, getattr(events, name))
    return packed


def test_planted_words():
    """480x640: polarity 1 bit, column 10, row 9, wait 12."""
    events = Events.from_columns(
        [1007, 1007, 5102, 9198], [639, 0, 1, 2], [479, 0, 2, 4], [1, 0, 1, 0], 480, 640
    )
    packed = PackedEvents.pack(events, 1000)
    assert packed.words.dtype == np.uint32
    assert packed.words.tolist() == [
        7 << 20 | 479 << 11 | 639 << 1 | 1,
        0,
        4095 << 20 | 2 << 11 | 1 << 1 | 1,
        0 << 20 | 4 << 11 | 2 << 1,
    ]
    assert packed.gaps.tolist() == [[3, 4096]]
    assert_round_trip(events, 1000)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (36, 48), (260, 346), (480, 640), (720, 1280), (2**15, 2**14)]
)
@pytest.mark.parametrize("span_us", [1, 50_000, 10**9, 2**45])
def test_round_trip_of_any_sensor_and_span(size, span_us):
    events = random_events(5_000, *size, span_us, seed=0, start_us=-(2**40))
    packed = assert_round_trip(events, -(2**40) - 5)
    if size == (480, 640) and span_us == 50_000:
        assert not len(packed.gaps)


@given(st.lists(st.integers(0, 2**40), max_size=30), st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None)
def test_round_trip_of_any_pauses(waits, row_bits, column_bits):
    height, width = 2**row_bits, 2**column_bits
    t = np.cumsum(np.array(waits, np.int64))
    k = np.arange(len(t))
    assert_round_trip(
        Events.from_columns(t, -k % width, -k % height, k % 2, height, width), 0
    )  # fmt: skip


def test_no_events():
    assert_round_trip(Events.empty(4, 5), 7)


def test_sensor_that_leaves_no_bit_is_refused():
    with pytest.raises(DataError, match="too large to pack"):
        PackedEvents.pack(Events.empty(2**16, 2**15), 0)


@pytest.mark.parametrize(
    ("word", "gaps", "message"),
    [(24 << 6, [], "y = 24"), (20 << 1, [], "x = 20"), (0, [[2, -50_000]], "not sorted")],
)
def test_words_of_no_events_are_refused(word, gaps, message):
    packed = PackedEvents.pack(random_events(9, 24, 20, 50_000, seed=1), 0)
    packed.words[5] = word
    broken = PackedEvents(packed.words, np.array(gaps, np.int64).reshape(-1, 2), 0, 24, 20)
    with pytest.raises(DataError, match=message):
        broken.unpack()
