"""Settings of the commands that train and score task models: probe, finetune, eval."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from scaleevent.config.benchmarks import BENCHMARKS
from scaleevent.config.catalog import ARCHITECTURES, DECODERS, DEFAULT_DECODERS
from scaleevent.config.data import Normaliser
from scaleevent.config.labels import checked_facts
from scaleevent.config.run import ComputeSettings, RunSettings, ScheduledSettings
from scaleevent.config.settings import Checkpoint, OneOf, Weights, load_config, parse_size
from scaleevent.errors import ConfigError, DataError
from scaleevent.system.files import Json
from scaleevent.system.hub_folders import names_hub
from scaleevent.system.locations import (
    check_checkpoint,
    check_store,
    check_weights,
    is_reserved,
    is_weight_file,
    manifest_of,
    named_store,
    shown,
)

_LISTED = [name for name, benchmark in BENCHMARKS.items() if benchmark.released_labels]
_SUBMITTED = [name for name, benchmark in BENCHMARKS.items() if benchmark.submission]

# what to do where a store of own labels is wanted
LABELLED = (
    "`scaleevent prepare custom FOLDER --labels LABELS -o STORE` makes one: name it with --data"
)

Benchmark = Annotated[str, OneOf(BENCHMARKS), Field(description=f"one of {', '.join(BENCHMARKS)}")]
Stores = Annotated[
    list[Path],
    Field(
        description="pair stores or their addresses; default: $SCALEEVENT_DATA/NAME; "
        "street-*: rendered"
    ),
]
Transductive = Annotated[
    bool, Field(description="allow an encoder that was pretrained on test recordings")
]
Pictures = Annotated[int, Field(ge=0, le=64, description="test samples to draw")]


def _parse_options(value: object) -> object:
    """The texts `NAME=VALUE` of the command line, or a mapping of plain values, as text."""
    if isinstance(value, list):
        if not all(isinstance(one, str) and "=" in one for one in value):
            raise ValueError("expected NAME=VALUE")
        value = dict(one.split("=", 1) for one in value)
    return {k: str(v) for k, v in value.items()} if isinstance(value, dict) else value


class ScoredSettings(ComputeSettings):
    """A command on a benchmark and a checkpoint, in this order; which labels it takes."""

    COMMAND: ClassVar[str]  # its name

    benchmark: Benchmark
    data: Stores = []
    labels: Literal["all", "released"] = Field(
        default="all", description=f"released: those of the authors' lists ({', '.join(_LISTED)})"
    )

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, values: Json) -> Json:
        """Refuse a checkpoint in the place of the benchmark.

        Raises:
            ConfigError: The two have changed places, or no benchmark is named.
        """
        first, second = (str(values.get(key, "")) for key in ("benchmark", "checkpoint"))
        named = is_reserved(first) or is_weight_file(first) or names_hub(first)
        if first in BENCHMARKS or not named:
            return values
        if second and second not in BENCHMARKS:
            return values
        line = shlex.join([cls.COMMAND, second or "BENCHMARK", first])
        raise ConfigError(
            "checkpoint and benchmark have changed places" if second else "no benchmark is named",
            where="benchmark", found=first, expected=", ".join(BENCHMARKS),
            hint=f"`scaleevent {line}`",
        )  # fmt: skip

    @model_validator(mode="after")
    def _has_lists(self) -> Self:
        """Refuse the authors' lists where there are none."""
        if self.labels == "released" and self.benchmark not in _LISTED:
            raise ValueError(f"--labels released is only for {', '.join(_LISTED)}")
        return self

    @property
    def task(self) -> str:
        """What is predicted: `segmentation`, `depth` or `flow`; of own labels as the store says.

        Raises:
            ConfigError: No store of own labels is named.
            DataError: It has no labels, or cannot be read.
        """
        return BENCHMARKS[self.benchmark].task or stored_task(stores_of(self.benchmark, self.data))

    @property
    def lists(self) -> Mapping[str, int] | None:
        """How many of its first labels each sequence has, where not every one is taken."""
        return BENCHMARKS[self.benchmark].released_labels if self.labels == "released" else None


