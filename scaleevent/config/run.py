"""Settings that every training run has: where it computes, how long and at which rates, its log."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from scaleevent.config.settings import OutputSettings
from scaleevent.errors import ConfigError
from scaleevent.system.files import Json


class DeviceSettings(OutputSettings):
    """Where a model computes."""

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", name):
            raise ValueError("expected one that is served: auto, cpu, cuda or cuda:N")
        return name


class ComputeSettings(DeviceSettings):
    """Where a model is trained or evaluated."""

    workers: int | None = Field(
        default=None, ge=0, le=256, description="loader processes a rank; default by cores"
    )


class RunSettings(ComputeSettings):
    """A training run in a folder, which can be resumed."""

    # settings of one start of a run, which are not in its record
    OF_A_START: ClassVar[frozenset[str]] = frozenset(
        {"resume", "overwrite", "take_over", "max_hours"}
    )
    # settings that do not change the result; a resumed run may change them
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        "out gpus device workers log_every save_every validate_every tensorboard offline resume "
        "overwrite take_over max_hours".split()
    )
    KIND: ClassVar[str] = "run"

    out: Path = Field(default=Path("runs/run"), description="run folder")
    epochs: int = Field(default=10, ge=1, le=100_000, description="epochs")
    lr: float = Field(default=5e-6, gt=0, le=10, description="learning rate")
    weight_decay: float = Field(default=1e-4, ge=0, le=10, description="AdamW weight decay")
    seed: int = Field(default=0, ge=0, description="random seed of everything that is drawn")
    log_every: int = Field(default=10, ge=1, description="steps between log lines")
    save_every: int = Field(default=1000, ge=1, description="steps between saved states")
    validate_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between scores on what is held out; default: every epoch",
    )
    tensorboard: bool = Field(
        default=False, description="also log for TensorBoard, in the run folder"
    )
    offline: bool = Field(default=False, description="never use the network")
    resume: bool = Field(default=False, description="continue from the last saved state")
    max_hours: float | None = Field(
        default=None,
        gt=0,
        le=1e5,
        description="stop after so many hours of this start, with the state saved, as a stop "
        "signal does",
    )

    def seed_of(self, what: str) -> int:
        """The seed of the `world`, `split`, `draws` or `init`: the run's, but for one of its own.

        Args:
            what: Which; a setting `{what}_seed` overrules `seed` where there is one.
        """
        own: int | None = getattr(self, f"{what}_seed", None)
        return self.seed if own is None else own

    def recorded(self) -> Json:
        """The settings that a record of the run holds: all but those of one start."""
        return self.model_dump(mode="json", exclude=set(self.OF_A_START))

    def with_effect(self) -> Json:
        """The settings that a resumed run must agree with, JSON-able."""
        return self.model_dump(mode="json", exclude=set(self.NO_EFFECT))


class ScheduledSettings(RunSettings):
    """A run with a schedule of its own, on one or more devices."""

    PRESETS: ClassVar[Collection[str]] = ()  # names

    schedule: Literal[
        "exponential", "cosine", "constant", "poly", "two-stage-poly", "one-cycle"
    ] = Field(default="exponential", description="learning-rate schedule")
    decay: float = Field(
        default=0.9, gt=0, le=1, description="factor on the rates at a step of `exponential`"
    )
    decay_every: int = Field(default=1, ge=1, description="epochs between these steps")
    warmup_steps: int = Field(
        default=0, ge=0, le=10**9, description="steps over which the rates rise from zero"
    )
    encoder_warmup_steps: int = Field(
        default=0, ge=0, le=10**9, description="two-stage-poly: the encoder's, after the others'"
    )
    clip: float = Field(
        default=0.1, ge=0, le=1e6, description="largest gradient norm; 0: no clipping"
    )
    lr_patch: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="learning rate of the patch embedding; default: encoder's",
    )
    gpus: int = Field(default=1, ge=1, le=1024, description="processes on this machine")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 on a GPU, else fp32"
    )

    def check(self) -> None:
        """Also that a preset is not only named: then its values would not be those of the run."""
        super().check()
        if self.origins.get("preset") == "given" and getattr(self, "preset", None) in self.PRESETS:
            raise ConfigError(
                "the preset is only named", where="preset", found=getattr(self, "preset", None),
                expected="settings with the values of a preset",
                hint=f"`{type(self).__name__}.with_preset` makes them",
            )  # fmt: skip

    def computes_in_bf16(self, on_gpu: bool) -> bool:
        """Whether training uses mixed precision: by default on a GPU only."""
        return self.precision == "bf16" or self.precision == "auto" and on_gpu
