"""Recordings with labels of users' own as the sources of `custom`: found, timed, and split.

Along the data's path: `custom_labels_settings`, `custom_labels_finding` (folders and files),
`custom_labels_files` (their formats), `custom_labels_times`, `custom_labels_split` (which test),
`custom_labels_pairs` (on the event pixels, beside frames).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleevent.config.labels import LabelFacts, Part, read_classes
from scaleevent.datasets.custom_files import FRAME_FOLDERS, folder_of, videos_in
from scaleevent.datasets.custom_labels_files import LabelReader, check_scale, task_of_file
from scaleevent.datasets.custom_labels_finding import (
    classes_file,
    found_classes,
    label_files,
    label_folder,
)
from scaleevent.datasets.custom_labels_pairs import LabelledRecording
from scaleevent.datasets.custom_labels_split import Split, cut_in_time, part_name, split_recordings
from scaleevent.datasets.custom_labels_times import label_times
from scaleevent.datasets.frames import PictureFiles, picture_size
from scaleevent.datasets.video import VideoFile, video_frames
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import Recording
from scaleevent.pairs.pairing import window_rule

if TYPE_CHECKING:
    from scaleevent.datasets.custom import CustomRecording, Settings

BETWEEN = "between those that train and those that test"
_SHOWN = 5


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
    return found_classes(folders, config) is not None


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


def _reader(
    task: str, files: Sequence[Sequence[Path]], folders: Sequence[Path], config: Settings
) -> tuple[LabelReader, tuple[Path, ...], tuple[str, ...]]:
    """How files are read, which others that needs, and what it found out."""
    if task == "segmentation":
        where = classes_file(folders, config)
        return LabelReader(task, read_classes(where), where), (where,), (f"classes: {where}",)
    if task == "depth":
        told = check_scale(
            [path for own in files for path in own], config.depth_scale, config.max_depth
        )
        reader = LabelReader(task, depth_scale=config.depth_scale)
        return reader, (), (f"depth: {told}",) if told else ()
    return LabelReader(task, flow_scale=config.flow_scale), (), ()


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
