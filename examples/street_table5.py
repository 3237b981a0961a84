"""Table 5 of the paper, rehearsed on the embedded street: which part of the method does what.

    python examples/street_table5.py [--rows examples/street_table5.jsonl] [--seconds 9000]
    python examples/street_table5.py --summary

Runs what is missing among worlds x seeds x arms, one row of JSON each, until all are there or the
time is over; started again it goes on. Then, or with --summary, it prints the tables.

This was written before any row was run.

Arms, all from the same teacher, pairs, draws and start within a world and seed:
    a  the teacher's weights on events, no pretraining
    b  L1 on all tokens                      c  L1 on active tokens (the mask)
    d  c + IS                                e  c + CS
    f  c + IS + CS, the paper's method       u  f without the mask
    p  f in the form `equation`, as printed  q  p without the mask
The world is the varied street, the teacher embedded-v2, which learned from it; 400 steps of 16,
rate 5e-4, normaliser `contrast`, bf16. Everything else is the demo's: architecture, size. A seed
varies the draws of pretraining and fine-tuning; what is held out is the same in a world. Changed
after 29 rows: on a processor without bf16, where it is many times slower, rows are of float32 and
say so (street_choices.py measured a difference of 0.01 mIoU).

Hypotheses, with the paper's sign (its Table 5 fine-tunes; a frozen probe may differ):
    H1 b - a > 0  distillation helps         H2 c - b > 0  the mask helps
    H3 d - c > 0  IS helps                   H4 e - c > 0  CS helps
    H5 f - max(d, e) > 0  both together help more than either
Two that are ours:
    H6 u - f > 0  on few events the structure terms are better without the mask
    H7 p - f differs from 0  the printed form is another method than the released one

Endpoints: mIoU of the balanced probe first; ridge mIoU, depth RMSE of the probe, mIoU and RMSE
fine-tuned on a twentieth of the labels, and the residual cosine beside it. All are scored on scenes
that neither pretraining nor the probes' fits have seen.

Stop rule: worlds 0, 1, 2 with seeds 0 and 1 each, all arms, and no more. Six pairs a contrast: the
smallest two-sided p of a sign flip is 2 / 2^6 = 0.03, which no correction for seven contrasts
survives. The tables describe; they do not test. No row is left out, whatever its sign.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from scaleevent.commands import prepare, pretrain
from scaleevent.commands.task_run import run_task
from scaleevent.config.data import PrepareConfig
from scaleevent.config.downstream import finetune_config
from scaleevent.config.pretrain import pretrain_config
from scaleevent.config.settings import load_config
from scaleevent.system.files import append_json_line, read_json, read_json_lines
from scaleevent.system.platform import has_bfloat16

WORLDS, SEEDS = (0, 1, 2), (0, 1)
TEACHER = "embedded-v2"
SCENES, HELD_OUT = 1650, 0.4  # half of what is held out fits the probes, half is scored
COMMON = {
    "mask": "hard", "normaliser": "contrast", "epochs": 8, "draws": 800, "batch": 16, "lr": 5e-4,
    "precision": "bf16" if has_bfloat16() else "fp32",
}  # fmt: skip
L1: dict[str, Any] = {"lambda_is": 0.0, "lambda_cs": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "a": {"lr": 1e-12, "epochs": 1, "draws": 16},
    "b": L1 | {"mask": "none"},
    "c": L1,
    "d": {"lambda_cs": 0.0},
    "e": {"lambda_is": 0.0},
    "f": {},
    "u": {"mask": "none"},
    "p": {"structure": "equation"},
    "q": {"structure": "equation", "mask": "none"},
}
CONTRASTS = ("b-a", "c-b", "d-c", "e-c", "f-max(d,e)", "u-f", "p-f", "q-p", "f-b", "u-b", "q-b")
TASKS = {"street-semantic": "miou", "street-depth": "rmse"}
PROBES = {"balanced mIoU": "mIoU, balanced", "ridge mIoU": "mIoU, ridge", "RMSE": "depth RMSE, m"}
METERS = {
    "residual": "residual cosine, all tokens",
    "residual active": "residual cosine, active tokens",
}
TUNED = {"tuned mIoU": "street-semantic", "tuned RMSE": "street-depth"}
FINETUNING: dict[str, Any] = {
    "decoder": "linear", "epochs": 1, "fraction": 0.05, "subset": "random", "pictures": 0
}  # fmt: skip
PLACE = "place only"
CONTROLS = ("constant", PLACE, "scene + place", "teacher on images")


def store_of(world: int, work: Path, scenes: int) -> Path:
    """The pairs of a world, made once."""
    folder = work / f"world-{world}"
    if not (folder / "manifest.json").exists():
        family = 2 * world  # odd ones are the benchmarks'
        flags = {"name": "street", "seed": family, "scenes": scenes, "layout": "varied"}
        again = {"out": folder, "overwrite": folder.exists()}
        prepare.run(load_config(PrepareConfig, flags | again), quiet=True)
    return folder


def run_arm(world: int, seed: int, arm: str, work: Path, smoke: bool) -> dict[str, Any]:
    """Pretrain, probe and fine-tune one arm: its row."""
    began = time.perf_counter()
    store = store_of(world, work, 60 if smoke else SCENES)
    out = work / f"{world}-{seed}-{arm}"
    shutil.rmtree(out, ignore_errors=True)
    common: dict[str, Any] = {"data": [store], "seed": seed}
    split = {"split_seed": 0}  # the last scenes, on which fine-tuning is scored
    teacher = {"teacher": TEACHER, "arch": "tiny"}
    length = {"epochs": 1, "draws": 64} if smoke else {}
    flags = {"preset": "demo", "validation": HELD_OUT, "out": out / "pretrain"} | common | COMMON
    report = pretrain.run(pretrain_config(flags | teacher | split | ARMS[arm] | length), quiet=True)
    after = {str(row[0]): row[2] for row in report.rows}
    encoder = str(out / "pretrain/encoder.safetensors")
    tuned = {}
    for benchmark, metric in TASKS.items():
        flags = {"benchmark": benchmark, "checkpoint": encoder, "out": out / benchmark}
        run_task(finetune_config(flags | common | FINETUNING), "finetune", quiet=True)
        rows = {row[""]: row[metric] for row in read_json(out / benchmark / "report.json")["rows"]}
        tuned[benchmark] = {"ours": next(iter(rows.values())), PLACE: rows[PLACE]}
    facts = read_json(out / "pretrain/report.json")
    shutil.rmtree(out)
    return {
        "world": world, "seed": seed, "arm": arm, "smoke": smoke, "precision": COMMON["precision"],
        "probes": facts["probes"]["rows"],
        "meters": {name: after[title] for name, title in METERS.items()},
        "tuned": tuned,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def first(row: dict[str, Any], tokens: str) -> dict[str, float]:
    """The first metric of every probe of some tokens."""
    probes = row["probes"][tokens]
    return {name: next(iter(probes[probe].values()))["value"] for name, probe in PROBES.items()}


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The endpoints of a row."""
    tuned = {name: row["tuned"][benchmark]["ours"] for name, benchmark in TUNED.items()}
    return {**first(row, "student after"), **tuned, **row["meters"]}


