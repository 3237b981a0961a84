"""Which input, window and precision suit the demo: one choice varied at a time, on three worlds.

    python examples/street_choices.py [--rows examples/street_choices.jsonl] [--seconds 3600]
    python examples/street_choices.py --summary

The base is the plainest objective, L1 on all tokens, which no mask and no balance of terms blurs,
for 300 steps, with `contrast` and the last 50 ms of events. A seed is a world, its split and its
draws. Every window is cut from the same 200 ms before the same images. What limits the demo is
asked too: three times the steps, half the training scenes.

Started again it goes on; --part k/n takes every n-th world.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from street_table5 import METERS, TEACHER, first, middle

from scaleevent.commands import prepare, pretrain
from scaleevent.config.data import PrepareConfig
from scaleevent.config.pretrain import pretrain_config
from scaleevent.config.settings import load_config
from scaleevent.grids.windows import Window, WindowRule, choose_window
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.preparing import write_store
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import append_json_line, read_json, read_json_lines

SEEDS = (0, 1, 2)
SCENES, HELD_OUT = 1250, 0.32  # 400 of them, half of which fit the probes
LONGEST_MS = 200
LAST_50_MS = WindowRule(kind="time", duration_us=50_000)
WINDOWS = {
    "50 ms": LAST_50_MS,
    "quantile 0.1": WindowRule(quantile=0.1),
    "quantile 0.25": WindowRule(quantile=0.25),
    "quantile 0.5": WindowRule(quantile=0.5),
    "count 0.33": WindowRule(kind="count"),
}
BASE: dict[str, Any] = {
    "mask": "none", "lambda_is": 0.0, "lambda_cs": 0.0, "normaliser": "contrast",
    "precision": "bf16", "epochs": 6, "draws": 800, "batch": 16, "lr": 5e-4,
}  # fmt: skip
STRUCTURE = {"lambda_is": 10.0, "lambda_cs": 4.0}
CHOICES: dict[str, dict[str, Any]] = {
    "base": {},
    **{name: {"normaliser": name} for name in ("minmax", "std_pop")},
    **{name: {"window": name} for name in WINDOWS if name != "50 ms"},
    "fp32": {"precision": "fp32"},
    "IS and CS": STRUCTURE,
    "IS and CS, balance 0.25": STRUCTURE | {"balance": 0.25},
    "half the scenes": {"scenes": SCENES // 2},
    "steps x 3": {"draws": 2400},
}
BEFORE, AFTER, RANDOM = "student before", "student after", "random weights"


@dataclass(frozen=True)
class Cut:
    """A task of `write_store`: the pairs of a store, each with its events from a later start."""

    store: Path
    rule: WindowRule
    scenes: int
    inputs: tuple[Path, ...] = ()
    found: str = "another store"
    name: str = "cut"

    @property
    def expected(self) -> int:
        """All pairs wanted."""
        return self.scenes

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        """Pairs in order."""
        store = PairStore(self.store)
        for index in range(self.scenes):
            shard, row = store.locate(index)
            events, whole = shard.events(row)
            window = choose_window(events, whole.end_us, self.rule)
            window = replace(window, start_us=max(window.start_us, whole.start_us))
            if window.start_us == window.end_us:  # no event: as a fixed window gives it
                window = Window(whole.end_us - LAST_50_MS.duration_us, whole.end_us)
            kept = events.between(window.start_us, window.end_us)
            counts.update({"images": 1, "pairs": 1, "events kept": len(kept)})
            labels = {task: shard.label(task, row) for task in shard.labelled()}
            yield Pair(
                recording=str(store.recordings[index]),
                image_us=whole.end_us,
                image=shard.image(row),
                events=kept,
                window=window,
                labels={task: label for task, label in labels.items() if label is not None},
                provenance=shard.provenance(row),
            )


def store_of(seed: int, window: str, scenes: int, work: Path) -> Path:
    """The pairs of a world with a window, made once."""
    whole, folder = work / f"world-{seed}", work / f"world-{seed}-{window}-{scenes}"
    if not (whole / "manifest.json").exists():
        flags = {"name": "street", "seed": 2 * seed, "scenes": SCENES, "window_ms": LONGEST_MS}
        again = {"layout": "varied", "out": whole, "overwrite": whole.exists()}
        prepare.run(load_config(PrepareConfig, flags | again), quiet=True)
    if not (folder / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with ThreadPoolExecutor(1) as executor:
            cut = Cut(whole, WINDOWS[window], scenes)
            settings = PairStore(whole).manifest["settings"] | {"cut": window}
            write_store([cut], folder, settings, executor=executor)
    return folder


def run_choice(seed: int, name: str, work: Path, smoke: bool) -> dict[str, Any]:
    """Pretrain and probe once: a row."""
    began = time.perf_counter()
    choice = dict(CHOICES[name])
    scenes = choice.pop("scenes", SCENES)
    held_out = round(HELD_OUT * SCENES)
    store = store_of(seed, choice.pop("window", "50 ms"), scenes, work)
    out = work / f"run-{seed}"
    flags: dict[str, Any] = {"preset": "demo", "teacher": TEACHER, "arch": "tiny", "seed": seed}
    flags |= {"data": [store], "validation": held_out / scenes, "out": out, "overwrite": True}
    flags |= BASE | choice | ({"epochs": 1, "draws": 32} if smoke else {})
    report = pretrain.run(pretrain_config(flags), quiet=True)
    after = {str(row[0]): row[2] for row in report.rows}
    counts = PairStore(store).manifest["counts"]
    return {
        "seed": seed, "choice": name, "smoke": smoke,
        "events a pixel": counts["events kept"] / counts["pairs"] / (96 * 128),
        "probes": read_json(out / "report.json")["probes"]["rows"],
        "meters": {key: after[title] for key, title in METERS.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The endpoints of a row; a gain counts from the better of what has learned nothing here."""
    found = first(row, AFTER)
    start = max(first(row, BEFORE)["balanced mIoU"], first(row, RANDOM)["balanced mIoU"])
    place = first(row, "place only")["balanced mIoU"]
    balanced = found["balanced mIoU"]
    gains = {"above place": balanced - place, "above start": balanced - start}
    return {**found, **gains, **row["meters"], "events a pixel": row["events a pixel"]}


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Means over the seeds, and each choice less the base on the same seed."""
    found = {(row["choice"], row["seed"]): numbers(row) for row in rows}
    endpoints = list(numbers(rows[0]))
    yield f"mean (SD) over worlds, {' '.join(f'{one:>17}' for one in endpoints)}"
    for name in CHOICES:
        own = [found[name, seed] for seed in SEEDS if (name, seed) in found]
        if own:
            cells = [f"{middle([one[key] for one in own]):>17}" for key in endpoints]
            yield f"{name:18} n = {len(own)} {' '.join(cells)}"
    yield "\nless the base, by world"
    for name in CHOICES:
        both = [s for s in SEEDS if {(name, s), ("base", s)} <= found.keys() and name != "base"]
        for key in endpoints[:-1] if both else []:
            differences = [found[name, seed][key] - found["base", seed][key] for seed in both]
            yield f"{name:24}{key:18}" + " ".join(f"{one:+8.3f}" for one in differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/street_choices"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after")
    parser.add_argument("--part", default="0/1", help="every n-th world: k/n")
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    parser.add_argument("--smoke", action="store_true", help="tiny runs, to see that it works")
    options = parser.parse_args()
    began, (part, parts) = time.monotonic(), map(int, options.part.split("/"))
    have = read_json_lines(options.rows) if options.rows.exists() else []
    done = {(row["seed"], row["choice"]) for row in have}
    wanted = [(seed, name) for seed in SEEDS[part::parts] for name in CHOICES]
    for seed, name in [] if options.summary else wanted:
        if (seed, name) in done or time.monotonic() - began > options.seconds:
            continue
        row = run_choice(seed, name, options.work, options.smoke)
        append_json_line(options.rows, row)
        short = {key: round(float(np.float64(value)), 3) for key, value in numbers(row).items()}
        print(f"seed {seed}, {name}:", short, f"{row['seconds']:.0f} s", flush=True)
    rows = read_json_lines(options.rows) if options.rows.exists() else []
    if rows:
        print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
