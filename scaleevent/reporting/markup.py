"""HTML by construction: whatever is not built here is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

VOID = ("img", "meta", "link")  # elements without content
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def markup(value: object) -> Markup:
    """A value as HTML: text is escaped, a list joined, None nothing; what is HTML stays so."""
    if value is None:
        return Markup()
    if isinstance(value, Markup):
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return Markup("".join(map(markup, value)))
    return Markup(escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; attributes that are None or False are left out.

    Args:
        name: Of the element.
        children: As `markup` takes them.
        attributes: By name, where ``class_`` is class and ``data_x`` is data-x.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{markup(str(value))}"')
    opened = f"<{' '.join(parts)}>"
    return Markup(opened if name in VOID else f"{opened}{markup(children)}</{name}>")
