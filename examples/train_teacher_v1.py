"""Train `embedded-v1`, from the street of one view: python train_teacher_v1.py OUT.safetensors.

A tiny DINOv3-shaped transformer learns from `street` images what a picture tells about the world
behind it. It sees images with random patches blanked out and predicts, for every token,

* the geometry of the pixels in its patch (depth, height above ground, metric width, surface
  orientation and curvature) and their colours, hidden patches included, by L1 regression;
* which "visual words" these pixels are: clusters of geometry and colour found by k-means.

Depth is the only ground truth used. The class labels of `street` are never read, so a probe for
the classes is a fair test of the features. About ten minutes on one core; the same numbers lead to
the same file on one machine.
"""

from __future__ import annotations

import argparse
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.encoders.encoder import Encoder, build_encoder
from scaleevent.street.scene import StreetSettings, render_scene
from scaleevent.training.tensors import save_tensors

SEED = 1000  # family of scenes, and of everything drawn in training
FILM = StreetSettings(layout="fixed")
FOCAL, HORIZON = 0.86, 0.46  # camera of `street`: image widths and heights
SKY_M = 300.0  # depth given to the sky, metres
EDGE = 0.05  # step in log depth between neighbours where one object ends
# Mean and scale of log depth, log height, log width; the other quantities are near unit size.
CENTRE, SPREAD = (2.9, -0.2, 1.6), (1.4, 2.3, 1.1)

# Weight in the distance between pixels: log depth, height, width; normal; curvature; two colour
# differences. Curvature is small, colour matters less than shape.
WORD_WEIGHTS = torch.tensor((0.4, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 0.5, 0.5))
WORDS = 48
WORD_SAMPLE = 60_000  # pixels that k-means sees

BATCH = 16
RATE, WEIGHT_DECAY, WARMUP = 1e-3, 0.05, 100
HIDDEN = 0.5  # largest share of patches blanked out; each image draws its own
JITTER = 0.2  # largest change of contrast and of each colour's brightness

MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]  # ImageNet, as DINOv3
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


