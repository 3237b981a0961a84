"""Labels of users' own for `custom`: label files found, timed, and brought onto the event pixels.

    FOLDER/RECORDING.raw and FOLDER/LABELS/RECORDING/*.png
    FOLDER/RECORDING/RECORDING.raw and FOLDER/RECORDING/LABELS/*.png
    FOLDER/RECORDING.raw and LABELS/*.png where there is one recording

A label lies on the event pixels, or, where `homography` or `calibration` relates the frames to
them, on the frames' pixels: then every event pixel takes the label pixel that is nearest to where
it lies in the frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from scaleevent.config.benchmarks import IGNORE
from scaleevent.config.labels import LabelFacts, Part, read_classes
from scaleevent.config.settings import Settings as BaseSettings
from scaleevent.datasets.custom_files import FRAME_FOLDERS, folder_of, videos_in, visible_files
from scaleevent.datasets.custom_labels_files import (
    CONTENT,
    NAMES,
    SUFFIXES,
    LabelReader,
    check_scale,
    task_of_file,
)
from scaleevent.datasets.custom_labels_split import Split, cut_in_time, part_name, split_recordings
from scaleevent.datasets.custom_labels_times import LabelTimes, label_times
from scaleevent.datasets.flow_png import KITTI_SCALE
from scaleevent.datasets.frames import EventView, PictureFiles, natural_order, picture_size
from scaleevent.datasets.timed_labels import TimedLabel, complete, pair_labels
from scaleevent.datasets.video import VideoFile, video_frames
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import Recording, open_recording, recording_files
from scaleevent.grids.windows import WindowRule
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import TimedImage, window_rule
from scaleevent.system.files import Json

if TYPE_CHECKING:
    from scaleevent.datasets.custom import CustomRecording, Settings

CLASSES_FILES = ("classes.yaml", "classes.yml")
NEAR_US = 5_000  # an image belongs to a label that is no further away
BETWEEN = "between those that train and those that test"
REACHES_BACK = "its window reaches into the time of those that train"
_SHOWN = 5


class LabelSettings(BaseSettings):
    """Settings for labels of users' own."""

    labels: Path | None = Field(
        default=None,
        description="folder of label files: class ids, depth in metres or optical flow",
    )
    classes: Path | None = Field(
        default=None, description="YAML file of names, colours and ids; default: classes.yaml there"
    )
    label_times: Path | None = Field(
        default=None,
        description="text file of label times; default: by names, see prepare --list custom",
    )
    depth_scale: float | None = Field(
        default=None,
        gt=0,
        description="words a metre of 16-bit depth: 256 as KITTI, 1000 for millimetres",
    )
    max_depth: float = Field(
        default=80.0, gt=0, le=100_000, description="farthest depth that counts, metres"
    )
    flow_scale: float = Field(
        default=KITTI_SCALE,
        gt=0,
        description="words a pixel of 16-bit flow: 64 as KITTI, 128 as DSEC",
    )
    flow_ms: float | None = Field(
        default=None, gt=0, le=10_000, description="time that each flow spans; default: to the next"
    )
    split: Path | None = Field(
        default=None,
        description="YAML file of recordings by part; default: drawn from --split-seed",
    )
    split_seed: int = Field(default=0, ge=0, description="of the recordings that test")
    test_share: float = Field(default=0.3, gt=0, lt=1, description="of the recordings that test")

    @model_validator(mode="after")
    def _of_labels(self) -> LabelSettings:
        """Refuse settings that nothing would use."""
        for key in LabelSettings.model_fields:
            if self.labels is None and self._asks_for(key):
                raise ValueError(f"{_flag(key)} has no effect without --labels")
        for key in ("split_seed", "test_share"):
            if self.split is not None and self._asks_for(key):
                raise ValueError(f"{_flag(key)} has no effect where a list says which test")
        return self

    def _asks_for(self, key: str) -> bool:
        return bool(getattr(self, key) != LabelSettings.model_fields[key].default)

    def check_task(self, task: str, suffixes: Collection[str]) -> None:
        """Refuse settings that labels of a task, in files of some kinds, have no use for.

        Raises:
            ConfigError: With the flag.
        """
        used = {key for key, (of, suffix) in _OF_TASK.items()
                if task == of and (suffix is None or suffix in suffixes)}  # fmt: skip
        for key in sorted(_OF_TASK.keys() - used):
            if self._asks_for(key):
                raise ConfigError(
                    f"no effect on labels of {task}", where=_flag(key),
                    found=", ".join(f"*{suffix}" for suffix in sorted(suffixes)),
                    expected=" ".join(filter(None, ("labels of", *_OF_TASK[key]))),
                )  # fmt: skip


