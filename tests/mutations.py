"""Damaged and hostile variants of documents: bytes changed, values replaced by unexpected ones."""

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

HOSTILE = [
    None, True, False, -1, 0, 1, 10**12, 10**400, -(10**30), 1e308, -0.0, float("inf"),
    float("nan"), "", "text", "1", "x" * 5_000, "../outside", "/etc/passwd", "a\0b", "\udcff",
    [], {}, [[[]]], [1, 2], {"a": 1}, ["text"] * 50,
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a document with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(items):
        yield value, key
        if isinstance(part, dict | list):
            yield from places(part)


def changed_values(document: Any, count: int, dump: Callable[[Any], bytes]) -> Iterator[bytes]:
    """The document with one to three values replaced, removed, renamed or nested."""
    rng = random.Random(0)
    text = json.dumps(document)
    for _ in range(count):
        copy = json.loads(text)
        for _ in range(rng.randint(1, 3)):
            spots = list(places(copy))
            if not spots:
                break
            box, key = rng.choice(spots)
            act = rng.random()
            if act < 0.6:
                box[key] = deepcopy(rng.choice(HOSTILE))
            elif act < 0.75:
                del box[key]
            elif act < 0.9 and isinstance(box, dict):
                box[str(rng.choice(HOSTILE))[:50]] = box.pop(key)
            else:
                box[key] = [deepcopy(box[key]) for _ in range(rng.choice([1, 2, 30]))]
        try:
            yield dump(copy)
        except (UnicodeEncodeError, ValueError):  # no document can hold this
            continue


def changed_bytes(data: bytes, count: int) -> Iterator[bytes]:
    """The bytes with some of them flipped, cut, doubled, inserted or zeroed."""
    rng = random.Random(1)
    for _ in range(count):
        copy = bytearray(data)
        at = rng.randrange(len(copy))
        act = rng.randrange(6)
        if act == 0:
            copy[at] ^= 1 << rng.randrange(8)
        elif act == 1:
            copy = copy[:at]
        elif act == 2:
            copy[at:at] = copy[at : at + rng.randrange(1, 200)]
        elif act == 3:
            copy[at:at] = rng.choice(
                [b"\xff", b"\0", b"[" * 3000, b"9" * 5000, b"{", b'"', b"!!python/object:os.system",
                 b"&a [*a, *a]", b"- " * 500, b"\n", b"1e999", b"NaN", b": ", b"2020-13-45"]
            )  # fmt: skip
        elif act == 4:
            copy[at : at + 20] = bytes(min(20, len(copy) - at))
        else:
            copy[at] = rng.randrange(256)
        yield bytes(copy)
