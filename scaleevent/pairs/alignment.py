"""Do events lie on the edges of their images? The shifts in the plane and in time where they do.

Edges of the scene make events, so the image gradient under the pixels of events, taken over shifts
of the events in the plane and in time, is largest at no shift if events and images are on one pixel
grid and one clock. In steady motion a shift in time looks like one in the plane; real pixels are
some 5 ms late. A peak counts as clear only beside what lies within the tolerance: along an edge,
in still scenes and in noise no shift is clearly better than none.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from scaleevent.events import Events
from scaleevent.formats import Recording
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.source import PairSource
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import Json

REACH = 16  # shifts tried, pixels each way
REACH_US, STEP_US = 100_000, 2_500  # shifts in time tried each way, and between them
SLICE_US = 5_000  # of events that are laid over an image
TOLERATED_PX, TOLERATED_US = 2.0, 5_000
PIXELS, FEWEST = 8_000, 50  # of one image: most that are used, and least
CELL = 16  # pixels; cells of the picture are what the certainty of a peak is estimated from
ALIKE = 0.99  # of the peak: what is as high and nearer to no shift is taken
CLEAR_GAIN, CLEAR_SIGMAS = 1.05, 4.5  # noise and hot pixels reach 3.7 sigmas by chance
COMPARABLE = 0.8  # of the higher of two clear peaks: the lower is an explanation, too
PAIRS, RECORDINGS = 16, 4  # measured, of all
EVENTS, HEAD_EVENTS = 500_000, 8_000_000  # read around one image, and of a file without an index


Cells = list[tuple[np.ndarray, np.ndarray]]  # of every scene, see `_Edges.cells`


@dataclass(frozen=True)
class Scene:
    """An image and the events around it."""

    image: np.ndarray  # (H, W, 3) uint8
    image_us: int
    events: Events  # on the pixels of the image
    covered_us: tuple[int, int]  # from when to when these are all events
    valid: np.ndarray | None = None  # (H, W) bool, where the image shows something


@dataclass(frozen=True)
class Peak:
    """Where the gradient under the events is largest, along one kind of shift."""

    shift: tuple[float, ...]  # of the events: pixels right and down, or how many ms they are late
    height: float  # gradient under the events there, over that of the whole image
    unshifted: float  # the same without a shift
    gain: float  # height over the best within the tolerance; 1 if the peak is there
    sigmas: float  # height above that, in standard deviations over parts of the picture

    @property
    def clear(self) -> bool:
        """Whether the peak lies beyond the tolerance and could not be chance."""
        return self.gain >= CLEAR_GAIN and self.sigmas >= CLEAR_SIGMAS


@dataclass(frozen=True)
class Alignment:
    """The measured shifts of some pairs."""

    pairs: int  # number of those measured
    pixels: Peak | None  # None: no events at the images
    time: Peak | None

    def describe(self) -> str:
        """The shifts, for people."""
        plane, time = self.pixels, self.time
        in_plane = f"{_pixels(plane)} ({_heights(plane)})" if plane else "not measured in pixels"
        in_time = f"{_milliseconds(time)} ({_heights(time)})" if time else "not measured in time"
        why = "" if plane and time else ": too few events known around the images"
        images = "1 image" if self.pairs == 1 else f"{self.pairs} images"
        return f"best shift of events over {images}: {in_plane}; {in_time}{why}"

    def warnings(self, store: Path, offset_us: int | None) -> list[str]:
        """What to do where a shift beyond the tolerance is clear.

        Args:
            store: The store that was written.
            offset_us: The offset in force; None for a data set whose settings have none.
        """
        clear = [peak for peak in (self.pixels, self.time) if peak and peak.clear]
        if not clear:
            return []
        highest = max(peak.height for peak in clear)
        clear = [peak for peak in clear if peak.height >= COMPARABLE * highest]
        found, ways = [], []
        for peak in sorted(clear, key=lambda one: -one.height):
            if peak is self.time:
                found.append(_milliseconds(peak))
                ways.append(f"--offset-us {(offset_us or 0) + round(1000 * peak.shift[0])}")
            else:
                found.append(_pixels(peak))
                ways.append("--homography or --calibration")
        place = shlex.quote(str(store))
        alike = " (in steady motion the two look alike)" if len(clear) > 1 else ""
        then = f", then try {' or '.join(ways)}" if offset_us is not None else ""
        return [
            f"warning: events are off their images, best at {' or at '.join(found)}{alike}; "
            f"look at `scaleevent info {place} --picture pairs.png`{then}"
        ]

    def facts(self) -> Json:
        """All numbers."""
        named = {"pixels": self.pixels, "milliseconds": self.time}
        return {"pairs": self.pairs} | {
            name: peak and {
                "shift": list(peak.shift), "height": peak.height, "unshifted": peak.unshifted,
                "gain": peak.gain, "sigmas": peak.sigmas, "clear": peak.clear,
            }
            for name, peak in named.items()
        }  # fmt: skip


def _pixels(peak: Peak) -> str:
    return f"x {peak.shift[0]:+.0f}, y {peak.shift[1]:+.0f} pixels"


def _milliseconds(peak: Peak) -> str:
    return f"{peak.shift[0]:+g} ms"


def _heights(peak: Peak) -> str:
    chance = ", may be chance" if not peak.clear and peak.gain > 1 else ""
    return f"{peak.height:.2f} of the mean gradient, unshifted {peak.unshifted:.2f}{chance}"


def gradient(image: np.ndarray) -> np.ndarray:
    """(H, W) float64 length of the brightness gradient of an (H, W, 3) uint8 image."""
    down, across = np.gradient(image.mean(axis=2))
    length: np.ndarray = np.hypot(down, across)
    return length


@dataclass(frozen=True)
class _Edges:
    """What is laid over each other in a scene: all flat indices are of pixels that may be moved."""

    edges: np.ndarray  # (H * W,) gradient, over its mean
    width: int
    time_us: np.ndarray  # (K,) of events, since the image
    pixel: np.ndarray  # (K,) flat
    covered_us: tuple[int, int]  # since the image

    @classmethod
    def of(cls, scene: Scene, reach: int) -> _Edges:
        """Gradient and events at least `reach` from the border."""
        edges = gradient(scene.image)
        if scene.valid is not None:
            edges[~scene.valid] = 0
        height, width = edges.shape
        x, y = scene.events.x.astype(np.int64), scene.events.y.astype(np.int64)
        inner = (x >= reach) & (x < width - reach) & (y >= reach) & (y < height - reach)
        start, end = (edge - scene.image_us for edge in scene.covered_us)
        flat = (y * width + x)[inner]
        scaled = edges.ravel() / max(edges.mean(), 1e-9)
        return cls(scaled, width, scene.events.t[inner] - scene.image_us, flat, (start, end))

    def distinct(self, pixels: np.ndarray) -> np.ndarray:
        """Every pixel once, in order; on large sensors much faster than sorting."""
        seen = np.zeros(len(self.edges), bool)
        seen[pixels] = True
        return np.flatnonzero(seen)

    def fired(self, start_us: int, end_us: int) -> np.ndarray | None:
        """Pixels with events in a time since the image; None where that is not known, or few."""
        if start_us < self.covered_us[0] or end_us > self.covered_us[1]:
            return None
        first, last = np.searchsorted(self.time_us, (start_us, end_us))
        pixels = self.distinct(self.pixel[first:last])
        if len(pixels) > PIXELS:
            pixels = pixels[np.linspace(0, len(pixels) - 1, PIXELS).astype(np.int64)]
        return pixels if len(pixels) >= FEWEST else None

    def at_image(self) -> np.ndarray | None:
        """Pixels with events around the image, or just before where those after are not known."""
        around = self.fired(-SLICE_US // 2, SLICE_US // 2)
        return self.fired(-SLICE_US, 0) if around is None else around

    def cells(self, pixels: np.ndarray, moved: int) -> tuple[np.ndarray, np.ndarray]:
        """By cell: gradient `moved` on from these pixels, and their number, over their number."""
        y, x = np.divmod(pixels, self.width)
        cell = y // CELL * (self.width // CELL + 1) + x // CELL
        sums = np.bincount(cell, self.edges[pixels + moved])
        return sums / len(pixels), np.bincount(cell) / len(pixels)


def alignment(
    image: np.ndarray, events: Events, valid: np.ndarray | None = None, reach: int = REACH
) -> np.ndarray:
    """Mean image gradient under the pixels of events for every shift of them.

    Args:
        image: (H, W, 3) uint8.
        events: On the pixels of the image.
        valid: (H, W) bool, where the image shows something.
        reach: Largest shift, pixels each way.

    Returns:
        (2 reach + 1,) * 2 float64 by shift in y and x, over the mean of the whole image; the same
        pixels count at every shift. NaN if too few have events.
    """
    scene = Scene(image, 0, events, (0, 0), valid)
    one = _Edges.of(scene, reach)
    pixels = one.distinct(one.pixel)
    if not len(pixels):
        return np.full((2 * reach + 1, 2 * reach + 1), np.nan)
    return _over_shifts(one, pixels, reach) / len(pixels)


def _over_shifts(one: _Edges, pixels: np.ndarray, reach: int) -> np.ndarray:
    steps = range(-reach, reach + 1)
    sums = [[one.edges[pixels + (dy * one.width + dx)].sum() for dx in steps] for dy in steps]
    return np.array(sums)


def best_shift(scores: np.ndarray) -> tuple[int, int]:
    """(x, y) of the largest value by shift in y and x, such as of `alignment`."""
    y, x = np.unravel_index(scores.argmax(), scores.shape)
    return int(x) - scores.shape[1] // 2, int(y) - scores.shape[0] // 2


def measure(scenes: Sequence[Scene]) -> Alignment:
    """The shifts at which events lie best on the edges of their images; a second or two."""
    side = min((min(scene.image.shape[:2]) for scene in scenes), default=0)
    reach = min(REACH, (side - 1) // 4)
    if reach < 1:
        return Alignment(len(scenes), None, None)
    laid = [_Edges.of(scene, reach) for scene in scenes]
    return Alignment(len(scenes), _in_plane(laid, reach), _in_time(laid))


def _in_plane(laid: Sequence[_Edges], reach: int) -> Peak | None:
    found = [(one, pixels) for one in laid if (pixels := one.at_image()) is not None]
    if not found:
        return None
    over = [_over_shifts(one, pixels, reach) / len(pixels) for one, pixels in found]
    heights = np.mean(over, axis=0).ravel()
    steps = np.arange(-reach, reach + 1.0)
    shifts = np.stack([part.ravel() for part in np.meshgrid(steps, steps)], -1)

    def cells(index: int) -> Cells:
        dx, dy = shifts[index].astype(int).tolist()
        return [one.cells(pixels, dy * one.width + dx) for one, pixels in found]

    return _peak(shifts, heights, TOLERATED_PX, cells)


def _in_time(laid: Sequence[_Edges]) -> Peak | None:
    times = np.arange(-REACH_US, REACH_US + 1, STEP_US)
    fired = [
        [
            (one, pixels)
            for one in laid
            if (pixels := one.fired(t - SLICE_US // 2, t + SLICE_US // 2)) is not None
        ]
        for t in times.tolist()
    ]
    known = np.array([len(found) for found in fired])
    heights = np.array(
        [
            np.mean([one.edges[pixels].mean() for one, pixels in found]) if found else np.nan
            for found in fired
        ]
    )
    heights[known < max(1, known.max() / 2)] = np.nan

    def cells(index: int) -> Cells:
        return [one.cells(pixels, 0) for one, pixels in fired[index]]

    return _peak(times[:, None] / 1000, heights, TOLERATED_US / 1000, cells)


def _peak(
    shifts: np.ndarray, heights: np.ndarray, tolerated: float, cells: Callable[[int], Cells]
) -> Peak | None:
    """The peak of heights over (S, n) shifts; None if that without a shift is not known."""
    far = np.hypot.reduce(shifts, 1)
    origin = int(np.argmin(far))
    if np.isnan(heights[origin]):
        return None
    near = np.where(far <= tolerated, heights, np.nan)
    alike = np.flatnonzero(heights >= ALIKE * np.nanmax(heights))
    top = int(alike[np.argmin(far[alike])])
    best = top if far[top] <= tolerated else int(np.nanargmax(near))
    gain = float(heights[top] / heights[best]) if heights[best] else 1.0
    sigmas = 0.0 if top == best else _sigmas(cells(top), cells(best))
    return Peak(
        tuple(shifts[top].tolist()), float(heights[top]), float(heights[origin]), gain, sigmas
    )


def _sigmas(top: Cells, best: Cells) -> float:
    """How far one mean is above another, in standard deviations estimated from their cells."""
    length = max(len(sums) for sums, _ in (*top, *best))

    def total(parts: Cells) -> tuple[float, np.ndarray]:
        sums, counts = np.zeros(length), np.zeros(length)
        for own_sums, own_counts in parts:
            sums[: len(own_sums)] += own_sums
            counts[: len(own_counts)] += own_counts
        mean = sums.sum() / counts.sum()
        return mean, (sums - mean * counts) / counts.sum()

    (high, upper), (low, lower) = total(top), total(best)
    deviation = np.sqrt(np.square(upper - lower).sum())
    return float((high - low) / deviation) if deviation else 0.0


def scenes_of_store(store: PairStore, most: int = PAIRS) -> list[Scene]:
    """Some pairs of a store of events, evenly spaced, with what its windows hold around them."""
    chosen = spread(len(store), most)
    return [scene for k in chosen if (scene := _scene(store, k)) is not None]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced."""
    picked = np.linspace(0, count - 1, min(count, most)).round().astype(int)
    return [int(k) for k in picked]


