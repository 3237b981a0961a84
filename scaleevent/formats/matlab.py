"""Events in MATLAB 5 files: one (K, 4) matrix, or a vector each of t, x, y, p. Through SciPy.

MATLAB compresses a variable as a whole, so it is held in memory as a whole; MATLAB 7.3 files are
HDF5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats.columns import SAMPLE, column_order, find_columns, find_time_unit, to_block
from scaleevent.formats.recording import BLOCK, RawBlock, Source

MAGIC = b"MATLAB 5.0 MAT-file"
_NUMERIC = (
    "double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "logical",
)  # fmt: skip
_MOST_BYTES = 256 << 20


def matches(head: bytes, path: Path) -> bool:
    """Whether a file that begins with `head` is a MATLAB 5 file."""
    return head.startswith(MAGIC)


def open_source(path: Path, time_unit: str | None) -> MatlabSource:
    """Find the events among a file's numeric variables; nothing else is loaded.

    Raises:
        NotEventsError: No variable looks like events.
        DataError: Damage, variables beyond 256 MB, an ambiguous column order or time unit.
    """
    with _damage_told(path):
        from scipy.io import whosmat

        variables = {name: shape for name, shape, kind in whosmat(path) if kind in _NUMERIC}
    vectors = {name for name, shape in variables.items() if prod(shape) == max(shape)}
    names = find_columns(vectors)
    matrix = next((name for name, shape in variables.items() if 4 in shape[:2] == shape), None)
    if names:
        stored = _load(path, {key: variables[name] for key, name in names.items()}, names)
        columns = {key: np.ravel(stored[name]) for key, name in names.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError("event columns differ in length", where=path, found=lengths)
    elif matrix:
        table = _load(path, {matrix: variables[matrix]}, {"": matrix})[matrix]
        table = table if table.shape[1] == 4 else table.T
        order = column_order(table[:SAMPLE], f"{path}, variable {matrix}") if len(table) else "xypt"
        columns = {name: table[:, order.index(name)] for name in "txyp"}
    else:
        raise NotEventsError(
            "no events in this MATLAB file",
            where=path,
            found=", ".join(f"{name} {shape}" for name, shape in variables.items())
            or "no numeric variables",
            expected="a matrix of four columns, or vectors called t, x, y, p",
        )
    unit = find_time_unit(columns["t"][:SAMPLE], time_unit, str(path))
    return MatlabSource(path, {"time unit": unit}, columns, unit)


@dataclass(frozen=True)
class MatlabSource(Source):
    """The four columns of one MATLAB file, in memory."""

    path: Path
    notes: dict[str, str]
    columns: dict[str, np.ndarray]
    unit: str
    format = "MATLAB 5"
    size = None

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        """All events from the beginning."""
        for first in range(0, len(self.columns["t"]), BLOCK):
            part = {name: column[first : first + BLOCK] for name, column in self.columns.items()}
            yield to_block(first, **part, unit=self.unit, where=str(self.path))


def _load(path: Path, shapes: dict[str, tuple[int, ...]], names: dict[str, str]) -> dict[str, Any]:
    """The named variables, if they are not too large."""
    declared = sum(8 * prod(shape) for shape in shapes.values())
    if declared > _MOST_BYTES:
        raise DataError(
            "variables too large for a MATLAB 5 file of events",
            where=path,
            found=f"{declared:,} bytes declared",
            expected=f"at most {_MOST_BYTES:,}",
            hint="save them with -v7.3, or as .npz or HDF5",
        )
    with _damage_told(path):
        from scipy.io import loadmat

        return loadmat(path, variable_names=list(names.values()))


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Every error of SciPy's reader, told as ours."""
    damage = (
        OSError, EOFError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError,
        MemoryError, AttributeError, struct.error, zlib.error,
    )  # fmt: skip
    try:
        yield
    except damage as error:
        raise DataError(
            "damaged MATLAB file",
            where=path,
            found=str(error).split("\n")[0] or type(error).__name__,
            hint="copy the file again; a download cut short looks like this",
        ) from error
