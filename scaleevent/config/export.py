"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from scaleevent.config.settings import Settings, parse_size


class ExportConfig(Settings):
    """Settings of `scaleevent export`."""

    checkpoint: Annotated[Path, Field(description="encoder or task checkpoint")]
    out: Annotated[Path, Field(description="folder for the files")] = Path("export")
    format: Annotated[
        Literal["all", "safetensors", "meta", "exported", "onnx"],
        Field(description="timm or Meta key names, torch.export .pt2, ONNX"),
    ] = "all"
    size: Annotated[
        tuple[int, int] | None, Field(description="input rows x columns; default: the checkpoint's")
    ] = None
    overwrite: Annotated[bool, Field(description="empty the output folder first")] = False

    _size = field_validator("size", mode="before")(parse_size)
