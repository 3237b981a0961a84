"""Time and memory of the structure loss against the plain full-matrix code, on one core.

    python examples/bench_losses.py                # the default table, about three minutes
    python examples/bench_losses.py --structure equation --cases 1200x384x0.4

Each row is one step: mask, normalise, three terms, backward to the student tokens. Both codes and a
plain matrix product (the GEMM peak) run in turn, in rounds; ratios are medians over rounds. Times
are processor time, so other work on the machine disturbs little. Peak memory is what one step adds
to a fresh process (Linux only). Up to 4800 tokens the plain code runs too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scaleevent.objectives.structure_loss import (
    LAMBDAS,
    STRUCTURES,
    TILE_CPU,
    Structure,
    distillation_terms,
)
from scaleevent.training.terms import total

CASES = "1200x384x1,1200x384x0.6,1200x384x0.4,1200x384x0.2,1200x1024x0.4,4800x384x0.4,19200x384x0.4"
LARGEST_FULL = 4800  # tokens; the full maps of 19,200 would take about ten gigabytes

Step = Callable[[Tensor, Tensor, Tensor, Structure], dict[str, Tensor]]


def full_matrix_terms(
    student: Tensor, teacher: Tensor, mask: Tensor, structure: Structure
) -> dict[str, Tensor]:
    """The terms as one would write them down: masked tokens, whole maps, autograd."""
    length, width = student.shape[1:]
    k, q = student * mask[..., None], teacher * mask[..., None]
    l1 = (k - q).abs().mean()
    if structure.similarity == "cosine":
        k, q = F.normalize(k, dim=-1), F.normalize(q, dim=-1)
    intra, cross, target = k @ k.mT, k @ q.mT, q @ q.mT
    if structure.gate is not None:
        above = target > structure.gate
        intra, cross, target = intra.relu() * above, cross.relu() * above, target * above
    distance = {"mse": F.mse_loss, "l1": F.l1_loss}[structure.distance]
    terms = {"l1": l1, "intra": distance(intra, target), "cross": distance(cross, target)}
    if structure.reduction != "mean":
        rows = length if structure.reduction == "sum" else 1
        sizes = {"l1": width * rows, "intra": length * rows, "cross": length * rows}
        terms = {name: term * sizes[name] for name, term in terms.items()}
    return terms


def tokens(length: int, width: int, active: float) -> tuple[Tensor, Tensor, Tensor]:
    """Correlated student and teacher tokens (1, L, D), and a random mask (1, L)."""
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, length, width, generator=random)
    student = 0.8 * teacher + 0.6 * torch.randn(1, length, width, generator=random)
    mask = torch.zeros(1, length)
    mask[0, torch.randperm(length, generator=random)[: round(active * length)]] = 1
    return student.requires_grad_(), teacher, mask


def run_step(terms: Step, data: tuple[Tensor, Tensor, Tensor], structure: Structure) -> float:
    """Seconds of one forward and backward pass."""
    data[0].grad = None
    start = time.process_time()
    total(terms(*data, structure), LAMBDAS).backward()
    return time.process_time() - start


def gemm_rate(size: int = 1024) -> float:
    """Floating point operations per second of a plain matrix product."""
    a, b = torch.ones(size, size), torch.ones(size, size)
    start = time.process_time()
    a @ b
    return 2 * size**3 / (time.process_time() - start)


def memory_mib(field: str) -> float:
    """A memory figure of this process: VmRSS is now, VmHWM the highest since the last reset."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def peak_mib(name: str, length: int, width: int, active: float, structure: Structure) -> float:
    """Memory that one step adds; to be called in a fresh process."""
    torch.set_num_threads(1)
    run_step(STEPS[name], tokens(64, width, 1), structure)  # loads libraries
    data = tokens(length, width, active)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = memory_mib("VmRSS")
    run_step(STEPS[name], data, structure)
    return memory_mib("VmHWM") - before


def in_fresh_process(*arguments: object) -> float:
    """`peak_mib` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_mib, arguments)


STEPS: dict[str, Step] = {"full": full_matrix_terms, "tiled": distillation_terms}


def row(length: int, width: int, active: float, structure: Structure, rounds: int) -> str:
    """Measure one case and print it as a line of the table."""
    data = tokens(length, width, active)
    names = [name for name in STEPS if name == "tiled" or length <= LARGEST_FULL]
    run_step(STEPS["tiled"], data, structure)
    times, rates = [], []
    for _ in range(max(1, min(rounds, rounds * LARGEST_FULL // length))):
        rates.append(gemm_rate())
        times.append({name: run_step(STEPS[name], data, structure) for name in names})
    milliseconds = {name: 1e3 * statistics.median(time[name] for time in times) for name in names}
    memory = {name: in_fresh_process(name, length, width, active, structure) for name in names}
    count = round(active * length)
    operations = (8 + 2 / -(-count // TILE_CPU)) * count**2 * width  # diagonal tiles are whole
    rate, peak = operations / milliseconds["tiled"] * 1e3, statistics.median(rates)
    full, faster, full_memory = "-", "-", "-"
    if "full" in names:
        full, full_memory = f"{milliseconds['full']:.1f}", f"{memory['full']:.0f}"
        faster = f"{statistics.median(time['full'] / time['tiled'] for time in times):.2f}"
    return (
        f"{length:7d} {width:5d} {active:6.0%} |"
        f" {full:>8} {milliseconds['tiled']:8.1f} {faster:>7} |"
        f" {full_memory:>8} {memory['tiled']:9.0f} | {rate / 1e9:7.0f} {rate / peak:7.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--structure", choices=STRUCTURES, default="released")
    parser.add_argument("--cases", default=CASES, help="TOKENSxWIDTHxACTIVE, separated by commas")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    structure = STRUCTURES[arguments.structure]
    torch.set_num_threads(1)
    print(f"{structure}\none core, float32")
    print(" tokens width active |  full ms tiled ms  faster | full MiB tiled MiB | GFLOP/s of GEMM")
    for case in arguments.cases.split(","):
        length, width, active = (float(part) for part in case.split("x"))
        print(row(int(length), int(width), active, structure, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
