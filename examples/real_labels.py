"""The whole path on real labelled pictures: film them, store, train, score, and look.

    python examples/real_labels.py FOLDER -o runs/real_labels

FOLDER holds, where they are, KITTI flow (`frame1.png`, `frame2.png`, `flow_gt.png`), Middlebury
stereo (`im2.ppm`, `im6.ppm`, `disp2.pgm`), a KITTI LiDAR scan with its calibration, RGB-D pictures
with depth in millimetres, CamVid and Cityscapes frames with class ids; real_label_files.py has the
file names.

The labels are real, the events are simulated: a film starts or ends exactly at the labelled
picture, and `EventSimulator` watches it. Single pictures are filmed by a camera that pans a little
and draws back, so that it never looks beyond the picture. Flow pairs move along the true flow, from
the first real picture to the second; where the flow is unknown, as the nearest known pixel does,
and before the first picture as after it. Labels are stored as they come.

Every scene is filmed twice, for training and for scoring, with other camera motion and other
contrast thresholds (flow pairs: other thresholds only). The numbers therefore say that the path
works and that pixels, scales and signs agree, nothing about other pictures.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from real_label_files import (
    CAMVID_CLASSES,
    Scene,
    camvid,
    cityscapes,
    kitti_flow,
    kitti_lidar,
    middlebury_stereo,
    rgbd,
)

from scaleevent.benchmarks.baselines import baseline_scores, constant_baseline
from scaleevent.benchmarks.evaluation import EvalInputs, Evaluation, evaluate, predict
from scaleevent.benchmarks.report import draw_rows
from scaleevent.benchmarks.samples import LabelledSamples, benchmark_split
from scaleevent.benchmarks.task_objective import TaskObjective
from scaleevent.checkpoint import load_task, save_task
from scaleevent.config.catalog import DECODERS, DEFAULT_DECODERS
from scaleevent.config.run import ScheduledSettings
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window
from scaleevent.pairs.alignment import best_shift
from scaleevent.pairs.drawing import pair_name
from scaleevent.pairs.draws import draw_epoch
from scaleevent.pairs.pair import Label, Pair, decode_image, encode_image
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import overlay_events
from scaleevent.simulation.esim import EventSimulator
from scaleevent.system.files import write_json
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import Task
from scaleevent.training.optimizer import build_optimizer
from scaleevent.training.run import Drawn, Run

IMAGE_US, WINDOW_US = 1_000_000, 100_000  # KITTI's cameras run at 10 Hz
BEFORE_FLOW = 0.25  # windows filmed before a flow pair: its motion is extrapolated there
DARK = 0.02  # of full scale, added before the logarithm: above the steps of 8-bit shadows
FAST = 0.75  # quantile of speeds that moves by a pixel from frame to frame
REACH = 8  # shifts of events that are tried, pixels each way
BATCH = 2


@dataclass(frozen=True)
class Trial:
    """One store and one model.

    Args:
        name: Of its folder.
        sources: Folder names, found anywhere below the given one, with their readers.
        task: What is predicted.
        size: Rows and columns of the network's input.
    """

    name: str
    sources: tuple[tuple[str, Callable[[Path], list[Scene]]], ...]
    task: Task
    size: tuple[int, int]


_CAMVID = Segmentation(tuple(CAMVID_CLASSES), np.array(list(CAMVID_CLASSES.values()), np.uint8))
TRIALS = (
    Trial("flow-kitti", (("KITTI", kitti_flow),), Flow(), (96, 320)),
    Trial("flow-stereo", (("middlebury_cones", middlebury_stereo),), Flow(), (96, 112)),
    Trial("depth-lidar", (("kitti_object_vis", kitti_lidar),), Depth(80.0), (96, 320)),
    Trial("depth-rgbd", (("ECCV2014", rgbd), ("pseudo_nyu_dataset", rgbd)), Depth(10.0), (96, 128)),
    Trial(
        "semantics",
        (("CamVid", camvid), ("pseudo_cityscapes_dataset", cityscapes)),
        _CAMVID,
        (96, 128),
    ),
)


def find_scenes(trial: Trial, folder: Path) -> list[Scene]:
    """What the folder has for a trial; a source that is absent gives none."""
    return [
        scene
        for name, read in trial.sources
        for place in sorted(path for path in folder.rglob(name) if path.is_dir())
        for scene in read(place)
    ]


def draw_back(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(2, H, W) float32 motion of a camera that draws back by 4 % and pans by up to 1.5 %."""
    size = np.array([width, height])[:, None, None]
    pan = rng.uniform(-0.015, 0.015, (2, 1, 1)) * size
    rows, columns = np.mgrid[:height, :width]
    from_middle = np.stack([columns, rows]) - (size - 1) / 2
    return (pan - 0.04 * from_middle).astype(np.float32)


