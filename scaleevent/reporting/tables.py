"""Tables that can be sorted, with captions, that scroll in a box of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scaleevent.reporting.markup import Markup, element
from scaleevent.system.reports import cell

LONG = 24  # characters of a text that needs room
LONGEST = 160  # characters of a text in a cell; longer ones are folded


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    about: str = ""  # what its numbers mean, with their unit


@dataclass(frozen=True)
class Shown:
    """A number in a cell that is shown as a text, and sorted as the number."""

    value: float
    text: str


def table(
    caption: str, columns: Sequence[Column | str], rows: Iterable[Sequence[object]]
) -> Markup:
    """A table whose first column names the rows; numbers keep their full precision.

    Args:
        caption: What is in it.
        columns: With their meaning where there is one.
        rows: Numbers, text or `Shown`; None is a dash.
    """
    heads = [one if isinstance(one, Column) else Column(one) for one in columns]
    body = []
    for first, *others in rows:
        name = element("th", _content(first), scope="row")
        body.append(element("tr", name, [_cell(value) for value in others]))
    top = element("tr", [
        element("th", head.name or "name", scope="col", title=head.about or None)
        for head in heads
    ])  # fmt: skip
    whole = element(
        "table", element("caption", caption), element("thead", top), element("tbody", body)
    )
    return element(
        "div", whole, class_="scroll", tabindex=0, role="region", aria_label=f"table: {caption}"
    )


def as_table(caption: str, rows: Sequence[Mapping[str, object]]) -> Markup:
    """A table of the rows of a report: the same columns in each."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return table(caption, columns, ([row.get(key) for key in columns] for row in rows))


def _cell(value: object) -> Markup:
    if isinstance(value, Shown):
        return element("td", value.text, class_="number", data_v=repr(value.value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return element("td", cell(value), class_="number", data_v=repr(value))
    long = isinstance(value, str) and not isinstance(value, Markup) and len(value) > LONG
    return element(
        "td", _content(value), class_="none" if value is None else "long" if long else None
    )


def _content(value: object) -> object:
    """What is shown in a cell."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, list | tuple):
        value = ", ".join(map(cell, value))
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {cell(one)}" for key, one in value.items())
    text = cell(value)
    if len(text) <= LONGEST:
        return text
    return element("details", element("summary", f"{text[:60]}\N{HORIZONTAL ELLIPSIS}"), text)
