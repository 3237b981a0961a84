"""What `prepare --dry-run` tells: what would be read and written, its size and how long it takes.

Also at which shift events lie best on their images. A few pairs of some sources are made and
written to a temporary folder. The size of a shard grows by the same bytes a pair, so that two
shards of the same pairs, one of them several times as long, tell both this and what every shard
has besides.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from scaleevent.pairs.alignment import Alignment, measure, scenes_of_store, spread
from scaleevent.pairs.describing import StoreResult
from scaleevent.pairs.drawing import draw_pairs
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.pairing import EARLY
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.source import Clocked, PairSource, input_stats
from scaleevent.pairs.store import PairStore, finish_shard
from scaleevent.panels import save_picture
from scaleevent.system.files import Json, write_json
from scaleevent.system.locations import MANIFEST
from scaleevent.system.reports import counted

SAMPLED, PAIRS, SECONDS = 4, 16, 3.0  # sources, and of each so many pairs or so long after one
EVENTS = 2_000_000  # of a source, which are held in memory
TIMES = 5  # how often the longer shard has the same pairs
SLACK = 1.5  # by which the time may be off, both ways: other cores, other disks, other recordings


@dataclass(frozen=True)
class Estimate:
    """What a run would make, as far as a few pairs tell.

    Args:
        pairs: Number of pairs.
        bytes: Size of the store.
        seconds: Shortest and longest time that it is likely to take.
    """

    pairs: int
    bytes: int
    seconds: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class DryRun(StoreResult):
    """What `prepare` would make: nothing is written.

    Attributes:
        images: Number of images, or labels, that would be looked at.
        estimate: What would come of them; None where no pair came out of those looked at.
    """

    images: int
    estimate: Estimate | None = None

    def own(self) -> Json:
        """See `Report`."""
        told: Json = {"dry_run": True, "out": str(self.out), "images": self.images}
        told |= {"choices": list(self.choices)}
        told |= {"alignment": self.alignment.facts()} if self.alignment else {}
        if self.estimate:
            told["estimate"] = asdict(self.estimate)
            told["estimate"]["seconds"] = list(self.estimate.seconds)
        return told


@dataclass(frozen=True)
class Sample:
    """Some pairs of one source.

    Args:
        counts: What became of the images or labels that were looked at.
        pair_bytes: What a pair adds to a shard.
        shard_bytes: What a shard has besides.
        seconds: Time for a pair.
        made: The pairs.
    """

    counts: Counter[str]
    pair_bytes: float
    shard_bytes: float
    seconds: float
    made: list[Pair]

    @property
    def looked_at(self) -> int:
        """Images or labels that the pairs were made of."""
        return self.counts["images"] + self.counts["labels"]

    @property
    def early(self) -> int:
        """Those of them that came before the first event."""
        return sum(self.counts[f"{what} dropped: {EARLY}"] for what in ("images", "labels"))


def plan(
    name: str,
    out: Path,
    jobs: int,
    sources: Sequence[PairSource],
    told: list[str],
    picture: Path | None = None,
) -> DryRun:
    """The report of a dry run.

    Args:
        name: Of the data set.
        out: Where the store would be.
        jobs: Worker processes.
        sources: The tasks.
        told: Lines about what was chosen.
        picture: Where a PNG of the pairs that were made goes, if anywhere.

    Raises:
        ScaleEventError: As the run would raise it at the first pairs of a source.
    """
    images = sum(source.expected for source in sources)
    rows = tuple(
        (s.name, s.found, s.expected, sum(stat.st_size for _, stat in input_stats(s)) / 1e6)
        for s in sources
    )
    estimate, alignment = None, None
    notes = [f"{counted(images, 'image')} in {counted(len(sources), 'shard')} would go to {out}"]
    samples = [sample for k in spread(len(sources), SAMPLED) if (sample := sampled(sources[k]))]
    if not sources:
        notes.append("nothing to do for this share: there are more shares than recordings")
    elif not samples:
        looked = counted(len(spread(len(sources), SAMPLED)), "source")
        notes.append(f"size and time are not known: no pair came out of {looked} looked at")
    if samples:
        early = [s.early for s in samples]  # of a recording's start, not a share of its images
        others = sum(s.looked_at for s in samples) - sum(early)
        kept = sum(len(s.made) for s in samples) / max(others, 1)
        pairs = round(max(images - _mean(early) * len(sources), 0) * min(kept, 1.0))
        size = _mean([s.pair_bytes for s in samples]) * pairs
        size += _mean([s.shard_bytes for s in samples]) * len(sources)
        together = min(jobs, len(sources))  # a source is one task
        fast, slow = (edge(s.seconds for s in samples) * pairs / together for edge in (min, max))
        span = fast / SLACK, slow * SLACK
        number = sum(len(s.made) for s in samples)
        notes.append(
            f"about {counted(pairs, 'pair')}, {size / 1e6:,.1f} MB, {_duration(*span)} with "
            f"{counted(jobs, 'job')}: from {counted(number, 'pair')} of "
            f"{counted(len(samples), 'source')}"
        )
        estimate = Estimate(pairs, round(size), span)
        notes.append(_tally(samples))
        notes += [line for k in spread(len(sources), SAMPLED) if (line := _clocks(sources[k]))]
        if (alignment := _shown(name, samples, picture)) is not None:
            notes.append(alignment.describe())
        if picture is not None:
            notes.append(f"picture of the first pairs: {picture}")
    return DryRun(
        "prepare", f"prepare {name}: dry run, nothing is written",
        ("shard", "found", "images", "input MB"), rows, (*notes, *told),
        out=out, choices=tuple(told), alignment=alignment, images=images, estimate=estimate,
    )  # fmt: skip


def sampled(source: PairSource) -> Sample | None:
    """What the first pairs of a source tell; None if it has none."""
    counts: Counter[str] = Counter()
    pairs: list[Pair] = []
    held = 0
    now = first = began = time.perf_counter()
    made = source.pairs(counts)
    for pair in made:
        pairs.append(pair)
        now = time.perf_counter()
        if len(pairs) == 1:
            first = now  # what comes before it is done once
        held += len(pair.events)
        if len(pairs) == PAIRS or held > EVENTS or now - first > SECONDS:
            break
    if isinstance(made, Generator):
        made.close()
    if not pairs:
        return None
    # a single pair: what was done once counts too, rather than nothing
    made_in = (now - first) / (len(pairs) - 1) if len(pairs) > 1 else now - began
    with TemporaryDirectory() as folder:
        _written(pairs, Path(folder) / "warm.h5")
        short = _written(pairs, Path(folder) / "short.h5")
        began = time.perf_counter()
        long = _written(pairs * TIMES, Path(folder) / "long.h5")
        written_in = (time.perf_counter() - began) / (TIMES * len(pairs))
    pair_bytes = (long - short) / ((TIMES - 1) * len(pairs))
    shard_bytes = max(short - pair_bytes * len(pairs), 0.0)
    return Sample(counts, pair_bytes, shard_bytes, made_in + written_in, pairs)


def _clocks(source: PairSource) -> str | None:
    """How much of the images' time the events cover; None where the source does not tell."""
    clocks = source.clocks(SECONDS) if isinstance(source, Clocked) else None
    return f"{source.name}: {clocks.describe()}" if clocks is not None else None


