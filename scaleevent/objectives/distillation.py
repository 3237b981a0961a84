"""The paper's objective on one batch: teacher, student, mask, loss terms, held-out numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError
from scaleevent.grids.density import REFERENCE_PIXELS, TAU, active_mask
from scaleevent.objectives.comparison import Comparison
from scaleevent.objectives.objective import Compared, Objective
from scaleevent.objectives.structure_loss import (
    LAMBDAS,
    distillation_terms,
    effective_rank,
    mean_cosine,
)
from scaleevent.objectives.structures import NAMES_IN_STATES, STRUCTURES
from scaleevent.pairs.sample_inputs import INPUTS, Input, image
from scaleevent.pairs.samples import PairSamples, Split
from scaleevent.system.files import Json
from scaleevent.training.loop import Batch
from scaleevent.training.tensors import content_hash
from scaleevent.training.terms import Metrics, Terms

# Assumed, not measured on DINOv3's own weights. It decides how L1 stands to IS and CS for every
# other teacher: L1 grows with the tokens, cosine maps do not.
DINOV3_TOKEN_RMS = 0.2
VALID_FRACTION = 0.5  # of a token's pixels that the image must show


class Distillation(Objective):
    """A frozen image teacher and an event student: L1 between tokens, IS and CS between maps.

    Args:
        teacher: Frozen image encoder.
        student: Event encoder, trained.
        structure: Key of `structure_loss.STRUCTURES`.
        mask: `hard`: tokens with D >= tau (paper eq. 2). `soft`: weight min(1, D / tau). `none`:
            all tokens. Tokens that the image does not show never count.
        tau: Threshold per 16x16 patch.
        scale: Factor on both token sets, see `token_scale`. None: calibrated before training.
        weights: Factor of each loss term.
        source: Name of the teacher, for people.
        probe: Whether to compare the student before and after by a probe.
    """

    inputs: ClassVar[Mapping[str, Input]] = INPUTS
    shown: ClassVar[tuple[str, ...]] = ("active",)
    titles: ClassVar[Mapping[str, str]] = {
        "val_loss": "held-out loss",
        "val_cosine": "cosine to teacher, active tokens",
        "val_cosine_all": "cosine to teacher, all tokens",
        "val_rank": "effective rank",
    }

    def __init__(
        self,
        teacher: Encoder,
        student: Encoder,
        structure: str = "released",
        mask: Literal["hard", "soft", "none"] = "hard",
        tau: float = TAU,
        scale: float | None = 1.0,
        weights: Mapping[str, float] = LAMBDAS,
        source: str = "",
        probe: bool = True,
    ) -> None:
        super().__init__(student)
        self.teacher = teacher
        self.structure, self.mask, self.tau = structure, mask, tau
        self.scale, self.weights = scale, weights
        self._source, self.probe = source, probe

    def sample_inputs(self) -> Mapping[str, Input]:
        """The image standardised with the teacher's own mean and deviation."""
        colours = self.teacher.colours
        own = partial(image, mean=colours.mean, std=colours.std)
        return {**self.inputs, "image": own}

    @property
    def source(self) -> str:
        """The teacher, and how its tokens are scaled."""
        return f"teacher {self._source}, token scale {self.scale:.4g}"

    def token_weights(self, batch: Batch) -> Tensor:
        """(N, L) weight of every token, 0 to 1: bool for a hard mask."""
        density, valid = batch["density"].flatten(1), batch["valid"].flatten(1) >= VALID_FRACTION
        if self.mask == "none":
            return valid
        if self.mask == "hard":
            return active_mask(density, self.tau) & valid
        activity = (
            (density * REFERENCE_PIXELS / self.tau).clamp(max=1) if self.tau else density * 0 + 1
        )
        return (activity * valid).float()

    def tokens(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Student and teacher tokens, (N, L, D) each, scaled."""
        with torch.no_grad():
            teacher = self.teacher.tokens(batch["image"])
        if self.scale is None:
            raise ConfigError("the token scale is unknown", hint="call calibrate first")
        return model(batch["voxel"]) * self.scale, teacher * self.scale

    def step(self, model: nn.Module, batch: Batch) -> tuple[Terms, Metrics]:
        """Loss terms; metrics: fractions of active and valid tokens, rank, cosine."""
        student, teacher = self.tokens(model, batch)
        weights = self.token_weights(batch)
        terms = distillation_terms(student.float(), teacher.float(), weights, self.structure)
        seen = weights > 0
        return terms, {
            "active": lambda: float(seen.double().mean()),
            "valid": lambda: float((batch["valid"] >= VALID_FRACTION).double().mean()),
            "empty_samples": lambda: float((~seen.any(1)).double().mean()),
            "rank": lambda: effective_rank(student.detach()),
            "cosine": lambda: mean_cosine(student.detach(), teacher, weights),
        }

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means over samples: loss terms, cosine to the teacher (active and all tokens), rank."""
        kept: list[Tensor] = []

        def measure(batch: Batch) -> dict[str, float]:
            student, teacher = self.tokens(self.encoder, batch)
            kept.append(student.float().cpu())
            mask = self.token_weights(batch)
            terms = distillation_terms(student.float(), teacher.float(), mask, self.structure)
            means = {name: float(term) for name, term in terms.items()}
            means["loss"] = sum(self.weights[name] * value for name, value in means.items())
            means["cosine"] = mean_cosine(student, teacher, mask)
            means["cosine_all"] = mean_cosine(student, teacher)
            means["active"] = float((mask > 0).double().mean())
            return means

        held_out = self.sample_means(batches, measure)
        return held_out | {"val_rank": effective_rank(torch.cat(kept))}

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Find the token scale, unless it is given or the teacher is DINOv3."""
        if self.scale is None:
            self.scale = token_scale(self.teacher, batches)

    def fingerprint(self) -> dict[str, str]:
        """The teacher's weights, and the form of the loss."""
        return {
            "teacher weights": content_hash(self.teacher.vit.state_dict()),
            "structure": NAMES_IN_STATES.get(self.structure, self.structure),
        }

    def description(self) -> Json:
        """The teacher, the token scale, and what the name of the loss stands for."""
        teacher: Json = {
            "source": self._source,
            "sha256": content_hash(self.teacher.vit.state_dict()),
            "mean": list(self.teacher.colours.mean),
            "std": list(self.teacher.colours.std),
        }
        form: Json = asdict(STRUCTURES[self.structure])
        return {"teacher": teacher, "token_scale": self.scale, "structure": form}

    def compare(
        self, samples: PairSamples, split: Split, before: Encoder, batch: int, out: Path
    ) -> Compared:
        """Linear probes where labels exist; features of teacher and student as a picture."""
        comparison = Comparison(samples, split, self.teacher, before, self.encoder, batch)
        found = comparison.probe() if self.probe else Compared()
        comparison.picture(out / "panel.png")
        return replace(found, notes=[*found.notes, f"picture: {out / 'panel.png'}"])


@torch.no_grad()
def token_scale(teacher: Encoder, batches: Iterable[Batch]) -> float:
    """Factor that brings the teacher's tokens to the root mean square assumed of DINOv3's.

    L1 grows with the tokens and cosine maps do not, so the lambdas balance them only at one size.
    Which size that is, the paper does not say.
    """
    total, count = 0.0, 0
    device = next(teacher.parameters()).device
    for batch in batches:
        tokens = teacher.tokens(batch["image"].to(device)).double()
        total += float(tokens.square().sum())
        count += tokens.numel()
    return DINOV3_TOKEN_RMS / math.sqrt(total / count)
