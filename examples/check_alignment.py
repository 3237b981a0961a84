"""Do events lie on the edges of their images? Run: python check_alignment.py STORE [-o OUT.png].

Edges of the scene make events, so the image gradient at the pixels of events, taken over shifts of
the events, is largest at shift 0 if events and images are on one pixel grid and one clock. Events
of a window come before its image, and from a real pixel some milliseconds late: in steady motion
the largest value then lies up to a pixel behind. Farther away, or off across the motion, something
is wrong: try `prepare --offset-us`, `--homography` or `--calibration`. The picture shows the latest
events of some pairs over their frames, brighter red and darker blue.
"""

import argparse
from pathlib import Path

import numpy as np

from scaleevent.events import Events
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.store import PairStore
from scaleevent.pictures import overlay_events, panel

REACH = 8  # shifts tried, pixels each way


def gradient(image: np.ndarray) -> np.ndarray:
    """(H, W) float64 length of the brightness gradient of an (H, W, 3) uint8 image."""
    down, across = np.gradient(image.astype(np.float64).mean(axis=2))
    return np.hypot(down, across)


def alignment(image: np.ndarray, events: Events, valid: np.ndarray | None = None) -> np.ndarray:
    """Mean image gradient under the events for every shift of them, over that of the whole image.

    Args:
        image: (H, W, 3) uint8.
        events: On the pixels of the image.
        valid: (H, W) bool, where the image shows something.

    Returns:
        (17, 17) float64 by shift in y and x from -8 to 8; the same events count at every shift.
    """
    edges = gradient(image)
    if valid is not None:
        edges[~valid] = 0
    height, width = edges.shape
    counts = np.zeros((height, width))
    np.add.at(counts, (events.y, events.x), 1)
    counts = counts[REACH:-REACH, REACH:-REACH]
    scores = np.empty((2 * REACH + 1, 2 * REACH + 1))
    for dy in range(2 * REACH + 1):
        for dx in range(2 * REACH + 1):
            under = edges[dy : dy + counts.shape[0], dx : dx + counts.shape[1]]
            scores[dy, dx] = (counts * under).sum()
    return scores / (max(counts.sum(), 1) * max(edges.mean(), 1e-9))


def best_shift(scores: np.ndarray) -> tuple[int, int]:
    """(x, y) of the largest value of `alignment`."""
    y, x = np.unravel_index(scores.argmax(), scores.shape)
    return int(x) - REACH, int(y) - REACH


def latest(
    store: PairStore, number: int, span_us: int
) -> tuple[np.ndarray, Events, np.ndarray | None]:
    """Image, the last events before it, and validity mask of a pair."""
    shard, index = store.locate(number)
    events, window = shard.events(index)
    events = events.between(window.end_us - span_us, window.end_us)
    return decode_image(shard.image(index)), events, shard.valid(index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="PNG of events over frames")
    parser.add_argument("--last-ms", type=float, default=5.0, help="use events this recent")
    parser.add_argument("--pairs", type=int, default=4, help="pairs in the picture")
    args = parser.parse_args()
    store = PairStore(args.store)
    scores, rows = [], []
    shown = set(np.linspace(0, len(store) - 1, args.pairs).astype(int).tolist())
    for number in range(len(store)):
        image, events, valid = latest(store, number, round(1000 * args.last_ms))
        scores.append(alignment(image, events, valid))
        if number in shown:
            rows.append([image, overlay_events(image // 2, events)])
    mean = np.mean(scores, axis=0)
    dx, dy = best_shift(mean)
    print(f"{len(store)} pairs; gradient under events / of the image: {mean[REACH, REACH]:.2f}")
    print(f"largest at shift x {dx:+d}, y {dy:+d}: {mean.max():.2f}; mean of all {mean.mean():.2f}")
    if args.out:
        panel(("image", "events over the image"), rows, tall=260).save(args.out)
        print(args.out)


if __name__ == "__main__":
    main()
