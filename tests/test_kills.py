"""Whatever dies, stalls or is told to stop: one message, its exit code, nothing left, resumable."""

import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from test_launchers import gone
from test_store import SOURCES, Source, content, write_store
from torch.utils.data import Dataset

from scaleevent.__main__ import main
from scaleevent.config.run import ScheduledSettings
from scaleevent.errors import DataError, EnvironmentProblem, StoppedError
from scaleevent.pairs import loading
from scaleevent.system.files import read_json_lines
from scaleevent.system.platform import STOP_SIGNALS
from scaleevent.system.workers import ProcessExecutor

KILLS = Path(__file__).parent.parent / "examples/random_kills.py"


@pytest.fixture(scope="module")
def harness():
    """The script that kills commands at random; here with time enough for a busy machine."""
    spec = importlib.util.spec_from_file_location("random_kills", KILLS)
    module = importlib.util.module_from_spec(spec)
    sys.modules["random_kills"] = module
    spec.loader.exec_module(module)
    module.ORPHAN_SECONDS = 60
    module.LIMITS = dict.fromkeys(module.COMMANDS, 120)  # a batch may take 180 to load
    return module


@pytest.fixture(scope="module")
def place(harness, tmp_path_factory):
    """A folder with small inputs of every command."""
    folder = tmp_path_factory.mktemp("kills")
    harness.write_inputs(folder / "data")
    return folder


# Random kills


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("command", "kills"),
    [
        ("prepare-street", 7),
        ("prepare-custom", 8),
        ("voxelize", 8),
        ("pretrain", 2),
        ("finetune", 1),
        ("pretrain-gpus-2", 1),
    ],
)
def test_random_kills_change_no_byte(harness, place, command, kills):
    outcome = harness.try_command(command, kills, seed=0, folder=place)
    assert outcome.problems == [] and outcome.equal and outcome.left == []
    assert outcome.kills == kills


# Stop signals at any moment


@pytest.fixture
def stopped(monkeypatch, capfd):
    """Run a command that gets SIGTERM as soon as it calls a function: exit code and message."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def run(line, at, number=signal.SIGTERM):
        def stop(*_, **__):
            os.kill(os.getpid(), number)
            time.sleep(1)  # where a stop waits for what is being written, this ends

        with monkeypatch.context() as patched:
            patched.setattr(at, stop)
            patched.setattr(sys, "argv", ["scaleevent", *line.split()])
            with pytest.raises(SystemExit) as left:
                main()
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        return left.value.code, printed[printed.index("stopped by") :]

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def small(place, command, out):
    """A short run of a command on the inputs here."""
    lines = {
        "pretrain": f"pretrain {place}/data/pairs --arch tiny --size 32x48 --epochs 1 --draws 8 "
        "--batch 4 --log-every 1 --validation 0.3 --no-probe",
        "probe": f"probe street-depth random --data {place}/data/pairs --size 32x48 --epochs 1",
        "voxelize": f"voxelize {place}/data/raw",
        "prepare": "prepare street --scenes 2 --size 24x32",
    }
    return f"{lines[command]} -o {place / out}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "before"),
    [
        ("pretrain", "scaleevent.commands.pretrain.pretraining_data"),
        ("probe", "scaleevent.commands.task_run.benchmark_samples"),
        ("prepare", "scaleevent.datasets.street.sources"),
        ("voxelize", "scaleevent.commands.voxelize.find_sources"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_anything_is_claimed(place, stopped, command, before, number):
    code, message = stopped(small(place, command, "early"), before, number)
    assert code == 128 + number
    assert message == f"stopped by {number.name}\n"
    assert not (place / "early").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "moment"),
    [
        ("pretrain", "scaleevent.training.run.keep_settings"),
        ("pretrain", "scaleevent.benchmarks.pretrain_report.save_encoder"),
        ("probe", "scaleevent.commands.task_run.evaluate"),
        ("voxelize", "scaleevent.commands.voxelize.save_picture"),
        ("prepare", "scaleevent.commands.prepare.store_report"),
    ],
)
def test_a_stop_after_the_claim_is_75_and_resume_goes_on(place, stopped, command, moment):
    out = f"{command}-{moment.rpartition('.')[2]}"
    code, message = stopped(small(place, command, out), moment)
    assert code == 75
    assert "--resume goes on" in message and str(place / out) in message
    with pytest.raises(SystemExit) as left, pytest.MonkeyPatch.context() as patched:
        line = f"{small(place, command, out)} --resume"
        patched.setattr(sys, "argv", ["scaleevent", *line.split()])
        main()
    assert not left.value.code


def test_a_stop_while_modules_are_imported(tmp_path):
    """And from the first line of the program on."""
    (tmp_path / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "scaleevent", "info", "x"], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "stopped by SIGINT\n")


# Workers that write


def test_a_worker_killed_while_it_starts():
    with ProcessExecutor(1) as executor:
        others = set(multiprocessing.active_children())
        task = executor.submit(time.sleep, 600)
        while not (new := set(multiprocessing.active_children()) - others):
            time.sleep(0.001)
        new.pop().kill()
        with pytest.raises(BrokenExecutor, match="killed by SIGKILL"):
            task.result(60)
        assert executor.submit(len, "abc").result(60) == 3  # another one takes its place


EXECUTOR = """
import os, sys, time
from pathlib import Path
from scaleevent.system.workers import ProcessExecutor

