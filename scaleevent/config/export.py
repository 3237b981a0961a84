"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from scaleevent.config.settings import Checkpoint, OutputSettings, parse_size
from scaleevent.system.locations import check_checkpoint


class ExportConfig(OutputSettings):
    """Settings of `scaleevent export`."""

    KIND: ClassVar[str] = "export"

    checkpoint: Checkpoint = Field(
        description="encoder or task checkpoint, a run folder, hf-hub:ORG/NAME, local-dir:FOLDER"
    )
    out: Path = Field(Path("export"), description="folder for the files")
    format: Literal["all", "safetensors", "meta", "exported", "onnx", "hub"] = Field(
        "all",
        description="timm or Meta key names, torch.export .pt2, ONNX; hub: a folder for the "
        "Hugging Face hub",
    )
    size: tuple[int, int] | None = Field(
        None, description="input rows x columns; default: the checkpoint's"
    )

    offline: bool = Field(False, description="never use the network")

    _size = field_validator("size", mode="before")(parse_size)

    def check(self) -> None:
        """Also the checkpoint."""
        check_checkpoint(self.checkpoint)
        super().check()
