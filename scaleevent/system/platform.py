"""All that differs between operating systems: processes, folders, signals, limits, shared memory.

Linux is where the tests run; macOS has the same calls. On Windows they do what can be done there:
folders are not synced, since NTFS logs its own changes, workers are spawned, since it has no fork
server, and HDF5 files of others are refused, since no process can be set apart to read them.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
CRASHES = tuple(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")
    if hasattr(signal, name)
)
"""Signals by which faulty code ends a process."""

OUT_OF_TIME = int(getattr(signal, "SIGPROF", 0))
"""The signal that `limit_time` ends a process by."""

UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # file systems and folders that cannot be
PR_SET_PDEATHSIG = 1  # sys/prctl.h
RETRIES, RETRY_SECONDS = 50, 0.02  # on Windows, for a file that another process has open


def windows() -> bool:
    """Whether this is Windows."""
    return os.name == "nt"


def has_bfloat16() -> bool | None:
    """Whether this x86 processor has instructions for bfloat16, as far as Linux tells.

    Without them it is emulated, many times slower than float32. None: another system or processor.
    """
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                return not {"avx512_bf16", "amx_bf16"}.isdisjoint(line.split())
    return None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the file system can."""
    if windows():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of which lasts through a power cut."""
    if not folder.is_dir():
        if folder.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove_file(path: Path) -> None:
    """Remove a file if it is there; Windows waits for a moment in which nobody has it open."""
    for _ in range(RETRIES if windows() else 0):
        try:
            return path.unlink(missing_ok=True)
        except PermissionError:
            time.sleep(RETRY_SECONDS)
    path.unlink(missing_ok=True)


def process_started(process: int) -> str | None:
    """A text that no other process of this number has had; empty where the system tells none.

    None if there is no such process, or only one that has ended and waits for its parent.
    """
    if not _exists(process):
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # no /proc, or a process of another user
        return ""
    return None if fields[0] in (b"Z", b"X") else f"{boot}/{fields[19].decode()}"


def process_space() -> str:
    """The space in which process numbers count: a container has its own. Empty if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except (OSError, AttributeError):
        return ""


def _exists(process: int) -> bool:
    if windows():
        return _exists_on_windows(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _exists_on_windows(process: int) -> bool:
    kernel = vars(ctypes)["WinDLL"]("kernel32")  # the name exists on Windows only
    query_limited_information, still_active = 0x1000, 259
    handle = kernel.OpenProcess(query_limited_information, False, process)
    if not handle:
        return False
    code = ctypes.c_ulong()
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return code.value == still_active


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back stop signals from this thread, and from processes started meanwhile for good.

    A terminal sends ^C to all processes of a run: only the main one answers it. On Windows nothing
    can be held back.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else it starts with the process and lifts the mask again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_stop_signals_to_others() -> None:
    """In a thread beside the main one: take no stop signal; it would not wake the main thread."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def loader_start(preload: Sequence[str]) -> str:
    """How processes that load samples start: where it can be, from a server that is started here.

    The server has imported the modules of `preload` once; elsewhere every process imports them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    forkserver.set_forkserver_preload(list(preload))
    with signals_held():
        forkserver.ensure_running()
    return "forkserver"


def end_with_starter() -> None:
    """Have the kernel end this process with the thread that started it, where it can (Linux).

    It ends a process that is stopped, or busy importing, too.
    """
    if sys.platform == "linux" and not windows():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wake(process: int) -> None:
    """Let a process that was stopped go on, so that it hears other signals."""
    if hasattr(signal, "SIGCONT"):
        os.kill(process, signal.SIGCONT)


def files_allowed() -> int | None:
    """Number of files that a process may have open; None for no limit, or one that is unknown."""
    if windows():
        return None
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed if 0 < allowed != resource.RLIM_INFINITY else None


def limit_memory(size: int) -> None:
    """Allow this process so much address space, in bytes, and no core file, where it can be."""
    if windows():
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    now, most = resource.getrlimit(resource.RLIMIT_AS)
    if now == resource.RLIM_INFINITY or now > size:
        with suppress(ValueError, OSError):  # macOS knows the limit and refuses it
            resource.setrlimit(resource.RLIMIT_AS, (size, most))


def limit_time(seconds: float) -> None:
    """End this process by `OUT_OF_TIME` after so much processor time; 0: never. Not on Windows."""
    if OUT_OF_TIME:
        signal.setitimer(signal.ITIMER_PROF, seconds)


def cores_allowed() -> int | None:
    """Number of cores that this process may use; None where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def memory_installed() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def shared_memory() -> int:
    """Descriptor of memory that another process can map."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("scaleevent")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def after_fork(act: Callable[[], None]) -> None:
    """Call a function in every fork of this process; there are none on Windows."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)


def locked_for_writing(descriptor: int) -> bool:
    """Whether another process holds an exclusive lock of a file, where the system knows."""
    if windows():
        return False
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, where the system has locks; a dead process holds none.

    Gives whether this process is alone: not where another one holds it and `wait` is False, nor
    where the file system has no locks. What is done inside must be right even then.
    """
    if windows():
        yield False
        return
    import fcntl

    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
