"""Does distillation help? The demo run with several seeds: held-out cosine and probes.

    python examples/street_gain.py [SEED ...]

Prints every run and the mean, standard deviation and gain over the undistilled image weights. A
seed varies the world, what is held out, and the draws; the start is the teacher.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from scaleevent.commands import pretrain
from scaleevent.config.pretrain import pretrain_config

MEASURES = (
    "cosine to teacher, active tokens",
    "cosine to teacher, all tokens",
    "probe mIoU, ridge",
    "probe mIoU, balanced",
    "probe depth RMSE, m",
)


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            flags = {"preset": "demo", "seed": seed, "out": Path(folder) / f"seed-{seed}"}
            report = pretrain.run(pretrain_config(flags), quiet=True)
            numbers = {row[0]: row[1:] for row in report.rows}
            for name in MEASURES:
                found[name].append(numbers[name])
            print(f"seed {seed}:", *(f"{n} {b:.3f} -> {a:.3f};" for n, (b, a) in numbers.items()))
    print("\n".join(note for note in report.notes if note.startswith("probe")))
    for name, pairs in found.items():
        before, after = zip(*pairs, strict=True)
        deviation = statistics.stdev(after) if len(after) > 1 else float("nan")
        gain = statistics.mean(after) - statistics.mean(before)
        print(
            f"{name}: {statistics.mean(before):.3f} -> {statistics.mean(after):.3f} "
            f"(SD {deviation:.3f} over {len(after)} seeds of world, split and draws together), "
            f"gain {gain:+.3f}"
        )


if __name__ == "__main__":
    main()
