"""Settings of `scaleevent predict`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from scaleevent.config.data import StreamSettings, WindowSettings
from scaleevent.config.live import LiveSettings, live_address
from scaleevent.config.run import DeviceSettings
from scaleevent.config.settings import Weights, nearest, parse_size
from scaleevent.errors import ConfigError
from scaleevent.system.locations import check_checkpoint, check_weights, names_model
from scaleevent.system.refusals import check_there

Kind = Literal["png", "npy", "hdf5", "video"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DRAWN: tuple[Kind, ...] = ("png", "video")


class PredictConfig(StreamSettings, LiveSettings, DeviceSettings):
    """Settings of `scaleevent predict`."""

    KIND: ClassVar[str] = "predictions"

    checkpoint: Weights = Field(
        description="task model or encoder: a file, a run folder, embedded-event, "
        "embedded-event-depth, embedded, timm:NAME, hf-hub:NAME"
    )
    recordings: list[Path] = Field(
        default=[], description="event recording(s); live: - for standard input, or udp://HOST:PORT"
    )
    out: Path = Field(default=Path("predictions"), description="folder for what is predicted")
    write: list[Kind] = Field(
        default=["png"], description=f"what is written, of {','.join(KINDS)}; commas or repeated"
    )
    window: Literal["adaptive", "time", "count"] = Field(
        default="adaptive", description="rule for windows, if it is not to be the checkpoint's"
    )
    rate: float = Field(default=30.0, gt=0, le=100_000, description="predictions per second")
    every_events: int | None = Field(
        default=None, ge=1, description="a prediction every so many events instead"
    )
    at: Path | None = Field(
        default=None, description="predictions at the times in this text file instead, one a line"
    )
    at_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="unit of these times; default: by what is plausible"
    )
    at_origin: Literal["clock", "first"] = Field(
        default="clock",
        description="whether they are on the recording's clock or since its first event",
    )
    start: float = Field(default=0.0, ge=0, le=1e7, description="seconds after the first event")
    duration: float | None = Field(default=None, gt=0, le=1e7, description="seconds from there")
    patch: tuple[int, int] | None = Field(
        default=None, description="encoder: similarity to the patch at this sensor pixel, X,Y"
    )
    clusters: int | None = Field(
        default=None, ge=2, le=64, description="encoder: so many k-means clusters"
    )
    basis: Path | None = Field(
        default=None,
        description="encoder: colours or clusters of another run, its basis.safetensors",
    )
    seed: int = Field(default=0, ge=0, description="random seed of the clusters")
    layout: Literal["beside", "overlay"] = Field(
        default="beside",
        description="pictures: events and prediction side by side, or only the latter",
    )
    frames: bool = Field(
        default=True, description="draw on the recording's own frames, where it has some"
    )
    input_size: tuple[int, int] | None = Field(
        default=None, description="network input, rows x columns; default: the checkpoint's"
    )
    offline: bool = Field(default=False, description="never use the network")

    _sizes = field_validator("input_size", mode="before")(parse_size)

    @field_validator("write", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`png,npy`, or a list of such texts; each once, in the order of `KINDS`."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            return value
        asked = [name.strip() for part in parts for name in part.split(",") if name.strip()]
        for name in asked:
            if name not in KINDS:
                raise ValueError(f"expected some of {', '.join(KINDS)}{nearest(name, KINDS)}")
        if not asked:
            raise ValueError(f"expected some of {', '.join(KINDS)}")
        return [kind for kind in KINDS if kind in asked]

    @field_validator("patch", mode="before")
    @classmethod
    def _pixel(cls, value: object) -> object:
        """`120,80` to (column, row)."""
        if isinstance(value, str):
            parts = value.split(",")
            if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
                raise ValueError("expected a pixel as column,row, such as 120,80")
            return int(parts[0]), int(parts[1])
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        """Refuse settings that contradict or ignore each other."""
        given = self.model_fields_set
        ways = [key for key in ("rate", "every_events", "at") if key in given]
        ways = [key for key in ways if getattr(self, key) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other")
        for key in ("at_unit", "at_origin"):
            if key in given and self.at is None:
                raise ValueError(f"{key} has no effect without at")
        if self.patch is not None and self.clusters is not None:
            raise ValueError("patch and clusters exclude each other")
        if self.patch is not None and self.basis is not None:
            raise ValueError("basis has no effect with patch")
        if "seed" in given and (self.clusters is None or self.basis is not None):
            why = "without clusters" if self.clusters is None else "with basis"
            raise ValueError(f"seed has no effect {why}")
        for key in ("layout", "frames") if not set(DRAWN) & set(self.write) else ():
            if key in given:
                raise ValueError(f"{key} has no effect without {' or '.join(DRAWN)}")
        for key in ("format", "idle") if not self.is_live else ():
            if key in given:
                raise ValueError(f"{key} has no effect on files that are whole")
        for key in ("queue", "when_slow") if not self.is_live and self.pace == "fast" else ():
            if key in given:
                raise ValueError(f"{key} has no effect without a live source or pace real")
        return self

    def _check_order(self) -> None:
        """Refuse a model among the recordings.

        Raises:
            ConfigError: The two have changed places.
        """
        models = [path for path in self.recordings if names_model(str(path))]
        if not models or names_model(self.checkpoint):
            return
        first, *others = self.checkpoint, *(p for p in self.recordings if p is not models[0])
        line = shlex.join(["predict", str(models[0]), first, *map(str, others)])
        raise ConfigError(
            "checkpoint and recording have changed places", where="checkpoint", found=first,
            expected="the model first, then recordings", hint=f"`scaleevent {line}`",
        )  # fmt: skip

    @property
    def asks_for_window(self) -> bool:
        """Whether a rule for windows was given, so that the checkpoint's does not count."""
        return bool(set(WindowSettings.model_fields) & self.model_fields_set)

    @property
    def asks_for_view(self) -> tuple[str, ...]:
        """The settings given that only encoders have, as flags."""
        found = {"patch": self.patch, "clusters": self.clusters, "basis": self.basis}
        return tuple(f"--{key}" for key, value in found.items() if value is not None)

    @property
    def is_live(self) -> bool:
        """Whether events come while predictions are made."""
        return self.follow or any(live_address(path) for path in self.recordings)

    def check(self) -> None:
        """Also the recordings and the checkpoint."""
        super().check()
        self._check_order()
        check_weights(self.checkpoint)
        if self.basis is not None:
            check_checkpoint(self.basis)
        if not self.recordings:
            raise ConfigError(
                "no recording is named", where="recordings",
                hint="`scaleevent predict CHECKPOINT RECORDING -o FOLDER`",
            )  # fmt: skip
        if self.is_live:
            self.check_live([live_address(path) or "" for path in self.recordings])
        files = () if self.is_live and not self.follow else self.recordings
        for path in (*files, *([self.at] if self.at else [])):
            check_there(path)
