"""Which numbers of a log belong into one chart, and what each chart says in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scaleevent.reporting.charts import Line, line_chart
from scaleevent.reporting.markup import Markup, element
from scaleevent.reporting.runs import RunRecord

FIRST = 6  # charts that are shown unfolded where several runs are compared
LEADING = ("val_loss", "loss", "val_residual", "val_cosine_all", "val_map", "lr")  # shown first
NO_CURVES = ("step", "epoch")  # in every record, and no result


@dataclass(frozen=True)
class Chart:
    """Numbers of a log that are drawn over each other."""

    title: str
    about: str  # what the curve is and how to read it
    keys: Mapping[str, str] = field(default_factory=dict)  # key of the log to the name of its line
    unit: str = ""


CHARTS = (
    Chart(
        "Loss", "The one number that training makes smaller. Training: on the batch of a step, so "
        "it is noisy. Held out: on pairs that are not trained on, after each epoch; where only the "
        "training line falls, the run learns its own data by heart.",
        {"loss": "training", "val_loss": "held out"},
    ),
    Chart(
        "Parts of the loss, training",
        "What the loss is made of, each before its weight: L1 compares tokens one by one, IS and "
        "CS how tokens resemble each other: within the events, and between events and image.",
        {"l1": "L1", "intra": "IS", "cross": "CS"},
    ),
    Chart(
        "Parts of the loss, held out", "The same parts on pairs that are not trained on.",
        {"val_l1": "L1", "val_intra": "IS", "val_cross": "CS"},
    ),
    Chart(
        "Likeness to the teacher",
        "Mean cosine between the student's token of the events and the teacher's of the image: 1 "
        "is equal, 0 unrelated. Part of it is only the usual layout of a scene.",
        {"cosine": "training, active tokens", "val_cosine": "held out, active tokens",
         "val_cosine_all": "held out, all tokens"}, "cosine",
    ),
    Chart(
        "Likeness beyond the usual layout",
        "The same cosine after the teacher's mean token of each place is taken away: 0 is what "
        "knowing the place alone gives, 1 is the teacher. This is what events add.",
        {"val_residual": "all tokens", "val_residual_active": "tokens with many events",
         "val_residual_inactive": "tokens with few events"}, "cosine",
    ),
    Chart(
        "Likeness within a scene",
        "As before, and the scene's own mean is taken away too: 0 also for one who knows what kind "
        "of scene it is, but not where things are.",
        {"val_scene": "all tokens", "val_scene_active": "tokens with many events",
         "val_scene_inactive": "tokens with few events"}, "cosine",
    ),
    Chart(
        "Likeness of similarity maps",
        "Correlation between the student's and the teacher's map of which places of a picture "
        "resemble each other: 1 is the same map.", {"val_map": "held out"}, "correlation",
    ),
    Chart(
        "Effective rank", "How many directions of feature space the tokens use. A fall towards 1 "
        "means that all tokens become alike: the features collapse.",
        {"rank": "training", "val_rank": "held out"}, "directions",
    ),
    Chart(
        "Balance of the loss",
        "The weighted IS and CS as multiples of L1: 1 means that they weigh as much as L1 does.",
        {"val_share_intra": "IS", "val_share_cross": "CS"}, "times L1",
    ),
    Chart(
        "Balance of the gradients",
        "How hard the weighted IS and CS pull at the student, as multiples of L1's pull.",
        {"val_gradient_intra": "IS", "val_gradient_cross": "CS"}, "times L1",
    ),
    Chart(
        "Gradient of L1, held out", "How hard L1 alone pulls: what the multiples above are of.",
        {"val_gradient_l1": "L1"}, "length",
    ),
    Chart(
        "Share of tokens that count",
        "Active: tokens with enough events to be compared. Valid: tokens whose pixels the image "
        "shows. Empty: samples of a batch in which no token counts.",
        {"active": "active", "val_active": "active, held out", "valid": "valid",
         "empty_samples": "empty samples"}, "fraction",
    ),
    Chart("Learning rate", "How large the steps are, as the schedule sets it.", {"lr": "rate"}),
    Chart(
        "Length of the gradient",
        "Before clipping. Spikes are batches that would have changed the weights much; a steady "
        "rise announces that training diverges.", {"grad_norm": "length"},
    ),
    Chart("Speed", "Samples that all processes together trained on in a second.",
          {"samples_per_s": "speed"}, "samples/s"),
    Chart(
        "Waiting for data",
        "Share of the time in which nothing was computed because the next batch was not loaded: "
        "with much of it, more loader workers help.", {"data_wait_percent": "waiting"}, "%",
    ),
)  # fmt: skip
TERMS = "Parts of the loss, training"  # also those of task losses, whatever their names
_TERM_NAMES = {
    "ce": "cross entropy", "dice": "dice", "silog": "scale-invariant log error",
    "mask": "mask", "class": "class", "scale_shift": "scale and shift", "gradient": "gradient",
}  # fmt: skip
_TASK_TERMS = "What the loss is made of, each before its weight."
_UNKNOWN = "A number that the run logged."


def charts_of(runs: Sequence[RunRecord]) -> list[Chart]:
    """The charts for which the logs have numbers, with those that have no description of ours."""
    there = dict.fromkeys(key for run in runs for record in run.log for key in record)
    described = {key for chart in CHARTS for key in chart.keys}
    others = [key for key in there if key not in described and key not in NO_CURVES]
    terms = {key: _TERM_NAMES[key] for key in others if key in _TERM_NAMES}
    found = []
    for chart in CHARTS:
        keys = {key: name for key, name in chart.keys.items() if key in there}
        about = chart.about
        if chart.title == TERMS and terms:
            about = about if keys else _TASK_TERMS
            keys |= terms
        if keys:
            found.append(Chart(chart.title, about, keys, chart.unit))
    found += [Chart(key, _UNKNOWN, {key: key}) for key in others if key not in terms]
    return found


def lines_of(run: RunRecord) -> Iterator[tuple[str, str, str, list[Line]]]:
    """Title, explanation, unit and lines of each chart of one run."""
    for chart in charts_of([run]):
        lines = [line for key, name in chart.keys.items() if (line := _line(run, key, name))]
        if lines:
            yield chart.title, chart.about, chart.unit, lines


def compared_lines(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str, str, list[Line]]]:
    """The same with a line a run, for each number that more than one run has logged."""
    for chart, key, name in _each(runs):
        lines = [line for run in runs if (line := _line(run, key, run.name))]
        if len(lines) > 1:
            title = chart.title if name == chart.title else f"{chart.title}: {name}"
            yield title, chart.about, chart.unit, lines


def curves(run: RunRecord) -> list[Markup]:
    """The charts of one run, all lines of a chart together."""
    return [line_chart(title, about, lines, unit) for title, about, unit, lines in lines_of(run)]


def compared_curves(runs: Sequence[RunRecord]) -> list[Markup]:
    """The charts of several runs."""
    return [
        line_chart(title, about, lines, unit) for title, about, unit, lines in compared_lines(runs)
    ]  # fmt: skip


def _each(runs: Sequence[RunRecord]) -> Iterator[tuple[Chart, str, str]]:
    each = [
        (chart, key, name) for chart in charts_of(runs) for key, name in chart.keys.items()
    ]  # fmt: skip
    rank = {key: number for number, key in enumerate(LEADING)}
    yield from sorted(each, key=lambda one: rank.get(one[1], len(rank)))


def _line(run: RunRecord, key: str, name: str) -> Line | None:
    """The curve of a number; None where the run has logged none that can be drawn."""
    line = Line(name, tuple((record["step"], record[key]) for record in run.log if key in record))
    return line if line.finite else None


def chart_grid(charts: Sequence[Markup], folded_after: int | None = None) -> Markup:
    """Charts beside each other as far as there is room; those after a number folded away."""
    first = charts if folded_after is None else charts[:folded_after]
    shown = element("div", first, class_="charts")
    rest = charts[len(first) :]
    if not rest:
        return shown
    more = element("summary", f"{len(rest)} more curves")
    return Markup(shown + element("details", more, element("div", rest, class_="charts")))
