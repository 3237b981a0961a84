"""Facts about a recording, as printed by `scaleevent info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from scaleevent.errors import DataError
from scaleevent.formats.clock import DAY_US
from scaleevent.formats.recording import Recording
from scaleevent.formats.source import JITTER_US

RATE_BIN_US = 10_000  # width of the time bins from which the peak rate is computed
SAMPLED_ABOVE = 4_000_000  # longer recordings are sampled if their source has an `extent`
SAMPLE_PARTS = 64  # number of short blocks in such a sample


def recording_facts(recording: Recording, full: bool = True) -> dict[str, Any]:
    """Read a recording once and summarise it.

    Args:
        recording: An opened recording; memory does not grow with its length.
        full: Read every event. Otherwise a long recording is sampled if its file states the number
            and times of its events: these are then exact, polarity and peak rate are estimates,
            and damage is not searched for; the entry `read` states this.

    Returns:
        Plain numbers and text by name. Times are in microseconds, rates in events per second; first
        and last time, duration, rates and polarity are None if there are no events. The peak rate
        is that of the fullest bin of `RATE_BIN_US`, counted from the first event (the mean rate for
        a shorter recording); `positive_share` is the fraction of events with positive polarity.
        Duration and mean rate exclude the time between `segments`, the stretches between two
        resets of the clock.

    Raises:
        DataError: The recording has more damage than it tolerates.
    """
    facts = (None if full else _sampled(recording)) or _whole(recording)
    frames = sum(1 for _ in recording.frames()) if recording.has_frames else 0
    return {
        "path": str(recording.path),
        "format": recording.format,
        "width": recording.width,
        "height": recording.height,
        **facts,
        "frames": frames,
        "notes": dict(recording.notes),
    }


def _whole(recording: Recording) -> dict[str, Any]:
    """Exact facts from every event."""
    rates, positive = Rates(), 0
    for block in recording.blocks():
        positive += int(np.count_nonzero(block.p))
        rates.add(block.t)
    counts = recording.counts
    segments = counts.segments
    duration = sum(part.last_us - part.first_us for part in segments) if segments else None
    mean = counts.kept / duration * 1e6 if duration else None
    return {
        "read": "every event",
        "events": counts.kept,
        "first_us": segments[0].first_us if segments else None,
        "last_us": segments[-1].last_us if segments else None,
        "duration_us": duration,
        "mean_rate": mean,
        "peak_rate": max(rates.peak / RATE_BIN_US * 1e6, mean or 0) if segments else None,
        "positive_share": positive / counts.kept if segments else None,
        "decoded": counts.decoded,
        "reordered": counts.reordered,
        "dropped": dict(counts.dropped),
        "ignored": dict(counts.ignored),
        "damage": {
            kind: f"{flaw.count or 'unknown number'}; first at {flaw.where}: {flaw.found}"
            for kind, flaw in counts.flaws.items()
        },
        "segments": [asdict(segment) for segment in segments],
    }


def _sampled(recording: Recording) -> dict[str, Any] | None:
    """Exact facts from the index, and estimates from short blocks all over the file.

    None for short recordings, recordings without an index, and if a clock reset, a wrong time stamp
    or tolerated damage makes sampling impossible.
    """
    try:
        extent = recording.source.extent()
        if extent is None or extent.events <= SAMPLED_ABOVE:
            return None
        sample = [part for part in recording.source.sample(SAMPLE_PARTS) if len(part)]
    except DataError:
        if recording.max_bad is None:
            raise
        return None
    firsts = [extent.first_us, *(int(part.t.min()) for part in sample), extent.last_us]
    stamps = [np.array(firsts), *(part.t for part in sample)]
    late = any((t < np.maximum.accumulate(t) - JITTER_US).any() for t in stamps)
    if late or max(np.diff(firsts)) > DAY_US:
        return None
    seen = sum(len(block) for block in sample)
    positive = sum(int(np.count_nonzero(block.p)) for block in sample)
    peak = 0.0
    for block in sample:
        rates = Rates()
        rates.add(np.sort(block.t))
        span = int(block.t.max() - block.t.min())
        peak = max(peak, rates.peak / min(max(span, 1), RATE_BIN_US) * 1e6)
    duration = extent.last_us - extent.first_us
    return {
        "read": f"index, and {seen:,} of {extent.events:,} events: polarity and peak rate are "
        "estimates, damage was not looked for (--full reads all)",
        "events": extent.events,
        "first_us": extent.first_us,
        "last_us": extent.last_us,
        "duration_us": duration,
        "mean_rate": extent.events / duration * 1e6 if duration else None,
        "peak_rate": peak,
        "positive_share": positive / seen if seen else None,
    }


class Rates:
    """Number of events in the fullest bin of `RATE_BIN_US` in a stream of blocks."""

    def __init__(self) -> None:
        self.peak = 0
        self._start: int | None = None
        self._open, self._count = 0, 0  # the last bin may continue in the next block

    def add(self, t: np.ndarray) -> None:
        """Count (K,) ascending times; a backward step starts a new series of bins."""
        if self._start is None or t[0] < self._start + self._open * RATE_BIN_US:
            self._start, self._open, self._count = int(t[0]), 0, 0
        bins, counts = _run_lengths((t - self._start) // RATE_BIN_US)
        if bins[0] == self._open:
            counts[0] += self._count
        self.peak = max(self.peak, self._count, int(counts.max()))
        self._open, self._count = int(bins[-1]), int(counts[-1])


def _run_lengths(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of an ascending array and how often each occurs."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts], np.diff(np.append(starts, len(values)))
