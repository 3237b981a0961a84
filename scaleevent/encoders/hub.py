"""Pretrained weights from the Hugging Face hub: from the cache, or fetched once."""

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

TIMEOUT_S = 5.0


def published_weights(name: str) -> str:
    """One line on weights that timm publishes: where they are, their size and licence."""
    config: Any = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(name).parameters())
    return (
        f"weights {config.hf_hub_id}: about {4 * parameters / 1e6:.0f} MB, fetched once; "
        f"licence {config.license}"
    )


def fetch_weights(repository: str, offline: bool, beside: tuple[str, ...] = ()) -> Path:
    """The weight file of a Hugging Face hub repository, fetched unless it is on this machine.

    Args:
        repository: ``ORG/NAME``, optionally followed by ``@REVISION``.
        offline: Never use the network.
        beside: Small files that are put beside it, where the repository has them.

    Raises:
        ConfigError: Not the name of a repository.
        EnvironmentProblem: The file cannot be fetched.
    """
    name, _, revision = repository.partition("@")
    file: Any = {"repo_id": name, "filename": "model.safetensors", "revision": revision or None}
    try:
        found = Path(hf_hub_download(**file, local_files_only=True))
        _fetch_beside(file, beside, offline)
        return found
    except HFValidationError as problem:
        raise ConfigError("not the name of a hub repository", found=repository) from problem
    except LocalEntryNotFoundError:
        pass
    if offline or constants.HF_HUB_OFFLINE:
        reason = "not on this machine, and --offline forbids fetching"
    elif not _hub_answers():
        reason = f"no connection to {constants.ENDPOINT}"
    else:
        try:
            found = Path(hf_hub_download(**file))
            _fetch_beside(file, beside, offline)
            return found
        except (HfHubHTTPError, OSError) as problem:
            reason = str(problem).strip().splitlines()[0]
    raise EnvironmentProblem(
        "the pretrained weights cannot be fetched",
        where=f"{constants.ENDPOINT}/{name}",
        found=reason,
        hint="either accept the licence on that page and log in with `hf auth login`; "
        "or download Meta's .pth and name that file",
    )


def _fetch_beside(file: Any, names: tuple[str, ...], offline: bool) -> None:
    """Have small files beside a weight file: those on this machine, or else those of the hub."""
    for name in names:
        with suppress(LocalEntryNotFoundError):
            hf_hub_download(**file | {"filename": name}, local_files_only=True)
            return
    if names and not (offline or constants.HF_HUB_OFFLINE) and _hub_answers():
        for name in names:
            with suppress(HfHubHTTPError, OSError):
                hf_hub_download(**file | {"filename": name})


def _hub_answers() -> bool:
    """Try one short request: the hub's own client would retry for half a minute."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except OSError as problem:
        return isinstance(problem, urllib.error.HTTPError)  # a refusal is an answer
    return True
