"""What a run saves to be resumed: weights, moments, a fingerprint of all that must agree."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.system.files import Json, read_json, read_json_lines, write_bytes, write_json
from scaleevent.training.tensors import load_tensors, save_tensors, under

LAST = "last.json"
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
    folder: Path, model: nn.Module, optimizer: Optimizer, fingerprint: Json | None
) -> int:
    """Restore the newest whole state; 0 steps where there is none.

    Raises:
        ConfigError: The state is of a run with other settings, which are listed.
        CheckpointError: It is of a run on other data, or all states are damaged.
    """
    states = Path(folder) / "state"
    if not (states / LAST).exists():
        return 0
    newest = read_json(states / LAST)["file"]
    older = sorted((p.name for p in states.glob("step-*.safetensors")), reverse=True)
    problem: CheckpointError | None = None
    for name in [newest, *(name for name in older if name != newest)]:
        try:
            tensors, description = load_tensors(states / name, "state")
        except CheckpointError as error:
            problem = problem or error
            continue
        _check_fingerprint(description.get("fingerprint") or {}, fingerprint or {}, states / name)
        model.load_state_dict(under(tensors, "model/"))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in under(tensors, "optimizer/").items():
            number, _, part = key.partition("/")
            moments.setdefault(int(number), {})[part] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        _cut_log(Path(folder) / "log.jsonl", description["step"])
        return int(description["step"])
    raise problem or CheckpointError("no saved state is left", where=states)


def _check_fingerprint(saved: Json, now: Json, where: Path) -> None:
    differing = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    if not differing:
        return
    if "data" in differing or any(key.endswith("weights") for key in differing):
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
        hint="resume with the settings in config.yaml, or start anew with --overwrite",
    )


def _cut_log(path: Path, step: int) -> None:
    """Drop log lines beyond a step, so that a resumed run logs each step once."""
    kept = [line for line in read_json_lines(path) if line["step"] <= step]
    write_bytes(path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())
