"""How idle threads of a training step wait: python examples/bench_threads.py.

A step of the demo's encoder with its loss, on all cores: median wall time, on a quiet machine and
beside one program that computes, by how long an idle OpenMP thread spins before it sleeps
(GOMP_SPINCOUNT, of GNU's OpenMP). `system` is what that library does by itself; the program sets
1,000 unless the environment says otherwise.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

SPINS = ("system", "1000", "10000", "100000")
ROUNDS, STEPS = 3, 10


def one() -> None:
    """Print the median of some steps, ms."""
    import torch

    from scaleevent.encoders.encoder import build_encoder
    from scaleevent.objectives.structure_loss import LAMBDAS, distillation_terms

    torch.manual_seed(0)
    student = build_encoder("tiny", "random")
    teacher, voxels = 0.2 * torch.randn(16, 192, 96), torch.randn(16, 3, 96, 128)
    active = torch.ones(16, 192, dtype=torch.bool)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-4)
    times = []
    for _ in range(STEPS + 2):
        began = time.perf_counter()
        terms = distillation_terms(0.2 * student.tokens(voxels), teacher, active, "released")
        loss = torch.stack([LAMBDAS[name] * term for name, term in terms.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    print(1000 * statistics.median(times[2:]))


def main() -> None:
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for busy in (False, True):
            program = [sys.executable, "-c", "while True: pass"]
            other = subprocess.Popen(program) if busy else None
            for spin in SPINS:
                environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
                environment |= {} if spin == "system" else {"GOMP_SPINCOUNT": spin}
                line = [sys.executable, __file__, "one"]
                told = subprocess.run(line, env=environment, capture_output=True, check=True)
                found.setdefault((spin, busy), []).append(float(told.stdout))
            if other is not None:
                other.kill()
    print(f"{os.cpu_count()} cores; ms a step, median of {ROUNDS} runs")
    print(f"{'spin':>8}{'quiet':>8}{'beside one program':>20}")
    for spin in SPINS:
        quiet, beside = (statistics.median(found[spin, state]) for state in (False, True))
        print(f"{spin:>8}{quiet:8.0f}{beside:20.0f}")


if __name__ == "__main__":
    one() if sys.argv[1:] == ["one"] else main()
