"""Linear probes in closed form: what can be read from frozen tokens, or from their place alone.

`Features` are what a probe is given, `Linear` is what it becomes. Classes are read by
`ridge_probe` here and by `scaleevent.objectives.softmax_probe`, depth by `fit_log_depth`; all take
the same features, so that what knows only a token's place, or only the scene and the place, is
fitted as the encoders are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scaleevent.objectives.probe_scores import confusions, overlap

RIDGE = 1.0  # on standardised tokens, per training token
INNER = 0.25  # of the training samples, left out while a strength is chosen
DEPTH_STRENGTHS = tuple(10.0**power for power in range(-1, -7, -1))  # a unit of weight
ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Features:
    """What a linear probe knows of the L tokens of each of N samples: numbers, place, or both.

    Args:
        samples: N.
        places: L.
        dense: (N, L, D) float32, or (N, 1, D) where all tokens of a sample share them.
        by_place: It knows where a token lies, as from a one-hot code of the place.
    """

    samples: int
    places: int
    dense: Tensor | None = None
    by_place: bool = False

    @classmethod
    def tokens(cls, tokens: Tensor) -> Features:
        """An encoder's (N, L, D) tokens."""
        samples, places = tokens.shape[:2]
        return cls(samples, places, tokens.float())

    @classmethod
    def place(cls, samples: int, places: int) -> Features:
        """Nothing but the place."""
        return cls(samples, places, by_place=True)

    @classmethod
    def scene_and_place(cls, tokens: Tensor) -> Features:
        """The mean of each sample's (N, L, D) tokens, for all of its places, and the place."""
        samples, places = tokens.shape[:2]
        return cls(samples, places, tokens.float().mean(1, keepdim=True), by_place=True)

    def take(self, samples: np.ndarray) -> Features:
        """Some of the samples, by index."""
        dense = None if self.dense is None else self.dense[torch.from_numpy(samples)]
        return replace(self, samples=len(samples), dense=dense)

    def scale(self) -> tuple[Tensor, Tensor]:
        """(D,) float32 mean and standard deviation of the numbers over all tokens; (0,) of none."""
        if self.dense is None:
            return torch.empty(0), torch.empty(0)
        flat = self.dense.flatten(0, 1).double()
        mean = flat.mean(0)
        rows = self.samples * self.places
        variance = (flat - mean).square().sum(0) * (rows / len(flat)) / max(rows - 1, 1)
        return mean.float(), variance.sqrt().clamp_min(1e-6).float()

    @property
    def place_variance(self) -> float:
        """That of a column of the one-hot code of L places, over all tokens.

        Standardised with it the code gives a token of place p the offset (w_p - mean of w) / s. At
        the optimum w has no mean, so the penalty |w|^2 is s^2 times the squared offsets: the form
        in which offsets are fitted here, without a code.
        """
        rows = self.samples * self.places
        return (1 - 1 / self.places) / self.places * rows / max(rows - 1, 1)


