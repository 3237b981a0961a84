"""Contact sheet of the street world: python street_sheet.py OUT.png [--layout varied --scenes 24].

One scene after the other: image, events, classes, depth (near bright) and flow (direction as hue).
"""

import argparse
from typing import get_args

import numpy as np
from PIL import Image

from scaleevent.pictures import draw_events
from scaleevent.street.scene import (
    CLASSES,
    DEFAULT_LAYOUT,
    PALETTE,
    Layout,
    StreetScene,
    StreetSettings,
    render_scene,
)


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Near bright, far dark, logarithmic from 2 to 150 m; sky black."""
    near = 1.0 - np.log(np.clip(depth, 2.0, 150.0) / 2.0) / np.log(75.0)
    return np.repeat((255 * np.nan_to_num(near)).astype(np.uint8)[..., None], 3, axis=2)


def flow_picture(flow: np.ndarray) -> np.ndarray:
    """Direction as hue, length as saturation."""
    flow = np.nan_to_num(flow)
    length = np.hypot(flow[0], flow[1])
    hue = (np.arctan2(flow[1], flow[0]) / (2 * np.pi)) % 1.0
    full = np.clip(length / max(np.quantile(length, 0.95), 1e-3), 0.0, 1.0)
    hsv = np.stack((hue, full, np.ones_like(full)), axis=2)
    return np.asarray(Image.fromarray((255 * hsv).astype(np.uint8), "HSV").convert("RGB"))


def sheet(scenes: list[StreetScene], columns: int) -> Image.Image:
    """Image, events, classes, depth and flow of each scene, `columns` scenes to a row."""
    strips = [
        np.concatenate(
            (
                scene.image,
                draw_events(scene.events),
                PALETTE[scene.semantics],
                depth_picture(scene.depth),
                flow_picture(scene.flow),
            ),
            axis=1,
        )
        for scene in scenes
    ]
    while len(strips) % columns:
        strips.append(np.full_like(strips[0], 255))
    rows = [np.concatenate(strips[i::columns], axis=0) for i in range(columns)]
    return Image.fromarray(np.concatenate(rows, axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="PNG file to write")
    parser.add_argument("--layout", choices=get_args(Layout), default=DEFAULT_LAYOUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=6, help="the last one is at night")
    parser.add_argument("--columns", type=int, default=1, help="scenes to a row")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), help="rows, columns")
    args = parser.parse_args()
    scenes = []
    for number in range(args.scenes):
        night = 0.6 if number == args.scenes - 1 else 0.0
        settings = StreetSettings(*args.size, darkness=night, layout=args.layout)
        scenes.append(render_scene(args.seed, number, settings))
        height = scenes[-1].pose.y
        print(
            f"{number:3d}  {scenes[-1].mount:9s} {height:5.1f} m  {len(scenes[-1].events)} events"
        )
    sheet(scenes, args.columns).save(args.out)
    share = np.bincount(np.concatenate([s.semantics.ravel() for s in scenes]), minlength=8)
    for name, part in zip(CLASSES, share / share.sum(), strict=True):
        print(f"{name:12s}{part:6.1%}")


if __name__ == "__main__":
    main()
