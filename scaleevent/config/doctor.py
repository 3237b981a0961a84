"""Settings of `doctor`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from scaleevent.config.settings import Settings


class DoctorConfig(Settings):
    """Settings of `scaleevent doctor`."""

    out: Path = Field(default=Path(), description="folder where output would go")
