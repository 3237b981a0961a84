"""What labels mean: the user's `classes.yaml`, and what a store or a task model says of its own.

Nothing here imports numpy or torch.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import BeforeValidator

from scaleevent.config.benchmarks import IGNORE
from scaleevent.config.settings import described_problems, nearest
from scaleevent.errors import ConfigError, DataError
from scaleevent.system.documents import YAML_BYTES, MalformedError, parse_yaml, read_bounded
from scaleevent.system.files import Json
from scaleevent.system.refusals import refusal

MOST_CLASSES = IGNORE  # ids are stored in 8 bits, of which one means no class
EXAMPLE = "classes: [{name: road, colour: [128, 64, 128]}, {name: car, colour: '#00008e'}]"
_GOLDEN = 0.618034  # of the circle of hues, between classes whose colours nobody chose

Byte = Annotated[int, Field(ge=0, le=255)]
Colour = Annotated[list[Byte], Field(min_length=3, max_length=3)]  # red, green, blue
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")]
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _as_entry(value: object) -> object:
    """A bare name as an entry."""
    return {"name": value} if isinstance(value, str) else value


def _as_colour(value: object) -> object:
    """`#80ff00` as red, green and blue."""
    if not isinstance(value, str):
        return value
    digits = value.removeprefix("#")
    if len(digits) != 6 or not all(one in "0123456789abcdefABCDEF" for one in digits):
        raise ValueError("expected [red, green, blue] or '#rrggbb'")
    return [int(digits[at : at + 2], 16) for at in (0, 2, 4)]


class ClassEntry(_Checked):
    """One class of a `classes.yaml`."""

    name: Name
    colour: Annotated[Colour, BeforeValidator(_as_colour)] | None = Field(
        default=None, validation_alias=AliasChoices("colour", "color")
    )


def _distinct(names: list[str]) -> None:
    """Refuse a name that two classes have."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"classes of the same name: {', '.join(twice)}")


