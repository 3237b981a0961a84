"""How late predictions are: median, 99th percentile and last, in bounded memory."""

from __future__ import annotations

import numpy as np

_SMALLEST, _LARGEST = 1e-6, 1e6  # seconds between which lags are told apart
_STEP = 1.01  # ratio of the borders of a bin


class Lags:
    """Lags in seconds; percentiles are exact to 1 %, and what is added is not held.

    Example:
        >>> from scaleevent.live.lag import Lags
        >>> lags = Lags()
        >>> for milliseconds in range(1, 101):
        ...     lags.add(milliseconds / 1000)
        >>> f"{lags.percentile(50):.3f} {lags.percentile(99):.3f} {lags.last:.3f}"
        '0.050 0.099 0.100'
    """

    def __init__(self) -> None:
        bins = int(np.log(_LARGEST / _SMALLEST) / np.log(_STEP)) + 2
        self._counts = np.zeros(bins, np.int64)
        self.number = 0
        self.last = self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Count one; a negative one, from clocks that differ a little, as none."""
        seconds = max(seconds, 0.0)
        self.number += 1
        self.last, self.largest = seconds, max(self.largest, seconds)
        place = np.log(min(max(seconds, _SMALLEST), _LARGEST) / _SMALLEST) / np.log(_STEP)
        self._counts[int(place)] += 1

    def percentile(self, percent: float) -> float:
        """The lag that so many per cent do not exceed; 0 without any."""
        if not self.number:
            return 0.0
        rank = max(int(np.ceil(self.number * percent / 100)), 1)
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        middle = _SMALLEST * _STEP ** (place + 0.5)
        return min(float(middle), self.largest) if place else 0.0

    def to_json(self) -> dict[str, float | int]:
        """Number, and seconds."""
        return {
            "number": self.number,
            "median_s": self.percentile(50),
            "p99_s": self.percentile(99),
            "largest_s": self.largest,
            "last_s": self.last,
        }
