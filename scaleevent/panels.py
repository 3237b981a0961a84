"""Sheets of pictures with a title, column titles and row names, and how text is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from scaleevent.system.files import atomic_path
from scaleevent.system.reports import counted

MARGIN, GAP = 10, 6  # pixels around the sheet, and between its parts
TITLE, TEXT = 20, 15  # heights of letters in pixels
NARROWEST = 420  # of a sheet, so that its title can be read
INK, FADED, NOTHING = (0, 0, 0), (90, 90, 90), (238, 238, 238)
ABOUT = "Description"  # of what a PNG shows, for those who cannot see it
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Row(NamedTuple):
    """One line of a sheet."""

    name: str  # written above its pictures
    pictures: Sequence[np.ndarray | None]  # (h, w, 3) uint8 by column; None where there is none


def panel(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    tall: int = 192,
    keys: Sequence[Image.Image] = (),
) -> Image.Image:
    """A sheet of pictures, each in its own aspect, `tall` pixels high and not smoothed.

    Columns without any picture are left out.

    Args:
        title: Written above all.
        columns: What stands in each column.
        rows: The pictures.
        tall: Height of each picture in pixels.
        keys: What the colours mean, below the pictures; see `scaleevent.legends`.
    """
    shown = [c for c in range(len(columns)) if any(row.pictures[c] is not None for row in rows)]
    tiles = [[_tile(row.pictures[c], tall) for c in shown] for row in rows]
    widths = [max(tile.width for tile in column if tile) for column in zip(*tiles, strict=True)]
    widest = max((key.width for key in keys), default=0)
    width = max(sum(widths) + GAP * (len(shown) - 1), NARROWEST, widest)
    heading, text = font(TITLE), font(TEXT)
    title_lines = wrapped(title, width, heading)
    heads = [wrapped(columns[c], wide, text) for c, wide in zip(shown, widths, strict=True)]
    names = [wrapped(row.name, width, text) for row in rows]
    step, line = TITLE + 4, TEXT + 4
    top = MARGIN + step * len(title_lines) + GAP
    body = top + line * max((len(head) for head in heads), default=0)
    height = body + sum(line * len(name) + GAP + tall + GAP for name in names) + MARGIN
    placed, below = _flowed(keys, width, height)
    height = below + MARGIN if keys else height
    sheet = Image.new("RGB", (width + 2 * MARGIN, height), "white")
    pen = ImageDraw.Draw(sheet)
    write(pen, (MARGIN, MARGIN), title_lines, heading, step, INK)
    lefts = [MARGIN + sum(widths[:k]) + GAP * k for k in range(len(widths))]
    for left, head in zip(lefts, heads, strict=True):
        write(pen, (left, top), head, text, line, INK)
    for name, pictures in zip(names, tiles, strict=True):
        write(pen, (MARGIN, body + GAP), name, text, line, FADED)
        body += line * len(name) + GAP
        for left, wide, tile in zip(lefts, widths, pictures, strict=True):
            if tile is not None:
                sheet.paste(tile, (left, body))
                edge = (left - 1, body - 1, left + tile.width, body + tall)
                pen.rectangle(edge, outline=NOTHING)  # events are drawn on white
                continue
            pen.rectangle((left, body, left + wide - 1, body + tall - 1), NOTHING)
            write(pen, (left + GAP, body + GAP), ["none"], text, line, FADED)
        body += tall + GAP
    for key, (left, at) in zip(keys, placed, strict=True):
        sheet.paste(key, (MARGIN + left, at))
    told = f"{title}. {counted(len(rows), 'row')} of: {', '.join(columns[c] for c in shown)}"
    sheet.info[ABOUT] = told
    return sheet


def _flowed(keys: Sequence[Image.Image], width: int, top: int) -> tuple[list[tuple[int, int]], int]:
    """Where keys lie (left, top), from left to right and then below; and where the last ends."""
    placed, left, below = [], 0, top
    for key in keys:
        if left and left + key.width > width:
            left, top = 0, below + GAP
        placed.append((left, top))
        left, below = left + key.width + 2 * MARGIN, max(below, top + key.height)
    return placed, below


def save_picture(path: Path, picture: Image.Image | np.ndarray) -> None:
    """Write a PNG, with what it shows in words if it is a sheet."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    told = PngInfo()
    if isinstance(about := picture.info.get(ABOUT), str):
        told.add_itxt(ABOUT, about)
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=told)


def _tile(picture: np.ndarray | None, tall: int) -> Image.Image | None:
    if picture is None:
        return None
    rows, columns = picture.shape[:2]
    method = Image.Resampling.NEAREST if rows < tall else Image.Resampling.BOX
    return Image.fromarray(picture).resize((max(1, round(tall * columns / rows)), tall), method)


def font(size: int) -> Font:
    """Pillow's own font of letters `size` pixels high, which is the same on every machine."""
    return ImageFont.load_default(size)


def wrapped(text: str, width: int, font: Font) -> list[str]:
    """Lines of at most this width in pixels, broken between words or, if need be, within one."""
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


def write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    font: Font,
    step: int,
    colour: tuple[int, int, int],
) -> None:
    """Draw lines of text, the first at `at` (left, top), each `step` pixels below the last."""
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * step), line, fill=colour, font=font)
