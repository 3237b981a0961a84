"""Seconds and peak memory of one full optimisation step at 480x640, from a Meta-layout file.

    python examples/step_cost.py [vits vitb vitl demo]

`demo`: milliseconds of a step of `scaleevent pretrain` on the CPU with 16 pairs of 96x128, twice
its default, and their loading, with the teacher's tokens computed or kept, in float32 or bfloat16,
on one thread and on two. Variants take turns; medians of the wall and the processor.

For every other size, in a process of its own: random weights are written as a Meta `.pth`, teacher
and student are built from that file, one street pair is rendered at 480x640, and steps run:
teacher, student, mask, L1 + IS + CS, backward, clip, AdamW. Without a GPU one step of one pair, in
float32; with one, steps of a batch as large as `pretrain` takes it, in bfloat16 and in float32, and
the share of a step that the losses take, forward and backward.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.optim import AdamW

from scaleevent.config.catalog import ARCHITECTURES
from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import street
from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher, build_encoder
from scaleevent.grids.inputs import InputSettings
from scaleevent.objectives.distillation import Distillation
from scaleevent.objectives.objective import Batch
from scaleevent.objectives.structure_loss import LAMBDAS, distillation_terms
from scaleevent.objectives.teacher import EMBEDDED_TEACHER
from scaleevent.pairs.loading import in_order
from scaleevent.pairs.preparing import write_store
from scaleevent.pairs.sample_inputs import INPUTS, index
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.store import PairStore
from scaleevent.system.workers import ProcessExecutor
from scaleevent.training.terms import total

DEMO_BATCH, DEMO_ROUNDS = 16, 15


def meta_layout(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Weights of a timm DINOv3 under the names of Meta's files, their zero biases included."""
    names = {"reg_token": "storage_tokens", ".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
    state = {}
    for name, value in encoder.vit.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = value
        if name.endswith("attn.qkv.weight"):
            bias = torch.zeros(len(value))
            state |= {
                name.replace("weight", "bias"): bias,
                name.replace("weight", "bias_mask"): bias,
            }
    state["mask_token"] = torch.zeros(1, encoder.width)
    state["rope_embed.periods"] = encoder.vit.rope.periods.clone()
    return state


def models(arch: str, folder: Path, device: str) -> tuple[Encoder, Encoder, Batch]:
    """Teacher, student, and one street pair."""
    weights = folder / f"{arch}.pth"
    torch.save(meta_layout(Encoder(ARCHS[arch])), weights)
    teacher = as_teacher(build_encoder(None, weights, keep_periods=True))
    student = build_encoder(None, weights).train()
    store = street_pairs(folder / "pairs", 1, (480, 640))
    sample = PairSamples([store], InputSettings(480, 640, student.patch))[0]
    batch = {key: value[None].to(device) for key, value in sample.items()}
    return teacher.to(device), student.to(device), batch


def street_pairs(folder: Path, scenes: int, size: tuple[int, int]) -> PairStore:
    """A store of rendered pairs."""
    folder.mkdir()
    sources = street.sources(PrepareConfig(name="street", scenes=scenes, size=size))
    with ProcessExecutor(1) as executor:
        write_store(sources, folder, {}, executor=executor)
    return PairStore(folder)


def one_step(distillation: Distillation, optimizer: AdamW, batch: Batch, bf16: bool) -> str:
    """One update; the loss terms for people."""
    student = distillation.encoder
    with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=bf16):
        terms, metrics = distillation.step(distillation.model, batch)
    optimizer.zero_grad(set_to_none=True)
    total(terms, LAMBDAS).backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 0.1)
    optimizer.step()
    parts = ", ".join(f"{name} {float(term.detach()):.4f}" for name, term in terms.items())
    return f"{parts}, active {metrics['active']():.0%}"


def on_cpu(arch: str, folder: Path) -> None:
    teacher, student, batch = models(arch, folder, "cpu")
    optimizer = AdamW(student.parameters(), lr=5e-6, weight_decay=1e-4)
    before, began = peak_mb(), time.perf_counter()
    parts = one_step(Distillation(teacher, student), optimizer, batch, bf16=False)
    print(
        f"{arch}: {count(student):.1f} M parameters, one step of one pair "
        f"{time.perf_counter() - began:.1f} s on {torch.get_num_threads()} threads, "
        f"peak memory {peak_mb():.0f} MB ({before:.0f} before the step), {parts}",
        flush=True,
    )


