"""What `predict` does otherwise for live sources, and for files that play at their own speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from scaleevent.config.live import live_address
from scaleevent.config.predict import PredictConfig
from scaleevent.errors import ConfigError, DataError, ScaleEventError
from scaleevent.formats import Recording
from scaleevent.live.feed import Blocks, Feed
from scaleevent.live.latest import WhenSlow
from scaleevent.live.pace import Pace, SystemTimer, Timer
from scaleevent.live.source import LiveSource, open_live
from scaleevent.prediction.cutting import Cut, Tally, cut_windows
from scaleevent.prediction.recordings import (
    Done,
    PredictedRecording,
    open_recordings,
    predict_source,
)
from scaleevent.prediction.sources import EventSource, recorded
from scaleevent.prediction.streaming import Plan, inputs_of
from scaleevent.prediction.times import GivenTimes
from scaleevent.prediction.timing import Stopwatch
from scaleevent.prediction.views import View
from scaleevent.system.files import Json
from scaleevent.system.reports import Ticker
from scaleevent.system.signals import Stop, StopSignal, on_stop

LEARNT = 4  # windows of a live source that choose the colours of the others


@dataclass(frozen=True, eq=False)
class PlayedSource(EventSource):
    """A source whose time passes while predictions are made.

    Args:
        live: Where its events come from; None: from a recording that plays at its own speed.
    """

    live: LiveSource | None = None


@dataclass(frozen=True)
class FedPlan(Plan):
    """A plan whose windows come from a `Feed`.

    A view that has to learn from some windows takes the first that come. Where windows are dropped
    for newer ones, only a few, of which the last is predicted: the others are old by then.

    Args:
        begin: Makes the feed, of how it cuts windows.
        drops: Whether windows are dropped.
    """

    begin: Callable[[Callable[[Blocks], Iterator[Cut]]], Feed] = field(kw_only=True)
    drops: bool = field(kw_only=True)

    def cut(self, source: EventSource, view: View, tally: Tally | None = None) -> Iterator[Cut]:
        """The windows of a source that are not dropped for newer ones."""
        feed = self.begin(partial(
            cut_windows, schedule=self.schedule, rule=self.rule,
            span=self.span, after=view.needs_after, tally=tally,
        ))  # fmt: skip
        cuts = iter(feed)
        if view.learns and self.drops:
            first = list(islice(cuts, LEARNT))
            if len(first) < LEARNT:
                return iter(first)
            fit = view.predictor.settings.fit(source.height, source.width)
            view.learn([(inputs_of(view.predictor, cut), fit) for cut in first], [source.name])
            view.learns = False
            feed.forget(len(first) - 1)
            view.notes.append(
                f"the first {LEARNT} windows chose the colours; only the last of them is predicted"
            )
            cuts = chain(first[-1:], cuts)
        return cuts


@dataclass(frozen=True)
class Played(Done):
    """What was predicted of a `PlayedSource`.

    Args:
        live: Dropped windows, and lag.
        error: What ended the source, if it was an error; what was written before it is whole.
    """

    live: Json = field(default_factory=dict)
    error: ScaleEventError | None = None

    def result(self) -> PredictedRecording:
        """The numbers."""
        return replace(super().result(), live=self.live)


def open_inputs(cfg: PredictConfig) -> Sequence[Recording | LiveSource]:
    """The recordings that are asked for, or the live source.

    Raises:
        DataError: As `open_recording` and `open_live`.
        ConfigError: As `open_live`.
        EnvironmentProblem: As `open_live`.
    """
    if not cfg.is_live:
        return open_recordings(cfg)
    [path] = cfg.recordings
    where = live_address(path) or str(path)
    return [open_live(where, encoding=cfg.format, size=cfg.size, idle_s=cfg.idle)]


def event_source(
    one: Recording | LiveSource, name: str, plan: Plan, cfg: PredictConfig
) -> EventSource:
    """A recording or a live source, as predictions are made of them."""
    if isinstance(one, LiveSource):
        return PlayedSource(one.name, one.height, one.width, partial(iter, one), live=one)
    source = recorded(one, name, plan.span, plan.rule, frames=cfg.frames)
    return PlayedSource(**vars(source)) if cfg.pace == "real" else source


def predicted(
    source: EventSource,
    view: View,
    plan: Plan,
    folder: Path,
    cfg: PredictConfig,
    times: GivenTimes | None,
    ticker: Ticker,
) -> Done:
    """Make all predictions of a source, see `predict_source` and `play`."""
    if isinstance(source, PlayedSource):
        return play(source, view, plan, folder, cfg, times, ticker)
    return predict_source(source, view, plan, folder, cfg, times, ticker.advance)


def play(
    source: PlayedSource,
    view: View,
    plan: Plan,
    folder: Path,
    cfg: PredictConfig,
    times: GivenTimes | None,
    ticker: Ticker,
    timer: Timer | None = None,
) -> Played:
    """Make predictions while time passes, and write them to a folder.

    A stop signal ends it, as the end of the source does: with everything whole that was written.

    Args:
        source: The events.
        view: What is shown, of which model.
        plan: The windows.
        folder: Made if need be.
        cfg: What is written, and what happens where the network is slower than the source.
        times: The times that were asked for, if any.
        ticker: Told of each window.
        timer: The clock.

    Raises:
        ScaleEventError: What ended the source before its first window.
        ConfigError: No window was to be predicted.
        StopSignal: A stop signal came before the first prediction.
        MissingPackageError: A video without the package that writes it.
    """
    timer, stop = timer or SystemTimer(), Stop()
    feeds: list[Feed] = []

    def over() -> bool:
        return stop() or any(feed.closed for feed in feeds)

    blocks: LiveSource | Pace
    if source.live is None:
        blocks = Pace(source.blocks(), timer, over, start_us=plan.span.start_us)
    else:
        blocks = source.live
        blocks.silence.stop = over
    when_slow: WhenSlow = cfg.when_slow

    def begin(cut: Callable[[Blocks], Iterator[Cut]]) -> Feed:
        feeds.append(Feed(blocks, cut, room=cfg.queue, when_slow=when_slow, timer=timer, stop=stop))
        return feeds[0]

    def advance() -> None:
        feed = feeds[0]
        feed.finished()
        ticker.advance(1, f"{1000 * feed.lags.last:.0f} ms late, {feed.passed.dropped:,} dropped")

    fed = FedPlan(plan.schedule, plan.rule, plan.span, begin=begin, drops=when_slow == "drop")
    try:
        with on_stop(stop.note):
            watch = Stopwatch(waits=True)
            done = predict_source(source, view, fed, folder, cfg, times, advance, watch)
    except (ConfigError, DataError) as error:  # such as not a single window
        ended = feeds[0].error if feeds else None
        if ended is None:
            raise
        raise ended from error
    feed = feeds[0]
    if not done.timing.windows:  # a stop signal before the first prediction
        raise feed.error or StopSignal(stop.received[0])
    done.tally.windows = done.timing.windows  # those that were not dropped
    notes = [*(source.live.told() if source.live else ()), *feed.told(), *done.notes]
    return Played(**vars(replace(done, notes=notes)), live=feed.to_json(), error=feed.error)


def ended_by(done: Done) -> ScaleEventError | None:
    """The error that ended a source, if it was one."""
    return done.error if isinstance(done, Played) else None
