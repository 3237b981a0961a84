"""Where things lie: the cache, named stores, and the default data of `pretrain`."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from scaleevent.errors import CheckpointError, ConfigError, DataError
from scaleevent.system.files import MARKER, Json, read_json
from scaleevent.system.hub_folders import LOCAL, find_weights, named_folder, names_hub
from scaleevent.system.sealed import readable

MANIFEST = "manifest.json"
LIMIT = "SCALEEVENT_CACHE_GB"  # of shards from elsewhere; without it there is no limit
RESULTS = ("task.safetensors", "encoder.safetensors")  # what a finished run holds: one of them
BEST = "best.safetensors"  # beside it: the step that did best on held-out samples
POINTER = "best.json"  # beside that: which step it is of
# absolute, or a relative one without blanks that is no address and no timm:NAME
_LOCAL_PATH = re.compile(r"~|/|[A-Za-z]:[/\\]|(?![a-z][a-z0-9+.-]+:)\S+[/\\]\S*$")
NamedWeights = TypeVar("NamedWeights", str, Path)
_UNFINISHED = "an interrupted `prepare` or `voxelize` goes on with the same command and --resume"
_OTHER = "a folder of another kind: `scaleevent info {}` tells"
_INSTEAD = {  # of a pair store, by the kind of a folder
    "": "recordings become one with `scaleevent prepare custom {} -o PAIRS`",
    **dict.fromkeys(("pairs", "voxels"), _UNFINISHED),
    **dict.fromkeys(("run", "evaluation", "export", "predictions"), _OTHER),
}
PACKAGE = Path(__file__).parents[1]
# Encoders in the package: images of `street` taught the first, its simulated events the others.
EMBEDDED_WEIGHTS = {
    "embedded-v1": "data/tiny_teacher.safetensors",  # of layout fixed
    "embedded-v2": "data/street_teacher.safetensors",  # of layout varied
    "embedded-event": "data/street_event.safetensors",
    "embedded-event-depth": "data/street_event.safetensors",
}
EMBEDDED_TASKS = {  # where a task model will do: heads of that encoder
    "embedded-event": "data/street_event_classes.safetensors",
    "embedded-event-depth": "data/street_event_depth.safetensors",
}
EVENT_ENCODERS = tuple(EMBEDDED_TASKS)
EMBEDDED_TEACHER = "embedded"
EMBEDDED_DEFAULT = "embedded-v2"  # which of them that is: the one of the default layout
WEIGHT_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


def cache_folder() -> Path:
    """$SCALEEVENT_CACHE, else the user's cache folder."""
    named = os.environ.get("SCALEEVENT_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(home) / "scaleevent"


def address_of(path: Path) -> str | None:
    """The address that a path was written for, such as s3://bucket/pairs; None of other paths.

    A path has one slash where the address had two.
    """
    parts = re.fullmatch(
        r"(?!local-dir:)([a-z][a-z0-9+.-]+):/+(.+)", str(path).replace(os.sep, "/")
    )
    if parts is None or Path(path).exists():
        return None
    return f"{parts[1]}://{'/' if parts[1] == 'file' else ''}{parts[2]}"


def shown(path: Path) -> str:
    """A path, or the address that it was written for without a password, for messages."""
    address = address_of(path)
    return str(path) if address is None else without_passwords(address)


def without_passwords(text: str) -> str:
    """A text whose addresses, also those that are paths, show neither user nor password."""
    return re.sub(r"((?<!/)//|(?<=[A-Za-z0-9+.-]{2}:)/)(?!/)[^/@\s]*@", r"\1", text)


def names_only(value: Any) -> Any:
    """A JSON value for others: every path of this machine has become the name at its end.

    Addresses, names of weights and of recordings stay.
    """
    if isinstance(value, dict):
        return {k: one if k == "recordings" else names_only(one) for k, one in value.items()}
    if isinstance(value, list):
        return [names_only(one) for one in value]
    if not isinstance(value, str):
        return value
    kind = next((one for one in ("file ", LOCAL) if value.startswith(one)), "")
    path = value.removeprefix(kind)
    return kind + re.split(r"[/\\]", path.rstrip("/\\"))[-1] if _LOCAL_PATH.match(path) else value


def check_store(folder: Path) -> None:
    """Refuse a folder or an address that is no finished pair store.

    Raises:
        DataError: It has no manifest.
        EnvironmentProblem: The address cannot be reached.
    """
    if address_of(folder) is not None:
        from scaleevent.system.remote import at_hand  # it takes a while to import

        at_hand(folder)
        return
    if not os.path.lexists(folder):
        beside = Path(folder).absolute().parent
        there = [path.parent.name for path in beside.glob(f"*/{MANIFEST}")]
        close = difflib.get_close_matches(Path(folder).name, there, 1)
        raise DataError("no such pair store", where=folder, expected=f"a folder with {MANIFEST}",
                        hint=f"did you mean {close[0]}?" if close else None)  # fmt: skip
    if not (Path(folder) / MANIFEST).exists():
        raise DataError(
            "not a prepared pair store",
            where=folder,
            expected=f"a folder with {MANIFEST}, as `scaleevent prepare` writes it",
            hint=_INSTEAD.get(output_kind(folder), _INSTEAD[""]).format(folder),
        )


def output_kind(folder: Path) -> str:
    """What our marker says a folder holds, such as pairs or run; "" without one."""
    marker = Path(folder) / MARKER
    return marker.read_text(encoding="utf-8", errors="replace").strip() if marker.is_file() else ""


def weights_within(path: NamedWeights) -> NamedWeights:
    """The checkpoint in a run folder, where one is named; anything else as it is.

    Raises:
        CheckpointError: The run has written none.
    """
    folder = Path(path)
    if is_reserved(str(path)) or not os.path.isdir(folder):  # False too of names that are too long
        return path
    for name in RESULTS:
        if (folder / name).is_file():
            return type(path)(folder / name)
    if output_kind(folder) == "run":
        so_far = f"; its best so far: {folder / BEST}" if (folder / BEST).is_file() else ""
        raise CheckpointError(
            "a run that has not finished", where=folder, expected=" or ".join(RESULTS),
            hint=f"the same command with --resume finishes it{so_far}",
        )  # fmt: skip
    return path


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is no file; those on the hub are looked up when they are used.

    Raises:
        CheckpointError: Nothing is there, or a folder that is not in the hub's layout.
    """
    folder = named_folder(str(path))
    if folder is not None:
        find_weights(folder)
    if folder is not None or names_hub(str(path)) or embedded_name(str(path)) is not None:
        return
    near = similar_name(str(path))
    if near is not None and not os.path.exists(path):
        raise CheckpointError("file not found", where=path, hint=f"did you mean {near}?")
    with readable(path):
        path.stat()


def embedded_name(name: str) -> str | None:
    """The full name of weights in the package, such as embedded-v1; None of any others."""
    full = EMBEDDED_DEFAULT if name == EMBEDDED_TEACHER else name
    return full if full in EMBEDDED_WEIGHTS else None


def embedded_file(name: str, task: bool = False) -> Path | None:
    """The file of weights in the package by any of their names; None of any others.

    With `task` that of a task model where the name has one, else always an encoder's.
    """
    full = embedded_name(name)
    if full is None:
        return None
    return PACKAGE / ((EMBEDDED_TASKS.get(full) if task else None) or EMBEDDED_WEIGHTS[full])


def similar_name(name: str) -> str | None:
    """The name of weights in the package that one is close to; None of others."""
    close = difflib.get_close_matches(name, [EMBEDDED_TEACHER, *EMBEDDED_WEIGHTS], 1, 0.8)
    return close[0] if close else None


def is_reserved(name: str) -> bool:
    """Whether weights have a name of ours, even where a file has it too (./NAME means that one)."""
    return name == "random" or embedded_name(name) is not None


def is_weight_file(name: str) -> bool:
    """Whether weights are named by a file, not as ours, timm's or a hub repository's."""
    if is_reserved(name) or names_hub(name):
        return False
    local = named_folder(name) is not None or os.path.exists(name)
    return local or "/" in name or name.endswith(WEIGHT_FILES)


def names_model(name: str) -> bool:
    """Whether a name is beyond doubt that of a model: by its form, or as the folder of its run."""
    if is_reserved(name) or names_hub(name) or named_folder(name) is not None:
        return True
    folder = Path(name)
    if os.path.isdir(name):
        return output_kind(folder) == "run" or any((folder / one).is_file() for one in RESULTS)
    return name.startswith("timm:") or name.endswith((".safetensors", ".pth", ".ckpt"))


def check_weights(name: str | None) -> None:
    """Refuse weights that are named by a file which is not there.

    Raises:
        CheckpointError: As `check_checkpoint`.
    """
    if name is not None and is_weight_file(name):
        check_checkpoint(Path(name))


def manifest_of(folder: Path) -> Json:
    """The manifest of a pair store or of its address, as JSON that nobody has checked.

    Raises:
        DataError: There is none, or no JSON object.
        EnvironmentProblem: The address cannot be reached.
    """
    check_store(folder)
    if address_of(folder) is not None:
        from scaleevent.system.remote import at_hand  # it takes a while to import

        folder = at_hand(folder)
    value = read_json(Path(folder) / MANIFEST)
    if not isinstance(value, dict):
        raise DataError("not the manifest of a pair store", where=Path(folder) / MANIFEST)
    return value


def named_store(name: str, needed_by: str) -> Path:
    """The pair store `name` in the folder $SCALEEVENT_DATA.

    Raises:
        ConfigError: It is not there.
    """
    shelf = os.environ.get("SCALEEVENT_DATA")
    found = Path(shelf) / name if shelf else None
    if found is None or not (found / MANIFEST).exists():
        raise ConfigError(
            f"no data found for {needed_by}",
            where="--data",
            found=f"no pair store {found}" if found else "neither --data nor $SCALEEVENT_DATA",
            hint=f"make it with `scaleevent prepare {name} FOLDER -o {name}`, "
            f"then name it: --data {name}",
        )
    return found


def store_path(name: Path) -> Path:
    """The folder of a named store: this path, or address, else its name in $SCALEEVENT_DATA."""
    shelf = os.environ.get("SCALEEVENT_DATA")
    here = name.exists() or address_of(name) is not None
    return name if here or not shelf else Path(shelf) / name


def data_source(named: list[Path]) -> tuple[list[Path], str]:
    """Pair stores to train on, and where they were found.

    Names that are not paths are looked up in $SCALEEVENT_DATA, a folder of named stores. Without
    names: all stores there, then ./pairs, else the embedded `street` (no paths).

    Raises:
        ConfigError: A named store does not exist.
    """
    shelf = os.environ.get("SCALEEVENT_DATA")
    if named:
        for name in named:
            if not store_path(name).exists() and address_of(name) is None:
                raise ConfigError("no such pair store", where="data", found=name)
        return [store_path(name) for name in named], "argument"
    if shelf:
        stores = sorted(path.parent for path in Path(shelf).glob(f"*/{MANIFEST}"))
        if (Path(shelf) / MANIFEST).exists():
            stores.append(Path(shelf))
        if stores:
            return stores, "$SCALEEVENT_DATA"
        raise ConfigError("no pair store", where="$SCALEEVENT_DATA", found=shelf,
                          expected="a folder of folders with manifest.json")  # fmt: skip
    if Path("pairs", MANIFEST).exists():
        return [Path("pairs")], "./pairs"
    if Path("pairs", MARKER).exists():
        raise ConfigError(
            "the pair store is not finished", where="./pairs",
            hint="finish it with the same prepare command and --resume, or name other data",
        )  # fmt: skip
    return [], "street"
