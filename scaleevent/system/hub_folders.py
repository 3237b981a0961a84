"""Folders in the layout of the Hugging Face hub: which weight file a name of one means.

Such a folder holds `config.json` (the architecture, as timm reads it), `model.safetensors` (an
encoder under bare timm names) and, where `scaleevent export --format hub` wrote it from a task
model, `task.safetensors` (the whole task checkpoint). A snapshot in the hub's cache is one too.
"""

from __future__ import annotations

import os
from pathlib import Path

from scaleevent.errors import CheckpointError
from scaleevent.system.documents import MalformedError, parse_json, read_bounded
from scaleevent.system.files import MARKER, Json
from scaleevent.system.refusals import refusal
from scaleevent.system.sealed import read_description

HUB, LOCAL = "hf-hub:", "local-dir:"  # before names, as timm has them
WEIGHTS, TASK, CONFIG = "model.safetensors", "task.safetensors", "config.json"
OURS = "scaleevent"  # our key in config.json
# arguments that every network of ours is built with, beside those of its description
ALWAYS = {"num_classes": 0, "dynamic_img_size": True}
_CONFIG_BYTES = 4_000_000  # names of 21,000 classes fit


def names_hub(name: str) -> bool:
    """Whether weights are named by a repository on the hub."""
    return name.startswith(HUB)


def named_folder(name: str) -> Path | None:
    """The folder of ``local-dir:FOLDER``, in which no shell has replaced ~; None of other names."""
    if not name.startswith(LOCAL):
        return None
    return Path(os.path.expanduser(name.removeprefix(LOCAL)))


def is_hub_folder(path: Path) -> bool:
    """Whether a path is a folder in the hub's layout that is no output folder of ours."""
    return (
        all((path / name).is_file() for name in (CONFIG, WEIGHTS)) and not (path / MARKER).exists()
    )


def weights_of_folder(folder: Path, task: bool = False) -> Path:
    """The weight file of a folder in the hub's layout, which agrees with its config.json.

    Args:
        folder: Where.
        task: Take the task model, where the folder has one, rather than its encoder.

    Raises:
        CheckpointError: As `find_weights`; or config.json is of another architecture than a weight
            file of ours, or that file is damaged.
    """
    file = find_weights(folder, task)
    description = read_description(file)
    if description is not None:
        _refuse_other_architecture(read_hub_config(folder / CONFIG), description, folder)
    return file


def find_weights(folder: Path, task: bool = False) -> Path:
    """`weights_of_folder` in milliseconds: the weights themselves are not read.

    Raises:
        CheckpointError: Not such a folder, or without weights.
    """
    if not folder.is_dir():
        raise CheckpointError(
            "not a folder" if folder.exists() else "no such folder", where=folder,
            expected=f"{LOCAL}FOLDER with {CONFIG} and {WEIGHTS}",
        )  # fmt: skip
    config = read_hub_config(folder / CONFIG)
    file = folder / file_of(config, task)
    if not file.is_file():
        raise CheckpointError(
            "a hub folder without weights", where=folder,
            found=", ".join(sorted(one.name for one in folder.iterdir())[:8]) or "nothing",
            expected=file.name,
            hint="download or copy it whole; files over a few MB may be left out by git without "
            "its large file storage",
        )  # fmt: skip
    return file


def file_of(config: Json, task: bool) -> str:
    """The name of the weight file that a config.json stands for; see `weights_of_folder`."""
    match config.get(OURS):
        case {"kind": "task"} if task:
            return TASK
    return WEIGHTS


def read_hub_config(path: Path) -> Json:
    """The keys of a config.json.

    Raises:
        CheckpointError: It is missing or no JSON object.
    """
    try:
        config = parse_json(read_bounded(path, _CONFIG_BYTES))
    except FileNotFoundError:
        raise CheckpointError(
            f"not a folder in the hub's layout: it has no {CONFIG}", where=path.parent,
            hint="a single weight file is named by its path alone",
        ) from None  # fmt: skip
    except OSError as error:
        damage = CheckpointError(f"cannot read: {error.strerror}", where=path)
        raise refusal(error, path) or damage from error
    except MalformedError as error:
        raise CheckpointError(f"malformed {CONFIG}", where=error.at(path), found=error) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"malformed {CONFIG}", where=path, expected="a JSON object")
    return config


def _refuse_other_architecture(config: Json, description: Json, folder: Path) -> None:
    """Compare the network of config.json with that of a weight file of ours."""
    arch = description.get("arch") or {}
    options = arch.get("kwargs")
    expected = (arch.get("name"), ALWAYS | options if isinstance(options, dict) else options)
    found = (config.get("architecture"), config.get("model_args", {}))
    if found != expected:
        raise CheckpointError(
            f"{CONFIG} is of another architecture than the weights beside it",
            where=folder, found=f"{found[0]} {found[1]}"[:300],
            expected=f"{expected[0]} {expected[1]}",
            hint="fetch or copy both files from the same place",
        )  # fmt: skip