def _scene(store: PairStore, number: int) -> Scene | None:
    """A pair with the windows that join its own; None without an image on the events' pixels."""
    if not store.image_bytes[number]:
        return None
    shard, row = store.locate(number)
    image = decode_image(shard.image(row), shard.path)
    if image.shape[:2] != shard.sensor(row):
        return None
    events, window = shard.events(row)
    parts, start, end = [events], window.start_us, window.end_us
    if (after := shard.after(row)) is not None and after[1].start_us == end:
        parts.append(after[0])
        end = after[1].end_us
    for step in (-1, 1):
        other = number + step
        while 0 <= other < len(store) and store.recordings[other] == store.recordings[number]:
            first, last = store.windows_us[other].tolist()
            if step < 0 and first < start <= last and start > window.end_us - REACH_US:
                parts.insert(0, _events(store, other).between(None, start))
                start = first
            elif step > 0 and first <= end < last and end < window.end_us + REACH_US:
                parts.append(_events(store, other).between(end, None))
                end = last
            else:
                break
            other += step
    joined = Events.concatenate(parts, *shard.sensor(row))
    return Scene(image, window.end_us, joined, (start, end), shard.valid(row))


def _events(store: PairStore, number: int) -> Events:
    shard, row = store.locate(number)
    return shard.events(row)[0]


