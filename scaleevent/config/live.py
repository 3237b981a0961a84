"""Settings of what is predicted while it is recorded, or at the speed at which it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from scaleevent.config.settings import Settings
from scaleevent.errors import ConfigError

STANDARD_INPUT = "-"

_OF_FILES = (
    "time_unit", "columns", "topic", "image_topic", "camera", "on_error", "max_bad", "frames",
)  # fmt: skip

StreamFormat = Literal[
    "EVT2", "EVT2.1", "EVT3", "t64_x16_y16_on8", "t32_x16_y15_on1", "aestream"
]  # fmt: skip


def live_address(path: Path) -> str | None:
    """What a command line's argument says if it is `-` or an address; None for a file.

    A `Path` has lost one of the slashes of an address.
    """
    text = str(path)
    found = re.match(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/]|$)", text, re.I)
    if found:
        return f"{found[1]}://{text[found.end() :]}"
    return text if text == STANDARD_INPUT else None


class LiveSettings(Settings):
    """How live events are read, and what happens where the network is slower than they come."""

    follow: bool = Field(
        default=False, description="the file is still being written: predict what is appended to it"
    )
    format: StreamFormat | None = Field(
        default=None,
        description="live: format of a stream without a header (EVT..), or of UDP packets "
        "(default t64_x16_y16_on8, faery's)",
    )
    idle: float = Field(
        default=30.0, gt=0, le=1e7, description="live: seconds of silence after which it is over"
    )
    pace: Literal["fast", "real"] = Field(
        default="fast", description="real: play a file at its own speed and tell the lag"
    )
    when_slow: Literal["drop", "wait"] = Field(
        default="drop",
        description="live and pace real, where the network is slower: drop older windows for newer "
        "ones, or let the source wait",
    )
    queue: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="live and pace real: windows that may wait for the network",
    )

    @model_validator(mode="after")
    def _of_live(self) -> LiveSettings:
        """Refuse settings that nothing would use."""
        if self.follow and self.pace == "real":
            raise ValueError("pace has no effect with follow: the file grows at its own speed")
        return self

    def check_live(self, addresses: list[str]) -> None:
        """Refuse what a live source cannot have.

        Args:
            addresses: Of all that is to be predicted; empty for files.

        Raises:
            ConfigError: Several sources, or settings that only files have.
        """
        if len(addresses) > 1:
            raise ConfigError(
                "a live source is predicted alone", found=f"{len(addresses)} sources",
                hint="one command for each, with folders of their own",
            )  # fmt: skip
        [address] = addresses
        if self.follow and address:
            raise ConfigError("only a file can be followed", where="--follow", found=address)
        if self.pace == "real":
            what = "a live source has its own pace"
            raise ConfigError(what, where="--pace", found=address, expected="a file")
        unused = [key for key in _OF_FILES if key in self.model_fields_set]
        if self.when_slow == "wait" and address.startswith("udp"):
            raise ConfigError(
                "who sends packets does not wait", where="--when-slow",
                found=f"wait, and {address}", expected="drop",
            )  # fmt: skip
        if unused:
            flags = ", ".join(f"--{key.replace('_', '-')}" for key in unused)
            raise ConfigError("only files have this", where=flags, found=address or "--follow")