def _tally(samples: list[Sample]) -> str:
    """What became of the images, labels and events that were looked at."""
    counts = sum((sample.counts for sample in samples), Counter[str]())
    told = []
    for kind in sorted(counts, key=lambda kind: kind not in ("images", "labels", "pairs")):
        what, _, why = kind.partition(": ")
        told.append(f"{counts[kind]:,} {what}{f' ({why})' if why else ''}")
    return f"looked at: {', '.join(told)}"


def _shown(name: str, samples: list[Sample], picture: Path | None) -> Alignment | None:
    """The shift of events over images, None without either; and a PNG of some pairs."""
    with TemporaryDirectory() as parent:
        folder = Path(parent) / name
        folder.mkdir()
        shards = []
        for number, sample in enumerate(samples):
            path = folder / f"{number}.h5"
            _written(sample.made, path)
            shards.append(finish_shard(path, len(sample.made), {}, ""))
        write_json(folder / MANIFEST, {"format": FORMAT, "settings": {}, "shards": shards})
        store = PairStore(folder)
        if picture is not None:
            save_picture(picture, draw_pairs(store)[0])
        scenes = [scene for scene in scenes_of_store(store) if len(scene.events)]
        return measure(scenes) if scenes else None


def _written(pairs: list[Pair], path: Path) -> int:
    """Bytes of a shard of these pairs."""
    with ShardWriter(path) as writer:
        for pair in pairs:
            writer.add(pair)
    return path.stat().st_size


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _duration(shortest: float, longest: float) -> str:
    """A range of seconds or minutes, for people."""
    if longest < 10:
        return "some seconds"
    if longest < 120:
        return f"{max(shortest, 1):.0f} to {max(longest, 2):.0f} seconds"
    if longest < 7200:
        return f"{shortest / 60:.0f} to {longest / 60:.0f} minutes"
    return f"{shortest / 3600:.1f} to {longest / 3600:.1f} hours"