def begin(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with ProcessExecutor(1) as executor:
        executor.submit(begin, sys.argv[1]).result()
"""


def test_a_stopped_worker_ends_with_its_parent(tmp_path):
    (tmp_path / "run.py").write_text(EXECUTOR)
    parent = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path / "worker"])
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        time.sleep(0.01)
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while not gone(worker) and time.monotonic() < until:
        time.sleep(0.02)
    assert gone(worker)


@dataclass
class Sleeping(Source):
    """A task that stops its own process (SIGSTOP) and then has the run stopped (SIGTERM)."""

    def pairs(self, counts: Counter[str]):
        yield from super().pairs(counts)
        parent = multiprocessing.parent_process().pid
        if os.fork() == 0:  # somebody else stops both
            time.sleep(0.3)
            os.kill(os.getppid(), signal.SIGSTOP)
            os.kill(parent, signal.SIGTERM)
            os._exit(0)
        time.sleep(600)


def test_a_stopped_worker_does_not_hold_up_a_stop(tmp_path):
    others = set(multiprocessing.active_children())  # loaders of other tests
    with pytest.raises(StoppedError):
        write_store([Sleeping("a", (0, 1))], tmp_path, {}, ProcessExecutor(1))
    assert set(multiprocessing.active_children()) <= others and not list(tmp_path.iterdir())


@dataclass
class Hungry(Source):
    """A task without enough memory."""

    def pairs(self, counts: Counter[str]):
        yield from super().pairs(counts)
        raise MemoryError("Unable to allocate 9 EiB")


def test_a_worker_without_memory_is_one_error(tmp_path):
    with pytest.raises(EnvironmentProblem, match="out of memory") as caught:
        write_store([Hungry("a", (0, 1))], tmp_path, {}, ProcessExecutor(1))
    assert "00000-a.h5" in str(caught.value) and "--jobs" in str(caught.value)
    assert not list(tmp_path.iterdir())
    write_store(SOURCES, tmp_path, {})
    assert len(content(tmp_path)) == 6


# Workers that load


class Odd(Dataset):
    """Samples of which the third one is never there, or has a flaw."""

    def __init__(self, flaw=None):
        self.flaw = flaw

    def __getitem__(self, index):
        if index == 3 and self.flaw is None:
            time.sleep(600)
        if index == 3:
            raise self.flaw
        return index


@pytest.mark.slow
def test_a_batch_that_never_comes_is_told_with_its_samples():
    samples = Odd()
    samples.patience = 2  # seconds
    batches = loading.load_batches(samples, [[0, 1], [2, 3], [4, 5]], 2)
    assert next(batches).tolist() == [0, 1]
    with pytest.raises(EnvironmentProblem, match="samples 2, 3"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_flaws_of_a_sample_are_told_with_its_number(workers):
    for flaw, kind, told in [
        (DataError("damaged", where="a.h5"), DataError, "where: a.h5 (sample 3)"),
        (DataError("damaged"), DataError, "where: sample 3"),
        (MemoryError("9 EiB"), EnvironmentProblem, "out of memory"),
        (OSError(24, "Too many open files"), EnvironmentProblem, "ulimit -n"),
    ]:
        with pytest.raises(kind) as caught:
            list(loading.load_batches(Odd(flaw), [[3]], workers))
        assert told in str(caught.value)
    with pytest.raises(ZeroDivisionError) as caught:
        list(loading.load_batches(Odd(ZeroDivisionError("x")), [[2, 3]], workers))
    assert "while sample 3 was loaded" in caught.value.__notes__[0]


# A run that is stopped while it waits


def test_a_stop_while_a_batch_does_not_come_saves_the_state(tmp_path):
    from test_training import ALONE, Square, TrainSettings, batches, make, train

    def stalled():
        yield from batches(0, 3)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(60)

    settings = TrainSettings(ScheduledSettings(out=tmp_path, epochs=3), 4)
    model, optimizer = make()
    with pytest.raises(StoppedError, match="step 3 of 12"):
        train(Square(model, None), optimizer, stalled(), settings, ALONE)
    assert json.loads((tmp_path / "state/last.json").read_text())["step"] == 3


@pytest.mark.slow
def test_a_stop_of_several_ranks_is_one_message(place):
    """^C in the launcher, where a terminal sends it: the state is saved, resuming goes on."""
    line = small(place, "pretrain", "ranks").replace("--epochs 1", "--epochs 500")
    command = [sys.executable, "-m", "scaleevent", *line.split(), *"--gpus 2 --device cpu".split()]
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = place / "ranks/log.jsonl"
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=400)[1]
    assert process.returncode == 75, error
    assert error.count("error[") == 1 and "Traceback" not in error and "state saved" in error
    step = int(error.partition("found: step ")[2].split()[0])
    assert json.loads((place / "ranks/state/last.json").read_text())["step"] == step


# Logs of resumed runs


@pytest.mark.slow
def test_a_lost_log_is_said_and_the_report_is_made(place, capfd):
    shutil.rmtree(place / "log", ignore_errors=True)
    line = small(place, "pretrain", "log")
    for flags, damage in (("", None), ("--resume", b"\xff\xfe{\n"), ("--resume", None)):
        if flags:
            (place / "log/log.jsonl").unlink(missing_ok=True)
            if damage:
                (place / "log/log.jsonl").write_bytes(damage)
        capfd.readouterr()
        with pytest.raises(SystemExit) as left, pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["scaleevent", *line.split(), *flags.split()])
            main()
        assert not left.value.code
        assert ("lost its beginning" in capfd.readouterr().err) == bool(flags)
    report = json.loads((place / "log/report.json").read_text())
    assert report["rows"][0]["before"] is None and np.isfinite(report["rows"][0]["after"])
    assert [line["epoch"] for line in read_json_lines(place / "log/log.jsonl")] == [1]
