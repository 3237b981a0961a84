"""Helpers that several tests share: the folder of recorded numbers, and events to feed things.

Tests compute on the CPU, where a result repeats to the bit, unless `SCALEEVENT_TEST_GPU` is set:
`SCALEEVENT_TEST_GPU=1 pytest tests/test_gpu.py`.
"""

import os
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from scaleevent.events import Events
from scaleevent.system.platform import STOP_SIGNALS

DATA = Path(__file__).parent / "data"

if not os.environ.get("SCALEEVENT_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

SHARED = "PYTEST_XDIST_WORKER" in os.environ  # with other processes that run tests
if SHARED:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each has a core; before torch is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests first: what takes seconds waits until they have passed.

    Processes that take file after file end together if those that take long begin first.
    """

    def slow(item: pytest.Item) -> bool:
        return item.get_closest_marker("slow") is not None

    files = {item.path for item in items if slow(item)}
    items.sort(key=lambda item: item.path not in files if SHARED else slow(item))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """`-n`: a process takes a file at a time, whose tests may build on each other, in our order."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


# an example may take as long as the machine is busy
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


class Clock:
    """What a module takes for `time`: sleeping costs nothing, and others act meanwhile."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.now, self.act = 0.0, act

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.act()


def free_port() -> int:
    """A port that is free, and that the system gives to nobody who asks for any port."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def random_events(
    count: int, height: int, width: int, span_us: int, seed: int, start_us: int = 0
) -> Events:
    """Events at random pixels and times within [start_us, start_us + span_us)."""
    rng = np.random.default_rng(seed)
    return Events(
        t=start_us + np.sort(rng.integers(0, span_us, count)),
        x=rng.integers(0, width, count).astype(np.uint16),
        y=rng.integers(0, height, count).astype(np.uint16),
        p=rng.integers(0, 2, count).astype(np.uint8),
        height=height,
        width=width,
    )


@pytest.fixture
def moving_bar() -> Events:
    """A bright bar that crosses a 64x96 sensor in 95 ms, a column a millisecond."""
    column, row, front = (
        grid.ravel() for grid in np.meshgrid(np.arange(95), np.arange(8, 56), [0, 1], indexing="ij")
    )
    return Events.from_columns(column * 1000, column + front, row, front, 64, 96)


@pytest.fixture(scope="module")
def one_thread():
    """Recorded numbers were made on one thread, and repeat to the bit only there."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def stop_signals_are_handled_as_before():
    """A program that was run in this process ends by ignoring them; later tests send some."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
