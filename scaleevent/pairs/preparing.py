"""Runs the tasks of `prepare` and `voxelize`: sources in, shards and a manifest out.

Every source is one task with an atomic output, whose bytes depend on the source and the settings
alone: not on the number of workers, nor on what an interrupted run had finished.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaleevent.errors import DataError, EnvironmentProblem, StoppedError
from scaleevent.grids.density import active_mask, patch_density
from scaleevent.grids.representations import represent
from scaleevent.grids.voxels import voxelize
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.source import PairSource
from scaleevent.pairs.store import MANIFEST, finish_shard, shard_done
from scaleevent.system.files import clean_leftovers, fingerprint, write_json
from scaleevent.system.signals import STOP_SIGNALS, stop_requested
from scaleevent.version import __version__

POLL_SECONDS = 0.2
GRACE_SECONDS = 2  # for a worker to leave at its next pair
_told: Any = None  # queue to the parent, set in every worker
_ending: Any = None  # event by which the parent ends all workers
_writing = False  # whether this worker is at a task


def write_store(
    sources: Sequence[PairSource],
    out: Path,
    settings: dict[str, Any],
    *,
    jobs: int = 1,
    voxels: dict[str, Any] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Write one shard a source, then the manifest.

    Args:
        sources: The tasks.
        out: Folder of the store, claimed before.
        settings: What shapes the bytes; recorded, and part of every task's identity.
        jobs: Worker processes. HDF5 is written only in these: it may crash on a full disk.
        voxels: `representation`, `bins`, `tau` and `patch` to store grids instead of events; None
            stores events. Activity is counted on the voxel grid, whatever is stored.
        advance: Told how many images or labels were looked at since the last call.

    Returns:
        The manifest.

    Raises:
        ScaleEventError: The first task that fails ends the run; finished shards are kept.
        StoppedError: A stop signal came; finished shards are kept.
    """
    clean_leftovers(out)
    (out / MANIFEST).unlink(missing_ok=True)  # of a run before: it does not describe what follows
    names = Counter(source.name for source in sources)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise DataError("recordings of the same name", found=", ".join(twice[:10]))
    context = multiprocessing.get_context("spawn")
    told, ending = context.Queue(), context.Event()
    pool = ProcessPoolExecutor(
        jobs, context, initializer=_start_worker, initargs=(told, ending)
    )  # fmt: skip
    with stop_requested() as stop:
        try:
            tasks = [
                pool.submit(_write_shard, source, out, settings, voxels, number)
                for number, source in enumerate(sources)
            ]
            _wait_for(tasks, told, advance, stop)
            shards = [task.result() for task in tasks]
        except BrokenProcessPool:
            raise EnvironmentProblem(
                "a worker process died while writing",
                where=out,
                hint="usually a full disk or memory; free some, then run again with --resume",
            ) from None
        finally:
            ending.set()
            pool.shutdown(cancel_futures=True)
            clean_leftovers(out)
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(shard["counts"])
    manifest = {
        "format": FORMAT,
        "kind": "voxels" if voxels else "pairs",
        "version": __version__,
        "settings": settings,
        "counts": dict(sorted(counts.items())),
        "shards": shards,
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def _start_worker(told: Any, ending: Any) -> None:
    """Set up a worker: the parent answers signals, and a worker does not outlive it."""
    global _told, _ending
    _told, _ending = told, ending
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)

    def leave_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    def end_with_others() -> None:
        ending.wait()
        time.sleep(GRACE_SECONDS)
        if _writing:  # no pair came meanwhile; what is half-written goes with the process
            os._exit(1)

    for watch in (leave_with_parent, end_with_others):
        threading.Thread(target=watch, daemon=True).start()


def _wait_for(
    tasks: list[Future], told: Any, advance: Callable[[int], None], stop: Callable[[], bool]
) -> None:
    """Until all tasks are done, one has failed or a stop is asked for, passing progress on."""
    pending = set(tasks)
    while pending:
        done, pending = wait(pending, POLL_SECONDS)
        while True:
            try:
                advance(told.get_nowait())
            except queue.Empty:
                break
        for task in done:
            task.result()
        if stop() and pending:
            raise StoppedError(
                "stopped on request, finished shards are kept",
                found=f"{len(tasks) - len(pending)} of {len(tasks)} shards",
                hint="the same command with --resume goes on",
            )


def _write_shard(
    source: PairSource,
    out: Path,
    settings: dict[str, Any],
    voxels: dict[str, Any] | None,
    number: int,
) -> dict[str, Any]:
    """One task, in a worker: write the shard unless it is there already."""
    path = out / f"{number:05d}-{source.name}.h5"
    inputs = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in source.inputs]
    job = fingerprint([__version__, settings, voxels, source.name, inputs])
    entry = shard_done(path, job)
    if entry is not None:
        _told.put(source.expected)
        return entry
    counts: Counter[str] = Counter()
    seen = 0
    with _at_work(), ShardWriter(path) as writer:
        for pair in source.pairs(counts):
            if _ending.is_set():
                raise StoppedError("stopped with another task", where=path)
            if voxels is None:
                writer.add(pair)
            else:
                voxel = voxelize(pair.events, pair.window, voxels["bins"])
                _count_activity(voxel, voxels["patch"], voxels["tau"], counts)
                if voxels["representation"] != "zhu":
                    voxel = represent(
                        voxels["representation"], pair.events, pair.window, voxels["bins"]
                    )
                writer.add(pair, voxel)
            counts[f"windows ended by {pair.window.stop}"] += 1
            counts["events in windows"] += len(pair.events)
            looked = counts["images"] + counts["labels"]
            _told.put(looked - seen)
            seen = looked
    _told.put(source.expected - seen)
    return finish_shard(path, writer.pairs, dict(sorted(counts.items())), job)


@contextmanager
def _at_work() -> Iterator[None]:
    """While this lasts, the end of all work may end this process."""
    global _writing
    _writing = True
    try:
        yield
    finally:
        _writing = False


def _count_activity(voxel: Any, patch: int, tau: float, counts: Counter[str]) -> None:
    rows, columns = (size // patch * patch for size in voxel.shape[1:])
    if not rows or not columns:  # a sensor smaller than a patch
        return
    active = active_mask(patch_density(voxel[:, :rows, :columns], patch), tau)
    counts["cells"] += active.size
    counts["cells active"] += int(active.sum())
    counts["windows without an active cell"] += not active.any()
