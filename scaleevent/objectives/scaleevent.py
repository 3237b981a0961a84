"""The objective of the paper: its settings, which need no torch, and where it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from scaleevent.config.pretrain import PretrainConfig
from scaleevent.config.settings import OneOf, Weights
from scaleevent.objectives.structures import STRUCTURES
from scaleevent.system.locations import EMBEDDED_TEACHER, EVENT_ENCODERS, check_weights

if TYPE_CHECKING:
    from scaleevent.objectives.distillation import Distillation
    from scaleevent.training.run import Run


class Settings(PretrainConfig):
    """What distillation adds to the settings of `pretrain`."""

    NO_EFFECT: ClassVar[frozenset[str]] = PretrainConfig.NO_EFFECT | {"probe", "cache"}

    teacher: Weights | None = Field(
        default=None,
        description="weight file, timm name, hf-hub:ORG/NAME, local-dir:FOLDER or embedded; "
        "default: DINOv3 of --arch",
    )
    teacher_mean: tuple[float, float, float] | None = Field(
        default=None,
        description="mean of the teacher's colours, such as 0.5,0.5,0.5; default: its own",
    )
    teacher_std: tuple[float, float, float] | None = Field(
        default=None, description="their standard deviation"
    )
    student_init: Weights = Field(
        default="teacher", description="start of the student: teacher, random, or as --teacher"
    )
    structure: Annotated[str, OneOf(STRUCTURES)] = Field(
        default="released",
        description="form of the loss; equation: eq. 1, 3, 4 as printed, sums over a sample; "
        "-row, -mean: averaged over its tokens, over all entries",
    )
    mask: Literal["hard", "soft", "none"] = Field(
        default="hard", description="which tokens are compared"
    )
    tau: float = Field(default=64.0, ge=0, le=1e6, description="activity per 16x16 patch")
    lambda_l1: float = Field(default=1.0, ge=0, le=1e6, description="weight of the token term")
    lambda_is: float = Field(default=10.0, ge=0, le=1e6, description="weight of IS")
    lambda_cs: float = Field(default=4.0, ge=0, le=1e6, description="weight of CS")
    balance: float | None = Field(
        default=None, gt=0, le=1e6,
        description="what IS and CS together are set to at the start, as a "
        "share of L1, such as 0.25; their weights then give only their proportion",
    )  # fmt: skip
    token_scale: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="factor on tokens; default 1 for DINOv3, else calibrated",
    )
    cache: bool = Field(
        default=True,
        description="compute the teacher's tokens once a pair, where 1 GiB holds them all",
    )
    probe: bool = Field(
        default=True, description="linear probes before and after, where labels exist"
    )

    @field_validator("teacher")
    @classmethod
    def _of_images(cls, value: str | None) -> str | None:
        """Refuse an encoder of the package that sees events."""
        if value in EVENT_ENCODERS:
            raise ValueError(
                f"{value} sees events, and a teacher sees images, as {EMBEDDED_TEACHER} does; "
                f"a student can start from it: --student-init {value}"
            )
        return value

    @field_validator("teacher_mean", "teacher_std", mode="before")
    @classmethod
    def _three(cls, value: object) -> object:
        """`0.48,0.46,0.41` or three numbers."""
        return value.split(",") if isinstance(value, str) else value

    @field_validator("teacher_mean", "teacher_std")
    @classmethod
    def _of_colours(
        cls, value: tuple[float, float, float] | None, info: ValidationInfo
    ) -> tuple[float, float, float] | None:
        """For colours of 0 to 1; a deviation is not zero."""
        if value is not None and not all(0 <= one <= 1 for one in value):
            raise ValueError("expected numbers of 0 to 1 (divide those for 0 to 255 by 255)")
        if value is not None and info.field_name == "teacher_std" and min(value) == 0:
            raise ValueError("expected deviations above 0")
        return value

    @model_validator(mode="after")
    def _can_be_balanced(self) -> Settings:
        """Refuse a balance without one of its sides."""
        if self.balance is not None and not self.lambda_l1:
            raise ValueError("balance is a share of L1, and lambda_l1 is 0")
        if self.balance is not None and not self.lambda_is + self.lambda_cs:
            raise ValueError("balance needs a structure term, and lambda_is and lambda_cs are 0")
        return self

    @property
    def lambdas(self) -> dict[str, float]:
        """Weights of the loss terms by name."""
        return {"l1": self.lambda_l1, "intra": self.lambda_is, "cross": self.lambda_cs}

    @property
    def arch_from_weights(self) -> bool:
        """A teacher that was named decides on the architecture."""
        return self.teacher is not None

    def check(self) -> None:
        """Also the files of teacher and student."""
        super().check()
        check_weights(self.teacher)
        check_weights(self.student_init)

    def describe(self) -> str:
        """The loss, term by term."""
        form = STRUCTURES[self.structure]
        weighed = f"IS x {self.lambda_is:g} + CS x {self.lambda_cs:g}"
        if self.balance is not None:
            weighed = f"({weighed}) set to {self.balance:.0%} of L1"
        return (
            f"loss {self.structure}: L1 x {self.lambda_l1:g} + {weighed} ({form.similarity} maps, "
            f"{form.distance}, gate {form.gate}, {form.reduction}), mask {self.mask} "
            f"tau {self.tau:g}"
        )


def build(settings: Settings, run: Run) -> Distillation:
    """Teacher and student on the run's device."""
    from scaleevent.objectives.distillation import Distillation
    from scaleevent.objectives.teacher import is_dinov3, teacher_and_student, teacher_name

    teacher, student = teacher_and_student(settings, run)
    return Distillation(
        teacher, student, settings.structure, settings.mask, settings.tau,
        scale=settings.token_scale or (1.0 if is_dinov3(teacher) else None),
        weights=settings.lambdas, source=teacher_name(settings), probe=settings.probe,
        target=settings.balance, cache=settings.cache, kept=run.calibrated, agree=run.ranks.mean,
        bf16=settings.computes_in_bf16(run.ranks.on_gpu), draws=settings.epochs * settings.draws,
    )  # fmt: skip