# settings of one task alone, and of one kind of its files
_OF_TASK: dict[str, tuple[str, str | None]] = {
    "classes": ("segmentation", None), "depth_scale": ("depth", ".png"),
    "max_depth": ("depth", None), "flow_scale": ("flow", ".png"), "flow_ms": ("flow", None),
}  # fmt: skip


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


@dataclass(frozen=True)
class LabelledRecording:
    """One recording and some of its labels: a `pairs.source.PairSource`, and `Replayable`.

    Args:
        recording: The event file, or the folder of a ROS 2 bag.
        size: (height, width) of its sensor.
        options: Further arguments of `open_recording`.
        labels: Their files and times.
        reader: How a file is read.
        framed: The recording with its frames, where it has any.
        pixels: (height, width) of the frames, where labels lie on their pixels; else None.
        rule: How windows are found; None for flow, whose labels are spans.
        scene: Recording name of the pairs.
        part: Of the split.
        facts: What the labels of the whole store mean; JSON-able.
        read: Further files that are read.
        not_before: Least begin of a window, microseconds; None for any.
    """

    name: str
    recording: Path
    size: tuple[int, int]
    options: Json
    labels: LabelTimes
    reader: LabelReader
    framed: CustomRecording | None
    pixels: tuple[int, int] | None
    rule: WindowRule | None
    scene: str
    part: Part
    facts: Json
    read: tuple[Path, ...]
    found: str
    choices: tuple[str, ...] = ()
    not_before: int | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read, each once."""
        own = (*recording_files(self.recording), *self.labels.files, *self.labels.read, *self.read)
        framed = self.framed.inputs if self.framed else ()
        return tuple(dict.fromkeys((*own, *framed)))

    @property
    def chosen_by_others(self) -> list[str]:
        """Its part, which changes with the recordings beside it: the shard is made again then."""
        return [self.scene, self.part]

    @property
    def expected(self) -> int:
        """Number of labels."""
        return len(self.labels.files) + sum(count for _, count in self.labels.left_out)

    def opened(self) -> Recording:
        """The recording, not yet read."""
        return open_recording(self.recording, size=self.size, **self.options)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """A pair for every label that has events before it, with the frame that is near in time.

        Raises:
            DataError: As `pair_labels` and `complete`; a file that cannot be read.
        """
        view = self.framed.view() if self.framed else None
        for reason, count in self.labels.left_out:
            counts["labels"] += count
            counts[f"labels dropped: {reason}"] += count
        timed = [
            TimedLabel(start, end, partial(self.load, path, view),
                       {"file": path.name, "split": self.part})
            for path, start, end in zip(
                self.labels.files, self.labels.start_us, self.labels.end_us, strict=True
            )
        ]  # fmt: skip
        task = NAMES[self.reader.task]
        pairs = pair_labels(self.opened(), timed, task, self.rule, self.scene, counts)
        pairs = self._apart(pairs, counts)
        if self.framed is not None and view is not None:
            pairs = with_images(pairs, self.framed.frames.timed(self.framed.opened(), view))
        content, folder = CONTENT[self.reader.task], self.labels.files[0].parent
        yield from complete(pairs, task, content, lambda pair: pair.image, counts, folder)

    def _apart(self, pairs: Iterator[Pair], counts: Counter[str]) -> Iterator[Pair]:
        """Those whose window begins after the labels that train: of so many events it may not."""
        for pair in pairs:
            if self.not_before is None or pair.window.start_us >= self.not_before:
                yield pair
                continue
            counts["pairs"] -= 1
            counts[f"labels dropped: {REACHES_BACK}"] += 1

    def load(self, path: Path, view: EventView | None) -> np.ndarray:
        """A label's values on the event pixels.

        Raises:
            DataError: As the reader; another size than that of its pixels.
        """
        if self.pixels is None or view is None or view.source is None:
            try:
                return self.reader.read(path, self.size)
            except DataError as error:
                error.hint = error.hint or self._size_hint(error)
                raise
        return seen_on(self.reader.read(path, self.pixels), view.source)

    def _size_hint(self, error: DataError) -> str | None:
        if "differ in size" not in error.what:
            return None
        return (
            "labels are never resized silently; labels on the pixels of another camera, or k times "
            "as large, go with frames of that size and --homography or --calibration"
        )


def seen_on(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    """A label of one view on the pixels of another: each takes the nearest, none beyond the border.

    Args:
        values: (H, W) class ids or depth, as in a store.
        source: (h, w, 2) column and row in it of every pixel.
    """
    column, row = (np.rint(source[..., axis]) for axis in (0, 1))
    height, width = values.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = values[np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)]
    unknown = np.float32(np.nan) if values.dtype.kind == "f" else np.uint8(IGNORE)
    return np.where(inside, found, unknown).astype(values.dtype)


def with_images(pairs: Iterator[Pair], images: Iterator[TimedImage]) -> Iterator[Pair]:
    """The pairs, each with the image nearest to it in time, if it is no further than `NEAR_US`.

    Args:
        pairs: In order of time.
        images: The same; each is read only if it is used.
    """
    before, after = None, next(images, None)
    for pair in pairs:
        while after is not None and after.image_us <= pair.image_us:
            before, after = after, next(images, None)
        near = [one for one in (before, after) if one is not None]
        best = min(near, key=lambda one: abs(one.image_us - pair.image_us), default=None)
        if best is None or abs(best.image_us - pair.image_us) > NEAR_US:
            yield pair
            continue
        image, valid = best.load()
        yield replace(pair, image=image, valid=valid, provenance=best.provenance | pair.provenance)


def labelled_sources(
    recordings: Sequence[tuple[str, Recording]],
    config: Settings,
    framed_by: Callable[[str, Recording, Settings], CustomRecording],
) -> list[LabelledRecording]:
    """A source for every recording and part of the split.

    Args:
        recordings: With their names.
        config: The settings.
        framed_by: Finds the frames of a recording, see `custom.with_frames`.

    Raises:
        ConfigError: Settings that do not fit each other or the labels.
        DataError: A recording without labels, labels of several recordings or tasks in a folder,
            or labels without times.
    """
    assert config.labels is not None
    split = split_recordings(
        {name: one.path.stem for name, one in recordings}, config.split, config.test_share,
        config.split_seed,
    )  # fmt: skip
    shared, of = Counter(folder_of(one.path) for _, one in recordings), len(recordings)
    recordings = [one for one in recordings if not split.parts or one[0] in split.parts]
    folders = [label_folder(name, one, config.labels, of) for name, one in recordings]
    files = [label_files(folder) for folder in folders]
    if len(set(folders)) < len(folders):
        raise DataError(
            "the same labels would go to several recordings", where=folders[0],
            found=", ".join(name for name, _ in recordings[:_SHOWN]),
            expected=f"a folder of the name of each recording in {config.labels}",
        )  # fmt: skip
    task = _one_task(files, config.labels, _says_ids(folders, config))
    config.check_task(task, {path.suffix.lower() for own in files for path in own})
    reader, read, told = _reader(task, files, folders, config)
    found: list[LabelledRecording] = []
    for (name, recording), own in zip(recordings, files, strict=True):
        framed, why_not = _frames(
            name, recording, config, framed_by, shared[folder_of(recording.path)] == 1
        )
        times = label_times(recording, own, framed, task, config)
        pixels = None
        if framed is not None and (config.homography or config.calibration):
            pixels = _frame_size(framed)
        if pixels and task == "flow":
            raise ConfigError(
                "flow on the pixels of another camera cannot be brought over", where="labels",
                expected="flow between pixels of the events",
            )  # fmt: skip
        rule = None if task == "flow" else window_rule(config)
        source = LabelledRecording(
            name, recording.path, (recording.height, recording.width),
            {**config.reading, "max_bad": config.tolerated, "segment": recording.segment},
            times, reader, framed, pixels, rule, name, "train", {}, (*read, *split.read),
            f"{recording.format} {recording.width}x{recording.height}; {task}: {len(own)} labels "
            f"in {own[0].parent}, times {times.rule}; "
            f"{framed.found.partition('; ')[2] if framed else 'no frames'}",
            (*recording.choices, *times.choices, *told, f"split: {split.told}", *why_not),
        )  # fmt: skip
        source.load(own[0], framed.view() if framed else None)
        found += _parts(source, split, config)
    facts = _facts(reader, config).model_copy(update={"split": {s.scene: s.part for s in found}})
    return [replace(source, facts=facts.to_json()) for source in found]


def _says_ids(folders: Sequence[Path], config: Settings) -> bool:
    """Whether grey PNG files of 16 bits hold ids: a file of classes says so, a scale of depth not.

    A file that was named goes before the scale, and the scale before a file that happens to lie
    there.
    """
    if config.classes is not None or config.depth_scale is not None:
        return config.classes is not None
    return _found_classes(folders, config) is not None


def _one_task(files: Sequence[Sequence[Path]], labels: Path, ids: bool) -> str:
    """The task of all label files, as the first one of each recording shows it."""
    kinds = {task_of_file(one[0], ids): one[0] for one in files}
    if len(kinds) > 1:
        raise DataError(
            "labels of several tasks in one store", where=labels,
            found=", ".join(f"{kind}: {path}" for kind, path in kinds.items()),
            hint="prepare a store for each, with --labels FOLDER of its own",
        )  # fmt: skip
    return next(iter(kinds))


def _parts(source: LabelledRecording, split: Split, config: Settings) -> list[LabelledRecording]:
    """The source with its part; one recording alone as two sources of labels."""
    if split.parts:
        return [replace(source, part=split.parts[source.name])]
    times = source.labels
    longest = config.longest_us
    if not source.rule:  # a window as long as a flow lies before it
        longest = 2 * max(np.subtract(times.end_us, times.start_us), default=0)
    train, test = cut_in_time(times.start_us, config.test_share, int(longest), source.recording)
    between = len(times.files) - len(times.files[train]) - len(times.files[test])
    left_out = (*times.left_out, *([(BETWEEN, between)] if between else []))

    def of(part: Part, own: slice, left_out: tuple[tuple[str, int], ...]) -> LabelledRecording:
        labels = replace(
            times, files=times.files[own], start_us=times.start_us[own],
            end_us=times.end_us[own], left_out=left_out,
        )  # fmt: skip
        at_us = labels.end_us[-1] if part == "train" else labels.start_us[0]
        name, scene = f"{source.name}-{part}", part_name(source.name, part, int(at_us))
        return replace(source, name=name, scene=scene, part=part, labels=labels)

    tests = replace(of("test", test, ()), not_before=int(times.end_us[train][-1]))
    return [of("train", train, left_out), tests]


def label_folder(name: str, recording: Recording, labels: Path, of: int) -> Path:
    """The folder of a recording's labels.

    Args:
        name: Of the recording.
        recording: The events.
        labels: The folder that was named, beside the recording or as it stands.
        of: Number of recordings.

    Raises:
        DataError: There is none.
    """
    bases = [folder_of(recording.path) / labels, labels]
    below = [base / one for base in bases for one in (recording.path.stem, name)]
    looked = [*below, *(bases if of == 1 else bases[:1])]
    for folder in dict.fromkeys(looked):
        if folder.is_dir() and _label_files(folder):
            return folder.resolve()
    raise DataError(
        "no labels for this recording", where=recording.path,
        found=f"no {', '.join(SUFFIXES)} file in " + ", ".join(map(str, dict.fromkeys(looked))),
        hint="put its labels in a folder of its name, or name only recordings that have labels",
    )  # fmt: skip


def _label_files(folder: Path) -> list[Path]:
    files = [path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES]
    return sorted(files, key=natural_order)


def label_files(folder: Path) -> list[Path]:
    """The label files of a folder, by name with numbers in order of their value.

    Raises:
        DataError: Files of several kinds.
    """
    files = _label_files(folder)
    endings = sorted({path.suffix.lower() for path in files})
    if len(endings) > 1:
        raise DataError("label files of several kinds", where=folder, found=", ".join(endings),
                        expected="one kind in a folder")  # fmt: skip
    return files


def _reader(
    task: str, files: Sequence[Sequence[Path]], folders: Sequence[Path], config: Settings
) -> tuple[LabelReader, tuple[Path, ...], tuple[str, ...]]:
    """How files are read, which others that needs, and what it found out."""
    if task == "segmentation":
        where = _classes_file(folders, config)
        return LabelReader(task, read_classes(where), where), (where,), (f"classes: {where}",)
    if task == "depth":
        told = check_scale(
            [path for own in files for path in own], config.depth_scale, config.max_depth
        )
        reader = LabelReader(task, depth_scale=config.depth_scale)
        return reader, (), (f"depth: {told}",) if told else ()
    return LabelReader(task, flow_scale=config.flow_scale), (), ()


def _classes_file(folders: Sequence[Path], config: Settings) -> Path:
    """The file that says what ids mean.

    Raises:
        ConfigError: None was named, and there is none at the usual places.
    """
    found = _found_classes(folders, config)
    if found is not None:
        return found
    raise ConfigError(
        "nothing says what the ids of the labels mean", where=config.labels,
        expected=f"{CLASSES_FILES[0]} there: `classes: [road, car]` in the order of their ids, "
        "from 0, and `ignore: 255`",
        hint="write it, or name another file: --classes",
    )  # fmt: skip


def _found_classes(folders: Sequence[Path], config: Settings) -> Path | None:
    """That file: the one named, else the first at the usual places."""
    if config.classes is not None:
        return config.classes
    assert config.labels is not None
    places = [
        config.labels, *folders[:1], *(folder.parent for folder in folders[:1]),
        *(root if root.is_dir() else root.parent for root in config.roots),
        *((root if root.is_dir() else root.parent) / config.labels for root in config.roots),
    ]  # fmt: skip
    for place in places:
        for name in CLASSES_FILES:
            if (place / name).is_file():
                return place / name
    return None


def _facts(reader: LabelReader, config: Settings) -> LabelFacts:
    if reader.task == "segmentation":
        assert reader.classes is not None
        return LabelFacts(task="segmentation", classes=reader.classes.named)
    if reader.task == "depth":
        return LabelFacts(task="depth", max_depth=config.max_depth)
    return LabelFacts(task="flow")


def _frames(
    name: str,
    recording: Recording,
    config: Settings,
    framed_by: Callable[[str, Recording, Settings], CustomRecording],
    alone: bool,
) -> tuple[CustomRecording | None, tuple[str, ...]]:
    """The recording with its frames; None without any, and why those there are not used.

    Frames beside a recording count only where no other one is in its folder.

    Raises:
        DataError: Frames that the settings ask for cannot be used.
    """
    asked = config.frames or config.timestamps or config.homography or config.calibration
    folder = folder_of(recording.path)
    beside = any((folder / one).is_dir() for one in FRAME_FOLDERS) or bool(videos_in(folder))
    if not asked and not recording.has_frames and not (beside and alone):
        return None, ()
    try:
        return framed_by(name, recording, config), ()
    except DataError as error:
        if asked:
            raise
        return None, (f"frames are not used: {error.what}",)


def _frame_size(framed: CustomRecording) -> tuple[int, int]:
    """(height, width) of the first frame."""
    frames = framed.frames
    if isinstance(frames, PictureFiles):
        return picture_size(frames.files[0])
    images = (frame.image for frame in framed.opened().frames())
    first = next(video_frames(frames.files[0]) if isinstance(frames, VideoFile) else images)
    return first.shape[0], first.shape[1]
