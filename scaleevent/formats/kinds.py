"""What common files that are not recordings are, by their first bytes, and what to do with them."""

from __future__ import annotations

import shlex
import struct
from pathlib import Path
from typing import NamedTuple

from scaleevent.errors import DataError, NotEventsError

_UNPACK = "unpack it first: {tool} -dc {path} > RECORDING"
_FRAMES = "frames go with their recording: `scaleevent prepare custom RECORDING --frames {path}`"
_PICTURES = _FRAMES.replace("{path}", "{folder}")
_WEIGHTS = "weights are given to --teacher or in place of a checkpoint"
_EXPORT = "export the columns t, x, y, p to .npz or .csv"


class Kind(NamedTuple):
    """A kind of file: its name, the first bytes by which it is known, and a hint.

    `{path}` in the hint stands for the file, `{folder}` for the folder that it lies in. `at` is the
    position of those bytes.
    """

    name: str
    begins: tuple[bytes, ...]
    hint: str | None = None
    at: int = 0


def _packed(name: str, tool: str, *begins: bytes) -> Kind:
    return Kind(f"{name} data", begins, _UNPACK.replace("{tool}", tool))


TEXTS = (
    Kind("a web page (HTML)", (b"<!doctype html", b"<html"), "download the file itself; some hosts "
         "answer with a page to log in or to confirm"),
    Kind("an XML document", (b"<?xml",), "some servers answer with one instead of the file"),
    Kind("the description of a ROS 2 bag", (b"rosbag2_bagfile_information",),
         "give the bag's folder"),
    Kind("a JSON document", (b'{"', b"{\n", b"{\r", b"{ ", b"[{", b"[[", b'["'), _EXPORT),
    Kind("a program or script", (b"#!/",)),
)  # fmt: skip
"""Kinds of text, in lower case, after white space at the beginning."""

BINARIES = (
    _packed("gzip", "gzip", b"\x1f\x8b"),
    _packed("bzip2", "bzip2", b"BZh"),
    _packed("xz", "xz", b"\xfd7zXZ\0"),
    _packed("Zstandard", "zstd", b"\x28\xb5\x2f\xfd"),
    _packed("LZ4", "lz4", b"\x04\x22\x4d\x18"),
    Kind("a tar archive", (b"ustar",), "unpack it first: tar xf {path}", 257),
    Kind("a 7z archive", (b"7z\xbc\xaf\x27\x1c",), "unpack it first: 7z x {path}"),
    Kind("a RAR archive", (b"Rar!\x1a\x07",), "unpack it first: unrar x {path}"),
    Kind("a PNG image", (b"\x89PNG",), _PICTURES),
    Kind("a JPEG image", (b"\xff\xd8\xff",), _PICTURES),
    Kind("a GIF image", (b"GIF87a", b"GIF89a")),
    Kind("a TIFF image", (b"II*\0", b"MM\0*"), _PICTURES),
    Kind("a WebP image", (b"WEBP",), at=8),
    Kind("an AVI video", (b"AVI ",), _FRAMES, 8),
    Kind("a WAV sound", (b"WAVE",), at=8),
    Kind("a QuickTime video", (b"ftypqt", b"moov", b"mdat", b"wide"), _FRAMES, 4),
    Kind("an MP4 video", (b"ftyp",), _FRAMES, 4),
    Kind("a Matroska or WebM video", (b"\x1aE\xdf\xa3",), _FRAMES),
    Kind("an MPEG video", (b"\0\0\1\xba", b"\0\0\1\xb3"), _FRAMES),
    Kind("a Flash video", (b"FLV\1",), _FRAMES),
    Kind("a Windows Media video", (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",), _FRAMES),
    Kind("an Ogg video or sound", (b"OggS",), _FRAMES),
    Kind("a PDF document", (b"%PDF",)),
    Kind("PyTorch weights", (b"\x80\2\x8a\x0a",), _WEIGHTS),
    Kind("a Python pickle", (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"), "pickles run code when "
         "they are read and are never opened here; save the columns: "
         "np.savez(path, t=t, x=x, y=y, p=p)"),
    Kind("safetensors weights", (b'{"',), _WEIGHTS, 8),
    Kind("a Parquet table", (b"PAR1",), _EXPORT),
    Kind("an Arrow or Feather table", (b"ARROW1", b"FEA1"), _EXPORT),
    Kind("an SQLite database", (b"SQLite format 3",), "a ROS 2 bag of this kind ends in .db3"),
    Kind("a program", (b"\x7fELF", b"MZ\x90\0")),
)  # fmt: skip
"""Kinds of other content; the first that fits counts."""

_ZIPPED = (  # by a part of the name of the first member
    ("data.pkl", Kind("PyTorch weights", (), _WEIGHTS)),
    (".npy", Kind("NumPy arrays in an archive", (), "rename it: NumPy archives end in .npz")),
    ("[Content_Types].xml", Kind("an Office document", (), _EXPORT)),
    ("", Kind("a zip archive", (), "unpack it first: unzip {path}")),
)
_LFS = b"version https://git-lfs"


def no_recording(head: bytes, path: Path) -> DataError | None:
    """The error for a file that begins with `head`, if it is of a known kind or no content at all.

    A recording that has not arrived (a Git LFS pointer, only zeros) is damage; other kinds are no
    recordings.
    """
    if head.startswith(_LFS):
        return DataError(
            "a Git LFS pointer instead of the recording",
            where=path,
            found=f"{len(head)} bytes that name the file on a server",
            hint="fetch the files with: git lfs pull",
        )
    if not head.strip(b"\0"):
        return DataError(
            "nothing but zeros where the recording should begin",
            where=path,
            found=f"{len(head):,} bytes of zeros",
            hint="the copy or download was not finished: copy the file again",
        )
    kind = _kind(head, path)
    if kind is None:
        return None
    given = shlex.quote(str(path))
    folder = shlex.quote(str(path.absolute().parent))
    hint = kind.hint and kind.hint.replace("{path}", given).replace("{folder}", folder)
    if "-dc" in (hint or "") and (".tar." in path.name or path.suffix in (".tgz", ".tbz", ".txz")):
        hint = f"unpack it first: tar xf {given}"
    what = f"{kind.name}, not an event recording"
    return NotEventsError(what, where=path, found=f"first bytes {head[:8].hex(' ')}", hint=hint)


def _kind(head: bytes, path: Path) -> Kind | None:
    """The kind of a file that begins with `head`."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    for kind in TEXTS:
        if text.startswith(kind.begins):
            return kind
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("latin-1")
        return next(kind for part, kind in _ZIPPED if part in name)
    for kind in BINARIES:
        if head.startswith(kind.begins, kind.at):
            return kind
    if path.suffix.lower() == ".mat" and _is_matlab4(head):
        return Kind("a MATLAB 4 file", (), "save it with -v7 or -v7.3")
    return None


def _is_matlab4(head: bytes) -> bool:
    """Whether the first bytes are the type, sizes and name of a matrix of MATLAB 4."""
    for order in "<>":
        if len(head) >= 24:
            kind, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", head)
            name = head[20 : 20 + max(length, 0)]
            if 0 <= kind < 5000 and min(rows, columns) >= 0 and imaginary in (0, 1):
                return 1 < length <= 64 and name.endswith(b"\0") and name[:-1].isascii()
    return False