@dataclass(frozen=True)
class Linear:
    """A fitted probe with K outputs.

    Args:
        mean: (D,) taken off the numbers.
        std: (D,) they are divided by.
        weight: (D, K).
        offsets: (L, K), or (1, K) where the place is not known.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    offsets: Tensor

    def scores(self, features: Features) -> Tensor:
        """(N, L, K) outputs for every token."""
        found = self.offsets.expand(features.samples, features.places, -1)
        if features.dense is None:
            return found
        return found + ((features.dense - self.mean) / self.std).to(self.weight) @ self.weight


@dataclass(frozen=True)
class Moments:
    """Weighted sums over tokens from which least squares follow; those of parts add up, float64.

    A token's row x is its D standardised numbers and a 1; y its K targets, w its weight.
    """

    gram: Tensor  # (D + 1, D + 1) sum of w x x'
    cross: Tensor  # (D + 1, L) sum of w x of each place
    mass: Tensor  # (L,) sum of w of each place
    sums: Tensor  # (D + 1, K) sum of w x y'
    place_sums: Tensor  # (L, K) sum of w y of each place
    squares: float  # sum of w |y|^2

    @classmethod
    def of(
        cls, features: Features, scale: tuple[Tensor, Tensor], targets: Tensor, weights: Tensor
    ) -> Moments:
        """Those of `features`, with (N, L, K) `targets` and (N, L) `weights`, both float64."""
        mean, std = scale
        weighted = targets * weights[..., None]
        mass, place_sums = weights.sum(0), weighted.sum(0)
        dim, places = len(mean) + 1, features.places
        gram = torch.zeros(dim, dim, dtype=torch.float64)
        cross = torch.zeros(dim, places, dtype=torch.float64)
        sums = torch.zeros(dim, targets.shape[-1], dtype=torch.float64)
        step = max(1, ROWS_AT_ONCE // (1 if features.dense is None else features.dense.shape[1]))
        for first in range(0, features.samples, step):
            part = slice(first, first + step)
            w, wy = weights[part], weighted[part]
            if features.dense is None:
                x = torch.ones(len(w), 1, 1, dtype=torch.float64)
            else:
                x = F.pad(((features.dense[part] - mean) / std).double(), (0, 1), value=1.0)
            if x.shape[1] == 1:
                flat = x[:, 0]
                gram += flat.T @ (flat * w.sum(1, keepdim=True))
                sums += flat.T @ wy.sum(1)
                cross += flat.T @ w
            else:
                wx = (x * w[..., None]).flatten(0, 1)
                gram += x.flatten(0, 1).T @ wx
                sums += x.flatten(0, 1).T @ wy.flatten(0, 1)
                cross += (x * w[..., None]).sum(0).T
        return cls(gram, cross, mass, sums, place_sums, float((weighted * targets).sum()))

    def __add__(self, other: Moments) -> Moments:
        return Moments(**{k: v + getattr(other, k) for k, v in vars(self).items()})

    def solve(self, strength: float, place_variance: float | None) -> tuple[Tensor, Tensor]:
        """Coefficients (D + 1, K) and offsets (L, K) of the ridge.

        They minimise the sum of w |y - coefficients' x - offset|^2, plus `strength` times the
        squares of all coefficients but the last, which belongs to the 1, and `place_variance` times
        those of the offsets. `place_variance` None: without offsets.
        """
        penalty = torch.full((len(self.gram),), strength, dtype=torch.float64)
        penalty[-1] = 0
        gram, right = self.gram + penalty.diag(), self.sums
        if place_variance is None:
            return torch.linalg.solve(gram, right), torch.zeros_like(self.place_sums)
        mass = self.mass + strength * place_variance
        shifted = self.cross / mass  # the offsets, eliminated
        gram = gram - shifted @ self.cross.T
        found = torch.linalg.solve(gram, right - shifted @ self.place_sums)
        return found, (self.place_sums - self.cross.T @ found) / mass[:, None]

    def error(self, found: Tensor, offsets: Tensor) -> float:
        """The sum of w |y - prediction|^2 of coefficients and offsets as `solve` gives them."""
        explained = (found * self.sums).sum() + (offsets * self.place_sums).sum()
        norm = (found * (self.gram @ found)).sum() + 2 * (found * (self.cross @ offsets)).sum()
        norm = norm + (self.mass[:, None] * offsets.square()).sum()
        return self.squares - 2 * float(explained) + float(norm)


def fit_ridge(features: Features, targets: Tensor, strength: float = RIDGE) -> Linear:
    """Least squares on standardised features, all tokens of equal weight, with an L2 penalty.

    Minimises over W and b the sum over tokens of |y - W'x - b|^2 + strength |W|^2.

    Args:
        features: Of the training samples.
        targets: (N, L, K) float64.
        strength: Of the penalty.
    """
    scale = features.scale()
    weights = torch.ones(targets.shape[:2], dtype=torch.float64)
    moments = Moments.of(features, scale, targets, weights)
    return _linear(scale, *moments.solve(strength, _penalised(features)))


def fit_log_depth(
    features: Features, targets: Tensor, weights: Tensor, seed: int = 0
) -> tuple[Linear, float]:
    """A ridge on the mean log depth of each token's cell, and the strength that was chosen.

    Minimises over w and b the sum over tokens of share (y - w'x - b)^2 + strength M |w|^2, with
    `share` the known part of a cell and M its sum. The strength of `DEPTH_STRENGTHS` is the one
    that predicts a quarter of the training samples best, see `inner_split`; the fit is of all.

    Args:
        features: Of the training samples.
        targets: (N, L) float64 mean log metres; any number where nothing is known.
        weights: (N, L) float64, 0 to 1: the known part of each cell, not all 0.
        seed: Of the inner split.
    """
    scale, variance = features.scale(), _penalised(features)
    parts = [
        Moments.of(features.take(own), scale, targets[own, :, None], weights[own])
        for own in inner_split(features.samples, seed)
    ]
    if len(parts) == 1 or not float(parts[1].mass.sum()) or not float(parts[0].mass.sum()):
        whole, strength = sum(parts[1:], parts[0]), DEPTH_STRENGTHS[0]
    else:
        fitted, checked = parts
        whole, mass = fitted + checked, float(fitted.mass.sum())
        errors = [checked.error(*fitted.solve(s * mass, variance)) for s in DEPTH_STRENGTHS]
        strength = DEPTH_STRENGTHS[int(np.argmin(errors))]
    return _linear(scale, *whole.solve(strength * float(whole.mass.sum()), variance)), strength


def inner_split(samples: int, seed: int) -> list[np.ndarray]:
    """Ascending indices to fit a strength on, and those to choose it by; whole samples, seeded.

    All in the first, and no second, where there are fewer than 4.
    """
    if samples < 4:
        return [np.arange(samples)]
    drawn = np.random.default_rng([seed, samples]).permutation(samples)
    held = round(INNER * samples)
    return [np.sort(drawn[held:]), np.sort(drawn[:held])]


def ridge_probe(
    train_tokens: Tensor,
    train_labels: Tensor,
    tokens: Tensor,
    labels: Tensor,
    grid: tuple[int, int],
    classes: int,
) -> np.ndarray:
    """Fit class fractions of each token's cell by ridge regression; score pixels on other samples.

    Args:
        train_tokens: (N, L, D) float.
        train_labels: (N, H, W) uint8 class ids.
        tokens: (M, L, D) float, of samples the fit does not see.
        labels: (M, H, W) uint8 class ids; ids from `classes` on are ignored.
        grid: (h, w) of the tokens.
        classes: Number of classes.

    Returns:
        (classes,) intersection over union; NaN for classes absent from prediction and labels.
    """
    fitted = fit_ridge(Features.tokens(train_tokens), class_shares(train_labels, grid, classes))
    return overlap(confusions(fitted.scores(Features.tokens(tokens)), labels, grid).sum(0))


def place_probe(
    train_labels: Tensor, labels: Tensor, grid: tuple[int, int], classes: int
) -> np.ndarray:
    """`ridge_probe` on tokens that are the one-hot of their own place, and know nothing else.

    The normal equations fall apart, and nothing of size N L x L is made.

    Args:
        train_labels: (N, H, W) uint8 class ids.
        labels: (M, H, W) uint8 class ids; ids from `classes` on are ignored.
        grid: (h, w) of the tokens.
        classes: Number of classes.

    Returns:
        As `ridge_probe`.
    """
    places = grid[0] * grid[1]
    shares = class_shares(train_labels, grid, classes)
    fitted = fit_ridge(Features.place(len(shares), places), shares)
    scores = fitted.scores(Features.place(len(labels), places))
    return overlap(confusions(scores, labels, grid).sum(0))


def class_shares(labels: Tensor | Sequence[Tensor], grid: tuple[int, int], classes: int) -> Tensor:
    """(N, L, K) float64: which part of each token's cell is of each class, of (H, W) labels."""
    ids = torch.arange(classes)[:, None, None]
    return torch.stack([cell_means((label == ids).double(), grid).T for label in labels])


def log_depths(
    depths: Tensor | Sequence[Tensor], grid: tuple[int, int], most: float
) -> tuple[Tensor, Tensor]:
    """Mean log depth of each token's cell, and which part of it is known; (N, L) float64 each.

    Args:
        depths: (H, W) float metres each; NaN, or not above 0, where unknown.
        grid: (h, w) of the tokens.
        most: Depth in metres beyond which it counts as unknown.
    """
    means, shares = [], []
    for depth in depths:
        known = (depth > 0) & (depth <= most)
        logs = torch.where(known, depth, 1.0).double().log()
        total, share = cell_means(torch.stack([logs, known.double()]), grid)
        means.append(total / share.clamp_min(1e-12))
        shares.append(share)
    return torch.stack(means), torch.stack(shares)


def cell_means(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(C, L): means of (C, H, W) values over each token's cell."""
    return F.adaptive_avg_pool2d(values[None], grid)[0].flatten(1)


def _penalised(features: Features) -> float | None:
    """`place_variance` where offsets of places are fitted: one place has none."""
    return features.place_variance if features.by_place and features.places > 1 else None


def _linear(scale: tuple[Tensor, Tensor], found: Tensor, offsets: Tensor) -> Linear:
    return Linear(*scale, found[:-1], offsets + found[-1])
