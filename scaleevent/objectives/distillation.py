"""Teacher tokens from the image, student tokens from the voxel, and what is compared of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scaleevent.encoders.encoder import Encoder
from scaleevent.grids.density import REFERENCE_PIXELS, TAU, active_mask
from scaleevent.objectives.structure_loss import distillation_terms, effective_rank, mean_cosine
from scaleevent.pairs.samples import Batch
from scaleevent.training.terms import Terms

DINOV3_TOKEN_RMS = 0.2  # lambdas 10 and 4 assume tokens of about this size
VALID_SHARE = 0.5  # of a token's pixels that the image must show


@dataclass(frozen=True)
class Distillation:
    """The comparison of one batch.

    Args:
        teacher: Frozen image encoder.
        student: Event encoder, perhaps wrapped for several ranks; called on voxels.
        structure: Key of `scaleevent.objectives.structure_loss.STRUCTURES`.
        mask: `hard`: tokens with D >= tau (paper eq. 2). `soft`: weight min(1, D / tau). `none`:
            all tokens. Tokens that the image does not show never count.
        tau: Threshold per 16x16 patch.
        scale: Factor on both token sets, see `token_scale`.
    """

    teacher: Encoder
    student: nn.Module
    structure: str = "released"
    mask: Literal["hard", "soft", "none"] = "hard"
    tau: float = TAU
    scale: float = 1.0

    def weights(self, batch: Batch) -> Tensor:
        """(N, L) weight of every token, 0 to 1: bool for a hard mask."""
        density, valid = batch["density"].flatten(1), batch["valid"].flatten(1) >= VALID_SHARE
        if self.mask == "none":
            return valid
        if self.mask == "hard":
            return active_mask(density, self.tau) & valid
        share = (
            (density * REFERENCE_PIXELS / self.tau).clamp(max=1) if self.tau else density * 0 + 1
        )
        return (share * valid).float()

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Student and teacher tokens, (N, L, D) each, scaled."""
        with torch.no_grad():
            teacher = self.teacher.tokens(batch["image"])
        return self.student(batch["voxel"]) * self.scale, teacher * self.scale

    def __call__(self, batch: Batch) -> tuple[Terms, dict[str, Callable[[], float]]]:
        """Loss terms, and further numbers that are computed only if asked for."""
        student, teacher = self.tokens(batch)
        weights = self.weights(batch)
        terms = distillation_terms(student.float(), teacher.float(), weights, self.structure)
        seen = weights > 0
        return terms, {
            "active": lambda: float(seen.double().mean()),
            "valid": lambda: float((batch["valid"] >= VALID_SHARE).double().mean()),
            "empty_samples": lambda: float((~seen.any(1)).double().mean()),
            "rank": lambda: effective_rank(student.detach()),
            "cosine": lambda: mean_cosine(student.detach(), teacher, weights),
        }


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    return Batch(**moved)


@torch.no_grad()
def token_scale(teacher: Encoder, batches: Iterable[Batch]) -> float:
    """Factor that brings the teacher's tokens to the root mean square of DINOv3's.

    L1 grows with the tokens and cosine maps do not, so the lambdas balance them only at one size.
    """
    total, count = 0.0, 0
    device = next(teacher.parameters()).device
    for batch in batches:
        tokens = teacher.tokens(batch["image"].to(device)).double()
        total += float(tokens.square().sum())
        count += tokens.numel()
    return DINOV3_TOKEN_RMS / (total / count) ** 0.5


@torch.no_grad()
def validate(
    distillation: Distillation, batches: Iterable[Batch], weights: dict[str, float]
) -> dict[str, float]:
    """Means over held-out samples: loss terms, cosine to the teacher (active and all), rank."""
    sums: dict[str, float] = {}
    kept: list[Tensor] = []
    count = 0
    device = next(distillation.teacher.parameters()).device
    for batch in batches:
        batch = to_device(batch, device)
        student, teacher = distillation.tokens(batch)
        mask = distillation.weights(batch)
        terms = distillation_terms(student.float(), teacher.float(), mask, distillation.structure)
        size = len(mask)
        numbers = {name: float(term) for name, term in terms.items()}
        numbers["loss"] = sum(weights[name] * value for name, value in numbers.items())
        numbers["cosine"] = mean_cosine(student, teacher, mask)
        numbers["cosine_all"] = mean_cosine(student, teacher)
        numbers["active"] = float((mask > 0).double().mean())
        for name, value in numbers.items():
            sums[name] = sums.get(name, 0.0) + size * value
        kept.append(student.float().cpu())
        count += size
    means = {f"val_{name}": value / count for name, value in sums.items()}
    return means | {"val_rank": effective_rank(torch.cat(kept))}


@torch.no_grad()
def encode_all(encoder: Encoder, inputs: Iterable[Tensor]) -> Tensor:
    """(M, L, D) float32 tokens on the CPU of batches of inputs."""
    device = next(encoder.parameters()).device
    return torch.cat([encoder.tokens(batch.to(device)).float().cpu() for batch in inputs])
