"""Train the embedded teacher: python train_teacher.py OUT.safetensors [--steps N] [--supervised].

A tiny DINOv3-shaped transformer learns from `street` images what a picture tells about the world
behind it. It sees images with random patches blanked out and predicts, for every token,

* the geometry of its patch in a frame that is level with the ground (depth, height above ground,
  surface orientation and curvature, metric size of the object it belongs to) and its colours,
  hidden patches included, by L1 regression;
* which "visual words" its pixels are: clusters of geometry and colour found by k-means.

Depth and the camera's pose are the only ground truth used. The class labels of `street` are never
read, so a probe for the classes is a fair test of the features. `--supervised` learns the classes
alone, with everything else the same: the bound that the teacher is compared with, never shipped. A
weaker teacher is one of a quarter of the steps. At most 20 minutes of one core, rendering included;
the same numbers lead to the same file on one machine. `teacher_table.py` measures the files.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import maximum, minimum
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from scaleevent.config.catalog import ARCHITECTURES
from scaleevent.encoders.encoder import Encoder, build_encoder
from scaleevent.street.camera import pixel_rays
from scaleevent.street.scene import CLASSES, StreetScene, StreetSettings, render_scene
from scaleevent.training.tensors import save_tensors

SKY_M = 300.0  # depth given to the sky, metres
STEP = 0.05  # relative step in depth between neighbours where one object ends
GROUND_M, GROUND_UP = 0.25, 0.8  # lower and flatter than this is ground
CELL = 2  # pixels to a side of what is regressed

WORDS = 64
WORD_SAMPLE = 100_000  # pixels that k-means sees
WORD_ROUNDS = 25

BATCH = 16
RATE, MATRIX_RATE, WEIGHT_DECAY, WARMUP = 1.5e-3, 1e-2, 0.05, 50
HIDDEN = 0.5  # largest share of patches blanked out; each image draws its own
JITTER = 0.2  # largest change of contrast and of each colour's brightness
HAS_BFLOAT16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # in this processor
TARGETS = "level geometry from depth and pose, colour, k-means words of both; hidden patches"
SHOWN = 250  # steps between lines
RIGHTWARD = 4  # channel of `geometry` that changes its sign in a mirror

MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]  # ImageNet, as DINOv3
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


class Views(NamedTuple):
    """What is learned from; images and maps of N scenes."""

    images: Tensor  # (N, H, W, 3) uint8
    shapes: Tensor  # (N, C, H, W) float16, see `geometry`
    semantics: Tensor  # (N, H, W) uint8, for `--supervised` alone


def level_points(depth: np.ndarray, scene: StreetScene) -> np.ndarray:
    """Where each pixel's surface is: (H, W, 3) metres right, up from the ground and ahead."""
    pose = scene.pose
    across, up, along = np.moveaxis(pixel_rays(pose, scene.lens, *depth.shape), 2, 0)
    right = math.cos(pose.yaw) * across - math.sin(pose.yaw) * along
    ahead = math.sin(pose.yaw) * across + math.cos(pose.yaw) * along
    return np.stack((right * depth, pose.y + up * depth, ahead * depth), axis=2)


def ground_plane(point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Height of the ground below each pixel's surface, (H, W) metres.

    A plane through the ground below the camera, fitted to what lies level and low; with roofs and
    cars about, in three rounds.
    """
    right, up, ahead = np.moveaxis(point, 2, 0)
    far = np.hypot(right, ahead)
    level = (normal[..., 1] < -GROUND_UP) & (far < 80.0)
    slope = np.zeros(2)
    for steep, thick in ((0.12, 0.3), (0.04, 0.3), (0.02, 0.2)):
        plane = slope[0] * right + slope[1] * ahead
        own = level & (np.abs(up - plane) < steep * far + thick)
        if np.count_nonzero(own) < 50:
            break
        sides = np.stack((right[own], ahead[own]), axis=1) / np.maximum(far[own], 1.0)[:, None]
        heights = up[own] / np.maximum(far[own], 1.0)
        slope = np.linalg.solve(sides.T @ sides + 0.01 * len(sides) * np.eye(2), sides.T @ heights)
    plane = slope[0] * right + slope[1] * ahead
    return np.asarray(plane)


def objects(depth: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Number of the object each pixel belongs to: neighbours without a step in depth; (H, W)."""
    number = np.arange(depth.size).reshape(depth.shape)
    pairs = []
    for axis in (0, 1):
        near, far = (np.take(number, np.arange(a, depth.shape[axis] - 1 + a), axis) for a in (0, 1))
        step = np.abs(np.diff(np.log(depth), axis=axis)) < STEP
        same = step & (np.diff(ground.astype(np.int8), axis=axis) == 0)
        pairs.append(np.stack((near[same], far[same])))
    row, column = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(row), bool), (row, column)), shape=(depth.size, depth.size))
    found: np.ndarray = connected_components(graph, directed=False)[1]
    return found.reshape(depth.shape)


