"""The newest window wins, what is dropped is counted, and lag is what the clock says."""

import threading
from functools import partial

import numpy as np
import pytest

from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.grids.windows import WindowRule
from scaleevent.live.feed import Feed
from scaleevent.live.lag import Lags
from scaleevent.live.latest import Latest, Passed
from scaleevent.live.pace import Pace
from scaleevent.prediction.cutting import Quiet, cut_windows
from scaleevent.prediction.schedules import AtRate
from tests.event_files import some_events
from tests.live_sources import FakeTimer

RULE = WindowRule(kind="time", duration_us=10_000)
CUT = partial(cut_windows, schedule=AtRate(100), rule=RULE)


def parts(events: Events, number: int) -> list[Events]:
    cuts = np.linspace(0, len(events), number + 1).astype(int)
    return [events[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


# -- the queue


@pytest.mark.parametrize("room", [1, 3])
def test_of_more_items_than_there_is_room_the_newest_are_left(room):
    queue = Latest(room)
    for number in range(10):
        queue.put(number, weight=number)
    queue.close()
    assert [queue.get(0) for _ in range(room)] == list(range(10 - room, 10))
    assert queue.over and queue.get(0) is None
    assert queue.passed == Passed(10, 10 - room, sum(range(10 - room)))


def test_a_queue_that_waits_drops_nothing():
    queue, taken = Latest(2, "wait"), []

    def bring():
        for number in range(200):
            queue.put(number)
        queue.close()

    thread = threading.Thread(target=bring)
    thread.start()
    while not queue.over:
        taken.append(queue.get(1))
    thread.join()
    assert [each for each in taken if each is not None] == list(range(200))
    assert queue.passed == Passed(200, 0, 0)


def test_an_error_comes_after_the_last_item_and_once():
    queue = Latest()
    queue.put(1)
    queue.close(DataError("the end"))
    assert queue.get(0) == 1 and not queue.over
    with pytest.raises(DataError, match="the end"):
        queue.get(0)
    assert queue.over and queue.get(0) is None


def test_nobody_waits_for_a_queue_that_was_abandoned():
    queue = Latest(1, "wait")
    assert queue.put(1)
    threading.Timer(0.05, queue.abandon).start()
    assert not queue.put(2)
    assert queue.passed.put == 1


# -- lag


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_those_of_all_lags_to_one_per_cent(seed):
    values = np.random.default_rng(seed).lognormal(-4, 1.5, 5000)
    lags = Lags()
    for value in values.tolist():
        lags.add(value)
    for percent in (1, 50, 99, 100):
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert lags.percentile(percent) == pytest.approx(exact, rel=0.0101)
    assert lags.to_json()["last_s"] == values[-1] and lags.largest == values.max()
    lags.add(-1)
    assert lags.last == 0 and Lags().percentile(99) == 0


# -- a recording at its own speed


def test_a_recording_plays_at_its_own_speed():
    events = some_events(3000, span_us=200_000)
    timer = FakeTimer(now=50)
    pace = Pace(parts(events, 7), timer, step_us=1000)
    came = []
    for block in pace:
        if isinstance(block, Quiet):
            assert block.until_us <= round((timer.time - 50) * 1e6) + events.t[0]
        else:
            due = 50 + (block.t - events.t[0]) / 1e6
            assert (due <= timer.time + 1e-9).all() and (due >= timer.time - 0.0011).all()
            came.append(block)
    whole = Events.concatenate(came, events.height, events.width)
    assert all(np.array_equal(getattr(whole, n), getattr(events, n)) for n in "txyp")
    assert timer.time - 50 == pytest.approx((events.t[-1] - events.t[0]) / 1e6, abs=1e-6)
    assert pace.moment(int(events.t[0]) + 7000) == pytest.approx(50.007)


def test_time_passes_where_there_are_no_events_and_goes_on_after_a_reset():
    first = Events.from_columns([0, 100_000], [0, 1], [0, 0], [1, 1], 4, 5)
    timer = FakeTimer(now=0)
    pace = Pace([first, first], timer, step_us=10_000)
    blocks = list(pace)
    quiet = [block.until_us for block in blocks if isinstance(block, Quiet)]
    assert quiet == 2 * list(range(20_000, 110_000, 10_000))
    assert timer.time == pytest.approx(0.2)
    assert pace.moment(0, 0) == 0 and pace.moment(0, 1) == pytest.approx(0.1)
    assert list(Pace([first], FakeTimer(), stop=lambda: True)) == []


def test_what_lies_before_the_first_window_is_not_waited_for():
    """With `start` 60 s nobody waits a minute; from there on time passes as it does elsewhere."""
    first_us = 7_000_000
    t = first_us + np.arange(0, 120_000_000, 500_000)
    events = Events.from_columns(t, [0] * len(t), [0] * len(t), [1] * len(t), 4, 5)
    for blocks in (parts(events, 1), parts(events, 9), [events[:1], events[119:]]):
        timer = FakeTimer(now=3)
        pace = Pace(blocks, timer, start_us=60_000_000)
        came = {}
        for block in pace:
            if not isinstance(block, Quiet):
                came |= dict.fromkeys(block.t.tolist(), timer.time)
        assert list(came) == np.concatenate([block.t for block in blocks]).tolist()
        for time, moment in came.items():
            since = (time - first_us) / 1e6 - 60
            assert moment == pytest.approx(3 + max(since, 0), abs=0.5 if since < 0 else 0.0021)
        assert pace.moment(first_us + 70_000_000) == pytest.approx(13, abs=0.5)


def test_a_start_within_a_short_stretch_is_never_reached():
    events = Events.from_columns([0, 90_000], [0, 0], [0, 0], [1, 1], 4, 5)
    timer = FakeTimer(now=0)
    pace = Pace([events, events], timer, start_us=80_000)
    assert sum(len(block) for block in pace if not isinstance(block, Quiet)) == 4
    assert timer.time == pytest.approx(0.02)
    timer = FakeTimer(now=0)
    assert len(list(Pace([events, events], timer, start_us=500_000))) == 2 and timer.time == 0


# -- all of it


def test_a_feed_that_is_fast_enough_gives_every_window():
    events = some_events(4000, span_us=100_000)
    feed = Feed(parts(events, 20), CUT, when_slow="wait")
    found = []
    for cut in feed:
        found.append((cut.window, cut.events.t.tolist()))
        feed.finished()
    expected = [(cut.window, cut.events.t.tolist()) for cut in CUT([events])]
    assert found == expected and len(found) == 10
    assert feed.passed == Passed(10, 0, 0) and feed.lags.number == 10
    assert feed.told()[0] == "windows dropped for newer ones: none of 10"


def test_the_newest_window_wins_where_the_consumer_is_slow():
    events = some_events(4000, span_us=100_000)
    all_cuts = list(CUT([events]))
    taken_first, all_read = threading.Event(), threading.Event()

    def source():
        yield from parts(events.between(None, int(events.t[0]) + 15_000), 3)
        assert taken_first.wait(10)
        yield from parts(events.between(int(events.t[0]) + 15_000, None), 5)

    def cut(blocks):
        yield from CUT(blocks)
        all_read.set()

    feed, found = Feed(source(), cut), []
    for each in feed:
        found.append(each.index)
        taken_first.set()
        assert all_read.wait(10)  # the network works on the first window until all have come
    assert found == [0, 9]
    assert feed.passed.put == 10 and feed.passed.dropped == 8
    assert feed.passed.dropped_weight == sum(len(each.events) for each in all_cuts[1:9])
    assert feed.to_json()["dropped windows"] == 8
    assert feed.told()[0].startswith("windows dropped for newer ones: 8 of 10, ")


def test_lag_counts_from_the_moment_of_the_windows_end_where_a_recording_plays():
    events = some_events(4000, span_us=100_000)
    timer = FakeTimer(now=0)
    pace = Pace([events], timer)
    feed = Feed(pace, CUT, when_slow="wait", room=100, timer=timer)
    ends = [cut.window.end_us for cut in CUT([events])]
    cuts = iter(feed)
    first = next(cuts)
    while feed.passed.put < 10:  # the clock moves on its own in the other thread
        pass
    read_until = timer.time
    timer.time = 5.0
    feed.finished()
    rest = []
    for cut in cuts:
        rest.append(cut)
        timer.time += 0.25
        feed.finished()
    assert [cut.window.end_us for cut in (first, *rest)] == ends
    assert read_until < 0.2
    lags = [5 + 0.25 * number - pace.moment(end) for number, end in enumerate(ends)]
    assert feed.lags.number == 10 and feed.lags.last == pytest.approx(lags[-1], abs=1e-4)
    assert feed.lags.percentile(50) == pytest.approx(lags[4], rel=0.01)


def test_an_error_ends_the_source_and_its_windows_count_all_the_same():
    events = some_events(4000, span_us=100_000)

    def source():
        yield from parts(events, 4)
        raise DataError("the camera was unplugged")

    feed = Feed(source(), CUT, when_slow="wait")
    assert [cut.index for cut in feed] == list(range(9))  # the last is not whole
    assert isinstance(feed.error, DataError) and not feed.stopped


def test_a_fault_in_the_source_is_raised():
    def source():
        yield from ()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Feed(source(), CUT))


def test_a_stop_ends_a_feed_whose_source_never_ends():
    events = some_events(4000, span_us=100_000)
    done = threading.Event()

    def source():
        yield from parts(events, 4)
        while not done.wait(0.01):
            yield Quiet(int(events.t[-1]))

    found = []
    feed = Feed(source(), CUT, when_slow="wait", stop=lambda: len(found) == 3)
    for cut in feed:
        found.append(cut.index)
    done.set()
    assert found == [0, 1, 2] and feed.stopped
    assert "stopped on request" in feed.told()
