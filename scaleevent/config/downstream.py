"""Settings of the commands that train and score task models: probe, finetune, eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from scaleevent.config.benchmarks import BENCHMARKS
from scaleevent.config.catalog import ARCHITECTURES, DECODERS, DEFAULT_DECODERS
from scaleevent.config.data import Normaliser
from scaleevent.config.run import ComputeSettings, RunSettings, ScheduledSettings
from scaleevent.config.settings import OneOf, load_config, parse_size
from scaleevent.errors import ConfigError

_SUBMITTED = [name for name, benchmark in BENCHMARKS.items() if benchmark.submission]

Benchmark = Annotated[str, OneOf(BENCHMARKS), Field(description=f"one of {', '.join(BENCHMARKS)}")]
Stores = Annotated[
    list[Path], Field(description="pair stores; default: $SCALEEVENT_DATA/NAME; street-*: rendered")
]
Transductive = Annotated[
    bool, Field(description="allow an encoder that was pretrained on test recordings")
]
Pictures = Annotated[int, Field(ge=0, le=64, description="test samples to draw")]


class TaskSettings(RunSettings):
    """What `probe` and `finetune` share."""

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {*RunSettings.NO_EFFECT, "pictures", "transductive", "cache"}
    )

    benchmark: Benchmark
    checkpoint: Annotated[
        str, Field(description="encoder: a file, timm:NAME, hf-hub:NAME, or random (baseline)")
    ]
    data: Stores = []
    arch: Annotated[
        Annotated[str, OneOf(ARCHITECTURES)] | None, Field(description="size of a random encoder")
    ] = None
    size: Annotated[
        tuple[int, int] | None, Field(description="network input; default: the benchmark's")
    ] = None
    normaliser: Annotated[
        Normaliser | None,
        Field(description="range of the voxel input; default: the encoder's, else minmax"),
    ] = None
    fraction: Annotated[
        float, Field(gt=0, le=1, description="fraction of the training samples, such as 0.01")
    ] = 1.0
    subset: Annotated[
        Literal["interval", "random", "prefix"], Field(description="how a fraction is chosen")
    ] = "interval"
    transductive: Transductive = False
    pictures: Pictures = 4

    _size = field_validator("size", mode="before")(parse_size)


class FinetuneConfig(TaskSettings, ScheduledSettings):
    """Settings of `scaleevent finetune`. Defaults are the benchmark's preset."""

    out: Annotated[Path, Field(description="run folder")] = Path("runs/finetune")
    preset: Annotated[str | None, Field(description="paper, released, origin, demo")] = None
    decoder: Annotated[
        Annotated[str, OneOf(DECODERS)] | None,
        Field(description=f"default: {', '.join(DEFAULT_DECODERS.values())} by task"),
    ] = None
    decoder_options: Annotated[
        dict[str, str], Field(description="option of the decoder, NAME=VALUE; repeatable")
    ] = {}
    decoder_weights: Annotated[
        Path | None, Field(description="published weights of the decoder")
    ] = None
    eomt: Annotated[
        Literal["upstream", "scaleevent"],
        Field(description="the same as --decoder-option mode=..., where the decoder is EoMT"),
    ] = "scaleevent"
    freeze: Annotated[
        Literal["none", "released", "encoder"],
        Field(description="released: tokens and final norm stay; encoder: all of it"),
    ] = "none"
    cache: Annotated[
        bool, Field(description="linear on a frozen encoder: compute its features once")
    ] = True
    epochs: Annotated[int, Field(ge=1, le=100_000, description="epochs")] = 30
    batch: Annotated[int, Field(ge=1, le=65_536, description="global batch")] = 12
    lr: Annotated[float, Field(gt=0, le=10, description="learning rate of the decoder")] = 4e-6
    encoder_lr: Annotated[
        float | None, Field(gt=0, le=10, description="learning rate of the encoder; default: --lr")
    ] = None
    layer_decay: Annotated[
        float, Field(gt=0, le=1, description="factor on the rate per encoder block, from the top")
    ] = 1.0
    decay_every: Annotated[int, Field(ge=1, description="epochs between its steps")] = 5
    encoder_warmup_steps: Annotated[
        int, Field(ge=0, le=10**9, description="two-stage-poly: the encoder's, after the decoder's")
    ] = 0

    @field_validator("decoder_options", mode="before")
    @classmethod
    def _parse_options(cls, value: object) -> object:
        """The texts `NAME=VALUE` of the command line, or a mapping of plain values, as text."""
        if isinstance(value, list):
            if not all(isinstance(one, str) and "=" in one for one in value):
                raise ValueError("expected NAME=VALUE")
            value = dict(one.split("=", 1) for one in value)
        return {k: str(v) for k, v in value.items()} if isinstance(value, dict) else value

    @property
    def options(self) -> dict[str, str]:
        """The options of the decoder, `eomt` among them where it is EoMT."""
        name = self.decoder or DEFAULT_DECODERS[BENCHMARKS[self.benchmark].task]
        return ({"mode": self.eomt} if name == "eomt" else {}) | self.decoder_options


