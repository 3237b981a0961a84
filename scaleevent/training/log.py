"""The log of a run: a record a line, the same numbers as a table, and for TensorBoard if asked."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from scaleevent.config.run import RunSettings
from scaleevent.errors import MissingPackageError
from scaleevent.system.files import Json, append_json_line, read_json_lines, write_bytes, writing

LOG, TABLE, EVENTS = "log.jsonl", "log.csv", "tensorboard"  # in the folder of a run
HELD_OUT = "val_"  # what the names of numbers on held-out samples begin with
FLUSH_SECONDS = 10


class _Writer(Protocol):
    """What is used of tensorboardX."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...
    def close(self) -> None: ...


class RunLog:
    """Appends records to a run's log, its table, and its event files where there are some.

    Args:
        folder: Of the run.
        writer: Of event files.
    """

    def __init__(self, folder: Path, writer: _Writer | None = None) -> None:
        self.folder = Path(folder)
        self._writer = writer

    def append(self, step: int, record: Mapping[str, float]) -> None:
        """Add what is known after a number of steps."""
        line = {"step": step, **record}
        append_json_line(self.folder / LOG, line)
        _append_row(self.folder, line)
        if self._writer is not None:
            for name, value in record.items():
                self._writer.add_scalar(tag_of(name), value, step)


@contextmanager
def open_log(folder: Path, tensorboard: bool = False, first: int = 0) -> Iterator[RunLog]:
    """A run's log for a block.

    Args:
        folder: Of the run.
        tensorboard: Also write event files, into `EVENTS` in the folder.
        first: Steps already done: what event files of an earlier part of the run hold beyond is
            marked as void, and TensorBoard does not show it.

    Raises:
        MissingPackageError: Event files are asked for, and the package is not installed.
    """
    if not tensorboard:
        yield RunLog(folder)
        return
    check_tensorboard()
    from tensorboardX import SummaryWriter

    events = Path(folder) / EVENTS
    again = first + 1 if events.exists() else None
    order = f".{time.time_ns()}"  # TensorBoard reads files by name, which has whole seconds only
    with writing(events):
        writer = SummaryWriter(
            str(events), purge_step=again, flush_secs=FLUSH_SECONDS, filename_suffix=order
        )
    try:
        yield RunLog(folder, writer)
    finally:
        writer.close()


def log_once(cfg: RunSettings, step: int, record: Mapping[str, float]) -> None:
    """Add one record outside the loop."""
    with open_log(cfg.out, cfg.tensorboard, step) as log:
        log.append(step, record)


def check_tensorboard() -> None:
    """Refuse to write event files without the package that does it.

    Raises:
        MissingPackageError: It is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise MissingPackageError("tensorboardX", "tensorboard", "--tensorboard")


def tag_of(name: str) -> str:
    """The name of a number in TensorBoard, where training and held-out ones are apart."""
    if name.startswith(HELD_OUT):
        return f"held_out/{name.removeprefix(HELD_OUT)}"
    return name if name == "epoch" else f"training/{name}"


def write_table(folder: Path) -> None:
    """Write log.csv anew from log.jsonl.

    A column a number, in the order in which numbers first occur; a row a record, empty where it
    lacks the number. Numbers are written as Python does, in full.
    """
    records = read_json_lines(Path(folder) / LOG)
    columns = list(dict.fromkeys(key for record in records for key in record))
    rows = _as_rows([columns, *([record.get(key) for key in columns] for record in records)])
    write_bytes(Path(folder) / TABLE, rows)


def _append_row(folder: Path, record: Json) -> None:
    """Add a record to the table; all of it is written anew where a column is missing."""
    path = Path(folder) / TABLE
    columns = _columns(path)
    if columns is None or not record.keys() <= set(columns):
        write_table(folder)
        return
    with writing(path), open(path, "ab") as file:
        file.write(_as_rows([[record.get(key) for key in columns]]))


def _columns(path: Path) -> list[str] | None:
    """The columns of a table; None where there is none, or a killed writer left half a row."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        head = file.readline()
        file.seek(-1, os.SEEK_END) if head else None
        if head and file.read(1) == b"\n":
            return next(csv.reader([head.decode()]))
    return None


def _as_rows(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