def geometry(depth: np.ndarray) -> np.ndarray:
    """What a depth map says about the surface seen in each pixel.

    Args:
        depth: (H, W) metres along the optical axis, NaN = sky.

    Returns:
        (7, H, W) float16: log depth, log height above the lowest point, log width of the object's
        run of pixels along the row (these in metres, standardised), unit normal into the surface
        (zero in the sky) and the curvature, 1 - |mean normal| over 5x5 pixels.
    """
    height, width = depth.shape
    focal = FOCAL * width
    sky = np.isnan(depth)
    z = np.where(sky, SKY_M, depth)
    right = (np.arange(width) + 0.5 - 0.5 * width) / focal * z
    up = -(np.arange(height) + 0.5 - HORIZON * height)[:, None] / focal * z
    above = np.clip(up - up[~sky].min(), 0.0, 20.0)

    point = np.stack((right, up, z), axis=2)
    normal = np.cross(np.gradient(point, axis=0), np.gradient(point, axis=1))
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    normal[sky] = 0.0
    padded = np.pad(normal, ((2, 2), (2, 2), (0, 0)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
    curvature = np.where(sky, 0.0, 1.0 - np.linalg.norm(around.mean((3, 4)), axis=2))

    edges = np.abs(np.diff(np.log(z), axis=1, prepend=np.inf)) > EDGE  # each row begins a run
    runs = np.cumsum(edges).reshape(z.shape) - 1
    extent = np.clip(np.bincount(runs.ravel())[runs] * z / focal, 0.05, 30.0)

    logs = np.stack((np.log(z), np.log(above + 0.06), np.log(extent)), axis=2)
    maps = np.concatenate(((logs - CENTRE) / SPREAD, normal, curvature[..., None]), axis=2)
    return maps.transpose(2, 0, 1).astype(np.float16)


def view(scene: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 and geometry (7, H, W) float16 of one scene."""
    rendered = render_scene(SEED, scene, FILM)
    return rendered.image, geometry(rendered.depth)


def normalised(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float, as the encoder takes it."""
    return (images.permute(0, 3, 1, 2) / 255.0 - MEAN) / STD


def descriptors(images: Tensor, shapes: Tensor) -> Tensor:
    """(N, 3, H, W) images and (N, 7, H, W) geometry to (N, H, W, 9) pixels to be compared."""
    red, green, blue = images.unbind(1)
    both = torch.cat((shapes, torch.stack((green - red, green - blue), 1)), 1)
    return both.permute(0, 2, 3, 1) * WORD_WEIGHTS


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Number of the centre closest to each point; (..., D) and (K, D) to (...)."""
    # argmin |p - c|^2 = argmax p.c - |c|^2 / 2
    return (points @ centres.T - 0.5 * centres.square().sum(1)).argmax(-1)


def find_words(images: Tensor, shapes: Tensor, generator: torch.Generator) -> Tensor:
    """K-means centres (WORDS, 9) of pixel descriptors."""
    scenes, height, width, _ = images.shape
    share = math.ceil(WORD_SAMPLE / scenes)
    sample = []
    for i in range(scenes):
        chosen = torch.randint(height * width, (share,), generator=generator)
        pixels = descriptors(normalised(images[i : i + 1]), shapes[i : i + 1].float())
        sample.append(pixels.flatten(0, 2)[chosen])
    points = torch.cat(sample)
    centres = points[torch.randperm(len(points), generator=generator)[:WORDS]]
    for _ in range(30):
        word = nearest(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, word, points)
        count = torch.bincount(word, minlength=WORDS)[:, None]
        centres = torch.where(count > 0, sums / count.clamp_min(1), centres)
    return centres


def by_token(maps: Tensor, patch: int) -> Tensor:
    """(N, C, H, W) to (N, L, C * patch * patch): the pixels of each token."""
    return F.unfold(maps, patch, stride=patch).transpose(1, 2)


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


def losses(output: Tensor, image: Tensor, shape: Tensor, words: Tensor, patch: int) -> list[Tensor]:
    """L1 of the pixels' geometry and colour, cross entropy of the share of each word in a patch."""
    target = by_token(torch.cat((shape, image), 1), patch)
    pixels, logits = output.split((target.shape[2], WORDS), dim=2)
    word = by_token(nearest(descriptors(image, shape), words)[:, None].float(), patch).long()
    share = torch.zeros_like(logits).scatter_add_(2, word, torch.ones(word.shape)) / patch**2
    return [(pixels - target).abs().mean(), -(share * logits.log_softmax(2)).sum(2).mean()]


def train(images: Tensor, shapes: Tensor, epochs: int) -> tuple[Encoder, list[float]]:
    """Train on (N, H, W, 3) images and (N, 7, H, W) geometry; gives encoder and last losses."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    words = find_words(images, shapes, generator)
    encoder = build_encoder("tiny").train()
    head = nn.Linear(encoder.width, (shapes.shape[1] + 3) * encoder.patch**2 + WORDS)
    both = nn.ModuleList((encoder, head))
    steps = epochs * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(both.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda n: min(1.0, (n + 1) / WARMUP) * 0.5 * (1.0 + math.cos(math.pi * n / steps)),
    )
    started, mean = time.perf_counter(), []
    for epoch in range(epochs):
        history = []
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            image, shape = normalised(images[index]), shapes[index].float()
            output = head(encoder.tokens(corrupted(image, encoder.patch, generator)))
            terms = losses(output, image, shape, words, encoder.patch)
            optimizer.zero_grad()
            sum(terms).backward()
            nn.utils.clip_grad_norm_(both.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            history.append([term.item() for term in terms])
        mean = np.mean(history, axis=0).round(4).tolist()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}  pixels {mean[0]}  words {mean[1]}  {seconds:.0f} s")
    return encoder, mean


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded teacher on street images.")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2, help="processes that render")
    args = parser.parse_args()

    with ProcessPoolExecutor(args.jobs) as pool:
        views = pool.map(view, range(args.scenes), chunksize=10)
        images, shapes = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
    height, width = images.shape[1:3]
    print(f"{args.scenes} scenes of {height}x{width}")
    torch.set_num_threads(1)  # sums in one order: the same file whatever the number of cores
    encoder, last = train(images, shapes, args.epochs)

    about = {
        "kind": "encoder",
        "arch": dict(encoder.spec),
        "training": {
            "data": f"street images, seed {SEED}, scenes 0 to {args.scenes - 1}",
            "size": [height, width],
            "targets": "geometry from depth, colour, k-means words of both; patches hidden",
            "class_labels": "none used",
            "epochs": args.epochs,
            "seed": SEED,
            "losses": dict(zip(("pixels", "words"), last, strict=True)),
            "script": "examples/train_teacher_v1.py",
        },
    }
    state = {name: value.half() for name, value in encoder.vit.state_dict().items()}
    save_tensors(args.out, state, about)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
