"""Finding the sequences of a benchmark below the user's folders, and naming what is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from scaleevent.config.data import SequencesConfig
from scaleevent.errors import DataError

Key = TypeVar("Key")

_SHOWN = 8  # names of what is there in place of a data set
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_PARTIAL = (".part", ".partial", ".crdownload", ".download", ".aria2", ".filepart")


def files_below(roots: Iterable[Path], pattern: str) -> list[Path]:
    """What fits a pattern up to two folders below the roots."""
    depths = ("", "*/", "*/*/")
    return [path for root in roots for depth in depths for path in shown(root, depth + pattern)]


def shown(folder: Path, pattern: str) -> list[Path]:
    """What fits a pattern below a folder, besides what is hidden there."""
    return [path for path in folder.glob(pattern) if not is_hidden(path, folder)]


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is of those that systems put beside data.

    They have the same names, and are copies, old versions, or something else: macOS's `._NAME` and
    `__MACOSX`, snapshots of a disk, `.ipynb_checkpoints`.
    """
    return any(part[0] == "." or part == "__MACOSX" for part in path.relative_to(folder).parts)


def not_here(
    roots: Sequence[Path],
    what: str,
    expected: str,
    hint: str = "they may lie up to two folders below",
    found: str | None = None,
) -> DataError:
    """The error for roots without the data set, with what is there in its place.

    Args:
        roots: The user's folders.
        what: Error.
        expected: What is looked for.
        hint: What to do, unless archives have to be unpacked first.
        found: What is there, where more than names can be told.
    """
    there: list[str] = []
    for root in roots:
        paths = shown(root, "*") if root.is_dir() else [root]
        there += sorted(f"{path.name}/" if path.is_dir() else path.name for path in paths)
    partial = [name for name in there if name.lower().endswith(_PARTIAL)]
    archives = [name for name in there if name.lower().endswith(_ARCHIVES)]
    if archives:
        hint = f"unpack {archives[0]}{' and the other archives' if len(archives) > 1 else ''}"
    if partial:
        hint = f"a download has not ended: {partial[0]}"
    told = [*dict.fromkeys((*partial, *archives, *there))]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    found = found or ", ".join(told[:_SHOWN]) + more or "nothing"
    return DataError(
        what, where=", ".join(map(str, roots)), found=found, expected=expected, hint=hint
    )


def find_known(
    config: SequencesConfig,
    known: Collection[str],
    usual: Collection[str],
    pattern: str,
    name_of: Callable[[Path], str],
) -> dict[str, Path]:
    """The main file of every sequence of a benchmark that is wanted and there, in order of name.

    Args:
        config: Roots and wanted sequences.
        known: All sequences of the benchmark.
        usual: Those that are wanted unless some are named.
        pattern: Of the main files.
        name_of: Sequence that such a file belongs to.

    Raises:
        ConfigError: No root, or a sequence that is not of the benchmark.
        DataError: No sequence, one that is named but not there, or one that is there twice.
    """
    config.require_roots()
    config.check_sequences(known)
    wanted = set(config.sequences or usual)
    hits = [(name_of(path), path) for path in files_below(config.roots, pattern)]
    found = only_once([(name, path) for name, path in hits if name in wanted])
    lost = set(config.sequences) - set(found)
    if lost or not found:
        expected = f"{pattern} of {', '.join(sorted(lost or wanted))}"
        raise not_here(config.roots, "files of the benchmark are missing", expected)
    return dict(sorted(found.items()))


def find_named(
    config: SequencesConfig,
    hits: Sequence[tuple[str, Path]],
    what: str,
    expected: str,
    found: str | None = None,
) -> dict[str, Path]:
    """The place of every sequence that is wanted and there, in order of name.

    Args:
        config: Roots and wanted sequences.
        hits: Name and place of all sequences that are there, whatever they are called.
        what: Error where there is none.
        expected: What is looked for.
        found: What is there in place of it.

    Raises:
        ConfigError: No root, or a sequence that is not there.
        DataError: No sequence, or one in two places.
    """
    config.require_roots()
    if not hits:
        raise not_here(config.roots, what, expected, found=found)
    config.check_sequences({name for name, _ in hits})
    wanted = (hit for hit in hits if not config.sequences or hit[0] in config.sequences)
    return dict(sorted(only_once(wanted).items()))


def only_once(hits: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The first path of each name.

    Raises:
        DataError: A name with paths to different files.
    """
    found: dict[str, list[Path]] = {}
    for name, path in hits:
        found.setdefault(name, []).append(path)
    for name, paths in found.items():
        if len(places := {str(path.resolve()) for path in paths}) > 1:
            raise DataError("sequence found twice", where=name, found=", ".join(sorted(places)))
    return {name: paths[0] for name, paths in found.items()}


def require(
    parts: Mapping[Key, Mapping[str, Path | None]], roots: Iterable[Path]
) -> dict[Key, tuple[Path, ...]]:
    """The parts of every sequence, all of which are there.

    Args:
        parts: The parts of every sequence by name; None where one is missing.
        roots: Where they were looked for.

    Raises:
        DataError: Which parts of which sequences are missing.
    """
    lacking = {
        key: [part for part, path in found.items() if path is None]
        for key, found in parts.items()
        if None in found.values()
    }
    if lacking:
        some = list(lacking.items())[:10]
        raise DataError(
            f"files of {len(lacking)} of {len(parts)} sequences are missing",
            where=", ".join(map(str, roots)),
            found="; ".join(f"{key} has no {', no '.join(lacks)}" for key, lacks in some),
            hint="download and unpack them, or name the sequences that are whole: --sequences",
        )
    return {key: tuple(filter(None, found.values())) for key, found in parts.items()}
