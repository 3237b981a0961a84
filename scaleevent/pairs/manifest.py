"""What the JSON files of a pair store say: types and ranges are checked before anything is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scaleevent.config.labels import LabelFacts
from scaleevent.config.settings import described_problems
from scaleevent.errors import DataError
from scaleevent.pairs.shard import FORMAT
from scaleevent.system.files import Json, read_json

Count = Annotated[int, Field(ge=0, lt=2**63)]
Counts = dict[str, Count]


class _Document(BaseModel):
    """A JSON object of ours; further keys are of later versions."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class Entry(_Document):
    """One shard of a store."""

    file: str = Field(min_length=1, max_length=255)  # its name in the store's folder
    job: str  # hash of what it was made from
    pairs: Count
    counts: Counts
    bytes: Count = 0
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    tags: dict[str, str] = {}  # of recordings, by name: what is not as in the manifest

    @model_validator(mode="after")
    def _whole(self) -> Entry:
        """Refuse a file outside the store, and more pairs than its bytes can hold."""
        if Path(self.file).name != self.file or "\0" in self.file:
            raise ValueError(f"a shard outside its store: {self.file!r}")
        if self.pairs > self.bytes:
            raise ValueError(f"{self.pairs} pairs in {self.bytes} bytes")
        if self.pairs and not self.sha256:
            raise ValueError("pairs without sha256")
        return self


class Manifest(_Document):
    """A finished store."""

    format: int
    kind: Literal["pairs", "voxels"] = "pairs"
    version: str = "unknown"
    settings: Json = {}
    counts: Counts = {}
    tags: dict[str, str] = {}  # by pattern of the recordings' names; later ones prevail
    labels: LabelFacts | None = None  # what labels of users' own mean
    shards: list[Entry]

    @model_validator(mode="after")
    def _distinct(self) -> Manifest:
        """Refuse a shard that is listed twice."""
        if len({entry.file for entry in self.shards}) < len(self.shards):
            raise ValueError("a shard is listed twice")
        return self


Kind = TypeVar("Kind", bound=_Document)


def read_document(path: Path, kind: type[Kind]) -> Kind:
    """Read a JSON file as a `Manifest` or an `Entry`.

    Raises:
        DataError: Missing, not JSON, of another format, or with values that cannot be.
    """
    value = read_json(path)
    number = value.get("format") if isinstance(value, dict) else None
    if kind is Manifest and number != FORMAT:
        raise DataError(
            "pair store of another format", where=path, found=str(number)[:80], expected=FORMAT
        )
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise DataError(
            "values that cannot be in this file", where=path, found=described_problems(error),
            hint="it was changed or damaged: copy the store again, or prepare it anew",
        ) from None  # fmt: skip
