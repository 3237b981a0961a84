"""Where settings come from: defaults < preset < YAML file < --set < flags; what is refused."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from scaleevent.config.catalog import Part
from scaleevent.errors import ConfigError
from scaleevent.system.documents import (
    YAML_BYTES,
    MalformedError,
    parse_json,
    parse_yaml,
    read_bounded,
)
from scaleevent.system.files import Json, check_folder, claimed_folder, write_bytes, write_json
from scaleevent.system.launchers import first_of_run
from scaleevent.system.locations import weights_within, without_passwords
from scaleevent.system.refusals import refusal
from scaleevent.system.reports import remark

ORIGINS = "origins.json"  # beside config.yaml: where each setting comes from
LARGEST_SIDE = 65_536  # pixels
_NAMED = 3  # parts that a setting is for, which are named even where fewer others are


Checkpoint = Annotated[Path, AfterValidator(weights_within)]  # a file, or the run that wrote it
Weights = Annotated[str, AfterValidator(weights_within)]  # the same, or another name of weights


@dataclass(frozen=True, eq=False)
class OneOf:
    """Annotation of a text that must be one of some names, which may grow."""

    names: Collection[str]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: str) -> str:
        """Return a known name; refuse another one, naming the nearest."""
        if value in self.names:
            return value
        raise ValueError(f"expected one of {', '.join(self.names)}{nearest(value, self.names)}")


def _cleaned(value: object) -> object:
    """A setting as JSON has it, whose addresses name neither user nor password."""
    if isinstance(value, str):
        return without_passwords(value)
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(one) for key, one in value.items()}
    return value


def nearest(value: str, names: Collection[str]) -> str:
    """A question that names the most similar name, or nothing."""
    close = get_close_matches(value, names, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def parse_size(value: object) -> object:
    """`480x640` (rows x columns) or a pair to (height, width)."""
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise ValueError("expected rows x columns, such as 480x640")
        value = int(parts[0]), int(parts[1])
    if isinstance(value, tuple | list) and any(
        isinstance(side, int) and not 1 <= side <= LARGEST_SIDE for side in value
    ):
        raise ValueError(f"expected 1 to {LARGEST_SIDE} rows and columns")
    return value


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches for an input of this size in pixels.

    Raises:
        ConfigError: The size is not a positive multiple of the patch.
    """
    if height < patch or width < patch or height % patch or width % patch:
        nearest = [max(patch, round(size / patch) * patch) for size in (height, width)]
        raise ConfigError(
            "the input size does not divide into patches",
            found=f"height {height}, width {width}",
            expected=f"multiples of {patch} pixels",
            hint=f"nearest: height {nearest[0]}, width {nearest[1]}",
        )
    return height // patch, width // patch


def parse_fraction(value: object) -> object:
    """`0.1%` or `0.001` to a number."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


class Settings(BaseModel):
    """Base of all command settings: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_serializer(mode="wrap", when_used="json")
    def _for_records(self, serialize: SerializerFunctionWrapHandler) -> Json:
        """What is written of settings, whichever record it is, holds no password of an address."""
        record: Json = serialize(self)
        return {key: _cleaned(value) for key, value in record.items()}

    @cached_property
    def origins(self) -> dict[str, str]:
        """Where each setting comes from: default, preset NAME, file PATH, --set, flag; or code.

        `load_config` knows it; of settings that were made otherwise, only which were given.
        """
        return {
            key: "given" if key in self.model_fields_set else "default"
            for key in type(self).model_fields
        }

    def with_origins(self) -> Json:
        """The settings, and where each comes from, for a report; JSON-able."""
        return {"settings": self.model_dump(mode="json"), "origins": self.origins}

    def check(self) -> None:
        """Refuse in milliseconds what the command would refuse after it has imported torch.

        Raises:
            ScaleEventError: As the command does.
        """


class OutputSettings(Settings):
    """A command with an output folder, which belongs to one process at a time."""

    KIND: ClassVar[str]  # of output: what a folder of it is marked with

    out: Path | None = Field(default=None, description="output folder")
    overwrite: bool = Field(default=False, description="empty the output folder first")
    take_over: bool = Field(
        default=False, description="the run on another host that holds the output folder is dead"
    )

    def check(self) -> None:
        """Also the folder, unless a process beside this one may have claimed it already."""
        super().check()
        if self.out is not None and first_of_run():
            check_folder(self.out, self.KIND, **self._consent)

    def claimed(self) -> AbstractContextManager[None]:
        """The output folder, owned for a block; nothing where none was asked for.

        Raises:
            EnvironmentProblem: See `claimed_folder`.
        """
        if self.out is None:
            return nullcontext()
        return claimed_folder(self.out, self.KIND, **self._consent)

    @property
    def _consent(self) -> dict[str, bool]:
        return {
            "resume": getattr(self, "resume", False),
            "overwrite": self.overwrite,
            "take_over": self.take_over,
        }


