"""Videos as a store of pairs that is not stored: each is simulated when it is drawn.

A pair needs only the frames of its window and some before them, so that what the camera remembers
does not hang on where filming began. Its random numbers follow from the seed, the number of the
draw, the clip and the frame, and from nothing else: not from what was drawn before, or by whom.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import simulated
from scaleevent.datasets.clips import Clip, Damaged, Framing, UnreadableClip
from scaleevent.datasets.simulated import Settings, Take
from scaleevent.errors import DataError, ScaleEventError
from scaleevent.events import Events
from scaleevent.grids.windows import Window
from scaleevent.pairs.memory import ShardInMemory
from scaleevent.pairs.pair import Pair, encode_image
from scaleevent.pairs.shard import FORMAT, Shard
from scaleevent.pairs.store import PairStore
from scaleevent.simulation.clip import BRIDGED, Moment
from scaleevent.system.files import fingerprint
from scaleevent.system.reports import counted, remark

WARM_UP_US = 20_000  # filmed before a window: several time constants of a dark pixel
COUNT_US = 1_000_000  # that a window of a number of events reaches back at most
NEAR = 4  # a window is looked for in this part of its longest span first


class VideoPairs(PairStore):
    """Pairs of videos and folders of pictures, simulated when they are drawn.

    Args:
        config: The clips, and how they are filmed.
        longest: Side of the sensor at most, pixels, unless the settings give its size.
        seed: Of thresholds, levels and noise.

    Raises:
        ConfigError: No clip, or settings that exclude each other or a clip.
        DataError: A clip that cannot be read, unless it is to be left out, or none that can;
            frames without times.
    """

    simulated = True

    def __init__(self, config: PrepareConfig, longest: int, seed: int) -> None:
        assert isinstance(config, Settings)
        self.longest, self.seed, self.folder = longest, seed, config.roots[0]
        with _in_our_flags():
            found = simulated.sources(config)
        self.clips = [one for one in found if not isinstance(one.clip, UnreadableClip)]
        self.left_out = [one.name for one in found if isinstance(one.clip, UnreadableClip)]
        if not self.clips:
            raise DataError("none of the videos can be read", found=", ".join(self.left_out),
                            where=", ".join(map(str, config.roots)))  # fmt: skip
        self._times = [one.clip.frame_times() for one in self.clips]
        for one, times in zip(self.clips, self._times, strict=True):
            if not len(times):
                raise DataError("frames without times cannot be drawn at random",
                                where=one.clip.path, found=one.found)  # fmt: skip
        self._frames = [_usable(times, config.every) for times in self._times]
        self._ends = np.cumsum([len(frames) for frames in self._frames])
        settings = config.model_dump(mode="json")
        names = [one.name for one in self.clips]
        self.shards = [
            {"file": name, "pairs": len(frames), "counts": {}, "tags": {}}
            for name, frames in zip(names, self._frames, strict=True)
        ]
        self.manifest = {
            "format": FORMAT, "kind": "pairs", "settings": settings, "counts": {},
            "shards": self.shards,
            "tags": {"*": ", ".join(["simulated", *config.told_tags])},
        }  # fmt: skip
        self._framings: dict[int, Framing] = {}
        self._told: set[int] = set()

    def locate(self, index: int) -> tuple[Shard, int]:
        """See `PairStore`; as it is drawn for everything but training, always the same."""
        return self.drawn(index, 0)

    def drawn(self, index: int, draw: int) -> tuple[Shard, int]:
        """Simulate a pair: a function of its clip, its frame and the number of the draw."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, "right"))
        frames = self._frames[which]
        frame = int(frames[index - self._ends[which] + len(frames)])
        with _in_our_flags():
            return ShardInMemory(self._pair(which, frame, draw), self.clips[which].clip.path), 0

    @cached_property
    def recordings(self) -> np.ndarray:
        """(len,) str: the clip of every pair."""
        names = np.array([one.name for one in self.clips], str)
        return np.repeat(names, [len(frames) for frames in self._frames])

    @cached_property
    def windows_us(self) -> np.ndarray:
        """(len, 2) int64: all that is filmed for a pair, which holds its window whatever is drawn.

        Clips are told apart by `recordings`, not by their times.
        """
        spans = []
        for which, (times, frames) in enumerate(zip(self._times, self._frames, strict=True)):
            first = self._first(which, frames, self._reaches(which)[-1])
            spans.append(np.stack((times[first], times[frames]), 1))
        return np.concatenate(spans)

    @cached_property
    def image_bytes(self) -> np.ndarray:
        """(len,) int64: 1, as every pair has an image, whose size nobody knows yet."""
        return np.ones(len(self), np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(len, 2) int64: rows and columns of every pair's camera."""
        each = [self._framing(which) for which in range(len(self.clips))]
        sizes = np.array([(one.height, one.width) for one in each], np.int64)
        return np.repeat(sizes, [len(frames) for frames in self._frames], axis=0)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the clips' names, sizes and times; settings are part of the run's own record."""
        facts = [
            [one.name, [path.stat().st_size for path in one.inputs], zlib.crc32(times.tobytes())]
            for one, times in zip(self.clips, self._times, strict=True)
        ]
        return fingerprint([facts, self.longest])

    @property
    def described(self) -> str:
        """What is simulated, and how, for people."""
        model = self.clips[0].choices[0]
        said = f"{counted(len(self.clips), 'clip')}, {len(self):,} frames, each simulated anew"
        left = f"; unreadable, left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"videos: {said} when it is drawn; {model}{left}"

    def _pair(self, which: int, frame: int, draw: int) -> Pair:
        """The pair of a frame; one in which nothing counts where no events lead up to it."""
        clip, times = self.clips[which], self._times[which]
        moment = None
        for reach in self._reaches(which):
            first = int(self._first(which, np.array(frame), reach))
            moment, pair = self._filmed(which, first, frame, draw)
            earliest = int(times[frame]) - reach
            if pair is not None and (
                pair.window.start_us >= earliest
                and pair.window.stop != "start"
                or pair.provenance["filmed_us"] > int(times[first])
            ):
                return pair
        if pair is not None:
            return pair
        framing = self._framing(which)
        image = np.zeros((framing.height, framing.width, 3), np.uint8)
        shown = encode_image(image if moment is None else moment.image, clip.config.lossless)
        end = int(times[frame])
        return Pair(
            clip.name, end, shown, Events.empty(framing.height, framing.width),
            Window(end, end, "start"), valid=np.zeros((framing.height, framing.width), bool),
            provenance={"clip": clip.clip.path.name, "frame": frame, "unusable": True},
        )  # fmt: skip

    def _filmed(
        self, which: int, first: int, frame: int, draw: int
    ) -> tuple[Moment | None, Pair | None]:
        """The frame and its pair, filmed from frame `first` on.

        Of a frame that repeats those before it, the first of them: it shows the same.
        """
        clip, framing = self.clips[which], self._framing(which)
        seed = self.seed if draw else 0  # what is held out does not change with the run's seed
        rng = np.random.default_rng([seed, draw, zlib.crc32(clip.name.encode()), frame])
        take = Take(clip, framing, rng)
        last = min(frame + bool(clip.config.shutter_ms), len(self._times[which]) - 1)
        part = _Part.of(clip.clip, first, last)
        counts: Counter[str] = Counter()
        moment = pair = None
        for now, held, start_us in take.moments(clip.frames(part, framing, counts)):
            if now.index > frame or now.repeats:
                continue
            about = take.about | {"draw": draw, "filmed_us": start_us}
            moment = now
            pair, _ = clip.pair_of(now, held, start_us, about)
        self._tell(which, counts)
        return moment, pair

    def _tell(self, which: int, counts: Counter[str]) -> None:
        """Say once of a clip that something in it is damaged."""
        damage = [key.removeprefix("damage: ") for key in counts if key.startswith("damage: ")]
        if damage and which not in self._told:
            self._told.add(which)
            remark(f"warning: {self.clips[which].clip.path}: {', '.join(damage)}: left out")

    def _reaches(self, which: int) -> tuple[int, ...]:
        """How far a window may reach back, microseconds: tried one after another."""
        rule = self.clips[which].rule
        if rule.kind == "time":
            return (rule.duration_us,)
        longest = COUNT_US if rule.kind == "count" else rule.duration_us
        return longest // NEAR, longest

    def _first(self, which: int, frames: np.ndarray, reach_us: int) -> np.ndarray:
        """The first frame that is filmed for each; repeats of it are bridged as in a whole clip."""
        times = self._times[which]
        before = np.searchsorted(times, times[frames] - reach_us - WARM_UP_US, "right") - 1
        first: np.ndarray = np.clip(before, 0, np.maximum(frames - BRIDGED - 2, 0))
        return first

    def _framing(self, which: int) -> Framing:
        """What the sensor sees of a clip; found once."""
        if which not in self._framings:
            clip = self.clips[which]
            framing = clip.framing()
            scale = self.longest / max(framing.height, framing.width)
            if clip.config.size is None and scale < 1:
                rows, columns = (max(round(scale * side), 1)
                                 for side in (framing.height, framing.width))  # fmt: skip
                framing = Framing(framing.box, rows, columns)
            self._framings[which] = framing
        return self._framings[which]


@dataclass(frozen=True)
class _Part(Clip):
    """Some frames of a clip, in the numbers that they have there."""

    whole: Clip
    first: int
    last: int

    @classmethod
    def of(cls, clip: Clip, first: int, last: int) -> _Part:
        """Frames from `first` to `last`, both included."""
        size = clip.height, clip.width
        number = last - first + 1
        return cls(clip.path, number, *size, clip.found, clip.files, clip, first, last)

    def read(self, damaged: Damaged) -> Iterator[tuple[int, int, np.ndarray]]:
        """See `Clip`."""
        return self.whole.stretch(self.first, self.last, damaged)


@contextmanager
def _in_our_flags() -> Iterator[None]:
    """Hints that name a flag of `prepare video` name it as `pretrain` takes it."""
    try:
        yield
    except ScaleEventError as error:
        if error.hint is not None:
            error.hint = re.sub(r"--([a-z][a-z-]*) ?(\w*)", _as_film, error.hint)
        raise


def _as_film(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    if name not in Settings.model_fields:
        return flag[0]
    return f"--film {name}={flag[2] or 'VALUE'}"


def _usable(times: np.ndarray, every: int) -> np.ndarray:
    """Frames that a pair is wanted for: no first one, and none with the time of the one before."""
    frames = np.arange(0, len(times), every)
    return frames[(frames > 0) & (np.diff(times, prepend=times[0])[frames] > 0)]
