"""Kills commands at random moments, resumes them and compares every byte with an undisturbed run.

    python examples/random_kills.py [--kills 30] [--seed 0] [COMMAND ...]

A run is killed with SIGKILL at a random moment: its process group, or one process of it, known by a
variable in the environment. It is resumed and killed again until it has had so many kills or has
come to its end. The table says how many kills met a run while it was going on, how many of these
the command answered with a message, and within what time; whether every byte of the output equals
the undisturbed run's (but for wall-clock times in the log); which temporary files are left.
Processes that outlive their run by two seconds, a second message and other exit codes are listed as
problems.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

MARK = "SCALEEVENT_KILLED_RUN"  # variable that every process of a run inherits
TIMES = {"samples_per_s", "data_wait_percent"}  # wall-clock values in a log
ORPHAN_SECONDS = 2
PRETRAIN = (
    "pretrain {data}/pairs --arch tiny --size 32x48 --epochs 2 --draws 24 --batch 4 --lr 5e-4 "
    "--log-every 3 --save-every 2 --validation 0.3 --no-probe --workers 1"
)
COMMANDS = {
    "prepare-street": "prepare street --scenes 120 --size 24x32 --jobs 2",
    "prepare-custom": "prepare custom {data}/rig/a {data}/rig/b {data}/rig/c --jobs 2",
    "voxelize": "voxelize {data}/raw --rate 500 --jobs 2",
    "pretrain": PRETRAIN,
    "finetune": "finetune street-depth random --decoder linear --data {data}/pairs --size 32x48 "
    "--epochs 3 --batch 4 --log-every 1 --save-every 2 --pictures 1 --workers 1",
    "pretrain-gpus-2": f"{PRETRAIN} --gpus 2 --device cpu",
}
LIMITS = {"pretrain-gpus-2": 30}  # seconds in which a run must end after a kill, where not 5


@dataclass
class Outcome:
    """What became of the kills of one command."""

    command: str
    seconds: float = 0.0  # of the undisturbed run
    kills: int = 0  # those that met the run while it was going on
    answered: list[float] = field(default_factory=list)  # seconds to a message with exit code 5
    problems: list[str] = field(default_factory=list)  # whatever should not have been
    equal: bool = False  # all bytes
    left: list[str] = field(default_factory=list)  # temporary files


def write_inputs(folder: Path) -> None:
    """Recordings with and without frames, and a small street store."""
    rng = np.random.default_rng(0)
    for kind, name in [*(("rig", n) for n in "abc"), *(("raw", n) for n in "abcd")]:
        count = 40_000
        columns = {
            "t": np.sort(rng.integers(0, 400_000, count)),
            "x": rng.integers(0, 64, count),
            "y": rng.integers(0, 48, count),
            "p": rng.integers(0, 2, count),
        }
        place = folder / kind / name if kind == "rig" else folder / kind
        place.mkdir(parents=True, exist_ok=True)
        np.savez(place / f"events-{name}.npz", **columns)
        if kind == "rig":
            (place / "images").mkdir()
            stamps = range(20_000, 400_000, 10_000)
            for number in range(len(stamps)):
                picture = rng.integers(0, 256, (48, 64, 3), np.uint8)
                Image.fromarray(picture).save(place / f"images/{number:04d}.png")
            (place / "timestamps.txt").write_text("".join(f"{stamp}\n" for stamp in stamps))
    run(f"prepare street --scenes 12 --size 32x48 -o {folder}/pairs", "inputs").wait()


def run(line: str, mark: str) -> subprocess.Popen[str]:
    """Start a command line in a process group of its own."""
    environment = os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "scaleevent", *line.split()], env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def alive(mark: str) -> dict[int, str]:
    """The living processes of a run: their ids and command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(folder.name)] = line.strip()[-160:]
        except (OSError, IndexError):
            continue  # it has just ended
    return found