class PartSettings(Settings):
    """Settings of a command whose further keys belong to a part chosen by name.

    The part's module holds a subclass `Settings`. Calling the base gives that subclass:
    ``PrepareConfig(name="street", scenes=8)`` are the settings of `street`.
    """

    parts: ClassVar[Mapping[str, Part]] = {}  # by name
    chooser: ClassVar[str]  # the key that names the part
    noun: ClassVar[str]  # the key that names the part

    def __new__(cls, **values: Any) -> Self:
        """An instance of the chosen part's settings."""
        return super().__new__(cls.of_part(values))

    @classmethod
    def of_part(cls, values: Mapping[str, Any]) -> type[Self]:
        """The settings class of the part that `values` name; this one where they name none.

        Raises:
            ConfigError: No such part; the most similar name is given.
        """
        default = cls.model_fields[cls.chooser].default if cls.model_fields else None
        name = values.get(cls.chooser, default)
        if PartSettings not in cls.__bases__ or not isinstance(name, str):
            return cls
        if name not in cls.parts:
            raise ConfigError(
                f"unknown {cls.noun}{nearest(name, cls.parts)}",
                where=cls.chooser, found=name, expected=", ".join(cls.parts),
            )  # fmt: skip
        chosen: type[Self] = cls.parts[name].load().Settings
        return chosen

    @classmethod
    def every_part(cls) -> list[type[Self]]:
        """The settings classes of all parts, each once."""
        return [*dict.fromkeys(part.load().Settings for part in cls.parts.values())]

    @classmethod
    def owners(cls, key: str) -> list[str]:
        """The parts that have a setting of this name."""
        return [
            name for name, part in cls.parts.items() if key in part.load().Settings.model_fields
        ]


_SHOWN = 100  # characters of a wrong value in a message
_ALIGNED = 40  # columns after which an origin stands, but for longer lines

Model = TypeVar("Model", bound=Settings)


def load_config(
    model: type[Model],
    flags: dict[str, Any],
    file: Path | None = None,
    preset: dict[str, Any] | None = None,
    assigned: Sequence[str] = (),
) -> Model:
    """Merge preset, YAML file and command line, weakest first; check them.

    Args:
        model: Of the settings.
        flags: By name; None means not given.
        file: YAML.
        preset: By name, with the preset's own name as `preset`.
        assigned: `NAME=VALUE` of --set, see `assignments`.

    Raises:
        ConfigError: An unknown key (the nearest known one is named) or a value out of range.
    """
    read = read_yaml(file) if file else {}
    given = {key: value for key, value in flags.items() if value is not None}
    weaker = (preset or {}) | read
    sets = assignments(assigned, weaker)
    merged = weaker | sets | given
    if issubclass(model, PartSettings):
        model = model.of_part(merged)
    for key in merged:
        if key not in model.model_fields:
            where = f"--{key.replace('_', '-')}"
            where = (
                f"--set {key}" if key in sets else f"{file}, key {key}" if key in read else where
            )
            raise unknown_setting(model, key, where)
    try:
        settings = model(**merged)
    except ValidationError as error:
        lacking = [str(part["loc"][0]) for part in error.errors() if part["type"] == "missing"]
        expected = "; ".join(f"{key}: {_wanted(model, key)}" for key in lacking)
        raise ConfigError(
            "settings cannot be used",
            found=described_problems(error), expected=expected or None,
        ) from None  # fmt: skip
    if preset and read.get("preset") not in (None, preset.get("preset")) and first_of_run():
        remark(
            f"{file} is of preset {read['preset']}: its settings overrule those of preset "
            f"{preset['preset']}"
        )
    origins = dict.fromkeys(type(settings).model_fields, "default")
    if preset and "preset" in preset:
        origins |= dict.fromkeys(preset, f"preset {preset['preset']}")
    origins |= dict.fromkeys(read, f"file {file}")
    for key in sets:  # parts of a mapping may come from both
        partly = key in weaker and any(text.startswith(f"{key}.") for text in assigned)
        origins[key] = f"{origins[key]}, --set" if partly else "--set"
    origins |= dict.fromkeys(given, "flag")
    vars(settings)["origins"] = origins
    return settings


def assignments(texts: Sequence[str], weaker: Mapping[str, Any] = MappingProxyType({})) -> Json:
    """The settings that --set names: `lr=1e-4`, or `film.sensor=davis346` for a part of a mapping.

    A value is text, as a flag's is, but for JSON: lists, mappings, text in quotes, and null. What
    is set later counts.

    Args:
        texts: In their order.
        weaker: Settings whose mappings keep the parts that are not named.

    Raises:
        ConfigError: No `NAME=VALUE`, unreadable JSON, or a part of what has none.
    """
    found: Json = {}
    for text in texts:
        name, equals, value = text.partition("=")
        key, dot, part = name.partition(".")
        if not equals or not key or dot and not part:
            raise ConfigError(
                "not a setting and its value", where="--set", found=text,
                expected="NAME=VALUE, such as seed=1 or data='[\"a\", \"b\"]'",
            )  # fmt: skip
        if not dot:
            found[key] = _assigned(value, text)
            continue
        whole = found.get(key, weaker.get(key, {}))
        if not isinstance(whole, dict):
            raise ConfigError(
                f"{key} is no mapping where it is set, so it has no parts to set",
                where="--set", found=text,
            )  # fmt: skip
        found[key] = whole | {part: _assigned(value, text)}
    return found


