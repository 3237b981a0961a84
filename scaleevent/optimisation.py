"""The optimiser of a task model: rates by depth, frozen parts, weight decay."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch

from scaleevent.decoders.decoder import Decoder

Freeze = Literal["none", "released", "encoder"]
# what the released code leaves as it is: class and register tokens and the final norm
# (zhiwen-xdu/ScaleEvent:scale_event/downstream/transfer_dsec_eomt.py)
RELEASED_FROZEN = ("cls_token", "reg_token", "norm.")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def build_optimizer(
    decoder: Decoder,
    *,
    lr: float,
    encoder_lr: float | None = None,
    lr_patch: float | None = None,
    layer_decay: float = 1.0,
    weight_decay: float = 1e-4,
    freeze: Freeze = "none",
) -> torch.optim.AdamW:
    """AdamW over what is trained; everything else stops requiring gradients.

    Args:
        decoder: With its encoder.
        lr: Peak rate of the decoder's own parameters.
        encoder_lr: Of the encoder; None is `lr`.
        lr_patch: Of the patch embedding; None is the encoder's with its layer decay.
        layer_decay: d: block i of L has the rate encoder_lr * d^(L-1-i), patch embedding and tokens
            that of block 0, the final norm encoder_lr (tue-mps/eomt:training/lightning_module.py).
        weight_decay: Of all parameters.
        freeze: `encoder`: all of it; `released`: tokens and final norm.
    """
    top = lr if encoder_lr is None else encoder_lr
    groups: dict[tuple[str, float], list[torch.nn.Parameter]] = {}
    dead = set(decoder.dead_parameters())
    for name, parameter in decoder.named_parameters():
        stage, rate = "head", lr
        parameter.requires_grad_(name not in dead)
        if name.startswith("encoder.vit."):
            own = name.removeprefix("encoder.vit.")
            stage = "encoder"
            rate = top * layer_decay ** _layers_above(own, decoder.encoder.depth)
            if lr_patch is not None and own.startswith("patch_embed."):
                rate = lr_patch
            fixed = freeze == "encoder" or freeze == "released" and own.startswith(RELEASED_FROZEN)
            parameter.requires_grad_(not fixed and name not in dead)
        if parameter.requires_grad:
            groups.setdefault((stage, rate), []).append(parameter)
    described: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "stage": stage}
        for (stage, rate), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
    return torch.optim.AdamW(described, betas=(0.9, 0.999), weight_decay=weight_decay)


def _layers_above(name: str, depth: int) -> int:
    """How many blocks lie above a parameter of the encoder."""
    if name.startswith("norm."):
        return 0
    block = _BLOCK.match(name)
    return depth - 1 - (int(block[1]) if block else 0)
