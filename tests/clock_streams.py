"""Streams of time stamps with known faults, and a source that cuts them into blocks anywhere."""

from dataclasses import dataclass

import numpy as np

from scaleevent.formats.recording import Recording
from scaleevent.formats.source import RawBlock, Source

LATE_US = 50_000  # as the design says; what is later is wrong
SIZE = (1 << 16, 1 << 16)


class Stamps(Source):
    """A source of given times; column and row of an event are its position in the file."""

    format, size, notes = "made up", SIZE, {}

    def __init__(self, times, edges=()):
        self.times = np.asarray(times, np.int64)
        self.edges = [0, *edges, len(self.times)]

    def blocks(self, start_us, end_us):
        for first, end in zip(self.edges[:-1], self.edges[1:], strict=True):
            place = np.arange(first, end)
            yield RawBlock(
                first,
                self.times[first:end],
                (place & 0xFFFF).astype(np.uint16),
                (place >> 16).astype(np.uint16),
                np.zeros(end - first, np.uint8),
            )


def some_edges(rng, length, near=()):
    """Where to cut a stream: nowhere, everywhere, now and then, or beside given places."""
    kind = rng.integers(4)
    if kind == 0 or length < 3:
        return []
    if kind == 1:
        return [*range(1, length, max(length // 500, 1))]
    if kind == 2 and len(near):
        places = np.add.outer(near, [0, 1]).ravel()
        return sorted({int(place) for place in places if 0 < place < length})
    return sorted(set(rng.integers(1, length, rng.integers(1, 12)).tolist()))


def positions(blocks):
    """Positions in the file of delivered events, as they come."""
    parts = [events.x.astype(np.int64) | events.y.astype(np.int64) << 16 for events in blocks]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def recording(times, edges=(), **options) -> Recording:
    return Recording("made up", Stamps(times, edges), *SIZE, **options)


@dataclass
class Planted:
    """A stream whose faults are known.

    Args:
        times: The stamps in the order of the file.
        wrong: Whether each stamp is wrong.
        segment: The stretch each event belongs to.
    """

    times: np.ndarray
    wrong: np.ndarray
    segment: np.ndarray

    def order(self):
        """The positions of the good events as they should be delivered."""
        place = np.flatnonzero(~self.wrong)
        return place[np.lexsort((place, self.times[place], self.segment[place]))]

    def late(self):
        """Number of good events that come after a later one of their stretch."""
        count = 0
        for number in range(self.segment.max(initial=-1) + 1):
            t = self.times[(self.segment == number) & ~self.wrong]
            count += int((np.maximum.accumulate(t) > t).sum())
        return count


def deliver_late(rng, t):
    """Move some events and packets to later places in the file, none more than `LATE_US` late."""
    delay = np.zeros(len(t), np.int64)
    for _ in range(rng.integers(0, 6)):
        at = int(rng.integers(len(t)))
        delay[at : at + rng.integers(1, 30)] = rng.integers(0, LATE_US)
    single = rng.random(len(t)) < rng.choice([0, 0.1, 0.5])
    delay[single] = rng.integers(0, LATE_US, int(single.sum()))
    return t[np.argsort(t + delay, kind="stable")]


def wrong_stamp(rng, t, at, back):
    """A stamp that the events around place `at` contradict: all before it, or all behind it."""
    far = int(10 ** rng.uniform(0, 12))
    if back:
        return int(t[max(at - 10, 0) : at].min()) - LATE_US - far
    return int(t[max(at - 1, 0) : at + 10].max()) + LATE_US + far


def plant(rng, base, clusters, longest):
    """Good events in order (one array a stretch) -> the same with late events and wrong stamps.

    Args:
        base: Ascending times of each stretch; a stretch begins before the end of the one before.
        clusters: Number of places in each stretch with wrong stamps.
        longest: The most wrong stamps in one place.
    """
    times, wrong, segment = [], [], []
    for number, ascending in enumerate(base):
        t = deliver_late(rng, ascending)
        places = np.sort(
            rng.choice(np.arange(14 if number else 0, len(t) - 12, 14), clusters, replace=False)
        )
        inserted = {int(at): int(rng.integers(1, longest + 1)) for at in places}
        for at, stamp in enumerate(t.tolist()):
            for _ in range(inserted.get(at, 0)):
                back = at > 0 and rng.random() < 0.5
                times.append(wrong_stamp(rng, t, at, back))
                wrong.append(True)
                segment.append(number)
            times.append(stamp)
            wrong.append(False)
            segment.append(number)
    return Planted(np.array(times), np.array(wrong), np.array(segment))


def some_base(rng, stretches):
    """Ascending times of some stretches: dense or sparse, with pauses, each begun by a reset."""
    base: list[np.ndarray] = []
    for _ in range(stretches):
        count = int(rng.integers(60, 400))
        step = int(10 ** rng.uniform(1, 5.5))
        steps = rng.integers(0, 2 * step, count)
        again = len(base) > 0 and rng.random() < 0.5
        if not again:
            pauses = rng.random(count) < rng.choice([0, 0.02])
            pauses[-12:] = False
            steps[pauses] += rng.integers(0, 10**9, int(pauses.sum()))
        t = np.cumsum(steps)
        again &= not base or int(t[30] - t[0]) < int(base[-1][-1]) - int(base[-1][0])
        if base:  # begins before the one before, and walks past it or ends before its beginning
            t += int(base[-1][0]) - int(t[0 if again else -1]) - 4 * LATE_US
            t -= int(10 ** rng.uniform(0, 6 if again else 10))
        base.append(t)
    return base
