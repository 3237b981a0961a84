"""Predictions of whole recordings into folders, and what is reported of them."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from scaleevent.config.predict import DRAWN, PredictConfig
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import Recording, open_recording
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pairing import window_rule
from scaleevent.pairs.window_words import stored_rule
from scaleevent.prediction.cutting import Tally
from scaleevent.prediction.drawing import Painter
from scaleevent.prediction.models import OpenedModel, rule_text
from scaleevent.prediction.schedules import AtRate, AtTimes, EveryEvents, Schedule, Span
from scaleevent.prediction.sources import EventSource, LatestFrame
from scaleevent.prediction.streaming import Plan, predictions, sample_of
from scaleevent.prediction.times import GivenTimes, read_times
from scaleevent.prediction.timing import Stopwatch, Timing
from scaleevent.prediction.views import View
from scaleevent.prediction.writers import TimesWriter, writers
from scaleevent.system.files import Json
from scaleevent.system.reports import progress

FALLBACK_RATE = 30.0  # pictures a second of a video whose windows have no fixed rate


def open_recordings(cfg: PredictConfig) -> list[Recording]:
    """The recordings that are asked for, opened but not read.

    Raises:
        DataError: As `open_recording`.
    """
    options = {"size": cfg.size, "max_bad": cfg.tolerated, **cfg.reading}
    return [open_recording(path, **options) for path in cfg.recordings]


def folder_names(paths: Sequence[Path]) -> list[str]:
    """A folder name for each of several recordings, no two alike; equal ones are numbered.

    Names that differ in case alone are equal, as they are on some file systems.
    """
    stems = [Path(os.path.abspath(path)).stem for path in paths]  # also of `.` and `..`
    bare = [re.sub(r"[^\w.-]+", "-", stem) or "recording" for stem in stems]
    count = Counter(name.casefold() for name in bare)
    taken = {name for name, number in count.items() if number == 1}
    names = []
    for name in bare:
        if count[name.casefold()] > 1:
            numbered = (f"{name}-{number}" for number in itertools.count(1))
            name = next(one for one in numbered if one.casefold() not in taken)
            taken.add(name.casefold())
        names.append(name)
    return names


def choose_rule(cfg: PredictConfig, opened: OpenedModel) -> tuple[WindowRule, str]:
    """The rule for windows, and a line that says whose it is."""
    if cfg.asks_for_window:
        rule, whose = window_rule(cfg), "as asked"
    elif (found := stored_rule(opened.description)) is not None:
        rule, where = found
        whose = f"that of the training data, stored in {where}"
    else:
        rule, whose = window_rule(cfg), "the default: the checkpoint does not store one (--window)"
    return rule, f"windows: {rule_text(rule)}; {whose}"


def choose_schedule(cfg: PredictConfig, times: GivenTimes | None) -> tuple[Schedule, str]:
    """When predictions are made, and a line that says so."""
    if times is not None:
        return times.schedule, f"predictions: {times.described()}"
    schedule: Schedule = AtRate(cfg.rate)
    if cfg.every_events is not None:
        schedule = EveryEvents(cfg.every_events)
    return schedule, f"predictions: {schedule.described()}"


def given_times(cfg: PredictConfig) -> GivenTimes | None:
    """The times that are asked for, if any.

    Raises:
        DataError: See `read_times`.
    """
    return None if cfg.at is None else read_times(cfg.at, cfg.at_unit, cfg.at_origin == "first")


def span_of(cfg: PredictConfig) -> Span:
    """The part of each recording that is asked for."""
    duration = None if cfg.duration is None else max(round(cfg.duration * 1e6), 1)
    return Span(round(cfg.start * 1e6), duration)


def learn(
    view: View, sources: Sequence[EventSource], plan: Plan, basis: Path, quiet: bool = True
) -> int | None:
    """Let a view learn from all recordings, if it has to, and save what it learnt.

    Args:
        view: The view.
        sources: The recordings.
        plan: The windows.
        basis: The file that is written.
        quiet: No progress on stderr.

    Returns:
        The number of windows of all recordings, where that is known; at least about.
    """
    if not view.learns:
        counts = [_windows_expected(source, plan) for source in sources]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
    with progress("choosing colours", None, "windows", not quiet) as ticker:
        sample, windows = sample_of(sources, view, plan, ticker.advance)
    if not sample:
        return None
    view.learn(sample, [source.name for source in sources])
    view.learns = False
    view.save(basis)
    return windows


def _windows_expected(source: EventSource, plan: Plan) -> int | None:
    if isinstance(plan.schedule, AtTimes):
        return len(plan.schedule.times_us)
    if not isinstance(plan.schedule, AtRate):
        return None
    left = plan.span.duration_us
    if source.extent_us is not None:
        inside = source.extent_us[1] - source.extent_us[0] - plan.span.start_us
        left = max(inside if left is None else min(inside, left), 0)
    return None if left is None else round(left * plan.schedule.rate / 1e6)


@dataclass(frozen=True)
class Stretch:
    """A stretch of a recording's clock, which may be reset.

    Args:
        first_us: Time of its first event, microseconds.
        last_us: Time of its last event.
        windows: Number of windows in it.
    """

    first_us: int
    last_us: int
    windows: int


@dataclass(frozen=True)
class PredictedRecording:
    """What was predicted of one recording, in numbers.

    Args:
        recording: Its name.
        folder: Where the predictions are.
        sensor: (height, width) in pixels.
        events_read: Number of events.
        windows: Number of predictions.
        windows_empty: Left out, without any event.
        windows_without_the_one_after: Left out, not followed by a whole one, which flow needs.
        times_outside: Given times that lie outside the events.
        stretches: Of the clock.
        timing: How long it took.
        notes: What a person should know.
        live: Of events that came meanwhile: dropped windows and how late predictions were, as in
            the report; None of a file that was whole.
    """

    recording: str
    folder: Path
    sensor: tuple[int, int]
    events_read: int
    windows: int
    windows_empty: int
    windows_without_the_one_after: int
    times_outside: int
    stretches: tuple[Stretch, ...]
    timing: Timing
    notes: tuple[str, ...] = ()
    live: Json | None = None

    def to_json(self) -> Json:
        """For reports."""
        found = asdict(self) | {"folder": str(self.folder), "sensor": list(self.sensor)}
        return found if self.live is not None else {k: v for k, v in found.items() if k != "live"}


@dataclass(frozen=True)
class Done:
    """What was predicted of one recording."""

    source: EventSource
    folder: Path
    tally: Tally
    timing: Timing
    notes: list[str] = field(default_factory=list)

    def result(self) -> PredictedRecording:
        """The numbers."""
        tally = self.tally
        return PredictedRecording(
            recording=self.source.name,
            folder=self.folder,
            sensor=(self.source.height, self.source.width),
            events_read=tally.events,
            windows=tally.windows,
            windows_empty=tally.empty,
            windows_without_the_one_after=tally.unfollowed,
            times_outside=tally.beyond,
            stretches=tuple(Stretch(*one) for one in tally.stretches),
            timing=self.timing,
            notes=tuple(self.notes),
        )


def predict_source(
    source: EventSource,
    view: View,
    plan: Plan,
    folder: Path,
    cfg: PredictConfig,
    times: GivenTimes | None = None,
    advance: Callable[[], None] = lambda: None,
    watch: Stopwatch | None = None,
) -> Done:
    """Make all predictions of a source and write them to a folder.

    Args:
        source: The events.
        view: What is shown, of which model.
        plan: The windows.
        folder: Made if need be.
        cfg: What is written, and how it is drawn.
        times: What the schedule is made of, for messages.
        advance: Called after each window.
        watch: Measures the stages.

    Raises:
        DataError: Damage in the events; or there are none.
        ConfigError: No window ends within them. Nothing is written then.
        MissingPackageError: A video without the package that writes it.
    """
    tally, watch = Tally(), watch or Stopwatch()
    rate = plan.schedule.rate if isinstance(plan.schedule, AtRate) else FALLBACK_RATE
    drawn = bool(set(cfg.write) & set(DRAWN))
    frames = LatestFrame(source if drawn else replace(source, frames=None))
    painter = Painter(view, frames, source.name, cfg.layout == "beside")
    with ExitStack() as stack:
        out = [
            stack.enter_context(one)
            for one in writers(cfg.write, folder, view, source.name, rate)
        ]  # fmt: skip
        table = stack.enter_context(TimesWriter(folder))
        for prediction in predictions(source, view, plan, tally, watch):
            cut, values = prediction.cut, prediction.values
            with watch.stage("drawing"):
                picture = painter.draw(cut, values) if drawn else None
                table.add(cut, [one.write(cut, values, picture) for one in out])
            watch.lap()
            advance()
        if not tally.windows:
            raise _nothing(source.name, tally, plan, times)
    notes = _notes(tally, frames, drawn)
    return Done(source, folder, tally, watch.timing(), notes)


def _nothing(
    name: str, tally: Tally, plan: Plan, times: GivenTimes | None
) -> DataError | ConfigError:
    """The error for a recording without a single window."""
    if not tally.stretches:
        return DataError("no events", where=name, expected="a recording with events")
    first, last, _ = tally.stretches[0]
    found = f"events from {first} to {last} us, {(last - first) / 1e6:.6g} s"
    if times is not None and tally.beyond:
        ways = times.ways_to_fit(first, last)
        low, high = times.schedule.times_us[[0, -1]].tolist()
        return ConfigError(
            "none of the given times lies within the events", where=times.path,
            found=f"times from {low} to {high} us; {found}",
            expected="times after the first event and until the last",
            hint=f"they would with {' or '.join(ways)}" if ways else None,
        )  # fmt: skip
    least, hint = _least_rate(plan.span, first, last), None
    if first + plan.span.start_us > last:
        hint = "an earlier --start"
    elif tally.unfollowed:
        hint = "shorter windows, which others can follow: --window-ms"
    elif isinstance(plan.schedule, EveryEvents):
        hint = "a smaller --every-events"
    elif isinstance(plan.schedule, AtRate) and plan.schedule.rate < least:
        hint = f"--rate {least}" + (", or a longer --duration" if plan.span.duration_us else "")
    return ConfigError(
        "no window ends within the events", where=name,
        found=f"{found}; windows without events: {tally.empty:,}, without the window after them: "
        f"{tally.unfollowed:,}",
        hint=hint,
    )  # fmt: skip


def _least_rate(span: Span, first: int, last: int) -> int:
    """The least whole rate at which a window ends within the events and the time asked for."""
    room = last - first - span.start_us
    return math.ceil(1e6 / max(min(room, span.duration_us or room), 1))


def _notes(tally: Tally, frames: LatestFrame, drawn: bool) -> list[str]:
    notes = []
    if len(tally.stretches) > 1:
        parts = ", ".join(f"{windows:,}" for _, _, windows in tally.stretches)
        notes.append(
            f"the clock was reset: {len(tally.stretches)} stretches, each with windows of its own "
            f"({parts}); `stretch` in times.csv counts them"
        )
    if tally.empty:
        notes.append(f"{tally.empty:,} windows without events left out")
    if tally.unfollowed:
        notes.append(f"{tally.unfollowed:,} windows at the end left out: none whole follows them")
    if tally.beyond:
        notes.append(f"warning: {tally.beyond:,} of the given times lie outside the events")
    if drawn and frames.drawn:
        notes.append(f"{frames.drawn:,} pictures drawn on the recording's frames")
    if frames.note:
        notes.append(frames.note)
    return notes
