"""Distil on one real recording: train on its first part, watch the loss on its last part.

    python examples/real_recording.py RECORDING [SEED ...]

RECORDING is anything `scaleevent prepare custom` takes, such as an AEDAT4 file with frames. The
last 30 % of its pairs are held out; the embedded teacher and the tiny encoder are used.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from scaleevent.commands import prepare, pretrain
from scaleevent.config.data import PrepareConfig
from scaleevent.config.pretrain import pretrain_config


def main() -> None:
    recording = Path(sys.argv[1])
    seeds = [int(seed) for seed in sys.argv[2:]] or [0, 1, 2]
    changes = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "pairs"
        counts = prepare.run(
            PrepareConfig(name="custom", roots=[recording], out=store), quiet=True
        ).facts["counts"]
        pairs = counts["pairs"]
        print(f"{counts['images']} images, {pairs} pairs, {counts['events in windows']:,} events")
        for seed in seeds:
            flags = {
                "data": [store], "out": Path(folder) / f"seed-{seed}", "seed": seed,
                "arch": "tiny", "size": (96, 128), "validation": 0.3, "sampling": "uniform",
                "batch": 3, "draws": max(3, round(0.7 * pairs) // 3 * 3), "epochs": 20,
                "lr": 2e-4, "clip": 1.0, "schedule": "cosine",
            }  # fmt: skip
            report = pretrain.run(pretrain_config(flags), quiet=True)
            before, after = next(row[1:] for row in report.rows if row[0] == "held-out loss")
            changes.append(after / before)
            print(f"seed {seed}: held-out loss {before:.4f} -> {after:.4f}")
    print(f"median ratio after / before: {statistics.median(changes):.3f}")


if __name__ == "__main__":
    main()