def on_gpu(arch: str, folder: Path) -> None:
    teacher, student, pair = models(arch, folder, "cuda")
    size = ARCHITECTURES[arch].batch
    batch = {key: value.repeat(size, *[1] * (value.ndim - 1)) for key, value in pair.items()}
    distillation = Distillation(teacher, student)
    optimizer = AdamW(student.parameters(), lr=5e-6, weight_decay=1e-4)
    for bf16 in (True, False):
        torch.cuda.reset_peak_memory_stats()
        step = partial(one_step, distillation, optimizer, batch, bf16)
        parts = step()
        seconds = median_seconds(step)
        peak = torch.cuda.max_memory_allocated() / 2**30
        losses = median_seconds(partial(losses_alone, distillation, batch))
        print(
            f"{arch} on {torch.cuda.get_device_name()}, {'bfloat16' if bf16 else 'float32'}: "
            f"{count(student):.1f} M parameters, batch {size}: {1000 * seconds:.0f} ms a step, "
            f"{size / seconds:.0f} pairs/s, losses {losses / seconds:.0%}, "
            f"peak memory {peak:.1f} GiB, {parts}",
            flush=True,
        )


def on_demo(folder: Path) -> None:
    teacher = as_teacher(build_encoder(None, EMBEDDED_TEACHER))
    store = street_pairs(folder / "pairs", DEMO_BATCH, (96, 128))
    settings = InputSettings(96, 128, teacher.patch)
    samples = PairSamples([store], settings, {**INPUTS, "index": index})
    variants = {}
    for name, keeps, bf16 in (
        ("product before", False, False), ("kept tokens", True, False),
        ("bfloat16", False, True), ("both", True, True),
    ):  # fmt: skip
        distillation = Distillation(teacher, build_encoder(None, EMBEDDED_TEACHER), scale=0.18)
        distillation.targets.keeps = keeps
        distillation.encoder.train()
        optimizer = AdamW(distillation.encoder.parameters(), lr=5e-4)
        variants[name] = partial(loaded_step, samples, distillation, optimizer, bf16)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for number in range(DEMO_ROUNDS + 2):
            for name, step in variants.items():
                began = time.perf_counter(), time.process_time()
                step()
                ended = time.perf_counter(), time.process_time()
                if number > 1:
                    times[name].append((ended[0] - began[0], ended[1] - began[1]))
        first = None
        for name, found in times.items():
            wall, processor = (1000 * statistics.median(part) for part in zip(*found, strict=True))
            first = first or (wall, processor)
            print(
                f"demo, {threads} threads, {name}: {wall:.0f} ms a step, {processor:.0f} ms of the "
                f"processor; x{first[0] / wall:.2f}, x{first[1] / processor:.2f}",
                flush=True,
            )


def loaded_step(
    samples: PairSamples, distillation: Distillation, optimizer: AdamW, bf16: bool
) -> None:
    (batch,) = in_order(samples, np.arange(DEMO_BATCH), DEMO_BATCH)
    one_step(distillation, optimizer, batch, bf16)


def losses_alone(distillation: Distillation, batch: Batch) -> None:
    """Forward and backward of the loss terms, from tokens of the right size."""
    weights = distillation.token_weights(batch)
    shape = (*weights.shape, distillation.encoder.width)
    student = torch.ones(shape, device=weights.device, requires_grad=True)
    teacher = torch.zeros(shape, device=weights.device)
    total(distillation_terms(student, teacher, weights, distillation.structure), LAMBDAS).backward()


def median_seconds(run: Callable[[], object], rounds: int = 7) -> float:
    """Of a call on the GPU, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def count(encoder: Encoder) -> float:
    """Parameters in millions."""
    return sum(p.numel() for p in encoder.parameters()) / 1e6


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--child":
        with tempfile.TemporaryDirectory() as folder:
            if sys.argv[2] == "demo":
                return on_demo(Path(folder))
            (on_gpu if torch.cuda.is_available() else on_cpu)(sys.argv[2], Path(folder))
        return
    for arch in sys.argv[1:] or ("vits", "vitb", "vitl"):
        subprocess.run([sys.executable, __file__, "--child", arch], check=True)


if __name__ == "__main__":
    main()
