"""What one can know of the street without looking, and how much happens in it.

    python examples/street_world.py [--scenes 400] [--seeds 0 1 2] [--layout varied]

For each family of scenes, of which the first 70% are fitted and the others scored:

* mIoU of the most frequent class, and of what knows only a token's place, under the ridge and the
  balanced probe of `pretrain`
* the same of a patch's mean colour and contrast alone, which shows whether classes have colours and
  textures of their own
* the pixels of each class, events a pixel, and the share of scenes that are nearly still: fewer
  than 5% of 8x8 cells active by the rule of `grids.density`

The same by mount, over all families. Last, scenes a second of both layouts, in turn, on one core.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}

import numpy as np  # noqa: E402
import torch  # noqa: E402

from scaleevent.datasets.street import TRAINING  # noqa: E402
from scaleevent.grids.density import active_mask, patch_density  # noqa: E402
from scaleevent.grids.voxels import voxelize  # noqa: E402
from scaleevent.grids.windows import Window  # noqa: E402
from scaleevent.objectives.probe_scores import confusions, mean_overlap  # noqa: E402
from scaleevent.objectives.probing import Features, class_shares, fit_ridge  # noqa: E402
from scaleevent.objectives.softmax_probe import fit_softmax  # noqa: E402
from scaleevent.street.scene import CLASSES, StreetSettings, render_scene  # noqa: E402

PATCH = 8  # of the embedded teacher
STILL = 0.05  # share of active cells below which a scene is nearly still
COUNT = len(CLASSES)


@dataclass(frozen=True)
class Facts:
    """What the table needs of one scene: labels (H, W), colours (L, 6), events and activity."""

    labels: np.ndarray
    colours: np.ndarray
    rate: float
    active: float
    mount: str


def facts(settings: StreetSettings, seed: int, index: int) -> Facts:
    """Render one scene."""
    scene = render_scene(seed, index, settings)
    height, width = scene.semantics.shape
    pixels = scene.image.reshape(height // PATCH, PATCH, width // PATCH, PATCH, 3) / 255.0
    pixels = pixels.transpose(0, 2, 1, 3, 4).reshape(-1, PATCH * PATCH, 3)
    voxel = voxelize(scene.events, Window(scene.start_us, scene.image_us))
    return Facts(
        labels=scene.semantics,
        colours=np.concatenate((pixels.mean(1), pixels.std(1)), 1).astype(np.float32),
        rate=len(scene.events) / (height * width),
        active=float(active_mask(patch_density(voxel, PATCH)).mean()),
        mount=scene.mount,
    )


Row = dict[str, float]


def knowledge(fitted: list[Facts], scored: list[Facts]) -> Row:
    """Scores in percent of what knows nothing of the scene, or its colours alone."""
    train, test = ([torch.from_numpy(one.labels) for one in part] for part in (fitted, scored))
    grid = (train[0].shape[0] // PATCH, train[0].shape[1] // PATCH)
    shares = class_shares(train, grid, COUNT)
    top = int(shares.sum((0, 1)).argmax())
    seen = torch.stack(test)
    rows = {"constant": 100 * float((seen == top).double().mean()) / len(torch.unique(seen))}
    place = [Features.place(len(part), grid[0] * grid[1]) for part in (fitted, scored)]
    colour = [
        Features.tokens(torch.from_numpy(np.stack([one.colours for one in part])))
        for part in (fitted, scored)
    ]
    for name, (own, other) in {"place": place, "colour": colour}.items():
        for probe, linear in (
            (name, fit_ridge(own, shares)),
            (f"{name}, balanced", fit_softmax(own, shares, seed=0)[0]),
        ):
            sums = confusions(linear.scores(other), test, grid).sum(0)
            rows[probe] = float(mean_overlap(sums))
    return rows


def activity(scenes: list[Facts]) -> Row:
    """Events a pixel, active cells and nearly still scenes in percent, pixels of each class."""
    labels = np.concatenate([f.labels.ravel() for f in scenes])
    share = 100.0 * np.bincount(labels, minlength=COUNT) / labels.size
    active = np.array([f.active for f in scenes])
    rows = {"events a pixel": float(np.mean([f.rate for f in scenes]))}
    rows |= {"active cells": 100.0 * float(active.mean())}
    rows |= {"nearly still": 100.0 * float((active < STILL).mean())}
    return rows | dict(zip(CLASSES, share.tolist(), strict=True))


def table(columns: dict[str, Row]) -> None:
    """Print one line a quantity."""
    names = list(next(iter(columns.values())))
    print(f"{'':18s}" + "".join(f"{head:>11s}" for head in columns))
    for name in names:
        print(f"{name:18s}" + "".join(f"{column[name]:11.2f}" for column in columns.values()))


def speed(settings: StreetSettings, scenes: int) -> None:
    """Scenes a second of both layouts, rendered in turn: medians of blocks."""
    both = {name: replace(settings, layout=name) for name in ("fixed", "varied")}
    took: dict[str, list[float]] = {name: [] for name in both}
    render: Callable[[int, StreetSettings], object] = partial(render_scene, 9)
    for film in both.values():
        render(0, film)
    for block in range(0, scenes, 10):
        for name, film in both.items():
            began = time.perf_counter()
            for index in range(block, block + 10):
                render(index, film)
            took[name].append((time.perf_counter() - began) / 10)
    fixed, varied = (1.0 / float(np.median(took[name])) for name in both)
    print(f"scenes/s on one core: fixed {fixed:.1f}, varied {varied:.1f}, {varied / fixed:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=400, help="scenes a family")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="families")
    parser.add_argument("--layout", choices=("fixed", "varied"), default="varied")
    parser.add_argument("--jobs", type=int, default=1, help="processes that render")
    args = parser.parse_args()
    settings = StreetSettings(layout=args.layout)
    fitted, scored, columns = [], [], {}
    with ProcessPoolExecutor(args.jobs) as pool:
        for seed in args.seeds:
            indices = range(args.scenes)
            scenes = list(pool.map(facts, repeat(settings), repeat(seed), indices, chunksize=10))
            cut = round(TRAINING * args.scenes)
            columns[f"seed {seed}"] = knowledge(scenes[:cut], scenes[cut:]) | activity(scenes)
            fitted += scenes[:cut]
            scored += scenes[cut:]
    values = {
        name: [column[name] for column in columns.values()] for name in columns[f"seed {seed}"]
    }
    columns["mean"] = {name: float(np.mean(of)) for name, of in values.items()}
    columns["sd"] = {
        name: float(np.std(of, ddof=min(1, len(of) - 1))) for name, of in values.items()
    }
    print(f"{args.layout}: {args.scenes} scenes a seed; mIoU and shares in percent")
    table(columns)
    by_mount = {}
    for mount in sorted({f.mount for f in scored}):
        parts = [[f for f in part if f.mount == mount] for part in (fitted, scored)]
        by_mount[mount] = knowledge(*parts) | activity(parts[0] + parts[1])
    print("\nby mount, all seeds together")
    table(by_mount)
    print()
    speed(settings, 100)


if __name__ == "__main__":
    main()
