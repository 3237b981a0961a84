"""Events in MATLAB 5 files: (K, 4) matrices or vectors t, x, y, p, as variables or in structs.

MATLAB 7.3 files are HDF5. Pixels are used as stored, although MATLAB code often counts them from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from re import split
from typing import ClassVar, NamedTuple

import numpy as np

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats.columns import (
    SAMPLE,
    TableSource,
    check_stated,
    column_letters,
    column_order,
    find_columns,
    unit_in_name,
)
from scaleevent.formats.matlab_elements import Column, Numbers, numeric_arrays, read_rows
from scaleevent.formats.source import ReadOptions, errors_as_damage
from scaleevent.formats.units import TAIL, event_time_unit

SUFFIXES = (".mat",)

MAGIC = b"MATLAB 5.0 MAT-file"
_VERSIONS = (b"\x00\x01IM", b"\x01\x00MI")

CHANGES = {"td", "cd", "dvs", "event", "events", "polarity"}
"""Words in names of variables and fields that hold change events."""

OTHERS = {"em", "aps", "exposure", "exposures", "special", "frame", "frames", "imu", "imu6"}
"""Words in the names of other measurements, which may have the columns of events."""


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is a MATLAB 5 file."""
    return head.startswith(MAGIC) or head[124:128] in _VERSIONS


