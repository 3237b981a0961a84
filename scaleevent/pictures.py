"""Pictures for people: events, frames, labels, principal components of features. Pillow only."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.formats import Recording

PICTURE_EVENTS = 0.5  # per pixel: enough to see edges, few enough to tell them apart
RED, BLUE = (215, 38, 30), (28, 75, 200)  # brighter, darker
HATCH, VEIL = (240, 140, 20), 128  # of what does not count: its lines, and the grey between them
TOKEN = 8  # pixels of a token's side where some are hatched
AMOUNT_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
AMOUNT_COLOURS = np.array(
    [(20, 20, 90), (110, 30, 130), (200, 60, 90), (245, 140, 50), (250, 240, 110)]
)
DARK, LIFTED = 70, 100  # mean brightness: of frames that are lifted, and what they are lifted to


def draw_events(events: Events) -> np.ndarray:
    """(H, W, 3) uint8: white, with red where most events are brighter and blue where darker."""
    balance = np.zeros((events.height, events.width), np.int32)
    np.add.at(balance, (events.y, events.x), events.p.astype(np.int32) * 2 - 1)
    steps = np.arange(-2, 3)  # beyond, colours are full
    colours = _red_blue(steps, np.abs(steps))
    drawn: np.ndarray = colours[np.clip(balance, -2, 2) + 2]
    return drawn


def draw_recording(recording: Recording, facts: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8 of events from the middle of a recording's longest stretch.

    Args:
        recording: An opened recording.
        facts: From `recording_facts`.
    """
    if not facts["events"]:
        return draw_events(Events.empty(recording.height, recording.width))
    segments = facts.get("segments", [facts])
    index = max(range(len(segments)), key=lambda k: segments[k]["events"])
    start = (segments[index]["first_us"] + segments[index]["last_us"]) // 2
    if len(segments) == 1 and not facts.get("damage"):
        with suppress(DataError):  # damage that a sampled read of the facts did not meet
            return draw_events(_events_from(replace(recording, max_bad=None), start))  # can seek
    return draw_events(_events_from(replace(recording, segment=index), start))


def _events_from(recording: Recording, start: int) -> Events:
    """Events from a time on, enough for a picture."""
    wanted = round(PICTURE_EVENTS * recording.height * recording.width)
    parts, count = [], 0
    for block in recording.blocks(start):
        parts.append(block[: wanted - count])
        count += len(parts[-1])
        if count >= wanted:
            break
    return Events.concatenate(parts, recording.height, recording.width)


