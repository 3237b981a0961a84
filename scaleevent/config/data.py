"""Settings of the commands: one frozen model each, at once flags, YAML keys and run record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from scaleevent.config.settings import Settings, load_config, parse_share, parse_size
from scaleevent.errors import ConfigError
from scaleevent.system.files import MARKER

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


class PretrainConfig(Settings):
    """Settings of `scaleevent pretrain`. Defaults are the paper's."""

    data: Annotated[
        list[Path],
        Field(description="pair stores; default: $SCALEEVENT_DATA, ./pairs, else street"),
    ] = []
    out: Annotated[Path, Field(description="run folder")] = Path("runs/pretrain")
    preset: Annotated[str | None, Field(description="demo, paper-vits|b|l, released-vits|b|l")] = (
        None
    )
    arch: Annotated[
        Literal["tiny", "vits", "vitb", "vitl"] | None,
        Field(description="encoder; default: that of --teacher, else vits"),
    ] = None
    teacher: Annotated[
        str | None,
        Field(description="weight file, timm name or hf-hub:NAME; default: DINOv3 of --arch"),
    ] = None
    student_init: Annotated[
        str, Field(description="start of the student: teacher, random, or as --teacher")
    ] = "teacher"
    size: Annotated[tuple[int, int], Field(description="network input, rows x columns")] = (
        480,
        640,
    )
    normaliser: Annotated[Normaliser, Field(description="range of the voxel input")] = "minmax"
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
    epochs: Annotated[int, Field(ge=1, le=100_000, description="epochs")] = 10
    draws: Annotated[int, Field(ge=1, le=10**9, description="samples drawn an epoch")] = 100_000
    batch: Annotated[
        int | None, Field(ge=1, le=65_536, description="global batch; default by --arch")
    ] = None
    sampling: Annotated[Literal["released", "uniform"], Field(description="law of the draws")] = (
        "released"
    )
    lr: Annotated[float, Field(gt=0, le=10, description="learning rate")] = 5e-6
    lr_patch: Annotated[
        float | None, Field(gt=0, le=10, description="of the patch embedding; default --lr")
    ] = None
    weight_decay: Annotated[float, Field(ge=0, le=10, description="AdamW weight decay")] = 1e-4
    schedule: Annotated[
        Literal["exponential", "cosine", "constant"], Field(description="of the learning rate")
    ] = "exponential"
    decay: Annotated[float, Field(gt=0, le=1, description="per epoch, for exponential")] = 0.9
    warmup_steps: Annotated[int, Field(ge=0, le=10**9, description="linear warm-up")] = 0
    clip: Annotated[float, Field(ge=0, le=1e6, description="gradient norm; 0: no clipping")] = 0.1
    freeze: Annotated[
        Literal["none", "released"],
        Field(description="released: class and register tokens and final norm stay"),
    ] = "none"
    validation: Annotated[
        float, Field(ge=0, lt=1, description="share of pairs held out, by recording")
    ] = 0.05
    probe: Annotated[
        bool, Field(description="ridge probe before and after, where semantics exist")
    ] = True
    seed: Annotated[int, Field(ge=0, description="of the draws")] = 0
    gpus: Annotated[int, Field(ge=1, le=1024, description="processes on this machine")] = 1
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N")] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 on a GPU, else fp32")
    ] = "auto"
    workers: Annotated[
        int | None, Field(ge=0, le=256, description="loader processes a rank; default by cores")
    ] = None
    log_every: Annotated[int, Field(ge=1, description="steps between log lines")] = 10
    save_every: Annotated[int, Field(ge=1, description="steps between saved states")] = 1000
    offline: Annotated[bool, Field(description="never use the network")] = False
    resume: Annotated[bool, Field(description="go on from the last saved state")] = False
    overwrite: Annotated[bool, Field(description="empty the run folder first")] = False

    _size = field_validator("size", mode="before")(parse_size)

    @property
    def lambdas(self) -> dict[str, float]:
        """Weights of the loss terms by name."""
        return {"l1": self.lambda_l1, "intra": self.lambda_is, "cross": self.lambda_cs}


