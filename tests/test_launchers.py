"""Who started this process, and how the processes of a run end together."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import Clock, free_port

from scaleevent.__main__ import main
from scaleevent.errors import EnvironmentProblem, StoppedError
from scaleevent.system import ranks as ranks_module
from scaleevent.system.launchers import ADDRESS, TORCHRUN, Place, find_place
from scaleevent.system.ranks import launch, ranks
from scaleevent.system.reports import remarks_said

MEET = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
TORCH = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **MEET}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}


@pytest.fixture
def environment(monkeypatch):
    """A way to set variables, where no launcher's are set."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_", "TORCHELASTIC")) or name in TORCHRUN:
            monkeypatch.delenv(name)

    def place(variables):
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            return find_place()

    return place


# Recognised by complete sets


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, Place(0, 1, 0, 1)),
        (MEET, Place(0, 1, 0, 1)),  # as many job scripts export them
        (TORCH, Place(1, 2, 1, 2, "127.0.0.1", 29511)),
        (TORCH | {"LOCAL_WORLD_SIZE": "1"}, Place(1, 2, 1, 1, "127.0.0.1", 29511)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Place(0, 1, 0, 1)),
        (SRUN | MEET, Place(3, 4, 1, 4, "127.0.0.1", 29511)),
        (SRUN | TORCH, Place(1, 2, 1, 2, "127.0.0.1", 29511)),  # torchrun on every node
        (SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Place(0, 1, 1, 1)),
        (SRUN | MEET | {"WORLD_SIZE": "4"}, Place(3, 4, 1, 4, "127.0.0.1", 29511)),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, Place(0, 1, 0, 1)),  # salloc
        ({k: SRUN[k] for k in SRUN if k != "SLURM_STEP_ID"}, Place(0, 1, 0, 1)),  # sbatch
        (SRUN | {"SLURM_STEP_ID": "4294967290"}, Place(0, 1, 0, 1)),  # salloc's own step
        (
            SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun -n 1 in a job of 4
            Place(0, 1, 1, 1),
        ),
    ],
)
def test_a_complete_set_of_variables_is_recognised(environment, variables, place):
    assert environment(variables) == place


@pytest.mark.parametrize("whole", [TORCH, SRUN | MEET])
def test_a_part_of_a_set_is_refused_with_what_is_missing(environment, whole):
    chance = random.Random(0)
    needed = [name for name in whole if name not in ("SLURM_STEP_ID", "SLURM_PROCID")]
    for _ in range(40):
        missing = chance.sample(needed, chance.randint(1, len(needed) - 1))
        if set(TORCHRUN) & whole.keys() <= set(missing):
            continue  # nothing but an address: one process
        with pytest.raises(EnvironmentProblem) as caught:
            environment({name: value for name, value in whole.items() if name not in missing})
        named = [name for name in missing if name in str(caught.value).partition("expected")[2]]
        ranks_first = [name for name in missing if name not in ADDRESS] or missing
        assert set(named) == set(ranks_first)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RANK": "0"}, "WORLD_SIZE, LOCAL_RANK too"),
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK too"),
        ({"RANK": "", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK too"),
        (TORCH | {"WORLD_SIZE": "two"}, "found: two"),
        (TORCH | {"RANK": "-1"}, "found: -1"),
        (TORCH | {"RANK": "2"}, "less than WORLD_SIZE, which is 2"),
        (TORCH | {"MASTER_PORT": "x"}, "MASTER_PORT"),
        (SRUN | {"SLURM_NTASKS": ""} | MEET, "SLURM_NTASKS too"),
        (SRUN, "MASTER_ADDR, MASTER_PORT too"),
    ],
)
def test_what_makes_no_sense_is_refused(environment, variables, told):
    with pytest.raises(EnvironmentProblem) as caught:
        environment(variables)
    assert told in str(caught.value)


