"""What the colours of pictures mean: classes, metres, directions, amounts, as small pictures.

Every scale is drawn by the function that draws the pictures themselves, so both always agree.
`panel(..., keys=[...])` puts them below its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from scaleevent.panels import FADED, GAP, INK, NARROWEST, TEXT, font, wrapped, write
from scaleevent.pictures import BLUE, RED, draw_amount, draw_depth, draw_flow

LINE = TEXT + 5  # from one line of text to the next, in pixels
SWATCH = TEXT  # side of a square of colour
BAR = 300, 16  # width and height of a scale
WHEEL = 110  # diameter of the colour wheel
TICKS_M = (1, 2, 5, 10, 20, 50, 100, 200)
Colour = tuple[int, int, int]


def swatches(title: str, entries: Sequence[tuple[str, Colour]], width: int = 0) -> Image.Image:
    """Squares of colour with their names, in as many columns as fit.

    Args:
        title: Written above them.
        entries: Name and colour, in the order in which they are to be read.
        width: Of the picture in pixels; by default that of the narrowest sheet.
    """
    text, width = font(TEXT), width or NARROWEST
    longest = max((text.getlength(name) for name, _ in entries), default=0)
    step = min(width, SWATCH + GAP + round(longest) + 3 * GAP)
    columns = max(1, width // step)
    rows = -(-len(entries) // columns)
    names = [wrapped(name, step - SWATCH - GAP, text) for name, _ in entries]
    tall = max(map(len, names), default=1) * LINE
    key, pen, top = _blank(title, width, rows * tall)
    for number, ((_, colour), lines) in enumerate(zip(entries, names, strict=True)):
        left, at = number % columns * step, top + number // columns * tall
        pen.rectangle((left, at + 2, left + SWATCH - 1, at + 1 + SWATCH), colour, outline=FADED)
        write(pen, (left + SWATCH + GAP, at), lines, text, LINE, INK)
    return key


def class_key(
    names: Sequence[str], palette: np.ndarray, ignored: str | None = None, width: int = 0
) -> Image.Image:
    """The colours of `draw_classes`.

    Args:
        names: Of the classes, by id.
        palette: Their colours, (K, 3) uint8.
        ignored: What black means, where it occurs.
        width: As of `swatches`.
    """
    entries = [(name, _colour(row)) for name, row in zip(names, palette, strict=True)]
    entries += [(ignored, (0, 0, 0))] if ignored else []
    return swatches("Classes", entries, width)


def event_key() -> Image.Image:
    """The colours of `draw_events` and `draw_voxel`."""
    return swatches("Events", [("brighter", RED), ("darker", BLUE), ("no event", (255, 255, 255))])


def depth_key(farthest: float = 100.0, nearest: float = 2.0) -> Image.Image:
    """The colours of `draw_depth` over a scale in metres, with equal steps for equal factors.

    Args:
        farthest: Where the scale ends, in metres.
        nearest: As for `draw_depth`: nearer has the same colour.
    """
    farthest = max(farthest, 2 * nearest)
    span = np.log(farthest / nearest)
    metres = nearest * np.exp(np.linspace(0, span, BAR[0]))
    inside = [at for at in TICKS_M if nearest < at < farthest]
    ticks = [(np.log(at / nearest) / span, f"{at:g}") for at in inside]
    ends = [(0.0, f"{nearest:g} or less"), *ticks, (1.0, f"{farthest:.3g} m")]
    return _bar("Depth in metres; black: unknown", draw_depth(metres[None], nearest), ends)


def flow_key(largest: float) -> Image.Image:
    """The colour wheel of `draw_flow`: which way things move, and how far.

    Args:
        largest: As for `draw_flow`: pixels of full colour, at the rim.
    """
    side = np.linspace(-1, 1, WHEEL)
    right, down = np.meshgrid(side, side)
    wheel = draw_flow(np.stack([right, down]) * largest, largest)
    wheel[np.hypot(right, down) > 1] = 255
    title = f"Motion: colour is direction; white none, rim {largest:.3g} px or more; black: unknown"
    key, pen, top = _blank(title, NARROWEST, WHEEL + 2 * LINE)
    text, left = font(TEXT), 60
    key.paste(Image.fromarray(wheel), (left, top + LINE))
    middle = left + WHEEL // 2
    for word, x, y in (
        ("up", middle - text.getlength("up") / 2, top),
        ("down", middle - text.getlength("down") / 2, top + LINE + WHEEL + 2),
        ("left", left - GAP - text.getlength("left"), top + LINE + WHEEL // 2 - TEXT // 2),
        ("right", left + WHEEL + GAP, top + LINE + WHEEL // 2 - TEXT // 2),
    ):
        write(pen, (round(x), y), [word], text, LINE, INK)
    return key


def amount_key(title: str, low: str, high: str, middle: str = "") -> Image.Image:
    """The colours of `draw_amount` over a scale with words at its ends, and in its middle."""
    marks = [(0.0, low), *([(0.5, middle)] if middle else []), (1.0, high)]
    return _bar(title, draw_amount(np.linspace(0, 1, BAR[0])[None]), marks)


def _bar(title: str, colours: np.ndarray, marks: Sequence[tuple[float, str]]) -> Image.Image:
    """(1, w, 3) colours as a bar, with words below it at fractions of its length.

    A word that would run into another one is left out.
    """
    text = font(TEXT)
    margin = round(max(text.getlength(word) for _, word in marks) / 2) + 2
    width = max(BAR[0] + 2 * margin, NARROWEST)
    key, pen, top = _blank(title, width, BAR[1] + LINE + GAP)
    key.paste(Image.fromarray(np.repeat(colours, BAR[1], 0)), (margin, top))
    pen.rectangle((margin - 1, top - 1, margin + BAR[0], top + BAR[1]), outline=FADED)
    taken: list[tuple[float, float]] = []
    for at, word in sorted(marks, key=lambda mark: 0 < mark[0] < 1):  # the ends first
        x = margin + round(at * (BAR[0] - 1))
        left, wide = round(x - text.getlength(word) / 2), text.getlength(word)
        if any(left < end + GAP and start < left + wide + GAP for start, end in taken):
            continue
        taken.append((left, left + wide))
        pen.line((x, top + BAR[1], x, top + BAR[1] + 4), INK)
        write(pen, (left, top + BAR[1] + 4), [word], text, LINE, INK)
    return key


def _blank(title: str, width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """A white picture with a title, its pen, and where the rest of its height begins."""
    text = font(TEXT)
    lines = wrapped(title, width, text)
    top = LINE * len(lines) + 2
    key = Image.new("RGB", (width, top + height), "white")
    pen = ImageDraw.Draw(key)
    write(pen, (0, 0), lines, text, LINE, FADED)
    return key, pen, top


def _colour(row: np.ndarray) -> Colour:
    red, green, blue = map(int, row)
    return red, green, blue
