"""Contact sheet of the street world: python street_sheet.py OUT.png [SCENES] [HEIGHT WIDTH]."""

import sys

import numpy as np
from PIL import Image

from scaleevent.pictures import draw_events
from scaleevent.street.scene import CLASSES, PALETTE, StreetScene, StreetSettings, render_scene


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


def sheet(scenes: list[StreetScene]) -> Image.Image:
    """One row a scene: image, events, classes, depth, flow."""
    rows = [
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
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    out = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    height, width = (int(a) for a in sys.argv[3:5]) if len(sys.argv) > 4 else (240, 320)
    scenes = []
    for number in range(count):
        night = 0.6 if number == count - 1 else 0.0
        settings = StreetSettings(height=height, width=width, darkness=night)
        scenes.append(render_scene(0, number, settings))
    sheet(scenes).save(out)
    share = np.bincount(np.concatenate([s.semantics.ravel() for s in scenes]), minlength=8)
    for name, part in zip(CLASSES, share / share.sum(), strict=True):
        print(f"{name:12s}{part:6.1%}")


if __name__ == "__main__":
    main()
