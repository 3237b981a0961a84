"""Settings that every training run has: where it computes, how long and at which rates, its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scaleevent.config.settings import Settings
from scaleevent.system.files import Json


class ComputeSettings(Settings):
    """Where a model is trained or evaluated."""

    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N")] = "auto"
    workers: Annotated[
        int | None, Field(ge=0, le=256, description="loader processes a rank; default by cores")
    ] = None
    overwrite: Annotated[bool, Field(description="empty the output folder first")] = False


class RunSettings(ComputeSettings):
    """A training run in a folder, which can be resumed.

    Attributes:
        NO_EFFECT: Settings that do not change the result; a resumed run may change them.
    """

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {"out", "gpus", "device", "workers", "log_every", "save_every", "offline", "resume",
         "overwrite"}
    )  # fmt: skip

    out: Annotated[Path, Field(description="run folder")] = Path("runs/run")
    epochs: Annotated[int, Field(ge=1, le=100_000, description="epochs")] = 10
    lr: Annotated[float, Field(gt=0, le=10, description="learning rate")] = 5e-6
    weight_decay: Annotated[float, Field(ge=0, le=10, description="AdamW weight decay")] = 1e-4
    seed: Annotated[int, Field(ge=0, description="random seed of everything that is drawn")] = 0
    log_every: Annotated[int, Field(ge=1, description="steps between log lines")] = 10
    save_every: Annotated[int, Field(ge=1, description="steps between saved states")] = 1000
    offline: Annotated[bool, Field(description="never use the network")] = False
    resume: Annotated[bool, Field(description="continue from the last saved state")] = False

    def with_effect(self) -> Json:
        """The settings that a resumed run must agree with, JSON-able."""
        return self.model_dump(mode="json", exclude=set(self.NO_EFFECT))


class ScheduledSettings(RunSettings):
    """A run with a schedule of its own, on one or more devices."""

    schedule: Annotated[
        Literal["exponential", "cosine", "constant", "poly", "two-stage-poly", "one-cycle"],
        Field(description="learning-rate schedule"),
    ] = "exponential"
    decay: Annotated[
        float, Field(gt=0, le=1, description="factor on the rates at a step of `exponential`")
    ] = 0.9
    decay_every: Annotated[int, Field(ge=1, description="epochs between these steps")] = 1
    warmup_steps: Annotated[
        int, Field(ge=0, le=10**9, description="steps over which the rates rise from zero")
    ] = 0
    clip: Annotated[
        float, Field(ge=0, le=1e6, description="largest gradient norm; 0: no clipping")
    ] = 0.1
    lr_patch: Annotated[
        float | None,
        Field(gt=0, le=10, description="learning rate of the patch embedding; default: encoder's"),
    ] = None
    gpus: Annotated[int, Field(ge=1, le=1024, description="processes on this machine")] = 1
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 on a GPU, else fp32")
    ] = "auto"
