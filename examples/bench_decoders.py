"""Time and memory of the decoders, each beside the published code it follows where that is given.

    python examples/bench_decoders.py                               # ours alone
    python examples/bench_decoders.py --decoders dpt --dpt-repo ../Depth-Anything-V2

One step is forward pass, loss and backward pass through decoder and encoder; one inference ends at
scores, metres or flow at the input's size. One core; CPU time, in rounds of ours and theirs in
turn; memory is the peak that one run adds to the resident process (Linux with glibc). A reference
runs unchanged from its checkout, with the same weights and inputs, after both outputs were
compared:

    eomt             tue-mps/eomt, whole; wants transformers as in its requirements.txt (4.56.1)
    eomt-scaleevent  zhiwen-xdu/ScaleEvent on our encoder; wants transformers too
    dpt              DepthAnything/Depth-Anything-V2 (metric) on our encoder, given our patch size
    sea_raft-alone   princeton-vl/SEA-RAFT, whole; no encoder takes part
    waft             zhiwen-xdu/ScaleEvent (WAFT on DINOv3, ViT-S) on our encoder
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_losses import memory_mib
from decoder_references import CLASSES, REFERENCES, Contender, Data, NoReferenceError
from torch import Tensor

from scaleevent.decoders.decoder import Decoder
from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.eomt import EoMT
from scaleevent.decoders.linear import Linear
from scaleevent.decoders.sea_raft import SeaRaft
from scaleevent.decoders.waft import Waft
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.training.terms import total

DECODERS: dict[str, Callable[[Encoder], Decoder]] = {
    "eomt": lambda encoder: EoMT(encoder, CLASSES),
    "eomt-scaleevent": lambda encoder: EoMT(encoder, CLASSES, mode="scaleevent"),
    "dpt": DPT,
    "sea_raft": lambda encoder: SeaRaft(encoder, None),  # in the size that `finetune` chooses
    "sea_raft-alone": lambda encoder: SeaRaft(encoder, None, fuse=False),
    "waft": Waft,
    "linear": lambda encoder: Linear(encoder, classes=CLASSES),
}


def ours(decoder: Decoder, data: Data) -> Contender:
    """A decoder of this package."""

    def forward() -> object:
        return decoder(data.before, data.after)

    def output() -> Tensor:
        dense = decoder.scores if decoder.task == "segmentation" else decoder.predict
        return dense(forward(), data.size)

    def loss() -> Tensor:
        return total(decoder.loss(forward(), data.targets[decoder.task]), decoder.weights)

    return Contender(decoder, loss, output)


def encoder_alone(encoder: Encoder, data: Data) -> Contender:
    """What all decoders on one window share."""
    return Contender(
        encoder,
        lambda: encoder.tokens(data.before).square().mean(),
        lambda: encoder.tokens(data.before),
    )


Work = tuple[str, str]
"""A kind of work ("step", "inference") and a side ("ours", "reference")."""


def build(name: str, options: argparse.Namespace) -> tuple[dict[str, Contender], list[str]]:
    """Both sides of a decoder, and why there is only one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    height, width = map(int, options.size.split("x"))
    data = Data.random(options.batch, height, width)
    encoder = Encoder(ARCHS[options.arch])
    if name == "encoder":
        return {"ours": encoder_alone(encoder, data)}, []
    decoder = DECODERS[name](encoder)
    sides, notes = {"ours": ours(decoder, data)}, []
    flag, reference = REFERENCES.get(name, (None, None))
    repo = getattr(options, flag) if flag else None
    if repo is not None:
        try:
            sides["reference"] = reference(decoder, data, repo.resolve())
        except NoReferenceError as reason:
            notes.append(f"no reference: {reason}")
    return sides, notes


def works(sides: dict[str, Contender]) -> dict[Work, Callable[[], object]]:
    """What is measured of each side."""
    return {
        (kind, side): run
        for side, one in sides.items()
        for kind, run in (("step", one.step), ("inference", one.infer))
    }


