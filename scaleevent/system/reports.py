"""`Report`, the result of a command, and what is told on stderr or in the log meanwhile."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from scaleevent.system.files import Json
from scaleevent.version import __version__

LOG = logging.getLogger("scaleevent")
STATUS_SECONDS = 30.0  # between lines where there is no terminal


def counted(number: int, noun: str) -> str:
    """A number of things: `1 step`, `1,200 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Section:
    """A table."""

    title: str  # heading
    columns: tuple[str, ...]  # column names
    rows: tuple[tuple[object, ...], ...]  # plain numbers and text, a value a column

    def to_table(self) -> Table:
        """The table for a screen; columns of numbers are aligned right."""
        table = Table(title=escape(self.title), title_justify="left")
        for number, name in enumerate(self.columns):
            numeric = all(isinstance(row[number], int | float) for row in self.rows)
            table.add_column(
                escape(name), justify="right" if numeric and self.rows else "left", overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(escape(cell(value)) for value in row))
        return table


@dataclass(frozen=True)
class Report:
    """The result of a command, for people and as JSON: a table with notes, perhaps further tables.

    What a command returns is a subclass, whose further attributes are the result for programs.
    """

    command: str  # the command that made it; names the JSON schema
    title: str  # heading
    columns: tuple[str, ...]  # column names
    rows: tuple[tuple[Any, ...], ...]  # plain numbers and text, a value a column
    notes: tuple[str, ...] = ()  # lines under the tables
    record: Json = field(default_factory=dict)  # what else is worth keeping, JSON-able: settings
    more: tuple[Section, ...] = ()  # shown below the table; their numbers are in `facts`
    exit_code: int = 0  # of the command, where it ends with its report but not well

    @property
    def facts(self) -> Json:
        """Everything beside the table that the JSON document has, by its names there."""
        return self.record | self.own()

    def own(self) -> Json:
        """The attributes that a subclass adds, by their names in the JSON document; JSON-able."""
        return {}

    def to_table(self) -> Table:
        """The first table for a screen."""
        return Section(self.title, self.columns, self.rows).to_table()

    def to_json(self) -> Json:
        """Full precision, with the package version."""
        return {
            "schema": f"scaleevent.{self.command}/1",
            "version": __version__,
            "title": self.title,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "notes": list(self.notes),
            **self.facts,
        }

    def show(self, as_json: bool) -> None:
        """Print to stdout: the table and notes, or exactly one JSON document."""
        if as_json:
            print(json.dumps(self.to_json(), indent=2), flush=True)
            return
        console = Console(soft_wrap=True)
        tables = [self.to_table()] if self.rows else []
        for table in tables + [section.to_table() for section in self.more]:
            _print_whole(table, on_stderr=False)
        for note in self.notes:
            console.print(note, highlight=False, markup=False)


def _print_whole(table: Table, on_stderr: bool) -> None:
    """Print a table, never squeezed: a terminal wraps what a table would cut to pieces."""
    console = Console(soft_wrap=True, stderr=on_stderr)
    wide = Measurement.get(console, console.options.update(max_width=500), table).maximum
    Console(soft_wrap=True, stderr=on_stderr, width=max(console.width, wide)).print(table)


def say_table(section: Section) -> None:
    """Print a table on stderr; it is not part of the result."""
    _print_whole(section.to_table(), on_stderr=True)


def cell(value: object) -> str:
    """Text of a table cell: integers with thousands, floats with four significant digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)


def say(line: str) -> None:
    """Print a line on stderr for a person who watches; it is not part of the result."""
    Console(stderr=True, soft_wrap=True).print(line, highlight=False, markup=False)


def remark(line: str, level: int = logging.WARNING) -> None:
    """Tell whoever is there, watching or not: the logger `scaleevent`, which the CLI prints."""
    LOG.log(level, line)


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def remarks_said() -> Iterator[None]:
    """Print remarks on stderr, as the command line does."""
    said, level = _Said(), LOG.level
    LOG.addHandler(said)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(said)
        LOG.setLevel(level)


class Ticker:
    """Progress of one task: a bar with rate and ETA on a terminal, a line every 30 s elsewhere."""

    def __init__(
        self, name: str, total: int | None, unit: str, bar: bars.Progress | None, lines: bool
    ) -> None:
        self.name, self.total, self.unit, self.bar, self.lines = name, total, unit, bar, lines
        self.done = 0
        self._began = self._said = time.monotonic()
        self._first = 0
        self._task = bar.add_task(name, total=total, detail="") if bar else None

    def start_at(self, done: int) -> None:
        """Start counting at work that an earlier run has done; it does not enter the rate."""
        self.done = self._first = done

    def advance(self, count: int = 1, detail: str = "") -> None:
        """Count work done; `detail` is shown beside the rate."""
        self.done += count
        seconds = time.monotonic() - self._began
        rate = (self.done - self._first) / seconds if seconds > 0 else 0.0
        shown = f"{rate:,.1f} {self.unit}/s {detail}"
        if self.bar is not None and self._task is not None:
            self.bar.update(self._task, completed=self.done, detail=shown)
        elif self.lines and time.monotonic() - self._said >= STATUS_SECONDS:
            self._said = time.monotonic()
            left, of = "", f" {self.unit}"
            if self.total is not None:
                left = f", {(self.total - self.done) / rate:,.0f} s left" if rate else ""
                of = f"/{self.total:,}"
            say(f"{self.name}: {self.done:,}{of}, {shown.rstrip()}{left}")


@contextmanager
def progress(name: str, total: int | None, unit: str, show: bool = True) -> Iterator[Ticker]:
    """A `Ticker` for a block of work, silent unless `show`; None: of unknown length."""
    if not (show and sys.stderr.isatty()):
        yield Ticker(name, total, unit, None, lines=show)
        return
    name_column, detail = map(bars.TextColumn, ("{task.description}", "{task.fields[detail]}"))
    columns = (bars.BarColumn(), bars.MofNCompleteColumn(), bars.TaskProgressColumn())
    left = bars.TimeRemainingColumn()
    with bars.Progress(name_column, *columns, left, detail, console=Console(stderr=True)) as bar:
        yield Ticker(name, total, unit, bar, lines=False)
