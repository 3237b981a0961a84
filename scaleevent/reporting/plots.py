"""The curves of runs as PNGs, for slides: the charts of the page, drawn by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from scaleevent.errors import MissingPackageError
from scaleevent.reporting.charts import Line
from scaleevent.reporting.comparison import families
from scaleevent.reporting.curves import compared_lines, lines_of
from scaleevent.reporting.runs import RunRecord
from scaleevent.system.files import atomic_path

INCHES, DPI = (6.4, 4.0), 200


def check_matplotlib() -> None:
    """Refuse to draw without the package that does it.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("matplotlib", "viz", "--curves") from error


def write_plots(folder: Path, runs: Sequence[RunRecord]) -> list[Path]:
    """A PNG for each chart of a run, and for each number that several runs of a kind have logged.

    Returns:
        The files, named by run and chart.
    """
    check_matplotlib()
    titled = [
        (f"{run.folder.resolve().name} {title}", f"{run.name}: {title}", unit, lines)
        for run in runs for title, _, unit, lines in lines_of(run)
    ]  # fmt: skip
    titled += [
        (f"all {family} {title}", f"{family}: {title}", unit, lines)
        for family, found in families(runs).items() if len(found) > 1
        for title, _, unit, lines in compared_lines(found)
    ]  # fmt: skip
    written: dict[Path, None] = {}
    for name, title, unit, lines in titled:
        stem, number = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:100], 2
        path = folder / f"{stem}.png"
        while path in written:  # runs of one name in different folders
            path, number = folder / f"{stem}-{number}.png", number + 1
        _plot(path, title, unit, lines)
        written[path] = None
    return list(written)


def _plot(path: Path, title: str, unit: str, lines: Sequence[Line]) -> None:
    """One chart; the same numbers give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for line in lines:
        x, y = zip(*line.finite, strict=True)
        axes.plot(x, y, label=line.name, marker="." if len(x) < 40 else "")
    axes.set_title(title, parse_math=False, wrap=True)
    axes.set_xlabel("training step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    legend = axes.legend()
    for text in legend.get_texts():
        text.set_parse_math(False)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", metadata={"Software": None})