def test_half_a_set_and_devices_are_refused_before_torch_is_imported(tmp_path):
    line = f"pretrain {tmp_path} -o {tmp_path / 'run'} --device"
    for device, variables, code in (("cpu", {"RANK": "1"}, 5), ("mps", {}, 2), ("meta", {}, 2)):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "scaleevent", *line.split(), device],
            env=os.environ | variables, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code
        told = done.stderr[done.stderr.index("error[") :]
        assert ("WORLD_SIZE" if variables else "cuda:N, not") in told
        assert " torch\n" not in done.stderr and not (tmp_path / "run").exists()


# Meeting


@pytest.fixture
def meeting(environment, monkeypatch):
    """Waiting takes no time, and variables stay."""
    monkeypatch.setattr(ranks_module, "time", Clock())
    port = str(free_port())

    def meet(variables):
        for name, value in (TORCH | {"MASTER_PORT": port} | variables).items():
            monkeypatch.setenv(name, value)
        with ranks("cpu"):
            pass

    return meet


@pytest.mark.parametrize(
    ("rank", "line"), [("0", "waiting for 1 of 2 ranks at"), ("1", "waiting for rank 0 of 2 at")]
)
def test_waiting_for_others_is_said_and_ends(meeting, capfd, rank, line):
    with pytest.raises((EnvironmentProblem, SystemExit)) as left:
        meet = {"RANK": rank, "LOCAL_RANK": rank}
        with remarks_said():
            meeting(meet)
    printed = capfd.readouterr().err + str(left.value)
    assert printed.count(f"{line} 127.0.0.1:") == 2  # once before, once in the error
    assert "not all processes of this run have come" in printed


def test_an_address_that_is_none(meeting):
    with pytest.raises(EnvironmentProblem, match="no such host"):
        meeting({"MASTER_ADDR": "no.such.host.invalid"})


# Ranks that we start ourselves

RANK = """
import os, signal, sys, time
from pathlib import Path
from scaleevent.system.launchers import LAUNCHER
from scaleevent.system.workers import end_with_launcher

if LAUNCHER in os.environ:
    end_with_launcher(int(os.environ[LAUNCHER]), ours=True)
rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]

def left(code):
    Path(sys.argv[1], "left-" + rank).touch()
    os._exit(code)

Path(sys.argv[1], "pid-" + rank).write_text(str(os.getpid()))
while len(list(Path(sys.argv[1]).glob("pid-*"))) < int(world):
    time.sleep(0.01)
"""


def gone(process):
    """Whether a process is dead."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def started(folder, number=2):
    """The ids of the ranks, as soon as all run."""
    until = time.monotonic() + 200
    while len(list(folder.glob("pid-*"))) < number and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    return [int((folder / f"pid-{rank}").read_text()) for rank in range(number)]


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Launch two ranks that do what a script says."""
    monkeypatch.setattr(ranks_module, "LEAVE_SECONDS", 0.5)

    def run(script):
        (tmp_path / "rank.py").write_text(RANK + script)
        return launch(2, "cpu", [sys.executable, str(tmp_path / "rank.py"), str(tmp_path)], "")

    return run


def test_the_exit_code_of_the_ranks(launched):
    assert launched("left(0)") == 0


def test_a_killed_rank_is_named_and_the_others_do_not_stay(launched, tmp_path):
    with pytest.raises(EnvironmentProblem) as caught:
        launched("if rank == '1': os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)")
    first, second = started(tmp_path)
    assert "rank 1 of 2" in str(caught.value) and caught.value.exit_code == 5
    assert f"process {second}, killed by SIGKILL" in str(caught.value)
    assert "--resume goes on" in str(caught.value)
    assert gone(first) and gone(second)


def test_a_rank_that_leaves_without_a_word_is_named(launched):
    with pytest.raises(EnvironmentProblem, match=r"rank 0 of 2[\s\S]*exit code 7"):
        launched("left(7) if rank == '0' else time.sleep(60)")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_stop_reaches_every_rank_once(launched, tmp_path, stopped, monkeypatch):
    """Those that were stopped with SIGSTOP too."""
    monkeypatch.setattr(ranks_module, "LEAVE_SECONDS", 10)

    def act():
        processes = started(tmp_path)
        while len(list(tmp_path.glob("hears-*"))) < 2:
            time.sleep(0.01)
        if stopped:
            os.kill(processes[0], signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=act).start()
    handle = "signal.signal(signal.SIGTERM, lambda *_: left(75))\n"
    hears = "Path(sys.argv[1], 'hears-' + rank).touch()\n"
    assert launched(f"{handle}{hears}time.sleep(60)") == 75
    assert len(list(tmp_path.glob("left-*"))) == 2