def kill_once(line: str, after: float, chance: random.Random, limit: float, out: Outcome) -> bool:
    """Start a command and kill it, or a part of it, after so many seconds; whether it then ended.

    Notes what happened in `out`.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    process = run(line, mark)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        pass
    processes = alive(mark)
    if process.poll() is not None or process.pid not in processes:
        error = process.communicate()[1]
        if process.returncode:
            out.problems.append(f"exit code {process.returncode} without a kill: {error[-500:]}")
        return process.returncode == 0
    out.kills += 1
    whole = chance.random() < 0.3
    victim = process.pid if whole else chance.choice(sorted(processes))
    named = "the group" if whole else f"process `{processes[victim]}`"
    began = time.monotonic()
    try:
        (os.killpg if whole else os.kill)(victim, signal.SIGKILL)
    except ProcessLookupError:
        named = "nobody in time"
    ended = False
    try:
        process.wait(600)
    except subprocess.TimeoutExpired:
        out.problems.append(f"hangs after {named}")
        process.kill()
    seconds = time.monotonic() - began
    while alive(mark) and time.monotonic() < began + seconds + ORPHAN_SECONDS:
        time.sleep(0.05)
    if orphans := alive(mark):
        out.problems.append(f"left after {named}: {orphans}")
        for number in orphans:
            os.kill(number, signal.SIGKILL)
    error = process.communicate()[1]
    if process.returncode == 5:
        out.answered.append(seconds)
        messages = re.findall(r"^error\[", error, re.M)
        if seconds > limit or len(messages) != 1 or "Traceback" in error:
            out.problems.append(f"{seconds:.1f} s after {named}: {error[-1500:]}")
    elif process.returncode == 0:  # it did not need that process any more
        ended = True
    elif process.returncode != -signal.SIGKILL or victim != process.pid:
        out.problems.append(f"exit code {process.returncode} after {named}: {error[-1500:]}")
    return ended


def content(folder: Path) -> dict[str, object]:
    """All files of an output, logs without their times."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
        elif path.suffix == ".csv":
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
            found[name] = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def try_command(name: str, kills: int, seed: int, folder: Path) -> Outcome:
    """Kill a command so many times, in as many runs as that takes."""
    out, target = Outcome(name), folder / "out" / name
    line = f"{COMMANDS[name].format(data=folder / 'data')} -o {target}"
    began = time.monotonic()
    straight = run(line, "straight")
    error = straight.communicate()[1]
    out.seconds = time.monotonic() - began
    if straight.returncode:
        raise SystemExit(f"{line}\n{error}")
    expected = content(target)
    chance, out.equal = random.Random(f"{seed} {name}"), True
    while out.kills < kills:
        shutil.rmtree(target)
        done, tries = False, 0
        while out.kills < kills and not done and tries < 10:
            after = chance.uniform(0, out.seconds)
            resume = " --resume" if tries else ""
            done = kill_once(line + resume, after, chance, LIMITS.get(name, 5), out)
            tries += 1
        if not done:
            last = run(f"{line} --resume", "last")
            error = last.communicate()[1]
            if last.returncode:
                out.problems.append(f"--resume: exit code {last.returncode}: {error[-1500:]}")
        found = content(target) if target.exists() else {}
        differing = [n for n in {*expected, *found} if expected.get(n) != found.get(n)]
        out.left += [n for n in found if n.endswith(".tmp")]
        if differing:
            out.equal = False
            out.problems.append(f"differs: {sorted(differing)}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder / "data")
        print("command | run, s | kills | answered | slowest answer, s | equal | files left")
        for command in given.commands:
            out = try_command(command, given.kills, given.seed, folder)
            slowest = f"{max(out.answered):.1f}" if out.answered else "-"
            print(
                f"{command} | {out.seconds:.1f} | {out.kills} | {len(out.answered)} | {slowest} | "
                f"{'all bytes' if out.equal else 'NO'} | {', '.join(out.left) or 'none'}",
                flush=True,
            )
            for problem in out.problems:
                print(f"  PROBLEM {problem}", flush=True)


if __name__ == "__main__":
    main()
