"""`scaleevent pretrain`: distil a frozen image teacher into an event encoder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import scaleevent
from scaleevent.checkpoint import content_hash, save_encoder
from scaleevent.commands.street_store import street_store
from scaleevent.config import PretrainConfig, data_source, dump_yaml
from scaleevent.distillation import Distillation, encode_all, to_device, token_scale, validate
from scaleevent.distributed import Ranks, launch, launched, ranks
from scaleevent.durable import (
    append_json_line,
    check_folder,
    claim_folder,
    fingerprint,
    read_json_lines,
    write_bytes,
    write_json,
)
from scaleevent.encoder import (
    ARCHS,
    Encoder,
    as_teacher,
    build_encoder,
    published_weights,
)
from scaleevent.errors import ConfigError, DataError
from scaleevent.geometry import Fit
from scaleevent.inputs import InputSettings
from scaleevent.losses import STRUCTURES
from scaleevent.pictures import FeatureColours, draw_voxel, panel, save_picture
from scaleevent.probing import ridge_probe
from scaleevent.reports import Report, progress, say
from scaleevent.samples import (
    PairSamples,
    Split,
    StepBatches,
    draw_epoch,
    load_batches,
    split_samples,
)
from scaleevent.store import PairStore, decode_image
from scaleevent.training import Plan, load_state, train

EMBEDDED_TEACHER = Path(scaleevent.__file__).parent / "data" / "tiny_teacher.safetensors"
NOT_RESULT = {
    "out", "gpus", "device", "workers", "log_every", "save_every", "offline", "resume",
    "overwrite", "probe",
}  # fmt: skip
VALIDATION_SAMPLES = 256
PROBE_TRAINING, PROBE_HELD_OUT = 200, 300
CALIBRATION_SAMPLES = 64
PANEL_ROWS = 4


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
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(dump_yaml(cfg))
            file.flush()
            arguments = ["pretrain", "--config", file.name, *(["--json"] if quiet else [])]
            sys.exit(launch(cfg.gpus, cfg.device, arguments, _runs_here(cfg)))
    with ranks(cfg.device) as peers:
        return _Run(cfg, peers, quiet or not peers.main).go()


def _runs_here(cfg: PretrainConfig) -> str:
    """A command that needs neither more GPUs than there are nor a download."""
    data = "".join(f" {path}" for path in cfg.data)
    gpus = min(torch.cuda.device_count(), cfg.gpus)
    return f"scaleevent pretrain{data} --arch tiny" + (f" --gpus {gpus}" if gpus > 1 else "")


@dataclass
class _Run:
    """One run: data, models, loop, results, in this order."""

    cfg: PretrainConfig
    peers: Ranks
    quiet: bool

    def go(self) -> Report:
        cfg, peers = self.cfg, self.peers
        consent = {"resume": cfg.resume, "overwrite": cfg.overwrite}
        if peers.main:
            check_folder(cfg.out, "config.yaml", **consent)
        teacher, student = self._models()
        settings = InputSettings(*cfg.size, patch=teacher.patch, normaliser=cfg.normaliser)
        teacher.grid(*cfg.size)
        student.input = settings
        samples, split, origin = self._data(settings)
        if cfg.global_batch % peers.world:
            raise ConfigError(
                "the global batch does not divide over the processes",
                where="--batch", found=cfg.global_batch, expected=f"a multiple of {peers.world}",
            )  # fmt: skip
        if cfg.draws < cfg.global_batch:
            raise ConfigError("an epoch is shorter than a batch", where="--draws", found=cfg.draws,
                              expected=f"at least {cfg.global_batch}")  # fmt: skip
        scale = self._scale(teacher, samples, split)
        trained = student if peers.world == 1 else self._parallel(student)
        distillation = Distillation(
            teacher, trained, cfg.structure, cfg.mask, cfg.tau, scale
        )  # fmt: skip
        if peers.main:
            claim_folder(cfg.out, "config.yaml", **consent)
            write_bytes(cfg.out / "config.yaml", dump_yaml(cfg).encode())
        peers.wait()
        self._say_first(origin, samples, split, scale)
        optimizer = self._optimizer(student)
        identity = fingerprint(
            [
                cfg.model_dump(mode="json", exclude=NOT_RESULT | {"data"}),
                [store.fingerprint for store in samples.stores],
                content_hash(teacher.vit.state_dict()),
            ]
        )
        start = {name: value.clone() for name, value in student.vit.state_dict().items()}
        first = load_state(cfg.out, student.vit, optimizer, identity) if cfg.resume else 0
        held_out = replace(distillation, student=student)
        check = self._checker(held_out, samples, split)
        if first == 0 and peers.main:
            append_json_line(cfg.out / "log.jsonl", {"step": 0, "epoch": 0} | check(0))
        peers.wait()
        self._train(distillation, student, optimizer, samples, split, first, identity, check)
        if not peers.main:
            return Report("pretrain", "", (), ())
        return self._finish(student, teacher, start, samples, split, scale, origin)

    def _models(self) -> tuple[Encoder, Encoder]:
        cfg, device = self.cfg, self.peers.device
        weights: str | Path = cfg.teacher or (
            EMBEDDED_TEACHER if cfg.arch == "tiny" else f"timm:{ARCHS[cfg.arch]['name']}"
        )
        arch = None if cfg.teacher else cfg.arch
        if self.peers.main:
            if not self.quiet and str(weights).startswith("timm:"):
                say(published_weights(str(weights).removeprefix("timm:")))
            build_encoder(arch, weights, offline=cfg.offline)  # one download, not one a rank
        self.peers.wait()
        teacher = as_teacher(build_encoder(arch, weights, offline=cfg.offline, keep_periods=True))
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

    def _data(self, settings: InputSettings) -> tuple[PairSamples, Split, str]:
        folders, origin = data_source(self.cfg.data)
        if not folders:
            if self.peers.main:
                street_store(self.cfg.size, self.quiet)
            self.peers.wait()
            folders = [street_store(self.cfg.size, quiet=True)]
        samples = PairSamples([PairStore(folder) for folder in folders], settings)
        if not len(samples):
            raise DataError("the pair stores hold no pair", where=", ".join(map(str, folders)))
        split = split_samples(samples, self.cfg.validation)
        if not len(split.train):
            raise DataError("no pair is left for training", where="--validation")
        return samples, split, f"{origin} ({', '.join(map(str, folders))})"

    def _scale(self, teacher: Encoder, samples: PairSamples, split: Split) -> float:
        if self.cfg.token_scale:
            return self.cfg.token_scale
        if self.cfg.arch != "tiny" and "dinov3" in teacher.spec["name"]:
            return 1.0
        spread = _spread(split.train, CALIBRATION_SAMPLES)
        return token_scale(teacher, self._batches(samples, spread))

    def _parallel(self, student: Encoder) -> DistributedDataParallel:
        device = self.peers.device
        return DistributedDataParallel(student, [device.index] if device.type == "cuda" else None)

    def _optimizer(self, student: Encoder) -> torch.optim.AdamW:
        cfg = self.cfg
        frozen = ("cls_token", "reg_token", "norm.") if cfg.freeze == "released" else ()
        groups: dict[float, list[Tensor]] = {}
        for name, parameter in student.vit.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen) if frozen else True)
            lr = cfg.lr_patch if cfg.lr_patch and name.startswith("patch_embed") else cfg.lr
            if parameter.requires_grad:
                groups.setdefault(lr, []).append(parameter)
        return torch.optim.AdamW(
            [{"params": parameters, "lr": lr} for lr, parameters in groups.items()],
            betas=(0.9, 0.999),
            weight_decay=cfg.weight_decay,
        )

    def _batches(self, samples: PairSamples, numbers: Any) -> Iterator[Any]:
        """Samples in a fixed order, for everything that is not training."""
        size = max(1, self.cfg.global_batch // self.peers.world)
        groups = [numbers[i : i + size].tolist() for i in range(0, len(numbers), size)]
        return iter(load_batches(samples, groups, workers=0))

    def _checker(
        self, distillation: Distillation, samples: PairSamples, split: Split
    ) -> Callable[[int], dict[str, float]]:
        numbers = _spread(split.validation, VALIDATION_SAMPLES)

        def check(epoch: int) -> dict[str, float]:
            if not len(numbers) or not self.peers.main:
                return {}
            batches = self._batches(samples, numbers)
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
        identity: str,
        check: Callable[[int], dict[str, float]],
    ) -> None:
        cfg, peers = self.cfg, self.peers
        bf16 = cfg.precision == "bf16" or cfg.precision == "auto" and peers.device.type == "cuda"
        plan = Plan(
            epochs=cfg.epochs,
            steps_per_epoch=cfg.draws // cfg.global_batch,
            schedule=cfg.schedule,
            decay=cfg.decay,
            warmup_steps=cfg.warmup_steps,
            clip=cfg.clip or None,
            autocast=torch.bfloat16 if bf16 else None,
            log_every=cfg.log_every,
            save_every=cfg.save_every,
        )
        epochs = [
            draw_epoch(samples, split.train, cfg.draws, cfg.seed, epoch, cfg.sampling)
            for epoch in range(cfg.epochs)
        ]
        steps = StepBatches(epochs, cfg.global_batch, first, peers.rank, peers.world)
        batches = load_batches(samples, steps, _workers(cfg, peers))
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

    def _say_first(self, origin: str, samples: PairSamples, split: Split, scale: float) -> None:
        cfg = self.cfg
        if self.quiet:
            return
        form = STRUCTURES[cfg.structure]
        say(
            f"loss {cfg.structure}: L1 x {cfg.lambda_l1:g} + IS x {cfg.lambda_is:g} + "
            f"CS x {cfg.lambda_cs:g} ({form.similarity} maps, {form.distance}, gate {form.gate}, "
            f"{form.reduction}), mask {cfg.mask} tau {cfg.tau:g}, token scale {scale:.4g}"
        )
        dropped = f", {split.dropped} overlapping dropped" if split.dropped else ""
        say(
            f"data {origin}: {len(samples):,} pairs, {len(split.train):,} to train, "
            f"{len(split.validation):,} held out{dropped}"
        )
        say(
            f"preset {cfg.preset or 'paper defaults'}, arch {cfg.arch}, "
            f"teacher {cfg.teacher or ('embedded' if cfg.arch == 'tiny' else 'DINOv3')}, input "
            f"{cfg.size[0]}x{cfg.size[1]}, global batch {cfg.global_batch}, {cfg.epochs} epochs x "
            f"{cfg.draws:,} draws on {self.peers.world} x {self.peers.device}"
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
        cfg = self.cfg
        log = [line for line in read_json_lines(cfg.out / "log.jsonl") if "epoch" in line]
        before, after = log[0], log[-1]
        names = {
            "val_loss": "held-out loss",
            "val_cosine": "cosine to teacher, active tokens",
            "val_cosine_all": "cosine to teacher, all tokens",
            "val_rank": "effective rank",
        }
        rows = [(text, before[k], after[k]) for k, text in names.items() if k in before]
        untrained = Encoder(student.spec).to(self.peers.device).eval()
        untrained.load(start)
        notes = []
        if cfg.probe:
            rows += self._probe(samples, split, teacher, untrained, student, notes)
        picture = self._picture(samples, split, teacher, untrained, student)
        metrics = {text: [a, b] for text, a, b in rows}
        description = {
            "config": cfg.model_dump(mode="json"),
            "teacher": {"source": cfg.teacher or cfg.arch,
                        "sha256": content_hash(teacher.vit.state_dict())},
            "token_scale": scale,
            "data": {"origin": origin, "stores": [s.fingerprint for s in samples.stores]},
            "step": after["step"],
            "metrics": metrics,
        }  # fmt: skip
        save_encoder(cfg.out / "encoder.safetensors", student, description)
        notes += [f"encoder: {cfg.out / 'encoder.safetensors'}"]
        notes += [f"picture: {picture}"] if picture else []
        report = Report(
            "pretrain",
            f"pretrain {cfg.arch}, loss {cfg.structure}, {after['step']:,} steps",
            ("on held-out pairs", "before", "after"),
            tuple(rows),
            tuple(notes),
            description | {"input": asdict(student.input)},
        )
        write_json(cfg.out / "report.json", report.to_json())
        return report

    def _probe(
        self,
        samples: PairSamples,
        split: Split,
        teacher: Encoder,
        untrained: Encoder,
        student: Encoder,
        notes: list[str],
    ) -> list[tuple[str, float, float]]:
        train = _labelled(samples, _spread(split.train, PROBE_TRAINING))
        held = _labelled(samples, _spread(split.validation, PROBE_HELD_OUT))
        if not train[0] or not held[0]:
            return []
        classes = int(max(label[label < 255].max() for label in train[1])) + 1
        grid = student.grid(*self.cfg.size)

        def score(encoder: Encoder, key: str) -> float:
            tokens = [
                encode_all(encoder, (b[key] for b in self._batches(samples, torch.tensor(part[0]))))
                for part in (train, held)
            ]
            iou = ridge_probe(
                tokens[0], torch.stack(train[1]), tokens[1], torch.stack(held[1]), grid, classes
            )
            return 100 * float(torch.tensor(iou).nanmean())

        ceiling = score(teacher, "image")
        notes.append(
            f"probe: ridge on frozen tokens, {classes} classes, {len(train[0])} labelled pairs, "
            f"{len(held[0])} held out; teacher on images: {ceiling:.1f} mIoU"
        )
        return [("probe mIoU", score(untrained, "voxel"), score(student, "voxel"))]

    def _picture(
        self,
        samples: PairSamples,
        split: Split,
        teacher: Encoder,
        untrained: Encoder,
        student: Encoder,
    ) -> Path | None:
        numbers = _spread(split.validation if len(split.validation) else split.train, PANEL_ROWS)
        batch = next(self._batches(samples, numbers[: self.cfg.global_batch]))
        grid = student.grid(*self.cfg.size)
        tokens = [
            encode_all(encoder, [batch[key]]).numpy()
            for encoder, key in ((teacher, "image"), (untrained, "voxel"), (student, "voxel"))
        ]
        colours = FeatureColours(tokens[0])
        rows = []
        for i, number in enumerate(numbers[: len(tokens[0])]):
            store, inside = samples.locate(int(number))
            shard, row = samples.stores[store].locate(inside)
            image = decode_image(shard.image(row))
            fit = Fit(*image.shape[:2], *self.cfg.size)
            events = draw_voxel(fit.crop_array(shard.voxel(row, 3)))
            image = fit.crop_array(image.transpose(2, 0, 1)).transpose(1, 2, 0)
            rows.append([image, events, *(colours.draw(t[i], grid) for t in tokens)])
        columns = ("image", "events", "teacher PCA", "student before", "student after")
        path = self.cfg.out / "panel.png"
        save_picture(path, panel(columns, rows))
        return path


def _workers(cfg: PretrainConfig, peers: Ranks) -> int:
    """Loader processes: as asked, else none beside a CPU's own work, up to 8 beside a GPU."""
    if cfg.workers is not None:
        return cfg.workers
    return min(8, (os.cpu_count() or 1) // peers.world) if peers.device.type == "cuda" else 0


def _spread(numbers: Any, most: int) -> Any:
    """At most so many, evenly over all."""
    if len(numbers) <= most:
        return numbers
    return numbers[torch.linspace(0, len(numbers) - 1, most).round().long().numpy()]


def _labelled(samples: PairSamples, numbers: Any) -> tuple[list[int], list[Tensor]]:
    """Those samples that have semantics, and the labels on the network's field of view."""
    found: list[int] = []
    labels: list[Tensor] = []
    for number in numbers:
        store, inside = samples.locate(int(number))
        shard, row = samples.stores[store].locate(inside)
        label = shard.label("semantics", row)
        if label is not None:
            settings = samples.settings
            fit = Fit(*label.values.shape, settings.height, settings.width)
            found.append(int(number))
            labels.append(torch.from_numpy(fit.crop_array(label.values).copy()))
    return found, labels
