"""Where settings come from: defaults < preset < YAML file < flags; and what is refused."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from scaleevent.errors import ConfigError

YAML_BYTES = 1_000_000


def parse_size(value: object) -> object:
    """`480x640` (rows x columns) or a pair to (height, width)."""
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
            return int(parts[0]), int(parts[1])
        raise ValueError("expected rows x columns, such as 480x640")
    return value


def parse_share(value: object) -> object:
    """`0.1%` or `0.001` to a number."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


class Settings(BaseModel):
    """Base of all command settings: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=Settings)


def load_config(
    model: type[Model],
    flags: dict[str, Any],
    file: Path | None = None,
    preset: dict[str, Any] | None = None,
) -> Model:
    """Merge the sources of settings and check them.

    Args:
        model: The command's settings.
        flags: What was given on the command line; None means not given.
        file: YAML file of settings.
        preset: Values of a preset, weaker than the file.

    Raises:
        ConfigError: An unknown key (the nearest known one is named) or a value out of range.
    """
    merged = dict(preset or {})
    read = _read_yaml(file) if file else {}
    for key in read:
        if key not in model.model_fields:
            near = get_close_matches(key, model.model_fields, 1)
            raise ConfigError(
                "unknown setting",
                where=f"{file}, key {key}",
                expected=f"one of {', '.join(model.model_fields)}",
                hint=f"did you mean {near[0]}?" if near else None,
            )
    merged |= read
    merged |= {key: value for key, value in flags.items() if value is not None}
    try:
        return model(**merged)
    except ValidationError as error:
        raise ConfigError(
            "settings cannot be used", found="; ".join(map(_told, error.errors()[:20]))
        ) from None


def _told(problem: Any) -> str:
    """One problem of validation: which setting, what is wrong, what was given."""
    key = ".".join(map(str, problem["loc"]))
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key} is not given"
    return f"{key}: {text}, not {problem['input']!r}" if key else text


def dump_yaml(settings: Settings, exclude: set[str] | None = None) -> str:
    """The settings as YAML, one key a line; `load_config` reads it back."""
    return yaml.safe_dump(settings.model_dump(mode="json", exclude=exclude), sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases and without a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"key {name} is given twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError("cannot read the settings file", where=path, found=error) from None
    if len(data) > YAML_BYTES:
        raise ConfigError("settings file too large", where=path, found=f"{len(data)} bytes")
    try:
        value = yaml.load(data, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(
            "cannot read the YAML settings", where=f"{path}{line}", found=error.problem
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError("cannot read the YAML settings", where=path, found=error) from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError("settings must be `key: value` lines", where=path)
    return value
