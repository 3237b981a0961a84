"""The tables of one run's results: what was scored, by class, by probe, files, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scaleevent.reporting.markup import Markup, element
from scaleevent.reporting.runs import RunRecord
from scaleevent.reporting.tables import Column, Shown, table
from scaleevent.system.files import Json
from scaleevent.system.reports import cell, counted

WORDS = {  # names of columns of result tables: what they are, with units
    "miou": "mean IoU of all classes, %", "acc": "% of pixels that are right",
    "miou_present": "mean IoU of the classes that occur, %",
    "d1": "share of pixels within a factor of 1.25 of the true depth",
    "d2": "share of pixels within a factor of 1.25 squared",
    "d3": "share of pixels within a factor of 1.25 cubed",
    "abs_rel": "mean of error / true depth", "rmse": "root mean square error, metres",
    "rmse_log": "root mean square error of logarithms of depth",
    "epe": "mean end-point error, pixels", "1pe": "% of pixels with an error above 1 pixel",
    "2pe": "% of pixels with an error above 2 pixels",
    "3pe": "% of pixels with an error above 3 pixels",
    "fl_all": "% of pixels with an error above 3 pixels and 5 % of the true motion",
    "ae": "mean angle between predicted and true motion, degrees",
    "difference": "largest difference from the checkpoint, as a fraction of its largest output",
    "samples at once": "how many samples the file takes at once",
}  # fmt: skip
IOU = "iou "  # what metrics of single classes begin with


def result_tables(run: RunRecord) -> Markup:
    """All tables of a finished run."""
    report = run.report
    parts = [_main(report)] if report.get("rows") else []
    parts += _probes(report.get("probes"))
    parts += _classes(report.get("metrics"))
    parts += _draws(report.get("released draws"))
    parts += _everything(report.get("metrics"))
    parts += _shards(report.get("shards"))
    return Markup("".join(parts))


def _main(report: Json) -> Markup:
    """The table that the command printed, with the interval of the headline beside it."""
    rows: Sequence[Mapping[str, object]] = report["rows"]
    names = list(dict.fromkeys(key for row in rows for key in row))
    spans = report.get("intervals")
    headline = str(spans.get("of", "")) if isinstance(spans, dict) else ""
    matched = [name for name in names if headline and headline.endswith(name)]
    column = max(matched, key=len) if matched else None
    body, scored = [], False
    for row in rows:
        first, *others = names
        values = [row.get(name) for name in others]
        label = str(row.get(first, ""))
        span = None
        if isinstance(spans, dict) and column is not None:
            own = label.startswith("ours") and not scored
            scored = scored or own
            span = _interval(spans.get("ours" if own else label))
        if span is not None and column in others:
            at = others.index(column)
            values[at] = _with_interval(values[at], span)
        body.append((label, *values))
    columns = [Column(names[0]), *(Column(name, WORDS.get(name, "")) for name in names[1:])]
    caption = str(report.get("title", "results"))
    if column is not None and isinstance(spans, dict):
        caption += f"; in brackets: {spans.get('covers', 'interval')}"
    explained = [f"{name}: {WORDS[name]}" for name in names if name in WORDS]
    about = element("p", "; ".join(explained), class_="about") if explained else Markup()
    return Markup(table(caption, columns, body) + about)


def _probes(found: object) -> list[Markup]:
    """Linear probes on frozen tokens: each probe's numbers, and the classes of each."""
    if not isinstance(found, dict) or not isinstance(found.get("rows"), dict):
        return []
    rows = {str(name): one for name, one in found["rows"].items() if isinstance(one, dict)}
    gains = found.get("differences")
    gains = gains if isinstance(gains, dict) else {}
    columns = dict.fromkeys(
        (probe, metric)
        for one in rows.values() for probe, metrics in one.items() if isinstance(metrics, dict)
        for metric, entry in metrics.items() if isinstance(entry, dict) and "value" in entry
    )  # fmt: skip
    caption = "Linear probes on frozen tokens; in brackets: " + str(found.get("interval", ""))
    heads = [f"{probe}" if metric != "abs_rel" else "AbsRel" for probe, metric in columns]

    def line(one: Json, signed: bool) -> list[object]:
        return [_entry(one.get(probe, {}).get(metric), signed) for probe, metric in columns]

    body = [(name, *line(one, False)) for name, one in rows.items()]
    less = [(name, *line(one, True)) for name, one in gains.items() if isinstance(one, dict)]
    parts = [table(caption, ("tokens", *heads), body)]
    if less:
        parts.append(table("Differences between these rows", ("less", *heads), less))
    for probe in dict.fromkeys(probe for probe, _ in columns):
        by_class = {name: one.get(probe, {}).get("iou") for name, one in rows.items()}
        classes = list(dict.fromkeys(
            key for one in by_class.values() if isinstance(one, dict) for key in one))  # fmt: skip
        if classes:
            lines = [
                (key, *(one.get(key) if isinstance(one, dict) else None
                        for one in by_class.values()))
                for key in classes
            ]  # fmt: skip
            shown = table(f"IoU of each class in %, {probe}", ("class", *by_class), lines)
            summary = element("summary", f"IoU of each class, {probe}")
            parts.append(element("details", summary, shown))
    return parts


