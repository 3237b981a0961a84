"""Safetensors files with a description and a seal: what is ours is checked, byte by byte.

The header's metadata has two keys: `scaleevent` is the description, a JSON object, and
`scaleevent.sha256` the SHA-256 of the whole file with its own 64 digits as zeros. The file stays
plain safetensors. Files of format 1 have the first key alone, and in the description a hash over
the tensors; the description itself is not protected there.

Whoever reads a file of ours comes through `read_header`, which needs no torch. A key that differs
from one of ours in a letter or two is damage of ours: no flipped bit makes a file look older or
like one of another origin.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from scaleevent.errors import CheckpointError
from scaleevent.system.documents import parse_json
from scaleevent.system.files import Json, atomic_path
from scaleevent.system.refusals import refusal
from scaleevent.version import __version__

FORMAT = 2
KEY, SEAL = "scaleevent", "scaleevent.sha256"
PLACE_PRIOR = "prior.place"  # a tensor of task files that is no weight
BESIDE = "encoder_file"  # key of a head's description: the file of its encoder
_METADATA = "__metadata__"
_BLANK = "0" * 64  # in place of the seal's digits while hashing
_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
_ABSURD = 1 << 23  # bytes of a header; the signatures of archives and pickles are larger numbers
_BLOCK = 1 << 22
# bits of an element, and torch's name of the type, which format 1 hashes
_DTYPES = {
    "F64": (64, "float64"), "F32": (32, "float32"), "F16": (16, "float16"),
    "BF16": (16, "bfloat16"), "I64": (64, "int64"), "I32": (32, "int32"), "I16": (16, "int16"),
    "I8": (8, "int8"), "U8": (8, "uint8"), "BOOL": (8, "bool"), "C64": (64, "complex64"),
    "U64": (64, "uint64"), "U32": (32, "uint32"), "U16": (16, "uint16"),
    "F8_E4M3": (8, "float8_e4m3fn"), "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E5M2": (8, "float8_e5m2"), "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F8_E8M0": (8, "float8_e8m0fnu"), "F6_E2M3": (6, ""), "F6_E3M2": (6, ""), "F4": (4, ""),
}  # fmt: skip
# what keys of a description hold, where they are there
_OBJECTS = ("arch", "decoder", "config", "data", "pretraining", "export")
_OBJECTS_OR_NOTHING = ("input", "teacher", "fingerprint")
_TEXTS_OR_NOTHING = ("task", "benchmark", "protocol", "layout")
_HINTS = {
    ("encoder", "task"): "`scaleevent probe BENCHMARK {path}` gives an encoder its task",
    ("task", "encoder"): "`scaleevent export {path} --format safetensors` takes the encoder out",
}


class Stored(NamedTuple):
    """A tensor as bytes."""

    dtype: str  # the safetensors format's name, such as F32
    shape: tuple[int, ...]
    data: memoryview  # little-endian, row-major


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, without its values."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the end of the header
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        path: The file.
        tensors: Its tensors by name.
        description: Ours, checked, with the file's `sha256`; None for files of other origins.
        protected: Whether the check covered the description too, as it does since format 2.
    """

    path: Path
    tensors: Mapping[str, Entry]
    description: Json | None
    protected: bool = True

    @property
    def remark(self) -> str | None:
        """One line on what the check did not cover, if anything."""
        if self.description is None or self.protected:
            return None
        return (
            f"{self.path}: written by version {self.description['version']}, whose checksum covers "
            "the weights but not their description"
        )


