"""The newest finished prediction at each label, against a clock that ticks microseconds."""

import numpy as np
import pytest

from scaleevent.live.scoring import Course, newest_at


def ticking(labels, ends, latencies):
    """What is there at each label; how many windows the network took. Slow and literal."""
    found, waiting, doing, done, taken = {}, None, None, None, 0
    for now in range(max(labels) + 1):
        if doing and doing[0] == now:
            done, doing = doing[1], None
        for end in ends:
            if end == now:
                waiting = end
        if doing is None and waiting is not None:
            doing = (now + latencies[waiting], waiting)
            waiting = None
            taken += 1
        if now in labels:
            found[now] = done
    return [found[label] for label in labels], taken


@pytest.mark.parametrize("seed", range(25))
def test_the_newest_finished_prediction_is_that_of_a_ticking_clock(seed):
    rng = np.random.default_rng(seed)
    ends = np.unique(rng.integers(1, 2000, 60)).tolist()
    labels = np.unique(rng.integers(1, 2200, 25)).tolist()
    slow = int(rng.choice([10, 50, 300]))
    latencies = {end: int(rng.integers(1, slow)) for end in ends}
    course = Course()
    windows = ((end, end) for end in ends)
    found = list(newest_at(labels, windows, lambda end: (end, latencies[end] / 1e6), course))
    expected, taken = ticking(labels, ends, latencies)
    assert [one.prediction for one in found] == expected
    for one in found:
        assert one.age_us == (0 if one.prediction is None else one.label_us - one.prediction)
    assert course.used == taken
    assert course.windows <= len(ends)


def test_a_network_that_takes_no_time_gives_the_usual_predictions():
    ends = list(range(100, 1000, 100))
    found = list(newest_at(ends, ((end, end) for end in ends), lambda end: (end, 0.0)))
    assert [one.prediction for one in found] == ends and {one.age_us for one in found} == {0}


def test_windows_are_read_no_further_than_the_labels_need():
    def windows():
        for end in (10, 20, 30):
            yield end, end
        raise AssertionError("read beyond the last label")

    course = Course()
    [one] = newest_at([25], windows(), lambda end: (end, 1e-6), course)
    assert one.prediction == 20 and course.windows == 2
    assert [one.prediction for one in newest_at([5], iter([]), lambda _: (0, 0.0))] == [None]