def arms_of(contrast: str) -> tuple[str, list[str]]:
    """The arm, and what it is compared with: `f`, [`d`, `e`] of `f-max(d,e)`."""
    plus, _, minus = contrast.partition("-")
    return plus, minus.removeprefix("max(").removesuffix(")").split(",")


def middle(values: list[float]) -> str:
    """Mean and deviation."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return f"{np.mean(values):.3f} ({deviation:.3f})"


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The tables as lines."""
    runs: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    for row in rows:
        runs.setdefault((row["world"], row["seed"]), {})[row["arm"]] = numbers(row)
    endpoints = list(numbers(rows[0]))
    yield f"{len(rows)} rows; mean (SD) over pairs of world and seed"
    yield f"{'':18}" + "".join(f"{name:>18}" for name in endpoints)
    for arm in ARMS:
        own = [by_arm[arm] for by_arm in runs.values() if arm in by_arm]
        cells = [middle([one[name] for one in own]) for name in endpoints if own]
        yield f"{arm:2} n = {len(own):<11} " + "".join(f"{cell:>18}" for cell in cells)
    for control in CONTROLS:
        cells = [middle([first(row, control)[probe] for row in rows]) for probe in PROBES]
        yield f"{control:18}" + "".join(f"{cell:>18}" for cell in cells)
    for name in endpoints:
        yield f"\n{name}, paired differences"
        best = min if "RMSE" in name else max
        for one in CONTRASTS:
            plus, minus = arms_of(one)
            values = [
                by_arm[plus][name] - best(by_arm[arm][name] for arm in minus)
                for by_arm in runs.values()
                if {plus, *minus} <= by_arm.keys()
            ]
            above = sum(value > 0 for value in values)
            if values:
                yield f"  {one:12} {middle(values):>16}, above 0 in {above} of {len(values)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/street_table5"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after")
    parser.add_argument("--part", default="0/1", help="every n-th pair of world and seed: k/n")
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    parser.add_argument("--smoke", action="store_true", help="tiny runs, to see that it works")
    options = parser.parse_args()
    began, (part, parts) = time.monotonic(), map(int, options.part.split("/"))
    have = read_json_lines(options.rows) if options.rows.exists() else []
    done = {(row["world"], row["seed"], row["arm"]) for row in have}
    pairs = [(world, seed) for world in WORLDS for seed in SEEDS][part::parts]
    wanted = [(world, seed, arm) for world, seed in pairs for arm in ARMS]
    for world, seed, arm in [] if options.summary else wanted:
        if (world, seed, arm) in done:
            continue
        if time.monotonic() - began > options.seconds:
            break
        row = run_arm(world, seed, arm, options.work, options.smoke)
        append_json_line(options.rows, row)
        print(f"world {world} seed {seed} arm {arm}:", numbers(row), flush=True)
    rows = read_json_lines(options.rows) if options.rows.exists() else []
    if rows:
        print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
