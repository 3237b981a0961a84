"""The bounded queue between a camera and a network that is slower: the newest wins."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")

WhenSlow = Literal["drop", "wait"]


@dataclass
class Passed:
    """What went through a queue.

    Args:
        put: Items that came.
        dropped: Items that newer ones have pushed out.
        dropped_weight: The sum of their weights.
    """

    put: int = 0
    dropped: int = 0
    dropped_weight: int = 0


class Latest(Generic[Item]):
    """A queue between two threads that holds a few items.

    Where it is full, a new item pushes out the oldest one, which is counted; or else, with `wait`,
    whoever brings it waits. It is closed by who brings items, with an error if that was the end:
    the error is raised where items are taken, after the last of them.

    Args:
        room: Most items that wait.
        when_slow: `drop` the oldest item where there is no room, or `wait` for room.

    Attributes:
        passed: Counts so far.

    Example:
        >>> from scaleevent.live.latest import Latest
        >>> queue = Latest(room=1)
        >>> [queue.put(number) for number in (1, 2, 3)]
        [True, True, True]
        >>> queue.close()
        >>> queue.get(0), queue.passed
        (3, Passed(put=3, dropped=2, dropped_weight=2))
    """

    def __init__(self, room: int = 1, when_slow: WhenSlow = "drop") -> None:
        self._room, self._waits = room, when_slow == "wait"
        self._items: deque[tuple[Item, int]] = deque()
        self._changed = threading.Condition()
        self._closed, self._abandoned = False, False
        self._error: BaseException | None = None
        self.passed = Passed()

    def put(self, item: Item, weight: int = 1) -> bool:
        """Add an item; `weight` counts if it is dropped. False if nobody takes items any more."""
        with self._changed:
            while self._waits and len(self._items) >= self._room and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                return False
            self.passed.put += 1
            while len(self._items) >= self._room:
                _, lost = self._items.popleft()
                self.passed.dropped += 1
                self.passed.dropped_weight += lost
            self._items.append((item, weight))
            self._changed.notify_all()
            return True

    def get(self, seconds: float) -> Item | None:
        """The oldest item; waits for one at most so long. None if there is none.

        Raises:
            BaseException: The error with which the queue was closed, once it is empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, seconds)
            if self._items:
                item, _ = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            return None

    @property
    def over(self) -> bool:
        """Whether it is closed and empty, and has no error to raise."""
        with self._changed:
            return self._closed and not self._items and self._error is None

    def close(self, error: BaseException | None = None) -> None:
        """No more items will come."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """No more items will be taken: whoever brings one need not wait."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
