"""The objective of the paper: its settings, which need no torch, and where it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from scaleevent.config.pretrain import PretrainConfig

if TYPE_CHECKING:
    from scaleevent.objectives.distillation import Distillation
    from scaleevent.training.run import Run


class Settings(PretrainConfig):
    """What distillation adds to the settings of `pretrain`."""

    NO_EFFECT: ClassVar[frozenset[str]] = PretrainConfig.NO_EFFECT | {"probe"}

    teacher: Annotated[
        str | None,
        Field(description="weight file, timm name or hf-hub:NAME; default: DINOv3 of --arch"),
    ] = None
    student_init: Annotated[
        str, Field(description="start of the student: teacher, random, or as --teacher")
    ] = "teacher"
    structure: Annotated[
        Literal["released", "equation", "cosine-l1"], Field(description="form of the loss")
    ] = "released"
    mask: Annotated[
        Literal["hard", "soft", "none"], Field(description="which tokens are compared")
    ] = "hard"
    tau: Annotated[float, Field(ge=0, le=1e6, description="activity per 16x16 patch")] = 64.0
    lambda_l1: Annotated[float, Field(ge=0, le=1e6, description="weight of the token term")] = 1.0
    lambda_is: Annotated[float, Field(ge=0, le=1e6, description="weight of IS")] = 10.0
    lambda_cs: Annotated[float, Field(ge=0, le=1e6, description="weight of CS")] = 4.0
    token_scale: Annotated[
        float | None,
        Field(gt=0, le=1e6, description="factor on tokens; default 1 for DINOv3, else calibrated"),
    ] = None
    probe: Annotated[
        bool, Field(description="ridge probe before and after, where semantics exist")
    ] = True

    @property
    def lambdas(self) -> dict[str, float]:
        """Weights of the loss terms by name."""
        return {"l1": self.lambda_l1, "intra": self.lambda_is, "cross": self.lambda_cs}

    @property
    def arch_from_weights(self) -> bool:
        """A teacher that was named decides on the architecture."""
        return self.teacher is not None

    def describe(self) -> str:
        """The loss, term by term."""
        from scaleevent.objectives.structure_loss import STRUCTURES

        form = STRUCTURES[self.structure]
        return (
            f"loss {self.structure}: L1 x {self.lambda_l1:g} + IS x {self.lambda_is:g} + "
            f"CS x {self.lambda_cs:g} ({form.similarity} maps, {form.distance}, gate "
            f"{form.gate}, {form.reduction}), mask {self.mask} tau {self.tau:g}"
        )


def build(settings: Settings, run: Run) -> Distillation:
    """Teacher and student on the run's device; see `Distillation.of_settings`."""
    from scaleevent.objectives.distillation import Distillation

    return Distillation.of_settings(settings, run)
