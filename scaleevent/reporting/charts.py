"""Line charts as SVG inside the page: axes, lines, a list of the lines with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scaleevent.reporting.markup import Markup, element
from scaleevent.reporting.tables import Column, table
from scaleevent.system.reports import cell

WIDTH, HEIGHT = 420, 230  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 38  # around the plot
POINTS = 300  # of a line at most; of more, the lowest and highest of each stretch are drawn
COLOURS = 8  # of the page's style; further lines are dashed, then dotted
DOTTED = 40  # points up to which each is marked

_Place = Callable[[float, float], tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: tuple[tuple[float, float], ...]  # (x, y) in the order of x

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [point for point in self.points if all(map(math.isfinite, point))]


def line_chart(
    title: str, about: str, lines: Sequence[Line], unit: str = "", across: str = "training step"
) -> Markup:
    """A figure: chart, list of lines, what it shows, and its numbers in a table.

    Args:
        title: What is drawn.
        about: A sentence that says what it is and how to read it.
        lines: At least one point can be drawn.
        unit: Of the heights.
        across: What the horizontal axis is.
    """
    drawn = [point for line in lines for point in line.finite]
    low_x, high_x = _span([x for x, _ in drawn])
    low_y, high_y = _span([y for _, y in drawn])
    marks_x = [mark for mark in ticks(low_x, high_x, 5) if low_x <= mark <= high_x]
    marks_y = ticks(low_y, high_y, 5)
    low_y, high_y = marks_y[0], marks_y[-1]

    def place(x: float, y: float) -> tuple[str, str]:
        across = (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)
        up = (y - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)
        return f"{LEFT + across:.1f}", f"{HEIGHT - BOTTOM - up:.1f}"

    parts = [element("title", f"{title}. {_spoken(lines)}")]
    for mark in marks_y:
        _, y = place(low_x, mark)
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(element("text", tick(mark), class_="tick", x=LEFT - 6, y=y, dy="0.32em",
                             text_anchor="end"))  # fmt: skip
    for mark in marks_x:
        x, _ = place(mark, low_y)
        parts.append(element("text", tick(mark), class_="tick", x=x, y=HEIGHT - BOTTOM + 14,
                             text_anchor="middle"))  # fmt: skip
    parts.append(element("text", across, class_="tick", x=(LEFT + WIDTH - RIGHT) / 2,
                         y=HEIGHT - 6, text_anchor="middle"))  # fmt: skip
    for number, line in enumerate(lines):
        parts += _drawn(line, place, number)
    svg = element(
        "svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", preserveAspectRatio="xMidYMid"
    )
    named = f"{title}, {unit}" if unit else title
    return element(
        "figure", element("figcaption", element("strong", named)), svg, _legend(lines),
        element("p", about, class_="about"), _numbers(title, lines, across), class_="chart",
    )  # fmt: skip


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers at equal distances, the first below `low` and the last above `high`.

    Args:
        low: Of the range.
        high: Above `low`.
        most: About how many.
    """
    raw = (high - low) / (most - 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * m for m in (1, 2, 2.5, 5, 10) if scale * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(k * step, digits) for k in range(first, last + 1)]


def tick(value: float) -> str:
    """A short number: 0.25, 1200, 3e-05."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}"
    return f"{value:,.6g}"


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points with the same peaks, in the same order."""
    if len(points) <= POINTS:
        return list(points)
    stretches = POINTS // 2
    kept = []
    for k in range(stretches):
        part = points[k * len(points) // stretches : (k + 1) * len(points) // stretches]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range of values, widened where they are all the same."""
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def _drawn(line: Line, place: _Place, number: int) -> Iterator[Markup]:
    points = thinned(line.finite)
    style = _style(number)
    spots = [place(*point) for point in points]
    if len(spots) > 1:
        yield element("path", class_=style, d="M" + "L".join(f"{x} {y}" for x, y in spots))
    if len(spots) <= DOTTED:
        for x, y in spots:
            yield element("circle", class_=style, cx=x, cy=y, r=2.5)


def _style(number: int) -> str:
    """Classes of a line in the page's style; those of the first 24 differ."""
    strokes = ("", " dashed", " dotted")
    return f"line c{number % COLOURS}{strokes[min(number // COLOURS, 2)]}"


def _legend(lines: Sequence[Line]) -> Markup:
    entries = []
    for number, line in enumerate(lines):
        style = _style(number)
        sample = element("path", class_=style, d="M0 6L22 6")
        swatch = element("svg", sample, viewBox="0 0 22 12", class_="swatch", aria_hidden="true")
        last = cell(float(line.points[-1][1]))
        entries.append(element("li", swatch, f"{line.name} ", element("b", last)))
    return element("ul", entries, class_="legend", title="with the last value")


def _numbers(title: str, lines: Sequence[Line], across: str) -> Markup:
    """The numbers of a chart for those who cannot see it, folded away."""
    rows = []
    for line in lines:
        finite = line.finite
        low, high = min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])
        row = (line.name, line.points[0][1], line.points[-1][1])
        rows.append((*row, low[1], int(low[0]), high[1], int(high[0]), len(line.points)))
    columns = [Column(name) for name in (
        "line", "first", "last", "lowest", f"at {across}", "highest", f"at {across} ", "values"
    )]  # fmt: skip
    return element(
        "details", element("summary", "numbers"), table(f"{title}: the ends of each line", columns,
                                                       rows))  # fmt: skip


def _spoken(lines: Sequence[Line]) -> str:
    """The chart in words."""
    told = [
        f"{line.name}: from {cell(line.points[0][1])} to {cell(line.points[-1][1])}"
        for line in lines
    ]
    return "; ".join(told)
