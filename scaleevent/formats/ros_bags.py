"""ROS bags of one file or a folder: their topics, the counts they declare, and their messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import yaml

from scaleevent.errors import DataError, MissingPackageError, NotEventsError
from scaleevent.formats.source import COPY_AGAIN, Flaw, errors_as_damage

if TYPE_CHECKING:
    from scaleevent.formats.ros_readers import Db3File, McapFile, Ros1File

    FileReader = Ros1File | Db3File | McapFile

ROS1 = b"#ROSBAG V2.0"
SQLITE = b"SQLite format 3\0"
MCAP = b"\x89MCAP0\r\n"
METADATA = "metadata.yaml"

_BAG_SUFFIXES = (".db3", ".mcap")
_ZSTD = b"\x28\xb5\x2f\xfd"
_INFORMATION = "rosbag2_bagfile_information"
_MAX_METADATA = 1 << 22  # bytes
_REINDEX = {ROS1: "rosbag reindex", SQLITE: "sqlite3 FILE .recover", MCAP: "mcap recover"}


@dataclass
class Topic:
    """One topic of a bag.

    Args:
        name: Its name.
        kind: The type of its messages.
        messages: Number of messages in the index of the bag.
        definition: Definition of the type, if the bag has it.
        declared: Numbers of messages that the bag states, by where.
    """

    name: str
    kind: str
    messages: int = 0
    definition: str = ""
    declared: Counter[str] = field(default_factory=Counter)

    @property
    def described(self) -> str:
        """Type and number of messages."""
        return f"{self.kind}, {self.messages} message{'s' * (self.messages != 1)}"

    def difference(self, met: int) -> Flaw | None:
        """Damage if a whole read met another number of messages than the bag states."""
        for where, count in self.declared.items():
            if count != met:
                return _other_number(
                    f"topic {self.name}", met, f"{count}, as {where} states", count
                )
        return None


@dataclass(frozen=True)
class Bag:
    """A bag; every pass opens its files anew, one after the other.

    Args:
        path: The file, or the folder of a ROS 2 bag.
        files: The files that are read, in order.
        parts: Names of all files of the bag, as far as known.
        topics: Its topics by name.
        flaws: Damage that its lists show.
    """

    path: Path
    files: tuple[Path, ...]
    parts: tuple[str, ...]
    topics: dict[str, Topic]
    flaws: tuple[Flaw, ...]

    @property
    def cdr(self) -> bool:
        """Whether messages are encoded as in ROS 2."""
        return _magic(self.files[0]) != ROS1

    def remarks(self) -> list[str]:
        """What of the bag is not read because of its name, a line each."""
        lines = []
        if len(self.parts) > len(self.files):
            part = f"{self.path.name} is one of the {len(self.parts)} files of a bag"
            lines.append(f"{part}: name the folder, {self.path.parent}, to read all")
        if self.path.is_dir():
            files = {file for file in recording_files(self.path) if file.suffix in _BAG_SUFFIXES}
            for file in sorted(files.difference(self.files)):
                lines.append(f"{file.name} is not read: {METADATA} does not name it")
        return lines

    def messages(self, topic: str, start: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Time of recording in ns and content of a topic's messages, from time `start` on.

        Raises:
            DataError: Damage; every error of the package rosbags becomes one.
        """
        for file in self.files:
            with _opened(file) as reader:
                yield from _messages(file, reader, topic, start)

    def first_messages(self, topics: Collection[str], most: int) -> dict[str, list[bytes]]:
        """Up to `most` messages of each topic, from the beginning; fewer if damage follows."""
        found: dict[str, list[bytes]] = {topic: [] for topic in topics}
        for file in self.files:
            if all(len(known) == most for known in found.values()):
                break
            with _opened(file) as reader:
                for topic, known in found.items():
                    with suppress(DataError):
                        rest = _messages(file, reader, topic, None)
                        known.extend(data for _, data in islice(rest, most - len(known)))
        return found

    def changed(self) -> Iterator[Flaw]:
        """Damage of MCAP files that differ from their checksum; reads those that have one."""
        for file in self.files:
            if _magic(file) != MCAP:
                continue
            with _opened(file) as reader, _damage(file)():
                sound = hasattr(reader, "data_are_sound") and reader.data_are_sound()
            if not sound:
                yield Flaw("data differ from their checksum", file.name, "other data")


