"""`scaleevent pretrain`: distil a frozen image teacher into an event encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scaleevent.checkpoint import save_encoder
from scaleevent.commands.launching import runs_without_download
from scaleevent.commands.street_store import street_store
from scaleevent.config.data import BATCH, DEFAULT_ARCH, PretrainConfig, data_source
from scaleevent.config.settings import dump_yaml
from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher, build_encoder
from scaleevent.encoders.hub import published_weights
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem
from scaleevent.grids.inputs import InputSettings
from scaleevent.objectives.comparison import Comparison, in_order
from scaleevent.objectives.distillation import Distillation, to_device, token_scale, validate
from scaleevent.objectives.structure_loss import STRUCTURES
from scaleevent.pairs.samples import (
    PairSamples,
    Split,
    StepBatches,
    draw_epoch,
    evenly_spaced,
    load_batches,
    split_samples,
)
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import (
    append_json_line,
    check_folder,
    claimed_folder,
    read_json_lines,
    write_bytes,
    write_json,
)
from scaleevent.system.ranks import Ranks, launched, ranks
from scaleevent.system.reports import Report, progress, say
from scaleevent.training.loop import Plan, load_state, train
from scaleevent.training.optimizer import build_optimizer
from scaleevent.training.tensors import content_hash

EMBEDDED_TEACHER = Path(str(resources.files("scaleevent") / "data/tiny_teacher.safetensors"))
NOT_RESULT = {
    "out", "gpus", "device", "workers", "log_every", "save_every", "offline", "resume",
    "overwrite", "probe",
}  # fmt: skip
DINOV3 = {spec["name"] for spec in ARCHS.values()}
VALIDATION_SAMPLES = 256
CALIBRATION_SAMPLES = 64
MEASURES = {
    "val_loss": "held-out loss",
    "val_cosine": "cosine to teacher, active tokens",
    "val_cosine_all": "cosine to teacher, all tokens",
    "val_rank": "effective rank",
}


def run(cfg: PretrainConfig, quiet: bool = False) -> Report:
    """Distil on the machine's devices.

    Args:
        cfg: All settings.
        quiet: No progress on stderr.

    Returns:
        Held-out numbers before and after. The run folder holds config.yaml, log.jsonl,
        encoder.safetensors, panel.png, report.json and state/.
    """
    if cfg.gpus > 1 and not launched():
        raise ConfigError(
            "one Python process is one rank",
            where="gpus",
            found=cfg.gpus,
            hint="use the command line, or run your script under torchrun",
        )
    with ranks(cfg.device) as peers:
        return _Run(cfg, peers, quiet or not peers.main).go()


@dataclass
class _Run:
    """One run: data, models, loop, results, in this order."""

    cfg: PretrainConfig
    peers: Ranks
    quiet: bool
    batch: int = 0

    def go(self) -> Report:
        cfg, peers = self.cfg, self.peers
        consent = {"resume": cfg.resume, "overwrite": cfg.overwrite}
        if peers.main:
            check_folder(cfg.out, "run", **consent)
        self._say_loss()
        teacher, student = self._models()
        settings = InputSettings(*cfg.size, patch=teacher.patch, normaliser=cfg.normaliser)
        teacher.grid(*cfg.size)
        student.input = settings
        self.batch = self._global_batch(teacher)
        samples, split, origin = self._data(settings)
        scale = self._scale(teacher, samples, split)
        self._say_plan(samples, split, scale)
        start = {name: value.clone() for name, value in student.vit.state_dict().items()}
        optimizer = build_optimizer(  # freezes before the ranks agree on gradients
            student, lr=cfg.lr, lr_patch=cfg.lr_patch, weight_decay=cfg.weight_decay,
            freeze=cfg.freeze,
        )  # fmt: skip
        trained = student if peers.world == 1 else self._parallel(student)
        distillation = Distillation(teacher, trained, cfg.structure, cfg.mask, cfg.tau, scale)
        held_out = replace(distillation, student=student)
        check = self._checker(held_out, samples, split)
        identity = cfg.model_dump(mode="json", exclude=NOT_RESULT) | {
            "data": [store.fingerprint for store in samples.stores],
            "teacher weights": content_hash(teacher.vit.state_dict()),
        }
        with claimed_folder(cfg.out, "run", **consent) if peers.main else nullcontext():
            peers.wait()
            first = load_state(cfg.out, student.vit, optimizer, identity) if cfg.resume else 0
            if first == 0 and peers.main:  # also after a stop before the first saved state
                record = dump_yaml(cfg, exclude={"resume", "overwrite"})
                write_bytes(cfg.out / "config.yaml", record.encode())
                (cfg.out / "log.jsonl").unlink(missing_ok=True)
                append_json_line(cfg.out / "log.jsonl", {"step": 0, "epoch": 0} | check(0))
            peers.wait()
            self._train(distillation, student, optimizer, samples, split, first, identity, check)
            if not peers.main:
                return Report("pretrain", "", (), ())
            return self._finish(student, teacher, start, samples, split, scale, origin)

    def _models(self) -> tuple[Encoder, Encoder]:
        cfg, device = self.cfg, self.peers.device
        arch = cfg.arch or (None if cfg.teacher else DEFAULT_ARCH)
        weights: str | Path = cfg.teacher or (
            EMBEDDED_TEACHER if arch == "tiny" else f"timm:{ARCHS[arch]['name']}"
        )
        if str(weights).startswith("timm:") and not (self.quiet or cfg.offline):
            say(published_weights(str(weights).removeprefix("timm:")))
        try:
            if self.peers.world > 1:
                if self.peers.main:  # one download, not one a rank
                    build_encoder(arch, weights, offline=cfg.offline)
                self.peers.wait()
            teacher = build_encoder(arch, weights, offline=cfg.offline, keep_periods=True)
        except EnvironmentProblem as error:
            error.hint = f"{error.hint}; this runs here: {runs_without_download(cfg)}"
            raise
        as_teacher(teacher)
        torch.manual_seed(cfg.seed)  # for a random start only
        if cfg.student_init == "random":
            student = Encoder(teacher.spec)
        else:
            source = weights if cfg.student_init == "teacher" else cfg.student_init
            student = build_encoder(None, source, offline=cfg.offline)
        if (student.width, student.patch) != (teacher.width, teacher.patch):
            raise ConfigError(
                "student and teacher have different tokens",
                where="--student-init",
                found=f"width {student.width}, patch {student.patch}",
                expected=f"width {teacher.width}, patch {teacher.patch}",
            )
        return teacher.to(device), student.to(device)

    def _global_batch(self, teacher: Encoder) -> int:
        """As asked, else by the encoder's size; it must divide over the ranks."""
        widths = {96: "tiny", 384: "vits", 768: "vitb", 1024: "vitl"}
        batch = self.cfg.batch or BATCH[widths.get(teacher.width, "tiny")]
        if batch % self.peers.world:
            raise ConfigError(
                "the global batch does not divide over the processes",
                where="--batch", found=batch, expected=f"a multiple of {self.peers.world}",
            )  # fmt: skip
        if self.cfg.draws < batch:
            raise ConfigError(
                "an epoch is shorter than a batch",
                where="--draws", found=self.cfg.draws, expected=f"at least {batch}",
            )  # fmt: skip
        return batch

    def _data(self, settings: InputSettings) -> tuple[PairSamples, Split, str]:
        folders, origin = data_source(self.cfg.data)
        if not self.quiet:
            say(f"data {origin}: {', '.join(map(str, folders)) or 'rendered on first use'}")
        if not folders:
            if self.peers.main:
                street_store(self.cfg.size, self.quiet)
            self.peers.wait()
            folders = [street_store(self.cfg.size, quiet=True)]
        stores = [PairStore(folder) for folder in folders]
        empty = [store.folder for store in stores if not len(store)]
        if empty and not self.quiet:
            say(f"without a pair, left out: {', '.join(map(str, empty))}")
        samples = PairSamples([store for store in stores if len(store)], settings)
        if not samples.stores:
            raise DataError("the pair stores hold no pair", where=", ".join(map(str, folders)))
        samples.check_images()
        split = split_samples(samples, self.cfg.validation)
        if not len(split.train):
            raise DataError("no pair is left for training", where="--validation")
        return samples, split, origin

    def _scale(self, teacher: Encoder, samples: PairSamples, split: Split) -> float:
        if self.cfg.token_scale:
            return self.cfg.token_scale
        if teacher.spec["name"] in DINOV3 and "embed_dim" not in teacher.spec["kwargs"]:
            return 1.0
        numbers = evenly_spaced(split.train, CALIBRATION_SAMPLES)
        return token_scale(teacher, in_order(samples, numbers, self._local_batch))

    def _parallel(self, student: Encoder) -> DistributedDataParallel:
        device = self.peers.device
        return DistributedDataParallel(student, [device.index] if device.type == "cuda" else None)

    @property
    def _teacher_name(self) -> str:
        arch = self.cfg.arch or DEFAULT_ARCH
        return self.cfg.teacher or ("embedded tiny" if arch == "tiny" else f"DINOv3 {arch}")

    @property
    def _local_batch(self) -> int:
        return self.batch // self.peers.world

    def _checker(
        self, distillation: Distillation, samples: PairSamples, split: Split
    ) -> Callable[[int], dict[str, float]]:
        numbers = evenly_spaced(split.validation, VALIDATION_SAMPLES)

        def check(epoch: int) -> dict[str, float]:
            if not len(numbers) or not self.peers.main:
                return {}
            batches = in_order(samples, numbers, self._local_batch)
            return validate(distillation, batches, self.cfg.lambdas)

        return check

    def _train(
        self,
        distillation: Distillation,
        student: Encoder,
        optimizer: torch.optim.Optimizer,
        samples: PairSamples,
        split: Split,
        first: int,
        identity: dict[str, Any],
        check: Callable[[int], dict[str, float]],
    ) -> None:
        cfg, peers = self.cfg, self.peers
        bf16 = cfg.precision == "bf16" or cfg.precision == "auto" and peers.on_gpu
        plan = Plan(
            epochs=cfg.epochs,
            steps_per_epoch=cfg.draws // self.batch,
            schedule=cfg.schedule,
            decay=cfg.decay,
            warmup_steps=cfg.warmup_steps,
            clip=cfg.clip or None,
            autocast=torch.bfloat16 if bf16 else None,
            log_every=cfg.log_every,
            save_every=cfg.save_every,
        )
        steps = StepBatches(
            lambda epoch: draw_epoch(
                samples, split.train, cfg.draws, cfg.seed, epoch, cfg.sampling
            ),
            plan.epochs, plan.steps_per_epoch, self.batch, first, peers.rank, peers.world,
        )  # fmt: skip
        batches = load_batches(samples, steps, peers.loader_workers(cfg.workers), pin=peers.on_gpu)
        student.train()
        with progress("pretrain", plan.steps, "steps", not self.quiet) as ticker:
            ticker.start_at(first)

            def on_step(step: int, record: dict[str, float]) -> None:
                detail = ""
                if record:
                    detail = (
                        " ".join(
                            f"{name} {record[name]:.4f}"
                            for name in ("loss", "l1", "intra", "cross")
                        )
                        + f" active {record['active']:.0%} {record['samples_per_s']:.1f} samples/s"
                    )
                ticker.advance(1, detail)

            train(
                student.vit,
                optimizer,
                lambda batch: distillation(to_device(batch, peers.device)),
                batches,
                plan,
                peers,
                cfg.out,
                weights=cfg.lambdas,
                first_step=first,
                on_step=on_step,
                on_epoch=check,
                identity=identity,
            )
        student.eval()

    def _say_loss(self) -> None:
        """The first line of a run: which loss is computed."""
        cfg, form = self.cfg, STRUCTURES[self.cfg.structure]
        if not self.quiet:
            say(
                f"loss {cfg.structure}: L1 x {cfg.lambda_l1:g} + IS x {cfg.lambda_is:g} + "
                f"CS x {cfg.lambda_cs:g} ({form.similarity} maps, {form.distance}, gate "
                f"{form.gate}, {form.reduction}), mask {cfg.mask} tau {cfg.tau:g}"
            )

    def _say_plan(self, samples: PairSamples, split: Split, scale: float) -> None:
        if self.quiet:
            return
        cfg = self.cfg
        dropped = f", {split.dropped} overlapping dropped" if split.dropped else ""
        say(
            f"{len(samples):,} pairs, {len(split.train):,} to train, "
            f"{len(split.validation):,} held out{dropped}"
        )
        if split.shared:
            say("warning: all training windows overlap held-out ones, so events are on both sides")
        say(
            f"preset {cfg.preset or 'paper defaults'}, teacher {self._teacher_name}, token scale "
            f"{scale:.4g}, input {cfg.size[0]}x{cfg.size[1]}, global batch {self.batch}, "
            f"{cfg.epochs} epochs x {cfg.draws:,} draws on {self.peers.world} x {self.peers.device}"
        )

    def _finish(
        self,
        student: Encoder,
        teacher: Encoder,
        start: dict[str, Tensor],
        samples: PairSamples,
        split: Split,
        scale: float,
        origin: str,
    ) -> Report:
        """Numbers before and after, picture, encoder.safetensors, report.json."""
        cfg = self.cfg
        checks = [line for line in read_json_lines(cfg.out / "log.jsonl") if "epoch" in line]
        first, last = checks[0], checks[-1]
        rows = [(text, first[key], last[key]) for key, text in MEASURES.items() if key in first]
        notes = []
        untrained = Encoder(student.spec).to(self.peers.device).eval()
        untrained.load(start)
        comparison = Comparison(samples, split, teacher, untrained, student, self._local_batch)
        probe = comparison.probe() if cfg.probe else None
        if probe is not None:
            rows.append(("probe mIoU", probe.before, probe.after))
            notes.append(
                f"probe: ridge on frozen tokens, {probe.classes} classes, {probe.training} "
                f"labelled pairs, {probe.held_out} held out; teacher on images "
                f"{probe.teacher:.1f} mIoU"
            )
        comparison.picture(cfg.out / "panel.png")
        description = {
            "config": cfg.model_dump(mode="json"),
            "teacher": {
                "source": self._teacher_name,
                "sha256": content_hash(teacher.vit.state_dict()),
            },
            "token_scale": scale,
            "data": {
                "origin": origin,
                "stores": [store.fingerprint for store in samples.stores],
                "recordings": sorted({str(n) for s in samples.stores for n in s.recordings}),
            },
            "step": last["step"],
            "metrics": {text: [before, after] for text, before, after in rows},
        }
        save_encoder(cfg.out / "encoder.safetensors", student, description)
        notes += [f"encoder: {cfg.out / 'encoder.safetensors'}"]
        notes += [f"picture: {cfg.out / 'panel.png'}"]
        report = Report(
            "pretrain",
            f"pretrain with {self._teacher_name}: loss {cfg.structure}, {last['step']:,} steps",
            ("on held-out pairs", "before", "after"),
            tuple(rows),
            tuple(notes),
            description | {"input": asdict(samples.settings)},
        )
        write_json(cfg.out / "report.json", report.to_json())
        return report