def draw_voxel(voxel: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of a (B, H, W) grid, coloured by the sign of the sum over bins."""
    return _red_blue(voxel.sum(0), np.abs(voxel).sum(0))


def _red_blue(sign: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """From white without events to full colour at two events or more."""
    strength = np.clip(amount / 2, 0, 1)[..., None]
    colour = np.where(sign[..., None] >= 0, np.array(RED), np.array(BLUE))
    return np.rint(255 + (colour - 255) * strength).astype(np.uint8)


def brightened(image: np.ndarray) -> tuple[np.ndarray, str]:
    """A (H, W, 3) uint8 frame with its dark parts lifted if it is dark, and words that say so."""
    if not 0 < image.mean() < DARK:
        return image, ""
    level = np.minimum(image / max(np.percentile(image, 99.5), 1), 1.0)
    power = 1.0
    while (level**power).mean() < LIFTED / 255 and power > 0.3:
        power -= 0.05
    return np.rint(255 * level**power).astype(np.uint8), ", image brightened"


def hatched(picture: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8 with slanted lines over what does not count, and greyed between them.

    Args:
        picture: (H, W, 3) uint8.
        counted: (H, W) bool, which pixels count; None: all.
    """
    if counted is None or counted.all():
        return picture
    rows, columns = counted.shape
    apart, wide = max(6, rows // 16), max(1, rows // 100)
    slant = np.add.outer(np.arange(rows), np.arange(columns)) % apart
    drawn = np.where(counted[..., None], picture, picture // 2 + VEIL // 2).astype(np.uint8)
    drawn[~counted & (slant < 2 * wide)] = 0  # an edge, by which the lines are seen on any colour
    drawn[~counted & (slant < wide)] = HATCH
    return drawn


def hatched_tokens(picture: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
    """The same of a (h, w, 3) picture of tokens, which is enlarged so that lines fit into one."""
    if counted is None or counted.all():
        return picture
    enlarged = [one.repeat(TOKEN, 0).repeat(TOKEN, 1) for one in (picture, counted)]
    return hatched(*enlarged)


def overlay_events(image: np.ndarray, events: Events) -> np.ndarray:
    """(H, W, 3) uint8: the frame, with pixels that have events in the colours of `draw_events`."""
    picture = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image.copy()
    drawn = draw_events(events)
    hit = (drawn != 255).any(-1)
    picture[hit] = drawn[hit]
    return picture


@dataclass(frozen=True, eq=False)
class FeatureColours:
    """The first three principal components of tokens as red, green, blue.

    Fitted once, so that pictures of different encoders or recordings are comparable.

    Args:
        mean: (D,) float64 of the tokens.
        basis: (D, 3) float64, the components.
        low: (3,) float64, what is drawn darkest.
        high: (3,) float64, what is drawn brightest.
    """

    mean: np.ndarray
    basis: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fitted(cls, tokens: np.ndarray) -> FeatureColours:
        """The basis of (..., D) tokens; 2 % of them are darker, and brighter, than is drawn."""
        flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
        mean = flat.mean(0)
        together = np.cov((flat - mean).T) if len(flat) > 1 else np.zeros(2 * mean.shape)
        _, vectors = np.linalg.eigh(together)
        basis = vectors[:, ::-1][:, :3]
        low, high = np.percentile((flat - mean) @ basis, (2, 98), axis=0)
        return cls(mean, basis, low, high)

    def components(self, tokens: np.ndarray) -> np.ndarray:
        """(..., 3) float64 of (..., D) tokens."""
        shown: np.ndarray = (tokens - self.mean) @ self.basis
        return shown

    def colours(self, components: np.ndarray) -> np.ndarray:
        """(..., 3) uint8 of (..., 3) components; NaN is black, one that never differs is half."""
        span = self.high - self.low
        alike = span < 1e-12
        scaled = (components - self.low) / np.where(alike, np.inf, span) + alike / 2
        colours: np.ndarray = np.clip(np.nan_to_num(scaled), 0, 1) * 255
        return colours.astype(np.uint8)

    def draw(self, tokens: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 picture of one sample's (L, D) tokens."""
        return self.colours(self.components(tokens)).reshape(*grid, 3)


def draw_classes(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of class ids; ids beyond the (K, 3) palette, such as ignored ones, black."""
    colours = np.concatenate([palette, np.zeros((1, 3), np.uint8)])
    drawn: np.ndarray = colours[np.minimum(ids, len(palette))]
    return drawn


def draw_depth(depth: np.ndarray, nearest: float = 2.0) -> np.ndarray:
    """(h, w, 3) uint8 of metres, by inverse depth: near is yellow, far is blue, unknown black."""
    known = np.isfinite(depth) & (depth > 0)
    closeness = nearest / np.maximum(np.where(known, depth, np.inf), nearest)
    return draw_amount(np.where(known, np.sqrt(closeness), np.nan))


def draw_flow(flow: np.ndarray, largest: float) -> np.ndarray:
    """(h, w, 3) uint8 of (2, h, w) pixels: hue is the direction, white no motion, unknown black."""
    known = np.isfinite(flow).all(0)
    u, v = np.where(known, flow, 0.0)
    hue = (np.arctan2(v, u) / (2 * np.pi)) % 1.0
    saturation = np.clip(np.hypot(u, v) / max(largest, 1e-6), 0, 1)
    planes = np.stack([hue, saturation, np.ones_like(hue)], -1)
    colours = np.array(Image.fromarray((planes * 255).astype(np.uint8), "HSV").convert("RGB"))
    colours[~known] = 0
    return colours


def draw_amount(amount: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of 0..1, dark blue over red to yellow; NaN is black."""
    known = np.isfinite(amount)
    at = np.clip(np.where(known, amount, 0.0), 0, 1)
    channels = [np.interp(at, AMOUNT_STOPS, AMOUNT_COLOURS[:, c]) for c in range(3)]
    colours: np.ndarray = np.rint(np.stack(channels, -1)).astype(np.uint8)
    colours[~known] = 0
    return colours


def distinct_colours(count: int) -> np.ndarray:
    """(count, 3) uint8 colours that are easy to tell apart; the first are always the same."""
    hue = (0.58 + 0.618_034 * np.arange(count)) % 1.0  # steps of the golden section
    level = np.array([0.95, 0.7, 0.82])[np.arange(count) % 3]
    fade = np.array([0.6, 0.85, 0.5, 0.75])[np.arange(count) % 4]
    part = (hue[:, None] * 6 + np.array([5, 3, 1])) % 6
    share = np.clip(np.minimum(part, 4 - part), 0, 1)
    colours: np.ndarray = np.rint(255 * level[:, None] * (1 - fade[:, None] * share))
    return colours.astype(np.uint8)
