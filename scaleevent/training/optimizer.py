"""The optimiser: rates by depth, frozen parts, weight decay."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

import torch
from torch import nn

from scaleevent.system.files import Json

Freeze = Literal["none", "released", "encoder"]
# what the released code leaves as it is: class and register tokens and the final norm
# (zhiwen-xdu/ScaleEvent:scale_event/downstream/transfer_dsec_eomt.py)
RELEASED_FROZEN = ("cls_token", "reg_token", "norm.")
_ENCODER = re.compile(r"^(encoder\.)?vit\.")  # of an encoder alone, and within a task model
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    encoder_lr: float | None = None,
    lr_patch: float | None = None,
    layer_decay: float = 1.0,
    weight_decay: float = 1e-4,
    freeze: Freeze = "none",
    never: Collection[str] = (),
) -> torch.optim.AdamW:
    """AdamW over what is trained; everything else stops requiring gradients.

    Args:
        model: An encoder, or a task model with its encoder as `encoder`.
        lr: Peak rate of what is not the encoder.
        encoder_lr: Of the encoder; None is `lr`.
        lr_patch: Of the patch embedding; None is the encoder's with its layer decay.
        layer_decay: d: block i of L has the rate encoder_lr * d^(L-1-i), patch embedding and tokens
            that of block 0, the final norm encoder_lr (tue-mps/eomt:training/lightning_module.py).
        weight_decay: Of all parameters.
        freeze: `encoder`: all of it; `released`: tokens and final norm.
        never: Names of parameters that are not trained in any case.
    """
    top = lr if encoder_lr is None else encoder_lr
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    named = [
        (name, *_ENCODER.subn("", name), parameter) for name, parameter in model.named_parameters()
    ]
    depth = 1 + max((_block(own) for _, own, inside, _ in named if inside), default=0)
    for name, own, inside, parameter in named:
        stage, rate, fixed = "head", lr, name in never
        if inside:
            stage = "encoder"
            rate = top * layer_decay ** _layers_above(own, depth)
            if lr_patch is not None and own.startswith("patch_embed."):
                rate = lr_patch
            fixed |= freeze == "encoder" or freeze == "released" and own.startswith(RELEASED_FROZEN)
        parameter.requires_grad_(not fixed)
        if not fixed:
            groups.setdefault((stage, rate), []).append(parameter)
    described: list[Json] = [
        {"params": parameters, "lr": rate, "stage": stage}
        for (stage, rate), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
    return torch.optim.AdamW(described, betas=(0.9, 0.999), weight_decay=weight_decay)


def _layers_above(name: str, depth: int) -> int:
    """How many blocks lie above a parameter of the encoder."""
    return 0 if name.startswith("norm.") else depth - 1 - _block(name)


def _block(name: str) -> int:
    """Number of the block that a parameter of the encoder is in; 0 below the first."""
    found = _BLOCK.match(name)
    return int(found[1]) if found else 0
