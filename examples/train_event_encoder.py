"""Train `embedded-event`: python train_event_encoder.py FOLDER [--steps N] [--scenes N].

The event encoder in the package, with a head for classes and one for depth. `street` is filmed at
three speeds, each with other noise; the student starts from the image teacher `embedded` and is
distilled as `pretrain --preset demo` does it, for 3,000 steps of 16 pairs; the file keeps it in
float16. Linear heads then learn from the labels of other scenes, on the frozen tokens of that file,
as `probe` does it, and are scored on scenes that neither stage has seen, beside what the place in
the picture tells without any event.

Writes the three files of `scaleevent/data`, with the names of all scenes that were learned from.
About twenty CPU minutes of one busy core with bf16, rendering included; the same numbers lead to
the same files on one machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from scaleevent.checkpoint import load_task, save_head
from scaleevent.commands import prepare, pretrain
from scaleevent.commands.task_run import run_task
from scaleevent.config.data import PrepareConfig
from scaleevent.config.downstream import ProbeConfig
from scaleevent.config.pretrain import pretrain_config
from scaleevent.config.settings import load_config
from scaleevent.system.files import Json, read_json
from scaleevent.system.locations import EMBEDDED_DEFAULT, embedded_file
from scaleevent.system.platform import has_bfloat16
from scaleevent.training.tensors import load_tensors, save_tensors

LIMITS = "no real recording among them: a demonstration, no measure of the method"
SEED = 7001  # of the first family of scenes; odd ones are not those of `pretrain --seed N`
FILMS: dict[str, dict[str, float]] = {  # what differs from `prepare street`
    "usual": {},
    "fast": {"speed": 2.0, "noise_hz": 1.0},
    "slow": {"speed": 0.5, "noise_hz": 0.3},
}
LEAST = 16 * len(FILMS)  # scenes, so that those of the heads can be split
BATCH = 16
HELD_OUT = 0.05  # of the scenes of the distillation
HEADS = {  # benchmark: name in the package, headline
    "street-semantic": ("embedded-event", "miou"),
    "street-depth": ("embedded-event-depth", "rmse"),
}
HEAD = {"epochs": 40, "batch": 8, "lr": 2e-3}


def cpu_seconds() -> float:
    """CPU seconds of this process and of those it has waited for."""
    took = os.times()
    return round(took.user + took.system + took.children_user + took.children_system)


def file_name(name: str, task: bool = False) -> str:
    """Of weights in the package."""
    found = embedded_file(name, task)
    assert found is not None
    return found.name


def film(first_seed: int, scenes: int, jobs: int, work: Path) -> list[Path]:
    """A store of pairs for each film, of a family of scenes of its own."""
    folders = []
    for place, (name, settings) in enumerate(FILMS.items()):
        seed = first_seed + 2 * place
        flags: dict[str, Any] = {"name": "street", "seed": seed, "scenes": scenes, "jobs": jobs}
        folders.append(work / f"{name}-{seed}")
        if not folders[-1].exists():
            done = flags | settings | {"out": folders[-1]}
            prepare.run(load_config(PrepareConfig, done), quiet=True)
    return folders


def distil(stores: list[Path], steps: int, work: Path) -> Path:
    """The encoder after some steps."""
    flags = {
        "preset": "demo", "data": stores, "teacher": EMBEDDED_DEFAULT, "validation": HELD_OUT,
        "batch": BATCH, "lr": 5e-4, "epochs": 1, "draws": BATCH * steps, "probe": False,
        "out": work / "encoder", "device": "cpu",
    }  # fmt: skip
    path = work / "encoder" / "encoder.safetensors"
    if not path.exists():
        pretrain.run(pretrain_config(flags))
    return path


def ship_encoder(trained: Path, out: Path, about: Json) -> Path:
    """Write the encoder as it ships: float16, without the paths and settings of this machine."""
    state, known = load_tensors(trained, "encoder")
    kept = ("kind", "arch", "input", "teacher", "token_scale", "structure", "window", "step")
    description = {key: known[key] for key in kept}
    description["config"] = {key: known["config"][key] for key in ("preset", "student_init")}
    seen = known["data"]["recordings"]
    description["data"] = {"recordings": seen}
    data = f"simulated events of {len(seen):,} rendered street scenes, sensor 96x128"
    description["training"] = about | {"data": data}
    description["metrics"] = known["metrics"]
    path = out / file_name("embedded-event")
    half = {name: value.half() for name, value in state.items()}
    save_tensors(path, half, description)
    return path


def ship_head(benchmark: str, encoder: Path, stores: list[Path], out: Path, work: Path) -> Json:
    """Train a linear head on the encoder as it ships and write it; gives its scores."""
    folder = work / benchmark
    flags = {"benchmark": benchmark, "checkpoint": str(encoder), "data": stores, "out": folder}
    cfg = load_config(ProbeConfig, flags | HEAD | {"overwrite": folder.exists(), "device": "cpu"})
    run_task(cfg.as_finetuning(), "probe", quiet=True, record=cfg)
    decoder, known = load_task(folder / "task.safetensors")
    kept = ("benchmark", "protocol", "teacher", "window", "labels", "metrics", "stamp")
    description = {key: known[key] for key in kept}
    description["data"] = {key: known["data"][key] for key in ("recordings", "training_samples")}
    _, own = load_tensors(encoder, "encoder")
    labelled = f"the head by labels of {known['data']['training_samples']:,} others"
    data = f"{own['training']['data']}; {labelled}"
    description["training"] = own["training"] | {"data": data}
    description["pretraining"] = own["data"]
    description["encoder"] = {
        "source": "embedded-event", "sha256": own["sha256"], "student_init": "teacher",
    }  # fmt: skip
    name, headline = HEADS[benchmark]
    save_head(out / file_name(name, task=True), decoder, encoder, description)
    rows = read_json(folder / "report.json")["rows"]
    return {row[""]: row[headline] for row in rows if headline in row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the three files")
    parser.add_argument("--steps", type=int, default=3000, help="of the distillation")
    parser.add_argument("--scenes", type=int, default=3000, help="of all; a quarter for the heads")
    parser.add_argument("--jobs", type=int, default=1, help="processes that render")
    parser.add_argument("--work", type=Path, help="keep pairs and runs here")
    args = parser.parse_args()
    if args.scenes < LEAST:
        parser.error(f"--scenes must be at least {LEAST}")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums in one order: the same file whatever the number of cores
    with tempfile.TemporaryDirectory() as folder:
        train(args, args.work or Path(folder))


def train(args: argparse.Namespace, work: Path) -> None:
    """All stages, with scores and CPU seconds as lines."""
    each = args.scenes // (4 * len(FILMS))
    distilled = film(SEED, 3 * each, args.jobs, work)
    labelled = film(SEED + 2 * len(FILMS), each, args.jobs, work)
    print(f"{4 * each * len(FILMS)} scenes rendered, {cpu_seconds()} CPU s", flush=True)
    began = cpu_seconds()
    trained = distil(distilled, args.steps, work)
    print(f"distilled: {args.steps} steps, {cpu_seconds() - began} CPU s", flush=True)
    families = range(SEED, SEED + 4 * len(FILMS), 2)
    about: Json = {
        "families": list(families),
        "sensor": [96, 128],
        "films": FILMS,
        "limits": LIMITS,
        "seed": SEED,
        "steps": args.steps,
        "bfloat16": has_bfloat16(),
        "script": "examples/train_event_encoder.py",
    }
    encoder = ship_encoder(trained, args.out, about)
    for benchmark, (_, headline) in HEADS.items():
        for row, score in ship_head(benchmark, encoder, labelled, args.out, work).items():
            print(f"{benchmark}, {headline}: {score:.3f} {row}", flush=True)
    sizes = {path.name: path.stat().st_size for path in sorted(args.out.glob("street_event*"))}
    print(*(f"{name}: {size:,} bytes" for name, size in sizes.items()), sep="\n")
    print(f"in all {sum(sizes.values()):,} bytes, {cpu_seconds()} CPU s")


if __name__ == "__main__":
    main()
