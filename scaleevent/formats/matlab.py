"""Events in MATLAB 5 files: one (K, 4) matrix or four vectors t, x, y, p, perhaps in a struct.

MATLAB compresses a variable as a whole, so all of it is held in memory. MATLAB 7.3 files are HDF5.
Pixels are used as stored, although MATLAB code often counts them from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.columns import (
    SAMPLE,
    check_stated,
    column_letters,
    column_order,
    find_columns,
    to_block,
    unit_in_name,
)
from scaleevent.formats.matlab_elements import Numbers, Variable, variables
from scaleevent.formats.source import BLOCK, FileSource, RawBlock, ReadOptions
from scaleevent.formats.units import TAIL, event_time_unit

SUFFIXES = (".mat",)

MAGIC = b"MATLAB 5.0 MAT-file"
_MAX_BYTES = 256 << 20


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is a MATLAB 5 file."""
    return head.startswith(MAGIC)


def open_source(path: Path, options: ReadOptions) -> MatlabSource:
    """Find the events among the numeric variables of a file and the fields of its structs.

    Raises:
        NotEventsError: No variable looks like events.
        DataError: Damage, variables above 256 MB, or an ambiguous column order or time unit.
    """
    found = list(variables(path))
    shapes = {variable.name: variable.shape for variable in found if variable.numeric}
    names = _event_names(shapes, options.columns)
    stored = _load(path, [v for v in found if v.numeric and v.name in names.values()])
    for struct in (v for v in found if v.is_struct and not names):
        stored = _load(path, [struct])
        fields = {name: field.shape for name, field in stored.items()}
        names = _event_names(fields, options.columns)
        shapes |= {f"{struct.name}.{name}": field.shape for name, field in stored.items()}
    if not names:
        check_stated(options.columns, shapes, path)
        raise NotEventsError(
            "no events in this MATLAB file",
            where=path,
            found=", ".join(f"{name} {shape}" for name, shape in shapes.items())
            or "no numeric variables",
            expected="a matrix of four columns, or vectors called t, x, y, p",
        )
    if "matrix" in names:
        where = f"{path}, variable {names['matrix']}"
        columns = _columns(stored[names["matrix"]], options.columns, where)
    else:
        columns = {key: stored[name] for key, name in names.items()}
    lengths = {name: len(column.values) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError("event columns differ in length", where=path, found=lengths)
    length = lengths["t"]
    unit = event_time_unit(
        {name: columns[name].part(0, SAMPLE) for name in "txy"},
        length,
        given=options.time_unit,
        stated=unit_in_name(names.get("t", "")),
        size=options.size,
        where=str(path),
        tail=lambda: columns["t"].part(max(length - TAIL, 0), TAIL),
    )
    notes = {"time unit": unit.name}
    return MatlabSource(
        path, "MATLAB 5", None, notes, columns, unit.name, choices=unit.choices, time_unit=unit
    )


@dataclass(frozen=True)
class MatlabSource(FileSource):
    """The four columns of one MATLAB file, in memory."""

    columns: dict[str, Numbers]
    unit: str

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning."""
        for first in range(0, len(self.columns["t"].values), BLOCK):
            part = {name: column.part(first, BLOCK) for name, column in self.columns.items()}
            yield to_block(first, part, self.unit, str(self.path))


def _event_names(shapes: dict[str, tuple[int, ...]], given: str | None) -> dict[str, str]:
    """Names of the vectors t, x, y, p, or of the largest matrix of four columns; else empty.

    `given` are the names of the vectors or the order of the columns, if the caller states them.
    """
    vectors = [name for name, shape in shapes.items() if prod(shape) in (0, max(shape))]
    names = find_columns(vectors, given)
    if names:
        return names
    width = len(column_letters(given) or "txyp")
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and width in shape]
    largest = max(matrices, key=lambda name: prod(shapes[name]), default=None)
    return {} if largest is None else {"matrix": largest}


def _load(path: Path, chosen: list[Variable]) -> dict[str, Numbers]:
    """Load the arrays of some variables by name, unless they are too large."""
    declared = sum(variable.length for variable in chosen)
    if declared > _MAX_BYTES:
        raise DataError(
            "variables too large for a MATLAB 5 file of events",
            where=path,
            found=f"{declared:,} bytes declared",
            expected=f"at most {_MAX_BYTES:,}",
            hint="save them with -v7.3, or as .npz or HDF5",
        )
    return {name: array for variable in chosen for name, array in variable.load().items()}


def _columns(matrix: Numbers, given: str | None, where: str) -> dict[str, Numbers]:
    """The columns t, x, y, p of a matrix of four columns or four rows."""
    rows, columns = matrix.shape
    table = matrix.values.reshape(columns, rows)
    table = table.T if columns == len(column_letters(given) or "txyp") else table
    tables = (
        table[at : at + SAMPLE].astype(matrix.kind, copy=False)
        for at in range(0, len(table), SAMPLE)
    )
    order = column_order(next(tables), given, where, tables) if len(table) else "xypt"
    parts = {name: table[:, order.index(name)] for name in "txyp"}
    return {name: Numbers(name, part.shape, part, matrix.kind) for name, part in parts.items()}
