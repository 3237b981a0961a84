"""Training samples a second from videos, simulated as they are drawn, beside a prepared store.

    python examples/bench_videos.py VIDEO... [--size 480x640] [--samples 12] [--rounds 3]

One process, everything of a sample that the CPU does: decoding, simulating, voxels, the input of
teacher and student. Both ways take the same frames of the same videos in the same order, in turn;
medians over rounds, CPU time. Of the simulated way also: the decoder's part, and how it grows when
frames are reached from the beginning of the file instead of from the key frame before them.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
os.environ |= {f"{name}_NUM_THREADS": "1" for name in THREADS}

import numpy as np  # noqa: E402
import torch  # noqa: E402

from scaleevent.config.pretrain import PretrainConfig  # noqa: E402
from scaleevent.datasets.clips import VideoClip  # noqa: E402
from scaleevent.datasets.video import frames_between, timed_frames  # noqa: E402
from scaleevent.datasets.video_pairs import VideoPairs  # noqa: E402
from scaleevent.grids.inputs import InputSettings  # noqa: E402
from scaleevent.pairs.pair import Pair  # noqa: E402
from scaleevent.pairs.samples import PairSamples  # noqa: E402
from scaleevent.pairs.shard import FORMAT, ShardWriter  # noqa: E402
from scaleevent.pairs.store import PairStore, finish_shard  # noqa: E402
from scaleevent.system.files import write_json  # noqa: E402


def stored(videos: VideoPairs, chosen: np.ndarray, folder: Path) -> PairStore:
    """A store of these pairs, as `prepare` would write them."""
    path = folder / "pairs.h5"
    with ShardWriter(path) as writer:
        for k in chosen.tolist():
            shard, row = videos.drawn(k, 1)
            events, window = shard.events(row)
            writer.add(Pair("a", window.end_us, shard.image(row), events, window))
    entry = finish_shard(path, len(chosen), {}, "")
    manifest = {"format": FORMAT, "kind": "pairs", "settings": {}, "counts": {}, "shards": [entry]}
    write_json(folder / "manifest.json", manifest)
    return PairStore(folder)


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def decoding(videos: VideoPairs, chosen: np.ndarray) -> tuple[float, float]:
    """CPU seconds a stretch of 240 ms, reached by its key frame and from the beginning."""
    jumping, walking = [], []
    spans = videos.windows_us
    names = {one.name: one.clip for one in videos.clips}
    for k in chosen.tolist():
        clip = names[str(videos.recordings[k])]
        if not isinstance(clip, VideoClip):
            continue
        first, last = spans[k].tolist()

        def walk(clip: VideoClip = clip, last: int = last) -> None:
            for when, _ in timed_frames(clip.path):
                if when is not None and when >= last:
                    return

        def jump(clip: VideoClip = clip, first: int = first, last: int = last) -> None:
            for _ in frames_between(clip.path, first, last):
                pass

        jumping.append(seconds(jump))
        walking.append(seconds(walk))
    return float(np.mean(jumping)), float(np.mean(walking))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--film", nargs="*", default=[])
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    height, width = map(int, arguments.size.split("x"))
    film = dict(one.split("=", 1) for one in arguments.film)
    config = PretrainConfig(videos=arguments.videos, film=film, size=(height, width))
    videos = VideoPairs(config.filming, max(config.size), 0)
    chosen = np.linspace(0, len(videos) - 1, arguments.samples).round().astype(int)
    settings = InputSettings(height, width, 16)
    simulated = PairSamples([videos], settings)
    print(videos.described)
    sizes, spans = [], []
    for k in chosen.tolist():  # compiles, and finds black bars
        shard, row = videos.drawn(k, 1)
        events, window = shard.events(row)
        sizes.append(len(events))
        spans.append((window.end_us - window.start_us) / 1000)
    print(f"{len(chosen)} samples, sensor {'x'.join(map(str, shard.sensor(row)))}, median "
          f"{np.median(sizes):,.0f} events in {np.median(spans):.0f} ms")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        kept = PairSamples([stored(videos, chosen, Path(folder))], settings)
        spent: dict[str, list[float]] = {"simulated": [], "stored": []}
        for turn in range(arguments.rounds):
            numbers = (chosen + len(videos) * (turn + 1)).tolist()
            spent["simulated"].append(seconds(lambda n=numbers: [simulated[k] for k in n]))
            spent["stored"].append(
                min(seconds(lambda: [kept[k] for k in range(len(chosen))]) for _ in range(3))
            )
    each = {name: float(np.median(times)) / len(chosen) for name, times in spent.items()}
    for name, one in each.items():
        print(f"{name:10} {1 / one:8.2f} samples/s a core, {1e3 * one:7.1f} ms each")
    print(f"stored is {each['simulated'] / each['stored']:.0f} times as fast")
    jump, walk = decoding(videos, chosen)
    print(f"decoding the longest stretch of a sample: {1e3 * jump:.0f} ms by the key frame before "
          f"it, {1e3 * walk:.0f} ms from the beginning of the file")  # fmt: skip
    unit = 1 << (20 if sys.platform == "darwin" else 10)  # ru_maxrss is in bytes there
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"peak memory {peak:,.0f} MB")


if __name__ == "__main__":
    main()
