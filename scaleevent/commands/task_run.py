"""One training run of a task model, for `probe` and `finetune`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scaleevent.benchmarks.evaluation import (
    ConstantBaseline,
    evaluate,
    refuse_leaks,
)
from scaleevent.benchmarks.features import CachedFeatures
from scaleevent.benchmarks.published import FRACTIONS
from scaleevent.benchmarks.registry import BENCHMARKS, Benchmark
from scaleevent.benchmarks.report import counting_notes, draw_rows, result_table
from scaleevent.benchmarks.samples import BenchmarkSplit, LabelledSamples, benchmark_split, few_shot
from scaleevent.checkpoint import save_task
from scaleevent.commands.benchmark_data import benchmark_samples
from scaleevent.config import benchmarks
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.config.settings import Settings, dump_yaml
from scaleevent.decoders import build_decoder, decoder_name
from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.encoders.encoder import ARCHS, Encoder, build_encoder
from scaleevent.encoders.weights import read_tensors
from scaleevent.errors import ConfigError, DataError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.samples import StepBatches, draw_epoch, load_batches
from scaleevent.system.files import check_folder, claimed_folder, write_bytes, write_json
from scaleevent.system.ranks import Ranks, launched, ranks
from scaleevent.system.reports import Report, progress, say
from scaleevent.training.loop import Plan, load_state, train
from scaleevent.training.optimizer import build_optimizer
from scaleevent.training.tensors import HINTS, content_hash, read_description
from scaleevent.training.terms import Terms


def run_task(
    cfg: FinetuneConfig, command: str, quiet: bool = False, record: Settings | None = None
) -> Report:
    """Train a decoder, and the encoder unless it is frozen; score it on the test set.

    Args:
        cfg: All settings.
        command: `probe` or `finetune`, for report and messages.
        quiet: No progress on stderr.
        record: The command's own settings, for config.yaml; None: `cfg`.

    Returns:
        The result beside trivial and published ones. The run folder holds config.yaml, log.jsonl,
        subset.json, task.safetensors, panel.png, report.json and state/.
    """
    if cfg.gpus > 1 and not launched():
        raise ConfigError(
            "one Python process is one rank",
            where="gpus",
            found=cfg.gpus,
            hint="use the command line, or run your script under torchrun",
        )
    with ranks(cfg.device) as peers:
        return TaskRun(cfg, command, peers, quiet or not peers.main, record or cfg).go()


@dataclass
class TaskRun:
    """One run: encoder, decoder, data, loop, results, in this order."""

    cfg: FinetuneConfig
    command: str
    peers: Ranks
    quiet: bool
    record: Settings
    pretrained: dict[str, Any] = field(default_factory=dict)  # what the encoder's file says

    def go(self) -> Report:
        """Train and score."""
        cfg, peers = self.cfg, self.peers
        consent = {"resume": cfg.resume, "overwrite": cfg.overwrite}
        if peers.main:
            check_folder(cfg.out, "run", **consent)
        if cfg.batch % peers.world:
            raise ConfigError(
                "the global batch does not divide over the processes",
                where="--batch", found=cfg.batch, expected=f"a multiple of {peers.world}",
            )  # fmt: skip
        benchmark = BENCHMARKS[cfg.benchmark]
        encoder = self._encoder()
        encoder.input = self._input(encoder, benchmark)
        decoder, loaded = self._decoder(encoder, benchmark)
        samples = benchmark_samples(
            cfg.benchmark, benchmark.task, cfg.data, encoder.input, peers, quiet=self.quiet
        )
        split = benchmark_split(samples, benchmark.eval_split)
        train_numbers = self._training_numbers(samples, split)
        seen = {"pretrained on": self.pretrained.get("data", {}).get("recordings", ())}
        notes = refuse_leaks(seen, samples, split.test, cfg.transductive, cfg.checkpoint)
        trivial = ConstantBaseline.of(samples, train_numbers.tolist())
        decoder.to(peers.device)
        optimizer = build_optimizer(
            decoder, lr=cfg.lr, encoder_lr=cfg.encoder_lr, lr_patch=cfg.lr_patch,
            layer_decay=cfg.layer_decay, weight_decay=cfg.weight_decay, freeze=cfg.freeze,
            never=decoder.dead_parameters(),
        )  # fmt: skip
        identity = cfg.with_effect() | {
            "data": [store.fingerprint for store in samples.pairs.stores],
            "encoder weights": content_hash(encoder.vit.state_dict()),
        }
        self._say_plan(decoder, loaded, train_numbers, split)
        with claimed_folder(cfg.out, "run", **consent) if peers.main else nullcontext():
            peers.wait()
            first = load_state(cfg.out, decoder, optimizer, identity) if cfg.resume else 0
            if first == 0 and peers.main:
                record = dump_yaml(self.record, exclude={"resume", "overwrite"})
                write_bytes(cfg.out / "config.yaml", record.encode())
                (cfg.out / "log.jsonl").unlink(missing_ok=True)
                chosen = [samples.identity(int(number)) for number in train_numbers]
                write_json(cfg.out / "subset.json", chosen)
            peers.wait()
            self._train(decoder, optimizer, samples, train_numbers, first, identity)
            return self._finish(decoder, samples, split, train_numbers, trivial, notes)

    def _encoder(self) -> Encoder:
        """The encoder to start from, seeded where it is random."""
        cfg = self.cfg
        torch.manual_seed(cfg.seed)
        if cfg.checkpoint == "random":
            arch = cfg.arch or ("tiny" if benchmarks.BENCHMARKS[cfg.benchmark].embedded else "vits")
            return Encoder(ARCHS[arch])
        self.pretrained = read_description(Path(cfg.checkpoint)) or {}
        kind = self.pretrained.get("kind", "encoder")
        if kind != "encoder":
            raise ConfigError(
                "this checkpoint is not an encoder",
                where=cfg.checkpoint,
                found=kind,
                hint=HINTS.get((kind, "encoder")),
            )
        return build_encoder(cfg.arch, cfg.checkpoint, offline=cfg.offline)

    def _input(self, encoder: Encoder, benchmark: Benchmark) -> InputSettings:
        """The benchmark's size, and what the encoder was trained with."""
        size = self.cfg.size or benchmark.size
        encoder.grid(*size)
        known = self.pretrained.get("input") or {}
        normaliser = self.cfg.normaliser or known.get("normaliser", "minmax")
        return InputSettings(
            *size, encoder.patch, known.get("bins", 3), normaliser, benchmark.stretch
        )

    def _decoder(self, encoder: Encoder, benchmark: Benchmark) -> tuple[Decoder, Loaded | None]:
        """The decoder on the encoder, with published weights where given."""
        cfg = self.cfg
        torch.manual_seed(cfg.seed)
        decoder = build_decoder(cfg.decoder, encoder, benchmark.task, cfg.options)
        if cfg.decoder_weights is None:
            return decoder, None
        tensors, _ = read_tensors(cfg.decoder_weights)
        return decoder, decoder.load_published(tensors, cfg.decoder_weights)

    def _training_numbers(self, samples: LabelledSamples, split: BenchmarkSplit) -> np.ndarray:
        if not len(split.train) or not len(split.test):
            raise DataError(
                "the benchmark needs training and test recordings",
                where=", ".join(str(store.folder) for store in samples.pairs.stores),
                found=f"{len(split.train)} training, {len(split.test)} test samples",
            )
        return few_shot(split.train, self.cfg.fraction, self.cfg.subset, self.cfg.seed)

    def _train(
        self,
        decoder: Decoder,
        optimizer: torch.optim.Optimizer,
        samples: LabelledSamples,
        numbers: np.ndarray,
        first: int,
        identity: dict[str, Any],
    ) -> None:
        cfg, peers = self.cfg, self.peers
        draws = max(len(numbers), cfg.batch)
        bf16 = cfg.precision == "bf16" or cfg.precision == "auto" and peers.on_gpu
        plan = Plan(
            epochs=cfg.epochs,
            steps_per_epoch=draws // cfg.batch,
            schedule=cfg.schedule,
            decay=cfg.decay,
            decay_every=cfg.decay_every,
            warmup_steps=cfg.warmup_steps,
            encoder_warmup_steps=cfg.encoder_warmup_steps,
            clip=cfg.clip or None,
            autocast=torch.bfloat16 if bf16 else None,
            log_every=cfg.log_every,
            save_every=cfg.save_every,
        )
        steps = StepBatches(
            lambda epoch: draw_epoch(samples.pairs, numbers, draws, cfg.seed, epoch, "uniform"),
            plan.epochs, plan.steps_per_epoch, cfg.batch, first, peers.rank, peers.world,
        )  # fmt: skip
        cached = self._cached(decoder, samples, numbers)
        batches = load_batches(
            cached or samples, steps, peers.loader_workers(cfg.workers), pin=peers.on_gpu
        )
        model = self._parallel(decoder)
        step_of = _Step(decoder, model, peers.device, cached is not None, cfg.seed)
        decoder.train()
        if cfg.freeze == "encoder":
            decoder.encoder.eval()
        step_of.begin(first, plan.steps)
        with progress(self.command, plan.steps, "steps", not self.quiet) as ticker:
            ticker.start_at(first)

            def on_step(step: int, record: dict[str, float]) -> None:
                detail = ""
                if record:
                    named = " ".join(
                        f"{name} {record[name]:.4f}" for name in decoder.weights if name in record
                    )
                    detail = f"loss {record['loss']:.4f} ({named})"
                ticker.advance(1, detail)
                step_of.begin(step, plan.steps)

            try:
                train(
                    decoder,
                    optimizer,
                    step_of,
                    batches,
                    plan,
                    peers,
                    cfg.out,
                    weights=dict(decoder.weights),
                    first_step=first,
                    on_step=on_step,
                    identity=identity,
                )
            finally:
                if cached is not None:
                    cached.close()
        peers.share(decoder.buffers())  # batch statistics of the last step differ by rank
        decoder.eval()

    def _cached(
        self, decoder: Decoder, samples: LabelledSamples, numbers: np.ndarray
    ) -> CachedFeatures | None:
        """Features of all training samples, where nothing below the head is trained."""
        frozen = self.cfg.freeze == "encoder" and decoder.head_only
        if not (frozen and self.cfg.cache and self.peers.world == 1):
            return None
        path = self.cfg.out / "features.npy"
        with progress("features", len(numbers), "samples", not self.quiet) as ticker:
            return CachedFeatures(
                samples, numbers.tolist(), decoder.encoder.eval(), path, ticker.advance
            )

    def _parallel(self, decoder: Decoder) -> Decoder | DistributedDataParallel:
        if self.peers.world == 1:
            return decoder
        device = self.peers.device
        return DistributedDataParallel(decoder, [device.index] if device.type == "cuda" else None)

    def _finish(
        self,
        decoder: Decoder,
        samples: LabelledSamples,
        split: BenchmarkSplit,
        train_numbers: np.ndarray,
        trivial: ConstantBaseline,
        notes: list[str],
    ) -> Report:
        """Score on the test set; checkpoint, picture, report."""
        cfg, peers, benchmark = self.cfg, self.peers, BENCHMARKS[self.cfg.benchmark]
        with progress("test", len(split.test), "samples", not self.quiet) as ticker:
            result = evaluate(
                decoder, samples, split.test.tolist(), peers,
                batch=max(1, cfg.batch // peers.world), workers=peers.loader_workers(cfg.workers),
                advance=lambda count: ticker.advance(count * peers.world),
            )  # fmt: skip
        if not peers.main:
            return Report(self.command, "", (), ())
        description = {
            "benchmark": cfg.benchmark,
            "protocol": self._setting,
            "config": cfg.model_dump(mode="json"),
            "pretraining": self.pretrained.get("data", {}),
            "encoder": {"source": cfg.checkpoint, "sha256": self.pretrained.get("sha256")},
            "teacher": self.pretrained.get("teacher"),
            "data": {
                "stores": [store.fingerprint for store in samples.pairs.stores],
                "recordings": sorted(samples.recordings(train_numbers)),
                "training_samples": len(train_numbers),
                "test_samples": result.samples,
            },
            "metrics": result.result,
        }
        save_task(cfg.out / "task.safetensors", decoder, description)
        notes = [*notes, f"task model: {cfg.out / 'task.safetensors'}"]
        if cfg.pictures and result.samples:
            draw_rows(decoder, samples, split.test, cfg.pictures, cfg.out / "panel.png")
            notes.append(f"picture: {cfg.out / 'panel.png'}")
        summaries = {}
        if result.samples:
            summaries = {trivial.name: trivial.score(samples, split.test.tolist())}
        columns, rows = result_table(
            cfg.benchmark, benchmark.task, self._setting, result, summaries
        )
        if self.cfg.fraction < 1:
            notes.append(f"labels of {cfg.fraction:.0%} of the training samples, by {cfg.subset}")
        report = Report(
            self.command,
            f"{self.command} {cfg.benchmark}: {len(train_numbers):,} training and "
            f"{result.samples:,} test samples",
            columns,
            rows,
            (*notes, *counting_notes(benchmark.task, result), *benchmark.notes),
            description | {"input": asdict(samples.settings)},
        )
        write_json(cfg.out / "report.json", report.to_json())
        return report

    @property
    def _setting(self) -> str:
        """The protocol in the words of published tables."""
        if self.command == "probe" and self.cfg.fraction == 1:
            return "probe"
        kind = "probe, " if self.command == "probe" else ""
        if self.cfg.fraction in FRACTIONS and self.cfg.subset == "interval":
            return kind + FRACTIONS[self.cfg.fraction]
        return f"{kind}{self.cfg.fraction:g} by {self.cfg.subset}"

    def _say_plan(
        self, decoder: Decoder, loaded: Loaded | None, numbers: np.ndarray, split: BenchmarkSplit
    ) -> None:
        if self.quiet:
            return
        cfg, settings = self.cfg, decoder.encoder.input
        say(
            f"{cfg.benchmark}: {len(numbers):,} of {len(split.train):,} training samples, "
            f"{len(split.test):,} test samples; encoder {cfg.checkpoint}, decoder "
            f"{decoder_name(decoder)} "
            f"{decoder.settings}"
        )
        frozen = " (frozen)" if cfg.freeze == "encoder" else ""
        say(
            f"preset {cfg.preset}, input {settings.height}x{settings.width}, batch {cfg.batch}, "
            f"{cfg.epochs} epochs, lr {cfg.lr:g}, encoder {cfg.encoder_lr or cfg.lr:g}{frozen}, "
            f"{cfg.schedule}, on {self.peers.world} x {self.peers.device}"
        )
        if loaded is None:
            say("decoder starts fresh (--decoder-weights takes published ones)")
            return
        say(f"decoder weights: {loaded.layout}, {len(loaded.loaded)} tensors taken")
        for title, names in (("starts fresh", loaded.fresh), ("not used", loaded.unused)):
            if names:
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                say(f"  {title}: {len(names)}: {shown}")
        for note in loaded.notes:
            say(f"  {note}")


@dataclass
class _Step:
    """Batch to loss terms: the objective of the training loop."""

    decoder: Decoder
    model: Decoder | DistributedDataParallel
    device: torch.device
    cached: bool
    seed: int
    step: int = 0

    def begin(self, step: int, steps: int) -> None:
        """Told which step comes next."""
        self.step = step
        self.decoder.begin_step(step, steps)

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Terms, dict[str, Callable[[], float]]]:
        torch.manual_seed(self.seed * 1_000_003 + self.step)  # a resumed run draws the same
        moved = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        target = moved.pop("target")
        if self.cached:
            settings = self.decoder.encoder.input
            grid = self.decoder.encoder.grid(settings.height, settings.width)
            side_by_side = moved["tokens"].transpose(1, 2).flatten(2)  # (N, L, frames x D)
            raw = self.decoder.head(side_by_side, grid)
        else:
            raw = self.model(**moved)
        return self.decoder.loss(raw, target), {}
