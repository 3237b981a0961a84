"""The best of a run by a number on held-out samples, kept beside the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from scaleevent.errors import CheckpointError
from scaleevent.system.files import Json, write_json
from scaleevent.system.locations import BEST, POINTER
from scaleevent.system.platform import remove_file
from scaleevent.system.reports import counted
from scaleevent.system.sealed import read_description

KEPT = ("step", "metric", "value")  # of the best so far


class Best:
    """The checkpoint of the step with the best number so far.

    The checkpoint itself says which step and number it is of, so that both are replaced as one;
    the pointer repeats it.

    Args:
        folder: Of the run.
        metric: The number, by its name in the log.
        higher_is_better: How it is read.
        save: Writes the model as it is to a path, with this in its description.
    """

    def __init__(
        self, folder: Path, metric: str, higher_is_better: bool, save: Callable[[Path, Json], None]
    ) -> None:
        self.path, self.pointer = folder / BEST, folder / POINTER
        self.metric, self.higher_is_better, self.save = metric, higher_is_better, save
        self.kept: Json | None = None  # `KEPT`

    def begin(self, first: int) -> None:
        """Forget what another run left; at a resume from step `first` find the best so far."""
        if first and self.path.is_file():
            with suppress(CheckpointError):  # damaged: the next one replaces it
                found = (read_description(self.path) or {}).get("best")
                self.kept = found and {key: found[key] for key in KEPT}  # in order, as `offer` has
        if self.kept is not None:
            self._point()
            return
        for path in (self.path, self.pointer):
            remove_file(path)

    def offer(self, step: int, numbers: Mapping[str, float]) -> None:
        """Keep the model as it is after so many steps, if it is better than all before it."""
        value = numbers.get(self.metric)
        if value is None or not math.isfinite(value):
            return
        if self.kept is not None:
            gain = value - self.kept["value"]
            if not (gain if self.higher_is_better else -gain) > 0:
                return
        found = dict(zip(KEPT, (step, self.metric, value), strict=True))
        self.save(self.path, {"step": step, "best": found})
        self.kept = found
        self._point()

    def describe(self) -> str:
        """Where it is and what it is of, for people."""
        if self.kept is None:
            return f"no best: {self.metric} was no number after any step"
        step, value = self.kept["step"], self.kept["value"]
        return f"best: {self.path} ({self.metric} {value:.4g} after {counted(step, 'step')})"

    def fact(self) -> Json | None:
        """Step, metric and value, and the file; None where there is none. JSON-able."""
        return None if self.kept is None else {**self.kept, "file": BEST}

    def _point(self) -> None:
        write_json(self.pointer, self.fact())
