"""From a source of events to predictions, one by one, whether it is a file or a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from torch import Tensor

from scaleevent.events import Events
from scaleevent.grids.geometry import Fit
from scaleevent.grids.windows import Window, WindowRule
from scaleevent.prediction.cutting import Cut, Tally, cut_windows
from scaleevent.prediction.schedules import Schedule, Span
from scaleevent.prediction.sources import EventSource
from scaleevent.prediction.timing import Stopwatch
from scaleevent.prediction.views import SAMPLE, Sample, View
from scaleevent.predictor import Predictor, network_input

MOST = 4 * SAMPLE  # windows that a view learns from, if there are many recordings; about


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a view shows of one window.

    Args:
        cut: The window and its events.
        values: On the sensor's pixels, see `View.values`.
    """

    cut: Cut
    values: np.ndarray


@dataclass(frozen=True)
class Plan:
    """Which windows predictions are made of.

    Args:
        schedule: When they end.
        rule: How their start is found.
        span: The part of the stream in which they end.
    """

    schedule: Schedule
    rule: WindowRule
    span: Span = Span()

    def cut(self, source: EventSource, view: View, tally: Tally | None = None) -> Iterator[Cut]:
        """The windows of a source that it picks; see `cut_windows`."""
        cuts = cut_windows(
            source.blocks(), self.schedule, self.rule,
            span=self.span, after=view.needs_after, tally=tally,
        )  # fmt: skip
        return source.pick(cuts)


def predictions(
    source: EventSource,
    view: View,
    plan: Plan,
    tally: Tally | None = None,
    watch: Stopwatch | None = None,
) -> Iterator[Prediction]:
    """Predictions along a stream of events, each made when it is asked for.

    A view that has to learn from some windows and has not (`View.learns`) holds back the first
    `SAMPLE` of them.

    Args:
        source: The events.
        view: What is shown, of which model.
        plan: The windows.
        tally: What is counted.
        watch: Measures reading, voxelising and network; whoever asks for predictions adds the
            drawing, and calls `lap` after each.

    Raises:
        DataError: Damage in the events.
        ConfigError: The view cannot show this sensor.
    """
    watch = Stopwatch() if watch is None else watch
    fit = view.predictor.settings.fit(source.height, source.width)
    _warm_up(view, fit)
    cuts = plan.cut(source, view, tally)
    if view.learns:
        with watch.stage("reading"):
            first = list(islice(cuts, SAMPLE))
        if not first:
            return
        view.learn([(inputs_of(view.predictor, cut), fit) for cut in first], [source.name])
        view.learns = False
        cuts = chain(first, cuts)
    while True:
        with watch.stage("reading"):
            cut = next(cuts, None)
        if cut is None:
            return
        with watch.stage("voxelising"):
            inputs = inputs_of(view.predictor, cut)
        with watch.stage("network"):
            values = view.values(inputs, fit)
        yield Prediction(cut, values)


def inputs_of(predictor: Predictor, cut: Cut) -> list[Tensor]:
    """The network's inputs (3, H, W) made of a window, and of the one after it if it has one."""
    windows = [(cut.window, cut.events), *([cut.after] if cut.after else [])]
    return [network_input(events, window, predictor.settings) for window, events in windows]


def sample_of(
    sources: Sequence[EventSource],
    view: View,
    plan: Plan,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Sample, int]:
    """Windows to learn from, evenly spaced over each recording, and the number of all.

    Every recording is read once; fewer than twice `SAMPLE` windows of it are held, and of many
    recordings fewer of each: two or three in the end.

    Args:
        sources: The recordings.
        view: What is to learn.
        plan: The windows.
        advance: Called for each of them.
    """
    room = 2 * max(min(SAMPLE, MOST // max(len(sources), 1)), 2)
    sample: list[tuple[list[Tensor], Fit]] = []
    windows = 0
    for source in sources:
        fit = view.predictor.settings.fit(source.height, source.width)
        kept: list[list[Tensor]] = []
        step = 1
        tally = Tally()
        for cut in plan.cut(source, view, tally):
            advance()
            if cut.index % step:
                continue
            kept.append(inputs_of(view.predictor, cut))
            if len(kept) == room:
                kept, step = kept[::2], 2 * step
        windows += tally.windows
        sample += [(inputs, fit) for inputs in kept]
    return sample, windows


def _warm_up(view: View, fit: Fit) -> None:
    """Compile and set up what the first window would else be charged for."""
    window = Window(0, 10)
    nothing = Events.from_columns([0, 5], [0, 0], [0, 0], [0, 1], fit.height, fit.width)
    inputs = [network_input(nothing, window, view.predictor.settings)]
    if view.needs_after:
        view.predictor.map_of(inputs * 2, fit)
    else:
        view.predictor.features_of(inputs[0])
