"""`Events`: the one in-memory form of an event stream, whatever camera or file it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scaleevent.errors import DataError

COLUMNS: dict[str, np.dtype[np.integer]] = {
    "t": np.dtype(np.int64),
    "x": np.dtype(np.uint16),
    "y": np.dtype(np.uint16),
    "p": np.dtype(np.uint8),
}


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one sensor, ascending in time.

    The constructor checks everything that later stages rely on, so no kernel needs to check again.
    The arrays are made read-only; slices are views.

    Args:
        t: (K,) int64, microseconds, ascending.
        x: (K,) uint16, column, below `width`.
        y: (K,) uint16, row from the top, below `height`.
        p: (K,) uint8, 1 = brighter, 0 = darker.
        height: Sensor rows.
        width: Sensor columns.

    Raises:
        DataError: Wrong dtype or length, time that steps back, a pixel off the sensor, or a
            polarity other than 0 and 1; the message names the first offending event.

    Example:
        >>> from scaleevent import Events
        >>> events = Events.from_columns(
        ...     t=[10, 20, 35], x=[0, 1, 3], y=[2, 2, 0], p=[1, 0, 1], height=4, width=5
        ... )
        >>> events
        Events(3 on 5x4, 10 .. 35 us)
        >>> events.between(15, None).x
        array([1, 3], dtype=uint16)
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    height: int
    width: int

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            column = getattr(self, name)
            if not isinstance(column, np.ndarray) or column.dtype != dtype or column.ndim != 1:
                raise DataError(
                    f"events column {name} has the wrong type",
                    found=f"{getattr(column, 'dtype', type(column).__name__)}",
                    expected=f"one-dimensional {dtype} array",
                )
            if len(column) != len(self.t):
                raise DataError(
                    "event columns differ in length",
                    found=f"{name} has {len(column)}, t has {len(self.t)}",
                )
            view = column.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        if len(self.t) == 0:
            return
        _check_limit(self.x, self.width, "x", "sensor width")
        _check_limit(self.y, self.height, "y", "sensor height")
        _check_limit(self.p, 2, "p", "polarity 0 or 1, limit")
        backward = first_backward_step(self.t)
        if backward is not None:
            raise DataError(
                "events are not sorted by time",
                where=f"event {backward}",
                found=f"t = {self.t[backward]} us after {self.t[backward - 1]} us",
                expected="ascending time stamps",
                hint="sort them (numpy.argsort(t, kind='stable')) or split at the clock reset",
            )

    @classmethod
    def unchecked(
        cls, t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, height: int, width: int
    ) -> Events:
        """Wrap columns of the right dtypes that were checked before, such as slices."""
        new = object.__new__(cls)
        new.__dict__.update(t=t, x=x, y=y, p=p, height=height, width=width)
        return new

    @classmethod
    def from_columns(
        cls, t: ArrayLike, x: ArrayLike, y: ArrayLike, p: ArrayLike, height: int, width: int
    ) -> Events:
        """Build from any integer arrays; values that a column's type cannot hold are errors."""
        cast = {}
        for name, values in zip(COLUMNS, (t, x, y, p), strict=True):
            column = np.asarray(values)
            if column.size and column.dtype.kind not in "iub":
                raise DataError(
                    f"event {name} is not an integer", found=column.dtype, expected="integers"
                )
            limits = np.iinfo(COLUMNS[name])
            if column.size and (column.min() < limits.min or column.max() > limits.max):
                bad = int(np.argmax((column < limits.min) | (column > limits.max)))
                raise DataError(
                    f"event {name} out of range",
                    where=f"event {bad}",
                    found=f"{name} = {column[bad]}",
                    expected=f"{limits.min} .. {limits.max}",
                )
            cast[name] = np.ascontiguousarray(column, dtype=COLUMNS[name])
        return cls(**cast, height=height, width=width)

    @classmethod
    def empty(cls, height: int, width: int) -> Events:
        """No events on a sensor of this size."""
        columns = {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
        return cls(**columns, height=height, width=width)

    @classmethod
    def concatenate(cls, parts: Iterable[Events], height: int, width: int) -> Events:
        """Join parts that follow each other in time."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty(height, width)
        if len(parts) == 1:
            return parts[0]
        columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS}
        return cls(**columns, height=height, width=width)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, part: slice) -> Events:
        """Events by position; a view."""
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise TypeError("Events take a slice with step 1")
        columns = {name: getattr(self, name)[part] for name in COLUMNS}
        return Events.unchecked(**columns, height=self.height, width=self.width)

    def between(self, start_us: int | None, end_us: int | None) -> Events:
        """Events with start_us <= t < end_us; a view. None leaves that side open."""
        first = 0 if start_us is None else int(np.searchsorted(self.t, start_us, "left"))
        last = len(self) if end_us is None else int(np.searchsorted(self.t, end_us, "left"))
        return self[first : max(first, last)]

    def __repr__(self) -> str:
        span = f", {self.t[0]} .. {self.t[-1]} us" if len(self) else ""
        return f"Events({len(self)} on {self.width}x{self.height}{span})"


def first_backward_step(t: np.ndarray) -> int | None:
    """Index of the first event earlier than the one before it, or None."""
    block = 1 << 16  # keeps the comparison's operands in the second-level cache
    for start in range(1, len(t), block):
        stop = min(start + block, len(t))
        back = t[start:stop] < t[start - 1 : stop - 1]
        if back.any():
            return start + int(np.argmax(back))
    return None


def _check_limit(column: np.ndarray, limit: int, name: str, meaning: str) -> None:
    if int(column.max()) < limit:
        return
    bad = column >= limit
    first = int(np.argmax(bad))
    raise DataError(
        "events out of range",
        where=f"event {first}" + (f" and {int(bad.sum()) - 1} more" if bad.sum() > 1 else ""),
        found=f"{name} = {column[first]}",
        expected=f"{meaning} {limit}",
        hint="check the sensor size; a damaged file gives such values too",
    )
