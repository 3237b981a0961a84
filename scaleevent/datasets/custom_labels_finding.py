"""Where labels of users' own lie: the folder and files of a recording, and the file of classes.

FOLDER/RECORDING.raw and FOLDER/LABELS/RECORDING/*.png
FOLDER/RECORDING/RECORDING.raw and FOLDER/RECORDING/LABELS/*.png
FOLDER/RECORDING.raw and LABELS/*.png where there is one recording
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaleevent.datasets.custom_files import folder_of, visible_files
from scaleevent.datasets.custom_labels_files import SUFFIXES
from scaleevent.datasets.frames import natural_order
from scaleevent.errors import ConfigError, DataError
from scaleevent.formats import Recording

if TYPE_CHECKING:
    from scaleevent.datasets.custom import Settings

CLASSES_FILES = ("classes.yaml", "classes.yml")


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


def classes_file(folders: Sequence[Path], config: Settings) -> Path:
    """The file that says what ids mean.

    Raises:
        ConfigError: None was named, and there is none at the usual places.
    """
    found = found_classes(folders, config)
    if found is not None:
        return found
    raise ConfigError(
        "nothing says what the ids of the labels mean", where=config.labels,
        expected=f"{CLASSES_FILES[0]} there: `classes: [road, car]` in the order of their ids, "
        "from 0, and `ignore: 255`",
        hint="write it, or name another file: --classes",
    )  # fmt: skip


def found_classes(folders: Sequence[Path], config: Settings) -> Path | None:
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
