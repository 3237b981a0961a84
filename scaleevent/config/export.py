"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from scaleevent.config.settings import Settings, parse_size


class ExportConfig(Settings):
    """Settings of `scaleevent export`."""

    checkpoint: Path = Field(description="encoder or task checkpoint")
    out: Path = Field(Path("export"), description="folder for the files")
    format: Literal["all", "safetensors", "meta", "exported", "onnx"] = Field(
        "all", description="timm or Meta key names, torch.export .pt2, ONNX"
    )
    size: tuple[int, int] | None = Field(
        None, description="input rows x columns; default: the checkpoint's"
    )
    overwrite: bool = Field(False, description="empty the output folder first")

    _size = field_validator("size", mode="before")(parse_size)
