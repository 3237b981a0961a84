"""The files that belong to a recording, by their names: events, frames, frame times."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from scaleevent.datasets.frames import list_pictures
from scaleevent.errors import DataError, NotEventsError
from scaleevent.formats import FORMATS, Recording, is_bag_folder, text
from scaleevent.system.refusals import may_be_file

TEXT_RECORDINGS = text.SUFFIXES
RECORDINGS = tuple(
    suffix for one in FORMATS.values() for suffix in one.SUFFIXES if suffix not in TEXT_RECORDINGS
)
FRAME_FOLDERS = ("images", "frames", "rgb")
VIDEOS = (
    ".mp4", ".mkv", ".avi", ".mov", ".webm",
    ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".mts", ".m2ts", ".3gp",
)  # fmt: skip
TIMES = ("timestamps.txt", "image_timestamps.txt", "images.txt", "exposure_timestamps.txt")


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.name[0] != "." and may_be_file(path))


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder, by name."""
    return [path for path in visible_files(folder) if path.suffix.lower() in VIDEOS]


def folder_of(recording: Path) -> Path:
    """Where frames and times of a recording lie: beside it, or in the folder of a ROS 2 bag."""
    if is_bag_folder(recording):
        names = (*FRAME_FOLDERS, *TIMES)
        if any((recording / name).exists() for name in names) or videos_in(recording):
            return recording
    return recording.parent


def found_beside(recording: Path) -> dict[str, str]:
    """Frames, videos and time stamps in the folder of a recording, by name."""
    folder = folder_of(recording.resolve())
    pictures = [folder / name for name in FRAME_FOLDERS if (folder / name).is_dir()]
    found = {path.name: f"{len(list_pictures(path))} pictures" for path in pictures}
    found |= {path.name: "video" for path in videos_in(folder)}
    found |= {name: "times of frames" for name in TIMES if (folder / name).is_file()}
    return dict(sorted(found.items()))


def find_recordings(
    root: Path, opened: Callable[[Path], Recording], others: Collection[str]
) -> list[tuple[str, Recording]]:
    """Proposed name and recording of everything in a root.

    Args:
        root: A recording, or a folder that holds one, or several AEDAT4 files.
        opened: Opens a file or a ROS 2 bag's folder; raises NotEventsError for one without events.
        others: Names of files that are no recordings, besides `TIMES`.

    Raises:
        DataError: No recording, or several of other formats.
    """
    if root.is_file():
        return [(root.stem, opened(root))]
    if is_bag_folder(root):
        return [(root.resolve().name, opened(root))]
    if not root.is_dir():
        raise DataError("no such file or folder", where=root)
    found = _opened_in(root, opened, others)
    if len(found) > 1 and any(recording.format != "AEDAT4" for recording in found):
        raise DataError(
            "several recordings in one folder",
            where=root,
            found=", ".join(recording.path.name for recording in found),
            expected="one, or AEDAT4 files with their frames inside",
            hint="name the file instead of the folder",
        )
    return _named(root, found)


def find_all_recordings(
    root: Path, opened: Callable[[Path], Recording], others: Collection[str], labels: Path
) -> list[tuple[str, Recording]]:
    """Proposed name and recording of everything in a root whose recordings have labels.

    Args:
        root: A recording, a folder of recordings, or a folder of such folders.
        opened: As for `find_recordings`.
        others: The same.
        labels: Folder of labels, in which no recordings are looked for.

    Raises:
        DataError: No recording.
    """
    if root.is_file() or is_bag_folder(root) or not root.is_dir():
        return find_recordings(root, opened, others)
    below = [
        path for path in sorted(root.iterdir())
        if path.is_dir() and path.name[0] != "." and path.name not in (*FRAME_FOLDERS, labels.name)
    ]  # fmt: skip
    try:
        return _named(root, _opened_in(root, opened, others))
    except DataError as error:
        found: list[tuple[str, Recording]] = []
        for folder in below:
            with suppress(_NothingHere):
                found += _named(folder, _opened_in(folder, opened, others))
        if not found or not isinstance(error, _NothingHere):
            raise
        return found


class _NothingHere(DataError):
    """A folder without a recording."""


def _named(folder: Path, found: list[Recording]) -> list[tuple[str, Recording]]:
    """A recording that is alone is called as its folder, others as their files."""
    if len(found) == 1:
        return [(folder.resolve().name, found[0])]
    return [(recording.path.stem, recording) for recording in found]


def _opened_in(
    root: Path, opened: Callable[[Path], Recording], others: Collection[str]
) -> list[Recording]:
    """All recordings of a folder; text counts where there are no others.

    Raises:
        DataError: There is none.
    """
    files = [path for path in visible_files(root) if path.name not in {*TIMES, *others}]
    bags = [path for path in sorted(root.iterdir()) if is_bag_folder(path)]
    binary, texts = (
        [path for path in files if path.suffix.lower() in suffixes]
        for suffixes in (RECORDINGS, TEXT_RECORDINGS)
    )
    found: list[Recording] = []
    refused = []
    for candidates in (binary + bags, texts):
        for path in candidates if not found else []:
            try:
                found.append(opened(path))
            except NotEventsError as error:
                refused.append(f"{path.name}: {error.what}")
    if not found:
        raise _NothingHere(
            "no event recording in this folder",
            where=root,
            found="; ".join(refused[:5])
            or ", ".join(path.name for path in files[:10])
            or "no files",
            expected="a file such as " + ", ".join((*RECORDINGS, *TEXT_RECORDINGS)),
            hint="recordings in folders of their own are given one by one",
        )
    return found


def find_frames(folder: Path, given: Path | None) -> Path:
    """The folder of pictures, or the video, that belongs to the recording in `folder`.

    Raises:
        DataError: None, or several videos.
    """
    if given is not None:
        return _given(folder, given)
    for name in FRAME_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    videos = videos_in(folder)
    if len(videos) == 1:
        return videos[0]
    if not videos and list_pictures(folder):
        return folder
    raise DataError(
        "several videos" if videos else "no frames for this recording",
        where=folder,
        found=", ".join(video.name for video in videos) or None,
        expected=f"a folder {', '.join(FRAME_FOLDERS)}, or one video ({', '.join(VIDEOS)})",
        hint="name it: --frames; to use the events alone: `scaleevent voxelize FOLDER`",
    )


def find_times(folder: Path, frames: Path, given: Path | None) -> Path:
    """The file of frame times: in the recording's `folder`, or in that of the frames.

    Raises:
        DataError: There is none.
    """
    if given is not None:
        return _given(folder, given)
    for place in [folder, frames] if frames.is_dir() else [folder]:
        for name in TIMES:
            if (place / name).is_file():
                return place / name
    raise DataError(
        "no time stamps for the frames",
        where=folder,
        expected=f"one of {', '.join(TIMES)}, there or in the folder of the frames",
        hint="name the file: --timestamps",
    )


def listed_picture(name: str, places: tuple[Path, ...], times: Path) -> Path:
    """The picture that a line of the time file names, inside one of the places.

    Raises:
        DataError: There is none.
    """
    for place in places:
        path = place / name
        if path.resolve().is_relative_to(place.resolve()) and path.is_file():
            return path
    raise DataError(
        "a picture in the list of times is missing", where=times, found=name,
        expected=f"a file below {' or '.join(map(str, dict.fromkeys(places)))}",
    )  # fmt: skip


def _given(folder: Path, given: Path) -> Path:
    """A path the user gave, in the recording's folder or as it stands."""
    for path in (folder / given, given):
        if path.exists():
            return path
    raise DataError("no such file or folder", where=given, hint=f"looked in {folder} too")
