"""Settings of labels of users' own, and which of them which labels have a use for."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pydantic import Field, model_validator

from scaleevent.config.settings import Settings as BaseSettings
from scaleevent.datasets.flow_png import KITTI_SCALE
from scaleevent.errors import ConfigError


class LabelSettings(BaseSettings):
    """Settings for labels of users' own."""

    labels: Path | None = Field(
        default=None,
        description="folder of label files: class ids, depth in metres or optical flow",
    )
    classes: Path | None = Field(
        default=None, description="YAML file of names, colours and ids; default: classes.yaml there"
    )
    label_times: Path | None = Field(
        default=None,
        description="text file of label times; default: by names, see prepare --list custom",
    )
    depth_scale: float | None = Field(
        default=None,
        gt=0,
        description="words a metre of 16-bit depth: 256 as KITTI, 1000 for millimetres",
    )
    max_depth: float = Field(
        default=80.0, gt=0, le=100_000, description="farthest depth that counts, metres"
    )
    flow_scale: float = Field(
        default=KITTI_SCALE,
        gt=0,
        description="words a pixel of 16-bit flow: 64 as KITTI, 128 as DSEC",
    )
    flow_ms: float | None = Field(
        default=None, gt=0, le=10_000, description="time that each flow spans; default: to the next"
    )
    split: Path | None = Field(
        default=None,
        description="YAML file of recordings by part; default: drawn from --split-seed",
    )
    split_seed: int = Field(default=0, ge=0, description="of the recordings that test")
    test_share: float = Field(default=0.3, gt=0, lt=1, description="of the recordings that test")

    @model_validator(mode="after")
    def _of_labels(self) -> LabelSettings:
        """Refuse settings that nothing would use."""
        for key in LabelSettings.model_fields:
            if self.labels is None and self._asks_for(key):
                raise ValueError(f"{_flag(key)} has no effect without --labels")
        for key in ("split_seed", "test_share"):
            if self.split is not None and self._asks_for(key):
                raise ValueError(f"{_flag(key)} has no effect where a list says which test")
        return self

    def _asks_for(self, key: str) -> bool:
        return bool(getattr(self, key) != LabelSettings.model_fields[key].default)

    def check_task(self, task: str, suffixes: Collection[str]) -> None:
        """Refuse settings that labels of a task, in files of some kinds, have no use for.

        Raises:
            ConfigError: With the flag.
        """
        used = {key for key, (of, suffix) in _OF_TASK.items()
                if task == of and (suffix is None or suffix in suffixes)}  # fmt: skip
        for key in sorted(_OF_TASK.keys() - used):
            if self._asks_for(key):
                raise ConfigError(
                    f"no effect on labels of {task}", where=_flag(key),
                    found=", ".join(f"*{suffix}" for suffix in sorted(suffixes)),
                    expected=" ".join(filter(None, ("labels of", *_OF_TASK[key]))),
                )  # fmt: skip


# settings of one task alone, and of one kind of its files
_OF_TASK: dict[str, tuple[str, str | None]] = {
    "classes": ("segmentation", None), "depth_scale": ("depth", ".png"),
    "max_depth": ("depth", None), "flow_scale": ("flow", ".png"), "flow_ms": ("flow", None),
}  # fmt: skip


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"
