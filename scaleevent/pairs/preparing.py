"""Runs the tasks of `prepare` and `voxelize`: sources in, shards and a manifest out.

Every source is one task with an atomic output, whose bytes depend on the source and the settings
alone: not on the executor, nor on what an interrupted run had finished.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaleevent.config.data import StoreSettings
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, StoppedError, starved
from scaleevent.grids.density import active_mask, patch_density
from scaleevent.grids.representations import represent
from scaleevent.grids.voxels import voxelize
from scaleevent.pairs.manifest import Entry, Manifest, read_document
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.shard import CONTENT, FORMAT, ShardWriter
from scaleevent.pairs.source import PairSource, input_stats
from scaleevent.pairs.store import finish_shard, publish_shard, shard_done, shard_entry
from scaleevent.system.dask_workers import DaskExecutor
from scaleevent.system.files import (
    Json,
    clean_leftovers,
    fingerprint,
    read_json,
    temporary_path,
    write_json,
    writing,
)
from scaleevent.system.locations import MANIFEST
from scaleevent.system.owner import claims
from scaleevent.system.platform import remove_file
from scaleevent.system.reports import counted
from scaleevent.system.shares import Share, at_work, remove_dead_shares
from scaleevent.system.signals import stop_requested
from scaleevent.system.workers import ProcessExecutor
from scaleevent.version import __version__

SETTINGS = "settings.json"  # of a store that is not finished; then its manifest has them
POLL_SECONDS = 0.2
MANY = 0.2  # of the images or labels: so many dropped are a warning
GRACE_SECONDS = 1  # for running tasks to leave at their next pair


def write_store(
    sources: Sequence[PairSource],
    out: Path,
    settings: Json,
    *,
    executor: Executor,
    share: Share | None = None,
    voxels: Json | None = None,
    remarks: Json | None = None,
    advance: Callable[[int], None] = lambda count: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Json:
    """Write one shard per source, then the manifest.

    With a share, only its shards are written. Whoever finds that all shards of the store are there
    writes the manifest, which they alone determine: so it does not matter which share ends last,
    whether one ran twice, or whether two end at once.

    Args:
        sources: The tasks, those of other shares too.
        out: Folder of the store, claimed before; all workers of the executor must see it.
        settings: What shapes the bytes; recorded, and part of every task's fingerprint.
        executor: Runs the tasks. It is shut down if one fails; otherwise that is up to the caller.
        share: Which tasks to run, in a folder of its own that was claimed before; None: all.
        voxels: `representation`, `bins`, `tau` and `patch` to store grids instead of events; None
            stores events. Activity is counted on the voxel grid, whatever is stored.
        remarks: Further facts for the manifest, which shape no bytes of shards. Shares have to
            agree on `tags`; a run without a share may tell them anew.
        advance: Callback(count): images or labels processed since the last call.
        warn: Told before finished shards are made again.

    Returns:
        The manifest. Where shards of other shares are missing, it is not written, has this share's
        shards alone, and says under `missing` which are, see `Missing`.

    Raises:
        ConfigError: The folder holds a store, or a part of one, of other settings.
        ScaleEventError: The first task that fails ends the run; finished shards are kept.
        StoppedError: A stop signal came; finished shards are kept.
    """
    work = share.folder(out) if share else out
    clean_leftovers(work)
    about = {**(remarks or {}), "kind": "voxels" if voxels else "pairs"}
    tags = {key: about[key] for key in ("tags",) if key in about}
    shared = settings | (voxels or {}) | tags
    _check_settings(out, shared, share)
    names = Counter(source.name for source in sources)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DataError("recordings of the same name", found=", ".join(twice[:10]))
    with stop_requested() as stop, _run_file(work) as run:
        planned = [
            ShardTask(source, out / f"{index:05d}-{source.name}.h5", settings, voxels, run, work)
            for index, source in enumerate(sources)
        ]
        if share is None or any(task.entry() is None for task in planned):
            write_json(out / SETTINGS, shared)
            remove_file(out / MANIFEST)  # of an earlier run: it does not describe what follows
        own = share.of(planned) if share else planned
        if other := sum(task.made_otherwise() for task in own):
            why = "their files, or what this version makes of them, have changed"
            warn(f"warning: {other} of {len(own)} shards are made again, not resumed: {why}")
        shards = _run(own, executor, run, advance, stop)
    clean_leftovers(work)  # of workers that died; others have done their tasks
    if share:
        _check_settings(out, shared, share)  # again: another may have begun at the same time
        entries = [task.entry() for task in planned]
        if missing := missing_shards(out, [t.path for t in planned], entries, share):
            return _manifest(about, settings, shards) | {"missing": missing}
        shards = [entry for entry in entries if entry is not None]
        remove_dead_shares(out)
    manifest = _manifest(about, settings, shards)
    write_json(out / MANIFEST, manifest)
    remove_file(out / SETTINGS)
    return manifest


def _run(
    own: Sequence[ShardTask],
    executor: Executor,
    run: RunFile,
    advance: Callable[[int], None],
    stop: Callable[[], bool],
) -> list[Json]:
    """Run tasks, and give their shards' entries; where one fails, end all and tidy up."""
    tasks: dict[Future[Json], ShardTask] = {}
    try:
        for task in own:
            tasks[executor.submit(task)] = task
        _wait_for(tasks, run, advance, stop)
    except BaseException:
        run.end()
        wait([future for future in tasks if not future.cancel()], GRACE_SECONDS)
        executor.shutdown(cancel_futures=True)
        work = run.path.parent
        clean_leftovers(work)
        made = [path.name for path in work.iterdir() if path.suffix in (".h5", ".json")]
        if made == [SETTINGS]:
            remove_file(work / SETTINGS)  # there is nothing to go on from
        raise
    return [future.result() for future in tasks]


