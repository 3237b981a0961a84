"""Calls that only some systems have stand in one module, which does without them elsewhere."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import scaleevent
from scaleevent.system import platform

PACKAGE = Path(scaleevent.__file__).parent
HOME = PACKAGE / "system/platform.py"
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "winreg"}
OF_OS = set(
    """chown eventfd fchmod fchown fork forkpty fdatasync getegid geteuid getgid getgroups
    getloadavg getpgid getpgrp getpriority getsid getuid initgroups kill killpg lchown lockf
    memfd_create mkfifo mknod nice openpty pathconf pidfd_open pipe2 posix_fadvise
    posix_fallocate posix_spawn pread preadv pwrite pwritev register_at_fork
    sched_getaffinity sched_setaffinity sendfile setpgid setpriority setsid setuid statvfs
    sync sysconf uname wait wait3 wait4 waitid waitpid O_CLOEXEC O_DIRECT O_DIRECTORY
    O_NOFOLLOW O_NONBLOCK O_SYNC P_PID WNOHANG""".split()
)
OF_SIGNAL = set(
    """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 SIGXFSZ SIG_BLOCK
    SIG_SETMASK SIG_UNBLOCK alarm pause pthread_kill pthread_sigmask setitimer sigwait""".split()
)


def used(source: str) -> set[str]:
    """What of the lists above a module uses, and start methods that not all systems have."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = {"os": OF_OS, "signal": OF_SIGNAL}.get(node.value.id, set())
            found |= names & {node.attr}
        elif isinstance(node, ast.Import):
            found |= MODULES & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {"forkserver"} & {alias.name for alias in node.names}
            found |= MODULES & {node.module}
        elif isinstance(node, ast.Constant):
            found |= {"fork", "forkserver"} & {node.value if isinstance(node.value, str) else ""}
    return found


def test_such_calls_stand_in_one_module():
    assert {"kill", "pthread_sigmask", "forkserver"} <= used(HOME.read_text())
    elsewhere = {path: used(path.read_text()) for path in PACKAGE.rglob("*.py") if path != HOME}
    assert {str(path): names for path, names in elsewhere.items() if names} == {}


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 wbnoinvd", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("flags\t\t: fpu avx512f avx512_bf16x", False),
        ("model name\t: avx512_bf16", None),
        ("Features\t: fp asimd bf16", None),
        ("", None),
    ],
)
def test_bfloat16_is_told_by_the_flags_of_the_processor(line, has, tmp_path, monkeypatch):
    told = tmp_path / "cpuinfo"
    told.write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr("builtins.open", lambda path, **how: Path.open(told, **how))
    assert platform.has_bfloat16() is has
    told.unlink()
    assert platform.has_bfloat16() is None  # no such file: another system


# Windows as far as it can be played here: names are missing, folders cannot be opened, and a file
# that is open can be neither removed nor replaced.
WINDOWS = """
import builtins, ctypes, multiprocessing, os, signal, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from scaleevent import cli
from scaleevent.checkpoint import save_encoder
# imported here: compiled functions look for their cache as Linux has it
from scaleevent.commands import info, street_store, voxelize
from scaleevent.datasets import street
from scaleevent.encoders.encoder import build_encoder
from scaleevent.errors import EnvironmentProblem
from scaleevent.pairs import preparing
from scaleevent.system import owner, platform
from scaleevent.system.files import claimed_folder, write_bytes
from scaleevent.system.signals import on_stop

place, real, alive = Path(sys.argv[1]), {}, True

def guarded(name):
    real[name] = getattr(os, name)
    def call(path, *rest, **named):
        ours = "__pycache__" not in str(path)  # the cache of compiled functions is numba's
        for changed in (path, *rest[:1]) if ours else ():
            for number in os.listdir("/proc/self/fd"):
                try:
                    shown = os.readlink(f"/proc/self/fd/{number}")
                except FileNotFoundError:
                    continue
                if shown == os.path.abspath(changed):
                    raise PermissionError(13, "used by another process", str(changed))
        return real[name](path, *rest, **named)
    return call

def opened(path, *rest, **named):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real["open"](path, *rest, **named)

class Kernel:
    def OpenProcess(self, access, inherit, process):
        return process if os.path.exists(f"/proc/{process}") else 0
    def GetExitCodeProcess(self, handle, code):
        code._obj.value = 259 if alive else 1
    def CloseHandle(self, handle):
        pass

real["open"], os.open = os.open, opened
for name in ("replace", "unlink", "remove"):
    setattr(os, name, guarded(name))
for name in ("kill", "killpg", "fork", "pread", "getuid", "sched_getaffinity", "setsid"):
    delattr(os, name)
for name in ("pthread_sigmask", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGCONT"):
    delattr(signal, name)
platform.windows = lambda: True
platform.STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
owner.process_space = lambda: ""
multiprocessing.get_all_start_methods = lambda: ["spawn"]
ctypes.WinDLL = lambda name: Kernel()
preparing.ProcessExecutor = ThreadPoolExecutor

def run(line):
    sys.argv = ["scaleevent", *line.split()]
    try:
        cli.main()
    except SystemExit as left:
        return left.code or 0
    return 0

assert run(f"prepare street --scenes 3 --size 32x48 -o {place / 'pairs'}") == 0
assert run(f"prepare street --scenes 3 --size 32x48 -o {place / 'pairs'} --resume --jobs 2") == 0
assert run(f"info {place / 'pairs'} --verify") == 0
save_encoder(place / "encoder.safetensors", build_encoder("tiny"), {})
save_encoder(place / "encoder.safetensors", build_encoder("tiny"), {})
with claimed_folder(place / "held", "marbles", resume=False, overwrite=False):
    try:
        with claimed_folder(place / "held", "marbles", resume=True, overwrite=False):
            raise AssertionError("owned twice")
    except EnvironmentProblem as error:
        assert f"process {os.getpid()}" in error.found
    alive = False
    with claimed_folder(place / "held", "marbles", resume=True, overwrite=False):
        pass
assert platform.loader_start([]) == "spawn"
with platform.signals_held(), on_stop(lambda number, frame: None):
    pass
platform.end_with_starter()
print("done")
"""


@pytest.mark.slow
def test_a_store_and_a_checkpoint_are_written_where_posix_is_missing(tmp_path):
    done = subprocess.run([sys.executable, "-c", WINDOWS, tmp_path], capture_output=True, text=True)
    assert done.stdout.endswith("done\n"), done.stderr
    left = {path.name for path in tmp_path.rglob("*")}
    assert not [name for name in left if name.endswith(".tmp") or name.startswith(".owner")]


def test_windows_waits_for_a_file_that_is_open(tmp_path, monkeypatch):
    path, refused = tmp_path / "file", []
    path.touch()
    unlink = Path.unlink

    def busy(self, missing_ok=False):
        refused.append(1)
        if len(refused) < 3:
            raise PermissionError
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", busy)
    with pytest.raises(PermissionError):
        platform.remove_file(path)
    refused.clear()
    monkeypatch.setattr(platform, "windows", lambda: True)
    platform.remove_file(path)
    assert len(refused) == 3 and not path.exists()


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    platform.sync_folder(tmp_path)


def test_a_process_is_told_from_a_later_one_of_its_number():
    here = platform.process_started(os.getpid())
    assert here is not None and here == platform.process_started(os.getpid())
    assert platform.process_started(2**22 + 1) is None
    assert platform.process_started(10**12) is None
    if Path("/proc/1/stat").exists():
        assert platform.process_started(1) not in (None, here)