@dataclass(frozen=True)
class _Metadata:
    """Content of a metadata.yaml: number of messages of every file (None: not stated) and topic."""

    files: dict[str, int | None] = field(default_factory=dict)
    topics: tuple[tuple[str, str, int], ...] = ()


def recording_files(path: Path) -> tuple[Path, ...]:
    """The files of a recording: itself, or those of the folder of a ROS 2 bag."""
    if not path.is_dir():
        return (path,)
    suffixes = (*_BAG_SUFFIXES, ".zstd", ".yaml")
    return tuple(sorted(file for file in path.iterdir() if file.suffix in suffixes))


def is_bag_folder(path: Path) -> bool:
    """Whether a folder is a ROS 2 bag."""
    try:
        with (path / METADATA).open("rb") as file:
            return _INFORMATION.encode() in file.read(1 << 12)
    except OSError:
        return False


def open_bag(path: Path) -> Bag:
    """Read the lists of a bag.

    Args:
        path: A .bag, .db3 or .mcap file, or the folder of a ROS 2 bag. The metadata.yaml beside a
            file is used if it names the file.

    Raises:
        MissingPackageError: The package rosbags is not installed.
        NotEventsError: An MCAP file that is not of ROS 2.
        DataError: A damaged bag.
    """
    if path.is_dir():
        metadata = _metadata(path)
        files = [_part(path, name) for name in metadata.files]
        if not files:
            raise DataError("this bag names no files", where=path / METADATA)
    else:
        metadata, files = _Metadata(), [path]
        if is_bag_folder(path.parent):
            metadata = _metadata(path.parent)
            if path.name not in metadata.files:
                metadata = _Metadata()
    topics: dict[str, Topic] = {}
    flaws: list[Flaw] = []
    whole = len(files) == len(metadata.files)
    for file in files:
        declared = None if whole else metadata.files.get(file.name)
        with _opened(file) as reader:
            flaws += _list_file(file, reader, declared, topics)
    for name, kind, count in metadata.topics if whole else ():
        topics.setdefault(name, Topic(name, kind)).declared[METADATA] += count
    return Bag(path, tuple(files), tuple(metadata.files), topics, tuple(flaws))


def _list_file(
    file: Path, reader: FileReader, declared: int | None, topics: dict[str, Topic]
) -> Iterator[Flaw]:
    """Add the topics of a file to `topics`; damage that its lists show.

    `declared` is the number of messages of all topics, if known.
    """
    for link in reader.connections:
        topic = topics.setdefault(link.topic, Topic(link.topic, link.msgtype))
        topic.messages += link.msgcount
        topic.definition = topic.definition or str(link.msgdef.data)
    total, counts = reader.declared()
    for name, count in counts.items():
        topics[name].declared["the index"] += count
    if sum(counts.values()) != total:
        found = sum(counts.values())
        yield _other_number(file.name, found, f"{total} of all topics", total)
    if declared is not None and declared != total:
        yield _other_number(file.name, total, f"{declared}, as {METADATA} states", declared)
    log = file.with_name(f"{file.name}-wal")
    if log.is_file() and log.stat().st_size:
        hint = f'sqlite3 {file} "pragma wal_checkpoint(truncate)" merges them'
        yield Flaw("messages not merged into the file", file.name, log.name, None, hint)


def _messages(
    file: Path, reader: FileReader, topic: str, start: int | None
) -> Iterator[tuple[int, bytes]]:
    """Time and content of the messages of a topic in one file."""
    links = [link for link in reader.connections if link.topic == topic]
    if not links:
        return
    ros2 = not isinstance(reader, _readers().Ros1File)
    with _damage(file)():  # nothing is thrown into a generator but its end, which passes
        for _, stamp, data in reader.messages(links, start=start):
            if ros2 and data.startswith(_ZSTD):
                data = _readers().decompress(data, "zstd")  # compressed on its own
            yield stamp, data


