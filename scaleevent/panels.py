"""Sheets of pictures with a title, column titles and row names; the one place that draws text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scaleevent.system.files import atomic_path

MARGIN, GAP = 10, 6  # pixels around the sheet, and between its parts
TITLE, TEXT = 20, 15  # heights of letters in pixels
NARROWEST = 420  # of a sheet, so that its title can be read
INK, FADED, NOTHING = (0, 0, 0), (90, 90, 90), (238, 238, 238)


class Row(NamedTuple):
    """One line of a sheet."""

    name: str  # written above its pictures
    pictures: Sequence[np.ndarray | None]  # (h, w, 3) uint8 by column; None where there is none


def panel(title: str, columns: Sequence[str], rows: Sequence[Row], tall: int = 192) -> Image.Image:
    """A sheet of pictures, each in its own aspect, `tall` pixels high and not smoothed.

    Columns without any picture are left out.
    """
    shown = [c for c in range(len(columns)) if any(row.pictures[c] is not None for row in rows)]
    tiles = [[_tile(row.pictures[c], tall) for c in shown] for row in rows]
    widths = [max(tile.width for tile in column if tile) for column in zip(*tiles, strict=True)]
    width = max(sum(widths) + GAP * (len(shown) - 1), NARROWEST)
    heading, text = _font(TITLE), _font(TEXT)
    title_lines = _wrapped(title, width, heading)
    heads = [_wrapped(columns[c], wide, text) for c, wide in zip(shown, widths, strict=True)]
    names = [_wrapped(row.name, width, text) for row in rows]
    step, line = TITLE + 4, TEXT + 4
    top = MARGIN + step * len(title_lines) + GAP
    body = top + line * max((len(head) for head in heads), default=0)
    height = body + sum(line * len(name) + GAP + tall + GAP for name in names) + MARGIN
    sheet = Image.new("RGB", (width + 2 * MARGIN, height), "white")
    pen = ImageDraw.Draw(sheet)
    _write(pen, (MARGIN, MARGIN), title_lines, heading, step, INK)
    lefts = [MARGIN + sum(widths[:k]) + GAP * k for k in range(len(widths))]
    for left, head in zip(lefts, heads, strict=True):
        _write(pen, (left, top), head, text, line, INK)
    for name, pictures in zip(names, tiles, strict=True):
        _write(pen, (MARGIN, body + GAP), name, text, line, FADED)
        body += line * len(name) + GAP
        for left, wide, tile in zip(lefts, widths, pictures, strict=True):
            if tile is not None:
                sheet.paste(tile, (left, body))
                edge = (left - 1, body - 1, left + tile.width, body + tall)
                pen.rectangle(edge, outline=NOTHING)  # events are drawn on white
                continue
            pen.rectangle((left, body, left + wide - 1, body + tall - 1), NOTHING)
            _write(pen, (left + GAP, body + GAP), ["none"], text, line, FADED)
        body += tall + GAP
    return sheet


def save_picture(path: Path, picture: Image.Image | np.ndarray) -> None:
    """Write a PNG."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG")


def _tile(picture: np.ndarray | None, tall: int) -> Image.Image | None:
    if picture is None:
        return None
    rows, columns = picture.shape[:2]
    method = Image.Resampling.NEAREST if rows < tall else Image.Resampling.BOX
    return Image.fromarray(picture).resize((max(1, round(tall * columns / rows)), tall), method)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which is the same on every machine."""
    return ImageFont.load_default(size)


def _wrapped(
    text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    """Lines of at most this width, broken between words or, if need be, within one."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    step: int,
    colour: tuple[int, int, int],
) -> None:
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * step), line, fill=colour, font=font)
