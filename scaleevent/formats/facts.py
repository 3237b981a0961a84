"""Facts about a recording in one pass: what `scaleevent info` prints."""

from __future__ import annotations

import numpy as np

from scaleevent.formats.recording import Recording

RATE_BIN_US = 10_000
"""Width of the bins the peak rate is taken over."""


def recording_facts(recording: Recording) -> dict[str, object]:
    """Read a recording once and sum it up.

    Args:
        recording: An opened recording; memory does not grow with its length.

    Returns:
        Plain numbers and text by name. Times in microseconds, rates in events per second; first,
        last, duration, rates and balance are None where there are no events. The peak rate is that
        of the fullest bin of `RATE_BIN_US`, counted from the first event; `positive_share` is the
        share of events of positive polarity.

    Raises:
        DataError: The recording is damaged.
    """
    first_us = last_us = None
    events = positive = peak = 0
    open_bin, open_count = 0, 0  # the latest bin may go on in the next block
    for block in recording.blocks():
        if first_us is None:
            first_us = int(block.t[0])
        last_us = int(block.t[-1])
        events += len(block)
        positive += int(np.count_nonzero(block.p))
        bins, numbers = _run_lengths((block.t - first_us) // RATE_BIN_US)
        if bins[0] == open_bin:
            numbers[0] += open_count
        peak = max(peak, open_count, int(numbers.max()))
        open_bin, open_count = int(bins[-1]), int(numbers[-1])
    duration = None if first_us is None else last_us - first_us
    frames = sum(1 for _ in recording.frames()) if recording.has_frames else 0
    return {
        "path": str(recording.path),
        "format": recording.format,
        "width": recording.width,
        "height": recording.height,
        "events": events,
        "first_us": first_us,
        "last_us": last_us,
        "duration_us": duration,
        "mean_rate": events / duration * 1e6 if duration else None,
        "peak_rate": peak / RATE_BIN_US * 1e6 if events else None,
        "positive_share": positive / events if events else None,
        "frames": frames,
        "decoded": recording.counts.decoded,
        "reordered": recording.counts.reordered,
        "dropped": dict(recording.counts.dropped),
        "notes": dict(recording.notes),
    }


def _run_lengths(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of an ascending array and how often each comes."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts], np.diff(np.append(starts, len(values)))
