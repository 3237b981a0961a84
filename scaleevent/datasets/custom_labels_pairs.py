"""Labels of users' own to pairs, on the event pixels, with the frames that are near in time.

A label lies on the event pixels, or, where `homography` or `calibration` relates the frames to
them, on the frames' pixels: then every event pixel takes the label pixel that is nearest to where
it lies in the frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleevent.config.benchmarks import IGNORE
from scaleevent.config.labels import Part
from scaleevent.datasets.custom_labels_files import CONTENT, NAMES, LabelReader
from scaleevent.datasets.custom_labels_times import LabelTimes
from scaleevent.datasets.frames import EventView
from scaleevent.datasets.timed_labels import TimedLabel, complete, pair_labels
from scaleevent.errors import DataError
from scaleevent.formats import Recording, open_recording, recording_files
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import TimedImage
from scaleevent.system.files import Json

if TYPE_CHECKING:
    from scaleevent.datasets.custom import CustomRecording

NEAR_US = 5_000  # an image belongs to a label that is no further away
REACHES_BACK = "its window reaches into the time of those that train"


@dataclass(frozen=True)
class LabelledRecording:
    """One recording and some of its labels: a `pairs.source.PairSource`, and `Replayable`.

    Args:
        recording: The event file, or the folder of a ROS 2 bag.
        size: (height, width) of its sensor.
        options: Further arguments of `open_recording`.
        labels: Their files and times.
        reader: How a file is read.
        framed: The recording with its frames, where it has any.
        pixels: (height, width) of the frames, where labels lie on their pixels; else None.
        rule: How windows are found; None for flow, whose labels are spans.
        scene: Recording name of the pairs.
        part: Of the split.
        facts: What the labels of the whole store mean; JSON-able.
        read: Further files that are read.
        not_before: Least begin of a window, microseconds; None for any.
    """

    name: str
    recording: Path
    size: tuple[int, int]
    options: Json
    labels: LabelTimes
    reader: LabelReader
    framed: CustomRecording | None
    pixels: tuple[int, int] | None
    rule: WindowRule | None
    scene: str
    part: Part
    facts: Json
    read: tuple[Path, ...]
    found: str
    choices: tuple[str, ...] = ()
    not_before: int | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read, each once."""
        own = (*recording_files(self.recording), *self.labels.files, *self.labels.read, *self.read)
        framed = self.framed.inputs if self.framed else ()
        return tuple(dict.fromkeys((*own, *framed)))

    @property
    def chosen_by_others(self) -> list[str]:
        """Its part, which changes with the recordings beside it: the shard is made again then."""
        return [self.scene, self.part]

    @property
    def expected(self) -> int:
        """Number of labels."""
        return len(self.labels.files) + sum(count for _, count in self.labels.left_out)

    def opened(self) -> Recording:
        """The recording, not yet read."""
        return open_recording(self.recording, size=self.size, **self.options)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every label that has events before it, with the frame that is near in time.

        Raises:
            DataError: As `pair_labels` and `complete`; a file that cannot be read.
        """
        view = self.framed.view() if self.framed else None
        for reason, count in self.labels.left_out:
            counts["labels"] += count
            counts[f"labels dropped: {reason}"] += count
        timed = [
            TimedLabel(start, end, partial(self.load, path, view),
                       {"file": path.name, "split": self.part})
            for path, start, end in zip(
                self.labels.files, self.labels.start_us, self.labels.end_us, strict=True
            )
        ]  # fmt: skip
        task = NAMES[self.reader.task]
        pairs = pair_labels(self.opened(), timed, task, self.rule, self.scene, counts)
        pairs = self._apart(pairs, counts)
        if self.framed is not None and view is not None:
            pairs = with_images(pairs, self.framed.frames.timed(self.framed.opened(), view))
        content, folder = CONTENT[self.reader.task], self.labels.files[0].parent
        yield from complete(pairs, task, content, lambda pair: pair.image, counts, folder)

    def _apart(self, pairs: Iterator[Pair], counts: Counter[str]) -> Iterator[Pair]:
        """Those whose window begins after the labels that train: of so many events it may not."""
        for pair in pairs:
            if self.not_before is None or pair.window.start_us >= self.not_before:
                yield pair
                continue
            counts["pairs"] -= 1
            counts[f"labels dropped: {REACHES_BACK}"] += 1

    def load(self, path: Path, view: EventView | None) -> np.ndarray:
        """A label's values on the event pixels.

        Raises:
            DataError: As the reader; another size than that of its pixels.
        """
        if self.pixels is None or view is None or view.source is None:
            try:
                return self.reader.read(path, self.size)
            except DataError as error:
                error.hint = error.hint or self._size_hint(error)
                raise
        return seen_on(self.reader.read(path, self.pixels), view.source)

    def _size_hint(self, error: DataError) -> str | None:
        if "differ in size" not in error.what:
            return None
        return (
            "labels are never resized silently; labels on the pixels of another camera, or k times "
            "as large, go with frames of that size and --homography or --calibration"
        )


def seen_on(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    """A label of one view on the pixels of another: each takes the nearest, none beyond the border.

    Args:
        values: (H, W) class ids or depth, as in a store.
        source: (h, w, 2) column and row in it of every pixel.
    """
    column, row = (np.rint(source[..., axis]) for axis in (0, 1))
    height, width = values.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = values[np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)]
    unknown = np.float32(np.nan) if values.dtype.kind == "f" else np.uint8(IGNORE)
    return np.where(inside, found, unknown).astype(values.dtype)


def with_images(pairs: Iterator[Pair], images: Iterator[TimedImage]) -> Iterator[Pair]:
    """The pairs, each with the image nearest to it in time, if it is no further than `NEAR_US`.

    Args:
        pairs: In order of time.
        images: The same; each is read only if it is used.
    """
    before, after = None, next(images, None)
    for pair in pairs:
        while after is not None and after.image_us <= pair.image_us:
            before, after = after, next(images, None)
        near = [one for one in (before, after) if one is not None]
        best = min(near, key=lambda one: abs(one.image_us - pair.image_us), default=None)
        if best is None or abs(best.image_us - pair.image_us) > NEAR_US:
            yield pair
            continue
        image, valid = best.load()
        yield replace(pair, image=image, valid=valid, provenance=best.provenance | pair.provenance)
