"""Pair stores on object storage or a web server, with a cache of whole files on this machine.

The manifest is fetched whenever a store is opened, a shard when one of its pairs is first read. In
the cache a shard has its SHA-256 as its name, which was checked before it got that name: so a shard
is never an old version of another one, and several addresses of a store share one copy.

    stores/ADDRESS/manifest.json    of the store at this address, as it was last opened
    shards/SHA256.h5                shards of all stores
    shards/SHA256.lock              held by the process that fetches or opens the shard

fsspec does the reading: s3, gs, az, http, https and whatever else it knows.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, MissingPackageError
from scaleevent.system.documents import MAX_BYTES
from scaleevent.system.files import atomic_path, check_space, write_bytes, writing
from scaleevent.system.locations import LIMIT, MANIFEST, address_of, cache_folder, without_passwords
from scaleevent.system.platform import file_lock, make_folder, remove_file
from scaleevent.system.reports import remark

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Found = TypeVar("Found")
WAITS = (1.0, 4.0, 15.0)  # seconds before it is tried again, after a connection was lost
BLOCK = 4 << 20
_REFUSED, _GONE = (401, 403), (404, 410)  # of HTTP


@dataclass(frozen=True)
class RemoteStore:
    """The store at an address; it holds no connection, so it can be sent to other processes.

    Args:
        address: Such as s3://bucket/pairs.
        cache: Folder on this machine; by default ours, as it is when this is made: also for other
            processes.

    Raises:
        ConfigError: A protocol that nobody knows.
        MissingPackageError: One whose package is not installed.
    """

    address: str
    cache: Path = field(default_factory=cache_folder)

    def __post_init__(self) -> None:
        _opened(self.address)

    @property
    def shown(self) -> str:
        """The address for messages, without a password."""
        return without_passwords(self.address)

    @property
    def folder(self) -> Path:
        """Where its manifest is on this machine."""
        name = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        return self.cache / "stores" / name

    def fetch_manifest(self) -> Path:
        """The store's folder on this machine, with its manifest of now.

        Raises:
            DataError: No manifest there.
            EnvironmentProblem: It may not be read, or the connection is lost for good.
        """

        def read(files: AbstractFileSystem, place: str) -> bytes:
            with files.open(f"{place}/{MANIFEST}", "rb") as file:
                return bytes(file.read(MAX_BYTES + 1))

        try:
            data = self._attempt(MANIFEST, read)
        except FileNotFoundError:
            raise DataError(
                "no pair store at this address",
                where=self.shown,
                expected=f"{self.shown}/{MANIFEST}",
                hint="name the folder itself; a store is copied there file by file, "
                "the manifest last",
            ) from None
        if data != self._known():
            write_bytes(self.folder / MANIFEST, data)
        return self.folder

    def _known(self) -> bytes | None:
        with suppress(OSError):
            return (self.folder / MANIFEST).read_bytes()
        return None

    @property
    def shards(self) -> Path:
        """Where shards of all stores are kept."""
        return self.cache / "shards"

    def cached(self, sha256: str) -> Path:
        """Where the shard with this hash is, or would be, on this machine."""
        return self.shards / f"{sha256}.h5"

    @contextmanager
    def shard(self, name: str, size: int, sha256: str) -> Iterator[Path]:
        """A whole shard on this machine, fetched if need be; it stays there while the block runs.

        However many processes ask for it, one fetches it and the others wait.

        Args:
            name: Its file name in the store.
            size: Its bytes.
            sha256: Of its content.

        Raises:
            DataError: It is not there, or another one than the manifest's.
            EnvironmentProblem: No room for it, no permission, or the connection is lost for good.
        """
        path = self.cached(sha256)
        with writing(path):
            make_folder(path.parent)
        with file_lock(path.with_suffix(".lock")) as alone:
            if not path.exists() or path.stat().st_size != size:
                if alone:
                    for left in path.parent.glob(f".{path.name[:50]}.*.tmp"):  # of a dead process
                        remove_file(left)
                make_room(path, size)
                remark(f"fetching {size / 1e6:,.1f} MB: {self.shown}/{name}", logging.INFO)
                self._fetch(name, size, sha256, path)
            with suppress(OSError):
                os.utime(path)  # the least recently used go first
            yield path

    def _fetch(self, name: str, size: int, sha256: str, path: Path) -> None:
        def read(files: AbstractFileSystem, place: str) -> None:
            digest, done = hashlib.sha256(), 0
            with atomic_path(path, size) as temporary, open(temporary, "wb") as target:
                with files.open(f"{place}/{name}", "rb") as source:
                    while block := source.read(BLOCK):
                        done += len(block)
                        if done > size:
                            break
                        digest.update(block)
                        target.write(block)
                if done < size:
                    raise EOFError(f"{done:,} of {size:,} bytes")
                if done > size or digest.hexdigest() != sha256:
                    raise DataError(
                        "a shard is not the one that the manifest lists",
                        where=f"{self.shown}/{name}",
                        found=f"SHA-256 {digest.hexdigest()}" if done == size else
                        f"more than {size:,} bytes",
                        expected=f"SHA-256 {sha256}, {size:,} bytes",
                        hint="copy the store there again, shards first, the manifest last",
                    )  # fmt: skip

        try:
            self._attempt(name, read)
        except FileNotFoundError:
            raise DataError(
                "a shard is missing", where=f"{self.shown}/{name}",
                hint="copy the store there again, shards first, the manifest last",
            ) from None  # fmt: skip

    def _attempt(self, name: str, read: Callable[[AbstractFileSystem, str], Found]) -> Found:
        """Read a file of the store, again where the connection was lost.

        Raises:
            FileNotFoundError: It is not there.
        """
        for wait in (*WAITS, None):
            try:
                return read(*_opened(self.address))
            except (DataError, EnvironmentProblem):
                raise
            except Exception as told:  # of a dozen libraries
                error = _reason(told)
                status = getattr(error, "status", None)
                if isinstance(error, FileNotFoundError) or status in _GONE:
                    raise FileNotFoundError(name) from None
                if isinstance(error, PermissionError) or status in _REFUSED:
                    raise EnvironmentProblem(
                        "no permission to read", where=f"{self.shown}/{name}", found=_told(error),
                        hint="give this machine access: credentials are taken from where the "
                        "storage's own tools look for them, such as its environment variables",
                    ) from None  # fmt: skip
                if wait is None:
                    raise EnvironmentProblem(
                        "the connection is lost",
                        where=f"{self.shown}/{name}",
                        found=f"{_told(error)}, {len(WAITS) + 1} times",
                        hint="try again when it is back: what was fetched is kept",
                    ) from error
            time.sleep(wait)
        raise AssertionError


def _reason(error: Exception) -> BaseException:
    """What happened: fsspec says "not found" of every failure of HTTP, and has the cause in it."""
    cause = error.__cause__
    known = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    return cause if cause is not None and known else error


def _told(error: BaseException) -> str:
    text = without_passwords(str(error).strip()).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _opened(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, which fsspec keeps, and the place in it."""
    import fsspec  # takes as long as numpy

    protocol = urlsplit(address).scheme
    if protocol not in fsspec.available_protocols():
        raise ConfigError(
            "unknown protocol", where=address, found=protocol,
            expected="s3, gs, az, http, https or another one of fsspec's",
        )  # fmt: skip
    try:
        files, place = fsspec.core.url_to_fs(address)
    except ImportError as error:
        cause = error.__cause__
        package = (cause.name if isinstance(cause, ImportError) else error.name) or protocol
        missing = MissingPackageError(package, package, f"{protocol}://")
        missing.hint = f"pip install {package}"
        raise missing from None
    return files, str(place).rstrip("/")