def geometry(scene: StreetScene) -> np.ndarray:
    """What depth and pose say about the surface seen in each pixel.

    Returns:
        (8, H, W) float16, each of about unit size: log depth, log height above ground, log width
        and log top of the object, unit normal into the surface (right, up, ahead; zero in the sky)
        and curvature, 1 - |mean normal| over 5x5 pixels.
    """
    sky = np.isnan(scene.depth)
    depth = np.where(sky, SKY_M, scene.depth).astype(np.float64)
    point = level_points(depth, scene)
    normal = np.cross(np.gradient(point, axis=0), np.gradient(point, axis=1))
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    normal[sky] = 0.0
    padded = np.pad(normal, ((2, 2), (2, 2), (0, 0)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
    curvature = np.where(sky, 0.0, 1.0 - np.linalg.norm(around.mean((3, 4)), axis=2))

    above = np.clip(point[..., 1] - ground_plane(point, normal), 0.0, 20.0)
    ground = ~sky & (above < GROUND_M) & (normal[..., 1] < -GROUND_UP)
    owner = objects(depth, ground)
    index = np.arange(owner.max() + 1)
    wide = maximum(point[..., 0], owner, index) - minimum(point[..., 0], owner, index)
    wide += depth.ravel()[np.unique(owner, return_index=True)[1]] / scene.lens.focal  # one pixel
    top = maximum(above, owner, index)
    logs = (
        (np.log(depth) - 2.5) / 1.3,
        (np.log(above + 0.06) + 0.2) / 2.0,
        (np.log(np.clip(wide, 0.05, 30.0))[owner] - 1.6) / 1.5,
        (np.log(top + 0.06)[owner] - 0.5) / 1.7,
    )
    maps = np.stack((*logs, *normal.transpose(2, 0, 1), 4.0 * curvature))
    return maps.astype(np.float16)


def cpu_seconds() -> float:
    """CPU seconds of this process and of those it has waited for."""
    took = os.times()
    return round(took.user + took.system + took.children_user + took.children_system)


def view(seed: int, settings: StreetSettings, number: int) -> tuple[np.ndarray, ...]:
    """Image (H, W, 3), geometry (8, H, W) and semantics (H, W) of one scene."""
    scene = render_scene(seed, number, settings)
    return scene.image, geometry(scene), scene.semantics


def render(seed: int, scenes: range, settings: StreetSettings, jobs: int) -> Views:
    """Views of some scenes."""
    with ProcessPoolExecutor(jobs) as pool:
        rows = pool.map(partial(view, seed, settings), scenes, chunksize=10)
        return Views(*(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)))


def normalised(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float, as the encoder takes it."""
    return (images.permute(0, 3, 1, 2) / 255.0 - MEAN) / STD


# Weight in the distance between pixels: log depth, height, width and top; normal; curvature; two
# colour differences. A wall is the same whether it is on the left or on the right.
WORD_WEIGHTS = torch.tensor((0.4, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.5, 0.5))


def descriptors(images: Tensor, shapes: Tensor) -> Tensor:
    """(N, 3, H, W) images and (N, 8, H, W) geometry to (N, H, W, 10) pixels to be compared."""
    red, green, blue = images.unbind(1)
    shapes = torch.cat((shapes[:, :4], shapes[:, 4:5].abs(), shapes[:, 5:]), 1)
    both = torch.cat((shapes, torch.stack((green - red, green - blue), 1)), 1)
    return both.permute(0, 2, 3, 1) * WORD_WEIGHTS


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Number of the centre closest to each point; (..., D) and (K, D) to (...)."""
    # argmin |p - c|^2 = argmax p.c - |c|^2 / 2
    return (points @ centres.T - 0.5 * centres.square().sum(1)).argmax(-1)


def find_words(views: Views, generator: torch.Generator) -> Tensor:
    """K-means centres (WORDS, 10) of pixel descriptors."""
    scenes, height, width, _ = views.images.shape
    share = math.ceil(WORD_SAMPLE / scenes)
    sample = []
    for i in range(scenes):
        chosen = torch.randint(height * width, (share,), generator=generator)
        pixels = descriptors(normalised(views.images[i : i + 1]), views.shapes[i : i + 1].float())
        sample.append(pixels.flatten(0, 2)[chosen])
    points = torch.cat(sample)
    centres = points[torch.randperm(len(points), generator=generator)[:WORDS]]
    for _ in range(WORD_ROUNDS):
        word = nearest(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, word, points)
        count = torch.bincount(word, minlength=WORDS)[:, None]
        centres = torch.where(count > 0, sums / count.clamp_min(1), centres)
    return centres


def shares(ids: Tensor, kinds: int, patch: int) -> Tensor:
    """(N, H, W) numbers below `kinds` to the share of each in each patch, (N, kinds, h, w)."""
    hot = F.one_hot(ids.long(), kinds).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(hot, patch)


class Lesson(NamedTuple):
    """What a token is to tell, as maps that can be mirrored."""

    cells: Tensor  # (N, C, H / CELL, W / CELL) float16: geometry and colours
    words: Tensor  # (N, K, h, w) float16: share of each word, or class


def prepare(views: Views, patch: int, supervised: bool, generator: torch.Generator) -> Lesson:
    """The targets of all scenes."""
    centres = None if supervised else find_words(views, generator)
    cells, words = [], []
    for start in range(0, len(views.images), 50):
        images = normalised(views.images[start : start + 50])
        shapes = views.shapes[start : start + 50].float()
        if centres is None:
            ids, kinds = views.semantics[start : start + 50], len(CLASSES)
        else:
            ids, kinds = nearest(descriptors(images, shapes), centres), len(centres)
        words.append(shares(ids, kinds, patch).half())
        cells.append(F.avg_pool2d(torch.cat((shapes, images), 1), CELL).half())
    return Lesson(torch.cat(cells), torch.cat(words))


def mirrored(mirror: Tensor, *maps: Tensor) -> list[Tensor]:
    """(N, ...) maps with those of some samples, `mirror` (N,), turned left to right."""
    apart = mirror[:, None, None, None]
    return [torch.where(apart, one.flip(3), one) for one in maps]


def corrupted(images: Tensor, patch: int, generator: torch.Generator) -> Tensor:
    """Images with other contrast and colours, and some patches blanked out."""
    count, _, height, width = images.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    contrast = 1.0 + JITTER * (2.0 * draw(count, 1, 1, 1) - 1.0)
    shift = JITTER * (2.0 * draw(count, 3, 1, 1) - 1.0)
    hidden = HIDDEN * draw(count, 1, 1, 1)
    visible = (draw(count, 1, height // patch, width // patch) >= hidden).float()
    return (images * contrast + shift) * F.interpolate(visible, scale_factor=patch)


class Pupil(nn.Module):
    """The encoder and what is read from its tokens while it learns."""

    def __init__(self, lesson: Lesson) -> None:
        super().__init__()
        self.encoder = build_encoder("tiny").train()
        for block in self.encoder.vit.blocks:
            block.attn.fused_attn = False  # of so few tokens 1.4 times as fast in bfloat16
        self.kinds = lesson.words.shape[1]
        side = self.encoder.patch // CELL
        self.head = nn.Linear(self.encoder.width, lesson.cells.shape[1] * side**2 + self.kinds)

    def losses(self, images: Tensor, cells: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """L1 of the cells' geometry and colour, cross entropy of the share of each word."""
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            output = self.head(self.encoder.tokens(images))
        found, logits = output.float().tensor_split([-self.kinds], dim=2)
        side = self.encoder.patch // CELL
        target = F.unfold(cells, side, stride=side).transpose(1, 2)
        share = words.flatten(2).transpose(1, 2)
        entropy = -(share * logits.log_softmax(2)).sum(2).mean()
        return (found - target).abs().mean(), entropy


class Course:
    """Optimisers of a training of some steps: Muon for the blocks' matrices, AdamW for the rest."""

    def __init__(self, pupil: Pupil, steps: int) -> None:
        named = dict(pupil.named_parameters())
        matrices = [name for name, one in named.items() if ".blocks." in name and one.ndim == 2]
        rest = [one for name, one in named.items() if name not in matrices]
        self.parameters = list(named.values())
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, RATE, weight_decay=WEIGHT_DECAY),
            torch.optim.Muon(
                [named[name] for name in matrices], MATRIX_RATE, weight_decay=WEIGHT_DECAY,
                adjust_lr_fn="match_rms_adamw",
            ),
        ]  # fmt: skip
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                one,
                lambda n: min(1.0, (n + 1) / WARMUP) * 0.5 * (1.0 + math.cos(math.pi * n / steps)),
            )
            for one in self.optimizers
        ]

    def step(self, loss: Tensor) -> None:
        """One update along the gradient of a loss."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for one in (*self.optimizers, *self.schedules):
            one.step()


def train(
    images: Tensor, lesson: Lesson, steps: int, supervised: bool, generator: torch.Generator
) -> tuple[Encoder, list[float]]:
    """Train on (N, H, W, 3) images; gives the encoder and the last losses: cells, words."""
    pupil = Pupil(lesson)
    course, patch = Course(pupil, steps), pupil.encoder.patch
    order, history, began = torch.empty(0, dtype=torch.long), [], time.process_time()
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        mirror = torch.rand(BATCH, generator=generator) < 0.5
        image, cells, words = mirrored(
            mirror, normalised(images[chosen]), lesson.cells[chosen].float(),
            lesson.words[chosen].float(),
        )  # fmt: skip
        cells[mirror, RIGHTWARD] *= -1.0
        terms = pupil.losses(corrupted(image, patch, generator), cells, words)
        course.step(terms[1] if supervised else terms[0] + terms[1])
        history.append([term.item() for term in terms])
        if step % SHOWN == 0 or step == steps:
            cells_l1, entropy = np.mean(history[-SHOWN:], axis=0)
            took = time.process_time() - began
            print(f"step {step}  cells {cells_l1:.4f}  words {entropy:.4f}  {took:.0f} CPU s")
    return pupil.encoder, np.mean(history[-SHOWN:], axis=0).round(4).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded teacher on street images.")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=4800)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1000, help="of the scenes and of all draws")
    parser.add_argument("--layout", default="varied", help="of the scenes")
    parser.add_argument("--supervised", action="store_true", help="on classes; not to be shipped")
    parser.add_argument("--jobs", type=int, default=1, help="processes that render")
    args = parser.parse_args()
    if args.scenes < BATCH:
        parser.error(f"--scenes must be at least {BATCH}")

    torch.set_num_threads(1)  # sums in one order: the same file whatever the number of cores
    views = render(args.seed, range(args.scenes), StreetSettings(layout=args.layout), args.jobs)
    height, width = views.images.shape[1:3]
    print(f"{args.scenes} scenes of {height}x{width}, {cpu_seconds()} CPU s")
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    lesson = prepare(views, ARCHITECTURES["tiny"].patch, args.supervised, generator)
    images = views.images
    del views
    print(f"targets made, {cpu_seconds()} CPU s")
    encoder, last = train(images, lesson, args.steps, args.supervised, generator)
    about = {
        "kind": "encoder",
        "arch": dict(encoder.spec),
        "training": {
            "data": f"street images, layout {args.layout}, seed {args.seed}, "
            f"scenes 0 to {args.scenes - 1}",
            "size": [height, width],
            "targets": "class labels" if args.supervised else TARGETS,
            "class_labels": "used: a bound, not a teacher" if args.supervised else "none used",
            "steps": args.steps,
            "seed": args.seed,
            "losses": dict(zip(("cells", "words"), last, strict=True)),
            "bfloat16": HAS_BFLOAT16,
            "script": "examples/train_teacher.py",
        },
    }
    state = {name: value.half() for name, value in encoder.vit.state_dict().items()}
    save_tensors(args.out, state, about)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {cpu_seconds()} CPU s")


if __name__ == "__main__":
    main()
