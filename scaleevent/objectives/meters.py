"""How much of a teacher's tokens a student follows, beyond where in the picture a token lies.

A token of a residual is a token less the teacher's mean token of its place, over training pairs: a
student that has learnt nothing but the usual layout scores 0 in everything here but the plain
cosines, the teacher itself 1. With the scene's own mean taken off too, it scores 0 also where it
knows what kind of scene this is. All arms of a study are measured on the same tokens, whatever they
were trained on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scaleevent.grids.density import TAU, active_mask

EVALUATION_TAU = TAU  # of every run, whatever --tau and --mask it trains with
VALID_FRACTION = 0.5  # of a token's pixels that the image must show
MAP_TOKENS = 1024  # of a sample, between which similarities are compared
ROUNDING = 1e-5  # of a token's length
NOTHING = 1e-10  # of a variance of similarities, as a share of their square: rounding

TITLES = {
    "val_residual": "residual cosine, all tokens",
    "val_residual_active": "residual cosine, active tokens",
    "val_residual_inactive": "residual cosine, inactive tokens",
    "val_scene": "residual cosine less the scene's mean, all tokens",
    "val_scene_active": "residual cosine less the scene's mean, active tokens",
    "val_scene_inactive": "residual cosine less the scene's mean, inactive tokens",
    "val_map": "residual similarity maps, correlation",
    "val_cosine": "cosine to teacher, active tokens",
    "val_cosine_all": "cosine to teacher, all tokens",
}
NOTE = (
    "residual: less the teacher's mean token of the place, on training pairs: that scores 0 by "
    "construction, the teacher 1; less the scene's mean: knowing the kind of scene scores 0 too; "
    "maps: cosines between residuals of a pair, less their mean over pairs; "
    f"active: D >= {EVALUATION_TAU:g} in every run, whatever mask and threshold it trains with"
)


def shown_tokens(valid: Tensor) -> Tensor:
    """(N, L) bool: the tokens of whose pixels the image shows at least half, of (N, h, w) shares.

    No other token takes part in a loss, a calibration or a meter.
    """
    return valid.flatten(1) >= VALID_FRACTION


def evaluation_masks(density: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens count, and which of these are active: (N, L) bool both.

    Args:
        density: (N, h, w) events per native pixel of each token.
        valid: (N, h, w) fraction of each token that the image shows.
    """
    shown = shown_tokens(valid)
    return shown, active_mask(density.flatten(1), EVALUATION_TAU) & shown


class Meters:
    """Sums over held-out samples; how they were split into batches makes no difference.

    Args:
        place: (L, D) mean token of every place, see `PlaceMean`. None: only what needs no place.
    """

    def __init__(self, place: Tensor | None = None) -> None:
        self._place = place
        self._maps: MapCorrelation | None = None
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    @torch.no_grad()
    def add(self, student: Tensor, teacher: Tensor, shown: Tensor, active: Tensor) -> None:
        """Take in (N, L, D) tokens, and the (N, L) masks of `evaluation_masks`."""
        k, q = student.double(), teacher.double()
        cosine = F.cosine_similarity(k, q, dim=-1)
        self._mean("cosine", cosine, active)
        self._mean("cosine_all", cosine, shown)
        self._mean("active", active, torch.ones_like(active))
        if self._place is None:
            return
        place = self._place.to(k)
        residuals = [_above_rounding(x - place, x) * shown[..., None] for x in (k, q)]
        self._maps = self._maps or MapCorrelation(shown.shape[1])
        self._maps.add(residuals[0], residuals[1], shown)
        shares = shown.sum(1).clamp_min(1)[:, None, None]
        centred = [
            _above_rounding(x - x.sum(1, keepdim=True) / shares, tokens)
            for x, tokens in zip(residuals, (k, q), strict=True)
        ]
        for name, (a, b) in (("residual", residuals), ("scene", centred)):
            cosine = F.cosine_similarity(a, b, dim=-1)
            for part, mask in (("", shown), ("_active", active), ("_inactive", shown & ~active)):
                self._mean(name + part, cosine, mask)

    def _mean(self, name: str, values: Tensor, mask: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values[mask].double().sum())
        self._counts[name] = self._counts.get(name, 0.0) + int(mask.sum())

    def result(self) -> dict[str, float]:
        """Means over tokens, and the correlation of maps; a name without any token is left out."""
        maps = {} if self._maps is None else {"map": self._maps.result()}
        means = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        return means | maps


def _above_rounding(residual: Tensor, tokens: Tensor) -> Tensor:
    """Residuals of float32 tokens, those that are only rounding set to zero: they have no angle."""
    sizes = [torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (residual, tokens)]
    kept: Tensor = sizes[0] > ROUNDING * sizes[1]
    return residual * kept


class PlaceMean:
    """The mean token of every place over samples, added batch by batch in float64."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = torch.zeros(())

    def add(self, tokens: Tensor, shown: Tensor) -> None:
        """(N, L, D) tokens, and which of them the image shows, (N, L) bool."""
        own = tokens.double().masked_fill(~shown[..., None], 0).sum(0)
        count = shown.sum(0)[:, None]
        self._sum = own if self._sum is None else self._sum + own
        self._count = count if not self._count.ndim else self._count + count

    def mean(self) -> Tensor | None:
        """(L, D) float32; None without a sample. A place that none shows has the others' mean."""
        if self._sum is None:
            return None
        every = self._sum.sum(0) / self._count.sum().clamp_min(1)
        own = self._sum / self._count.clamp_min(1)
        return torch.where(self._count > 0, own, every).float()


class MapCorrelation:
    """Pearson correlation of two sets of cosine similarity maps, each entry less its own mean.

    The mean of an entry is over samples: a map that is the same in all of them, whatever it is,
    scores 0, and so does one that is only smooth.

    Args:
        length: Tokens of a sample; of more than `MAP_TOKENS`, so many are taken, evenly spaced.
    """

    def __init__(self, length: int) -> None:
        taken = min(length, MAP_TOKENS)
        self._taken = torch.linspace(0, length - 1, taken).round().long()
        self._counts, *self._sums = (torch.zeros(taken, taken).double() for _ in range(3))
        self._products = torch.zeros(3).double()

    def add(self, k: Tensor, q: Tensor, shown: Tensor) -> None:
        """(N, L, D) tokens of both sides, and the (N, L) mask of those that count."""
        taken = self._taken.to(k.device)
        both = shown[:, taken].double()
        a, b = (F.normalize(x[:, taken], dim=-1) * both[..., None] for x in (k, q))
        a, b = a @ a.transpose(1, 2), b @ b.transpose(1, 2)
        self._counts += (both.T @ both).cpu()
        for total, maps in zip(self._sums, (a, b), strict=True):
            total += maps.sum(0).cpu()
        self._products += torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()]).cpu()

    def result(self) -> float:
        """-1 to 1; 0 where the maps of one side do not change."""
        counts, (a, b) = self._counts.clamp_min(1), self._sums
        means = torch.stack([(x * y / counts).sum() for x, y in ((a, b), (a, a), (b, b))])
        covariance, *variances = (self._products - means).tolist()
        if any(v <= NOTHING * float(p) for v, p in zip(variances, self._products[1:], strict=True)):
            return 0.0
        return float(covariance / (variances[0] * variances[1]) ** 0.5)