def open_source(path: Path, options: ReadOptions) -> MatlabSource:
    """Find the events among the numeric variables of a file and the fields of its structs.

    Of several arrays that could be events, those named as change events are taken, then those that
    are not empty and whose columns are clear. `options.topic` names a variable, struct or field.

    Raises:
        NotEventsError: No variable looks like events, or only exposure measurements do.
        DataError: Damage, several variables that could be events, or an ambiguous column order or
            time unit.
        ConfigError: No events have the name `options.topic`, no arrays those of
            `options.columns`, or its order does not fit the matrix.
    """
    tables = _tables(numeric_arrays(path), options.columns, path)
    with errors_as_damage("MATLAB file", path):
        table = _chosen(tables, options.topic, path)
    others = ", ".join(str(other) for other in tables if other is not table)
    lengths = {name: prod(numbers.shape) for name, numbers in table.arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError("event columns differ in length", where=path, found=lengths)
    with errors_as_damage("MATLAB file", path):
        columns = table.columns(table.order(options.columns, f"{path}, variable {table.name}"))
        head = next(read_rows(columns, 0, min(table.length, SAMPLE)), None)
        times = columns["t"].numbers
        unit = event_time_unit(
            head or dict.fromkeys("txy", np.empty(0)),
            table.length,
            given=options.time_unit,
            stated=unit_in_name(times.name.rpartition(".")[2]) if "t" in table.arrays else None,
            size=options.size,
            where=str(path),
            tail=partial(_last_times, columns["t"], table.length),
            costly=times.variable.compressed,
        )
    notes = {"variable": table.name, "time unit": unit.name}
    choices = (f"events of the variable {table.name}; not used: {others}",) if others else ()
    return MatlabSource(
        path, "MATLAB 5", None, notes, table.length, unit.name,
        columns=columns, choices=(*choices, *unit.choices), time_unit=unit,
    )  # fmt: skip


@dataclass(frozen=True)
class MatlabSource(TableSource):
    """Decoder of the four columns of one MATLAB file."""

    noun: ClassVar[str] = "MATLAB file"
    columns: dict[str, Column] = field(kw_only=True)

    def stored(self, first: int) -> Iterator[dict[str, np.ndarray]]:
        """The stored values of all events from one on, in blocks."""
        return read_rows(self.columns, first, self.length)


class Table(NamedTuple):
    """Arrays that could be events: vectors by t, x, y, p, or one matrix by the empty name.

    `width` is the number of columns of the matrix.
    """

    name: str
    arrays: dict[str, Numbers]
    width: int = 4

    def __str__(self) -> str:
        shape = next(iter(self.arrays.values())).shape
        return f"{self.name} {shape}" if "" in self.arrays else f"{self.name}, columns {shape}"

    @property
    def length(self) -> int:
        """Number of events."""
        numbers = next(iter(self.arrays.values()))
        return prod(numbers.shape) // (self.width if "" in self.arrays else 1)

    @property
    def words(self) -> set[str]:
        """The words of which the name consists, in lower case."""
        return set(split(r"[^a-z0-9]+", self.name.lower()))

    def is_called(self, topic: str) -> bool:
        """Whether these parts of the name follow each other in it, such as "data.TD" or "td"."""
        name = self.name.lower().replace("{", ".{").replace("(", ".(")
        return f".{topic.lower()}." in f".{name}."

    def columns(self, order: str) -> dict[str, Column]:
        """The four columns; `order` is that of a matrix, whose events are rows or columns."""
        if "" not in self.arrays:
            return {name: Column(numbers) for name, numbers in self.arrays.items()}
        every = self._every()
        return {name: every[str(order.index(name))] for name in "txyp"}

    def _every(self) -> dict[str, Column]:
        """All columns of the matrix by their numbers."""
        matrix = self.arrays[""]
        rows, columns = matrix.shape
        return {
            str(index): Column(matrix, index * rows)
            if columns == self.width
            else Column(matrix, 0, self.width, index)
            for index in range(self.width)
        }

    def order(self, given: str | None, where: str) -> str:
        """Order of a matrix's columns, from its first rows, or else from all."""
        if "" not in self.arrays or not self.length:
            return column_letters(given) or "txyp"
        return column_order(next(self._rows(SAMPLE)), given, where, self._rows(self.length))

    def is_clear(self, where: str) -> bool:
        """Whether every event has all four values, and the first ones tell which is which."""
        if "" not in self.arrays:
            return len({prod(numbers.shape) for numbers in self.arrays.values()}) == 1
        try:
            return bool(column_order(next(self._rows(SAMPLE)), None, where))
        except DataError:
            return False

    def _rows(self, end: int) -> Iterator[np.ndarray]:
        """(K, width) rows of the matrix before row `end`, in blocks."""
        for rows in read_rows(self._every(), 0, min(end, self.length)):
            yield np.stack([*rows.values()], axis=1)


def _last_times(times: Column, length: int) -> np.ndarray:
    """The last `TAIL` stored times."""
    parts = read_rows({"t": times}, max(length - TAIL, 0), length)
    return np.concatenate([part["t"] for part in parts])


def _tables(arrays: list[Numbers], given: str | None, path: Path) -> list[Table]:
    """The arrays that could be events, by their shapes and the names of vectors.

    `given` are the names of the vectors or the order of the columns, if the caller states them.

    Raises:
        NotEventsError: There is none.
        ConfigError: There are no vectors of the given names.
    """
    width = len(column_letters(given) or "txyp")
    fields: dict[str, dict[str, Numbers]] = {}
    for numbers in arrays:
        struct, _, name = numbers.name.rpartition(".")
        fields.setdefault(struct, {})[name] = numbers
    tables = []
    for struct, members in fields.items():
        vectors = [name for name, n in members.items() if prod(n.shape) in (0, max(n.shape))]
        names = find_columns(vectors, given) or {}
        if names:
            columns = {column: members[name] for column, name in names.items()}
            tables.append(Table(struct or ", ".join(names.values()), columns))
        for name, numbers in members.items():
            if len(numbers.shape) == 2 and width in numbers.shape and name not in names.values():
                tables.append(Table(numbers.name, {"": numbers}, width))
    if all("" in table.arrays for table in tables):
        check_stated(given, [numbers.name for numbers in arrays], path)
    if not tables:
        raise NotEventsError(
            "no events in this MATLAB file",
            where=path,
            found=", ".join(f"{n.name} {n.shape}" for n in arrays[:12]) or "no numeric variables",
            expected="a matrix of four columns, or vectors called t, x, y, p",
        )
    return tables


def _chosen(tables: list[Table], topic: str | None, path: Path) -> Table:
    """The table of this name, or the one that is most probably events."""
    there = "; ".join(map(str, tables))
    if topic is not None:
        best = [t for t in tables if t.name == topic] or [t for t in tables if t.is_called(topic)]
        if not best:
            raise ConfigError("no events of this name", where=path, found=topic, expected=there)
    else:
        best = [t for t in tables if not OTHERS & t.words]
        if not best:
            raise NotEventsError(
                "no change events in this MATLAB file",
                where=path,
                found=f"other measurements: {there}",
                hint=f"--topic {tables[0].name} reads them as events all the same",
            )
        best = [t for t in best if CHANGES & t.words] or best
    best = [t for t in best if t.length] or best
    if len(best) > 1:
        best = [t for t in best if t.is_clear(str(path))] or best
    if len(best) > 1:
        raise DataError(
            "several variables could be the events",
            where=path,
            found="; ".join(map(str, best)),
            hint=f'name one: --topic "{best[0].name}"',
        )
    return best[0]
