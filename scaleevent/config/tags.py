"""What is known of pairs besides their pixels: tags, as flags, in descriptions and in stores.

A tag is a word (`real`, `outdoor`) or has a name (`sensor=DAVIS346`); several stand in one text,
separated by commas. What nobody said is `unknown`, and stays so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated

from pydantic import BeforeValidator

from scaleevent.config.settings import nearest, parse_size

UNKNOWN = "unknown"
WORDS = {
    "real": "origin", "simulated": "origin",  # of the events
    "moving": "motion", "static": "motion",  # of the camera: carried, or in a fixed place
    "indoor": "place", "outdoor": "place",
}  # fmt: skip
SENSOR, SIZE = "sensor", "size"  # tags with a name; the size is in rows x columns, as 260x346
_SYNTAX = f"{', '.join(WORDS)}, {SENSOR}=NAME"


@dataclass(frozen=True)
class Tags:
    """What is known of a recording's pairs; the size of a sensor is known of every pair."""

    origin: str = UNKNOWN
    motion: str = UNKNOWN
    place: str = UNKNOWN
    sensor: str = UNKNOWN

    def told(self, text: str) -> Tags:
        """These, but for what a text of tags says; words that are not known say nothing."""
        known = dict(pair for one in separate(text) if (pair := read_tag(one)) is not None)
        known.pop(SIZE, None)
        return replace(self, **known)

    def __str__(self) -> str:
        """Such as `real, moving, outdoor, DAVIS346`; `unknown` where nothing is known."""
        known = [value for value in vars(self).values() if value != UNKNOWN]
        return ", ".join(known) or UNKNOWN


KINDS = tuple(field.name for field in fields(Tags))


def separate(texts: str | Iterable[str]) -> list[str]:
    """The tags of one or several texts, one by one."""
    joined = texts if isinstance(texts, str) else ",".join(texts)
    return [one for part in joined.split(",") if (one := re.sub(r"\s+", " ", part.strip()))]


def read_tag(text: str) -> tuple[str, str] | None:
    """The kind of a tag and its value, or None if it is none that is known here."""
    if text in WORDS:
        return WORDS[text], text
    name, _, value = text.partition("=")
    return (name, value.strip()) if name in (SENSOR, SIZE) and value.strip() else None


def _listed(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"expected tags: {_SYNTAX}")
    return separate(texts)


def _given(value: object) -> list[str]:
    """Tags for all pairs of a store: at most one of each kind."""
    tags = _listed(value)
    seen: dict[str, str] = {}
    for tag in tags:
        kind, told = read_tag(tag) or ("", "")
        if kind in ("", SIZE):
            raise ValueError(f"expected one of {_SYNTAX}{nearest(tag, WORDS)}")
        if seen.setdefault(kind, told) != told:
            raise ValueError(f"{seen[kind]} and {told} exclude each other")
    return tags


def _wanted(value: object) -> list[str]:
    """Tags that a choice may name."""
    tags = _listed(value)
    for tag in tags:
        kind, told = read_tag(tag) or ("", "")
        if not kind:
            expected = f"{_SYNTAX}, {SIZE}=ROWSxCOLUMNS"
            raise ValueError(f"unknown tag {tag}, expected {expected}{nearest(tag, WORDS)}")
        if kind == SIZE:
            parse_size(told)
    return tags


GivenTags = Annotated[list[str], BeforeValidator(_given)]
WantedTags = Annotated[list[str], BeforeValidator(_wanted)]


def admits(wanted: Iterable[str], tags: Tags, size: tuple[int, int]) -> bool:
    """Whether a choice takes pairs: of each kind that it names they need one of the values.

    `real, indoor, outdoor` takes what is real, and indoors or outdoors; what is unknown in a kind
    that is named is not taken.
    """
    having = vars(tags) | {SIZE: size}
    named: dict[str, list[object]] = {}
    for kind, value in filter(None, map(read_tag, wanted)):
        named.setdefault(kind, []).append(parse_size(value) if kind == SIZE else value.lower())
    return all(
        (having[kind].lower() if isinstance(having[kind], str) else having[kind]) in values
        for kind, values in named.items()
    )
