"""The rule for windows as stores and checkpoints keep it: as settings, and in words."""

from __future__ import annotations

import re

from pydantic import ValidationError

from scaleevent.config.data import WindowSettings
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pairing import window_rule
from scaleevent.system.files import Json


def window_text(settings: Json) -> str:
    """The window rule of a store's settings."""
    rule, longest = settings.get("window"), settings.get("window_ms")
    if rule == "time":
        return f"time, {longest or 50:g} ms"
    if rule == "count":
        return f"count, {settings.get('window_events'):g} events a pixel"
    if rule == "adaptive":
        quantile, cell = settings.get("quantile"), settings.get("cell")
        return f"adaptive, quantile {quantile:g}, cell {cell}, at most {longest or 200:g} ms"
    return "the span of the label"


def window_of_text(text: str | None) -> Json | None:
    """The settings that `window_text` tells; None of any other text, or of several rules."""
    found = re.fullmatch(
        r"(?P<time>time), (?P<ms>[0-9.e+-]+) ms|(?P<count>count), (?P<events>[0-9.e+-]+) events a "
        r"pixel|(?P<adaptive>adaptive), quantile (?P<quantile>[0-9.e+-]+), cell (?P<cell>[0-9]+), "
        r"at most (?P<longest>[0-9.e+-]+) ms",
        text or "",
    )
    if found is None:
        return None
    if found["time"]:
        return {"window": "time", "window_ms": float(found["ms"])}
    if found["count"]:
        return {"window": "count", "window_events": float(found["events"])}
    return {
        "window": "adaptive", "window_ms": float(found["longest"]),
        "quantile": float(found["quantile"]), "cell": int(found["cell"]),
    }  # fmt: skip


def stored_rule(description: Json) -> tuple[WindowRule, str] | None:
    """The rule for windows that a checkpoint was trained with, and where it is stored.

    None where it is not stored: in weights of other origins, and older encoders; of older task
    models the protocol stamp tells it.

    Args:
        description: What the checkpoint says of itself.
    """
    stamp = description.get("stamp")
    text = stamp.get("window") if isinstance(stamp, dict) else None
    for stored, where in (
        (description.get("window"), "the checkpoint"),
        (window_of_text(text if isinstance(text, str) else None), "the checkpoint's stamp"),
    ):
        if isinstance(stored, dict):
            try:
                return window_rule(WindowSettings(**stored)), where
            except (TypeError, ValidationError):  # of a later version
                continue
    return None