def write_sealed(path: Path, tensors: Mapping[str, Stored], description: Json) -> None:
    """Write a file of ours, atomically; the same content gives the same bytes.

    Args:
        path: Where.
        tensors: By name.
        description: JSON-able; `format` and `version` are added.

    Raises:
        EnvironmentProblem: The disk is full or the folder cannot be written.
    """
    described = {"format": FORMAT, "version": __version__, **description}
    described.pop("sha256", None)  # of the file that the description came from
    text = json.dumps(described, sort_keys=True)
    names = sorted(tensors, key=lambda name: (-_DTYPES[tensors[name].dtype][0], name))
    header: Json = {_METADATA: {KEY: text, SEAL: _BLANK}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].data.nbytes
        entry = {"dtype": tensors[name].dtype, "shape": list(tensors[name].shape)}
        header[name] = entry | {"data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # values are aligned
    head = len(encoded).to_bytes(8, "little") + encoded
    digest = hashlib.sha256(head)
    for name in names:
        digest.update(tensors[name].data)
    (place,) = _seal_places(head)
    head = head[:place] + digest.hexdigest().encode() + head[place + len(_BLANK) :]
    with atomic_path(path, len(head) + end) as temporary, open(temporary, "wb") as file:
        file.write(head)
        for name in names:
            file.write(tensors[name].data)


def read_header(path: Path) -> Header:
    """Read the header of any safetensors file; one of ours is checked to the last byte.

    Raises:
        CheckpointError: Missing, a folder, not a whole safetensors file; or ours and damaged,
            malformed or of a newer format.
        EnvironmentProblem: The system does not let us read it.
    """
    path = Path(path)
    with readable(path):
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) == 8 and length <= min(_HEADER_BYTES, size - 8):
                head += file.read(length)
        try:
            tensors, metadata = _parse(head, size)
        except ValueError as error:
            pointer = head.startswith(b"version ")
            raise CheckpointError(
                "not a whole safetensors file", where=path, found=error,
                hint="a Git LFS pointer: `git lfs pull` fetches the file" if pointer
                else "fetch or copy the file again",
            ) from None  # fmt: skip
        marks = {key for key in metadata if any(_resembles(key, own) for own in (KEY, SEAL))}
        if not marks:
            return Header(path, tensors, None)
        if marks - {KEY, SEAL} or (SEAL in marks and not _is_sealed(path, head)):
            raise _damaged(path)
        description = _described(metadata.get(KEY), path)
        number = description["format"]
        if number > FORMAT:
            raise CheckpointError(
                "written by a newer version",
                where=path,
                found=f"format {number} of version {description['version']}",
                expected=f"up to format {FORMAT} of version {__version__}",
                hint="update scaleevent",
            )
        if SEAL in marks:
            return Header(path, tensors, description | {"sha256": metadata[SEAL]})
        if number == FORMAT or _tensors_digest(path, len(head), tensors) != description["sha256"]:
            raise _damaged(path)
        return Header(path, tensors, description, protected=False)


def read_description(path: Path, *kinds: str) -> Json | None:
    """What a file of ours says about itself, once its checksum holds; None for other files.

    Args:
        path: A file, of any content.
        kinds: Refuse a file of ours of another kind than these, if any are given.

    Raises:
        CheckpointError: The file is missing, or ours and damaged, malformed, newer, or of another
            kind.
    """
    if not starts_like_safetensors(path):
        return None
    description = read_header(path).description
    if description is not None and kinds:
        check_kind(description, path, *kinds)
    return description


def starts_like_safetensors(path: Path) -> bool:
    """Whether a file is safetensors by name or first bytes, rather than an archive of torch.save.

    torch.save writes a zip archive or, before 1.6, a bare pickle. Safetensors start with a length
    of eight bytes, which can look like either, followed by the brace of its JSON header; where the
    brace is damaged, an archive's first bytes would be an absurd length.

    Raises:
        CheckpointError: The file is missing or a folder.
    """
    with readable(path), open(path, "rb") as file:
        head = file.read(9)
    if path.suffix == ".safetensors":
        return True
    absurd = int.from_bytes(head[:8], "little") > _ABSURD
    return head[8:] == b"{" or not (head.startswith((b"PK", b"\x80")) and absurd)


def check_kind(description: Json, path: Path, *kinds: str) -> None:
    """Refuse a file of ours of another kind than these: `encoder`, `task`, `state`, `decoder`."""
    found = description["kind"]
    if found not in kinds:
        raise CheckpointError(
            "another kind of checkpoint", where=path, found=found, expected=" or ".join(kinds),
            hint=(_HINTS.get((found, kinds[0])) or "").replace("{path}", str(path)) or None,
        )  # fmt: skip


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the system's refusals while reading `path` into errors that say what they are."""
    path = Path(path)
    try:
        if path.is_dir():
            inside = sorted(file.name for file in path.iterdir() if file.suffix == ".safetensors")
            raise CheckpointError(
                "a folder, not a file", where=path, found=", ".join(inside[:8]) or None,
                hint=f"name the file: {path / inside[0]}" if inside else None,
            )  # fmt: skip
        if path.exists() and not path.is_file():
            raise CheckpointError("not a regular file", where=path)  # a pipe would never end
        yield
    except FileNotFoundError:
        raise CheckpointError("file not found", where=path) from None
    except OSError as error:
        damage = CheckpointError(f"cannot read: {error.strerror}", where=path)
        raise refusal(error, path) or damage from error


