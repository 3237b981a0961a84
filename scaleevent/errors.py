"""The errors a user can meet: what, where, found, expected, next step, a code and an exit code."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

SHOWN = 4000  # characters of a part in a message: input may be a megabyte of one word


class ScaleEventError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: One line that names the problem.
        where: File, data set and position, or key or flag.
        found: The value found there.
        expected: The value that was expected there.
        hint: The next step for the user.
    """

    code, exit_code = "E100", 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.found, self.expected = what, where, found, expected
        self.hint = hint

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("where", "found", "expected", "hint")}

    def __str__(self) -> str:
        return self.block()  # built when shown, because a caller may add a hint on the way up

    def block(self) -> str:
        """The message as printed: one ``error[CODE]`` line and one indented line per known part."""
        parts = {name: str(value) for name, value in self._parts().items() if value is not None}
        lines = [
            f"  {name}: {text if len(text) <= SHOWN else f'{text[:SHOWN]}..'}"
            for name, text in parts.items()
        ]
        return "\n".join([f"error[{self.code}]: {self.what}", *lines])

    def __reduce__(self) -> tuple[Callable[..., ScaleEventError], tuple[object, ...]]:
        """Pickle all five parts, so that an error crosses a process boundary unchanged."""
        return partial(type(self), **self._parts()), (self.what,)


class ConfigError(ScaleEventError):
    """A flag, key or value that cannot be used (exit 2)."""

    code, exit_code = "E200", 2


class DataError(ScaleEventError):
    """Input data that is damaged, inconsistent or of the wrong kind (exit 3)."""

    code, exit_code = "E300", 3


class NotEventsError(DataError):
    """A file without visible damage that is not an event recording (exit 3)."""

    code = "E301"


class UnpairedError(DataError):
    """No frame has events before it (exit 3)."""

    code = "E302"


class CheckpointError(DataError):
    """A weight or checkpoint file that cannot be used (exit 3)."""

    code = "E310"


class MissingPackageError(ScaleEventError):
    """An optional package is needed but not installed (exit 4)."""

    code, exit_code = "E400", 4

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}", hint=f'pip install "scaleevent[{extra}]"'
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self) -> tuple[Callable[..., ScaleEventError], tuple[object, ...]]:
        return MissingPackageError, (self.package, self.extra, self.purpose)


class EnvironmentProblem(ScaleEventError):
    """Disk, device, permission, network or a locked folder (exit 5)."""

    code, exit_code = "E500", 5


class InUseError(EnvironmentProblem):
    """An output folder that belongs to another process (exit 5)."""

    code = "E510"


class DivergedError(ScaleEventError):
    """Training produced a non-finite value (exit 6)."""

    code, exit_code = "E600", 6


class StoppedError(ScaleEventError):
    """Stopped on request, with the state saved (exit 75)."""

    code, exit_code = "E750", 75


_STARVED = {  # what the system or a library says: what it means, what helps
    "out of memory|can.?t allocate memory|cannot allocate memory|failed to map segment": (
        "out of memory",
        "free some memory, or use fewer --workers or --jobs, a smaller --batch or --size",
    ),
    "can.?t start new thread|resource temporarily unavailable": (
        "too many processes or threads",
        "allow more: `ulimit -u`, or use fewer --workers or --jobs",
    ),
    "too many open files": ("too many open files", "allow more: `ulimit -n 65536`"),
}  # fmt: skip


def starved(error: BaseException | None, where: object = None) -> EnvironmentProblem | None:
    """What is told where memory, processes or open files ran out; None for other errors.

    Libraries tell it in their own words, or hide it behind a guess: so causes count too.
    """
    for _ in range(20):  # a chain may be a circle
        if error is None:
            break
        text = f"out of memory: {error}" if isinstance(error, MemoryError) else str(error)
        told = isinstance(error, MemoryError | OSError | RuntimeError | ImportError)
        for pattern, (what, hint) in _STARVED.items() if told else ():
            if re.search(pattern, text, re.I):
                found = text.splitlines()[0].removesuffix(": ")
                return EnvironmentProblem(what, where=where, found=found, hint=hint)
        error = error.__cause__ or error.__context__
    return None
