"""Random and mutated files for every reader: only our errors, no hang, little memory, no bad event.

A fraction of the files by default; SCALEEVENT_FUZZ=full takes 2,000 of each kind a reader.
"""

import faulthandler
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from scaleevent.errors import ScaleEventError
from scaleevent.formats import FORMATS, open_recording
from scaleevent.system.allocator import keep_freed_memory
from tests import test_formats_hdf5, test_formats_matlab, test_formats_ros
from tests.event_files import some_events
from tests.peak_memory import peak_mib
from tests.test_formats import LAYOUTS, valid_files

pytestmark = pytest.mark.slow

EACH = 2000 if os.environ.get("SCALEEVENT_FUZZ") == "full" else 400
SECONDS = 120.0  # for one file, compiling included; then its stack is printed
MEMORY_MIB = 300
SEEDS = (*LAYOUTS, "matlab structs", "hdf5 ecf", "ros bag", "ros db3", "ros mcap")


def seed_file(folder: Path, name: str) -> Path:
    """A small whole file of a layout."""
    events = some_events(300)
    if name == "hdf5 ecf":
        return test_formats_hdf5.write_ecf(folder / "ecf.hdf5", events, chunk=100)
    if name == "matlab structs":
        return test_formats_matlab.write_structs(folder / "structs.mat", events)
    if name.startswith("ros"):
        suffix = f".{name.split()[1]}"
        store = test_formats_ros.types(suffix != ".bag")
        messages = [test_formats_ros.array(store, events[k : k + 60]) for k in range(0, 300, 60)]
        return test_formats_ros.write_bag(folder / f"a{suffix}", store, ("/events", messages))
    return valid_files(folder, events)[name]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut, doubled, swapped or zeroed; half of it near the beginning."""
    broken = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        size = len(broken) if rng.random() < 0.5 else min(len(broken), 600)
        a, b = sorted(rng.integers(0, size + 1, 2).tolist())
        kind = rng.integers(6)
        if kind <= 1:
            for at in rng.integers(0, max(len(broken[:size]), 1), rng.integers(1, 6)):
                if at < len(broken):
                    broken[at] ^= int(rng.integers(1, 256))
        elif kind == 2:
            del broken[int(rng.integers(0, len(broken) + 1)) :]
        elif kind == 3:
            broken[a:a] = broken[a : min(b, a + 500)]
        elif kind == 4:
            broken[a:b] = broken[a + (b - a) // 2 : b] + broken[a : a + (b - a) // 2]
        else:
            broken[a:b] = bytes(b - a)
    return bytes(broken)


def random_file(data: bytes, rng: np.random.Generator) -> bytes:
    """Anything behind the first bytes of a whole file."""
    return data[: rng.integers(0, 64)] + rng.bytes(int(rng.integers(1, 3000)))


def check(path: Path, max_bad: float | None) -> None:
    """Read a file to its end; what is delivered must be sound."""
    try:
        recording = open_recording(path, size=(180, 240), max_bad=max_bad)
        latest, segments = None, 1
        for block in recording.blocks():
            assert len(block) and block.x.max() < 240 and block.y.max() < 180
            assert block.p.max() <= 1 and (np.diff(block.t) >= 0).all()
            segments += latest is not None and block.t[0] < latest
            latest = block.t[-1]
        counts = recording.counts
        assert counts.decoded == counts.kept + sum(counts.dropped.values())
        assert segments <= max(len(counts.segments), 1)
        assert max_bad is not None or not counts.flaws
    except ScaleEventError:
        pass


def read_all(name: str, folder: Path) -> None:
    """What a process of its own does; it ends with a message where something is wrong."""
    keep_freed_memory()
    stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the AEDAT4 decoder prints its panics
    path = seed_file(folder, name)
    data = path.read_bytes()
    for number in range(2 * EACH):
        rng = np.random.default_rng([number, len(name)])
        make = mutated if number % 2 else random_file
        target = folder / f"broken{number % 7}{path.suffix}"
        target.write_bytes(make(data, rng))
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=stderr)
        try:
            check(target, None if number % 4 < 2 else 1.0)
        except BaseException:
            print(f"{name}, file {number}: {traceback.format_exc()}", file=stderr)
            sys.exit(1)
        faulthandler.cancel_dump_traceback_later()
    if peak_mib() > MEMORY_MIB:
        print(f"{name}: {peak_mib():.0f} MiB", file=stderr)
        sys.exit(1)


def serve() -> None:
    """Fork a process for every reader that is asked for, and tell its exit code."""
    for line in sys.stdin:
        name, folder = json.loads(line)
        reader = os.fork()
        if not reader:
            told = os.open(Path(folder, "told"), os.O_WRONLY | os.O_CREAT)
            os.dup2(told, 2)
            try:
                read_all(name, Path(folder))
            except SystemExit:
                os._exit(1)
            except BaseException:
                with os.fdopen(told, "w") as file:
                    traceback.print_exc(file=file)
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]), flush=True)


@pytest.fixture(scope="module")
def code_of() -> Iterator[Callable[[str, Path], int]]:
    """The exit code of a process that reads broken files; what all of them import is there."""
    command = [sys.executable, "-m", "tests.test_formats_fuzz"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], **pipes) as process:

        def ask(name: str, folder: Path) -> int:
            print(json.dumps([name, str(folder)]), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield ask


@pytest.mark.parametrize("name", SEEDS)
def test_broken_files_give_only_our_errors(tmp_path, name, code_of):
    """In a process of its own: a crash of a C library is a failure too."""
    assert code_of(name, tmp_path) == 0, (tmp_path / "told").read_text()


def test_every_reader_has_a_seed_file(tmp_path):
    read = set()
    for name in SEEDS:
        (tmp_path / name).mkdir()
        path = seed_file(tmp_path / name, name)
        head = path.read_bytes()[: 1 << 16]
        read.add(next(key for key, module in FORMATS.items() if module.matches(head, path)))
    assert read == set(FORMATS)


if __name__ == "__main__":
    serve()