class TaskSettings(ScoredSettings, RunSettings):
    """What `probe` and `finetune` share."""

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {*RunSettings.NO_EFFECT, "pictures", "transductive", "cache"}
    )

    seed: int = Field(
        default=0,
        ge=0,
        description="random seed of start, draws and --subset random; data and test stay",
    )
    checkpoint: Weights = Field(
        description="encoder: a file, a run folder, timm:NAME, hf-hub:ORG/NAME, "
        "local-dir:FOLDER, embedded, embedded-event, or random (baseline)"
    )
    arch: Annotated[str, OneOf(ARCHITECTURES)] | None = Field(
        default=None, description="size of a random encoder"
    )
    size: tuple[int, int] | None = Field(
        default=None, description="network input; default: the benchmark's"
    )
    normaliser: Normaliser | None = Field(
        default=None, description="range of the voxel input; default: the encoder's, else contrast"
    )
    fraction: float = Field(
        default=1.0, gt=0, le=1, description="fraction of the training samples, such as 0.01"
    )
    subset: Literal["interval", "random", "prefix"] = Field(
        default="interval",
        description="how a fraction is chosen: of each sequence, or random of all",
    )
    steps: Literal["full", "subset"] = Field(
        default="full",
        description="steps of an epoch of a fraction: as of all labels, or as of its own",
    )
    validation: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="fraction of the training labels held out, by recording, to choose the best "
        "step; default: the data's own validation part, if any",
    )
    transductive: Transductive = False
    pictures: Pictures = 4

    _size = field_validator("size", mode="before")(parse_size)

    def with_effect(self) -> Json:
        """But for what earlier versions did not have, where it is not used."""
        effect = super().with_effect()
        return {key: value for key, value in effect.items() if value or key != "validation"}

    def check(self) -> None:
        """Also the data and the encoder's file."""
        super().check()
        check_weights(self.checkpoint)
        check_data(self.benchmark, self.data)


class FinetuneConfig(TaskSettings, ScheduledSettings):
    """Settings of `scaleevent finetune`. Defaults are the benchmark's preset."""

    COMMAND: ClassVar[str] = "finetune"

    out: Path = Field(default=Path("runs/finetune"), description="run folder")
    preset: str | None = Field(default=None, description="paper, released, origin, demo, own")
    decoder: Annotated[str, OneOf(DECODERS)] | None = Field(
        default=None, description=f"default: {', '.join(DEFAULT_DECODERS.values())} by task"
    )
    decoder_options: dict[str, str] = Field(
        default={}, description="option of the decoder, NAME=VALUE; repeatable"
    )
    decoder_weights: Path | None = Field(
        default=None, description="published weights of the decoder"
    )
    eomt: Literal["upstream", "scaleevent"] = Field(
        default="scaleevent",
        description="the same as --decoder-option mode=..., where the decoder is EoMT",
    )
    empty_masks: bool = Field(
        default=False,
        description="EoMT: an image's absent classes are targets too, as the authors train",
    )
    freeze: Literal["none", "released", "encoder"] = Field(
        default="none", description="released: tokens and final norm stay; encoder: all of it"
    )
    cache: bool = Field(
        default=True, description="linear on a frozen encoder: compute its features once"
    )
    sampling: Literal["uniform", "released"] = Field(
        default="uniform", description="released: 2N draws an epoch, sequence, then label uniformly"
    )
    epochs: int = Field(default=30, ge=1, le=100_000, description="epochs")
    batch: int = Field(default=12, ge=1, le=65_536, description="global batch")
    lr: float = Field(default=4e-6, gt=0, le=10, description="learning rate of the decoder")
    encoder_lr: float | None = Field(
        default=None, gt=0, le=10, description="learning rate of the encoder; default: --lr"
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="factor on the rate per encoder block, from the top"
    )
    decay_every: int = Field(default=5, ge=1, description="epochs between its steps")

    _options = field_validator("decoder_options", mode="before")(_parse_options)

    @classmethod
    def with_preset(cls, **values: Any) -> FinetuneConfig:
        """Settings as the command line makes them: those given over a preset's, then the defaults.

        Without `preset` it is the benchmark's.

        Raises:
            ConfigError: As `finetune_config`.
            DataError: Own labels that cannot be read.
        """
        return finetune_config(values)

    @property
    def options(self) -> dict[str, str]:
        """The options of the decoder, where it is EoMT with `eomt` and `empty_masks`."""
        name = self.decoder or DEFAULT_DECODERS[self.task]
        own = {"mode": self.eomt, **({"empty_masks": "true"} if self.empty_masks else {})}
        return (own if name == "eomt" else {}) | self.decoder_options


