"""HDF5 files that crash or hang the library, are being written, or that the system refuses."""

import errno
import fcntl
import multiprocessing
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from scaleevent.errors import DataError, EnvironmentProblem, ScaleEventError
from scaleevent.formats import open_recording, read_events
from scaleevent.formats.source import errors_as_damage
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.system.files import write_json
from scaleevent.system.hdf5 import open_hdf5
from scaleevent.system.refusals import refusal
from tests.event_files import rows_of, some_events, write_dsec, write_hdf5, write_text
from tests.test_formats import assert_same
from tests.test_store import pair_of, rich_pairs, write_shard

damage = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "hdf5_damage.py"))
EVENTS = some_events(3000)
SIZE = {"height": 180, "width": 240}


def columns(path, **options):
    """EVENTS in four datasets."""
    with h5py.File(path, "w", **options) as file:
        file.attrs.update(SIZE)
        for name in "txyp":
            file.create_dataset(f"events/{name}", data=getattr(EVENTS, name))
    return path


def readers():
    """Processes that read HDF5 for this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ours = (p for p in children if b"hdf5_reading" in Path(f"/proc/{p}/cmdline").read_bytes())
    return set(map(int, ours))


def processor_seconds():
    """What this process and those that read for it have taken."""
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in (os.getpid(), *readers())]
    times = [stat.rpartition(")")[2].split()[11:13] for stat in stats]
    return sum(int(user) + int(system) for user, system in times) / os.sysconf("SC_CLK_TCK")


# Damage


@pytest.mark.parametrize("layout", damage["LAYOUTS"])
def test_zeroed_structure_gives_an_error_or_the_exact_events(tmp_path, layout):
    counts, longest = damage["run"](layout, "zeroed", 16, tmp_path)
    assert counts["other events"] == 0 and longest < 200
    checksums = damage["LAYOUTS"][layout][3]
    for kind in ("flipped", "chunks"):  # the process lives, whatever comes of it
        counts, longest = damage["run"](layout, kind, 4, tmp_path)
        assert longest < 200 and not (kind == "chunks" and checksums and counts["other events"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", damage["LAYOUTS"])
def test_two_hundred_edits_of_every_layout(tmp_path, layout):
    for kind, edits in (("zeroed", 200), ("flipped", 50), ("chunks", 50)):
        counts, longest = damage["run"](layout, kind, edits, tmp_path, seed=1)
        assert kind != "zeroed" or counts["other events"] == 0
        assert longest < 200


def test_zeroed_nodes_of_the_chunk_index(tmp_path):
    """With the plain library half of these edits end the process."""
    values = damage["write"](tmp_path / "a.h5", "gzip, 1000 chunks")
    whole, truth = (tmp_path / "a.h5").read_bytes(), damage["events"]()
    nodes = [at for at in range(len(whole)) if whole.startswith(b"TREE\1", at)]
    assert len(nodes) > 20 and all(not a <= at < b for at in nodes for a, b in values)
    seen = set()
    for number in range(25):
        rng = np.random.default_rng(number)
        data = bytearray(whole)
        at = int(rng.choice(nodes)) + int(rng.integers(0, 600))
        length = int(rng.integers(10, 61))
        data[at : at + length] = bytes(length)
        path = tmp_path / f"{number}.h5"
        path.write_bytes(data)
        seen.add(damage["outcome"](path, truth))
    assert seen <= {"error", "exact"}
    assert damage["outcome"](tmp_path / "a.h5", truth) == "exact"


@pytest.mark.slow
def test_a_file_that_leads_the_library_in_circles_is_an_error(tmp_path):
    path = columns(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["geometry"] = "240x180"
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 48 : heap + 56] = bytes(8)  # the size of the free space behind the string
    path.write_bytes(data)
    begin = time.process_time()
    with pytest.raises(DataError, match="in circles"):
        read_events(path)
    assert time.process_time() - begin < 2
    assert_same(read_events(columns(tmp_path / "b.h5")), EVENTS)


def test_a_crash_at_one_chunk_loses_that_chunk_alone_and_many_end_the_reading(tmp_path):
    """LZ4 with a length of its block that lies: found, or a crash of the plug-in."""
    counts, _ = damage["run"]("lz4", "chunks", 30, tmp_path)
    assert counts["error"] > 10


@pytest.mark.parametrize("step", range(6))
def test_zeroed_structure_of_a_shard_is_damage(tmp_path, step):
    """All its structures have checksums: the library reads it in this process."""
    path = write_shard(tmp_path / "a.h5", rich_pairs())
    whole, values = path.read_bytes(), []
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda _, data: (
                values.extend(damage["extents"](data)) if isinstance(data, h5py.Dataset) else None
            )
        )
    truth = contents(path)

    def edits() -> None:
        for number in range(20):
            rng = np.random.default_rng([step, number])
            path.write_bytes(damage["damaged"](whole, values, "zeroed", rng))
            try:
                assert contents(path) == truth
            except DataError:
                pass

    process = multiprocessing.get_context("fork").Process(target=edits)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def contents(path):
    """Everything in a shard."""
    shard = Shard(path)
    found = []
    for row in range(shard.pairs):
        events, window = shard.events(row)
        found.append((events.t.tobytes(), events.x.tobytes(), events.y.tobytes(), window))
        found.append((shard.image(row), shard.provenance(row), str(shard.label("depth", row))))
        found.append((str(shard.valid(row)), str(shard.after(row))))
    return found


# The reading process


def test_one_process_reads_all_files_and_starts_anew_when_it_is_gone(tmp_path):
    paths = [columns(tmp_path / f"{k}.h5") for k in range(3)]
    recording = open_recording(paths[0])
    before = readers()
    for path in paths:
        assert_same(read_events(path), EVENTS)
    assert readers() == before and before
    for pid in before:
        os.kill(pid, signal.SIGINT)  # as ^C in a terminal does
        os.kill(pid, signal.SIGTERM)
    assert sum(map(len, recording.blocks())) == 3000 and readers() == before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert sum(map(len, recording.blocks())) == 3000 and readers() - before


def test_a_killed_process_is_not_damage(tmp_path):
    path = columns(tmp_path / "a.h5")
    recording = open_recording(path)
    (reader,) = readers()
    os.kill(reader, signal.SIGSTOP)

    def kill_when_asked():
        with open(f"/proc/{reader}/fd/0", "rb") as requests:
            select.select([requests], [], [], 60)
            os.kill(reader, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_asked)
    killer.start()
    with pytest.raises(EnvironmentProblem, match="SIGKILL"):
        list(recording.blocks())
    killer.join()
    assert sum(map(len, recording.blocks())) == 3000


def test_the_reading_process_ends_with_its_parent(tmp_path):
    columns(tmp_path / "a.h5")
    code = (
        "import os, time; from pathlib import Path; from scaleevent.formats import read_events\n"
        "read_events('a.h5')\n"
        "print(Path(f'/proc/self/task/{os.getpid()}/children').read_text(), flush=True)\n"
        "if os.fork() == 0: time.sleep(600)\n"  # it holds nothing that keeps the reader
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        pids = process.stdout.readline().split()
        assert len(pids) == 1 and Path(f"/proc/{pids[0]}").exists()
        process.kill()
        end = time.monotonic() + 60
        while Path(f"/proc/{pids[0]}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        gone = not Path(f"/proc/{pids[0]}").exists()
        os.killpg(process.pid, signal.SIGKILL)
    assert gone


def count_events(recording, results):
    results.put(sum(map(len, recording.blocks())))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_recordings_go_to_other_processes_and_threads(tmp_path, start):
    recording = open_recording(columns(tmp_path / "a.h5"))
    assert sum(map(len, recording.blocks())) == 3000
    context = multiprocessing.get_context(start)
    results = context.SimpleQueue()
    process = context.Process(target=count_events, args=(recording, results), daemon=True)
    process.start()
    assert results.get() == 3000
    process.join()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(read_events(tmp_path / "a.h5")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for events in found:
        assert_same(events, EVENTS)


def test_a_file_that_changes_between_two_reads_is_not_mixed(tmp_path):
    path = columns(tmp_path / "a.h5")
    recording = open_recording(path)
    time.sleep(0.02)
    write_hdf5(path, {f"events/{name}": getattr(EVENTS, name)[:50] for name in "txyp"}, **SIZE)
    with pytest.raises(DataError, match="has changed"):
        list(recording.blocks())
    assert len(read_events(path)) == 50


def test_further_openings_cost_little(tmp_path):
    path = write_dsec(tmp_path / "a.h5", EVENTS)
    os.utime(path, (1e9, 1e9))
    open_recording(path)
    begin, before = processor_seconds(), readers()
    for _ in range(20):
        open_recording(path)
    assert (processor_seconds() - begin) / 20 < 0.1 and readers() == before


# Files in use, and what the system refuses


def test_a_file_that_another_process_writes_is_not_damaged(tmp_path):
    path = columns(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.flush()
        with pytest.raises(EnvironmentProblem, match="another process is writing") as caught:
            read_events(path)
        assert caught.value.where == str(path) and "damaged" not in str(caught.value)
    assert_same(read_events(path), EVENTS)
    with h5py.File(path, "r"):  # nor does one that is only read
        assert_same(read_events(path), EVENTS)


def test_a_file_that_its_writer_did_not_close_says_so(tmp_path):
    code = (
        "import h5py, os; file = h5py.File('a.h5', 'w', libver='latest')\n"
        "file['events/t'] = range(9); file.flush(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with pytest.raises(DataError, match="not closed by its writer"):
        read_events(tmp_path / "a.h5")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    path = write_shard(tmp_path / "a.h5", [pair_of(0)])

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with open_hdf5(path) as file:
        assert not file.id.get_access_plist().get_file_locking()[0]
    assert len(Shard(path).events(0)[0])


def test_shards_are_written_without_locks(tmp_path, monkeypatch):
    made = []
    new = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *a, **k: made.append(a[0]) or new(*a, **k))
    write_shard(tmp_path / "a.h5", [pair_of(0)])
    assert made and not any(isinstance(file, str | Path) for file in made)  # nothing to lock


REFUSED = ["EMFILE", "ENFILE", "EACCES", "EPERM", "EIO", "ESTALE", "ENOMEM", "ENOLCK", "ENOSPC"]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("how", ["number", "h5py", "rust", "cause"])
def test_the_refusals_of_the_system_are_no_damage(name, how):
    number = getattr(errno, name)
    text = f"open failed: errno = {number}, error message = '{os.strerror(number)}'"
    given = {
        "number": OSError(number, os.strerror(number)),
        "h5py": OSError(text),
        "rust": RuntimeError(f"{os.strerror(number)} (os error {number})"),
        "cause": ValueError("cannot decode"),
    }[how]
    if how == "cause":
        given.__cause__ = OSError(number, os.strerror(number))
    with pytest.raises(EnvironmentProblem, match=os.strerror(number)) as caught:
        with errors_as_damage("file", "a.bag"):
            raise given
    assert caught.value.hint and caught.value.where == "a.bag"


@pytest.mark.parametrize(
    "error",
    [OSError("bad magic"), OSError(errno.ENOENT, "gone"), OSError("errno = 22"), KeyError("x")],
)
def test_other_errors_of_a_library_are_damage(error):
    assert refusal(error, "a") is None
    with pytest.raises(DataError, match="damaged file"), errors_as_damage("file", "a"):
        raise error


def test_no_memory_is_no_damage():
    with pytest.raises(EnvironmentProblem, match="memory"), errors_as_damage("file", "a"):
        raise MemoryError


@pytest.mark.parametrize("suffix", ["h5", "txt"])
def test_too_many_open_files(tmp_path, suffix):
    path = columns(tmp_path / "a.h5")
    if suffix == "txt":
        path = write_text(tmp_path / "a.txt", rows_of(EVENTS[:50]), "t x y p\n")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for pid in readers():  # else it is there already
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        if suffix == "h5":
            os.close(held.pop())  # for the first look; the process needs more
        with pytest.raises(EnvironmentProblem, match="Too many open files") as caught:
            read_events(path)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "200 files allowed" in str(caught.value) and caught.value.exit_code == 5
    assert len(read_events(path))


def test_a_file_without_permission(tmp_path, monkeypatch):
    path = columns(tmp_path / "a.h5")

    def refused(*arguments):  # root may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(EnvironmentProblem, match="Permission denied"):
        read_events(path)


def test_a_missing_file_is_the_users_matter(tmp_path):
    with pytest.raises(DataError, match="file not found"):
        read_events(tmp_path / "a.h5")


def test_a_store_of_many_shards_keeps_few_open(tmp_path):
    one = write_shard(tmp_path / "one.h5", [pair_of(0)])
    entry = finish_shard(one, 1, {}, "job")
    shards = []
    for number in range(120):
        name = f"{number:05d}.h5"
        os.link(one, tmp_path / name)
        shards.append(entry | {"file": name})
    write_json(tmp_path / MANIFEST, {"format": 2, "shards": shards})
    code = (
        "import os, resource, sys; from scaleevent import PairStore\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "store = PairStore(sys.argv[1]); total = 0\n"
        "for index in [*range(len(store)), *range(0, len(store), 7)]:\n"
        "    shard, row = store.locate(index); total += len(shard.events(row)[0])\n"
        "print(total, len(store.windows_us), len(os.listdir('/proc/self/fd')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    total, windows, descriptors = map(int, run.stdout.split())
    events, _ = Shard(one).events(0)
    assert total == (120 + 18) * len(events) and windows == 120 and descriptors < 40
    store = PairStore(tmp_path)
    assert store.locate(3)[0] is store.locate(3)[0]


def test_errors_are_of_one_family(tmp_path):
    path = columns(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ScaleEventError):
        read_events(path)
