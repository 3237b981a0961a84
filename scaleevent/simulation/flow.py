"""Dense optical flow between two pictures: inverse search on patches, then variational refinement.

After Kroeger, Timofte, Dai, Van Gool: "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
One thread and no fused arithmetic, so that the same pictures give the same flow everywhere.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from scaleevent.errors import DataError

PATCH, STRIDE = 8, 4  # pixels of a level
SEARCH_STEPS = 12  # of gradient descent for a patch, at most
SMALLEST_SIDE = 24  # pixels of the coarsest level, at least
FINEST = 200  # a picture whose shorter side is longer is only searched at half its size
REFINEMENTS, RELAXATIONS, OVERRELAXATION = 4, 6, 1.6
SMOOTHNESS = 10.0  # weight of the smoothness term beside the brightness term
ROBUST = 0.1  # below it, flow differences (px) and scaled brightness differences count squared

_SINGLE: Any = np.float32  # which is no float to a type checker


def optical_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Motion of every pixel of the first picture until the second.

    Args:
        first: (H, W) brightness as it is displayed, 0 to 255.
        second: (H, W), a moment later.

    Returns:
        (2, H, W) float32: pixels to the right and pixels down.

    Raises:
        DataError: Pictures of two sizes.
    """
    if np.shape(first) != np.shape(second) or np.ndim(first) != 2:
        raise DataError(
            "optical flow needs two pictures of one size",
            found=f"{np.shape(first)} and {np.shape(second)}",
        )
    pyramid = [tuple(np.ascontiguousarray(one, np.float32) for one in (first, second))]
    while min(pyramid[-1][0].shape) >= 2 * SMALLEST_SIDE:
        pyramid.append((_halved(pyramid[-1][0]), _halved(pyramid[-1][1])))
    finest = 1 if min(np.shape(first)) > FINEST and len(pyramid) > 1 else 0
    flow = np.zeros((2, *pyramid[-1][0].shape), np.float32)
    for level in range(len(pyramid) - 1, finest - 1, -1):
        before, after = pyramid[level]
        if flow.shape[1:] != before.shape:
            flow = _doubled(flow, *before.shape)
        if min(before.shape) >= PATCH:
            flow = _searched(before, after, flow)
        _refine(before, after, flow)
    return flow if finest == 0 else _doubled(flow, *pyramid[0][0].shape)


@nb.njit(nogil=True, cache=True, inline="always")
def single(value: float) -> float:
    """A number in single precision: beside a plain one, numba would compute in double."""
    rounded: float = _SINGLE(value)
    return rounded


