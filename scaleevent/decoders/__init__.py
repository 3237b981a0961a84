"""Decoders: adapters from encoder features to a task's prediction, one origin a module."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from scaleevent.config.catalog import DECODERS, DEFAULT_DECODERS
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError
from scaleevent.tasks.task import Task


def build_decoder(
    name: str | None, encoder: Encoder, task: Task, options: Mapping[str, str] | None = None
) -> Decoder:
    """A fresh decoder for a task.

    Args:
        name: Key of `DECODERS`; None takes the task's default.
        encoder: It sits on.
        task: With its classes or largest depth.
        options: Of the decoder, see its `Options`.

    Raises:
        ConfigError: A decoder of another task, one that cannot sit on this encoder, or an option
            that it does not have.
    """
    name = name or DEFAULT_DECODERS[task.name]
    part = DECODERS[name]
    if task.name not in part.tasks:
        raise ConfigError(
            "this decoder is for another task",
            where="--decoder",
            found=f"{name}: {', '.join(part.tasks)}",
            expected=task.name,
        )
    kind: type[Decoder] = part.load()
    try:
        chosen = kind.Options.model_validate(options or {})
    except ValidationError as error:
        wrong = ", ".join(f"{one['loc'][0]}={one['input']}" for one in error.errors())
        has = [f"{key}: {field.description}" for key, field in kind.Options.model_fields.items()]
        raise ConfigError(
            f"the decoder {name} has no such option or value",
            where="--decoder-option",
            found=wrong,
            expected="; ".join(has) or "no options",
        ) from None
    return kind.for_task(encoder, task, chosen)


def decoder_name(decoder: Decoder) -> str:
    """The key of `DECODERS` under which a decoder is found."""
    where = f"{type(decoder).__module__}:{type(decoder).__qualname__}"
    return next(name for name, part in DECODERS.items() if part.where == where)
