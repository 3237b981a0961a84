"""How the terms of a loss stand to each other, in value and in gradient, and how to set it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from scaleevent.errors import ConfigError
from scaleevent.training.terms import Terms

TITLES = {
    "val_share_intra": "weighted IS, share of L1",
    "val_share_cross": "weighted CS, share of L1",
    "val_gradient_intra": "gradient of weighted IS, share of L1's",
    "val_gradient_cross": "gradient of weighted CS, share of L1's",
}


def shares(values: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Each weighted term but L1 as a share of weighted L1; empty where that is zero."""
    base = weights["l1"] * values["l1"]
    return {
        f"share_{name}": weights[name] * value / base
        for name, value in values.items()
        if name != "l1" and base
    }


def gradient_shares(
    terms: Terms, weights: Mapping[str, float], parameters: Iterable[nn.Parameter]
) -> dict[str, float]:
    """Norm of each weighted term's gradient as a share of L1's, and that norm (`gradient_l1`).

    The gradients are not added to the parameters'.

    Args:
        terms: Scalars with a graph, which is kept.
        weights: Factor of each.
        parameters: Those that are frozen are left out.
    """
    trained = [p for p in parameters if p.requires_grad]
    norms: dict[str, float] = {}
    for name, term in terms.items():
        found = torch.autograd.grad(
            weights[name] * term, trained, retain_graph=True, allow_unused=True
        )
        squares = [g.double().square().sum() for g in found if g is not None]
        norms[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    base = norms["l1"]
    return {"gradient_l1": base} | {
        f"gradient_{name}": norm / base for name, norm in norms.items() if name != "l1" and base
    }


def balanced(
    values: Mapping[str, float], weights: Mapping[str, float], target: float
) -> dict[str, float]:
    """Weights with which all terms but L1 together are `target` of weighted L1.

    They keep their proportion to each other.

    Raises:
        ConfigError: Nothing that could be balanced: L1, or all other terms, are zero.
    """
    found = sum(shares(values, weights).values())
    if not found > 0:
        raise ConfigError(
            "the structure terms cannot be balanced against L1",
            where="--balance",
            found=", ".join(f"{name} {value:.3g}" for name, value in values.items()),
            expected="terms above zero on training pairs, before the first step",
            hint="--mask none counts tokens without events too",
        )
    factor = target / found
    return {name: weight * (1 if name == "l1" else factor) for name, weight in weights.items()}
