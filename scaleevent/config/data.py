"""Settings of the commands: one frozen model each, at once flags, YAML keys and run record."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from scaleevent.config.catalog import DATASETS, NORMALISERS, REPRESENTATIONS, UNDOCUMENTED, Part
from scaleevent.config.settings import (
    OneOf,
    OutputSettings,
    PartSettings,
    Settings,
    nearest,
    parse_fraction,
    parse_size,
)
from scaleevent.config.tags import GivenTags
from scaleevent.errors import ConfigError, DataError
from scaleevent.system.files import Json, claimed_folder
from scaleevent.system.refusals import check_there, reading
from scaleevent.system.shares import Share, check_shares, joined_folder

SHOWN = 30  # names of sequences in a message

Normaliser = Annotated[str, OneOf(NORMALISERS)]


class WindowSettings(Settings):
    """How the window of events that ends at an image is chosen."""

    window: Literal["adaptive", "time", "count"] = Field(
        default="adaptive", description="rule for the window that ends at each image"
    )
    window_ms: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="length for time (50), longest for adaptive (200)",
    )
    window_events: float = Field(
        default=0.33, gt=0, le=100, description="events per sensor pixel, for count"
    )
    quantile: float = Field(
        default=0.5, gt=0, le=1, description="fraction of cells that must be full, for adaptive"
    )
    cell: int = Field(default=16, ge=2, le=256, description="cell side in pixels, adaptive")

    @model_validator(mode="after")
    def _used(self) -> WindowSettings:
        """Refuse a setting that the rule would ignore."""
        unused = {
            "adaptive": ("window_events",),
            "time": ("window_events", "quantile", "cell"),
            "count": ("window_ms", "quantile", "cell"),
        }[self.window]
        for key in unused:
            if getattr(self, key) != WindowSettings.model_fields[key].default:
                raise ValueError(f"{key} has no effect with window {self.window}")
        return self

    @property
    def longest_us(self) -> int:
        """Length for `time`, longest span for `adaptive`."""
        return round(1000 * (self.window_ms or (50.0 if self.window == "time" else 200.0)))


def window_in(settings: Json) -> Json | None:
    """The rule for windows among the settings of a store; None where it has none of ours.

    Windows of some data sets are the spans of their labels.
    """
    if settings.get("window") not in ("adaptive", "time", "count"):
        return None
    return {key: settings[key] for key in WindowSettings.model_fields if key in settings}


class DamageSettings(Settings):
    """What happens with damaged recordings."""

    on_error: Literal["strict", "skip"] = Field(
        default="strict", description="damage in a recording: an error, or left out and counted"
    )
    max_bad: float = Field(
        default=0.001,
        ge=0,
        le=1,
        json_schema_extra={"flag": "text"},
        description="fraction of a recording that skip may lose, such as 0.1%",
    )

    _fraction = field_validator("max_bad", mode="before")(parse_fraction)

    @model_validator(mode="after")
    def _tolerates(self) -> DamageSettings:
        """Refuse a fraction that strict reading would ignore."""
        default = DamageSettings.model_fields["max_bad"].default
        if self.on_error == "strict" and self.max_bad != default:
            raise ValueError("max_bad has no effect without on_error skip")
        return self

    @property
    def tolerated(self) -> float | None:
        """Fraction of events that damage may cost; None: nothing is tolerated."""
        return self.max_bad if self.on_error == "skip" else None


class RecordingSettings(Settings):
    """What a recording's file may leave open; shared by `info` and what reads any recording."""

    size: tuple[int, int] | None = Field(
        default=None, description="sensor rows x columns if the file has none"
    )
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of the event times"
    )
    columns: str | None = Field(
        default=None,
        description="order of the columns, such as 't x y p -', or names, 't=a x=b y=c p=d'",
    )
    topic: str | None = Field(
        default=None,
        description="event stream of several: ROS topic, HDF5 group, variable, AEDAT4 id",
    )
    image_topic: str | None = Field(
        default=None, description="ROS topic or AEDAT4 id of the images"
    )
    camera: str | None = Field(
        default=None, description="camera model, if the file has none, as DVS128"
    )

    _size = field_validator("size", mode="before")(parse_size)

    @property
    def reading(self) -> Json:
        """Arguments of `formats.open_recording`, besides the sensor's size."""
        return {key: getattr(self, key) for key in RecordingSettings.model_fields if key != "size"}