class ProbeConfig(TaskSettings):
    """Settings of `scaleevent probe`: a linear head on the frozen encoder, as the paper's."""

    COMMAND: ClassVar[str] = "probe"

    out: Path = Field(default=Path("runs/probe"), description="run folder")
    epochs: int = Field(default=20, ge=1, le=100_000, description="epochs")
    batch: int = Field(default=8, ge=1, le=65_536, description="batch")
    lr: float = Field(default=5e-4, gt=0, le=10, description="learning rate")
    cache: bool = Field(default=True, description="compute the frozen features once")

    def as_finetuning(self) -> FinetuneConfig:
        """The same run in the words of `finetune`."""
        return FinetuneConfig(
            **self.model_dump(), preset="probe", decoder="linear", freeze="encoder",
            schedule="constant", clip=0.0,
        )  # fmt: skip


class EvalConfig(ScoredSettings):
    """Settings of `scaleevent eval`."""

    COMMAND: ClassVar[str] = "eval"
    KIND: ClassVar[str] = "evaluation"

    checkpoint: Checkpoint = Field(
        description="task checkpoint of probe or finetune, its run, hf-hub:ORG/NAME, "
        "local-dir:FOLDER, embedded-event, or a published model's file"
    )
    offline: bool = Field(default=False, description="never use the network")
    size: tuple[int, int] | None = Field(
        default=None, description="published file: network input; default: the benchmark's"
    )
    normaliser: Normaliser | None = Field(
        default=None,
        description="published file: range of the voxel input; default: its authors', minmax",
    )
    decoder_options: dict[str, str] = Field(
        default={},
        description="published file: what it leaves open, NAME=VALUE: max_depth, iters, blocks",
    )
    encoder_weights: Path | None = Field(
        default=None, description="published file of differences: the DINOv3 weights they belong to"
    )
    out: Path | None = Field(default=None, description="folder for report and pictures")
    batch: int = Field(default=4, ge=1, le=65_536, description="samples at once")
    pictures: Pictures = 0
    submission: Path | None = Field(
        default=None, description=f"{', '.join(_SUBMITTED)}: folder for files to hand in"
    )
    at_input_size: bool = Field(
        default=False,
        description="segmentation: score at the input's size, which is the released code's",
    )
    windows: int | None = Field(
        default=None,
        ge=8,
        le=4096,
        description="segmentation: predict in square crops of this side",
    )
    draw: Literal["exact", "released"] = Field(
        default="exact",
        description="released: segmentation: also the authors' random score, over 20 draws",
    )
    alignment: Literal["none", "median", "least-squares"] = Field(
        default="none", description="depth: fit each prediction to its ground truth first"
    )
    pace: Literal["none", "real"] = Field(
        default="none",
        description="real: also score, at each label, the newest prediction that was finished by "
        "then; from the recordings that the store was prepared from",
    )
    rate: float = Field(
        default=30.0,
        gt=0,
        le=100_000,
        description="pace real: windows a second that come to the network",
    )
    transductive: Transductive = False
    gpus: int = Field(default=1, ge=1, le=1024, description="processes on this machine")

    _size = field_validator("size", mode="before")(parse_size)
    _options = field_validator("decoder_options", mode="before")(_parse_options)

    @model_validator(mode="after")
    def _fit_benchmark(self) -> Self:
        """Refuse settings that another task or benchmark has."""
        only = {
            "alignment": "depth",
            **dict.fromkeys(("at_input_size", "windows", "draw"), "segmentation"),
        }
        for key, owner in only.items():
            given = getattr(self, key) != type(self).model_fields[key].default
            if given and self.task != owner:
                raise ValueError(f"--{key.replace('_', '-')} is only for {owner}")
        if self.submission is not None and self.benchmark not in _SUBMITTED:
            raise ValueError(f"only {', '.join(_SUBMITTED)} takes submissions")
        if self.pictures and self.out is None:
            raise ValueError("pictures need a folder: add --out FOLDER")
        if self.pace == "real" and BENCHMARKS[self.benchmark].embedded:
            raise ValueError("pace real needs recordings: rendered scenes have a window each")
        if self.pace == "real" and self.task == "flow":
            raise ValueError("pace real is not for flow, whose labels are spans")
        if self.pace == "real" and (self.at_input_size or self.windows is not None):
            raise ValueError("pace real scores whole predictions on the labels' pixels")
        if self.pace == "none" and self.rate != type(self).model_fields["rate"].default:
            raise ValueError("rate has no effect without pace real")
        return self

    def check(self) -> None:
        """Also the data and the checkpoint."""
        super().check()
        check_checkpoint(self.checkpoint)
        if self.encoder_weights is not None:
            check_checkpoint(self.encoder_weights)
        check_data(self.benchmark, self.data)


