"""Settings of `pretrain`: those of every pretraining; an objective adds its own in its module."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from scaleevent.config.benchmarks import BENCHMARKS
from scaleevent.config.catalog import (
    ARCHITECTURES,
    DEFAULT_ARCHITECTURE,
    DEFAULT_NORMALISER,
    OBJECTIVES,
    Part,
)
from scaleevent.config.data import Normaliser, PrepareConfig
from scaleevent.config.mix import VIDEOS, Weights, check_named, check_weights
from scaleevent.config.run import ScheduledSettings
from scaleevent.config.settings import (
    OneOf,
    PartSettings,
    load_config,
    nearest,
    parse_size,
    patch_grid,
)
from scaleevent.config.tags import WantedTags
from scaleevent.errors import ConfigError
from scaleevent.system.files import Json
from scaleevent.system.locations import check_store, data_source
from scaleevent.system.platform import has_bfloat16

CPU = "cpu"  # the preset where none is named and there is no GPU


class PretrainConfig(PartSettings, ScheduledSettings):
    """Settings of `scaleevent pretrain`. Defaults are the paper's.

    Called with an `objective`, or without one, this gives the settings of that objective.
    """

    parts: ClassVar[Mapping[str, Part]] = OBJECTIVES
    chooser: ClassVar[str] = "objective"
    noun: ClassVar[str] = "objective"
    NO_EFFECT: ClassVar[frozenset[str]] = ScheduledSettings.NO_EFFECT | {"transductive"}

    data: list[Path] = Field(
        default=[],
        description="pair stores or their addresses; default: $SCALEEVENT_DATA, ./pairs, "
        "else street",
    )
    weights: Weights = Field(
        default={},
        description="how often a store is drawn, NAME=2, one for each; default: by its pairs",
    )
    only: WantedTags = Field(
        default=[], description="pairs with these tags: real,outdoor, sensor=NAME, size=260x346"
    )
    videos: list[Path] = Field(
        default=[],
        description="video, or folder of videos and pictures: events are simulated while "
        "training, and nothing is stored (repeat the flag); with or without pair stores",
    )  # fmt: skip
    film: dict[str, str] = Field(
        default={},
        description="how --videos are filmed, NAME=VALUE: any such setting of `prepare video`, "
        "as sensor=davis346 (repeat the flag)",
    )  # fmt: skip
    out: Path = Field(default=Path("runs/pretrain"), description="run folder")
    objective: Annotated[str, OneOf(OBJECTIVES)] = Field(
        default="scaleevent", description="what the encoder is pretrained for"
    )
    preset: str | None = Field(
        default=None, description="demo, paper-vits|b|l, released-vits|b|l; default on a CPU: cpu"
    )
    arch: Annotated[str, OneOf(ARCHITECTURES)] | None = Field(
        default=None, description="encoder; default: that of --teacher, else vits"
    )
    size: tuple[int, int] = Field(default=(480, 640), description="network input, rows x columns")
    normaliser: Normaliser = Field(
        default=DEFAULT_NORMALISER,
        description="how voxel values are normalised; the authors': minmax",
    )
    pad: bool = Field(
        default=False,
        description="show the whole of sensors of another shape, black around them; no crop",
    )
    draws: int = Field(default=100_000, ge=1, le=10**9, description="samples per epoch")
    batch: int | None = Field(
        default=None, ge=1, le=65_536, description="global batch; default by --arch"
    )
    sampling: Literal["released", "uniform"] = Field(
        default="released",
        description="within a store; released: recording, then pair, each evenly; uniform: passes",
    )
    freeze: Literal["none", "released"] = Field(
        default="none", description="released: class and register tokens and final norm stay"
    )
    validation: float = Field(
        default=0.05, ge=0, lt=1, description="fraction of pairs held out, by recording"
    )
    seed: int = Field(
        default=0, ge=0, description="random seed of world, split, draws and start together"
    )
    world_seed: int | None = Field(
        default=None, ge=0, description="family of street scenes; default: twice --seed"
    )
    split_seed: int | None = Field(
        default=None,
        ge=0,
        description="which pairs are held out; 0: the last ones; default: --seed",
    )
    draws_seed: int | None = Field(
        default=None, ge=0, description="what the steps draw; default: --seed"
    )
    init_seed: int | None = Field(
        default=None, ge=0, description="a random start of the student; default: --seed"
    )
    transductive: bool = Field(
        default=False, description="train on test recordings of benchmarks too, which is recorded"
    )

    _size = field_validator("size", mode="before")(parse_size)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)  # keys of any objective: the one named checks them

    @field_validator("film", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        """`NAME=VALUE` of the command line to a mapping; a value of YAML to the text it was."""
        if isinstance(value, list):
            if not all("=" in str(one) for one in value):
                raise ValueError("expected NAME=VALUE, such as sensor=davis346")
            return {
                k.replace("-", "_"): v for k, _, v in (str(one).partition("=") for one in value)
            }
        return {k: str(v) for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _filmed(self) -> PretrainConfig:
        """Refuse settings of videos where there are none."""
        if self.film and not self.videos:
            raise ValueError("film has no effect without videos")
        return self

    @model_validator(mode="after")
    def _validated(self) -> PretrainConfig:
        """Refuse to score what is not held out."""
        if self.validate_every is not None and not self.validation:
            raise ValueError("validate_every has no effect without validation")
        return self

    @classmethod
    def with_preset(cls, **values: Any) -> PretrainConfig:
        """Settings as the command line makes them: those given over a preset's, then the defaults.

        Without `preset` it is `demo` on street, and on a machine without a GPU `cpu`.

        Raises:
            ConfigError: As `pretrain_config`.
        """
        return pretrain_config(values)

    @property
    def filming(self) -> PrepareConfig:
        """How `videos` are filmed: the settings of `prepare video`.

        Raises:
            ConfigError: Settings that it does not have, or that are not about filming.
        """
        model = PrepareConfig.of_part({"name": "video"})
        own = model.model_fields.keys() - PrepareConfig.model_fields.keys()
        known = own - {"seed"} | {"tag"}
        for name in self.film.keys() - known:
            raise ConfigError(
                f"unknown setting of how videos are filmed{nearest(name, known)}",
                where="--film", found=name, expected=", ".join(sorted(known)),
            )  # fmt: skip
        try:
            return load_config(PrepareConfig, {"name": "video", "roots": self.videos, **self.film})
        except ConfigError as error:
            error.where = error.where or "--film"
            raise

    @property
    def stores(self) -> tuple[list[Path], str]:
        """Pair stores to train on, and where they were found: with videos, only those named."""
        return data_source(self.data) if self.data or not self.videos else ([], "videos")

    def seed_of(self, what: str) -> int:
        """As of every run; families of odd numbers are left to the benchmarks."""
        if what == "world" and self.world_seed is None:
            return 2 * self.seed
        return super().seed_of(what)

    def describe_seeds(self) -> str:
        """Every seed by name; of the world only where it is rendered for this run."""
        world = [] if self.stores[0] or self.videos else ["world"]
        names = (*world, "split", "draws", "init")
        return "seeds: " + ", ".join(f"{name} {self.seed_of(name)}" for name in names)

    @field_validator("world_seed")
    @classmethod
    def _not_of_a_benchmark(cls, family: int | None) -> int | None:
        """Refuse the scenes that embedded benchmarks test on."""
        if family in {one.rendered["seed"] for one in BENCHMARKS.values() if one.embedded}:
            raise ValueError(f"family {family} is that of the street benchmarks")
        return family

    def with_effect(self) -> Json:
        """Also what earlier versions did not have: a split of another seed than 0, and `pad`."""
        split = self.seed_of("split")
        effect = super().with_effect() | ({"split": split} if split else {})
        unused = {key for key in ("weights", "only", "pad", "videos", "film") if not effect[key]}
        return {key: value for key, value in effect.items() if key not in unused}

    def check(self) -> None:
        """Also the data, and the size where the architecture is known."""
        super().check()
        folders = self.stores[0]
        for folder in folders:
            check_store(folder)
        if self.videos:
            self.filming.require_roots()
        check_weights(self.weights, folders, [VIDEOS] if self.videos else [])
        if self.arch is not None:
            patch_grid(*self.size, ARCHITECTURES[self.arch].patch)

    @property
    def arch_from_weights(self) -> bool:
        """Whether weights that were named decide on the architecture."""
        return False

    def global_batch(self, width: int) -> int:
        """Samples of a step over all ranks: as asked, else by the width of the encoder's tokens.

        Raises:
            ConfigError: An epoch is shorter than that.
        """
        usual = {one.width: one.batch for one in ARCHITECTURES.values()}
        batch = self.batch or usual.get(width, ARCHITECTURES["tiny"].batch)
        if self.draws < batch:
            raise ConfigError(
                "an epoch is shorter than a batch",
                where="--draws",
                found=self.draws,
                expected=f"at least {batch}",
            )
        return batch

    def command(self, options: str = "--preset demo") -> str:
        """The command line on the same data that needs no download, or has the options given."""
        same = [] if self.objective == "scaleevent" else ["--objective", self.objective]
        if self.out != type(self).model_fields["out"].default:
            same += ["-o", str(self.out)]
        same += ["--overwrite"] if self.overwrite else []
        given = [*map(str, self.data), *options.split(), *same]
        return f"scaleevent pretrain {shlex.join(given)}"

    def describe_preset(self) -> str:
        """Where size, length and rates come from."""
        if self.preset != CPU:
            return f"preset {self.preset or 'paper defaults'}"
        paper = f"paper-{self.arch}" if f"paper-{self.arch}" in PRESETS else "paper-vits"
        return f"preset {CPU} (the demo's size and length; the paper's: --preset {paper})"

    def describe(self) -> str:
        """The first line of a run: what is minimised."""
        return f"objective {self.objective}"


_SHORT = {"size": (96, 128), "epochs": 4, "draws": 1280, "batch": 8}  # minutes on a laptop CPU
_TINY: dict[str, Any] = {
    "arch": "tiny", "sampling": "uniform", "lr": 1e-3, "schedule": "cosine", "warmup_steps": 30,
    "clip": 1.0, "validation": 0.2,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    # the embedded teacher and street, where the loss does best on all tokens (examples/
    # street_table5.py)
    "demo": _SHORT | _TINY | {"mask": "none"},
    CPU: _SHORT,
    **{
        f"paper-{arch}": {"arch": arch, "normaliser": "minmax"} for arch in ("vits", "vitb", "vitl")
    },
    # the authors' code where it departs from their paper: rates, input of twice the size, draws,
    # frozen tensors, and the smaller per-GPU batches that go with them. Its mask (from a picture of
    # the events), the teacher's random scaling of positions and the 8-bit JPEG input are not here
    **{
        f"released-{arch}": {
            "arch": arch, "size": (960, 1280), "draws": 150_000, "lr": 2e-6, "lr_patch": 1e-6,
            "freeze": "released", "batch": batch, "normaliser": "minmax",
        }
        for arch, batch in (("vits", 80), ("vitb", 32), ("vitl", 12))
    },
}  # fmt: skip


PretrainConfig.PRESETS = PRESETS


def pretrain_config(
    flags: dict[str, Any], file: Path | None = None, assigned: Sequence[str] = ()
) -> PretrainConfig:
    """Settings of `pretrain` with its preset: the one named, else `demo` on `street`, else `cpu`.

    The last only where there is no GPU; on one the defaults are the paper's. Both compute in bf16
    on a processor that has it. The architecture is the one asked for, else that of the weights
    named, else the preset's.

    Raises:
        ConfigError: As `load_config`; an unknown preset; or stores that are not there.
    """
    bare = load_config(PretrainConfig, flags, file, assigned=assigned)
    check_named(bare.data)
    name = bare.preset or (None if bare.stores[0] or bare.videos else "demo")
    if name is None and not _computes_on_gpu(bare.device):
        name = CPU
    if name is not None and name not in PRESETS:
        raise ConfigError(
            f"unknown preset{nearest(name, PRESETS)}",
            where="--preset", found=name, expected=", ".join(PRESETS),
        )  # fmt: skip
    preset = {"preset": name, **PRESETS[name]} if name else {}
    if name in (CPU, "demo") and has_bfloat16() and not _computes_on_gpu(bare.device):
        preset["precision"] = "bf16"
    if name == CPU and not bare.arch_from_weights and bare.arch in (None, "tiny"):
        preset = _TINY | preset  # with the rates of that architecture
    if not bare.arch_from_weights:
        preset = {"arch": DEFAULT_ARCHITECTURE} | preset
    elif not bare.arch:
        preset.pop("arch", None)
    own = type(bare).model_fields  # another objective may have no mask
    preset = {key: value for key, value in preset.items() if key in own}
    return load_config(PretrainConfig, flags, file, preset, assigned)


def _computes_on_gpu(device: str) -> bool:
    if device != "auto":
        return device != "cpu"
    from scaleevent.system.ranks import choose_device  # imports torch

    return choose_device(device).type == "cuda"