def test_a_second_stop_ends_ranks_that_hear_none(launched, tmp_path):
    over = threading.Event()

    def act():
        started(tmp_path)
        while len(list(tmp_path.glob("deaf-*"))) < 2:
            time.sleep(0.01)
        while not over.wait(0.3):  # two that come together are heard as one
            os.kill(os.getpid(), signal.SIGINT)

    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    deaf += "Path(sys.argv[1], 'deaf-' + rank).touch()\n"
    before = signal.signal(signal.SIGINT, lambda *_: None)  # for one that comes late
    stopping = threading.Thread(target=act)
    stopping.start()
    try:
        with pytest.raises(StoppedError, match="--resume"):
            launched(f"{deaf}time.sleep(600)")
    finally:
        over.set()
        stopping.join()
        signal.signal(signal.SIGINT, before)
    assert all(map(gone, started(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_ranks_do_not_outlive_a_killed_launcher(tmp_path, stopped):
    (tmp_path / "rank.py").write_text(RANK + "time.sleep(600)")
    code = (
        "import sys; from scaleevent.system.ranks import launch; launch(2, 'cpu', sys.argv[1:], '')"
    )
    command = [sys.executable, tmp_path / "rank.py", tmp_path]
    launcher = subprocess.Popen([sys.executable, "-c", code, *command])
    processes = started(tmp_path)
    if stopped:
        os.kill(processes[1], signal.SIGSTOP)
    launcher.kill()
    launcher.wait()
    until = time.monotonic() + 60
    while time.monotonic() < until and not all(map(gone, processes)):
        time.sleep(0.02)
    assert all(map(gone, processes))


JOINED = """
from scaleevent.errors import DataError
from scaleevent.system.ranks import ranks

def work():
    with ranks("cpu") as joined:
        if DIFFER and joined.main:
            joined.wait()
        raise DataError("a damaged shard", where="rank " + rank if DIFFER else "everywhere")

try:
    work()
except DataError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("differ", [False, True])
def test_the_error_of_one_rank_or_of_all_is_told_once(launched, capfd, differ, monkeypatch):
    monkeypatch.setattr(ranks_module, "LEAVE_SECONDS", 60)
    assert launched(f"DIFFER = {differ}{JOINED}") == 3
    printed = capfd.readouterr().err
    assert printed.count("error[") == 1 and "Traceback" not in printed
    assert f"where: {'rank 1' if differ else 'everywhere'}" in printed


LOST = """
from scaleevent.system.ranks import ranks
with ranks("cpu") as joined:
    if not joined.main:
        os.kill(os.getpid(), signal.SIGKILL)
    joined.wait()
"""


@pytest.mark.slow
def test_a_rank_lost_under_another_launcher_is_one_message(tmp_path):
    """Two processes with the variables of torchrun, the second of which is killed."""
    (tmp_path / "rank.py").write_text(RANK + LOST)
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, tmp_path / "rank.py", tmp_path], stderr=subprocess.PIPE, text=True,
            env=os.environ | TORCH | {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port},
        )
        for rank in "01"
    ]  # fmt: skip
    error = processes[0].communicate(timeout=200)[1]
    assert processes[0].returncode == 5
    assert error.count("error[") == 1 and "Traceback" not in error
    assert "another process of this run is gone" in error
    processes[1].communicate()


# Threads


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_idle_threads_sleep_soon_unless_the_environment_says_otherwise(monkeypatch, given):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, given.get(name, ""))  # whatever it is becomes as before
        if name not in given:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["scaleevent", "--version"])
    with pytest.raises(SystemExit):
        main()
    expected = given.get("GOMP_SPINCOUNT", None if given else "1000")
    assert os.environ.get("GOMP_SPINCOUNT") == expected