class StreamSettings(WindowSettings, RecordingSettings, DamageSettings):
    """How any recording is read and cut into windows; shared by `voxelize` and `prepare`."""


class StoreSettings(OutputSettings):
    """How a command that writes a store shares out its work; nothing here changes a byte of it."""

    jobs: int = Field(default=1, ge=1, le=1024, description="worker processes")
    dask: str | None = Field(
        default=None, description="Dask scheduler whose workers do the work: tcp://HOST:8786"
    )
    shard: str | None = Field(
        default=None,
        description="only this part of the work: 3/8, or slurm for that of an array task",
    )
    resume: bool = Field(default=False, description="keep shards that are finished")

    @field_validator("shard")
    @classmethod
    def _share(cls, value: str | None) -> str | None:
        """A share as text, that of a SLURM array task too."""
        return str(Share.parse(value)) if value else None

    @property
    def share(self) -> Share | None:
        """The share of the work; None for all of it."""
        return Share.parse(self.shard) if self.shard else None

    def check(self) -> None:
        """Also what the ways to share out work do not have in common."""
        if self.dask and self.jobs > 1:
            raise ConfigError(
                "--jobs counts processes of this machine, --dask names others",
                where="jobs", found=self.jobs, hint="leave out --jobs",
            )  # fmt: skip
        if self.shard and self.overwrite:
            raise ConfigError(
                "--overwrite would delete what other shards have written", where="overwrite",
                hint="choose another --out, or delete the folder before the first shard",
            )  # fmt: skip
        super().check()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The output folder, owned for a block, or with `shard` joined.

        Raises:
            EnvironmentProblem: See `claimed_folder` and `joined_folder`.
        """
        assert self.out is not None
        if self.share:
            with joined_folder(self.out, self.KIND, self.share, take_over=self.take_over):
                yield
            return
        alone = partial(check_shares, self.out, self.take_over)
        with claimed_folder(self.out, self.KIND, alone, **self._consent):
            yield

    @property
    def _consent(self) -> dict[str, bool]:
        return super()._consent | {"resume": self.resume or bool(self.shard)}


class PrepareConfig(PartSettings, StoreSettings):
    """Settings of `scaleevent prepare` that every data set has; each adds its own in its module.

    Called with a `name`, this gives the settings of that data set.
    """

    KIND: ClassVar[str] = "pairs"
    parts: ClassVar[Mapping[str, Part]] = DATASETS
    chooser: ClassVar[str] = "name"
    noun: ClassVar[str] = "data set"

    name: Annotated[str, OneOf(DATASETS)] = Field(description="data set")
    roots: list[Path] = Field(default=[], description="folder(s) or file(s) of the data set")
    out: Path = Field(default=Path("pairs"), description="pair store to write")
    lossless: bool = Field(default=False, description="store images as PNG, not JPEG q95")
    dry_run: bool = Field(
        default=False, description="tell what would be read and written, how long"
    )
    check_only: bool = Field(
        default=False, description="as --dry-run, and draw the first pairs: OUT-check.png"
    )
    picture: Path | None = Field(
        default=None, description="with --dry-run or --check: that PNG, events over images"
    )
    tag: GivenTags = Field(
        default=[], description="what is known of all pairs: real, outdoor, sensor=NAME; repeatable"
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)  # keys of any data set: the one named checks them

    @classmethod
    def of_part(cls, values: Mapping[str, Any]) -> type[Self]:
        """As for all parts; a path, or a data set whose layout is not known, is told so."""
        name = values.get("name")
        if isinstance(name, str) and name not in cls.parts and name in UNDOCUMENTED:
            raise ConfigError(
                "the layout of this data set is not documented, and not guessed",
                where="name", found=f"{name} ({UNDOCUMENTED[name]})",
                hint="`scaleevent prepare custom ROOT -o STORE` reads any layout, one recording at "
                "a time",
            )  # fmt: skip
        if isinstance(name, str) and name not in cls.parts and os.path.exists(name):
            raise ConfigError(
                "no data set is named",
                where="name", found=f"{name}, which is a path", expected=", ".join(cls.parts),
                hint=f"`scaleevent prepare custom {shlex.quote(name)} -o PAIRS` takes recordings "
                "and frames of your own",
            )  # fmt: skip
        return super().of_part(values)

    def check(self) -> None:
        """A dry run writes nothing but its picture."""
        if self.plans:
            return
        if self.picture:
            raise ConfigError(
                "--picture has no effect without --check or --dry-run",
                where="picture", found=self.picture,
            )  # fmt: skip
        super().check()

    @property
    def plans(self) -> bool:
        """Whether nothing but what would come is asked for."""
        return self.dry_run or self.check_only

    @property
    def sheet(self) -> Path | None:
        """Where the first pairs are drawn; None: nowhere."""
        beside = self.out.with_name(f"{self.out.name}-check.png") if self.check_only else None
        return self.picture or beside

    @property
    def told_tags(self) -> list[str]:
        """Tags of all pairs that follow from the settings; they prevail over the data set's."""
        return self.tag

    def require_roots(self) -> None:
        """Refuse settings that name no folder or file, or one that is not there.

        Raises:
            ConfigError: `roots` is empty.
            DataError: One does not exist, or is an empty folder beside others.
        """
        if not self.roots:
            raise ConfigError(
                f"{self.name} needs the folder of its data",
                hint=f"`scaleevent prepare {self.name} FOLDER -o PAIRS`",
            )
        for root in self.roots:
            check_there(root)
            with reading(root, "the folder cannot be read"):
                empty = root.is_dir() and not any(root.iterdir())
            if empty and len(self.roots) > 1:  # else the data set tells what it expects there
                raise DataError(
                    "an empty folder", where=root, expected=f"files of {self.name}",
                    hint="mount its disk, or name another folder",
                )  # fmt: skip


