"""What pretraining is worth: segmentation, depth and flow on `street`, from several encoders.

    python examples/street_tasks.py runs/pretrain/encoder.safetensors --seeds 0 1 2

The same decoder, data, order and length on every encoder; only the encoder's start differs. Prints
each result, the mean difference over the seeds with its standard deviation, and the predictions
that see no event: the best constant, and what the training labels say of each place. Some minutes
a run on one core.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from scaleevent.commands.task_run import run_task
from scaleevent.config.downstream import finetune_config
from scaleevent.system.files import read_json

HEADLINES = {"street-semantic": "miou", "street-depth": "rmse", "street-flow": "epe"}


def result(benchmark: str, encoder: str, seed: int, out: Path) -> dict[str, Any]:
    """Rows of a run, finished now or before."""
    name = Path(encoder).parent.name if Path(encoder).exists() else encoder
    folder = out / f"{benchmark}-{name}-{seed}"
    if not (folder / "report.json").exists():
        flags = {"benchmark": benchmark, "checkpoint": encoder, "seed": seed, "out": folder}
        run_task(finetune_config(flags | {"overwrite": folder.exists()}), "finetune")
    rows = read_json(folder / "report.json")["rows"]
    constant = next(row for row in rows if not row[""].startswith("ours"))
    place = next((row for row in rows if row[""] == "place only"), {})  # not in older reports
    found = {"ours": rows[0], "constant": constant, "place only": place}
    return {name: row.get(HEADLINES[benchmark], float("nan")) for name, row in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("encoder", help="from `scaleevent pretrain`")
    parser.add_argument("--against", default="random", help="encoder to compare with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(HEADLINES), choices=list(HEADLINES))
    parser.add_argument("--out", type=Path, default=Path("runs/street_tasks"))
    options = parser.parse_args()
    for benchmark in options.tasks:
        print(f"\n{benchmark}, {HEADLINES[benchmark]}")
        differences = []
        for seed in options.seeds:
            own = result(benchmark, options.encoder, seed, options.out)
            other = result(benchmark, options.against, seed, options.out)
            differences.append(own["ours"] - other["ours"])
            print(
                f"  seed {seed}: {own['ours']:.3f}, {options.against} {other['ours']:.3f}, "
                f"constant {own['constant']:.3f}, place only {own['place only']:.3f}"
            )
        spread = np.std(differences, ddof=1) if len(differences) > 1 else float("nan")
        print(
            f"  difference {np.mean(differences):+.3f}, SD {spread:.3f} over {len(differences)} "
            "seeds of start and draws; scenes, split and the encoder's pretraining are the same"
        )


if __name__ == "__main__":
    main()