class ProbeConfig(TaskSettings):
    """Settings of `scaleevent probe`: a linear head on the frozen encoder, as the paper's."""

    out: Annotated[Path, Field(description="run folder")] = Path("runs/probe")
    epochs: Annotated[int, Field(ge=1, le=100_000, description="epochs")] = 20
    batch: Annotated[int, Field(ge=1, le=65_536, description="batch")] = 8
    lr: Annotated[float, Field(gt=0, le=10, description="learning rate")] = 5e-4
    cache: Annotated[bool, Field(description="compute the frozen features once")] = True

    def as_finetuning(self) -> FinetuneConfig:
        """The same run in the words of `finetune`."""
        return FinetuneConfig(
            **self.model_dump(), preset="probe", decoder="linear", freeze="encoder",
            schedule="constant", clip=0.0,
        )  # fmt: skip


class EvalConfig(ComputeSettings):
    """Settings of `scaleevent eval`."""

    benchmark: Benchmark
    checkpoint: Annotated[Path, Field(description="task checkpoint of probe or finetune")]
    data: Stores = []
    out: Annotated[Path | None, Field(description="folder for report and pictures")] = None
    batch: Annotated[int, Field(ge=1, le=65_536, description="samples at once")] = 4
    pictures: Pictures = 0
    submission: Annotated[
        Path | None, Field(description=f"{', '.join(_SUBMITTED)}: folder for files to hand in")
    ] = None
    at_input_size: Annotated[
        bool, Field(description="segmentation: score at the input's size, as the released code")
    ] = False
    windows: Annotated[
        int | None,
        Field(ge=8, le=4096, description="segmentation: predict in square crops of this side"),
    ] = None
    alignment: Annotated[
        Literal["none", "median", "least-squares"],
        Field(description="depth: fit each prediction to its ground truth first"),
    ] = "none"
    transductive: Transductive = False
    gpus: Annotated[int, Field(ge=1, le=1024, description="processes on this machine")] = 1

    @model_validator(mode="after")
    def _fit_benchmark(self) -> Self:
        """Refuse settings that another task or benchmark has."""
        task = BENCHMARKS[self.benchmark].task
        only = {"alignment": "depth", "at_input_size": "segmentation", "windows": "segmentation"}
        for key, owner in only.items():
            if task != owner and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"--{key.replace('_', '-')} is only for {owner}")
        if self.submission is not None and self.benchmark not in _SUBMITTED:
            raise ValueError(f"only {', '.join(_SUBMITTED)} takes submissions")
        if self.pictures and self.out is None:
            raise ValueError("pictures need a folder: add --out FOLDER")
        return self


_RELEASED = {"schedule": "exponential", "clip": 0.0, "epochs": 50, "freeze": "released"}

_DEMO = {
    "lr": 1e-3, "encoder_lr": 3e-4, "schedule": "cosine", "warmup_steps": 20, "clip": 1.0,
    "batch": 8, "epochs": 3,
}  # fmt: skip

# name: benchmark or task: settings
FINETUNE_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {name: one.recipe._asdict() for name, one in BENCHMARKS.items() if one.recipe},
    # zhiwen-xdu/ScaleEvent:scale_event/downstream/transfer_*_eomt.py, ViT-L on four GPUs
    "released": {
        "dsec-semantic": _RELEASED
        | {"lr_patch": 8e-7, "encoder_lr": 1.6e-6, "lr": 4e-6, "batch": 24},
        "ddd17-seg": _RELEASED
        | {"lr_patch": 1e-6, "encoder_lr": 2e-6, "lr": 5e-6, "batch": 48},
    },
    # how the decoders' own authors train them: tue-mps/eomt, DepthAnything/Depth-Anything-V2
    # metric_depth/train.py, princeton-vl/SEA-RAFT
    "origin": {
        "segmentation": {
            "eomt": "upstream", "lr": 1e-4, "layer_decay": 0.8, "weight_decay": 0.05, "clip": 0.01,
            "schedule": "two-stage-poly", "warmup_steps": 500, "encoder_warmup_steps": 1000,
            "batch": 16, "epochs": 31,
        },
        "depth": {
            "lr": 5e-5, "encoder_lr": 5e-6, "weight_decay": 0.01, "schedule": "poly", "clip": 0.0,
            "batch": 32, "epochs": 40,
        },
        "flow": {
            "lr": 4e-4, "weight_decay": 1e-5, "schedule": "one-cycle", "clip": 1.0, "batch": 32,
            "epochs": 40,
        },
    },
    # minutes on a CPU
    "demo": {"segmentation": _DEMO | {"eomt": "upstream"}, "depth": _DEMO, "flow": _DEMO},
}  # fmt: skip


def finetune_config(flags: dict[str, Any], file: Path | None = None) -> FinetuneConfig:
    """Settings of `finetune` with its preset: the one named, else `demo` or `paper`.

    Raises:
        ConfigError: As `load_config`; or a preset that the benchmark does not have.
    """
    bare = load_config(FinetuneConfig, flags, file)
    benchmark = BENCHMARKS[bare.benchmark]
    name = bare.preset or ("demo" if benchmark.embedded else "paper")
    found = FINETUNE_PRESETS.get(name, {})
    preset = found.get(bare.benchmark, found.get(benchmark.task))
    if preset is None:
        keys = {bare.benchmark, benchmark.task}
        has = [one for one, settings in FINETUNE_PRESETS.items() if keys & settings.keys()]
        raise ConfigError(
            f"no such preset for {bare.benchmark}", where="--preset", found=name,
            expected=", ".join(has),
        )  # fmt: skip
    return load_config(FinetuneConfig, flags, file, {"preset": name, **preset})
