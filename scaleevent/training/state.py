"""What a run saves to be resumed: weights, moments, a fingerprint of all that must agree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaleevent.errors import CheckpointError, ConfigError, DataError
from scaleevent.system.files import Json, read_json, write_bytes, write_json
from scaleevent.system.sealed import read_description
from scaleevent.training.tensors import load_tensors, save_tensors, under

LAST = "last.json"
CALIBRATED = "calibrated"  # in a fingerprint: found before training, taken over, not compared
KEPT = 2  # states; the older one is for a damaged newest one


def save_state(
    folder: Path, step: int, model: nn.Module, optimizer: Optimizer, fingerprint: Json | None
) -> None:
    """Save what a resume needs: weights and moments. Draws depend on the step alone."""
    states = Path(folder) / "state"
    name = f"step-{step:08d}.safetensors"
    moments = optimizer.state_dict()["state"]
    tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
    for number, state in moments.items():
        tensors |= {f"optimizer/{number}/{key}": torch.as_tensor(v) for key, v in state.items()}
    description = {"kind": "state", "step": step, "fingerprint": fingerprint}
    save_tensors(states / name, tensors, description)
    write_json(states / LAST, {"file": name, "step": step})
    for old in sorted(states.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink(missing_ok=True)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    fingerprint: Json | None,
    warn: Callable[[str], None] = lambda line: None,
) -> int:
    """Restore the newest whole state; 0 steps where there is none.

    Args:
        folder: Of the run.
        model: Gets the saved weights.
        optimizer: Gets the saved moments.
        fingerprint: What the state must agree with.
        warn: Told of every state that had to be passed over, and why.

    Raises:
        ConfigError: The state is of a run with other settings, which are listed.
        CheckpointError: It is of a run on other data, or all states are damaged.
    """
    states = Path(folder) / "state"
    damaged = []
    for path in _newest_first(states, warn):
        try:
            tensors, description = load_tensors(path, "state")
        except CheckpointError as error:
            damaged.append(error)
            warn(f"warning: {path} cannot be used, trying an older state: {error.what}")
            continue
        _check_fingerprint(description.get("fingerprint") or {}, fingerprint or {}, path)
        try:
            _restore(tensors, model, optimizer)
        except (RuntimeError, ValueError, TypeError) as error:  # whole, but not written by us
            raise CheckpointError(
                "a state that does not fit the run", where=path, found=str(error)[:400],
                hint="remove it to resume from an older one, or start anew with --overwrite",
            ) from None  # fmt: skip
        return int(description["step"])
    if damaged:
        damaged[0].hint = "no saved state is whole; --overwrite starts anew"
        raise damaged[0]
    return 0


def saved_calibration(folder: Path) -> Json:
    """What a run was calibrated to before its first step, by its newest readable state."""
    for path in _newest_first(Path(folder) / "state", lambda line: None):
        try:
            description = read_description(path, "state") or {}
        except CheckpointError:
            continue
        found = (description.get("fingerprint") or {}).get(CALIBRATED)
        return found if isinstance(found, dict) else {}
    return {}


def _restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: Optimizer) -> None:
    """Put saved weights and moments in place."""
    model.load_state_dict(under(tensors, "model/"))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in under(tensors, "optimizer/").items():
        number, _, part = key.partition("/")
        moments.setdefault(int(number), {})[part] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _newest_first(states: Path, warn: Callable[[str], None]) -> list[Path]:
    """The saved states, with the one that `last.json` names even if it is lost."""
    found = {path.name for path in states.glob("step-*.safetensors")}
    if found or (states / LAST).exists():
        try:
            newest = read_json(states / LAST)["file"]
            if not re.fullmatch(r"step-\d{8,}\.safetensors", newest):
                raise ValueError(newest)
            found.add(newest)
        except (DataError, TypeError, KeyError, ValueError):
            warn(
                f"warning: {states / LAST} is damaged or missing, looking at the states themselves"
            )
    return [states / name for name in sorted(found, key=lambda name: (len(name), name))[::-1]]


def mend_log(path: Path, step: int, warn: Callable[[str], None]) -> None:
    """Drop log lines beyond a step, so that a resumed run logs each step once, and damaged ones."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    kept, damaged = [], 0
    for line in filter(None, lines):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += line is not lines[-1]  # a killed writer leaves an unfinished last line
    if damaged:
        warn(f"warning: {damaged} damaged lines of {path} are dropped")
    if step and not kept:
        warn(f"warning: {path} has lost its beginning: it goes on after step {step}")
    write_bytes(path, b"".join(kept))


def _check_fingerprint(saved: Json, now: Json, where: Path) -> None:
    keys = {**saved, **now}
    differing = [key for key in keys if key != CALIBRATED and saved.get(key) != now.get(key)]
    if not differing:
        return
    if "data" in differing or any(key.endswith((" weights", "_weights")) for key in differing):
        raise CheckpointError(
            "the saved state is of a run on other data or with other weights to start from",
            where=where,
            found=", ".join(differing),
            hint="give the same data, or start anew with --overwrite",
        )
    raise ConfigError(
        "the saved state is of a run with other settings",
        where=", ".join(f"--{key.replace('_', '-')}" for key in differing),
        found=", ".join(f"{key} {now.get(key)}" for key in differing),
        expected=", ".join(f"{key} {saved.get(key)}" for key in differing),
        hint=f"-c {where.parent.parent / 'config.yaml'} --resume takes its settings; "
        "--overwrite starts anew",
    )
