"""What a linear probe costs with features computed once, and with the encoder in every epoch.

    python examples/bench_probe.py

One core, ViT-S at 480x640, 250,000 events and a label of 11 classes a pair, read from a pair store
in a temporary folder: the classes that `probe` uses, from reading the store to the AdamW step. CPU
time a sample; cached and uncached epochs run in turn. Then the fits at the end of `pretrain`, on
tokens of planted classes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_voxels import HEIGHT, WIDTH, make_events  # noqa: E402
from torch import Tensor  # noqa: E402

from scaleevent.benchmarks.features import CachedFeatures  # noqa: E402
from scaleevent.benchmarks.samples import LabelledSamples  # noqa: E402
from scaleevent.config.benchmarks import DSEC_CLASSES  # noqa: E402
from scaleevent.decoders.linear import Linear  # noqa: E402
from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher  # noqa: E402
from scaleevent.grids.inputs import InputSettings  # noqa: E402
from scaleevent.grids.windows import Window  # noqa: E402
from scaleevent.objectives.probing import Features, fit_log_depth, fit_ridge  # noqa: E402
from scaleevent.objectives.softmax_probe import fit_softmax  # noqa: E402
from scaleevent.pairs.draws import StepBatches, draw_epoch  # noqa: E402
from scaleevent.pairs.loading import load_batches  # noqa: E402
from scaleevent.pairs.pair import Label, Pair  # noqa: E402
from scaleevent.pairs.shard import FORMAT, ShardWriter  # noqa: E402
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard  # noqa: E402
from scaleevent.system.files import write_json  # noqa: E402
from scaleevent.tasks.segmentation import Segmentation  # noqa: E402
from scaleevent.training.optimizer import build_optimizer  # noqa: E402
from scaleevent.training.terms import total  # noqa: E402

SPAN_US = 50_000
CLASSES = len(DSEC_CLASSES)
BLOB = 20  # pixels to a side of a patch of one class


def write(folder: Path, pairs: int, events: int) -> None:
    """A store of one shard, without images, which a probe does not read."""
    path = folder / "bench.h5"
    rng = np.random.default_rng(0)
    with ShardWriter(path) as writer:
        for number in range(pairs):
            blobs = rng.integers(0, CLASSES, (HEIGHT // BLOB, WIDTH // BLOB), np.uint8)
            classes = blobs.repeat(BLOB, 0).repeat(BLOB, 1)
            writer.add(
                Pair(
                    recording="bench",
                    image_us=SPAN_US,
                    image=b"",
                    events=make_events(events, SPAN_US, number),
                    window=Window(0, SPAN_US),
                    labels={"semantics": Label(classes, SPAN_US, SPAN_US)},
                )
            )
    entry = finish_shard(path, pairs, {}, "bench")
    write_json(folder / MANIFEST, {"format": FORMAT, "shards": [entry]})


class Clock:
    """CPU seconds a sample, by what was done."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Note what a block of code takes."""
        begin = time.process_time()
        yield
        self.seconds[name].append((time.process_time() - begin) / self.samples)

    def show(self) -> None:
        """Print everything noted."""
        print(f"{'seconds a sample':28}{'median':>10}{'min':>10}")
        for name, taken in self.seconds.items():
            print(f"{name:28}{np.median(taken):10.4f}{min(taken):10.4f}")