def _manifest(about: Json, settings: Json, shards: list[Json]) -> Json:
    """What is told of a store: `about` it, and its shards' entries with the sum of their counts."""
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(shard["counts"])
    remarks = {key: value for key, value in about.items() if key != "kind"}
    return remarks | {
        "format": FORMAT,
        "kind": about["kind"],
        "version": __version__,
        "settings": settings,
        "counts": dict(sorted(counts.items())),
        "shards": shards,
    }


def missing_shards(
    out: Path, paths: Sequence[Path], entries: Sequence[Json | None], share: Share
) -> list[Json]:
    """For every share that is not finished: its name, its shards that are missing, who is at work.

    Args:
        out: Folder of the store.
        paths: Of all its shards.
        entries: Of all its shards; None for a missing one.
        share: One of the shares.
    """
    by_share: dict[int, list[str]] = {}
    for index, (path, entry) in enumerate(zip(paths, entries, strict=True)):
        if entry is None:
            by_share.setdefault(index % share.count + 1, []).append(path.name)
    return [
        {"shard": str(one), "files": by_share[number], "state": at_work(out, one)}
        for number in sorted(by_share)
        for one in [Share(number, share.count)]
    ]


def unfinished(manifest: Json) -> list[str]:
    """What is missing of a store that a share has found unfinished, for people."""
    missing = manifest.get("missing", [])
    lines = [
        f"missing: --shard {one['shard']}, {counted(len(one['files']), 'file')}: "
        f"{', '.join(one['files'][:3])}{', ..' if len(one['files']) > 3 else ''}; {one['state']}"
        for one in missing
    ]
    if missing:
        lines.append(
            "the store is not whole; the last shard to end finishes it. For one that was killed: "
            "the same command with its --shard again, or with --resume and without --shard, which "
            "makes all that is missing"
        )
    return lines


def executor_of(cfg: StoreSettings, sources: Sequence[PairSource]) -> Executor:
    """What runs the tasks: worker processes here, or those of Dask.

    Raises:
        DataError: A file that a task would read is not there, before any work is done.
        ScaleEventError: See `DaskExecutor`.
    """
    inputs = [path for source in sources for path, _ in input_stats(source)]
    if cfg.dask is None:
        return ProcessExecutor(cfg.jobs)
    assert cfg.out is not None
    work = cfg.share.folder(cfg.out) if cfg.share else cfg.out
    return DaskExecutor(cfg.dask, [*claims(work), *inputs])


