"""Which file weights are in, whatever a user calls them; those of the hub are fetched once."""

from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from scaleevent.errors import ConfigError, EnvironmentProblem
from scaleevent.system.hub_folders import (
    CONFIG,
    HUB,
    WEIGHTS,
    file_of,
    named_folder,
    names_hub,
    read_hub_config,
    weights_of_folder,
)
from scaleevent.system.locations import embedded_file

TIMEOUT_S = 5.0
PREPROCESSOR = "preprocessor_config.json"  # where transformers keeps the colours of its images


def weight_file(name: Path | str, *, task: bool = False, offline: bool = False) -> Path:
    """The file that weights are in: every command and function that takes weights asks here.

    Args:
        name: A file, ``embedded`` or another name of weights in the package, ``local-dir:FOLDER``
            in the hub's layout, or ``hf-hub:ORG/NAME``, optionally with ``@REVISION``.
        task: Whether a task model will do: of a name, folder or repository that has both, the task
            model is taken, else its encoder.
        offline: Never use the network. $HF_HUB_OFFLINE forbids it too.

    Returns:
        The file; a plain path is not looked at.

    Raises:
        CheckpointError: No such folder, none in the hub's layout, or files that contradict.
        ConfigError: Not the name of a repository.
        EnvironmentProblem: The file is not on this machine and cannot be fetched.
    """
    text = str(name)
    folder = named_folder(text)
    if folder is not None:
        return weights_of_folder(folder, task)
    if not names_hub(text):
        return embedded_file(text, task) or Path(name)
    repository = text.removeprefix(HUB)
    config = _fetch_optional(repository, CONFIG, offline)
    known = read_hub_config(config) if config else {}
    file = fetch_weights(repository, offline, file_of(known, task))
    if "pretrained_cfg" not in known:  # not timm's
        _fetch_optional(repository, PREPROCESSOR, offline)
    return weights_of_folder(file.parent, task) if config else file


def published_weights(name: str) -> str:
    """One line on weights that timm publishes: where they are, their size and licence."""
    config: Any = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(name).parameters())
    return (
        f"weights {config.hf_hub_id}: about {4 * parameters / 1e6:.0f} MB, fetched once; "
        f"licence {config.license}"
    )


def fetch_weights(repository: str, offline: bool, name: str = WEIGHTS) -> Path:
    """A weight file of a Hugging Face hub repository, fetched unless it is on this machine.

    Args:
        repository: ``ORG/NAME``, optionally followed by ``@REVISION``.
        offline: Never use the network.
        name: Of the file.

    Raises:
        ConfigError: Not the name of a repository.
        EnvironmentProblem: The file cannot be fetched.
    """
    file = _in_repository(repository, name)
    try:
        return Path(hf_hub_download(**file, local_files_only=True))
    except HFValidationError as problem:
        raise ConfigError(
            "not the name of a hub repository", found=repository,
            expected="ORG/NAME or ORG/NAME@REVISION",
        ) from problem  # fmt: skip
    except LocalEntryNotFoundError:
        pass
    if offline or constants.HF_HUB_OFFLINE:
        by = "--offline" if offline else "$HF_HUB_OFFLINE"
        reason = f"not on this machine, and {by} forbids fetching"
    elif not _hub_answers():
        reason = f"no connection to {constants.ENDPOINT}"
    else:
        try:
            return Path(hf_hub_download(**file))
        except (HfHubHTTPError, OSError) as problem:
            reason = str(problem).strip().splitlines()[0]
    bare, revision = file["repo_id"], file["revision"]
    line = f"`hf download {bare}`{f' (revision {revision})' if revision else ''}"
    cache = Path(constants.HF_HUB_CACHE) / f"models--{bare.replace('/', '--')}"
    raise EnvironmentProblem(
        "the weights cannot be fetched",
        where=f"{constants.ENDPOINT}/{repository}, {name}",
        found=f"{reason}; looked in {cache}",
        hint="either accept the licence on that page, if it asks for that, and log in with "
        f"`hf auth login`; or run {line} where there is a connection and copy that folder "
        "here; or download the weights by hand (such as Meta's .pth) and name that file",
    )


def _in_repository(repository: str, name: str) -> Any:
    """The arguments of `hf_hub_download`."""
    bare, _, revision = repository.partition("@")
    return {"repo_id": bare, "filename": name, "revision": revision or None}


def _fetch_optional(repository: str, name: str, offline: bool) -> Path | None:
    """A small file of a repository: the one on this machine, or else the hub's; None without."""
    file = _in_repository(repository, name)
    with suppress(LocalEntryNotFoundError, HFValidationError):
        return Path(hf_hub_download(**file, local_files_only=True))
    if not (offline or constants.HF_HUB_OFFLINE) and _hub_answers():
        with suppress(HfHubHTTPError, HFValidationError, OSError):
            return Path(hf_hub_download(**file))
    return None


def _hub_answers() -> bool:
    """Try one short request: the hub's own client would retry for half a minute."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except OSError as problem:
        return isinstance(problem, urllib.error.HTTPError)  # a refusal is an answer
    return True
