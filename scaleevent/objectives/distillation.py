"""The paper's objective on one batch: teacher, student, mask, loss terms, held-out numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.density import REFERENCE_PIXELS, TAU, active_mask
from scaleevent.objectives import balance, meters
from scaleevent.objectives.comparison import Comparison
from scaleevent.objectives.meters import Meters, PlaceMean, evaluation_masks, shown_tokens
from scaleevent.objectives.objective import Compared, Objective
from scaleevent.objectives.structure_loss import (
    LAMBDAS,
    distillation_terms,
    effective_rank,
    mean_cosine,
)
from scaleevent.objectives.structures import NAMES_IN_STATES, STRUCTURES
from scaleevent.objectives.teacher_tokens import CACHE_BYTES, TeacherTokens
from scaleevent.pairs.loading import Pool
from scaleevent.pairs.sample_inputs import INPUTS, Input, image, index
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.splits import Split
from scaleevent.system.files import Json
from scaleevent.training.loop import Batch, to_device
from scaleevent.training.state import CALIBRATED
from scaleevent.training.tensors import content_hash
from scaleevent.training.terms import Metrics, Terms

# Assumed, not measured on DINOv3's own weights. It decides how L1 stands to IS and CS for every
# other teacher: L1 grows with the tokens, cosine maps do not.
DINOV3_TOKEN_RMS = 0.2
CALIBRATION_SAMPLES = 64  # for the size of the tokens and of the loss terms
PLACE_SAMPLES = 1024  # for the mean token of a place: known to 1 / 32 of a residual then
GRADIENT_STRIDE = 16  # of held-out samples, one batch of which shows the gradients


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
        target: What all structure terms are calibrated to before training, as a share of L1. None:
            the weights stay as given.
        cache: Whether the teacher's tokens are kept, where those of all training samples fit.
        kept: What an earlier part of the run was calibrated to.
        agree: Makes numbers the same on all ranks.
        bf16: Whether training computes in mixed precision.
        draws: Samples of the whole run: calibration looks at no more, but at 64.
    """

    inputs: ClassVar[Mapping[str, Input]] = INPUTS
    shown: ClassVar[tuple[str, ...]] = ("active",)
    titles: ClassVar[Mapping[str, str]] = {
        "val_loss": "held-out loss",
        "val_counted": "held-out tokens that count, so no loss",
        **meters.TITLES,
        "val_rank": "effective rank",
        **balance.TITLES,
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
        target: float | None = None,
        cache: bool = False,
        kept: Mapping[str, float] | None = None,
        agree: Callable[[Sequence[float]], Sequence[float]] = list,
        bf16: bool = False,
        draws: int = PLACE_SAMPLES,
    ) -> None:
        super().__init__(student)
        self.targets = TeacherTokens(teacher)
        self.structure, self.mask, self.tau = structure, mask, tau
        self.scale, self.weights, self.target = scale, weights, target
        self._source, self.probe = source, probe
        self.place: Tensor | None = None
        self._cache, self._kept, self._agree, self._bf16 = cache, kept or {}, agree, bf16
        self._looks = max(CALIBRATION_SAMPLES, min(draws, PLACE_SAMPLES))

    @property
    def teacher(self) -> Encoder:
        """The frozen image encoder."""
        return self.targets.teacher

    def sample_inputs(self) -> Mapping[str, Input]:
        """The image standardised with the teacher's own mean and deviation."""
        colours = self.teacher.colours
        own = partial(image, mean=colours.mean, std=colours.std)
        inputs: dict[str, Input] = {**self.inputs, "image": own}
        return inputs | {"index": index} if self._cache else inputs

    @property
    def source(self) -> str:
        """The teacher, how its tokens are scaled, and what is calibrated."""
        said = [f"teacher {self._source}", f"token scale {self.scale:.4g}"]
        if self.target is not None:
            weighed = f"IS x {self.weights['intra']:.4g} + CS x {self.weights['cross']:.4g}"
            said.append(f"{weighed} for {self.target:.0%} of L1 at the start")
        return ", ".join(said)

    def token_weights(self, batch: Batch) -> Tensor:
        """(N, L) weight of every token, 0 to 1: bool for a hard mask."""
        density, valid = batch["density"].flatten(1), shown_tokens(batch["valid"])
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
        teacher = self.targets(batch)
        if self.scale is None:
            raise ConfigError("the token scale is unknown", hint="call calibrate first")
        return model(batch["voxel"]) * self.scale, teacher * self.scale

    def step(self, model: nn.Module, batch: Batch) -> tuple[Terms, Metrics]:
        """Loss terms; metrics: fractions of active and valid tokens, rank, cosine."""
        student, teacher = self.tokens(model, batch)
        weights = self.token_weights(batch)
        terms = self._terms(student, teacher, weights)
        seen = weights > 0
        return terms, {
            "active": lambda: float(seen.double().mean()),
            "valid": lambda: float(shown_tokens(batch["valid"]).double().mean()),
            "empty_samples": lambda: float((~seen.any(1)).double().mean()),
            "rank": lambda: effective_rank(student.detach()[shown_tokens(batch["valid"])]),
            "cosine": lambda: mean_cosine(student.detach(), teacher, weights),
        }

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss terms with the run's mask, their balance, `meters` on tokens that all runs share.

        The gradients are those of every sixteenth sample, as many as a batch holds. Where the mask
        lets no token count there is no loss, and ``val_counted`` is 0.
        """
        place = None if self.place is None or self.scale is None else self.place * self.scale
        found, kept = Meters(place), []
        chosen: list[Batch] = []
        seen = size = counted = 0

        def measure(batch: Batch) -> dict[str, float]:
            nonlocal seen, size, counted
            student, teacher = self.tokens(self.encoder, batch)
            shown, active = evaluation_masks(batch["density"], batch["valid"])
            kept.append(student.float()[shown].cpu())
            found.add(student, teacher, shown, active)
            first = -seen % GRADIENT_STRIDE
            chosen.append({k: v[first::GRADIENT_STRIDE].clone() for k, v in batch.items()})
            seen, size = seen + len(student), size or len(student)
            weights = self.token_weights(batch)
            counted += int((weights > 0).sum())
            terms = self._terms(student, teacher, weights)
            return {name: float(term) for name, term in terms.items()}

        terms = {k.removeprefix("val_"): v for k, v in self.sample_means(batches, measure).items()}
        values = found.result() | {"rank": effective_rank(torch.cat(kept))}
        if not counted:
            return {"val_counted": 0.0} | {f"val_{name}": value for name, value in values.items()}
        values |= terms | {"loss": sum(self.weights[name] * term for name, term in terms.items())}
        values |= balance.shares(terms, self.weights)
        fixed = {key: torch.cat([part[key] for part in chosen])[:size] for key in chosen[0]}
        with torch.enable_grad():
            weights = self.token_weights(fixed)
            graph = self._terms(*self.tokens(self.encoder, fixed), weights)
            values |= balance.gradient_shares(graph, self.weights, self.encoder.parameters())
        return {f"val_{name}": value for name, value in values.items()}

    def _terms(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Terms:
        """Of scaled tokens, with the (N, L) weights of `token_weights`."""
        return distillation_terms(student.float(), teacher.float(), weights, self.structure)

    def calibrate(self, training: Pool) -> None:
        """Find the token scale, the balance and the mean token of every place.

        The scale is found unless it is given or the teacher is DINOv3, the balance where one is
        asked for; what the run was calibrated to before stays.

        Raises:
            DataError: No token of the samples that are looked at counts.
        """
        settings = training.samples.settings
        rows, columns = self.teacher.grid(settings.height, settings.width)
        size = 4 * len(training) * rows * columns * self.teacher.width
        self.targets.keeps = self._cache and size <= CACHE_BYTES
        if self.scale is None:
            self.scale = self._kept.get("scale") or self._agreed(
                token_scale(self.teacher, training.spread(CALIBRATION_SAMPLES))
            )
        if self.target is not None:
            self.weights = self._balanced(training, self.target)
        device = next(self.teacher.parameters()).device
        mean, counting = PlaceMean(), 0
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):  # kept for the steps
            for batch in training.spread(self._looks):
                here = to_device(batch, device)
                mean.add(self.targets(here), shown_tokens(here["valid"]))
                counting += int((self.token_weights(here) > 0).sum())
        if not counting:
            raise DataError(
                "no token of the training pairs counts: there is nothing to learn from",
                found=f"of {min(self._looks, len(training))} pairs all tokens are hidden"
                + (
                    f" or have fewer events than tau = {self.tau:g} asks for"
                    * (self.mask == "hard")
                ),
                hint="pairs with longer windows, a lower --tau, or --mask none",
            )
        self.place = mean.mean()

    @torch.no_grad()
    def _balanced(self, training: Pool, target: float) -> dict[str, float]:
        """Weights with which the structure terms of training samples are a share of L1."""
        if self._kept.keys() >= self.weights.keys():
            return {name: self._kept[name] for name in self.weights}

        def measure(batch: Batch) -> dict[str, float]:
            tokens = self.tokens(self.encoder, batch)
            terms = self._terms(*tokens, self.token_weights(batch))
            return {name: float(term) for name, term in terms.items()}

        found = self.sample_means(training.spread(CALIBRATION_SAMPLES), measure)
        values = {name: found[f"val_{name}"] for name in self.weights}
        weights = balance.balanced(values, self.weights, target)
        return {name: self._agreed(weight) for name, weight in weights.items()}

    def _agreed(self, value: float) -> float:
        return self._agree([value])[0]

    def fingerprint(self) -> Json:
        """The teacher's weights, the form of the loss, and what was calibrated."""
        calibrated = {} if self.target is None else dict(self.weights)
        return {
            "teacher weights": content_hash(self.teacher.vit.state_dict()),
            "structure": NAMES_IN_STATES.get(self.structure, self.structure),
            CALIBRATED: {"scale": self.scale, **calibrated},
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
        return {
            "teacher": teacher, "token_scale": self.scale, "structure": form,
            "weights": dict(self.weights), "balance": self.target,
        }  # fmt: skip

    def compare(
        self, samples: PairSamples, split: Split, before: Encoder, batch: int, out: Path
    ) -> Compared:
        """Linear probes where labels exist; features of teacher and student as a picture."""
        comparison = Comparison(
            samples, split, self.teacher, before, self.encoder, batch, self.place
        )
        found = comparison.probe() if self.probe else Compared()
        drawn = comparison.pictures(out)
        notes = [*found.notes, meters.NOTE, *(f"picture: {path}" for path in drawn)]
        return replace(found, notes=notes)


@torch.no_grad()
def token_scale(teacher: Encoder, batches: Iterable[Batch]) -> float:
    """Factor that brings the teacher's tokens to the root mean square assumed of DINOv3's.

    L1 grows with the tokens and cosine maps do not, so the lambdas balance them only at one size.
    Which size that is, the paper does not say. Tokens that the image does not show do not count.

    Raises:
        DataError: No token counts.
    """
    total, count = 0.0, 0
    device = next(teacher.parameters()).device
    for batch in batches:
        tokens = teacher.tokens(batch["image"].to(device)).double()
        tokens = tokens[shown_tokens(batch["valid"]).to(device)]
        total += float(tokens.square().sum())
        count += tokens.numel()
    if not total:
        raise DataError("no image of the training pairs shows anything of the events' scene")
    return DINOV3_TOKEN_RMS / math.sqrt(total / count)