def _other_number(where: str, found: int, expected: str, declared: int) -> Flaw:
    return Flaw(
        "not as many messages as declared",
        where,
        f"{found} messages",
        expected,
        COPY_AGAIN,
        count=abs(declared - found),
    )


def _part(folder: Path, name: str) -> Path:
    """A file that the metadata of a folder name."""
    file = folder / name
    if file.suffix == ".zstd" and file.with_suffix("").is_file():
        return file.with_suffix("")
    if not file.is_file():
        hint = "copy the whole folder, or name one of its files"
        raise DataError("a file of the bag is missing", where=folder, found=name, hint=hint)
    if file.suffix == ".zstd":
        raise DataError(
            "the files of this bag are compressed",
            where=folder,
            found=name,
            expected="files that are not compressed as a whole (their messages may be)",
            hint=f"decompress every one of them beside itself: zstd -d {file} "
            f"-o {file.with_suffix('')}",
        )
    return file


def _metadata(folder: Path) -> _Metadata:
    """The metadata of a folder that is a bag."""
    file = folder / METADATA
    with errors_as_damage("bag", file):
        if file.stat().st_size > _MAX_METADATA:
            raise ValueError(f"over {_MAX_METADATA} bytes")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(file.read_bytes(), loader)[_INFORMATION]
        names = [Path(str(name)).name for name in content["relative_file_paths"]]
        files: dict[str, int | None] = dict.fromkeys(names)
        for part in content.get("files") or ():
            if Path(str(part["path"])).name in files:
                files[Path(str(part["path"])).name] = int(part["message_count"])
        topics = tuple(
            (str(kind["name"]), str(kind["type"]), int(topic["message_count"]))
            for topic in content["topics_with_message_count"]
            for kind in [topic["topic_metadata"]]
        )
    return _Metadata(files, topics)


def _magic(file: Path) -> bytes | None:
    """Which kind of bag a file is, by its first bytes."""
    with file.open("rb") as data:
        head = data.read(16)
    return next((magic for magic in _REINDEX if head.startswith(magic)), None)


@contextmanager
def _opened(file: Path) -> Iterator[FileReader]:
    """The reader of one file."""
    readers, magic = _readers(), _magic(file)
    if magic is None:
        raise DataError("not a file of a bag", where=file, expected="a .bag, .db3 or .mcap file")
    if magic == MCAP:
        _check_profile(file)
    with _damage(file)():
        kinds = {ROS1: readers.Ros1File, SQLITE: readers.Db3File, MCAP: readers.McapFile}
        reader: FileReader = kinds[magic](file)
        reader.open()
    try:
        yield reader
    finally:
        reader.close()


def _check_profile(file: Path) -> None:
    """Refuse MCAP files whose messages are not those of ROS 2."""
    with file.open("rb") as data:
        head = data.read(100)
    size = int.from_bytes(head[17:21], "little")
    profile = head[21 : 21 + size].decode("latin-1")
    if head[8:9] == b"\x01" and profile != "ros2" and size < len(head):
        raise NotEventsError(
            "an MCAP file that is not of ROS 2",
            where=file,
            found=f'profile "{profile}"',
            expected='profile "ros2"',
        )


def _damage(file: Path) -> Callable[[], AbstractContextManager[None]]:
    """A context that converts errors of the package rosbags."""
    magic = _magic(file)
    saves = f"{_REINDEX[magic]} saves" if magic else "ROS tools save"
    hint = f"copy it again; of a recording that was cut short, {saves} what is there"
    return partial(errors_as_damage, "bag", file, hint)


def _readers() -> ModuleType:
    """The module that needs the package rosbags."""
    try:
        from scaleevent.formats import ros_readers
    except ImportError as error:
        raise MissingPackageError("rosbags", "ros", "reading ROS bags") from error
    return ros_readers
