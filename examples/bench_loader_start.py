"""How long the first batch takes to come, from a fresh interpreter on, by number of workers.

python examples/bench_loader_start.py
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOAD = """
import sys, time
from pathlib import Path
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.loading import load_batches
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.store import PairStore

if __name__ == "__main__":
    samples = PairSamples([PairStore(Path(sys.argv[1]))], InputSettings(112, 160, patch=16))
    batches = [list(range(i, i + 4)) for i in range(0, len(samples), 4)]
    next(load_batches(samples, batches, int(sys.argv[2])))
    print(time.time())
"""


def main() -> None:
    """Print a line per number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, script = Path(folder) / "pairs", Path(folder) / "load.py"
        script.write_text(LOAD)
        command = [sys.executable, "-m", "scaleevent", "prepare", "street", "-o", str(store)]
        subprocess.run([*command, "--scenes", "64", "--size", "112x160"], check=True, stdout=2)
        load_once(script, store, 0)  # compiles the kernels
        for workers in args.workers:
            seconds = [load_once(script, store, workers) for _ in range(args.repeats)]
            print(f"{workers} workers: first batch after {statistics.median(seconds):.2f} s")


def load_once(script: Path, store: Path, workers: int) -> float:
    """Seconds from the start of an interpreter to its first batch."""
    began = time.time()
    command = [sys.executable, str(script), str(store), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout) - began


if __name__ == "__main__":
    main()
