"""What is told of predictions: windows by recording, and how long each stage took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scaleevent.config.predict import PredictConfig
from scaleevent.errors import DataError, ScaleEventError
from scaleevent.prediction.models import OpenedModel
from scaleevent.prediction.recordings import Done, PredictedRecording
from scaleevent.prediction.timing import timing_meaning, timing_rows
from scaleevent.prediction.views import View
from scaleevent.system.files import Json
from scaleevent.system.reports import Report, Section, counted

_COLUMNS = ("recording", "sensor", "windows", "events read", "windows/s", "latency ms", "p99 ms")


@dataclass(frozen=True, kw_only=True)
class PredictResult(Report):
    """What `predict` has written.

    Attributes:
        out: The folder; of several recordings each has one below it.
        recordings: What was predicted of each, in the order given.
        failed: Recordings without a prediction, and why; by name.
    """

    out: Path
    recordings: tuple[PredictedRecording, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    def own(self) -> Json:
        """See `Report`."""
        found: Json = {"recordings": [one.to_json() for one in self.recordings]}
        return found | ({"failed": dict(self.failed)} if self.failed else {})


def prediction_report(
    cfg: PredictConfig,
    opened: OpenedModel,
    view: View,
    done: list[Done],
    lines: list[str],
    failed: Mapping[str, ScaleEventError],
) -> PredictResult:
    """The report of `predict`.

    Args:
        cfg: All settings.
        opened: The model.
        view: What was shown of it.
        done: The recordings.
        lines: What was chosen, for people.
        failed: Why there is no prediction of further recordings, by name.
    """
    rows, more, notes = [], [], []
    for one in done:
        timing, source = one.timing, one.source
        latency = timing.milliseconds["latency"]
        rows.append(
            (source.name, f"{source.width}x{source.height}", one.tally.windows, one.tally.events,
             timing.windows_per_second, latency.median, latency.p99)
        )  # fmt: skip
        columns = ("stage", "median ms", "p99 ms", "% of the time")
        more.append(Section(f"time of one window, {source.name}", columns, timing_rows(timing)))
        notes += [f"{source.name}: {note}" if len(done) > 1 else note for note in one.notes]
    settings = opened.predictor.settings
    notes = [
        f"{view.name}: {view.unit}",
        *view.notes, *notes,
        *(f"{name}: no prediction: {why.what}" for name, why in failed.items()),
        timing_meaning(done[-1].timing), f"folder: {cfg.out}",
    ]  # fmt: skip
    facts = {
        "checkpoint": {"name": opened.name, "sha256": opened.description.get("sha256")},
        "view": {"name": view.name, "unit": view.unit},
        **cfg.with_origins(),
        "input": asdict(settings),
        "choices": lines,
        "device": str(next(opened.predictor.model.parameters()).device),
    }
    title = f"predict, {view.name}: {opened.name}"
    return PredictResult(
        "predict", title, _COLUMNS, tuple(rows), tuple(notes), facts, tuple(more),
        out=cfg.out, recordings=tuple(one.result() for one in done),
        failed={name: error.block() for name, error in failed.items()},
    )  # fmt: skip


def failures(
    failed: Mapping[str, ScaleEventError], done: Sequence[Done], out: Path
) -> ScaleEventError:
    """The error for recordings of which there is no prediction: of a single one its own.

    Args:
        failed: Why, by name.
        done: Those of which there are some.
        out: Where these are.
    """
    first = next(iter(failed.values()))
    if len(failed) + len(done) == 1:
        return first
    told = [f"{name}: {error.what}" for name, error in failed.items()]
    others = f"the predictions of {counted(len(done), 'other')} are whole in {out}"
    return DataError(
        f"no prediction of {len(failed)} of {len(failed) + len(done)} recordings",
        where=", ".join(failed), found="; ".join([*told, *([others] if done else [])]),
        expected="a window in each", hint=first.hint,
    )  # fmt: skip
