"""Batches of samples, loaded by worker processes or here."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from multiprocessing import active_children, connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from threading import current_thread, main_thread
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scaleevent.errors import EnvironmentProblem, ScaleEventError, starved
from scaleevent.pairs.batch_memory import Slots, Stacked
from scaleevent.pairs.draws import StepBatches, evenly_spaced
from scaleevent.pairs.samples import LOAD_SECONDS, PairSamples
from scaleevent.system.allocator import keep_freed_memory
from scaleevent.system.platform import loader_start
from scaleevent.system.workers import describe, end_with_parent, kill, script_left_out

PRELOAD = (__name__, "scipy.linalg")  # the latter is imported by the first call of a numba kernel
SERVER = "scaleevent.system.loader_server"
LATE = object()
POLL_SECONDS = 1
DEATH_SECONDS = 1  # until a worker's death is known here


def load_batches(
    samples: Dataset[object],
    batches: Collection[list[int]] | StepBatches,
    workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
    pin: bool = False,
) -> Iterator[Any]:
    """Load given batches of samples; the worker count changes nothing but speed.

    Worker processes are forked from a server that has imported torch once. They never receive stop
    signals, and they end with this process.

    Args:
        samples: Samples by index.
        batches: Sample indices of each batch.
        workers: Processes that load batches ahead of time; 0 loads them in this process.
        collate: Makes a batch of a list of samples. None: as torch's `default_collate`; the memory
            of a batch is used again when nothing refers to it any more.
        pin: Put tensors into pinned memory, from which a GPU copies asynchronously.

    Raises:
        Exception: What a sample raised, in a worker too.
        EnvironmentProblem: A worker died, or a batch does not come.
    """
    workers = min(workers, len(batches))
    slots, start = Slots(workers), None
    if workers:
        # the kernel ends the server with the thread that starts it: right for the main one only
        ending = [SERVER] if current_thread() is main_thread() else []
        start = loader_start([*ending, *PRELOAD, type(samples).__module__])
    else:
        keep_freed_memory()
    loader = DataLoader(
        _ErrorsReturned(samples),
        batch_sampler=slots.assign(batches),
        num_workers=workers,
        collate_fn=partial(_collate, collate or Stacked()),
        worker_init_fn=_start_worker,
        multiprocessing_context=start,
        pin_memory=pin,
        timeout=POLL_SECONDS if workers else 0,
    )
    others, patience = active_children(), getattr(samples, "patience", LOAD_SECONDS)
    try:
        with script_left_out(bytes(ForkingPickler.dumps((samples, collate)) if workers else b"")):
            loaded = iter(loader)
    except (EOFError, OSError) as error:  # the server died, or the system refuses another process
        kill([process for process in active_children() if process not in others])
        raise EnvironmentProblem(
            "the processes that load samples could not start",
            found=str(error) or type(error).__name__,
            hint="usually memory; use fewer --workers (a training run goes on with --resume)",
        ) from None
    processes = [process for process in active_children() if process not in others]
    Finalize(loaded, kill, (processes,), exitpriority=0)  # they do not hear torch's SIGTERM
    for number in count():
        began = time.monotonic()
        while (batch := _next_batch(loaded, processes)) is LATE:
            if time.monotonic() - began > patience:
                samples_of = next(islice(batches, number, None))
                kill(processes)  # torch would wait for them
                raise EnvironmentProblem(
                    f"loading a batch takes more than {patience} s",
                    where=f"samples {', '.join(map(str, samples_of))}",
                    hint="a stalled disk, or a process that was stopped "
                    "(a training run goes on with --resume)",
                )
        if batch is None:
            return
        if isinstance(batch, Exception):
            raise starved(batch) or batch
        yield slots.lend(*batch)


def in_order(samples: PairSamples, indices: np.ndarray, batch: int) -> Iterator[dict[str, Tensor]]:
    """Batches in the order given, for everything that is not training."""
    groups = [indices[i : i + batch].tolist() for i in range(0, len(indices), batch)]
    return load_batches(samples, groups, workers=0)


@dataclass(frozen=True)
class Pool:
    """Samples that may be looked at, some or all, in batches."""

    samples: PairSamples
    indices: np.ndarray  # of those in it
    batch: int

    def __len__(self) -> int:
        return len(self.indices)

    def spread(self, most: int) -> Iterator[dict[str, Tensor]]:
        """Batches of at most so many samples, evenly spaced over all."""
        return in_order(self.samples, evenly_spaced(self.indices, most), self.batch)


def _start_worker(number: int) -> None:
    from scaleevent.system.loader_server import end_with_server  # it is imported in workers only

    keep_freed_memory()
    end_with_parent()
    end_with_server()


def _next_batch(loaded: Iterator[Any], processes: list[BaseProcess]) -> Any:
    """The next batch, None after the last one, or `LATE` where it is not there yet."""
    try:
        return next(loaded, None)
    except (RuntimeError, OSError, EOFError) as error:  # torch's, by where a worker died
        late = bool(processes) and "timed out" in str(error)
        connection.wait([process.sentinel for process in processes], 0 if late else DEATH_SECONDS)
        dead = [process for process in processes if not process.is_alive()]
        if late and not dead:
            return LATE
        if not dead:
            raise
        raise EnvironmentProblem(
            f"{len(dead)} of {len(processes)} worker processes died while loading samples",
            found="; ".join(describe(process.pid, process.exitcode) for process in dead),
            hint="usually memory; use fewer --workers or a smaller --batch "
            "(a training run goes on with --resume)",
        ) from None


@dataclass(frozen=True)
class _ErrorsReturned(Dataset[object]):
    """Returns a sample's exception instead of raising it: a loader would wrap its traceback."""

    samples: Dataset[object]

    def __getitems__(self, drawn: list[int]) -> tuple[int, list[object]]:
        slot, *indices = drawn
        return slot, [self[index] for index in indices]

    def __getitem__(self, index: int) -> object:
        try:
            return self.samples[index]
        except ScaleEventError as error:
            error.where = f"{error.where} (sample {index})" if error.where else f"sample {index}"
            return error
        except Exception as error:
            error.add_note(f"while sample {index} was loaded:\n{traceback.format_exc()}")
            return error


def _collate(
    collate: Callable[[list[Any]], Any] | Stacked, drawn: tuple[int, list[object]]
) -> tuple[int, object] | Exception:
    slot, samples = drawn
    if error := next((one for one in samples if isinstance(one, Exception)), None):
        return error
    return slot, collate(slot, samples) if isinstance(collate, Stacked) else collate(samples)
