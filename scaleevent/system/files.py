"""All writing goes through here: a file is complete under its name, or it is not there.

Write to a unique temporary name in the target folder, flush, fsync, rename, fsync the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaleevent.errors import ConfigError, DataError, EnvironmentProblem
from scaleevent.system.documents import MAX_BYTES, MalformedError, parse_json, read_bounded

Json = dict[str, Any]  # a JSON object: descriptions, settings, facts
TEMPORARY = ".tmp"
FINAL = ("export", "evaluation")  # kinds of output whose commands cannot go on
MARKER = ".scaleevent"  # in every output folder: what kind of output it holds


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write; on leaving without an error it becomes `path`.

    Raises:
        EnvironmentProblem: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = temporary_path(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A new name beside `path`, which `clean_leftovers` removes once this process is dead."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals while writing `path` into errors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, then run the same command again: finished parts are kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "choose a folder you may write to with --out"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            hint = "choose another --out"
        else:
            raise
        raise EnvironmentProblem(
            f"cannot write: {os.strerror(error.errno)}", where=path, hint=hint
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write a JSON document, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON document of ours.

    Raises:
        DataError: Missing, not JSON, or too large.
    """
    try:
        return parse_json(read_bounded(path, MAX_BYTES))
    except FileNotFoundError:
        raise DataError("file not found", where=path) from None
    except OSError as error:
        raise DataError("cannot read the file", where=path, found=error) from None
    except MalformedError as error:
        raise DataError("not a JSON file", where=error.at(path), found=error) from None


def append_json_line(path: Path, value: object) -> None:
    """Append one JSON object as a line; what a killed writer left of a last line is cut off."""
    with writing(path), open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(value).encode() + b"\n")


def read_json_lines(path: Path) -> list[Any]:
    """All whole lines of a log; an unfinished last line is left out."""
    text = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: object) -> str:
    """Short stable hash of a JSON-able value, for "is this the same job?"."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def clean_leftovers(folder: Path) -> None:
    """Remove temporary files that dead writers left in a folder; those of live ones stay."""
    for path in Path(folder).glob(f".*{TEMPORARY}"):
        ours = re.fullmatch(rf"\..+\.(\d{{1,9}})\.[0-9a-f]{{8}}{re.escape(TEMPORARY)}", path.name)
        if ours and not _alive(int(ours[1])):
            path.unlink(missing_ok=True)


def check_folder(folder: Path, kind: str, *, resume: bool, overwrite: bool) -> None:
    """Refuse an output folder that may not be written to.

    Our folders name their `kind` of output in a marker file. The user agrees to go on in such a
    folder with `resume`, and to empty it with `overwrite`.

    Raises:
        ConfigError: Both were asked for.
        EnvironmentProblem: The folder holds something else, or something of ours without consent.
    """
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite exclude each other",
            hint="--resume goes on with what is there, --overwrite deletes it",
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise EnvironmentProblem(
            "output is a file", where=folder, expected="a folder", hint="choose another --out"
        )
    if folder.exists():
        clean_leftovers(folder)  # all there is, if a first run died while writing its marker
    if not folder.exists() or not any(folder.iterdir()):
        return
    marker = folder / MARKER
    ours = marker.is_file() and marker.read_text().strip() == kind
    if not (ours and (resume or overwrite)):
        again = "" if kind in FINAL else "--resume goes on, "
        hint = f"{again}--overwrite starts anew" if ours else "choose another --out"
        raise EnvironmentProblem("output folder is not empty", where=folder, hint=hint)


@contextmanager
def claimed_folder(folder: Path, kind: str, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """`check_folder`, then make and mark the folder, emptied if `overwrite`.

    If the block fails before anything was written, the folder goes again.
    """
    folder = Path(folder)
    check_folder(folder, kind, resume=resume, overwrite=overwrite)
    if overwrite and folder.exists():
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot make the output folder: {error.strerror}", where=folder,
            hint="choose another --out",
        ) from error  # fmt: skip
    with writing(folder):
        write_bytes(folder / MARKER, f"{kind}\n".encode())
    try:
        yield
    except BaseException:
        if [path.name for path in folder.iterdir()] == [MARKER]:
            (folder / MARKER).unlink()
            folder.rmdir()
        raise


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
