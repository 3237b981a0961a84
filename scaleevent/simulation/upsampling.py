"""Pictures between two frames, so that nothing moves more than a pixel from one to the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba as nb
import numpy as np

from scaleevent.simulation.flow import optical_flow, sample, single

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear sRGB, ITU-R BT.709
MOST_STEPS = 128  # intervals that one between two frames is cut into
VISIBLE = 2.0  # brightness levels of 255: motion of what differs less does not count
AGREES = 1.0  # pixels: two flows that differ more see two surfaces
UNSURE = 16.0  # pixels that a motion counts at most where the other flow does not confirm it
TILE, BESIDE = 16, 2  # side of a tile, and how near motion counts for it too, pixels
SEARCHES = 3  # of the motion that brings something to a pixel, at most
SURE = 0.5  # pixels of disagreement, or brightness levels, that leave no doubt about a motion


@dataclass(frozen=True, eq=False)
class Between:
    """What lies between two frames.

    Args:
        motion: Pixels that the fastest visible thing moves from the first frame to the second.
        at: From the fraction of the time that has passed, more than 0 and less than 1, to the
            (H, W, C) float32 picture.
        matched: Share of the picture whose motion is the same seen from either frame.
    """

    motion: float
    at: Callable[[float], np.ndarray]
    matched: float = 1.0

    def steps(self, step_px: float = 1.0) -> int:
        """Number of equal intervals in which nothing moves more than `step_px`, 1 to a limit."""
        return min(max(math.ceil(self.motion / step_px - 1e-6), 1), MOST_STEPS)


Interpolator = Callable[[np.ndarray, np.ndarray], Between]
"""From two (H, W, 1 or 3) float32 pictures of linear light, 1 = white, to what lies between."""


def brightness(light: np.ndarray) -> np.ndarray:
    """(H, W) float32, 0 to 255, near what a display shows, of (H, W, 1 or 3) linear light."""
    return np.asarray(255.0 * np.sqrt(np.clip(luminance(light), 0.0, 1.0)), np.float32)


def luminance(light: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W, 1 or 3) linear light: grey, or red, green and blue."""
    return np.asarray(light[..., 0] if light.shape[2] == 1 else light @ LUMINANCE)


