"""What images tell an encoder, by class: python teacher_table.py [FILE|NAME ...] [--panel OUT.png].

Renders worlds that no teacher was trained on, fits linear probes on the tokens of the first scenes
and scores them on the others: overlap of the classes by ridge and by class-balanced softmax
regression, error of the depth. Beside the encoders stand a constant and what knows only the place
of a token in the picture. `--panel` draws the features of the first encoder: the first three
principal components over all held-out scenes, as red, green, blue.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaleevent.encoders.encoder import as_teacher, build_encoder
from scaleevent.objectives.probe_scores import confusions, depth_errors, overlap, rmse
from scaleevent.objectives.probing import (
    Features,
    Linear,
    class_shares,
    fit_log_depth,
    fit_ridge,
    log_depths,
)
from scaleevent.objectives.softmax_probe import fit_softmax
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import FeatureColours, brightened
from scaleevent.street.scene import CLASSES, PALETTE, StreetSettings, render_scene

LIMITS = (0.5, 80.0)  # metres that are predicted, and up to which depth counts
PATCH = 8
SHOWN = 8  # scenes of a panel


@dataclass(frozen=True)
class Scenes:
    """Held-out scenes of one world; the first `fitted` train the probes, the others test them."""

    images: np.ndarray  # (N, H, W, 3) uint8
    semantics: Tensor  # (N, H, W) uint8
    depth: Tensor  # (N, H, W) metres, NaN = sky
    fitted: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        height, width = self.images.shape[1:3]
        return height // PATCH, width // PATCH

    def tokens(self, weights: str) -> Tensor:
        """(N, L, D) of an encoder on all images."""
        encoder = as_teacher(build_encoder(None, weights))
        mean, std = (torch.tensor(one) for one in (encoder.colours.mean, encoder.colours.std))
        found = []
        for some in torch.from_numpy(self.images).split(50):
            images = ((some / 255.0 - mean) / std).permute(0, 3, 1, 2)
            with torch.inference_mode():
                found.append(encoder.tokens(images))
        return torch.cat(found)


def view(seed: int, layout: str, number: int) -> tuple[np.ndarray, ...]:
    """Image, semantics and depth of one scene."""
    scene = render_scene(seed, number, StreetSettings(layout=layout))
    return scene.image, scene.semantics, scene.depth


def render(seed: int, layout: str, fitted: int, tested: int, jobs: int) -> Scenes:
    """Scenes of one world."""
    with ProcessPoolExecutor(jobs) as pool:
        rows = pool.map(partial(view, seed, layout), range(fitted + tested), chunksize=10)
        images, semantics, depth = (np.stack(part) for part in zip(*rows, strict=True))
    return Scenes(images, torch.from_numpy(semantics), torch.from_numpy(depth), fitted)


@dataclass(frozen=True)
class Scores:
    """One row of the table, in percent and metres."""

    ridge: np.ndarray  # (K,) overlap of each class
    balanced: np.ndarray
    depth: float

    def show(self, name: str) -> None:
        """Print it."""
        for kind, classes in (("ridge", self.ridge), ("balanced", self.balanced)):
            own = " ".join(f"{100 * one:8.1f}" for one in classes)
            depth = f"{self.depth:8.2f}" if kind == "ridge" else ""
            print(f"{name[-34:]:34} {kind:8} {100 * np.nanmean(classes):6.2f} {own} {depth}")


def probed(scenes: Scenes, features: Features) -> Scores:
    """The probes on some features of all scenes."""
    cut, grid, kinds = scenes.fitted, scenes.grid, len(CLASSES)
    fitted = features.take(np.arange(cut))
    tested = features.take(np.arange(cut, features.samples))
    shares = class_shares(scenes.semantics[:cut], grid, kinds)

    def overlaps(fit: Callable[[Features, Tensor], Linear]) -> np.ndarray:
        scores = fit(fitted, shares).scores(tested)
        return overlap(confusions(scores, scenes.semantics[cut:], grid).sum(0))

    logs = log_depths(scenes.depth[:cut], grid, LIMITS[1])
    found = fit_log_depth(fitted, *logs)[0].scores(tested)
    errors = depth_errors(found, scenes.depth[cut:], grid, LIMITS)
    return Scores(
        overlaps(fit_ridge),
        overlaps(lambda *given: fit_softmax(*given)[0]),
        float(rmse(errors.sum(0))),
    )


def constant(scenes: Scenes) -> Scores:
    """The class that is most frequent, and the mean log depth."""
    cut = scenes.fitted
    most = torch.bincount(scenes.semantics[:cut].flatten().long()).argmax()
    truth = scenes.semantics[cut:]
    own = (truth == most).float().mean().item()
    classes = np.where(np.arange(len(CLASSES)) == int(most), own, 0.0)
    fitted, tested = (one[one <= LIMITS[1]] for one in (scenes.depth[:cut], scenes.depth[cut:]))
    guess = fitted.double().log().mean().exp()
    return Scores(classes, classes, float((tested - guess).square().mean().sqrt()))


def draw(scenes: Scenes, tokens: Tensor, name: str, out: Path) -> None:
    """Features beside images and classes."""
    held = tokens[scenes.fitted :].numpy()
    colours = FeatureColours.fitted(held)
    rows = []
    for i in np.linspace(0, len(held) - 1, SHOWN).astype(int):
        number = scenes.fitted + i
        image, lifted = brightened(scenes.images[number])
        classes = PALETTE[scenes.semantics[number].numpy()]
        rows.append(
            Row(f"scene {number}{lifted}", (image, classes, colours.draw(held[i], scenes.grid)))
        )
    title = f"Held-out scenes in the principal components of {Path(name).name}"
    save_picture(out, panel(title, ("image", "classes", "features"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="Probe encoders on images of unseen worlds.")
    parser.add_argument("encoders", nargs="*", default=["embedded"], help="files or names")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the world; 1000 trained the teacher"
    )
    parser.add_argument("--layout", default="varied")
    parser.add_argument("--fitted", type=int, default=400, help="scenes that probes are fitted on")
    parser.add_argument("--tested", type=int, default=250)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--panel", type=Path, help="picture of the first encoder's features")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes = render(args.seed, args.layout, args.fitted, args.tested, args.jobs)
    samples, places = len(scenes.images), scenes.grid[0] * scenes.grid[1]
    print(f"{'world ' + str(args.seed):34} {'probe':8} {'mIoU':>6} "
          + " ".join(f"{name[:8]:>8}" for name in CLASSES) + "  depth m")  # fmt: skip
    constant(scenes).show("constant")
    probed(scenes, Features.place(samples, places)).show("place only")
    for number, weights in enumerate(args.encoders):
        tokens = scenes.tokens(weights)
        probed(scenes, Features.tokens(tokens)).show(weights)
        if number == 0 and args.panel:
            draw(scenes, tokens, weights, args.panel)


if __name__ == "__main__":
    main()
