"""Which prediction a robot would have had at a time, if the network ran while the camera did.

The evaluation that a benchmark makes waits for the network: at each label it scores the prediction
of the window that ends there, as if it had taken no time. Here it is the newest prediction that was
finished by then (the streaming evaluation of Li, Wang and Ramanan, "Towards Streaming Perception",
ECCV 2020). No time has to pass for that: the camera's clock is simulated, and the network's is
measured. So the result depends on the computer, as it would on the robot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Window = TypeVar("Window")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Newest(Generic[Made]):
    """What was there at the time of a label.

    Args:
        label_us: The time.
        prediction: The newest that was finished by then; None if there was none yet.
        age_us: Time from the end of its window to the label.
    """

    label_us: int
    prediction: Made | None
    age_us: int = 0


@dataclass
class Course:
    """What the network did; complete at the end.

    Args:
        windows: Windows that came.
        used: Windows that a prediction was made of; newer ones have pushed out the others.
        seconds: The sum of what these took.
    """

    windows: int = 0
    used: int = 0
    seconds: float = field(default=0.0)


def newest_at(
    labels_us: Iterable[int],
    windows: Iterable[tuple[int, Window]],
    predict: Callable[[Window], tuple[Made, float]],
    course: Course | None = None,
) -> Iterator[Newest[Made]]:
    """The newest prediction that was finished at each label.

    While the network works on one window the others wait, but only the newest of them: once it is
    free it takes that, or the next one that comes.

    Args:
        labels_us: Times, ascending, microseconds.
        windows: Times, ascending, at which windows are whole, and the windows; read no further than
            the labels need.
        predict: Makes a prediction and says how many seconds that took.
        course: What is counted; its values are added to.

    Example:
        >>> from scaleevent.live.scoring import newest_at
        >>> windows = [(end, f"to {end // 1000}") for end in range(0, 100_000, 10_000)]
        >>> for one in newest_at([9_000, 40_000, 60_000], windows, lambda window: (window, 0.025)):
        ...     print(one.label_us, one.prediction, one.age_us)
        9000 None 0
        40000 to 0 40000
        60000 to 20 40000
    """
    course = Course() if course is None else course
    coming = iter(windows)
    ahead = next(coming, None)
    waiting: tuple[int, Window] | None = None
    finished: tuple[int, Made] | None = None  # the end of its window, and the newest prediction
    working: tuple[int, int, Made] | None = None  # when it is done, the end of its window, and it
    free_us = -(1 << 62)  # the network has never worked
    for label_us in labels_us:
        while True:
            if working is not None:
                if working[0] > label_us:
                    break
                free_us, finished, working = working[0], working[1:], None
            # the newest of those that have come by the time at which it is free
            while ahead is not None and (waiting is None or ahead[0] <= free_us):
                if ahead[0] > label_us:
                    break
                course.windows += 1
                waiting, ahead = ahead, next(coming, None)
            if waiting is None:
                break
            end_us, window = waiting
            waiting = None
            prediction, seconds = predict(window)
            course.used += 1
            course.seconds += seconds
            working = (max(free_us, end_us) + round(seconds * 1e6), end_us, prediction)
        if finished is None:
            yield Newest(label_us, None)
        else:
            yield Newest(label_us, finished[1], label_us - finished[0])
