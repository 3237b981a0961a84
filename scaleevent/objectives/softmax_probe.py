"""Class-balanced softmax regression on frozen tokens: the probe that can award a rare class.

A ridge regresses the shares of a cell and gives every token to the class of the largest share: a
class that seldom fills half a cell is never awarded, however well the tokens tell it. Here the
classes weigh as 1 / sqrt(frequency), and what is compared are log-odds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from scaleevent.objectives.probing import Features, Linear, inner_split

BALANCE = 0.5  # power of a class's frequency that its weight is divided by
STRENGTHS = tuple(10.0**power for power in range(-1, -7, -1))  # of the penalty, strongest first
CURVATURE = 0.15  # typical p (1 - p) of a class in the Hessian; a matter of speed only
STEPS = 200  # of L-BFGS
ROUGH, EXACT = 3e-6, 1e-6  # change of the objective in a step at which it ends; the last fit
MARGIN = 1e-4  # by which a weaker penalty must be better
LEAST_FREQUENCY = 1e-6  # that a bias starts from


def fit_softmax(
    features: Features, shares: Tensor, seed: int = 0, balance: float = BALANCE
) -> tuple[Linear, float]:
    """Softmax regression of the class shares of each token's cell; the strength that was chosen.

    With y_ik the share of class k in the cell of token i, f_k the mean of y_ik over all cells as a
    part of all labelled pixels, c_k = f_k^-balance scaled so that the sum of c_k f_k is 1 (0 for a
    class without a pixel), and M the sum of c_k y_ik over all i and k, it minimises over W and b

        - 1/M sum_ik c_k y_ik log softmax_k(W'x_i + b) + strength/2 |W|^2

    where x_i are the token's numbers, standardised over the training tokens, and the standardised
    one-hot code of its place where that is known. The bias is free. The strength is the one of
    `STRENGTHS` with the least first term on a quarter of the training samples, whole samples left
    out of the fit (`inner_split`); from the strongest on, each fit starts from the last, and the
    first that is not better by `MARGIN` ends it. The last fit, with that strength, is of all
    training samples.

    The optimiser is L-BFGS on coordinates in which the tokens are uncorrelated and of about equal
    curvature, in float32. The same numbers come out on the same machine with as many threads.

    Args:
        features: Of the training samples.
        shares: (N, L, K), see `class_shares`.
        seed: Of the inner split.
        balance: 0: the classes weigh the same; 0.5: as 1 / sqrt(frequency).
    """
    scale = features.scale()
    basis = _principal(features, scale)
    x = _in_basis(features, scale, basis)
    weighted = (shares * class_weights(shares, balance)).permute(2, 0, 1).float()
    whole = _Problem.of(features, x, weighted)
    point, strength = whole.start(), STRENGTHS[0]
    split = inner_split(features.samples, seed)
    if len(split) == 2:
        parts = []
        for own in split:
            few = features.take(own)
            numbers = None if x is None else x.view(features.samples, -1, x.shape[1])[own]
            few_x = None if numbers is None else numbers.flatten(0, 1)
            parts.append(_Problem.of(few, few_x, weighted[:, own]))
        fitted, checked = parts
        least, path = np.inf, point
        for one in STRENGTHS:
            path = fitted.minimum(path, one, ROUGH)
            loss, _ = checked.loss(path)
            if loss > least - MARGIN:
                break
            least, strength, point = loss, one, path
    rows = torch.from_numpy(whole.minimum(point, strength, EXACT))
    weight, offsets = basis.double() @ rows[: len(basis)], rows[len(basis) : -1]
    bias = rows[-1:]
    return Linear(*scale, weight, offsets + bias if len(offsets) else bias), strength


def class_weights(shares: Tensor, balance: float = BALANCE) -> Tensor:
    """(K,) weight of each class by its frequency in (N, L, K) shares, see `fit_softmax`."""
    frequency = shares.sum((0, 1))
    frequency = frequency / frequency.sum().clamp_min(1e-12)
    weights = torch.where(frequency > 0, frequency.clamp_min(1e-12) ** -balance, 0.0)
    return weights / (weights * frequency).sum().clamp_min(1e-12)


@dataclass(frozen=True)
class _Problem:
    """The objective over some samples; the penalty only where said.

    A point holds, row by row, the D coefficients in the basis, L offsets where the place is known,
    and the bias: (D + L + 1, K) float64. Classes come first in everything else, for speed.
    """

    x: Tensor | None  # (N * L, D) float32, or (N, D) where the tokens of a sample share them
    shares: Tensor  # (K, n, l) float32, weighted; summed over what cannot be told apart
    mass: Tensor  # (n, l) their sums over the classes
    total: float  # M
    curvature: np.ndarray  # (D + L + 1,) that of each row, about
    penalty: np.ndarray  # (D + L + 1,) factor of the strength

    @classmethod
    def of(cls, features: Features, x: Tensor | None, shares: Tensor) -> _Problem:
        """With (K, N, L) weighted shares."""
        by_place = features.by_place and features.places > 1
        if x is None:  # no sample can be told from another
            shares = shares.sum(1, keepdim=True)
            shares = shares if by_place else shares.sum(2, keepdim=True)
        mass = shares.sum(0)
        total = max(float(mass.sum()), 1e-12)
        lengths, penalty = [], []
        if x is not None:
            rows = mass.reshape(-1, 1) if len(x) == mass.numel() else mass.sum(1, keepdim=True)
            lengths.append((rows * x.square()).sum(0))
            penalty.append(np.ones(x.shape[1]))
        if by_place:
            lengths.append(mass.sum(0))
            penalty.append(np.full(features.places, features.place_variance))
        lengths.append(mass.sum()[None])
        penalty.append(np.zeros(1))
        curvature = CURVATURE * torch.cat(lengths).double().numpy() / total
        return cls(x, shares.contiguous(), mass, total, curvature, np.concatenate(penalty))

    def start(self) -> np.ndarray:
        """A point without coefficients, where the bias gives the frequencies."""
        point = np.zeros((len(self.penalty), len(self.shares)))
        frequency = self.shares.sum((1, 2)).double().numpy() / self.total
        point[-1] = np.log(np.maximum(frequency, LEAST_FREQUENCY))
        return point

    def minimum(self, start: np.ndarray, strength: float, tolerance: float) -> np.ndarray:
        """The point with the least objective, penalty included."""
        pull = (strength * self.penalty)[:, None]
        unit = 1 / np.sqrt(np.maximum(self.curvature[:, None] + pull, 1e-12))

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            point = flat.reshape(start.shape) * unit
            loss, gradient = self.loss(point)
            loss += 0.5 * float((pull * point**2).sum())
            return loss, ((gradient + pull * point) * unit).ravel()

        found = minimize(
            objective, (start / unit).ravel(), jac=True, method="L-BFGS-B",
            options={"maxiter": STEPS, "maxcor": 10, "ftol": tolerance, "gtol": 1e-6},
        )  # fmt: skip
        point: np.ndarray = found.x.reshape(start.shape) * unit
        return point

    def loss(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """The first term of the objective, and its gradient."""
        rows = torch.from_numpy(point.T.copy()).float()
        classes, dim = len(rows), 0 if self.x is None else self.x.shape[1]
        by_place = rows.shape[1] > dim + 1
        raw = rows[:, -1, None, None].expand(self.shares.shape)
        if by_place:
            raw = raw + rows[:, None, dim:-1]
        if self.x is not None:
            own = rows[:, :dim] @ self.x.T
            raw = raw + own.view(classes, len(self.mass), -1)
        logs = raw.log_softmax(0)
        loss = -float((self.shares * logs).sum(dtype=torch.float64)) / self.total
        left = logs.exp_().mul_(self.mass).sub_(self.shares).div_(self.total)
        gradient = [left.sum((1, 2))[:, None]]
        if by_place:
            gradient.insert(0, left.sum(1))
        if self.x is not None:
            by_token = len(self.x) == self.mass.numel()
            gradient.insert(0, (left.flatten(1) if by_token else left.sum(2)) @ self.x)
        return loss, torch.cat(gradient, 1).T.double().numpy()


def _principal(features: Features, scale: tuple[Tensor, Tensor]) -> Tensor:
    """(D, D) float32 directions in which the standardised numbers are uncorrelated."""
    if features.dense is None:
        return torch.empty(0, 0)
    gram = torch.zeros(len(scale[0]), len(scale[0]), dtype=torch.float64)
    for part in features.dense.flatten(0, 1).split(16_384):
        x = (part - scale[0]) / scale[1]
        gram += (x.T @ x).double()
    directions: Tensor = torch.linalg.eigh(gram)[1]
    return directions.float()


def _in_basis(features: Features, scale: tuple[Tensor, Tensor], basis: Tensor) -> Tensor | None:
    if features.dense is None:
        return None
    return ((features.dense.flatten(0, 1) - scale[0]) / scale[1]) @ basis
