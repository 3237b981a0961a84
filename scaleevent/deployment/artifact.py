"""Files of an export: each written, loaded as its users do, and compared before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scaleevent.deployment.parity import Limits, Loss, Parity, Run
from scaleevent.deployment.program import Deployed
from scaleevent.errors import CheckpointError
from scaleevent.system.files import Json, staged, writing


@dataclass(frozen=True)
class Artifact:
    """A file to write, and how to load and run it.

    Attributes:
        name: File name.
        format: One of `config.export.EXPORT_FORMATS`.
        reference: The model whose outputs the file must reproduce.
        write: Writes the file.
        reload: Loads the file as its users do.
        samples: How many it takes at once; None for any number. `reload` gives a program that takes
            one in either case.
        limits: Of its loss, where its precision is reduced; None where it must compute the same.
    """

    name: str
    format: str
    reference: Deployed
    write: Callable[[Path], None]
    reload: Callable[[Path], Run]
    samples: int | None = None
    limits: Limits | None = None


@dataclass(frozen=True)
class ExportedFile:
    """One file of an export.

    Attributes:
        path: The file.
        format: One of `config.export.EXPORT_FORMATS`.
        bytes: Its size.
        sha256: Of its content.
        samples: How many it takes at once; None for any number.
        difference: The largest from the checkpoint on the test inputs, as a fraction of its largest
            output.
        loss: What reduced precision costs; None where precision is kept.
        score: The task's headline number, where reduced precision was scored on a benchmark: its
            name, that of the checkpoint and that of the file.
    """

    path: Path
    format: str
    bytes: int
    sha256: str
    samples: int | None
    difference: float
    loss: Loss | None = None
    score: tuple[str, float, float] | None = None

    def to_json(self) -> Json:
        """For export.json."""
        entry: Json = {
            "format": self.format,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "samples": self.samples or "any",
            "difference": self.difference,
        }
        if self.loss is not None:
            entry["loss"] = {"rms": self.loss.rms, "means": self.loss.means}
            if self.score is not None:
                metric, *both = self.score
                entry["loss"][metric] = both
        return entry


def write_checked(
    files: Sequence[Artifact], folder: Path, parity: Parity, advance: Callable[[], None]
) -> dict[str, float | Loss]:
    """Write, reload and compare all files; they are renamed into place only if all of them pass.

    Args:
        files: From `artifacts`.
        folder: Where they are written.
        parity: Compares their outputs with those of the checkpoint.
        advance: Called after each file.

    Returns:
        By file name, the largest difference as a fraction of the checkpoint's largest value; of
        reduced precision, all of the loss.

    Raises:
        CheckpointError: A file computes something else; the message gives the difference.
        EnvironmentProblem: The folder cannot be written.
    """
    differences: dict[str, float | Loss] = {}
    with ExitStack() as files_to_be:
        for file in files:
            path = files_to_be.enter_context(staged(folder / file.name))
            with writing(folder / file.name):
                file.write(path)
            try:
                differences[file.name] = _measure(file, path, parity)
            except CheckpointError as problem:
                problem.what, problem.where = f"not exported: {problem.what}", file.name
                raise
            advance()
    return differences


def _measure(file: Artifact, path: Path, parity: Parity) -> float | Loss:
    """Compare a file with its checkpoint."""
    run, any_batch = file.reload(path), file.samples is None
    if file.limits is None:
        return parity.difference(file.reference, run, any_batch=any_batch)
    return parity.reduced(file.reference, run, file.limits, any_batch=any_batch)