def lost(counts: Mapping[str, int]) -> list[str]:
    """A warning for images and for labels of which many were dropped, with the reasons."""
    told = []
    for what in ("images", "labels"):
        named = f"{what} dropped: "
        reasons = {k.removeprefix(named): n for k, n in counts.items() if k.startswith(named)}
        reasons.pop("not of the protocol", None)  # as it should be
        if (number := sum(reasons.values())) > MANY * counts.get(what, 0):
            why = ", ".join(f"{reason} ({count:,})" for reason, count in reasons.items())
            told.append(f"warning: {number:,} of {counts.get(what, 0):,} {what} dropped: {why}")
    return told


def _check_settings(out: Path, settings: Json, share: Share | None) -> None:
    """Refuse to mix shards of these settings with those of others, and shares of other tags."""
    path, manifest = out / SETTINGS, out / MANIFEST
    earlier: Json = {}
    with suppress(DataError, ValueError):  # damaged: the shards' own hashes are left
        if path.exists():
            earlier = dict(read_json(path))
        elif manifest.exists():
            known = read_document(manifest, Manifest)
            earlier = known.settings | known.model_dump(include={"tags"}, exclude_unset=True)
    if share is None:
        earlier.pop("tags", None)
    other = _differing(settings, earlier)
    if other:
        raise ConfigError(
            "the folder holds a store of other settings, which cannot be resumed with these",
            where=out,
            found="; ".join(f"{key} {now}" for key, (now, _) in other.items()),
            expected="; ".join(f"{key} {before}" for key, (_, before) in other.items()),
            hint="a new store: the same command with another --out and without --resume; "
            "in place of this one: with --overwrite instead of --resume"
            if share is None
            else "a new store: every share with another --out; in place of this one: delete the "
            "folder before the first share; to change its tags alone: without --shard, once no "
            "share is at work, with --resume",
        )


def _differing(now: Json, before: Json) -> dict[str, tuple[object, object]]:
    """What is said in both and not alike: by name, as it is now and as it was before."""
    return {
        key: (_besides(now[key], before[key]), _besides(before[key], now[key]))
        for key in sorted(now.keys() & before.keys())
        if _same(now[key]) != _same(before[key])
    }


def _besides(value: object, other: object) -> object:
    """A value for people: of several with names those that another has not."""
    if not isinstance(value, dict) or not isinstance(other, dict):
        return value
    own = [f"{key}: {one or 'none'}" for key, one in value.items() if other.get(key) != one]
    return ", ".join(own) or "nothing more"


def _same(value: object) -> object:
    """A setting as it is compared: paths by where they lead."""
    texts = value if isinstance(value, list) else [value]
    return [os.path.abspath(one) if isinstance(one, str) else one for one in texts]


def _wait_for(
    tasks: dict[Future[Json], ShardTask],
    run: RunFile,
    advance: Callable[[int], None],
    stop: Callable[[], bool],
) -> None:
    """Pass progress on until all tasks are done, one has failed or a stop is requested."""
    pending, position = set(tasks), 0
    while pending:
        done, pending = wait(pending, POLL_SECONDS)
        count, position = run.told_since(position)
        advance(count)
        for future in done:
            try:
                future.result()
            except MemoryError as error:
                raise starved(error, where=tasks[future].path) or error from None
            except BrokenExecutor as error:
                raise EnvironmentProblem(
                    "a worker process died while writing",
                    where=tasks[future].path,
                    found=error,
                    hint="usually a full disk or memory; free some, then run again with --resume "
                    "(a script that defines its own data set: "
                    '`if __name__ == "__main__":` goes before the call)',
                ) from None
        if stop() and pending:
            raise StoppedError(
                "stopped on request, finished shards are kept",
                found=f"{len(tasks) - len(pending)} of {len(tasks)} shards",
                hint="the same command with --resume goes on",
            )


