"""Settings of `report`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from scaleevent.config.settings import Settings


class ReportConfig(Settings):
    """Settings of `scaleevent report`."""

    runs: list[Path] = Field(
        min_length=1, description="folders of runs, evaluations, exports or stores"
    )
    out: Path = Field(default=Path("report.html"), description="the page, one file")
    curves: Path | None = Field(
        default=None, description="also a folder of the curves as PNGs; needs matplotlib, extra viz"
    )
    overwrite: bool = Field(
        default=False,
        description="replace a file that is no report; empty the folder of curves first",
    )