def _parse(head: bytes, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors and metadata from the first bytes of a safetensors file of `size` bytes.

    Raises:
        ValueError: They break the format's rules.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(_HEADER_BYTES, size - 8):
        raise ValueError(f"{size} bytes, with a header of {length}" if head else "empty")
    header = _object(head[8:])
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("an invalid header: metadata that is not text")
    tensors = {name: _entry(name, value) for name, value in header.items()}
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        bits = _DTYPES[entry.dtype][0] * math.prod(entry.shape)
        if entry.begin != end or 8 * (entry.end - entry.begin) != bits:
            raise ValueError(f"an invalid header: bytes of {name[:80]}")
        end = entry.end
    if len(head) + end != size:
        raise ValueError(f"{size} bytes instead of {len(head) + end}")
    return tensors, metadata


def _entry(name: str, value: object) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if (
            not rest
            and dtype in _DTYPES
            and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        ):
            return Entry(dtype, tuple(shape), begin, end)
    raise ValueError(f"an invalid header: {name[:80]}")


def _object(data: bytes) -> Json:
    """A JSON object.

    Raises:
        ValueError: It is none, or not what `parse_json` reads.
    """
    value = parse_json(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _resembles(key: str, own: str) -> bool:
    return len(key) == len(own) and sum(a != b for a, b in zip(key, own, strict=True)) <= 2


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        "damaged: the file has changed since it was written",
        where=path,
        hint="copy it again from where it is whole",
    )


def _described(text: str | None, path: Path) -> Json:
    """The description, with those keys checked that every reader relies on."""

    def malformed(key: str, expected: str) -> CheckpointError:
        found = str(description.get(key, "no such key"))[:200]
        return CheckpointError(
            "malformed description", where=f"{path}, {key}", found=found, expected=expected
        )

    try:
        description = _object((text or "").encode())
    except ValueError as error:
        raise CheckpointError("malformed description", where=path, found=error) from None
    number = description.get("format")
    if type(number) is not int or number < 1:
        raise malformed("format", f"a number up to {FORMAT}")
    if not isinstance(description.get("version"), str):
        raise malformed("version", "text")
    if number > FORMAT:
        return description
    for key in ("kind", *(("sha256",) if number < FORMAT else ())):
        if not isinstance(description.get(key), str):
            raise malformed(key, "text")
    for key in _OBJECTS:
        if not isinstance(description.get(key, {}), dict):
            raise malformed(key, "an object")
    for key in _OBJECTS_OR_NOTHING:
        if not isinstance(description.get(key), dict | None):
            raise malformed(key, "an object")
    for key in _TEXTS_OR_NOTHING:
        if not isinstance(description.get(key), str | None):
            raise malformed(key, "text")
    if type(description.get("step", None if description["kind"] == "state" else 0)) is not int:
        raise malformed("step", "a whole number")
    for key in ("data", "pretraining"):
        seen = (description.get(key) or {}).get("recordings", [])
        if not isinstance(seen, list) or not all(isinstance(name, str) for name in seen):
            raise malformed(key, "recordings as a list of names")
    return description


def _seal_places(head: bytes) -> list[int]:
    """Where the digits of the seal begin; quotes inside the description are escaped."""
    return [match.end() for match in re.finditer(rb'"scaleevent\.sha256":"(?=[0-9a-f]{64}")', head)]


def _is_sealed(path: Path, head: bytes) -> bool:
    """Whether the digits of the seal are the hash of everything else."""
    places = _seal_places(head)
    if len(places) != 1:
        return False
    (place,) = places
    stop = place + len(_BLANK)
    digest = hashlib.sha256(head[:place] + _BLANK.encode() + head[stop:])
    with open(path, "rb") as file:
        file.seek(len(head))
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest().encode() == head[place:stop]


def _tensors_digest(path: Path, start: int, tensors: Mapping[str, Entry]) -> str:
    """The hash of format 1: names, types, shapes and values in order of name."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for name in sorted(tensors):
            entry = tensors[name]
            dtype = f"torch.{_DTYPES[entry.dtype][1]}"
            digest.update(f"{name}{dtype}{entry.shape}".encode())
            file.seek(start + entry.begin)
            for at in range(entry.begin, entry.end, _BLOCK):
                digest.update(file.read(min(_BLOCK, entry.end - at)))
    return digest.hexdigest()
