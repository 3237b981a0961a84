"""All writing goes through here: a file is complete under its name, or it is not there.

Write to a unique temporary name in the target folder, flush, fsync, rename, fsync the folder.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, ScaleEventError
from scaleevent.system.documents import MAX_BYTES, MalformedError, parse_json, read_bounded
from scaleevent.system.owner import check_owner, claims, owned
from scaleevent.system.platform import make_folder, remove_file, sync_folder
from scaleevent.system.refusals import causes, error_number, reading
from scaleevent.system.signals import note_claim

if TYPE_CHECKING:
    from typing_extensions import Buffer

Json = dict[str, Any]  # a JSON object: descriptions, settings, facts
TEMPORARY_NAME = re.compile(r"\.(.+)\.\d{1,9}\.[0-9a-f]{8}\.tmp")
# kinds of output whose commands cannot go on
FINAL = ("export", "evaluation", "predictions", "curves")
MARKER = ".scaleevent"  # in every output folder: what kind of output it holds
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_BYTES = 1 << 20  # with less than this free, a write that failed without a reason found no room
_REFUSALS = {  # what the system says: what the user can do
    "ENOSPC EDQUOT": "free some space; then --resume goes on (export, eval, predict: --overwrite)",
    "EFBIG": "the file system, or a limit such as `ulimit -f`, takes no file of this size",
    "EACCES EPERM EROFS": "choose a folder you may write to with --out",
    "ENOTDIR EEXIST EISDIR ENAMETOOLONG ELOOP": "choose another --out",
    "EIO ENXIO ENODEV ESTALE ETIMEDOUT": "the disk, or the connection to it, fails: check it",
    "EMFILE ENFILE": "too many open files: raise the limit (`ulimit -n`)",
}
HINTS = {
    getattr(errno, name): hint
    for names, hint in _REFUSALS.items()
    for name in names.split()
    if hasattr(errno, name)
}


@contextmanager
def atomic_path(path: Path, size: int | None = None) -> Iterator[Path]:
    """A temporary path to write; on leaving without an error it becomes `path`.

    Args:
        path: The file's name; its mode follows the umask, whatever library writes it.
        size: Its bytes, as far as they are known: for the message if there is no room.

    Raises:
        EnvironmentProblem: The disk is full or the folder cannot be written.
    """
    with staged(path) as temporary, writing(path, size):
        yield temporary


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """`atomic_path` for a block that does more than write; what it writes is put in `writing`."""
    path = Path(path)
    temporary, had_folder = temporary_path(path), path.parent.exists()
    try:
        with writing(path):
            make_folder(path.parent)
            temporary.touch(exist_ok=False)
            mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        with writing(path):
            temporary.chmod(mode)  # some libraries make a file of their own
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            remove_file(temporary)
        if not had_folder:
            _remove_if_empty(path.parent)


def temporary_path(path: Path) -> Path:
    """A new name beside `path`, which the next owner of the folder removes if it is left over."""
    name = path.name[:50]  # so that it is no longer than systems allow
    return path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn refusals of the system while writing `path` into errors that say what to do.

    Libraries raise errors of their own; so nothing else belongs into the block.
    """
    try:
        yield
    except ScaleEventError:
        raise
    except Exception as error:
        problem = refusal(error, path, size)
        if problem is None:
            raise
        raise problem from error


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count:,} bytes"


def refusal(error: Exception, path: Path, size: int | None = None) -> EnvironmentProblem | None:
    """What the system refused, told by an error of any library; None if it was something else."""
    free = _free_bytes(path)
    number = next(filter(None, map(error_number, causes(error, hidden=True))), None)
    if number is None and not isinstance(error, OSError) and free is not None and free < FULL_BYTES:
        number = errno.ENOSPC
    if number is None or number not in HINTS:
        return None
    full = number in FULL
    name = TEMPORARY_NAME.fullmatch(Path(path).name)
    return EnvironmentProblem(
        f"cannot write: {os.strerror(number)}",
        where=Path(path).with_name(name[1]) if name else path,
        found=f"{_size(free)} free" if full and free is not None else None,
        expected=f"at least {_size(size)}" if full and size is not None else None,
        hint=HINTS[number],
    )


def check_space(path: Path, size: int, hint: str) -> None:
    """Refuse to begin a file of so many bytes where there is no room for it.

    Raises:
        EnvironmentProblem: Less is free.
    """
    free = _free_bytes(path)
    if free is not None and free < size:
        raise EnvironmentProblem(
            "no room on the disk", where=path, found=f"{_size(free)} free",
            expected=_size(size), hint=hint,
        )  # fmt: skip


def _free_bytes(path: Path) -> int | None:
    """Free bytes on the disk of a path that may not exist yet; None where it tells none."""
    for place in (path, *Path(path).absolute().parents):
        with suppress(OSError):
            usage = shutil.disk_usage(place)
            return usage.free if usage.total else None
    return None


