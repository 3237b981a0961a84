"""Settings of the commands: one frozen model each, at once flags, YAML keys and run record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from scaleevent.config.catalog import DATASETS, NORMALISERS, REPRESENTATIONS, Part
from scaleevent.config.settings import OneOf, PartSettings, Settings, parse_share, parse_size
from scaleevent.errors import ConfigError

Normaliser = Annotated[str, OneOf(NORMALISERS)]


class WindowSettings(Settings):
    """How the window of events that ends at an image is chosen."""

    window: Annotated[
        Literal["adaptive", "time", "count"],
        Field(description="rule for the window that ends at each image"),
    ] = "adaptive"
    window_ms: Annotated[
        float | None,
        Field(gt=0, le=10_000, description="length for time (50), longest for adaptive (200)"),
    ] = None
    window_events: Annotated[
        float, Field(gt=0, le=100, description="events per sensor pixel, for count")
    ] = 0.33
    quantile: Annotated[
        float, Field(gt=0, le=1, description="fraction of cells that must be full, for adaptive")
    ] = 0.1
    cell: Annotated[int, Field(ge=2, le=256, description="cell side in pixels, adaptive")] = 16

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


class DamageSettings(Settings):
    """What happens with damaged recordings."""

    on_error: Annotated[
        Literal["strict", "skip"],
        Field(description="damage in a recording: an error, or left out and counted"),
    ] = "strict"
    max_bad: Annotated[
        float,
        Field(
            ge=0, le=1, json_schema_extra={"flag": "text"},
            description="fraction of a recording that skip may lose, such as 0.1%",
        ),
    ] = 0.001  # fmt: skip

    _fraction = field_validator("max_bad", mode="before")(parse_share)

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

    size: Annotated[
        tuple[int, int] | None, Field(description="sensor rows x columns if the file has none")
    ] = None
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"] | None, Field(description="unit of the event times")
    ] = None
    columns: Annotated[
        str | None, Field(description="order in a table without names, such as txyp")
    ] = None

    _size = field_validator("size", mode="before")(parse_size)


class StreamSettings(WindowSettings, RecordingSettings, DamageSettings):
    """How any recording is read and cut into windows; shared by `voxelize` and `prepare`."""


class PrepareConfig(PartSettings):
    """Settings of `scaleevent prepare` that every data set has; each adds its own in its module.

    Called with a `name`, this gives the settings of that data set.
    """

    parts: ClassVar[Mapping[str, Part]] = DATASETS
    chooser: ClassVar[str] = "name"

    name: Annotated[str, OneOf(DATASETS), Field(description="data set")]
    roots: Annotated[list[Path], Field(description="folder(s) or file(s) of the data set")] = []
    out: Annotated[Path, Field(description="pair store to write")] = Path("pairs")
    lossless: Annotated[bool, Field(description="store images as PNG, not JPEG q95")] = False
    jobs: Annotated[int, Field(ge=1, le=1024, description="worker processes")] = 1
    resume: Annotated[bool, Field(description="keep shards that are finished")] = False
    overwrite: Annotated[bool, Field(description="empty the output store first")] = False
    dry_run: Annotated[bool, Field(description="list what would be read and written")] = False

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)  # keys of any data set: the one named checks them

    def require_roots(self) -> None:
        """Refuse settings that name no folder or file.

        Raises:
            ConfigError: `roots` is empty.
        """
        if not self.roots:
            raise ConfigError(
                f"{self.name} needs the folder of its data",
                hint=f"scaleevent prepare {self.name} FOLDER -o PAIRS",
            )


class SequencesConfig(PrepareConfig):
    """Settings of a data set that consists of named sequences."""

    sequences: Annotated[
        list[str], Field(description="only these sequences (repeat the flag)")
    ] = []

    def check_sequences(self, known: Collection[str]) -> None:
        """Refuse sequences that the data set does not have.

        Raises:
            ConfigError: The unknown ones.
        """
        if unknown := sorted(set(self.sequences) - set(known)):
            raise ConfigError(
                "no such sequence in this data set", where="--sequences",
                found=", ".join(unknown), expected=", ".join(sorted(known)),
            )  # fmt: skip


class VoxelizeConfig(StreamSettings):
    """Settings of `scaleevent voxelize`."""

    root: Annotated[Path, Field(description="folder of recordings, or one recording")]
    out: Annotated[Path, Field(description="folder for the voxel shards")] = Path("voxels")
    bins: Annotated[int, Field(ge=1, le=64, description="time bins")] = 3
    representation: Annotated[
        str,
        OneOf(REPRESENTATIONS),
        Field(description="grid to store; others than zhu are not for pretrain"),
    ] = "zhu"
    rate: Annotated[
        float, Field(gt=0, le=100_000, description="windows per second where there are no frames")
    ] = 20.0
    tau: Annotated[float, Field(ge=0, description="activity threshold per 16x16 patch")] = 64.0
    patch: Annotated[int, Field(ge=2, le=256, description="patch of the activity statistics")] = 16
    jobs: Annotated[int, Field(ge=1, le=1024, description="worker processes")] = 1
    resume: Annotated[bool, Field(description="keep shards that are finished")] = False
    overwrite: Annotated[bool, Field(description="empty the output folder first")] = False


class InfoConfig(RecordingSettings):
    """Settings of `scaleevent info`."""

    path: Annotated[Path, Field(description="a recording, a pair store or a checkpoint")]
    picture: Annotated[Path | None, Field(description="write a PNG of the events here")] = None
    full: Annotated[
        bool, Field(description="read every event, where the file's index would do for most facts")
    ] = False
    verify: Annotated[bool, Field(description="re-hash every shard of a pair store")] = False
