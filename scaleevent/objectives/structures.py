"""Forms of the structure loss by name; no torch, so that help can list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from scaleevent.errors import ConfigError


@dataclass(frozen=True)
class Structure:
    """How similarity maps are made, compared and averaged."""

    # "cosine" normalises tokens first, "dot" takes raw inner products
    similarity: Literal["cosine", "dot"] = "cosine"
    # "mse" squares the differences of two maps, "l1" takes their absolute value
    distance: Literal["mse", "l1"] = "mse"
    # compare only entries whose teacher similarity exceeds this, and take negative student
    # similarities as zero. None compares everything as it is.
    gate: float | None = 0.1
    # What the sum over a batch of N samples of L tokens of D channels is divided by, masked tokens
    # counted too. "sum": N. "rowsum": N L. "mean": N L D for the token term, N L L for maps.
    reduction: Literal["mean", "rowsum", "sum"] = "mean"

    def __post_init__(self) -> None:
        """Refuse unknown options."""
        for name, kind in get_type_hints(Structure).items():
            value, known = getattr(self, name), get_args(kind)
            if get_origin(kind) is Literal and value not in known:
                raise ConfigError(f"unknown {name}", found=value, expected=" or ".join(known))
        if self.gate is not None and self.gate < 0:
            raise ConfigError("gate must not be negative", found=self.gate, expected=">= 0 or None")


STRUCTURES: dict[str, Structure] = {
    # zhiwen-xdu/ScaleEvent:scale_event/pretrain/criterion.py, DistillLoss_With_CrossGram
    "released": Structure("cosine", "mse", gate=0.1, reduction="mean"),
    # paper eq. 1, 3, 4 as printed: sums over a sample (its N counts samples, section 3.1)
    "equation": Structure("dot", "l1", gate=None, reduction="sum"),
    # the same, averaged over the tokens too: with N read as the number of tokens
    "equation-row": Structure("dot", "l1", gate=None, reduction="rowsum"),
    # the same, averaged over all entries
    "equation-mean": Structure("dot", "l1", gate=None, reduction="mean"),
    # the equations read on cosine maps, averaged over all entries
    "cosine-l1": Structure("cosine", "l1", gate=None, reduction="mean"),
}

# What saved states call these forms: once "equation" was the name of "equation-row".
NAMES_IN_STATES = {"equation": "equation (sums over a sample)", "equation-row": "equation"}