def measure_time(
    name: str, options: argparse.Namespace
) -> tuple[dict[Work, list[float]], tuple[str, ...]]:
    """Seconds of each work, one a round, and how far both sides agree; in a fresh process."""
    sides, notes = build(name, options)
    outputs = {side: one.infer() for side, one in sides.items()}
    losses = {side: one.step() for side, one in sides.items()}
    if "reference" in sides:
        apart = (outputs["ours"] - outputs["reference"]).abs().max()
        notes.append(
            f"outputs differ by {apart:.1e} at most and vary by {outputs['reference'].std():.2g}; "
            f"losses {losses['ours']:.6g} and {losses['reference']:.6g}"
        )
    work = works(sides)
    seconds = {key: [] for key in work}
    for _ in range(options.rounds):
        for key in sorted(work):
            start = time.process_time()
            work[key]()
            seconds[key].append(time.process_time() - start)
    return seconds, tuple(notes)


def measure_memory(name: str, options: argparse.Namespace) -> dict[Work, float]:
    """The most memory that each work adds, in MiB; in a fresh process.

    From the beginning every tensor is a piece of memory of its own, which goes back to the system
    when it is freed. Later would not do: a heap that grew before is used up first, in fragments.
    """
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
    work = works(build(name, options)[0])
    for run in work.values():
        run()
    return {key: peak_mib(run) for key, run in work.items()}


def peak_mib(run: Callable[[], object]) -> float:
    """The most memory that a run adds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = memory_mib("VmRSS")
    run()
    return memory_mib("VmHWM") - before


def lines(
    name: str, seconds: dict[Work, list[float]], mib: dict[Work, float], notes: tuple[str, ...]
) -> list[str]:
    """A decoder's part of the table."""
    found = []
    for kind in ("step", "inference"):
        mine, theirs = (seconds.get((kind, side)) for side in ("ours", "reference"))
        line = f"{name:16} {kind:9} |" + _times(mine)
        if theirs:
            rounds = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
            line += _times(theirs) + f" {rounds:7.2f} {min(theirs) / min(mine):7.2f}"
        else:
            line += f"{'-':>8} {'-':>7} {'-':>7} {'-':>7}"
        line += f" | {mib[kind, 'ours']:8.0f}"
        line += f" {mib[kind, 'reference']:9.0f}" if theirs else f" {'-':>9}"
        found.append(line)
    return found + [f"    {note}" for note in notes]


def _times(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):8.3f} {min(seconds):7.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--decoders", default=",".join(["encoder", *DECODERS]))
    parser.add_argument("--arch", choices=ARCHS, default="vits")
    parser.add_argument("--size", default="480x640", help="rows x columns")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    for flag in dict.fromkeys(flag for flag, _ in REFERENCES.values()):
        parser.add_argument("--" + flag.replace("_", "-"), type=Path, metavar="PATH")
    options = parser.parse_args()
    print(f"{options.arch}, {options.size}, batch {options.batch}, one core, float32")
    print(f"{'':26} | {'ours s':>15} {'reference s':>15} {'reference/ours':>15} | {'peak MiB':>8}")
    print(
        f"{'decoder':16} {'work':9} |" + f"{'median':>8} {'min':>7}" * 2
        + f" {'median':>7} {'min':>7} | {'ours':>8} {'reference':>9}"
    )  # fmt: skip
    spawn = multiprocessing.get_context("spawn")
    for name in options.decoders.split(","):
        # processes of their own: the checkouts share module names
        with spawn.Pool(1) as pool:
            seconds, notes = pool.apply(measure_time, (name, options))
        with spawn.Pool(1) as pool:
            mib = pool.apply(measure_memory, (name, options))
        print(*lines(name, seconds, mib, notes), sep="\n", flush=True)


if __name__ == "__main__":
    main()
