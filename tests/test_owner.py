"""One process at a time writes into a folder; a dead one's folder is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scaleevent.errors import DataError, EnvironmentProblem
from scaleevent.system import owner
from scaleevent.system.files import MARKER, claimed_folder
from scaleevent.system.owner import Owner, claims, owned

ME = Owner.this()
HOLD = """
import sys
from pathlib import Path
from scaleevent.system.files import claimed_folder
with claimed_folder(Path(sys.argv[1]), "marbles", resume=True, overwrite=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def claim(folder, **consent):
    with claimed_folder(folder, "marbles", **{"resume": True, "overwrite": False} | consent):
        assert [json.loads(path.read_text())["pid"] for path in claims(folder)] == [os.getpid()]


def plant(folder, record, number=1):
    """A folder of ours with a claim."""
    folder.mkdir(exist_ok=True)
    (folder / MARKER).write_text("marbles\n")
    text = record if isinstance(record, str) else json.dumps(asdict(record))
    (folder / f".owner-{number}").write_text(text)


@pytest.fixture
def holder(tmp_path):
    """A process that holds a folder."""
    command = [sys.executable, "-c", HOLD, tmp_path / "out"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("consent", [{}, {"take_over": True}, {"resume": False, "overwrite": True}])
def test_a_second_run_on_a_folder_in_use_is_told_whose_it_is(tmp_path, holder, consent):
    with pytest.raises(EnvironmentProblem) as caught:
        claim(tmp_path / "out", **consent)
    assert caught.value.exit_code == 5
    assert f"process {holder.pid} on {socket.gethostname()}, since 2" in caught.value.found
    assert (tmp_path / "out" / MARKER).exists()
    holder.communicate("")
    claim(tmp_path / "out")  # it has ended, and left nothing
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MARKER]


@pytest.mark.parametrize("reaped", [True, False])
def test_the_folder_of_a_killed_run_is_taken_over(tmp_path, holder, reaped):
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    if reaped:
        holder.wait()
    assert len(claims(tmp_path / "out")) == 1
    claim(tmp_path / "out")
    assert not claims(tmp_path / "out")


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(replace(ME, started="another boot/1"), id="a number used again"),
        pytest.param(replace(ME, pid=2**22 + 1), id="a number that no process has"),
        "",
        "{",
        "[]",
        json.dumps(asdict(ME) | {"pid": "12"}),
        json.dumps(asdict(ME) | {"pid": -1}),
        json.dumps(asdict(ME) | {"of a later version": 1}),
    ],
)
def test_dead_and_damaged_claims_do_not_count(tmp_path, monkeypatch, record):
    monkeypatch.setattr(owner, "WHOLE_SECONDS", 0.05)
    plant(tmp_path / "out", record)
    claim(tmp_path / "out")


@pytest.mark.parametrize("change", [{"host": "node7"}, {"space": "pid:[1]"}])
def test_a_run_that_cannot_be_seen_from_here_is_taken_over_on_demand_only(tmp_path, change):
    plant(tmp_path / "out", replace(ME, **change))
    with pytest.raises(EnvironmentProblem, match="another host") as caught:
        claim(tmp_path / "out")
    assert f"process {ME.pid} on {change.get('host', ME.host)}" in caught.value.found
    assert "--take-over" in caught.value.hint
    claim(tmp_path / "out", take_over=True)
    claim(tmp_path / "out")


def test_without_proc_a_live_process_of_that_number_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "process_started", lambda pid: "")
    plant(tmp_path / "out", ME)
    with pytest.raises(EnvironmentProblem):
        claim(tmp_path / "out")


def test_a_claim_half_written_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "WHOLE_SECONDS", 60)
    plant(tmp_path / "out", "")
    write = f"""
    import time, sys; from pathlib import Path
    time.sleep(0.2); Path(sys.argv[1]).write_text({json.dumps(asdict(ME))!r})
    """
    arguments = [sys.executable, "-c", textwrap.dedent(write), tmp_path / "out/.owner-1"]
    with subprocess.Popen(arguments), pytest.raises(EnvironmentProblem):
        claim(tmp_path / "out")


def test_a_folder_is_free_again_after_errors(tmp_path):
    with pytest.raises(DataError):  # noqa: SIM117
        with claimed_folder(tmp_path / "out", "marbles", resume=False, overwrite=False):
            (tmp_path / "out/part").touch()
            raise DataError("bad input")
    assert not claims(tmp_path / "out")


def test_one_who_lost_a_folder_leaves_the_new_owner_alone(tmp_path):
    with owned(tmp_path) as mine:
        mine.write_text(json.dumps(asdict(replace(ME, pid=1))))
    assert claims(tmp_path) == [mine]


def test_a_rival_that_claimed_meanwhile_wins(tmp_path, monkeypatch):
    """Whoever makes a claim looks again: a rival may have begun at a lower number."""
    folder, began = tmp_path / "out", []

    def rival(descriptor):
        if not began:
            began.append(1)
            plant(folder, ME, 7)

    monkeypatch.setattr(os, "fsync", rival)
    with pytest.raises(EnvironmentProblem):
        claim(folder)
    assert [path.name for path in claims(folder)] == [".owner-7"]


RACE = """
import json, multiprocessing, sys
from dataclasses import asdict, replace
from pathlib import Path
from scaleevent.errors import EnvironmentProblem
from scaleevent.system.files import MARKER, claimed_folder
from scaleevent.system.owner import Owner

def compete(number, rounds, barrier, won):
    for k in range(rounds):
        folder = Path(sys.argv[1], str(k))
        barrier.wait()
        try:
            with claimed_folder(folder, "marbles", resume=True, overwrite=False):
                won.send(k)
                barrier.wait()  # all have tried
        except EnvironmentProblem:
            barrier.wait()
        barrier.wait()

context = multiprocessing.get_context("fork")
processes, rounds = 8, 20
barrier = context.Barrier(processes)
received, won = context.Pipe(False)
for k in range(0, rounds, 2):  # every other folder was left by a dead run
    folder = Path(sys.argv[1], str(k))
    folder.mkdir()
    (folder / MARKER).write_text("marbles\\n")
    dead = replace(Owner.this(), started="another boot/1")
    (folder / ".owner-3").write_text(json.dumps(asdict(dead)))
arguments = (rounds, barrier, won)
workers = [context.Process(target=compete, args=(n, *arguments)) for n in range(processes)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
wins = []
while received.poll():
    wins.append(received.recv())
print(json.dumps(sorted(wins)))
"""


def test_of_processes_that_race_exactly_one_gets_the_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RACE, tmp_path], capture_output=True, text=True, timeout=400
    )
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == list(range(20))
    assert not list(Path(tmp_path).rglob(".owner-*"))
