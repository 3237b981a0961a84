"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from scaleevent.config.settings import Checkpoint, OutputSettings, nearest, parse_size
from scaleevent.system.locations import check_checkpoint, check_store

EXPORT_FORMATS = (
    "safetensors", "meta", "exported", "onnx", "onnx-fp16", "onnx-int8", "hub",
)  # fmt: skip


class ExportConfig(OutputSettings):
    """Settings of `scaleevent export`."""

    KIND: ClassVar[str] = "export"

    checkpoint: Checkpoint = Field(
        description="encoder or task checkpoint, a run folder, hf-hub:ORG/NAME, local-dir:FOLDER, "
        "embedded-event"
    )
    out: Path = Field(default=Path("export"), description="folder for the files")
    format: str = Field(
        default="all",
        description=f"all, or some of {', '.join(EXPORT_FORMATS)} with commas between: timm or "
        "Meta key names, torch.export .pt2, ONNX in float32, float16 or 8 bits, a folder for the "
        "Hugging Face hub (by itself); all: those that are exact",
    )
    batch: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="samples at once of whole programs; default: any number",
    )
    data: list[Path] = Field(
        default=[], description="pair stores: also score files of reduced precision on the test set"
    )
    limit: int | None = Field(
        default=None, ge=1, description="with --data: score so many test samples"
    )
    latency: bool = Field(
        default=False, description="also measure eager, compiled and ONNX latency on this machine"
    )
    size: tuple[int, int] | None = Field(
        default=None, description="input rows x columns; default: the checkpoint's"
    )

    offline: bool = Field(default=False, description="never use the network")

    _size = field_validator("size", mode="before")(parse_size)

    @field_validator("format")
    @classmethod
    def _known_formats(cls, value: str) -> str:
        for name in value.split(",") if value != "all" else ():
            if name not in EXPORT_FORMATS:
                near = nearest(name, ("all", *EXPORT_FORMATS))
                raise ValueError(f"expected all, or of {', '.join(EXPORT_FORMATS)}{near}")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Refuse what does not go into one folder, and options without their files."""
        if "hub" in self.format.split(",") and self.format != "hub":
            raise ValueError("hub is a folder of its own: export it by itself")
        if self.limit is not None and not self.data:
            raise ValueError("limit is of the samples that are scored, and no data is given")
        if self.data and not {"onnx-fp16", "onnx-int8"}.intersection(self.format.split(",")):
            raise ValueError("no file of reduced precision, which data would score")
        programs = {"all", "exported", "onnx", "onnx-fp16", "onnx-int8"}
        if self.batch is not None and not programs.intersection(self.format.split(",")):
            raise ValueError("batch is of whole programs, and no format is one")
        return self

    def check(self) -> None:
        """Also the checkpoint and the data."""
        check_checkpoint(self.checkpoint)
        for folder in self.data:
            check_store(folder)
        super().check()