def by_flow(first: np.ndarray, second: np.ndarray, step_px: float = 1.0) -> Between:
    """The built-in interpolator: optical flow in both directions, and blending that sees occlusion.

    For each pixel and time, two motions are tried: the one that carries something of the first
    frame there, and the one that carries it on to something of the second (Baker et al., "A
    Database and Evaluation Methodology for Optical Flow", IJCV 2011, section 3.3.3, does so by
    splatting). The one that both flows and both pictures confirm is taken. A frame in which the
    place is hidden, as the other flow there disagrees, counts little.

    A tile of the picture is made as often as the fastest thing that crosses it moves `step_px`, and
    fades in between: to ESIM, whose light changes linearly, that is the same. Motion that only one
    of the flows sees is often no motion; it counts as 16 pixels at most.

    Args:
        first: (H, W, 1 or 3) float32 linear light, 1 = white.
        second: The same, later.
        step_px: Pixels.

    Raises:
        DataError: Pictures of two sizes.
    """
    before, after = brightness(first), brightness(second)
    forward, backward = optical_flow(before, after), optical_flow(after, before)
    rows, columns = (-(-side // TILE) for side in before.shape)
    speeds = np.zeros((rows, columns), np.float32)
    matched = _speeds(before, after, forward, backward, speeds)
    first, second = (np.ascontiguousarray(one, np.float32) for one in (first, second))
    there, back = (np.ascontiguousarray(flow.transpose(1, 2, 0)) for flow in (forward, backward))
    counts = np.clip(np.ceil(speeds / step_px - 1e-6), 1, MOST_STEPS).astype(np.int64)
    made = np.full((rows, columns), -1)
    low, high = np.empty_like(first), np.empty_like(first)

    def at(fraction: float) -> np.ndarray:
        picture = np.empty_like(first)
        _between(
            before, after, there, back, first, second, fraction, counts, made, low, high, picture
        )
        return picture

    return Between(float(speeds.max()), at, matched)


@nb.njit(nogil=True, cache=True)
def _speeds(
    before: np.ndarray, after: np.ndarray, forward: np.ndarray, backward: np.ndarray,
    speeds: np.ndarray,
) -> float:  # fmt: skip
    """Fill in the largest motion of what is seen to cross a tile; the share where flows agree."""
    height, width = before.shape
    agree, seen = 0, 0
    for y in range(height):
        for x in range(width):
            right, low = min(x + 1, width - 1), min(y + 1, height - 1)
            for k in range(2):
                picture, flow = (before, forward) if k == 0 else (after, backward)
                other = backward if k == 0 else forward
                u, v = flow[0, y, x], flow[1, y, x]
                px, py = single(x) + u, single(y) + v
                inside = 0 <= px <= width - 1 and 0 <= py <= height - 1
                du, dv = u + sample(other[0], px, py), v + sample(other[1], px, py)
                size = np.sqrt(u * u + v * v)
                sure = du * du + dv * dv < (AGREES + 0.05 * size) ** 2
                if k == 0 and inside:
                    seen += 1
                    agree += sure
                across = picture[y, right] - picture[y, x]
                down = picture[low, x] - picture[y, x]
                if across * across + down * down > VISIBLE * VISIBLE:
                    if not sure and size > UNSURE:
                        u, v = u * single(UNSURE) / size, v * single(UNSURE) / size
                    _mark(speeds, x, y, u, v, height, width)
    return agree / max(seen, 1)


@nb.njit(nogil=True, cache=True)
def _mark(speeds: np.ndarray, x: int, y: int, u: float, v: float, height: int, width: int) -> None:
    """Tell all tiles on the way of a pixel, and those beside it, how far it goes."""
    speed = np.sqrt(u * u + v * v)
    parts = int(speed / (TILE // 2)) + 1
    for k in range(parts + 1):
        px, py = int(x + u * k / parts), int(y + v * k / parts)
        for corner in range(4):
            cx = px + (BESIDE if corner % 2 else -BESIDE)
            cy = py + (BESIDE if corner // 2 else -BESIDE)
            if 0 <= cx < width and 0 <= cy < height and speeds[cy // TILE, cx // TILE] < speed:
                speeds[cy // TILE, cx // TILE] = speed


@nb.njit(nogil=True, cache=True, inline="always")
def _motion(flow: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """A (H, W, 2) flow at column x and row y, bilinear, the border continued."""
    height, width, _ = flow.shape
    x = min(max(x, single(0.0)), single(width - 1))
    y = min(max(y, single(0.0)), single(height - 1))
    left, top = int(x), int(y)
    right, low = min(left + 1, width - 1), min(top + 1, height - 1)
    fx, fy = x - single(left), y - single(top)
    above = flow[top, left, 0] + fx * (flow[top, right, 0] - flow[top, left, 0])
    below = flow[low, left, 0] + fx * (flow[low, right, 0] - flow[low, left, 0])
    u = above + fy * (below - above)
    above = flow[top, left, 1] + fx * (flow[top, right, 1] - flow[top, left, 1])
    below = flow[low, left, 1] + fx * (flow[low, right, 1] - flow[low, left, 1])
    return u, above + fy * (below - above)


@nb.njit(nogil=True, cache=True)
def _between(
    before: np.ndarray, after: np.ndarray, forward: np.ndarray, backward: np.ndarray,
    first: np.ndarray, second: np.ndarray, fraction: float, counts: np.ndarray, made: np.ndarray,
    low: np.ndarray, high: np.ndarray, picture: np.ndarray,
) -> None:  # fmt: skip
    """Fill `picture`, tile by tile, between what was made of the tile before and after `fraction`.

    `counts` are a tile's intervals; `made` is the one whose ends `low` and `high` hold, if any.
    """
    height, width, _ = picture.shape
    for i in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            count, top, left = counts[i, j], i * TILE, j * TILE
            ys, xs = slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))
            interval = min(int(fraction * count + 1e-9), count - 1)
            if made[i, j] != interval:
                for end in range(2):
                    place = low if end == 0 else high
                    s = (interval + end) / count
                    if interval + end == 0:
                        place[ys, xs] = first[ys, xs]
                    elif interval + end == count:
                        place[ys, xs] = second[ys, xs]
                    elif end == 0 and made[i, j] == interval - 1:
                        place[ys, xs] = high[ys, xs]
                    else:
                        _blend(before, after, forward, backward, first, second, s, top, left, place)
                made[i, j] = interval
            part = np.float32(fraction * count - interval)
            for y in range(ys.start, ys.stop):
                for x in range(xs.start, xs.stop):
                    for c in range(picture.shape[2]):
                        picture[y, x, c] = low[y, x, c] + part * (high[y, x, c] - low[y, x, c])


@nb.njit(nogil=True, cache=True)
def _blend(
    before: np.ndarray, after: np.ndarray, forward: np.ndarray, backward: np.ndarray,
    first: np.ndarray, second: np.ndarray, fraction: float, top: int, left: int,
    picture: np.ndarray,
) -> None:  # fmt: skip
    """Fill a tile of `picture` (H, W, C), a part of the way from `first` to `second`.

    `forward` and `backward` are (H, W, 2) here.
    """
    height, width, channels = picture.shape
    s = single(fraction)
    one, four = single(1.0), single(4.0)
    for y in range(top, min(top + TILE, height)):
        for x in range(left, min(left + TILE, width)):
            best = single(np.inf)
            x0 = y0 = x1 = y1 = weight = single(0.0)
            for candidate in range(2):
                flow = forward if candidate == 0 else backward
                sign, part = (one, -s) if candidate == 0 else (-one, one - s)
                u, v = sign * flow[y, x, 0], sign * flow[y, x, 1]
                for _ in range(SEARCHES):
                    nu, nv = _motion(flow, single(x) + part * u, single(y) + part * v)
                    nu, nv = sign * nu, sign * nv
                    still = abs(nu - u) + abs(nv - v) < SURE
                    u, v = nu, nv
                    if still:
                        break
                ax, ay = single(x) - s * u, single(y) - s * v
                bx, by = single(x) + (one - s) * u, single(y) + (one - s) * v
                u0, v0 = _motion(forward, ax, ay)
                u1, v1 = _motion(backward, bx, by)
                d0, d1 = abs(u0 - u) + abs(v0 - v), abs(u1 + u) + abs(v1 + v)
                error = abs(sample(before, ax, ay) - sample(after, bx, by))
                more, less = max(d0, d1), min(d0, d1)
                cost = error / (one + more) + four * less + min(more, four)
                if cost < best:
                    best = cost
                    x0, y0, x1, y1 = ax, ay, bx, by
                    w0 = (one - s) * _seen(d0, ax, ay, height, width)
                    w1 = s * _seen(d1, bx, by, height, width)
                    weight = w1 / (w0 + w1)
                if cost < SURE:  # both flows and both pictures confirm it
                    break
            for c in range(channels):
                a, b = sample(first[..., c], x0, y0), sample(second[..., c], x1, y1)
                picture[y, x, c] = a + weight * (b - a)


@nb.njit(nogil=True, cache=True, inline="always")
def _seen(disagreement: float, x: float, y: float, height: int, width: int) -> float:
    """How far a frame shows something, from the flow there and whether it is inside."""
    outside = x < -0.5 or y < -0.5 or x > width - 0.5 or y > height - 0.5
    if outside:
        return single(1e-3)
    d = disagreement / single(AGREES)
    return single(1e-3) + single(1.0) / (single(1.0) + d * d * d * d)