@nb.njit(nogil=True, cache=True)
def _halved(picture: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column counts double."""
    height, width = picture.shape
    half = np.empty(((height + 1) // 2, (width + 1) // 2), np.float32)
    for row in range(half.shape[0]):
        low = min(2 * row + 1, height - 1)
        for column in range(half.shape[1]):
            right = min(2 * column + 1, width - 1)
            half[row, column] = single(0.25) * (
                picture[2 * row, 2 * column]
                + picture[2 * row, right]
                + picture[low, 2 * column]
                + picture[low, right]
            )
    return half


@nb.njit(nogil=True, cache=True, inline="always")
def sample(picture: np.ndarray, x: float, y: float) -> float:
    """A (H, W) picture at column x and row y, bilinear, the border continued."""
    height, width = picture.shape
    x = min(max(x, single(0.0)), single(width - 1))
    y = min(max(y, single(0.0)), single(height - 1))
    left, top = int(x), int(y)
    right, low = min(left + 1, width - 1), min(top + 1, height - 1)
    fx, fy = x - single(left), y - single(top)
    above = picture[top, left] + fx * (picture[top, right] - picture[top, left])
    below = picture[low, left] + fx * (picture[low, right] - picture[low, left])
    middle: float = above + fy * (below - above)
    return middle


@nb.njit(nogil=True, cache=True)
def _doubled(flow: np.ndarray, height: int, width: int) -> np.ndarray:
    """The flow of a picture of twice the size."""
    finer = np.empty((2, height, width), np.float32)
    for axis in range(2):
        for row in range(height):
            y = single(0.5 * row - 0.25)
            for column in range(width):
                x = single(0.5 * column - 0.25)
                finer[axis, row, column] = single(2.0) * sample(flow[axis], x, y)
    return finer


@nb.njit(nogil=True, cache=True)
def _gradients(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central differences to the right and down, one-sided halves at the border."""
    height, width = picture.shape
    along = np.empty((height, width), np.float32)
    down = np.empty((height, width), np.float32)
    half = single(0.5)
    for row in range(height):
        for column in range(width):
            right, left = min(column + 1, width - 1), max(column - 1, 0)
            low, top = min(row + 1, height - 1), max(row - 1, 0)
            along[row, column] = half * (picture[row, right] - picture[row, left])
            down[row, column] = half * (picture[low, column] - picture[top, column])
    return along, down


@nb.njit(nogil=True, cache=True)
def _residual(
    before: np.ndarray, after: np.ndarray, along: np.ndarray, down: np.ndarray,
    top: int, left: int, u: float, v: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Of a patch moved by (u, v): squared difference and its gradients, means taken away."""
    height, width = after.shape
    x, y = single(left) + u, single(top) + v
    x = min(max(x, single(1 - PATCH)), single(width - 1))
    y = min(max(y, single(1 - PATCH)), single(height - 1))
    column0, row0 = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - single(column0), y - single(row0)
    one = single(1.0)
    w00, w01, w10, w11 = (one - fx) * (one - fy), fx * (one - fy), (one - fx) * fy, fx * fy
    total = square = gx = gy = sum_x = sum_y = single(0.0)
    inside = row0 >= 0 and column0 >= 0 and row0 + PATCH < height and column0 + PATCH < width
    for i in range(PATCH):
        for j in range(PATCH):
            if inside:
                a, b, c, d = row0 + i, row0 + i + 1, column0 + j, column0 + j + 1
            else:
                a = min(max(row0 + i, 0), height - 1)
                b = min(max(row0 + i + 1, 0), height - 1)
                c = min(max(column0 + j, 0), width - 1)
                d = min(max(column0 + j + 1, 0), width - 1)
            moved = w00 * after[a, c] + w01 * after[a, d] + w10 * after[b, c] + w11 * after[b, d]
            difference = moved - before[top + i, left + j]
            dx, dy = along[top + i, left + j], down[top + i, left + j]
            total += difference
            square += difference * difference
            gx += dx * difference
            gy += dy * difference
            sum_x += dx
            sum_y += dy
    n = single(PATCH * PATCH)
    return square - total * total / n, gx - sum_x * total / n, gy - sum_y * total / n


@nb.njit(nogil=True, cache=True)
def _descend(
    before: np.ndarray, after: np.ndarray, along: np.ndarray, down: np.ndarray,
    top: int, left: int, u: float, v: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Motion of a patch and its squared difference, from a first guess."""
    h00 = h01 = h11 = sum_x = sum_y = single(0.0)
    for i in range(PATCH):
        for j in range(PATCH):
            dx, dy = along[top + i, left + j], down[top + i, left + j]
            h00 += dx * dx
            h01 += dx * dy
            h11 += dy * dy
            sum_x += dx
            sum_y += dy
    n = single(PATCH * PATCH)
    damping = single(4.0)  # keeps a patch without texture, or along an edge, where it is
    h00 += damping - sum_x * sum_x / n
    h01 -= sum_x * sum_y / n
    h11 += damping - sum_y * sum_y / n
    determinant = h00 * h11 - h01 * h01
    best, gx, gy = _residual(before, after, along, down, top, left, u, v)
    u0, v0 = u, v
    for _ in range(SEARCH_STEPS):
        du = (h11 * gx - h01 * gy) / determinant
        dv = (h00 * gy - h01 * gx) / determinant
        if abs(u - du - u0) > PATCH or abs(v - dv - v0) > PATCH:
            break
        cost, gx, gy = _residual(before, after, along, down, top, left, u - du, v - dv)
        if cost >= best:
            break
        best, u, v = cost, u - du, v - dv
        if du * du + dv * dv < single(1e-4):
            break
    return u, v, best


@nb.njit(nogil=True, cache=True)
def _searched(before: np.ndarray, after: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Flow from patches: descent from the guess or a neighbour's motion, the better one."""
    height, width = before.shape
    along, down = _gradients(before)
    rows = (height - PATCH + STRIDE - 1) // STRIDE + 1
    columns = (width - PATCH + STRIDE - 1) // STRIDE + 1
    motion = np.empty((rows, columns, 2), np.float32)
    costs = np.empty((rows, columns), np.float32)
    for turn in range(2):
        step = 1 if turn == 0 else -1
        for i in range(rows):
            row = i if turn == 0 else rows - 1 - i
            top = min(row * STRIDE, height - PATCH)
            for j in range(columns):
                column = j if turn == 0 else columns - 1 - j
                left = min(column * STRIDE, width - PATCH)
                if turn == 0:
                    u = guess[0, top + PATCH // 2, left + PATCH // 2]
                    v = guess[1, top + PATCH // 2, left + PATCH // 2]
                    cost, _, _ = _residual(before, after, along, down, top, left, u, v)
                else:
                    u, v = motion[row, column, 0], motion[row, column, 1]
                    cost = costs[row, column]
                other = turn == 0
                for k in range(2):
                    near_row, near_column = row - step * k, column - step * (1 - k)
                    if 0 <= near_row < rows and 0 <= near_column < columns:
                        nu = motion[near_row, near_column, 0]
                        nv = motion[near_row, near_column, 1]
                        near, _, _ = _residual(before, after, along, down, top, left, nu, nv)
                        if near < cost:
                            u, v, cost, other = nu, nv, near, True
                if other:
                    u, v, cost = _descend(before, after, along, down, top, left, u, v)
                motion[row, column, 0], motion[row, column, 1] = u, v
                costs[row, column] = cost
    return _dense(before, after, motion)


@nb.njit(nogil=True, cache=True)
def _dense(before: np.ndarray, after: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Mean motion of the patches over a pixel, each weighted by how well it explains the pixel."""
    height, width = before.shape
    flow = np.zeros((2, height, width), np.float32)
    weights = np.zeros((height, width), np.float32)
    for row in range(motion.shape[0]):
        top = min(row * STRIDE, height - PATCH)
        for column in range(motion.shape[1]):
            left = min(column * STRIDE, width - PATCH)
            u, v = motion[row, column, 0], motion[row, column, 1]
            for y in range(top, top + PATCH):
                for x in range(left, left + PATCH):
                    moved = sample(after, single(x) + u, single(y) + v)
                    error = abs(moved - before[y, x])
                    weight = single(1.0) / max(single(1.0), error)
                    flow[0, y, x] += weight * u
                    flow[1, y, x] += weight * v
                    weights[y, x] += weight
    flow /= weights
    return flow


@nb.njit(nogil=True, cache=True)
def _refine(before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> None:
    """Lower a robust brightness difference plus a robust flow difference of neighbours, in place.

    The brightness term is linear around the current flow and divided by the squared gradient; each
    round solves for the increment by successive overrelaxation.
    """
    height, width = before.shape
    along0, down0 = _gradients(before)
    along1, down1 = _gradients(after)
    terms = np.empty((5, height, width), np.float32)  # of the normal equations
    smooth = np.empty((height, width), np.float32)
    change = np.zeros((2, height, width), np.float32)
    half, tiny = single(0.5), single(ROBUST * ROBUST)
    for _ in range(REFINEMENTS):
        for y in range(height):
            for x in range(width):
                px, py = single(x) + flow[0, y, x], single(y) + flow[1, y, x]
                dx = half * (along0[y, x] + sample(along1, px, py))
                dy = half * (down0[y, x] + sample(down1, px, py))
                dt = sample(after, px, py) - before[y, x]
                scale = single(1.0) / (dx * dx + dy * dy + single(10.0))
                inside = 0 <= px <= width - 1 and 0 <= py <= height - 1
                data = scale / np.sqrt(dt * dt * scale + tiny) if inside else single(0.0)
                terms[0, y, x], terms[1, y, x] = data * dx * dx, data * dx * dy
                terms[2, y, x] = data * dy * dy
                terms[3, y, x], terms[4, y, x] = data * dx * dt, data * dy * dt
                right, low = min(x + 1, width - 1), min(y + 1, height - 1)
                jump = single(0.0)
                for axis in range(2):
                    here = flow[axis, y, x]
                    jump += (flow[axis, y, right] - here) ** 2 + (flow[axis, low, x] - here) ** 2
                smooth[y, x] = single(SMOOTHNESS * 0.1) / np.sqrt(jump + tiny)
        change[:] = 0
        _relax(flow, change, terms, smooth)
        flow += change


@nb.njit(nogil=True, cache=True)
def _relax(flow: np.ndarray, change: np.ndarray, terms: np.ndarray, smooth: np.ndarray) -> None:
    """Solve for the change of the flow, in place, by rows from the top."""
    height, width = smooth.shape
    omega, one, least = single(OVERRELAXATION), single(1.0), single(1e-12)
    for _ in range(RELAXATIONS):
        for y in range(height):
            for x in range(width):
                weights = pull_u = pull_v = single(0.0)
                for k in range(4):
                    ny, nx = y + (k == 2) - (k == 3), x + (k == 0) - (k == 1)
                    if ny < 0 or nx < 0 or ny >= height or nx >= width:
                        continue
                    weight = smooth[min(y, ny), min(x, nx)]
                    weights += weight
                    pull_u += weight * (flow[0, ny, nx] + change[0, ny, nx] - flow[0, y, x])
                    pull_v += weight * (flow[1, ny, nx] + change[1, ny, nx] - flow[1, y, x])
                u, v = change[0, y, x], change[1, y, x]
                cross = terms[1, y, x]
                new = (pull_u - terms[3, y, x] - cross * v) / (terms[0, y, x] + weights + least)
                u = (one - omega) * u + omega * new
                new = (pull_v - terms[4, y, x] - cross * u) / (terms[2, y, x] + weights + least)
                change[0, y, x], change[1, y, x] = u, (one - omega) * v + omega * new
