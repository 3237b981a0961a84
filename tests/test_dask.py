"""Tasks on a real Dask cluster: a scheduler and two workers on this machine's loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clip_files import moving, write_video
from test_shares import write_recordings
from test_store import Source, content

from scaleevent.datasets import street
from scaleevent.errors import DataError, EnvironmentProblem, MissingPackageError
from scaleevent.pairs import preparing
from scaleevent.pairs.pair import Pair
from scaleevent.system import dask_workers
from scaleevent.system.dask_workers import DaskExecutor, Surroundings
from scaleevent.system.files import claimed_folder
from scaleevent.system.owner import claims
from scaleevent.system.workers import ProcessExecutor

distributed = pytest.importorskip(
    "distributed", reason="needs Dask: pip install 'scaleevent[dask]'"
)

HERE = Path(__file__).parent
SMALL = "--size 16x24 --layout fixed --shutter-ms 0 --window-ms 5"


def started(place: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A process of Dask's command line that sees the tests, in a folder of its own."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments], cwd=place,
        env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def scheduler(place: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A scheduler, and where it listens."""
    file = place / "scheduler.json"
    process = started(
        place, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
        "--scheduler-file", str(file),
    )  # fmt: skip
    while process.poll() is None and not file.exists():
        time.sleep(0.1)
    time.sleep(0.2)
    return process, json.loads(file.read_text())["address"]


def worker(place: Path, address: str) -> subprocess.Popen[bytes]:
    """One that nobody starts again when it dies."""
    return started(
        place, "worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard",
        "--local-directory", str(place),
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The scheduler's address, and its two workers."""
    place = tmp_path_factory.mktemp("cluster")
    first, address = scheduler(place)
    workers = [worker(place, address) for _ in range(2)]
    yield address, workers
    for process in (*workers, first):
        process.kill()
        process.wait()


@dataclass
class Deadly(Source):
    """A task whose process dies after a pair, unless a file is there; leaves a half shard."""

    died: Path = Path()

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        for number, pair in enumerate(super().pairs(counts)):
            if number and not self.died.exists():
                self.died.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair


def write(sources, out: Path, executor):
    with claimed_folder(out, "pairs", resume=True, overwrite=False), executor(out) as running:
        return preparing.write_store(sources, out, {"seed": 1}, executor=running)


def plain(out: Path) -> ProcessExecutor:
    return ProcessExecutor(1)


@pytest.fixture
def dask(cluster):
    return lambda out: DaskExecutor(cluster[0], claims(out))


@pytest.mark.slow
def test_commands_on_the_cluster_write_the_same_bytes(cluster, tmp_path, capsys, monkeypatch):
    """Whole and in shares, rendered and from files; a flag that contradicts is refused."""
    from test_end_to_end import call  # imports torch, which workers do not need

    monkeypatch.setattr(street, "SCENES_PER_SHARD", 2)
    line = f"prepare street --scenes 5 {SMALL}"
    call(f"{line} -o {tmp_path / 'plain'}")
    call(f"{line} -o {tmp_path / 'dask'} --dask {cluster[0]}")
    for share in ("2/2", "1/2"):
        call(f"{line} -o {tmp_path / 'shares'} --dask {cluster[0]} --shard {share}")
    for name in ("dask", "shares"):
        assert content(tmp_path / name) == content(tmp_path / "plain")
    for k in range(3):
        write_video(tmp_path / "clips" / f"{k}.mkv", moving(4, step=1.0 + k))
    videos = f"prepare video {tmp_path / 'clips'} --sensor gen4"
    call(f"{videos} -o {tmp_path / 'filmed'}")
    call(f"{videos} -o {tmp_path / 'afar'} --dask {cluster[0]}")
    assert content(tmp_path / "afar") == content(tmp_path / "filmed")
    write_recordings(tmp_path / "raw", 3)
    voxels = f"voxelize {tmp_path / 'raw'} --size 24x32 --window time --window-ms 40"
    call(f"{voxels} -o {tmp_path / 'near/voxels'}")
    call(f"{voxels} -o {tmp_path / 'far/voxels'} --dask {cluster[0]}")
    assert content(tmp_path / "far/voxels") == content(tmp_path / "near/voxels")
    capsys.readouterr()
    call(f"{line} -o {tmp_path / 'both'} --dask {cluster[0]} --jobs 2", 2)
    assert "leave out --jobs" in capsys.readouterr().err


def test_errors_of_tasks_arrive_as_they_were_raised(dask, tmp_path):
    sources = [Source("good", (0,)), Source("bad", (1, 2), fails=True)]
    with pytest.raises(DataError, match=r"a damaged recording[\s\S]*where: bad"):
        write(sources, tmp_path / "pairs", dask)
    assert not (tmp_path / "pairs" / "00001-bad.h5").exists()


def test_workers_that_see_other_files_are_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("seen from this folder only")
    with pytest.raises(EnvironmentProblem) as caught:
        DaskExecutor(cluster[0], [Path("here")])
    told = str(caught.value)
    assert "does not see a file" in told and "expected: here" in told and "2 such of 2" in told
    assert "absolute paths" in told and "tcp://" in told
    Path("here").touch()
    seen = Surroundings.here([tmp_path / "here"])
    os.utime("here", ns=(0, 0))
    assert "another file of this name" in str(seen.problem())


def test_workers_with_other_software_are_refused(cluster, tmp_path, monkeypatch):
    own = dict(dask_workers.software())
    other = tuple((own | {"scaleevent": "0.0.9 (aaaaaaaa)", "Pillow": "1.0"}).items())
    monkeypatch.setattr(dask_workers, "software", lambda: other)
    with pytest.raises(EnvironmentProblem) as caught:
        DaskExecutor(cluster[0], [])
    told = str(caught.value)
    assert f"found: scaleevent {own['scaleevent']}, Pillow {own['Pillow']}" in told
    assert "expected: scaleevent 0.0.9 (aaaaaaaa), Pillow 1.0" in told


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://", "http://x:1"])
def test_nobody_at_the_address_is_told(address, monkeypatch):
    monkeypatch.setattr(dask_workers, "CONNECT_SECONDS", 1)
    with pytest.raises(EnvironmentProblem, match="no Dask scheduler answers") as caught:
        DaskExecutor(address, [])
    assert f"where: {address}" in str(caught.value) and "dask scheduler" in str(caught.value)


def test_what_is_no_scheduler_is_told(cluster, monkeypatch):
    """A server that says nothing, and a worker; `distributed.Client` waits for ever at both."""
    monkeypatch.setattr(dask_workers, "CONNECT_SECONDS", 1)
    told = r"no Dask scheduler answers[\s\S]*found: "
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EnvironmentProblem, match=told + "silence"):
            DaskExecutor(address, [])
    with distributed.Client(cluster[0], set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        workers = list(client.scheduler_info()["workers"])
    with pytest.raises(EnvironmentProblem, match=told + "a Dask worker"):
        DaskExecutor(workers[0], [])


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"pip install \"scaleevent\[dask\]\""):
        DaskExecutor("tcp://127.0.0.1:9", [])