@runtime_checkable
class Reopened(Protocol):
    """A source of pairs whose events can be read again around its images."""

    def opened(self) -> Recording:
        """Its recording."""


def measure_prepared(sources: Sequence[PairSource], store: PairStore) -> Alignment | None:
    """The shift in a store just written, from the recordings themselves, in a few seconds at most.

    None where a source is not `Reopened`, or no image is on the pixels of its events.

    Raises:
        DataError: Damage in a recording.
    """
    named = {f"{k:05d}-{source.name}.h5": source for k, source in enumerate(sources)}
    scenes: list[Scene] = []
    for which in spread(len(store.shards), RECORDINGS):
        entry = store.shards[which]
        source = named.get(entry["file"])
        if not isinstance(source, Reopened):
            return None
        first = sum(other["pairs"] for other in store.shards[:which])
        numbers = range(first, first + entry["pairs"])
        most = PAIRS // min(len(store.shards), RECORDINGS)
        kept = entry["counts"].get("events kept", 0)
        scenes += _reread(source.opened(), store, numbers, most, kept)
    return measure(scenes) if scenes else None


def _reread(
    recording: Recording, store: PairStore, numbers: range, most: int, kept: int
) -> list[Scene]:
    """Some pairs of a recording of `kept` events, with the events around them."""
    times = store.windows_us[numbers.start : numbers.stop, 1]
    if recording.max_bad is not None or recording.segment is not None:  # always read from the start
        chosen = [numbers[k] for k in spread(len(numbers), most)]
        return [scene for number in chosen if (scene := _scene(store, number)) is not None]
    span = max(int(times[-1] - times[0]), 1)
    indexed = recording.source.extent() is not None
    share = 1.0 if indexed else min(1.0, HEAD_EVENTS / max(kept, 1))
    near = numbers[: int(np.searchsorted(times, times[0] + share * span, "right"))]
    found = [_scene(store, near[k]) for k in spread(len(near), most)]
    scenes = [scene for scene in found if scene is not None]
    reach = int(np.clip(EVENTS * span / (2 * max(kept, 1)), 2 * SLICE_US, REACH_US))
    spans = [(scene.image_us - reach, scene.image_us + reach) for scene in scenes]
    parts: list[list[Events]] = [[] for _ in scenes]
    every = range(len(scenes))
    together = [every[k : k + 1] for k in every] if indexed else [every][: len(scenes)]
    for own in together:  # without an index, in one pass
        for block in recording.blocks(spans[own[0]][0], spans[own[-1]][1]):
            for k in own:
                parts[k].append(block.between(*spans[k]))
    return [
        replace(scene, events=Events.concatenate(part, *scene.image.shape[:2]), covered_us=covered)
        for scene, part, covered in zip(scenes, parts, spans, strict=True)
    ]