class ClassesFile(_Checked):
    """A `classes.yaml`: the classes in the order of their numbers, and what ids in files mean.

    Without `mapping` the ids in label files are these numbers, from 0. With it, they are its keys,
    and its values the classes by name, or `ignore`.
    """

    classes: Annotated[
        list[Annotated[ClassEntry, BeforeValidator(_as_entry)]],
        Field(min_length=2, max_length=MOST_CLASSES),
    ]
    ignore: Byte | list[Byte] = IGNORE  # ids of pixels that do not count
    mapping: dict[Byte, str] = {}
    # colours of pixels that do not count, in pictures whose colours are those of the classes
    ignore_colours: list[Annotated[Colour, BeforeValidator(_as_colour)]] = []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse names given twice, unknown ones, and an id that is both a class and ignored."""
        names = [one.name for one in self.classes]
        _distinct(names)
        for key, name in self.mapping.items():
            if name not in (*names, "ignore"):
                raise ValueError(f"mapping {key}: no such class, {name}{nearest(name, names)}")
        ids = range(len(names)) if not self.mapping else self.mapping
        both = [key for key in self.ignored if key in ids and self.mapping.get(key) != "ignore"]
        if both:
            raise ValueError(f"ids that are a class and ignored: {', '.join(map(str, both))}")
        return self

    @property
    def ignored(self) -> list[int]:
        """Ids of pixels that do not count."""
        return self.ignore if isinstance(self.ignore, list) else [self.ignore]

    @property
    def by_id(self) -> dict[int, int]:
        """The class of every id that a file may hold, `IGNORE` for no class."""
        numbers = {one.name: number for number, one in enumerate(self.classes)}
        numbers["ignore"] = numbers.get("ignore", IGNORE)
        found = {key: numbers[name] for key, name in self.mapping.items()}
        if not self.mapping:
            found = {number: number for number in range(len(self.classes))}
        return found | dict.fromkeys(self.ignored, IGNORE)

    @property
    def by_colour(self) -> dict[tuple[int, ...], int]:
        """The class of every colour that was given, `IGNORE` for no class.

        A colour of two classes tells neither, and is left out.
        """
        given = [tuple(one.colour) for one in self.classes if one.colour is not None]
        found = {
            tuple(one.colour): number
            for number, one in enumerate(self.classes)
            if one.colour is not None and given.count(tuple(one.colour)) == 1
        }
        return found | {tuple(colour): IGNORE for colour in self.ignore_colours}

    @property
    def named(self) -> list[NamedClass]:
        """The classes; those without a colour get one of their own."""
        return [
            NamedClass(name=one.name, colour=one.colour or _spread_colour(number))
            for number, one in enumerate(self.classes)
        ]


class NamedClass(_Checked):
    """A class of a store or a task model."""

    name: Name
    colour: Colour


class LabelFacts(_Checked):
    """What the labels of a store, or the output of a task model, mean."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    task: Literal["segmentation", "depth", "flow"]
    classes: list[NamedClass] = Field(default=[], max_length=MOST_CLASSES)  # by number
    ignore: int = IGNORE  # number of pixels that do not count; of segmentation
    max_depth: float | None = Field(default=None, gt=0, le=100_000)  # metres; of depth
    split: dict[str, Part] = {}  # of a store: recording to part

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Refuse a task without what belongs to it."""
        if self.task == "segmentation":
            if len(self.classes) < 2:
                raise ValueError("segmentation without classes")
            _distinct([one.name for one in self.classes])
        if self.task == "depth" and self.max_depth is None:
            raise ValueError("depth without max_depth")
        return self

    def to_json(self) -> Json:
        """What belongs to the task."""
        facts: Json = self.model_dump(exclude_defaults=True)
        return facts

    def same_meaning(self, other: LabelFacts) -> bool:
        """Whether labels of both may be mixed."""
        return self.model_copy(update={"split": {}}) == other.model_copy(update={"split": {}})


def _spread_colour(number: int) -> list[int]:
    """A colour for a class of this number: neighbours differ in hue and brightness."""
    hue, value = (number * _GOLDEN) % 1.0, (0.95, 0.7, 0.5)[number % 3]
    return [round(255 * one) for one in colorsys.hsv_to_rgb(hue, 0.75, value)]


def read_classes(path: Path) -> ClassesFile:
    """A user's `classes.yaml`.

    Raises:
        ConfigError: Not YAML, or not such a file; every problem is named.
    """
    value = _read(path)
    try:
        return ClassesFile.model_validate(value)
    except ValidationError as error:
        raise ConfigError(
            "the file of classes cannot be used", where=path, found=described_problems(error),
            expected=EXAMPLE,
            hint="`ignore: 255` names ids that do not count, `mapping: {7: road}` ids that are not "
            "the places of the classes in this list",
        ) from None  # fmt: skip


def read_split(path: Path) -> dict[str, Part]:
    """The part of every recording that a user's YAML file lists, `train: [a, b]` and so on.

    Raises:
        ConfigError: Not such a file, or a recording in two parts.
    """
    value, found = _read(path), dict[str, Part]()
    listed = value if isinstance(value, dict) else {}
    names = [name for part in listed.values() if isinstance(part, list) for name in part]
    lists = all(isinstance(part, list) for part in listed.values())
    if not names or not lists or not all(isinstance(one, str | int) for one in names):
        raise ConfigError(
            "not a split into parts", where=path,
            expected="train: [NAME, NAME] and test: [NAME], names of recordings",
        )  # fmt: skip
    if unknown := [str(part) for part in listed if part not in PARTS]:
        told = ", ".join(f"{part}{nearest(part, PARTS)}" for part in unknown)
        raise ConfigError("no such part of a split", where=path, found=told,
                          expected=", ".join(PARTS))  # fmt: skip
    for part in PARTS:
        for name in map(str, listed.get(part, ())):
            if name in found:
                raise ConfigError("a recording in two places of a split", where=path, found=name)
            found[name] = part
    return found


def _read(path: Path) -> object:
    try:
        return parse_yaml(read_bounded(path, YAML_BYTES))
    except OSError as error:
        unread = ConfigError("cannot read the file", where=path, found=error.strerror or error)
        raise refusal(error, path) or unread from None
    except MalformedError as error:
        raise ConfigError("cannot read the YAML file", where=error.at(path), found=error) from None


def checked_facts(value: object, where: object) -> LabelFacts:
    """What a file says of its labels.

    Raises:
        DataError: Values that cannot be.
    """
    try:
        return LabelFacts.model_validate(value)
    except ValidationError as error:
        raise DataError(
            "what is said of the labels cannot be", where=where, found=described_problems(error)
        ) from None
