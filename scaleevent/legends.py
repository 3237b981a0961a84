"""What the colours of pictures mean: classes, metres, directions, amounts.

Every scale is coloured by the function that draws the pictures themselves, so both always agree.
A `Legend` is drawn by `legend_strip`, as wide as the picture it explains; `panel(..., keys=[...])`
puts some below the pictures of a sheet, see `drawn_keys`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from scaleevent.panels import FADED, GAP, INK, NARROWEST, TEXT, font, wrapped, write
from scaleevent.pictures import BLUE, HATCH, RED, draw_amount, draw_depth, draw_flow

STEPS = 256  # colours of a scale
WHEEL = 96  # diameter of the colour wheel in pixels
TICKS_M = (1, 2, 5, 10, 20, 50, 100, 200)
Colour = tuple[int, int, int]


class Legend(NamedTuple):
    """What the colours of a picture mean."""

    title: str
    swatches: Sequence[tuple[str, Colour]] = ()  # names and their colours
    ramp: np.ndarray | None = None  # (1, n, 3) uint8, left to right
    ticks: Sequence[tuple[float, str]] = ()  # along the ramp, 0 to 1; the first and last are kept
    wheel: np.ndarray | None = None  # (h, w, 3) uint8 of directions, drawn as it is


def class_legend(
    names: Sequence[str], palette: np.ndarray, ignored: str | None = None, title: str = "Classes"
) -> Legend:
    """The colours of `draw_classes`.

    Args:
        names: Of the classes, by id.
        palette: Their colours, (K, 3) uint8.
        ignored: What black means, where it occurs.
        title: Written above them.
    """
    colours = [(int(red), int(green), int(blue)) for red, green, blue in palette.tolist()]
    entries = list(zip(names, colours, strict=True))
    return Legend(title, [*entries, (ignored, (0, 0, 0))] if ignored else entries)


def event_legend() -> Legend:
    """The colours of `draw_events` and `draw_voxel`."""
    return Legend("Events", [("brighter", RED), ("darker", BLUE), ("no event", (255, 255, 255))])


def hatch_legends(counted: Iterable[np.ndarray | None]) -> list[Legend]:
    """What the lines of `hatched` mean: one legend, or none where these masks leave out nothing."""
    if all(mask is None or mask.all() for mask in counted):
        return []
    return [Legend("Hatched", [("the image does not show it: it counts for nothing", HATCH)])]


def depth_legend(
    farthest: float = 100.0, nearest: float = 2.0, title: str = "Depth in metres; black: unknown"
) -> Legend:
    """The colours of `draw_depth` over a scale in metres, with equal steps for equal factors.

    Args:
        farthest: Where the scale ends, in metres.
        nearest: As for `draw_depth`: nearer has the same colour.
        title: Written above it.
    """
    farthest = max(farthest, 2 * nearest)
    span = np.log(farthest / nearest)
    metres = nearest * np.exp(np.linspace(0, span, STEPS))
    inside = [at for at in TICKS_M if nearest < at < farthest]
    ticks = [(float(np.log(at / nearest) / span), f"{at:g}") for at in inside]
    ends = [(0.0, f"{nearest:g} or less"), *ticks, (1.0, f"{farthest:.3g} m")]
    return Legend(title, ramp=draw_depth(metres[None], nearest), ticks=ends)


def flow_legend(largest: float, title: str = "Motion") -> Legend:
    """The colour wheel of `draw_flow`: which way things move, and how far.

    Args:
        largest: As for `draw_flow`: pixels of full colour, at the rim.
        title: Its beginning.
    """
    side = (np.arange(WHEEL) + 0.5) * (2 / WHEEL) - 1
    right, down = np.meshgrid(side, side)
    wheel = draw_flow(np.stack([right, down]) * largest, largest)
    wheel[np.hypot(right, down) > 1] = 255
    told = f"colour is direction; white none, rim {largest:.3g} px or more; black: unknown"
    return Legend(f"{title}: {told}", wheel=wheel)


def amount_legend(title: str, low: str, high: str, middle: str = "") -> Legend:
    """The colours of `draw_amount` over a scale with words at its ends, and in its middle."""
    marks = [(0.0, low), *([(0.5, middle)] if middle else []), (1.0, high)]
    return Legend(title, ramp=draw_amount(np.linspace(0, 1, STEPS)[None]), ticks=marks)


def drawn_keys(*legends: Legend) -> list[Image.Image]:
    """Legends as `panel` puts them below the pictures of a sheet."""
    return [legend_strip(legend, NARROWEST) for legend in legends]


def legend_strip(legend: Legend, width: int) -> Image.Image:
    """A legend on white, of this width in pixels, to be put below a picture."""
    size = _letters(width)
    text, line = font(size), size + 5
    titles = wrapped(legend.title, max(width - 2 * GAP, 1), text)
    places: list[tuple[int, int]] = []
    x, y = GAP, GAP + line * len(titles)
    for name, _ in legend.swatches:
        wide = size + GAP + round(text.getlength(name)) + 2 * GAP
        if x > GAP and x + wide > width:
            x, y = GAP, y + line
        places.append((x, y))
        x += wide
    y += line if places else 0
    body = y
    y += size + line + GAP if legend.ramp is not None else 0
    y += 2 * line + len(legend.wheel) if legend.wheel is not None else 0
    strip = Image.new("RGB", (width, y + GAP), "white")
    pen = ImageDraw.Draw(strip)
    write(pen, (GAP, GAP), titles, text, line, FADED)
    for (left, top), (name, colour) in zip(places, legend.swatches, strict=True):
        pen.rectangle((left, top + 2, left + size - 1, top + size + 1), colour, FADED)
        write(pen, (left + size + GAP, top), wrapped(name, width, text)[:1], text, line, INK)
    if legend.ramp is not None:
        _draw_ramp(strip, body, legend, size)
    if legend.wheel is not None:
        _draw_wheel(strip, y - line - len(legend.wheel), legend.wheel, size)
    return strip


def captioned(picture: np.ndarray, caption: str, below: Image.Image) -> np.ndarray:
    """(h, w, 3) uint8: a picture between a caption and a legend of its width.

    The caption has one line; what does not fit is cut off, so that all pictures of a video have
    one size.
    """
    rows, columns = picture.shape[:2]
    size = _letters(columns)
    top = size + 4 + GAP
    sheet = Image.new("RGB", (columns, top + rows + below.height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP // 2), caption, fill=INK, font=font(size))
    sheet.paste(Image.fromarray(picture), (0, top))
    sheet.paste(below, (0, top + rows))
    return np.asarray(sheet)


def _draw_ramp(strip: Image.Image, top: int, legend: Legend, size: int) -> None:
    """A scale over the width of a strip; words that would run into others are left out."""
    assert legend.ramp is not None
    pen, text = ImageDraw.Draw(strip), font(size)
    width = strip.width
    wide = width - 2 * GAP - 2
    ramp = Image.fromarray(legend.ramp[:1]).resize((wide, size), Image.Resampling.BILINEAR)
    strip.paste(ramp, (GAP + 1, top))
    pen.rectangle((GAP, top - 1, GAP + 1 + wide, top + size), outline=FADED)
    taken: list[tuple[float, float]] = []
    for at, word in sorted(legend.ticks, key=lambda tick: 0 < tick[0] < 1):  # the ends first
        x, long = GAP + 1 + at * (wide - 1), text.getlength(word)
        left = min(max(x - long / 2, GAP), width - GAP - long)
        if any(left < end + GAP and start < left + long + GAP for start, end in taken):
            continue
        taken.append((left, left + long))
        pen.line((x, top + size, x, top + size + 4), fill=INK)
        pen.text((left, top + size + 4), word, fill=INK, font=text)


def _draw_wheel(strip: Image.Image, top: int, wheel: np.ndarray, size: int) -> None:
    """A wheel with the four directions in words around it."""
    pen, text, line = ImageDraw.Draw(strip), font(size), size + 5
    left = GAP + round(text.getlength("left")) + GAP
    strip.paste(Image.fromarray(wheel), (left, top))
    height, width = wheel.shape[:2]
    centre, beside = left + width / 2, top + height // 2 - size // 2
    for word, x, y in (
        ("up", centre - text.getlength("up") / 2, top - line),
        ("down", centre - text.getlength("down") / 2, top + height + 1),
        ("left", GAP, beside),
        ("right", left + width + GAP, beside),
    ):
        write(pen, (round(x), y), [word], text, line, INK)


def _letters(width: int) -> int:
    """Height of letters beside a picture of this width, so that they stay legible when shrunk."""
    return min(max(TEXT, width // 80), 3 * TEXT)