def make_room(path: Path, size: int) -> None:
    """Remove the least recently used shards where the cache would grow beyond its limit.

    Those that another process is opening stay; whoever has one open keeps reading it.

    Args:
        path: The shard that comes, in the folder of all.
        size: Its bytes.

    Raises:
        ConfigError: The limit is no number, or less than the shard.
        EnvironmentProblem: The disk has no room.
    """
    limit = _limit()
    if size > limit:
        raise ConfigError(
            "one shard is larger than the cache may be", where=f"${LIMIT}",
            found=f"{limit / 1e9:g} GB", expected=f"at least {size / 1e9:.3g} GB",
        )  # fmt: skip
    shards = []
    for shard in path.parent.glob("*.h5"):
        with suppress(OSError):
            shards.append((shard.stat().st_mtime, shard.stat().st_size, shard))
    total = sum(held for _, held, _ in shards) + size
    for _, held, shard in sorted(shards):
        if total <= limit:
            break
        with file_lock(shard.with_suffix(".lock"), wait=False) as alone:
            if alone:
                remove_file(shard)
                total -= held
    check_space(path, size, f"free some, or limit the cache with ${LIMIT}, in gigabytes")


def _limit() -> float:
    given = os.environ.get(LIMIT)
    try:
        limit = float(given) * 1e9 if given else float("inf")
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ConfigError(
            "not a size", where=f"${LIMIT}", found=given, expected="gigabytes, such as 200"
        )
    return limit


def at_hand(path: Path) -> Path:
    """A folder with the manifest of a store: `path` itself, unless it is an address."""
    address = address_of(path)
    return Path(path) if address is None else RemoteStore(address).fetch_manifest()