class SteadyFile(io.FileIO):
    """A new file for libraries that end the process if a write fails: no write ever does.

    The first failure is kept for `check`; from then on nothing is written.

    Attributes:
        size: Bytes of the file if all of it had been written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None
        self.size = 0

    def write(self, data: Buffer) -> int:
        """All bytes of a buffer, or a failure that is kept."""
        view = memoryview(data).cast("B")
        done = 0
        while self.failure is None and done < len(view):
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.failure = error
        if done < len(view):  # as if it had been written
            self.seek(len(view) - done, os.SEEK_CUR)
        self.size = max(self.size, self.tell())
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """The new size, or a failure that is kept."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return self.tell() if size is None else size

    def close(self) -> None:
        """Close the file; some file systems tell only now that they had no room."""
        if self.closed:
            return
        try:
            os.fsync(self.fileno())
        except OSError as error:
            self.failure = self.failure or error
        finally:
            super().close()

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self.failure is not None:
            raise self.failure


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole."""
    with atomic_path(path, len(data)) as temporary:
        temporary.write_bytes(data)


def move_file(path: Path, target: Path) -> None:
    """Give a whole file its name in another folder of the same file system."""
    with writing(target):
        os.replace(path, target)
        sync_folder(target.parent)


def write_json(path: Path, value: object) -> None:
    """Write a JSON document, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON document of ours.

    Raises:
        DataError: Missing, not JSON, or too large.
    """
    try:
        with reading(path, "cannot read the file"):
            return parse_json(read_bounded(path, MAX_BYTES))
    except MalformedError as error:
        raise DataError("not a JSON file", where=error.at(path), found=error) from None


def append_json_line(path: Path, value: object) -> None:
    """Append one JSON object as a line; what a killed writer left of a last line is cut off."""
    with writing(path), open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if end and file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(value).encode() + b"\n")


def read_json_lines(path: Path) -> list[Json]:
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
    """Remove the temporary files of dead writers from a folder that this process owns.

    And from its subfolders, except those that are output folders of their own.
    """
    below = (path for path in Path(folder).iterdir() if path.is_dir() and not path.is_symlink())
    for place in (folder, *(path for path in below if not (path / MARKER).exists())):
        for path in filter(_is_temporary, Path(place).iterdir()):
            with suppress(OSError):
                remove_file(path)


def _is_temporary(path: Path) -> bool:
    return TEMPORARY_NAME.fullmatch(path.name) is not None


def check_folder(
    folder: Path, kind: str, *, resume: bool, overwrite: bool, take_over: bool = False
) -> None:
    """Refuse an output folder that may not be written to.

    Our folders name their `kind` of output in a marker file. The user agrees to go on in such a
    folder with `resume`, to empty it with `overwrite`, and with `take_over` that a run on another
    host, to which it belongs, is dead.

    Raises:
        ConfigError: Both `resume` and `overwrite` were asked for.
        EnvironmentProblem: The folder belongs to a live run, or holds something else, or something
            of ours without consent.
    """
    if resume and overwrite:
        raise ConfigError(
            "--resume and --overwrite exclude each other",
            hint="--resume goes on with what is there, --overwrite deletes it",
        )
    folder = Path(folder)
    with writing(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            raise EnvironmentProblem(
                "output is a file", where=there, expected="a folder", hint="choose another --out"
            )
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        check_owner(folder, take_over)
        _check_content(folder, kind, resume or overwrite)


def _check_content(folder: Path, kind: str, consent: bool) -> None:
    if not _content(folder):
        return
    marker = folder / MARKER
    ours = marker.is_file() and marker.read_bytes().strip() == kind.encode()
    if not (ours and consent):
        again = "" if kind in FINAL else "--resume goes on, "
        hint = f"{again}--overwrite starts anew" if ours else "choose another --out"
        raise EnvironmentProblem("output folder is not empty", where=folder, hint=hint)


def _content(folder: Path) -> list[Path]:
    """What a folder holds besides claims and temporary files: these are of no run that counts."""
    if not folder.exists():
        return []
    others = claims(folder)
    return [path for path in folder.iterdir() if path not in others and not _is_temporary(path)]


@contextmanager
def claimed_folder(
    folder: Path,
    kind: str,
    checked: Callable[[], None] = lambda: None,
    /,
    *,
    resume: bool,
    overwrite: bool,
    take_over: bool = False,
) -> Iterator[None]:
    """`check_folder`, then make, own and mark the folder, emptied if `overwrite`.

    `checked` is called when it is owned and still as it was. If the block fails before anything was
    written, the folder goes again.
    """
    folder = Path(folder)
    check_folder(folder, kind, resume=resume, overwrite=overwrite, take_over=take_over)
    with ExitStack() as stack:
        with writing(folder):
            stack.callback(_remove_if_empty, folder)
            claim = stack.enter_context(owned(folder, take_over))
            _check_content(folder, kind, resume or overwrite)  # again: now nobody else writes
            checked()
            clean_leftovers(folder)
            for path in sorted(folder.rglob("*"), reverse=True) if overwrite else ():
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                elif path != claim:
                    remove_file(path)
            write_bytes(folder / MARKER, f"{kind}\n".encode())
        again = "--overwrite starts anew" if kind in FINAL else "--resume goes on"
        note_claim(folder, f"the same command with {again}")
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if [path.name for path in _content(folder)] == [MARKER]:
                    remove_file(folder / MARKER)
            raise


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