def test_a_killed_worker_changes_nothing(cluster, dask, tmp_path):
    """The last test of the cluster: one worker is left, and then none."""
    address, workers = cluster
    died = tmp_path / "died"
    sources = [
        Deadly("alpha", (0, 1, 2), died=died), *(Source(f"s{k}", (k, k + 1)) for k in range(6))
    ]  # fmt: skip
    write(sources, tmp_path / "dask", dask)
    killed = int(died.read_text())
    assert [w.wait(60) for w in workers if w.pid == killed] == [-signal.SIGKILL]
    assert sum(w.poll() is None for w in workers) == 1
    write(sources, tmp_path / "plain", plain)
    assert content(tmp_path / "dask") == content(tmp_path / "plain")


@pytest.mark.slow
def test_a_scheduler_without_workers_and_one_that_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "JOIN_SECONDS", 1)
    process, address = scheduler(tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"no workers[\s\S]*dask worker tcp://127"):
        DaskExecutor(address, [])
    helper = worker(tmp_path, address)
    monkeypatch.setattr(dask_workers, "JOIN_SECONDS", 60)
    died = tmp_path / "died"

    def losing(out: Path) -> DaskExecutor:
        return DaskExecutor(address, claims(out))

    try:
        with pytest.raises(EnvironmentProblem, match=r"worker process died[\s\S]*--resume"):
            write([Ending("alpha", (0, 1), process.pid, died)], tmp_path / "pairs", losing)
    finally:
        for one in (helper, process):
            one.kill()
            one.wait()
    write([Source("alpha", (0, 1))], tmp_path / "pairs", plain)
    write([Source("alpha", (0, 1))], tmp_path / "again", plain)
    assert content(tmp_path / "pairs") == content(tmp_path / "again")


class Ending(Source):
    """A task that ends its scheduler."""

    def __init__(self, name: str, seeds: tuple[int, ...], process: int, died: Path) -> None:
        super().__init__(name, seeds)
        self.process, self.died = process, died

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        yield from super().pairs(counts)
        os.kill(self.process, signal.SIGKILL)
        self.died.touch()
        time.sleep(30)