def _assigned(value: str, text: str) -> object:
    if value[:1] not in ("[", "{", '"') and value != "null":
        return value
    try:
        return parse_json(os.fsencode(value))
    except MalformedError as error:
        raise ConfigError(
            "cannot read the JSON value", where=f"--set {text}", found=error
        ) from None


def unknown_setting(model: type[Settings], key: str, where: str) -> ConfigError:
    """The error for a setting that a command does not have, or only with another part."""
    if issubclass(model, PartSettings) and (owners := model.owners(key)):
        others = [name for name in model.parts if name not in owners]
        if len(owners) <= max(len(others), _NAMED):
            return ConfigError(f"{key} is only for {' and '.join(owners)}", where=where)
        told = f"{key} is for every {model.noun} but {', '.join(others)}"
        return ConfigError(told, where=where)
    near = get_close_matches(key, model.model_fields, 1)
    return ConfigError(
        "unknown setting",
        where=where,
        expected=f"one of {', '.join(model.model_fields)}",
        hint=f"did you mean {near[0]}?" if near else None,
    )


def _wanted(model: type[Settings], key: str) -> str:
    """What a setting is, and the names to choose from."""
    field = model.model_fields[key]
    names = [name for part in field.metadata if isinstance(part, OneOf) for name in part.names]
    return f"{field.description}{', one of ' if names else ''}{', '.join(names)}"


def described_problems(error: ValidationError) -> str:
    """The first problems of validation: which value, what is wrong, what was given."""
    return "; ".join(map(_describe, error.errors()[:20]))


def _describe(problem: ErrorDetails) -> str:
    key = ".".join(map(str, problem["loc"]))
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key} is not given"
    if not key or isinstance(problem["input"], dict):
        return f"{key}: {text}" if key else text
    if problem["type"] == "literal_error":
        names = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        text = f"expected one of {', '.join(names)}{nearest(str(problem['input']), names)}"
    if problem["type"] == "list_type" and isinstance(problem["input"], str):
        text += f", such as {json.dumps([problem['input'][:_SHOWN]])}"
    given = repr(problem["input"])
    return f"{key}: {text}, not {given if len(given) <= _SHOWN else f'{given[:_SHOWN]}..'}"


def dump_yaml(settings: Settings, exclude: set[str] | None = None) -> str:
    """The settings as YAML, one key a line; `load_config` reads it back."""
    return yaml.safe_dump(settings.model_dump(mode="json", exclude=exclude), sort_keys=False)


def explained_yaml(settings: Settings) -> str:
    """The settings as YAML that `load_config` reads back, a key a line, each with its origin.

    What is at its default is a comment, so that it is not given when the text is read: some
    settings mean something else once they are given, such as a window where a model has its own.
    """
    width = 0
    lines = []
    for key, value in settings.model_dump(mode="json").items():
        default = settings.origins[key] == "default"
        line = f"{'# ' if default else ''}{key}: {_on_one_line(value)}"
        width = max(width, min(len(line), _ALIGNED))
        lines.append((line, settings.origins[key]))
    return "".join(f"{line:{width}}  # {origin}\n" for line, origin in lines)


def _on_one_line(value: object) -> str:
    """A value as YAML without a line break of any kind; text that holds one is escaped."""
    for style in (None, '"'):
        text: str = yaml.safe_dump(
            value, default_flow_style=True, sort_keys=False, width=math.inf,
            default_style=style, allow_unicode=style is None,
        )  # fmt: skip
        text = text.removesuffix("\n").removesuffix("\n...")
        if len(text.splitlines()) == 1:
            break
    return text


def keep_settings(settings: Settings, folder: Path, exclude: set[str] | None = None) -> None:
    """Write config.yaml, and beside it where each setting comes from."""
    write_bytes(Path(folder) / "config.yaml", dump_yaml(settings, exclude).encode())
    write_json(
        Path(folder) / ORIGINS,
        {key: one for key, one in settings.origins.items() if key not in (exclude or ())},
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a settings file.

    Raises:
        ConfigError: Unreadable, too large, or not plain `key: value` lines.
    """
    try:
        value = parse_yaml(read_bounded(path, YAML_BYTES))
    except OSError as error:
        found = error.strerror or error
        unread = ConfigError("cannot read the settings file", where=path, found=found)
        raise refusal(error, path) or unread from None
    except MalformedError as error:
        raise ConfigError(
            "cannot read the YAML settings", where=error.at(path), found=error
        ) from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError("settings must be `key: value` lines", where=path)
    return value