class Probe:
    """A linear decoder in training, on samples or on their cached features."""

    def __init__(self, samples: LabelledSamples, decoder: Linear, batch: int) -> None:
        self.samples, self.decoder, self.batch = samples, decoder, batch
        self.optimizer = build_optimizer(decoder, lr=1e-3, freeze="encoder")
        self.grid = decoder.encoder.grid(samples.settings.height, samples.settings.width)

    def batches(self, samples: LabelledSamples | CachedFeatures) -> Iterator[dict[str, Tensor]]:
        """One epoch of batches."""
        pairs, count = self.samples.pairs, len(self.samples)
        steps = StepBatches(
            lambda epoch: draw_epoch(pairs, np.arange(count), count, 0, epoch, "uniform"),
            1, count // self.batch, self.batch,
        )  # fmt: skip
        yield from load_batches(samples, steps, 0)

    def epoch(self, samples: LabelledSamples | CachedFeatures) -> None:
        """Train for one epoch."""
        for batch in self.batches(samples):
            if "tokens" in batch:
                raw = self.decoder.head(batch["tokens"][:, 0], self.grid)
            else:
                raw = self.decoder(batch["voxel"])
            terms = self.decoder.loss(raw, batch["target"])
            self.optimizer.zero_grad()
            total(terms, self.decoder.weights).backward()
            self.optimizer.step()

    @torch.inference_mode()
    def rounding(self, cached: CachedFeatures) -> tuple[float, float]:
        """Largest difference of cached tokens to computed ones, and the largest token value."""
        found = [
            (self.decoder.encoder.tokens(sample["voxel"][None]), cached[number]["tokens"])
            for number, sample in enumerate(self.samples)
        ]
        apart = max((exact - stored).abs().max().item() for exact, stored in found)
        return apart, max(exact.abs().max().item() for exact, _ in found)


def fits(width: int, scenes: int = 200, grid: tuple[int, int] = (12, 16)) -> None:
    """CPU seconds of each closed probe on tokens that hold the shares of their cell, and noise."""
    rng = np.random.default_rng(0)
    shares = torch.from_numpy(rng.dirichlet(np.full(CLASSES, 0.2), (scenes, grid[0] * grid[1])))
    code = torch.from_numpy(rng.normal(size=(CLASSES, width)))
    noise = torch.from_numpy(rng.normal(size=(*shares.shape[:2], width)))
    features = Features.tokens(shares @ code + noise)
    depth, known = shares[..., 0], torch.ones(shares.shape[:2], dtype=torch.float64)
    probes: dict[str, Callable[[], object]] = {
        "ridge": lambda: fit_ridge(features, shares),
        "balanced softmax": lambda: fit_softmax(features, shares),
        "log depth": lambda: fit_log_depth(features, depth, known),
    }
    taken = []
    for name, fit in probes.items():
        begin = time.process_time()
        fit()
        taken.append(f"{name} {time.process_time() - begin:.2f} s")
    print(f"{scenes} scenes x {shares.shape[1]} tokens x {width}: {', '.join(taken)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", choices=ARCHS, default="vits")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--events", type=int, default=250_000)
    parser.add_argument("--epochs", type=int, default=20, help="of the probe that is reckoned")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.pairs % options.batch:
        parser.error("--pairs must be a multiple of --batch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = as_teacher(Encoder(ARCHS[options.arch]))
    decoder = Linear(encoder, classes=CLASSES)
    task = Segmentation(tuple(DSEC_CLASSES), np.array(list(DSEC_CLASSES.values()), np.uint8))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.pairs, options.events)
        settings = InputSettings(HEIGHT, WIDTH, patch=encoder.patch)
        samples = LabelledSamples([PairStore(folder)], task, settings)
        probe, clock = Probe(samples, decoder, options.batch), Clock(options.pairs)
        probe.epoch(samples)  # compiles
        with clock("encode once"):
            cached = CachedFeatures(samples, range(options.pairs), encoder, folder / "features.npy")
        for _ in range(options.rounds):
            with clock("cached epoch"):
                probe.epoch(cached)
            with clock("  of which reading"):
                for _ in probe.batches(cached):
                    pass
            with clock("uncached epoch"):
                probe.epoch(samples)
        apart, largest = probe.rounding(cached)
        size = cached.path.stat().st_size / options.pairs
    for width in (96, 384):
        fits(width)
    print(f"{options.arch}, {HEIGHT}x{WIDTH}, batch {options.batch}, one core, CPU time")
    clock.show()
    for name, middle in (("median", np.median), ("best", min)):
        once, cheap, dear = (
            float(middle(clock.seconds[what]))
            for what in ("encode once", "cached epoch", "uncached epoch")
        )
        ratio = options.epochs * dear / (once + options.epochs * cheap)
        print(f"{options.epochs} epochs: {ratio:.1f} times as fast with the cache ({name})")
    print(
        f"cached tokens (float16, {size / 1e6:.2f} MB a sample) differ by {apart:.1e} at most, "
        f"of values up to {largest:.2f}"
    )


if __name__ == "__main__":
    main()