def _classes(metrics: object) -> list[Markup]:
    """The overlap of each class."""
    if not isinstance(metrics, dict):
        return []
    rows = [(k.removeprefix(IOU), v) for k, v in metrics.items() if k.startswith(IOU)]
    columns = ("class", Column("IoU, %", "overlap of prediction and truth, of their union"))
    return [table("Each class: IoU in %", columns, rows)] if rows else []


def _draws(draws: object) -> list[Markup]:
    """The random score of the released code."""
    if not isinstance(draws, dict) or not isinstance(draws.get("mean"), dict):
        return []
    spread = draws.get("sd")
    spread = spread if isinstance(spread, dict) else {}
    rows = [(name, value, spread.get(name)) for name, value in draws["mean"].items()]
    return [table(f"Over {draws.get('number')} released draws", ("number", "mean", "SD"), rows)]


def _everything(metrics: object) -> list[Markup]:
    """All numbers of the metric, folded away."""
    if not isinstance(metrics, dict):
        return []
    rows = [
        (name, value) for name, value in metrics.items()
        if isinstance(value, int | float) and not name.startswith(IOU)
    ]  # fmt: skip
    if not rows:
        return []
    shown = table("Every number of the metric", ("number", "value"), rows)
    return [element("details", element("summary", "every number of the metric"), shown)]


def _shards(shards: object) -> list[Markup]:
    """The files of a store."""
    if not isinstance(shards, list) or not shards:
        return []
    rows = [
        (shard.get("file"), shard.get("pairs"), shard.get("bytes", 0) / 1e6, shard.get("sha256"))
        for shard in shards
    ]
    shown = table("Files of the store", ("file", "pairs", "MB", "SHA-256"), rows)
    return [element("details", element("summary", counted(len(rows), "file")), shown)]


def _entry(entry: object, signed: bool) -> object:
    """A number with its interval."""
    if not isinstance(entry, dict) or not isinstance(entry.get("value"), int | float):
        return None
    span = _interval(entry.get("interval"))
    return _with_interval(entry["value"], span, signed)


def _with_interval(value: object, span: tuple[float, float] | None, signed: bool = False) -> object:
    if not isinstance(value, int | float):
        return value
    shown = (lambda number: f"{number:+.3g}") if signed else cell
    text = shown(value)
    return Shown(value, text if span is None else f"{text} ({shown(span[0])} to {shown(span[1])})")


def _interval(span: object) -> tuple[float, float] | None:
    match span:
        case [int() | float() as low, int() | float() as high]:
            return float(low), float(high)
    return None