@dataclass(frozen=True)
class RunFile:
    """A file that exists while a run goes on, with a line for every count of images processed.

    Progress and stop requests travel through it because the store's folder is what the workers of
    any executor share. Unlike a queue or an event, it has no lock that a dead worker could hold.
    """

    path: Path

    def advance(self, count: int) -> None:
        """In a task: report progress.

        Raises:
            StoppedError: The run has ended.
        """

        def existing(path: str, flags: int) -> int:
            return os.open(path, flags & ~os.O_CREAT)

        try:
            with writing(self.path), open(self.path, "ab", opener=existing) as file:
                file.write(b"%d\n" % count)
        except FileNotFoundError:
            raise StoppedError("stopped together with its run", where=self.path.parent) from None

    def told_since(self, position: int) -> tuple[int, int]:
        """Images processed that were told from a position in the file on, and its end now.

        The file is not kept open: some systems could not remove it then.
        """
        with self.path.open("rb") as file:
            file.seek(position)
            told = file.read()
        whole = told[: told.rfind(b"\n") + 1]
        numbers = filter(bytes.isdigit, whole.split())  # network folders may mix up a line
        return sum(map(int, numbers)), position + len(whole)

    def end(self) -> None:
        """Have all tasks leave at their next pair."""
        remove_file(self.path)


@contextmanager
def _run_file(out: Path) -> Iterator[RunFile]:
    """A new run in a folder."""
    run = RunFile(temporary_path(out / "run"))
    with writing(run.path):
        run.path.touch(exist_ok=False)
    try:
        yield run
    finally:
        run.end()


@dataclass(frozen=True)
class ShardTask:
    """Writes one shard, unless it is there already; picklable, so that any executor can run it."""

    source: PairSource
    path: Path  # of the shard
    settings: Json  # see `write_store`
    voxels: Json | None  # see `write_store`
    run: RunFile
    work: Path  # folder in which the shard is made: its own, or one that a share has to itself

    def job(self) -> str:
        """Hash of what the shard is made from."""
        source = self.source
        inputs = [[p.name, told.st_size, told.st_mtime_ns] for p, told in input_stats(source)]
        made = [__version__, CONTENT, self.settings, self.voxels, source.name, inputs]
        chosen = getattr(source, "chosen_by_others", None)  # what the other sources decide
        return fingerprint(made if chosen is None else [*made, chosen])

    def entry(self) -> Json | None:
        """Its entry, if the shard is finished and has its size."""
        return shard_entry(self.path, self.job())

    def made_otherwise(self) -> bool:
        """Whether the shard is there and was made from something else."""
        try:
            return read_document(self.path.with_suffix(".json"), Entry).job != self.job()
        except DataError:  # not there, or damaged
            return False

    def __call__(self) -> Json:
        """Write the shard and return its entry in the manifest."""
        source, job = self.source, self.job()
        entry = shard_done(self.path, job)
        if entry is not None:
            self.run.advance(source.expected)
            return entry
        counts: Counter[str] = Counter()
        reported, tags = 0, dict[str, str]()
        made = self.work / self.path.name
        with ShardWriter(made) as writer:
            for pair in source.pairs(counts):
                processed = counts["images"] + counts["labels"]
                self.run.advance(processed - reported)
                reported = processed
                writer.add(pair, self._voxel(pair, counts))
                counts[f"windows ended by {pair.window.stop}"] += 1
                counts["events in windows"] += len(pair.events)
                if pair.tags:
                    tags[pair.recording] = pair.tags
        self.run.advance(source.expected - reported)
        entry = finish_shard(made, writer.pairs, dict(sorted(counts.items())), job, tags)
        if made != self.path:
            publish_shard(made, self.path)
        return entry

    def _voxel(self, pair: Pair, counts: Counter[str]) -> np.ndarray | None:
        """The grid to store, if any, with its activity counted."""
        if self.voxels is None:
            return None
        representation, bins = self.voxels["representation"], self.voxels["bins"]
        voxel = voxelize(pair.events, pair.window, bins)
        _count_activity(voxel, self.voxels["patch"], self.voxels["tau"], counts)
        if representation == "zhu":
            return voxel
        return represent(representation, pair.events, pair.window, bins)


def _count_activity(voxel: np.ndarray, patch: int, tau: float, counts: Counter[str]) -> None:
    rows, columns = (size // patch * patch for size in voxel.shape[1:])
    if not rows or not columns:  # a sensor smaller than a patch
        return
    active = active_mask(patch_density(voxel[:, :rows, :columns], patch), tau)
    counts["cells"] += active.size
    counts["cells active"] += int(active.sum())
    counts["windows without an active cell"] += not active.any()
