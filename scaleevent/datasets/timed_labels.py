"""Pairs from an event stream and time-stamped labels, for any data set and task.

A label lies on a grid of its own: the sensor's rows without a car's hood, or a rectified view. The
events are brought onto it before windows are chosen, each to the nearest whole pixel; those that
leave it are dropped and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.config.benchmarks import IGNORE
from scaleevent.datasets.frame_times import lines_with_fields
from scaleevent.datasets.frames import span_of_events
from scaleevent.errors import DataError
from scaleevent.events import Events, first_backward_step
from scaleevent.formats import Recording
from scaleevent.formats.source import RawBlock, Source
from scaleevent.grids.windows import Window, WindowRule
from scaleevent.images import open_image
from scaleevent.pairs.pair import Label, Pair
from scaleevent.pairs.pairing import EventStream

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class TimedLabel:
    """A label that is read only if its pair is kept.

    Args:
        start_us: Begin of the span it describes, on the clock of the events.
        end_us: End of the span; the begin for a label of one instant.
        load: Returns the values (see `pairs.pair.Label`); None where they are not public.
        provenance: Where it came from; small and JSON-able.
    """

    start_us: int
    end_us: int
    load: Callable[[], np.ndarray] | None
    provenance: dict[str, Any] = field(default_factory=dict)


class _OnLabelGrid(Source):
    """The decoder behind `seen_from`: reads another recording onto the grid of its labels."""

    size: tuple[int, int]

    def __init__(self, recording: Recording, points: np.ndarray, height: int) -> None:
        self.recording = recording
        self.format, self.notes = recording.format, recording.notes
        rows, width = points.shape[:2]
        self.size = height, width
        x, y = np.rint(points[..., 0]), np.rint(points[..., 1])
        seen = (x >= 0) & (x < width) & (y >= 0) & (y < rows)
        # (H, W) flat pixel of the grid for every pixel of the sensor; -1: outside, -2: below it
        target = np.where(seen, np.where(y < height, y * width + x, -2), -1)
        self.target = target.astype(np.int32)

    def blocks(self, start_us: int | None, end_us: int | None) -> Iterator[RawBlock]:
        first = 0
        for events in self.recording.blocks(start_us, end_us):
            yield self._placed(events, first)
            first += len(events)
        nothing = self._placed(Events.empty(*self.target.shape), first)
        nothing.dropped.update(self.recording.counts.dropped)
        yield nothing

    def _placed(self, events: Events, first: int) -> RawBlock:
        """Events on the grid, from position `first` of the recording, and how many are not."""
        target = self.target[events.y, events.x]
        kept = target >= 0
        dropped = {
            "outside the rectified view": int(np.count_nonzero(target == -1)),
            "below the label image": int(np.count_nonzero(target == -2)),
        }
        y, x = np.divmod(target[kept], np.int32(self.size[1]))
        return RawBlock(first, events.t[kept], x, y, events.p[kept], dropped)


def seen_from(recording: Recording, points: np.ndarray, height: int) -> Recording:
    """The recording on the grid of its labels; its tally names the events that are not there.

    Args:
        recording: On an H x W sensor.
        points: (H, W, 2) column and row of its pixels in a view of H x W pixels, whole at pixel
            centres.
        height: Rows of that view that the labels cover, from the top.
    """
    source = _OnLabelGrid(recording, points, height)
    return Recording(recording.path, source, *source.size)


def pair_labels(
    recording: Recording,
    labels: Sequence[TimedLabel],
    task: str,
    rule: WindowRule | None,
    name: str,
    counts: Counter[str],
) -> Iterator[Pair]:
    """Pairs without image, one a label, in order of time.

    Args:
        recording: The event stream, on the grid of the labels.
        labels: Their ends in ascending order.
        task: Name of the label in the pairs.
        rule: How the start of the window before a label is found. None for labels of a span: the
            window after is the span and the one before is as long.
        name: Recording name for the pairs.
        counts: Tally to add to: `labels` = `pairs` + the sum of `labels dropped: REASON`; events
            as in `pairs.pairing.pair_images`. Labels without values, the spans of a test set,
            are never dropped: a submission needs a file for each.

    Raises:
        DataError: No label has events, labels out of order, damage in the recording or a label.
    """
    longest = max((label.end_us - label.start_us for label in labels), default=0)
    stream = EventStream(recording, rule or WindowRule("time", 2 * longest))
    made = False
    in_order(np.array([label.end_us for label in labels]), f"labels of {recording.path}, label")
    for label in labels:
        counts["labels"] += 1
        start, end = label.start_us, label.end_us
        after = None
        if rule:
            window, events = stream.window_before(end)
            reason = stream.why_unusable(end, events)
        else:
            _, held = stream.window_before(end)
            window, late = Window(2 * start - end, start), held.between(start, end)
            events = held.between(window.start_us, start)
            after = (Window(start, end), late)
            reason = stream.why_unusable(start, events) or stream.why_unusable(end, late)
        if reason is not None and label.load is not None:
            counts[f"labels dropped: {reason}"] += 1
            continue
        if reason is not None:  # a span of a test set: its prediction is due all the same
            counts["spans without events, kept"] += 1
        made = made or reason is None
        counts["pairs"] += 1
        yield Pair(
            recording=name,
            image_us=start,
            image=b"",
            events=events,
            window=window,
            after=after,
            labels={task: Label(label.load(), start, end)} if label.load else {},
            provenance=label.provenance,
        )
    stream.finish(counts)
    if labels and not made:
        raise DataError(
            "no label has events before it",
            where=recording.path,
            found=f"labels from {labels[0].start_us} to {labels[-1].end_us} us",
            expected=span_of_events(recording),
            hint="labels and events of different sequences, or a recording cut short",
        )


def complete(
    pairs: Iterable[Pair],
    task: str,
    content: str,
    image: Callable[[Pair], bytes],
    counts: Counter[str],
    where: object,
) -> Iterator[Pair]:
    """The pairs with their image, those without a known pixel left out and counted.

    Args:
        pairs: From `pair_labels`.
        task: Name of the label: NaN, or `IGNORE` in whole numbers, where it is unknown.
        content: What a known pixel has, for people.
        image: Returns the encoded image of a pair that is kept.
        counts: Tally of the pairs, corrected for those left out.
        where: The source of the labels, for an error.

    Raises:
        DataError: Not one label is left.
    """
    before = counts["pairs"]
    for pair in pairs:
        values = pair.labels[task].values
        unknown = np.isnan(values) if values.dtype.kind == "f" else values == IGNORE
        if unknown.all():
            counts["pairs"] -= 1
            counts[f"labels dropped: no pixel with {content}"] += 1
            continue
        yield replace(pair, image=image(pair))
    if counts["pairs"] == before:
        lost = {key: number for key, number in counts.items() if key.startswith("labels")}
        raise DataError(f"no label with {content} can be used", where=where, found=lost)


def read_times(path: Path, columns: int) -> np.ndarray:
    """Whole microseconds from text, one label a line; '#' or a first line of words is a header.

    Args:
        path: The file; fields stand between commas or blanks.
        columns: Fields a line. Each must ascend from line to line; of two times in a line the
            second must be later.

    Returns:
        (K, columns) int64.

    Raises:
        DataError: Not such a file, with the line.
    """
    rows: list[list[int]] = []
    for number, line, fields in lines_with_fields(path, "label times"):
        if number == 1 and not any(map(_WHOLE.fullmatch, fields)):
            continue
        where, found = f"{path}, line {number}", repr(line[:80])
        if len(fields) != columns or not all(map(_WHOLE.fullmatch, fields)):
            expected = f"{columns} whole number{'s' * (columns > 1)}, times in microseconds"
            raise DataError("not a label time", where=where, found=found, expected=expected)
        row = [int(text) for text in fields]
        if rows and not all(now > last for now, last in zip(row, rows[-1], strict=True)):
            raise DataError(
                "label times are not ascending",
                where=where,
                found=f"{found} after {', '.join(map(str, rows[-1]))}",
            )
        if columns > 1 and row[1] <= row[0]:
            raise DataError("a label ends before it starts", where=where, found=found)
        rows.append(row)
    if not rows:
        raise DataError("no label times in this file", where=path)
    return np.array(rows, np.int64)


def in_order(times_us: np.ndarray, where: str) -> np.ndarray:
    """The times.

    Raises:
        DataError: They step back; the place is `where` and its number.
    """
    if (back := first_backward_step(times_us)) is not None:
        found = f"{times_us[back]} us after {times_us[back - 1]} us"
        raise DataError("times step back", where=f"{where} {back}", found=found)
    return times_us


def check_size(values: np.ndarray, size: tuple[int, int], path: Path, what: str = "label") -> None:
    """Refuse a label, or a picture, of another size than its grid.

    Raises:
        DataError: Both sizes.
    """
    if values.shape[-2:] != size:
        raise DataError(
            f"{what} and events differ in size",
            where=path,
            found=f"{what} {values.shape[-1]}x{values.shape[-2]} (columns x rows)",
            expected=f"{size[1]}x{size[0]}",
        )


def read_id_picture(path: Path, size: tuple[int, int] | None, grey: bool = False) -> np.ndarray:
    """(H, W) uint8 ids, whatever they mean, of a PNG as for `read_ids`.

    Args:
        path: The file.
        size: (height, width) it must have; None for any.
        grey: Take ids stored as shades of grey in three channels, too.

    Raises:
        DataError: Not such a file, or another size.
    """
    with open_image(path, path, ("PNG",)) as image:
        form = f"PNG of mode {image.mode}, {image.width}x{image.height}"
        fits = image.mode in ("L", "P") or grey and image.mode == "RGB"
        tiles = getattr(image, "tile", None)  # of a file that is not decoded yet
        coding = str(tiles[0][3]) if tiles else ""
        if coding.startswith("L;"):  # grey of fewer bits, whose values Pillow would stretch to 255
            form, fits = f"{form}, {coding.removeprefix('L;')} bits", False
        ids = np.asarray(image) if fits else None
    if ids is not None and ids.ndim == 3:
        ids = ids[..., 0].copy() if (ids == ids[..., :1]).all() else None
    if ids is None:
        colours = "colours are no ids: save each pixel's id, as grey or palette, of one channel"
        raise DataError(
            "no picture of class ids", where=path, found=form, expected="one channel of 8 bits",
            hint=colours if form.startswith("PNG of mode RGB") else None,
        )  # fmt: skip
    if size is not None:
        check_size(ids, size, path)
    return ids


def read_ids(
    path: Path, size: tuple[int, int], classes: int, hint: str | None = None, grey: bool = False
) -> np.ndarray:
    """(H, W) uint8 class ids of a PNG of one channel and 8 bits; of a palette, its indices.

    Args:
        path: The file.
        size: (height, width) it must have.
        classes: Ids must be below this, or `IGNORE`.
        hint: What other ids may mean.
        grey: Take ids stored as shades of grey in three channels, too.

    Raises:
        DataError: Not such a file, another size, or an id that is no class.
    """
    ids = read_id_picture(path, size, grey)
    wrong = np.argwhere((ids >= classes) & (ids != IGNORE))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            "a class id that the benchmark does not have",
            where=f"{path}, row {row}, column {column}",
            found=f"{ids[row, column]}; {len(wrong)} such pixels",
            expected=f"0 .. {classes - 1}, or {IGNORE} for no class",
            hint=hint,
        )
    return ids
