"""Label files of users' own: class ids, depth in metres, optical flow; each to the stored values.

| task         | files                                             | unknown                     |
|--------------|---------------------------------------------------|-----------------------------|
| segmentation | PNG of 8 or 16 bits, grey: the id of a class      | ids that are ignored        |
|              | PNG of colours, palette or RGB: those of classes  | `ignore_colours`            |
|              | PNG with a palette of other colours: its indices  | ids that are ignored        |
| depth        | PNG of 16 bits, grey: words / scale               | 0                           |
|              | NPY (H, W): metres                                | NaN, infinite, 0 or below   |
| flow         | PNG of 16 bits, RGB: (word - 2^15) / scale        | third channel 0             |
|              | FLO (Middlebury): pixels right, pixels down       | above 1e9 in absolute value |
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.config.benchmarks import IGNORE
from scaleevent.config.labels import ClassesFile
from scaleevent.datasets.flow_png import KITTI_SCALE, decode_flow, read_png16
from scaleevent.datasets.frames import read_bytes
from scaleevent.datasets.timed_labels import check_size, read_id_picture
from scaleevent.errors import ConfigError, DataError
from scaleevent.images import PNG_SIGNATURE, check_pixels, open_image

SUFFIXES = (".png", ".npy", ".flo")
NAMES = {"segmentation": "semantics", "depth": "depth", "flow": "flow"}  # task: label in a pair
CONTENT = {"segmentation": "a class", "depth": "a depth", "flow": "a known flow"}
SCALES = {256.0: "KITTI's", 1000.0: "millimetres"}  # words a metre that are usual
PLAUSIBLE_M = (0.05, 2000.0)  # what the median of a label's depths can be, metres
_FLO_MAGIC = b"PIEH"  # the float 202021.25, little-endian
_FLO_UNKNOWN = 1e9  # pixels
_NPY_MAGIC = b"\x93NUMPY"
MOST_ID = 255  # ids in a `classes.yaml` are bytes
_LISTED = 10  # ids or colours in a message
_LOOKED_AT = 5  # files from which a scale is judged


@dataclass(frozen=True, eq=False)
class LabelReader:
    """Reads the files of one task.

    Args:
        task: `segmentation`, `depth` or `flow`.
        classes: What ids mean, and the file that says so; of segmentation.
        classes_file: Where that stands, for messages.
        depth_scale: Words a metre of 16-bit PNG files.
        flow_scale: Words a pixel of 16-bit PNG files.
    """

    task: str
    classes: ClassesFile | None = None
    classes_file: Path | None = None
    depth_scale: float | None = None
    flow_scale: float = KITTI_SCALE

    def read(self, path: Path, size: tuple[int, int] | None) -> np.ndarray:
        """A file's values as `pairs.pair.Label` has them.

        Args:
            path: The file.
            size: Rows and columns it must have; None for any.

        Raises:
            DataError: Not a file of this task, another size, or ids that are no class.
        """
        if self.task == "segmentation":
            values = self._ids(path, size)
        elif self.task == "depth":
            values = self._depth(path)
        else:
            values = read_flo(path) if path.suffix.lower() == ".flo" else self._flow(path)
        if size is not None:
            check_size(values, size, path)
        return values

    def _ids(self, path: Path, size: tuple[int, int] | None) -> np.ndarray:
        assert self.classes is not None
        by_id = self.classes.by_id
        if (found := self._coloured(path, size)) is not None:
            return found
        raw = id_words(path) if is_grey16(path) else read_id_picture(path, size, grey=True)
        ids, counts = np.unique(raw, return_counts=True)
        unknown = {int(k): int(n) for k, n in zip(ids, counts, strict=True) if k not in by_id}
        if unknown:
            also = ", ".join(map(str, [*self.classes.ignored, *list(unknown)[:_LISTED]]))
            hint = (
                f"add them there: as classes, under `ignore: [{also}]` where"
                f" they do not count, or under `mapping: {{{min(unknown)}: NAME}}` as ids of a "
                "class that is there"
            )
            if max(unknown) > MOST_ID:
                hint = "ids are at most 255; depth says so with --depth-scale"
            raise DataError(
                f"class ids that {self.classes_file} does not know",
                where=path,
                found=_counted(unknown),
                expected=f"ids {_ranges(sorted(by_id))}",
                hint=hint,
            )
        table = np.full(MOST_ID + 1, IGNORE, np.uint8)
        table[list(by_id)] = list(by_id.values())
        classes: np.ndarray = table[raw]
        return classes

    def _coloured(self, path: Path, size: tuple[int, int] | None) -> np.ndarray | None:
        """(H, W) uint8 classes of a picture by its colours; None of one whose values are ids.

        Colours count where all of a picture's are those of classes; of a palette, or of greys, that
        have other colours too the values are ids, unless the two contradict each other.

        Raises:
            DataError: Colours that are of no class, and no ids; or those that contradict the ids.
        """
        assert self.classes is not None
        picture = read_colours(path)
        if picture is None:
            return None
        by_colour, by_id = self.classes.by_colour, self.classes.by_id
        if size is not None:
            check_size(picture.places, size, path)
        known = [by_colour.get(colour) for colour in picture.colours]
        if None not in known:
            found: np.ndarray = np.array(known, np.uint8)[picture.places]
            return found
        if picture.ids is None:
            counts = np.bincount(picture.places.ravel()).tolist()
            listed = zip(map(_hex, picture.colours), counts, known, strict=True)
            unknown = {name: count for name, count, one in listed if one is None}
            raise DataError(
                f"colours that no class of {self.classes_file} has", where=path,
                found=_counted(unknown),
                expected=", ".join(map(_hex, by_colour)) or "classes with colours",
                hint="give a class this colour there, exactly as it is in the pictures; name it "
                f"under `ignore_colours: ['{next(iter(unknown))}']` where such pixels do not count;"
                " or save each pixel's id, as grey or palette, of one channel",
            )  # fmt: skip
        for colour, one, key in zip(picture.colours, known, picture.ids, strict=True):
            if one is not None and by_id.get(key) != one:
                raise DataError(
                    "colours and ids of a picture contradict each other", where=path,
                    found=f"id {key} in the colour {_hex(colour)}, which {self.classes_file} gives "
                    "to another class; further colours are of no class",
                    expected="ids in the order of the classes, or colours of classes alone",
                    hint="save each pixel's id as grey, or give every colour that is used to a "
                    "class or to `ignore_colours` there",
                )  # fmt: skip
        return None

    def _depth(self, path: Path) -> np.ndarray:
        if path.suffix.lower() == ".npy":
            metres = read_npy(path)
        else:
            assert self.depth_scale is not None
            metres = depth_words(path) / np.float32(self.depth_scale)
        known = np.isfinite(metres) & (metres > 0)
        return np.where(known, metres, np.nan).astype(np.float32)

    def _flow(self, path: Path) -> np.ndarray:
        flow, known = decode_flow(read_bytes(path), self.flow_scale, where=path)
        return np.where(known, flow, np.float32(np.nan))


@dataclass(frozen=True, eq=False)
class ColourPicture:
    """A picture as the colours that it has.

    Args:
        colours: Each of them once: red, green, blue.
        places: (H, W) which of them each pixel has.
        ids: What each may stand for besides: the index of a palette, or the value of a grey; None
            where some are neither.
    """

    colours: list[tuple[int, ...]]
    places: np.ndarray
    ids: list[int] | None


def read_colours(path: Path) -> ColourPicture | None:
    """The colours of a PNG of 8 bits with a palette or with three channels; None of any other.

    A fourth channel is left out where it hides nothing.

    Raises:
        DataError: Not a picture; or one in which pixels are transparent.
    """
    with open_image(path, path, ("PNG",)) as image:
        mode = image.mode
        if mode == "P":
            indices, places = np.unique(np.asarray(image), return_inverse=True)
            palette = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette = np.pad(palette, ((0, 256 - len(palette)), (0, 0)))  # indices without a colour
            colours = [tuple(one) for one in palette[indices].tolist()]
            return ColourPicture(colours, places.reshape(image.size[::-1]), indices.tolist())
        pixels = np.asarray(image) if mode in ("RGB", "RGBA") else None
    if pixels is None:
        return None
    if pixels.shape[2] == 4 and pixels[..., 3].min() < 255:
        raise DataError("a label picture with transparent pixels", where=path,
                        expected="a colour or an id in every pixel")  # fmt: skip
    words = pixels[..., :3].astype(np.int64) @ (1 << 16, 1 << 8, 1)
    found, places = np.unique(words, return_inverse=True)
    colours = [(int(word) >> 16, int(word) >> 8 & 255, int(word) & 255) for word in found]
    grey = all(red == green == blue for red, green, blue in colours)
    ids = [red for red, _, _ in colours] if grey else None
    return ColourPicture([*colours], places.reshape(words.shape), ids)


def is_grey16(path: Path) -> bool:
    """Whether a file is a grey PNG of 16 bits: depths, or ids."""
    head = read_bytes(path)[:26]
    return head.startswith(PNG_SIGNATURE) and tuple(head[24:26]) == (16, 0)


def id_words(path: Path) -> np.ndarray:
    """(H, W) uint16 ids of a grey PNG of 16 bits.

    Raises:
        DataError: Not such a file.
    """
    return read_png16(read_bytes(path), where=path)[..., 0]


def task_of_file(path: Path, ids: bool = False) -> str:
    """The task that a label file is for, by its kind.

    Args:
        path: The file.
        ids: Whether something says that grey PNG files of 16 bits hold ids, not depths.

    Raises:
        DataError: Not a file of labels.
    """
    head = read_bytes(path)[:64]
    if path.suffix.lower() == ".flo":
        return "flow"
    if path.suffix.lower() == ".npy" or not head.startswith(PNG_SIGNATURE):
        return "depth" if head.startswith(_NPY_MAGIC) else "segmentation"  # read, and refused there
    bits, colour = struct.unpack(">BB", head[24:26].ljust(2, b"\0"))
    if bits != 16:
        return "segmentation"
    if colour == 0:
        return "segmentation" if ids else "depth"
    return "flow"


def depth_words(path: Path) -> np.ndarray:
    """(H, W) float32 words of a 16-bit grey PNG, NaN where the word is 0.

    Raises:
        DataError: Not such a file.
    """
    words = read_png16(read_bytes(path), where=path)
    if words.shape[2] != 1:
        raise DataError("not a map of depths", where=path, found=f"{words.shape[2]} channels",
                        expected="16 bits, one channel")  # fmt: skip
    return np.where(words[..., 0] > 0, words[..., 0], np.nan).astype(np.float32)


def read_npy(path: Path) -> np.ndarray:
    """(H, W) float of a NumPy file; objects, which would be unpickled, are refused.

    Raises:
        DataError: Not a whole file of two axes of numbers.
    """
    read_bytes(path)  # refuses what cannot be read
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError("not a NumPy file of numbers", where=path, found=error) from None
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise DataError("not a map of depths", where=path,
                        found=f"{values.dtype} of shape {values.shape}",
                        expected="(rows, columns) of metres")  # fmt: skip
    check_pixels(values.shape[0], values.shape[1], path)
    return np.asarray(values, np.float64)


def read_flo(path: Path) -> np.ndarray:
    """(2, H, W) float32 of a Middlebury file, NaN where it is unknown.

    Raises:
        DataError: Not such a file, or not whole.
    """
    data = read_bytes(path)
    if len(data) < 12 or data[:4] != _FLO_MAGIC:
        raise DataError("not a .flo file", where=path, found=data[:4],
                        expected="the letters PIEH first")  # fmt: skip
    width, height = struct.unpack("<ii", data[4:12])
    if width <= 0 or height <= 0 or len(data) != 12 + 8 * width * height:
        raise DataError("a .flo file of another length than its header promises", where=path,
                        found=f"{len(data)} bytes for {width}x{height}",
                        expected=f"{12 + 8 * width * height} bytes")  # fmt: skip
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)
    known = (np.abs(flow) <= _FLO_UNKNOWN).all(-1)  # NaN compares as False
    return np.ascontiguousarray(np.where(known, flow.transpose(2, 0, 1), np.float32(np.nan)))


def check_scale(files: Sequence[Path], scale: float | None, farthest: float) -> str | None:
    """Refuse depths that no scene has, and 16-bit files without a scale; else what they imply.

    Args:
        files: Label files; some of them, of each kind, are looked at.
        scale: Words a metre of 16-bit files that were stated.
        farthest: Depth that counts, metres.

    Returns:
        The median depth, for people; None where no pixel is known.

    Raises:
        ConfigError: No scale for 16-bit files, with what the usual ones would mean; or one with
            which the median depth is not plausible.
        DataError: As the readers.
    """
    arrays = [path for path in files if path.suffix.lower() == ".npy"]
    coded = [path for path in files if path.suffix.lower() != ".npy"]
    told = [_check_median(own, scale, farthest) for own in (coded, arrays) if own]
    return "; ".join(filter(None, told)) or None


def _check_median(files: Sequence[Path], scale: float | None, farthest: float) -> str | None:
    """`check_scale` of files of one kind."""
    places = np.linspace(0, len(files) - 1, min(len(files), _LOOKED_AT)).round().astype(int)
    chosen = [files[place] for place in places]
    coded = chosen[0].suffix.lower() != ".npy"
    found = [depth_words(path) if coded else read_npy(path) for path in chosen]
    known = np.concatenate([one[np.isfinite(one) & (one > 0)] for one in found])
    middle = float(np.median(known)) if len(known) else None
    if coded and scale is None:
        means = [f"{one:g} ({name}): median {middle / one:.4g} m" for one, name in SCALES.items()
                 if middle]  # fmt: skip
        raise ConfigError(
            "depth in 16-bit files needs its scale", where=chosen[0],
            found="; ".join(means) or "no pixel with a depth in the first files",
            expected="words a metre, or a file of classes if these are ids",
            hint="state it: --depth-scale 256 or --depth-scale 1000",
        )  # fmt: skip
    if middle is None:
        return None
    metres = middle / scale if coded and scale is not None else middle
    hint = "NPY files hold metres: convert them"
    if coded:
        hint = "--depth-scale is words a metre: 1000 for millimetres, 256 as KITTI"
    if not PLAUSIBLE_M[0] <= metres <= PLAUSIBLE_M[1]:
        raise ConfigError(
            "depths that no scene has", where=chosen[0],
            found=f"a median of {metres:.4g} m",
            expected=f"{PLAUSIBLE_M[0]:g} to {PLAUSIBLE_M[1]:g} m", hint=hint,
        )  # fmt: skip
    if metres > farthest:
        raise ConfigError(
            "most depths are beyond the farthest that counts", where=chosen[0],
            found=f"a median of {metres:.4g} m", expected=f"at most {farthest:g} m",
            hint=f"{hint}; if these are metres, allow for larger depths",
        )  # fmt: skip
    return f"median depth {metres:.4g} m in {len(chosen)} of {len(files):,} files"


def _hex(colour: Sequence[int]) -> str:
    """`#rrggbb`."""
    return "#" + "".join(f"{one:02x}" for one in colour)


def _counted(unknown: Mapping[Any, int]) -> str:
    """Ids or colours with the number of their pixels, the first ones of many."""
    told = [f"{key} ({count:,} pixels)" for key, count in unknown.items()]
    more = [f".. {len(told) - _LISTED:,} more"] if len(told) > _LISTED else []
    return ", ".join(told[:_LISTED] + more)


def _ranges(ids: Sequence[int]) -> str:
    """Ascending numbers as text: `0 to 3, 7, 255`."""
    runs: list[list[int]] = []
    for one in ids:
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