DEFAULT_ARCH = "vits"
# Four GPUs with the per-GPU batch of the released code's comment ("20-S, 12/8-B, 5-L":
# zhiwen-xdu/ScaleEvent:scale_event/pretrain/pretrain_ddp.py); the paper gives none.
BATCH = {"tiny": 16, "vits": 80, "vitb": 48, "vitl": 20}

PRESETS: dict[str, dict[str, Any]] = {
    # a few minutes on a laptop CPU: the embedded teacher and street
    "demo": {
        "arch": "tiny", "size": (96, 128), "epochs": 8, "draws": 800, "sampling": "uniform",
        "lr": 5e-4, "schedule": "cosine", "warmup_steps": 30, "clip": 1.0, "validation": 0.2,
    },
    **{f"paper-{arch}": {"arch": arch} for arch in ("vits", "vitb", "vitl")},
    # the authors' code where it departs from their paper: rates, input of twice the size, draws,
    # frozen tensors, and the smaller per-GPU batches that go with them
    **{
        f"released-{arch}": {
            "arch": arch, "size": (960, 1280), "draws": 150_000, "lr": 2e-6, "lr_patch": 1e-6,
            "freeze": "released", "batch": batch,
        }
        for arch, batch in (("vits", 80), ("vitb", 32), ("vitl", 12))
    },
}  # fmt: skip


def pretrain_config(flags: dict[str, Any], file: Path | None = None) -> PretrainConfig:
    """Settings of `pretrain` with its preset: the one named, else `demo` on `street`.

    The architecture is the one asked for, else that of the teacher's weights, else the preset's.

    Raises:
        ConfigError: As `load_config`; or an unknown preset.
    """
    bare = load_config(PretrainConfig, flags, file)
    name = bare.preset or ("demo" if data_source(bare.data)[1] == "street" else None)
    if name is not None and name not in PRESETS:
        raise ConfigError(
            "unknown preset", where="--preset", found=name, expected=", ".join(PRESETS)
        )
    preset = {"preset": name, **PRESETS[name]} if name else {}
    if bare.teacher and not bare.arch:
        preset.pop("arch", None)
    elif not bare.teacher:
        preset = {"arch": DEFAULT_ARCH} | preset
    return load_config(PretrainConfig, flags, file, preset)


def data_source(named: list[Path]) -> tuple[list[Path], str]:
    """Pair stores to train on, and where they were found.

    Names that are not paths are looked up in $SCALEEVENT_DATA, a folder of named stores. Without
    names: all stores there, then ./pairs, else the embedded `street` (no paths).

    Raises:
        ConfigError: A named store does not exist.
    """
    shelf = os.environ.get("SCALEEVENT_DATA")
    if named:
        found = [p if p.exists() or not shelf else Path(shelf) / p for p in named]
        for name, path in zip(named, found, strict=True):
            if not path.exists():
                raise ConfigError(
                    "no such pair store",
                    where="data",
                    found=name,
                    hint="make one with `scaleevent prepare`, or leave it out to use street",
                )
        return found, "argument"
    if shelf:
        stores = sorted(path.parent for path in Path(shelf).glob("*/manifest.json"))
        if (Path(shelf) / "manifest.json").exists():
            stores.append(Path(shelf))
        if stores:
            return stores, "$SCALEEVENT_DATA"
        raise ConfigError("no pair store", where="$SCALEEVENT_DATA", found=shelf,
                          expected="a folder of folders with manifest.json")  # fmt: skip
    if Path("pairs/manifest.json").exists():
        return [Path("pairs")], "./pairs"
    if Path("pairs", MARKER).exists():
        raise ConfigError(
            "the pair store is not finished", where="./pairs",
            hint="finish it with the same prepare command and --resume, or name other data",
        )  # fmt: skip
    return [], "street"
