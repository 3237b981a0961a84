"""JSON and YAML from disk: bounded in size, depth and number of values before they are built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 64 << 20  # of a JSON document: a manifest of 100,000 shards
MAX_VALUES = 2_000_000  # a value takes up to some 100 bytes
YAML_BYTES = 1_000_000
MAX_DEPTH = 50
_SHOWN = 300  # characters of a library's message


class MalformedError(ValueError):
    """What is wrong with a document, and in which line where that is known.

    Callers turn it into an error that says whose file it is.
    """

    def __init__(self, what: object, line: int | None = None) -> None:
        super().__init__(str(what)[:_SHOWN])
        self.line = line

    def at(self, path: Path) -> str:
        """The file, with the line."""
        return f"{path}, line {self.line}" if self.line else str(path)


def parse_json(data: bytes) -> object:
    """A JSON document in UTF-8, without a key given twice or text that cannot be printed.

    Raises:
        MalformedError: It is no such document, or too large.
    """
    if len(data) > MAX_BYTES:
        raise MalformedError(f"{len(data):,} bytes, at most {MAX_BYTES:,} are read")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise MalformedError(f"more than {MAX_VALUES:,} values")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object)
        if b"\\u" in data:  # perhaps half of a surrogate pair, which cannot be printed
            json.dumps(value, ensure_ascii=False).encode()
        if sum(map(data.count, (b"[", b"{"))) > MAX_DEPTH and _deep(value):
            raise MalformedError("nested too deeply")
        return value
    except MalformedError:
        raise
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise MalformedError(error.msg, error.lineno) from None
    except ValueError as error:  # not UTF-8, or an integer of thousands of digits
        raise MalformedError(error) from None


def _deep(value: object) -> bool:
    """Whether values are nested in more than `MAX_DEPTH` levels."""
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = [part for part in level if isinstance(part, dict | list)]
        level = [v for part in parts for v in (part.values() if isinstance(part, dict) else part)]
    return bool(level)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise MalformedError("a key is given twice")
    return found


class _Loader(yaml.SafeLoader):
    """Safe YAML of limited depth, without aliases or a key given twice."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        peek: Callable[[], yaml.Event] = self.peek_event
        event = peek()
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent):
            raise MalformedError("aliases are not read", line)
        if self.depth == MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            raise MalformedError("nested too deeply", line)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise MalformedError("a key that is no text", key.start_mark.line + 1)
            if key.value in seen:
                raise MalformedError(f"key {key.value} is given twice", key.start_mark.line + 1)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(data: bytes) -> object:
    """A YAML document of plain values: no tags of Python, aliases, or keys given twice.

    Raises:
        MalformedError: It is no such document, or too large.
    """
    if len(data) > YAML_BYTES:
        raise MalformedError(f"{len(data):,} bytes, at most {YAML_BYTES:,} are read")
    try:
        return yaml.load(data, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except MalformedError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise MalformedError(error.problem, mark.line + 1 if mark else None) from None
    except Exception as error:  # constructors raise what int(), datetime() and others raise
        raise MalformedError(error) from None


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file; of a larger one, one byte more than the limit.

    Raises:
        OSError: As `open`; also of a folder, a pipe or a device.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise OSError(f"{path} is not a plain file")
    with open(path, "rb") as file:
        return file.read(limit + 1)
