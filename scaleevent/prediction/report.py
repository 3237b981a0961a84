"""What is told of predictions: windows by recording, and how long each stage took."""

from __future__ import annotations

from dataclasses import asdict

from scaleevent.config.predict import PredictConfig
from scaleevent.prediction.models import OpenedModel
from scaleevent.prediction.recordings import Done
from scaleevent.prediction.timing import timing_meaning, timing_rows
from scaleevent.prediction.views import View
from scaleevent.system.reports import Report, Section

_COLUMNS = ("recording", "sensor", "windows", "events read", "windows/s", "latency ms", "p99 ms")


def prediction_report(
    cfg: PredictConfig, opened: OpenedModel, view: View, done: list[Done], lines: list[str]
) -> Report:
    """The report of `predict`.

    Args:
        cfg: All settings.
        opened: The model.
        view: What was shown of it.
        done: The recordings.
        lines: What was chosen, for people.
    """
    rows, more, notes = [], [], []
    for one in done:
        timing, source = one.timing, one.source
        latency = timing["milliseconds"]["latency"]
        rows.append(
            (source.name, f"{source.width}x{source.height}", one.tally.windows, one.tally.events,
             timing["windows_per_second"], latency["median"], latency["p99"])
        )  # fmt: skip
        columns = ("stage", "median ms", "p99 ms", "% of the time")
        more.append(Section(f"time of one window, {source.name}", columns, timing_rows(timing)))
        notes += [f"{source.name}: {note}" if len(done) > 1 else note for note in one.notes]
    settings = opened.predictor.settings
    notes = [
        f"{view.name}: {view.unit}",
        *view.notes, *notes, timing_meaning(done[-1].timing), f"folder: {cfg.out}",
    ]  # fmt: skip
    facts = {
        "checkpoint": {"name": opened.name, "sha256": opened.description.get("sha256")},
        "view": {"name": view.name, "unit": view.unit},
        **cfg.with_origins(),
        "input": asdict(settings),
        "choices": lines,
        "device": str(next(opened.predictor.model.parameters()).device),
        "recordings": [one.facts() for one in done],
    }
    title = f"predict, {view.name}: {opened.name}"
    return Report("predict", title, _COLUMNS, tuple(rows), tuple(notes), facts, tuple(more))
