"""Which topics of a ROS bag are read: of events, and of the images that belong to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats.ros_bags import Topic

OTHER_PICTURES = (
    "accumulated accumulator compresseddepth confidence depth disparity flow infra infra1 infra2 "
    "ir label labels mask render rendered rendering segmentation semantic semantics surface thermal"
).split()
"""Words in the names of image topics that are no photographs of visible light."""

RECTIFIED = ("rect", "rectified", "undistorted")
"""Words in the names of images that are no longer on the pixels of the sensor."""


@dataclass(frozen=True)
class Stream:
    """What the first message of a topic shows.

    Args:
        topic: The topic.
        frame: frame_id of its header.
        size: (height, width), if it is stated.
        encoding: Encoding of its events or pixels; "" for none.
        first_us: Time of the first image or event; None without messages.
        trouble: Why it cannot be read; "" if it can.
    """

    topic: Topic
    frame: str = ""
    size: tuple[int, int] | None = None
    encoding: str = ""
    first_us: int | None = None
    trouble: str = ""

    @property
    def name(self) -> str:
        """Name of the topic."""
        return self.topic.name


def choose_events(
    streams: Sequence[Stream],
    named: str | None,
    has_events: Callable[[Stream], bool],
    topics: dict[str, Topic],
    where: Path,
) -> tuple[Stream, tuple[str, ...]]:
    """The stream of events to read, and a line about it if others were possible.

    Args:
        streams: The topics whose type is one of events.
        named: The topic that the caller names.
        has_events: Whether the messages of a readable stream hold any event.
        topics: All topics, for error messages.
        where: The bag.

    Raises:
        NotEventsError: No stream can be read.
        ConfigError: The named topic does not exist or is no stream of events.
        DataError: The named topic has no messages.
    """
    if named is not None:
        return _named(streams, named, "events", "--topic", topics, where), ()
    readable = [stream for stream in streams if not stream.trouble]
    if not readable:
        raise NotEventsError(
            "events in an unsupported encoding" if streams else "no events in this bag",
            where=where,
            found=", ".join(f"{s.name}: {s.trouble}" for s in streams) or listed(topics),
            expected="a topic of dvs_msgs, prophesee_event_msgs or event_camera_msgs",
        )
    filled = [s for s in readable if s.topic.messages and (len(readable) == 1 or has_events(s))]
    chosen = min(filled or readable, key=lambda stream: stream.name)
    if len(streams) == 1:
        return chosen, ()
    others = [
        (other.name, other.trouble or ("" if other in filled else "empty"))
        for other in streams
        if other is not chosen
    ]
    why = "the first by name" if len(filled) > 1 else "the only one with events"
    return chosen, (f"events of topic {chosen.name}, {why}; not of {_joined(others)} (--topic)",)


def choose_images(
    streams: Sequence[Stream],
    events: Stream,
    named: str | None,
    topics: dict[str, Topic],
    where: Path,
) -> tuple[Stream | None, tuple[str, ...]]:
    """The stream of images that belongs to the events, and lines about the choice.

    Photographs come before other pictures, those of the events' own camera before others: of the
    same namespace, with the same words in their names, the same frame_id, the sensor's size.

    Args:
        streams: The topics whose type is one of images.
        events: The stream of events.
        named: The topic that the caller names.
        topics: All topics, for error messages.
        where: The bag.

    Raises:
        ConfigError: The named topic does not exist or is no stream of images that can be read.
        DataError: The named topic has no messages.
    """
    if named is not None:
        return _named(streams, named, "images", "--image-topic", topics, where), ()
    usable = [s for s in streams if s.topic.messages and not s.trouble]
    rejected = [(s.name, s.trouble or "empty") for s in streams if s not in usable]
    if not usable:
        line = f"no images are read: {_joined(rejected)}"
        return None, (line,) if rejected else ()
    chosen = min(usable, key=lambda stream: _distance(stream, events))
    lines = []
    others = [(other.name, "") for other in usable if other is not chosen] + rejected
    if others:
        lines.append(f"images of topic {chosen.name}; not of {_joined(others)} (--image-topic)")
    if not _same_camera(chosen, events):
        lines.append(
            f"images of topic {chosen.name} may be of another camera than the events of "
            f"{events.name}: their names differ; if so, prepare needs --calibration or "
            "--homography"
        )
    if not _photographs(chosen, events):
        lines.append(f"images of topic {chosen.name} are no photographs, by its name")
    return chosen, tuple(lines)


def listed(topics: dict[str, Topic]) -> str:
    """All topics with type and number of messages, in one line."""
    return ", ".join(f"{topic.name} ({topic.described})" for topic in topics.values()) or "no topic"


def _named(
    streams: Sequence[Stream],
    name: str,
    what: str,
    flag: str,
    topics: dict[str, Topic],
    where: Path,
) -> Stream:
    """The stream of a topic that the caller names."""
    for stream in streams:
        if stream.name.strip("/") == name.strip("/"):
            if not stream.topic.messages:
                found = listed(topics)
                raise DataError(f"topic {name} has no messages", where=where, found=found)
            if stream.trouble:
                raise ConfigError(
                    f"the {what} of topic {name} cannot be read",
                    where=f"{where}, {flag}",
                    found=stream.trouble,
                )
            return stream
    raise ConfigError(
        f"no {what} under this name",
        where=f"{where}, {flag} {name}",
        found=listed(topics),
        expected=", ".join(stream.name for stream in streams) or f"a topic of {what}; none is here",
    )


def _distance(images: Stream, events: Stream) -> tuple[bool, int, int, bool, bool, bool, int, str]:
    """Sort key: less for images that belong to the events more likely."""
    words = _words(images.name)
    own = [word for word in _words(events.name) if word not in ("event", "events")]
    return (
        not _photographs(images, events),
        -_shared(images.name, events.name),
        -sum(word in words for word in own),
        images.frame != events.frame,
        images.size != events.size,
        any(word in RECTIFIED for word in words),
        images.name.count("/"),  # a compressed topic is below the raw one
        images.name,
    )


def _photographs(images: Stream, events: Stream) -> bool:
    """Whether no word in the name, below what it shares with the events, says otherwise."""
    below = _parts(images.name)[_shared(images.name, events.name) :]
    return not any(word in OTHER_PICTURES for word in _words("/".join(below)))


def _same_camera(images: Stream, events: Stream) -> bool:
    """Whether the names of the topics, or at the root frame_id, say that one camera made both."""
    parents, words = _parts(events.name)[:-1], (_words(events.name), _words(images.name))
    if any("left" in one and "right" in other for one, other in (words, words[::-1])):
        return False
    if parents:
        return _shared(images.name, events.name) == len(parents)
    return bool(images.frame) and images.frame == events.frame


def _shared(one: str, other: str) -> int:
    """Number of leading parts that the names of two topics share."""
    pairs = list(zip(_parts(one)[:-1], _parts(other)[:-1], strict=False))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part]


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower())


def _joined(streams: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({why})" if why else name for name, why in streams)
