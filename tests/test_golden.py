"""The first losses of two seeded runs, as recorded before the code was last moved about.

Moving code must not change a number: the runs are on one thread of a CPU, where a loss repeats to
the bit on the same machine. Other processors and versions of torch differ in the last digits.
Record again, only where a change is meant: ``python tests/test_golden.py``.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECORDED = Path(__file__).parent / "data/losses.json"
COMMANDS = (
    "prepare street --layout fixed --scenes 48 --seed 3 -o pairs",
    "pretrain pairs --preset demo --teacher embedded-v1 --normaliser minmax --precision fp32"
    " --mask hard --epochs 1 --draws 320 --batch 16 --lr 5e-4 --log-every 1 --device cpu"
    " -o pretrain",
    "finetune street-depth pretrain/encoder.safetensors --data pairs --decoder linear --epochs 5"
    " --transductive --log-every 1 --device cpu -o finetune",
)
STEPS = 20


def run_commands(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Loss terms of the first steps of both runs, by command."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    for line in COMMANDS:
        command = [sys.executable, "-m", "scaleevent", *line.split()]
        done = subprocess.run(
            command, cwd=folder, env=os.environ | threads, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return {name: _terms(folder / name / "log.jsonl") for name in ("pretrain", "finetune")}


def _terms(log: Path) -> list[dict[str, float]]:
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [step for step in steps if "loss" in step][:STEPS]
    changing = {"step", "samples_per_s", "data_wait_percent"}
    return [{key: step[key] for key in step.keys() - changing} for step in steps]


def test_losses_are_those_recorded(tmp_path):
    recorded = json.loads(RECORDED.read_text())
    for command, steps in run_commands(tmp_path).items():
        assert len(steps) == len(recorded[command]) == STEPS
        for number, (step, expected) in enumerate(zip(steps, recorded[command], strict=True)):
            assert step == pytest.approx(expected, rel=1e-4), f"{command}, step {number + 1}"


if __name__ == "__main__":
    import torch

    with tempfile.TemporaryDirectory() as work:
        found = {"torch": torch.__version__, **run_commands(Path(work))}
    RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
