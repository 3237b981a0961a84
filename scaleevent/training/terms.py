"""What the training loop is given: loss terms, their weighted sum, and metrics to log."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from scaleevent.errors import ConfigError

Terms = dict[str, Tensor]  # scalars by name
Metrics = dict[str, Callable[[], float]]  # by name; computed only where they are logged


def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the terms (paper eq. 5).

    Raises:
        ConfigError: A term without a weight.
    """
    unknown = terms.keys() - weights.keys()
    if unknown:
        raise ConfigError("loss terms without a weight", found=", ".join(sorted(unknown)))
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