class SequencesConfig(PrepareConfig):
    """Settings of a data set that consists of named sequences."""

    sequences: list[str] = Field(default=[], description="only these sequences (repeat the flag)")

    def check_sequences(self, known: Collection[str]) -> None:
        """Refuse sequences that the data set does not have.

        Raises:
            ConfigError: The unknown ones.
        """
        if unknown := sorted(set(self.sequences) - set(known)):
            some, more = sorted(known)[:SHOWN], len(known) - SHOWN
            raise ConfigError(
                "no such sequence in this data set", where="--sequences",
                found=", ".join(f"{name}{nearest(name, known)}" for name in unknown),
                expected=", ".join(some) + (f" or {more} others" if more > 0 else ""),
            )  # fmt: skip


class SourceConfig(SequencesConfig):
    """Settings of a data set for pretraining some of whose sequences test benchmarks."""

    transductive: bool = Field(
        default=False, description="take test recordings of benchmarks too, which is recorded"
    )


class VoxelizeConfig(StreamSettings, StoreSettings):
    """Settings of `scaleevent voxelize`."""

    KIND: ClassVar[str] = "voxels"

    root: Path = Field(description="folder of recordings, or one recording")
    out: Path = Field(default=Path("voxels"), description="folder for the voxel shards")
    bins: int = Field(default=3, ge=1, le=64, description="time bins")
    representation: Annotated[str, OneOf(REPRESENTATIONS)] = Field(
        default="zhu", description="grid to store; others than zhu are not for pretrain"
    )
    rate: float = Field(
        default=20.0, gt=0, le=100_000, description="windows per second where there are no frames"
    )
    tau: float = Field(default=64.0, ge=0, description="activity threshold per 16x16 patch")
    patch: int = Field(default=16, ge=2, le=256, description="patch of the activity statistics")


class InfoConfig(RecordingSettings):
    """Settings of `scaleevent info`."""

    path: Path = Field(
        description="a recording, store (or its address), shard, run or checkpoint (also embedded, "
        "embedded-event), or the YAML settings of a mix"
    )
    more: list[Path] = Field(
        default=[], description="further stores, to be mixed with the first one"
    )
    picture: Path | None = Field(
        default=None, description="write a PNG here: events of a recording, or pairs of a store"
    )
    full: bool = Field(
        default=False,
        description="read every event, where the file's index would do for most facts",
    )
    verify: bool = Field(
        default=False, description="re-hash every shard of a pair store, and say what was checked"
    )

    @model_validator(mode="after")
    def _draws_one(self) -> InfoConfig:
        """Refuse a picture of several stores."""
        if self.picture and self.more:
            raise ValueError("a picture shows one store, not several")
        return self
