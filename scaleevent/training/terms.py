"""What an objective hands to the training loop: named scalar terms, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scaleevent.errors import ConfigError

Terms = dict[str, Tensor]


def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the terms (paper eq. 5).

    Raises:
        ConfigError: A term without a weight.
    """
    unknown = terms.keys() - weights.keys()
    if unknown:
        raise ConfigError("loss terms without a weight", found=", ".join(sorted(unknown)))
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