def sample(planes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(C, H, W) float32 planes read bilinearly at pixel + (2, H, W) shift, ending at the border."""
    height, width = planes.shape[1:]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    at = np.stack([(columns + shift[0]) / (width - 1), (rows + shift[1]) / (height - 1)], -1)
    grid = torch.from_numpy(2 * at.astype(np.float32) - 1)[None]
    found = F.grid_sample(
        torch.from_numpy(planes)[None], grid, padding_mode="border", align_corners=True
    )
    return found[0].numpy()


def motion_at(motion: np.ndarray, s: float) -> np.ndarray:
    """Motion of what is at each pixel s windows later: m(x) = motion(x - s m(x)), by iteration."""
    found = motion
    for _ in range(3):
        found = sample(motion, -s * found)
    return found


def grey(image: np.ndarray) -> np.ndarray:
    """(1, H, W) float32 luma, 0 to 1 (ITU-R BT.601)."""
    return (image @ np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)[None]


def frame(first: np.ndarray, second: np.ndarray | None, motion: np.ndarray, s: float) -> np.ndarray:
    """(H, W) float32 grey, s windows after the first picture; blended with a second one after it.

    At s = 0 and s = 1 these are the pictures themselves.
    """
    moved = motion_at(motion, s)
    seen = sample(first, -s * moved)[0]
    if second is None or s <= 0:
        return seen
    return (1 - s) * seen + s * sample(second, (1 - s) * moved)[0]


def film(scene: Scene, split: str, seed: int) -> tuple[Pair, np.ndarray]:
    """A pair with simulated events, and the (2, H, W) motion a window that it was filmed with."""
    rng = np.random.default_rng([seed, split == "test"])
    height, width = scene.image.shape[:2]
    motion = draw_back(height, width, rng) if scene.motion is None else scene.motion
    begin, end = (-1.0, 0.0) if scene.following is None else (-BEFORE_FLOW, 1.0)
    count = round((end - begin) * np.quantile(np.hypot(*motion), FAST)) + 2
    times = np.linspace(begin, end, count).tolist()
    first = grey(scene.image)
    second = None if scene.following is None else grey(scene.following)

    def log_frame(s: float) -> np.ndarray:
        return np.log(frame(first, second, motion, s) + DARK)

    threshold = rng.uniform(0.15, 0.25)
    start = log_frame(begin)
    level = start - 0.999 * threshold * rng.uniform(-1, 1, start.shape)
    simulator = EventSimulator(start, begin, threshold, threshold, level=level)
    parts = [simulator.advance(log_frame(s), s) for s in times[1:]]
    s, x, y, p = (np.concatenate(column) for column in zip(*parts, strict=True))
    events = Events(
        IMAGE_US + np.floor(s * WINDOW_US).astype(np.int64), x, y, p, height, width
    )  # fmt: skip
    window = Window(IMAGE_US + round(begin * WINDOW_US), IMAGE_US)
    after, name, end_us = None, _label_name(scene.label), IMAGE_US
    if scene.following is not None:
        end_us = IMAGE_US + WINDOW_US
        after = Window(IMAGE_US, end_us), events.between(IMAGE_US, end_us)
    pair = Pair(
        recording=f"{scene.name}-{split}",
        image_us=IMAGE_US,
        image=encode_image(scene.image, lossless=True),
        events=events.between(None, IMAGE_US),
        window=window,
        after=after,
        labels={name: Label(scene.label, IMAGE_US, end_us)},
        provenance={"split": split},
    )
    return pair, motion


def _label_name(label: np.ndarray) -> str:
    """Name of the task's label: by its shape and type."""
    if label.ndim == 3:
        return Flow.label
    return Segmentation.label if label.dtype == np.uint8 else Depth.label


def write_store(folder: Path, pairs: Sequence[Pair]) -> PairStore:
    """A store of one shard."""
    path = folder / "real.h5"
    with ShardWriter(path) as writer:
        for pair in pairs:
            writer.add(pair)
    entry = finish_shard(path, len(pairs), {}, "real labels")
    settings = {"name": "real-labels"}
    write_json(
        folder / MANIFEST,
        {"format": FORMAT, "kind": "pairs", "settings": settings, "shards": [entry]},
    )
    return PairStore(folder)


def agreement(pair: Pair, motion: np.ndarray) -> np.ndarray:
    """Correlation of the last events with the brightness change that picture and motion predict.

    Brightness constancy: d log I / dt = - grad log I . motion; its sign is the events' polarity.
    The events are those of the last pixel of fast motion, when edges were half a pixel back.

    Returns:
        (17, 17) float64 by shift of the events in y and x from -8 to 8.
    """
    span = 1 / np.quantile(np.hypot(*motion), FAST)
    events = pair.events.between(round(pair.image_us - span * WINDOW_US), None)
    balance = np.zeros((events.height, events.width))
    np.add.at(balance, (events.y, events.x), events.p * 2.0 - 1)
    down, across = np.gradient(np.log(grey(decode_image(pair.image))[0] + DARK))
    change = -(across * motion[0] + down * motion[1])[None]
    change = sample(change, np.float32(span / 2) * motion)[0]
    inner = balance[REACH:-REACH, REACH:-REACH]
    under = np.lib.stride_tricks.sliding_window_view(change, inner.shape)
    return np.array([[np.corrcoef(inner.flat, part.flat)[0, 1] for part in row] for row in under])


def fit_and_score(
    trial: Trial, samples: LabelledSamples, steps: int, out: Path
) -> tuple[Evaluation, tuple[str, dict]]:
    """Train the task's default decoder on a tiny random encoder, save, load, score and draw."""
    split = benchmark_split(samples)
    torch.manual_seed(0)
    encoder = Encoder(ARCHS["tiny"])
    encoder.input = samples.settings
    own = {
        "segmentation": trial.task.decoder_settings | {"queries": 30},
        "depth": trial.task.decoder_settings,
        "flow": {"size": "tiny"},
    }[trial.task.name]
    decoder = DECODERS[DEFAULT_DECODERS[trial.task.name]].load()(encoder, **own)
    cfg = ScheduledSettings(
        out=out / "run", epochs=1, lr=1e-3, schedule="cosine", clip=1.0, save_every=steps,
        device="cpu", overwrite=True,
    )  # fmt: skip
    order = partial(draw_epoch, samples.pairs, split.train, steps * BATCH, 0, sampling="uniform")
    optimizer = build_optimizer(decoder, lr=cfg.lr, encoder_lr=cfg.lr / 2)
    with (
        Run.open(cfg, "real labels", quiet=True) as run,
        run.started(decoder, optimizer, cfg.with_effect()) as first,
    ):
        drawn = Drawn(samples, order, steps * BATCH, BATCH)
        objective = TaskObjective(decoder, frozen=False, cached=None)
        run.train(objective, optimizer, drawn, first, cfg.with_effect())
        save_task(out / "task.safetensors", decoder, {})
        decoder, _ = load_task(out / "task.safetensors")
        result = evaluate(decoder, samples, split.test.tolist(), run.ranks)
    shown = np.unique(split.test[np.linspace(0, len(split.test) - 1, 4).astype(int)]).tolist()
    draw_rows(decoder, samples, np.array(shown), len(shown), out / "panel.png")
    draw_overlays(decoder, samples, shown, out / "overlay.png")
    constant = constant_baseline(samples, split.train)
    return result, next(iter(baseline_scores([constant], samples, split.test).items()))


def draw_overlays(decoder, samples: LabelledSamples, indices: Sequence[int], path: Path) -> None:
    """PNG: last events and label over the picture, prediction, label and error, at input size."""
    columns = ("events over the image", "label over the image", "prediction", "label", "error")
    inputs, rows = EvalInputs(samples, at_input_size=True), []
    for index in indices:
        one, prediction = next(predict(decoder, [inputs[index]]))
        shard, row = samples.pairs.shard(index)
        fit = samples.settings.fit(*samples.sensor(index))
        events, window = shard.events(row)
        recent = events.between(window.end_us - WINDOW_US // 20, None)
        image = decode_image(shard.image(row))
        cropped = fit.crop_picture(overlay_events(image // 2, recent))
        drawn = samples.task.draw([prediction], [one.sample.truth.values])
        pictures = [picture for (picture,) in drawn.values()]
        view = fit.crop_picture(image)
        small = np.asarray(Image.fromarray(view).resize(pictures[1].shape[1::-1]))
        unknown = ~pictures[1].any(-1, keepdims=True)
        over = np.where(unknown, small, pictures[1] // 3 * 2 + small // 3)
        rows.append(Row(pair_name(shard, row), (cropped, over, *pictures)))
    save_picture(path, panel(samples.task.name, columns, rows))


def run_trial(trial: Trial, scenes: Sequence[Scene], steps: int, out: Path) -> None:
    """Film, store, check the events, train, score, draw, print."""
    out.mkdir(parents=True)
    filmed = [
        film(scene, split, seed)
        for seed, scene in enumerate(scenes)
        for split in ("train", "test")
    ]  # fmt: skip
    print(f"{trial.name}: {len(scenes)} scenes")
    for (pair, motion), scene in list(zip(filmed[1::2], scenes, strict=True))[:4]:
        scores = agreement(pair, motion)
        x, y = best_shift(scores)
        print(
            f"  {scene.name}: {len(pair.events):,} events; agreement with the predicted change "
            f"{scores[REACH, REACH]:.2f}, largest at shift ({x}, {y})"
        )
    store = write_store(out, [pair for pair, _ in filmed])
    settings = InputSettings(*trial.size, ARCHS["tiny"]["kwargs"]["patch_size"], stretch=0.05)
    samples = LabelledSamples([store], trial.task, settings)
    result, (name, trivial) = fit_and_score(trial, samples, steps, out)
    headline = trial.task.headline
    print(
        f"  {headline} {result.result[headline]:.3f} after {steps} steps; "
        f"{name}: {trivial[headline]:.3f}; pictures: {out}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/real_labels"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", nargs="+", choices=[trial.name for trial in TRIALS])
    options = parser.parse_args()
    found = 0
    for trial in TRIALS:
        if options.only and trial.name not in options.only:
            continue
        scenes = find_scenes(trial, options.folder)
        if not scenes:
            print(f"{trial.name}: no files")
            continue
        found += 1
        run_trial(trial, scenes, options.steps, options.out / trial.name)
    if not found:
        raise DataError("no labelled pictures", where=options.folder)


if __name__ == "__main__":
    main()