def check_data(benchmark: str, named: list[Path]) -> None:
    """Refuse data of a benchmark that are not there.

    Raises:
        ConfigError: None are named, and there is no place where they are by default.
        DataError: Not a pair store.
    """
    for folder in stores_of(benchmark, named):
        check_store(folder)


def stores_of(benchmark: str, named: Sequence[Path]) -> list[Path]:
    """The stores of a benchmark: those named, else the one in $SCALEEVENT_DATA; none if rendered.

    Raises:
        ConfigError: None are named, and there is no place where they are by default.
    """
    entry = BENCHMARKS[benchmark]
    if named or entry.embedded:
        return list(named)
    try:
        return [named_store(entry.data, benchmark)]
    except ConfigError as error:
        error.hint = LABELLED if entry.task is None else error.hint
        raise


def without_labels(where: object) -> DataError:
    """The error for a store whose manifest says nothing of labels."""
    return DataError("a store without labels of its own", where=where, hint=LABELLED)


def stored_task(stores: Sequence[Path]) -> str:
    """The task of a store's own labels, as its manifest says; stores are compared later.

    Raises:
        DataError: It has none, or cannot be read.
    """
    facts = manifest_of(stores[0]).get("labels")
    if facts is None:
        raise without_labels(shown(stores[0]))
    return checked_facts(facts, shown(stores[0])).task


_RELEASED = {
    "schedule": "exponential", "clip": 0.0, "epochs": 50, "freeze": "released",
    "sampling": "released", "labels": "released", "empty_masks": True,
}  # fmt: skip

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
    # some dozens of own labels: the demo's rates, and steps enough to learn from so few
    "own": {"custom": _DEMO | {"eomt": "upstream", "epochs": 40}},
}  # fmt: skip


FinetuneConfig.PRESETS = FINETUNE_PRESETS


def finetune_config(
    flags: dict[str, Any], file: Path | None = None, assigned: Sequence[str] = ()
) -> FinetuneConfig:
    """Settings of `finetune` with its preset: the one named, else `demo` or `paper`.

    Raises:
        ConfigError: As `load_config`; or a preset that the benchmark does not have.
    """
    bare = load_config(FinetuneConfig, flags, file, assigned=assigned)
    benchmark = BENCHMARKS[bare.benchmark]
    name = bare.preset or benchmark.preset
    found = FINETUNE_PRESETS.get(name, {})
    preset = found.get(bare.benchmark, found.get(bare.task))
    if preset is None:
        keys = {bare.benchmark, bare.task}
        has = [one for one, settings in FINETUNE_PRESETS.items() if keys & settings.keys()]
        raise ConfigError(
            f"no such preset for {bare.benchmark}", where="--preset", found=name,
            expected=", ".join(has),
        )  # fmt: skip
    return load_config(FinetuneConfig, flags, file, {"preset": name, **preset}, assigned)
