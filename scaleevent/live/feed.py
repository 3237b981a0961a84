"""Windows of a live source for whoever is slower: cut in a thread of their own, the newest wins."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from scaleevent.errors import ScaleEventError
from scaleevent.events import Events
from scaleevent.live.lag import Lags
from scaleevent.live.latest import Latest, Passed, WhenSlow
from scaleevent.live.pace import Pace, SystemTimer, Timer
from scaleevent.prediction.cutting import Cut, Quiet

POLL_SECONDS = 0.1  # between two looks at whether to stop
CLOSING_SECONDS = 2.0  # for the source's thread to end; one that waits for a pipe may not

Blocks = Iterable[Events | Quiet]


class Feed:
    """Iterates over the windows of a source while it goes on, once.

    A thread reads the source and cuts windows, which wait in a bounded queue. The lag of a window
    is the time from when it could have been cut until whoever took it calls `finished`. It could
    have been cut when what completes it had arrived; where a recording plays at its own speed, when
    the camera's clock showed the window's end.

    Args:
        source: Blocks of events, in order of time.
        cut: Makes windows of blocks, as `cut_windows` with its other arguments bound does.
        room: Windows that may wait.
        when_slow: Where there is no room, `drop` the oldest window, or let the source `wait`.
        timer: The clock by which lag is measured.
        stop: Whether to end now; windows that wait then are left.

    Attributes:
        lags: Of the windows that are finished.
        stopped: Whether `stop` ended it.
        closed: Whether nobody takes windows any more; the source need not wait for events then.
        error: What ended the source, if it was an error; the windows before it count all the same.
    """

    def __init__(
        self, source: Blocks, cut: Callable[[Blocks], Iterator[Cut]], *, room: int = 1,
        when_slow: WhenSlow = "drop", timer: Timer | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._source, self._cut = source, cut
        self._queue: Latest[tuple[Cut, float]] = Latest(room, when_slow)
        self._timer, self._stop = timer or SystemTimer(), stop
        self._arrived = self._timer.now()  # when the block came that is being cut
        self._taken: deque[float] = deque()  # when windows could have been cut that are in work
        self.lags = Lags()
        self.stopped = self.closed = False
        self.error: ScaleEventError | None = None

    @property
    def passed(self) -> Passed:
        """How many windows came and were dropped, and the number of events in the latter."""
        return self._queue.passed

    def __iter__(self) -> Iterator[Cut]:
        """The windows that are not dropped."""
        thread = threading.Thread(target=self._read, name="live source", daemon=True)
        thread.start()
        try:
            while not self._queue.over:
                if self._stop():
                    self.stopped = True
                    return
                waiting = self._queue.get(POLL_SECONDS)
                if waiting is not None:
                    cut, ready = waiting
                    self._taken.append(ready)
                    yield cut
        finally:
            self.closed = True
            self._queue.abandon()
            thread.join(CLOSING_SECONDS)

    def finished(self) -> None:
        """What was made of the oldest window in work is finished."""
        self.lags.add(self._timer.now() - self._taken.popleft())

    def forget(self, number: int) -> None:
        """Nothing is made of the oldest windows in work, so many."""
        for _ in range(number):
            self._taken.popleft()

    def _read(self) -> None:
        """What the thread does."""
        try:
            for cut in self._cut(self._blocks()):
                if not self._queue.put((cut, self._ready(cut)), len(cut.events)):
                    break
        except ScaleEventError as error:
            self.error = error
            self._queue.close()
        except BaseException as error:  # a fault: it is told where windows are taken
            self._queue.close(error)
        else:
            self._queue.close()

    def _blocks(self) -> Iterator[Events | Quiet]:
        for block in self._source:
            self._arrived = self._timer.now()
            yield block

    def _ready(self, cut: Cut) -> float:
        """When a window could have been cut."""
        if not isinstance(self._source, Pace):
            return self._arrived
        last = cut.window if cut.after is None else cut.after[0]
        # the last windows of a recording are cut when it ends, perhaps earlier than they end
        return min(self._source.moment(last.end_us, cut.stretch), self._timer.now())

    def told(self) -> list[str]:
        """What happened, in sentences for a report."""
        passed, lags = self.passed, self.lags
        said = []
        if passed.dropped:
            said.append(
                f"windows dropped for newer ones: {passed.dropped:,} of {passed.put:,}, as the "
                "network is slower than they come; they held "
                f"{passed.dropped_weight:,} events, some of them also in other windows"
            )
        elif passed.put:
            said.append(f"windows dropped for newer ones: none of {passed.put:,}")
        if lags.number:
            median, p99 = lags.percentile(50), lags.percentile(99)
            said.append(
                f"lag of {lags.number:,} predictions: median {1000 * median:.1f} ms, "
                f"p99 {1000 * p99:.1f} ms, last {1000 * lags.last:.1f} ms; from the moment at "
                "which a window was whole until all that is made of it was written"
            )
        if self.stopped:
            said.append("stopped on request")
        return said

    def to_json(self) -> dict[str, object]:
        """The same as numbers."""
        passed = self.passed
        return {
            "windows": passed.put,
            "dropped windows": passed.dropped,
            "events in dropped windows": passed.dropped_weight,
            "lag": self.lags.to_json(),
        }
