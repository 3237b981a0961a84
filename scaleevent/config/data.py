"""Settings of the commands: one frozen model each, at once flags, YAML keys and run record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from scaleevent.config.settings import Settings, parse_share, parse_size

DataSet = Literal[
    "street", "custom", "dsec", "dsec-semantic", "dsec-depth", "dsec-flow", "ddd17-seg",
    "mvsec-depth", "mvsec-flow",
]  # fmt: skip

Normaliser = Literal[
    "minmax", "symmetric", "none", "minmax8", "symmetric8", "robust8", "std_pop", "std_unbiased"
]
Representation = Literal[
    "zhu", "e2vid", "dsec", "ess", "event_utils", "tonic", "openeb_volume", "count", "frame",
    "time_surface", "tencode",
]  # fmt: skip


class WindowSettings(Settings):
    """How the events of an image are chosen; shared by `prepare` and `voxelize`."""

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
        float, Field(gt=0, le=1, description="share of cells that must be full, for adaptive")
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
    """What happens with damaged recordings; shared by `prepare` and `voxelize`."""

    on_error: Annotated[
        Literal["strict", "skip"],
        Field(description="damage in a recording: an error, or left out and counted"),
    ] = "strict"
    max_bad: Annotated[
        float,
        Field(
            ge=0, le=1, json_schema_extra={"flag": "text"},
            description="share of a recording that skip may lose, such as 0.1%",
        ),
    ] = 0.001  # fmt: skip

    _share = field_validator("max_bad", mode="before")(parse_share)

    @model_validator(mode="after")
    def _tolerates(self) -> DamageSettings:
        """Refuse a share that strict reading would ignore."""
        default = DamageSettings.model_fields["max_bad"].default
        if self.on_error == "strict" and self.max_bad != default:
            raise ValueError("max_bad has no effect without on_error skip")
        return self

    @property
    def tolerated(self) -> float | None:
        """Share of events that damage may cost; None: nothing is tolerated."""
        return self.max_bad if self.on_error == "skip" else None


class PrepareConfig(WindowSettings, DamageSettings):
    """Settings of `scaleevent prepare`."""

    name: Annotated[DataSet, Field(description=f"data set: {', '.join(get_args(DataSet))}")]
    roots: Annotated[list[Path], Field(description="folder(s) or file(s) of the data set")] = []
    out: Annotated[Path, Field(description="pair store to write")] = Path("pairs")
    seed: Annotated[int, Field(ge=0, description="street: family of scenes")] = 0
    scenes: Annotated[int, Field(ge=1, description="street: number of scenes")] = 1000
    size: Annotated[
        tuple[int, int] | None,
        Field(description="street: image rows x columns (96x128); custom: sensor of the events"),
    ] = None
    speed: Annotated[float, Field(ge=0, le=16, description="street: factor on motion")] = 1.0
    darkness: Annotated[float, Field(ge=0, le=1, description="street: 0 day .. 1 night")] = 0.0
    exposure: Annotated[float, Field(ge=-8, le=8, description="street: stops")] = 0.0
    shutter_ms: Annotated[float, Field(ge=0, le=1000, description="street: exposure time")] = 8.0
    noise_hz: Annotated[float, Field(ge=0, le=1000, description="street: noise per pixel")] = 0.1
    after: Annotated[
        bool, Field(description="street: also the window after the image, for optical flow")
    ] = False
    frames: Annotated[
        Path | None, Field(description="custom: folder or video of the frame camera")
    ] = None
    timestamps: Annotated[Path | None, Field(description="custom: text file of frame times")] = None
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"] | None, Field(description="custom: unit of the event times")
    ] = None
    columns: Annotated[
        str | None, Field(description="custom: order in a table without names, such as txyp")
    ] = None
    segment: Annotated[
        int | None,
        Field(ge=1, description="custom: which stretch between clock resets (1, 2, ..; see info)"),
    ] = None
    frame_time_unit: Annotated[
        Literal["s", "ms", "us", "ns"] | None, Field(description="custom: unit of the frame times")
    ] = None
    offset_us: Annotated[int, Field(description="custom: added to frame times, us")] = 0
    exposure_point: Annotated[
        Literal["start", "middle", "end"],
        Field(description="custom: moment of the exposure that is the image time"),
    ] = "middle"
    homography: Annotated[
        Path | None, Field(description="custom: 3x3 matrix, event pixel to frame pixel")
    ] = None
    calibration: Annotated[
        Path | None, Field(description="custom: YAML in the layout of DSEC's cam_to_cam.yaml")
    ] = None
    sequences: Annotated[
        list[str], Field(description="only these sequences (repeat the flag)")
    ] = []
    label_skip: Annotated[
        int | None, Field(ge=0, description="dsec-*: labels left out at a sequence's start")
    ] = None
    label_stride: Annotated[
        int | None, Field(ge=1, description="dsec-*: of the others every how many is taken")
    ] = None
    event_view: Annotated[
        Literal["rectified", "raw"], Field(description="dsec-semantic: pixels of the events")
    ] = "rectified"
    dt: Annotated[
        int,
        Field(ge=1, le=16, description="mvsec-flow: image intervals that a flow spans"),
    ] = 1
    all_frames: Annotated[
        bool, Field(description="mvsec-flow: beyond the part that is usually scored, too")
    ] = False
    lossless: Annotated[bool, Field(description="store images as PNG, not JPEG q95")] = False
    jobs: Annotated[int, Field(ge=1, le=1024, description="worker processes")] = 1
    resume: Annotated[bool, Field(description="keep shards that are finished")] = False
    overwrite: Annotated[bool, Field(description="empty the output store first")] = False
    dry_run: Annotated[bool, Field(description="list what would be read and written")] = False

    _size = field_validator("size", mode="before")(parse_size)

    @model_validator(mode="after")
    def _belongs(self) -> PrepareConfig:
        """Refuse a setting that the data set would ignore."""
        for key, names in ONLY_FOR.items():
            if (
                self.name not in names
                and getattr(self, key) != self.__class__.model_fields[key].default
            ):
                raise ValueError(f"{key} is only for {' and '.join(names)}, not {self.name}")
        return self


DAVIS = ("ddd17-seg", "mvsec-depth", "mvsec-flow")
LABELS_OF_DSEC = ("dsec-semantic", "dsec-depth", "dsec-flow")

# settings of `prepare` that not every data set has
ONLY_FOR: dict[str, tuple[str, ...]] = {
    "size": ("street", "custom"),
    **dict.fromkeys(
        ("seed", "scenes", "speed", "darkness", "exposure", "shutter_ms", "noise_hz", "after"),
        ("street",),
    ),
    **dict.fromkeys(
        ("frames", "timestamps", "time_unit", "columns", "frame_time_unit", "offset_us",
         "exposure_point", "homography", "calibration", "segment"), ("custom",),
    ),
    **dict.fromkeys(("on_error", "max_bad"), ("custom", "dsec")),
    "sequences": ("dsec", *LABELS_OF_DSEC, *DAVIS),
    **dict.fromkeys(("label_skip", "label_stride"), LABELS_OF_DSEC),
    "event_view": ("dsec-semantic",),
    **dict.fromkeys(("dt", "all_frames"), ("mvsec-flow",)),
}  # fmt: skip


class RecordingSettings(Settings):
    """What a recording's file may not say; shared by `voxelize` and `info`."""

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


class VoxelizeConfig(WindowSettings, RecordingSettings, DamageSettings):
    """Settings of `scaleevent voxelize`."""

    root: Annotated[Path, Field(description="folder of recordings, or one recording")]
    out: Annotated[Path, Field(description="folder for the voxel shards")] = Path("voxels")
    bins: Annotated[int, Field(ge=1, le=64, description="time bins")] = 3
    representation: Annotated[
        Representation, Field(description="grid to store; others than zhu are not for pretrain")
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
