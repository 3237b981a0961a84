"""The errors a user can meet: what, where, found, expected, next step, and an exit code."""

from __future__ import annotations


class ScaleEventError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: One line, what is wrong.
        where: File, dataset and position, or key or flag.
        found: What stands there.
        expected: What should stand there.
        hint: The next step for the user.
    """

    code = "E100"
    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.where, self.found, self.expected = what, where, found, expected
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        return self.block()  # made when it is shown: a hint may be added on the way up

    def block(self) -> str:
        """The message as printed: one ``error[CODE]`` line and one indented line per known part."""
        parts = [
            ("where", self.where),
            ("found", self.found),
            ("expected", self.expected),
            ("hint", self.hint),
        ]
        lines = [f"error[{self.code}]: {self.what}"]
        lines += [f"  {name}: {value}" for name, value in parts if value is not None]
        return "\n".join(lines)

    def __reduce__(self):
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(kind: type[ScaleEventError], state: dict) -> ScaleEventError:
    """Remake an error on the other side of a process boundary."""
    names = ("where", "found", "expected", "hint")
    return kind(state["what"], **{name: state[name] for name in names})


class ConfigError(ScaleEventError):
    """A flag, key or value that cannot be used (exit 2)."""

    code = "E200"
    exit_code = 2


class DataError(ScaleEventError):
    """Input data that is damaged, inconsistent or of the wrong kind (exit 3)."""

    code = "E300"
    exit_code = 3


class NotEventsError(DataError):
    """A file that is whole, as far as can be told, but no event recording (exit 3)."""

    code = "E301"


class UnpairedError(DataError):
    """Frames none of which has events before it (exit 3)."""

    code = "E302"


class CheckpointError(DataError):
    """A weight or checkpoint file that cannot be used (exit 3)."""

    code = "E310"


class MissingPackageError(ScaleEventError):
    """An optional package is needed and absent (exit 4)."""

    code = "E400"
    exit_code = 4

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}",
            hint=f'pip install "scaleevent[{extra}]"',
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self):
        return MissingPackageError, (self.package, self.extra, self.purpose)


class EnvironmentProblem(ScaleEventError):
    """Disk, device, permission, network or a locked folder (exit 5)."""

    code = "E500"
    exit_code = 5


class DivergedError(ScaleEventError):
    """Training produced a value that is not finite (exit 6)."""

    code = "E600"
    exit_code = 6


class StoppedError(ScaleEventError):
    """Stopped on request with the state saved (exit 75)."""

    code = "E750"
    exit_code = 75
