"""Does distillation help? The first run with several seeds, beside what knows no events.

    python examples/street_gain.py [SEED ...] [--layout fixed] [--threads 1]

Prints the probes of every run, then mean and standard deviation over the seeds, the differences
that count, and the classes. A seed varies the world, what is held out, and the draws; the start is
the teacher. `--layout fixed` does it on the world of before, with the teacher that learned there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from scaleevent.commands import prepare, pretrain
from scaleevent.config.data import PrepareConfig
from scaleevent.config.pretrain import pretrain_config
from scaleevent.config.settings import load_config
from scaleevent.system.files import read_json

PROBES = {"mIoU, ridge": "miou", "mIoU, balanced": "miou", "depth RMSE, m": "rmse"}
BEFORE, AFTER, RANDOM = "student before", "student after", "random weights"
CONTROLS = ("place only", BEFORE, RANDOM, "scene + place")
SCENES = 2000  # of the embedded street
TEACHERS = {"varied": "embedded-v2", "fixed": "embedded-v1"}


def run(seed: int, layout: str, folder: Path) -> dict[str, Any]:
    """One first run: what its report holds."""
    flags: dict[str, Any] = {"preset": "demo", "seed": seed, "out": folder / f"seed-{seed}"}
    if layout != "varied":
        store = folder / f"street-{seed}"
        made = {"name": "street", "seed": 2 * seed, "scenes": SCENES, "layout": layout}
        prepare.run(load_config(PrepareConfig, made | {"out": store}), quiet=True)
        flags |= {"data": [store], "teacher": TEACHERS[layout]}
    pretrain.run(pretrain_config(flags), quiet=True)
    found: dict[str, Any] = read_json(flags["out"] / "report.json")
    return found


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several."""
    deviation = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def table(title: str, columns: list[str], rows: dict[str, list[str]]) -> None:
    """Print a table of Markdown."""
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--layout", choices=list(TEACHERS), default="varied")
    parser.add_argument("--threads", type=int, help="of torch; default: as many as it takes")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        reports = []
        for seed in options.seeds:
            reports.append(run(seed, options.layout, Path(folder)))
            print(
                f"seed {seed}:", *(f"{row}" for row in reports[-1]["rows"]), sep="\n  ", flush=True
            )
    print_tables([report["probes"]["rows"] for report in reports])


def print_tables(seeds: list[dict[str, Any]]) -> None:
    """Over the seeds: every row under every probe, what the student gained, and the classes."""
    rows = list(seeds[0])
    table(
        f"mean (SD) over {len(seeds)} seeds of world, split and draws", list(PROBES),
        {
            row: [spread([one[row][p][m]["value"] for one in seeds]) for p, m in PROBES.items()]
            for row in rows
        },
    )  # fmt: skip
    gains = {}
    for less in CONTROLS:
        gains[f"{AFTER} - {less}"] = [
            ", ".join(f"{of[AFTER][p][m]['value'] - of[less][p][m]['value']:+.2f}" for of in seeds)
            for p, m in PROBES.items()
        ]
    table("difference on each seed", list(PROBES), gains)
    classes = [{row: one[row]["mIoU, balanced"]["iou"] for row in rows} for one in seeds]
    names = list(classes[0][AFTER])
    table(
        "IoU of each class, balanced probe", names,
        {row: [spread([one[row][n] or 0.0 for one in classes]) for n in names] for row in rows},
    )  # fmt: skip


if __name__ == "__main__":
    main()
