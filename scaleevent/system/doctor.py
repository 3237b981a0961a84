"""What `doctor` tells: whether everything works that is needed here, and where things are."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from scaleevent.errors import EnvironmentProblem
from scaleevent.system.files import Json, temporary_path, writing
from scaleevent.system.locations import LIMIT, PACKAGE, cache_folder
from scaleevent.system.platform import (
    cores_allowed,
    files_allowed,
    has_bfloat16,
    memory_installed,
    remove_file,
)
from scaleevent.system.reports import Report, Section
from scaleevent.version import __version__

PATIENCE = 600  # seconds for all trials together
LITTLE = 2e9  # bytes of free disk with less than which a note is due
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve")  # of processors
_NEEDED = re.compile(r"^([\w.-]+)(?:\[.*?\])?\s*(.*)$")  # name, extras, versions
SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD|JWT")
VARIABLES = {  # that are read here, or by the libraries that are used: what they do
    "SCALEEVENT_DATA": "folder of named pair stores, and the default data of pretrain",
    "SCALEEVENT_CACHE": "folder for what can be made or fetched again",
    LIMIT: "gigabytes of shards from elsewhere that are kept; default: no limit",
    "HF_HUB_OFFLINE": "1: never ask the Hugging Face hub",
    "HF_HOME": "folder of the Hugging Face hub's files",
    "HF_HUB_CACHE": "folder of the weights among them",
    "HF_TOKEN": "access to gated weights, such as DINOv3's",
    "XDG_CACHE_HOME": "folder of all caches; default: ~/.cache",
    "TORCH_HOME": "folder of what torch fetches",
    "NUMBA_CACHE_DIR": "folder of machine code that numba keeps",
    "CUDA_VISIBLE_DEVICES": "numbers of the GPUs that may be used",
    "OMP_NUM_THREADS": "threads that compute on the CPU",
    "OMP_WAIT_POLICY": "how they wait for each other",
    "HDF5_USE_FILE_LOCKING": "FALSE: also read HDF5 files that another process writes",
    "NO_COLOR": "no colours in a terminal",
    "PYTHONPATH": "folders whose modules are taken before those installed",
    "CXX": "compiler for measuring compiled models; default: g++",
}
LAUNCHERS = re.compile("RANK|WORLD_SIZE|LOCAL_|MASTER_|TORCHELASTIC_|SLURM_|SCALEEVENT_LAUNCHER")


@dataclass
class Examination:
    """What was found."""

    tables: list[Section] = field(default_factory=list)
    facts: Json = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)  # what is broken, what to do
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
        """A table, which is in the facts too."""
        table = Section(key, columns, tuple(rows))
        self.tables.append(table)
        self.facts[key] = [dict(zip(columns, row, strict=True)) for row in table.rows]

    def report(self) -> Report:
        """All of it; exit code 5 where something is broken."""
        first, *more = self.tables
        broken = [f"problem: {what}\n  {hint}" for what, hint in self.problems]
        told = broken or ["everything that is needed works"]
        self.facts["problems"] = [{"what": what, "hint": hint} for what, hint in self.problems]
        return Report(
            "doctor", first.title, first.columns, first.rows, (*self.notes, *told), self.facts,
            tuple(more), EnvironmentProblem.exit_code if broken else 0,
        )  # fmt: skip


def examine(out: Path) -> Report:
    """Look at everything, without any network; `out` is where output would go."""
    found = Examination()
    trials = dict(_trials())
    _packages(found, trials)
    _devices(found, trials)
    _extras(found)
    _caches(found)
    _disks(found, out)
    _variables(found)
    return found.report()


def _trials() -> Iterator[tuple[str, Json]]:
    """What `vitals` finds by package, from a process that may die of it."""
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(
        [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    command = [sys.executable, "-m", "scaleevent.system.vitals"]
    try:
        done = subprocess.run(
            command, env=offline, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )  # fmt: skip
        printed, end = done.stdout, f"it ends the process (exit code {done.returncode})"
    except subprocess.TimeoutExpired as late:
        printed, end = late.stdout or b"", f"no end after {PATIENCE} s"
    trying = None
    for line in printed.splitlines():
        if line.startswith(b'{"trying"'):
            trying = json.loads(line)["trying"]
        elif line.startswith(b'{"tried"'):
            told = json.loads(line)
            yield told.pop("tried"), told
            trying = None
    if trying is not None:
        yield trying, {"error": end}


def installed(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(of: str) -> list[tuple[str, str, str]]:
    """Name, versions and extra of what a distribution needs; empty where it is not installed."""
    found = []
    for line in metadata.requires(of) or [] if installed(of) else []:
        needed, _, condition = line.partition(";")
        name, _, versions = _NEEDED.sub(r"\1 \2", needed.strip()).partition(" ")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", condition)
        found.append((name, versions.strip("() "), extra[1] if extra else ""))
    return found


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is among those wanted, such as `>=2.10,<3` or `==2.10.0`.

    Only the numbers count; what else there is (`2.10.0+cpu`, `rc1`) makes no difference.
    """

    def numbers(text: str) -> list[int]:
        found = re.match(r"\d+(\.\d+)*", text)
        return [*map(int, found[0].split("."))] if found else []

    def fits(rule: str) -> bool:
        text = rule.strip().lstrip("<>=!~")
        sign = rule.strip().removesuffix(text)
        asked, here = numbers(text), numbers(version)
        if text.rstrip().endswith(".*"):
            here = here[: len(asked)]
        longest = max(len(asked), len(here))
        one, other = (part + [0] * (longest - len(part)) for part in (here, asked))
        if sign == "~=":
            return one >= other and here[: len(asked) - 1] == asked[:-1]
        return {
            "==": one == other, "!=": one != other, ">=": one >= other, "<=": one <= other,
            ">": one > other, "<": one < other,
        }.get(sign, True)  # fmt: skip

    return all(map(fits, filter(None, wanted.split(","))))


def _packages(found: Examination, trials: dict[str, Json]) -> None:
    """Versions of what is needed, and whether each works."""
    rows: list[tuple[object, ...]] = [
        ("scaleevent", __version__, "", "yes"), ("python", platform.python_version(), "", "yes"),
    ]  # fmt: skip
    needed = [(name, wanted) for name, wanted, extra in requirements("scaleevent") if not extra]
    modules = {"pillow": "PIL"}
    names = {modules.get(name.lower(), name.lower()) for name, _ in needed}
    needed += [(name, "") for name in trials if name not in names]  # not installed, only run
    for name, wanted in sorted(needed, key=lambda one: one[0].lower()):
        version, tried = installed(name), trials.get(modules.get(name.lower(), name.lower()))
        error = tried.get("error") if tried else None
        if version is None and (tried is None or error):
            error = "not installed"
        elif version is not None and not satisfies(version, wanted):
            error = error or ("too old" if wanted.startswith(">=") else "another one is needed")
        rows.append(
            (name, version or "not known", wanted, "yes" if error is None else f"no: {error}")
        )
        if error is not None:
            line = f'pip install --upgrade "{name}{wanted}"'
            found.problems.append((f"{name} {version or ''}: {error}".replace(" :", ":"), line))
    found.add("versions", ("package", "version", "needed", "works"), rows)
    here = installed("torch")
    for name, wanted, _ in requirements("torchvision"):
        if name == "torch" and here and not satisfies(here, wanted):
            what = f"torchvision {installed('torchvision')} is made for torch {wanted}, not {here}"
            found.problems.append((what, "pip install --upgrade torch torchvision"))


def _devices(found: Examination, trials: dict[str, Json]) -> None:
    """What computes."""
    about, flags = _processor()
    torch = trials.get("torch", {}).get("found", {})
    cores = cores_allowed()
    bf16 = {True: "in hardware", False: "emulated: fp32 is faster", None: "not known"}
    rows: list[tuple[object, ...]] = [
        ("processor", about),
        ("cores, threads of torch", f"{cores}, {torch.get('threads', '-')}"),
        ("instructions", ", ".join(flag for flag in FLAGS if flag in flags) or "not known"),
        ("bfloat16", bf16[has_bfloat16()]),
        *([("memory", _size(memory))] if (memory := memory_installed()) else []),
        ("open files allowed", files_allowed() or "no limit"),
    ]
    for gpu in torch.get("gpus", ()):
        name = f"cuda:{gpu['number']}"
        if gpu.get("error"):
            found.problems.append((f"{name}: {gpu['error']}", "nvidia-smi tells its state; "
                                   "CUDA_VISIBLE_DEVICES leaves it out"))  # fmt: skip
            rows.append((name, f"does not work: {gpu['error']}"))
            continue
        rows.append((name, f"{gpu['name']}, {_size(gpu['free'])} of {_size(gpu['bytes'])} free, "
                     f"capability {gpu['capability']}"))  # fmt: skip
    if torch.get("mps"):
        rows.append(("mps", "there, but not used: the CPU computes"))
    if torch and not torch["gpus"]:
        rows.append(("GPU", "none that this torch can use"))
        if shutil.which("nvidia-smi"):
            why = "was built without CUDA" if torch["CUDA"] is None else "finds none"
            found.notes.append(
                f"there is an NVIDIA driver, but this torch {why}: "
                "https://pytorch.org/get-started tells which one to install"
            )
    passed = trials.get("hdf5plugin", {}).get("found", {})
    broken = [name for name, works in passed.items() if not works]
    if passed:
        rows.append(("HDF5 filters", ", ".join(name for name in passed if name not in broken)))
    if broken:
        what = f"HDF5 filters that do not work: {', '.join(broken)}"
        found.problems.append((what, "pip install --upgrade --force-reinstall h5py hdf5plugin"))
    found.add("devices", ("device", "what"), rows)


def _processor() -> tuple[str, set[str]]:
    """Its name and flags, as far as Linux tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    named = re.search(r"^model name\s*: (.*)", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)", text, re.M)
    return named[1] if named else platform.machine(), set(flags[1].split() if flags else ())


def _extras(found: Examination) -> None:
    """What could be installed beside, and how."""
    needed: dict[str, list[str]] = {}
    for name, wanted, extra in requirements("scaleevent"):
        if extra:
            version = installed(name)
            lacking = needed.setdefault(extra, [])
            lacking += [] if version and satisfies(version, wanted) else [name]
    rows = [(extra, "installed" if not lacking else f"without {', '.join(lacking)}",
             f'pip install "scaleevent[{extra}]"' if lacking else "")
            for extra, lacking in needed.items()]  # fmt: skip
    found.add("extras", ("extra", "state", "to install"), rows)


def _caches(found: Examination) -> None:
    """What can be deleted: it is made or fetched again."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface") / "hub"
    caches = {
        "rendered scenes, shards from elsewhere": cache_folder(),
        "weights of the Hugging Face hub": Path(os.environ.get("HF_HUB_CACHE") or hub),
        "what torch fetched": Path(os.environ.get("TORCH_HOME") or home / "torch"),
    }
    if kept := os.environ.get("NUMBA_CACHE_DIR"):
        caches["machine code of numba"] = Path(kept)
    rows: list[tuple[object, ...]] = []
    for what, folder in caches.items():
        size, files = folder_size(folder)
        state = f"{_size(size)} in {files:,} files" if folder.is_dir() else "not there yet"
        rows.append((what, str(folder), state, size))
    found.add("caches", ("cache", "folder", "state", "bytes"), rows)


def folder_size(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files in a folder; links are not followed."""
    size = files = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(inside, name)).st_size
                files += 1
            except OSError:  # gone meanwhile
                continue
    return size, files


def _disks(found: Examination, out: Path) -> None:
    """Whether output can be written, and how much."""
    rows: list[tuple[object, ...]] = []
    places = {"output": (out, "choose another with --out"),
              "cache": (cache_folder(), "name another: SCALEEVENT_CACHE=FOLDER")}  # fmt: skip
    for what, (folder, hint) in places.items():
        there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        free, works = shutil.disk_usage(there).free, "yes"
        try:
            _write(there)
        except EnvironmentProblem as problem:
            works = f"no: {problem.what}"
            found.problems.append((f"{what} in {there}: {problem.what}", hint))
        if free < LITTLE:
            found.notes.append(f"only {_size(free)} are free for {what} in {there}")
        rows.append((what, str(there), f"{_size(free)} free", works))
    found.add("disk", ("for", "folder", "room", "can be written"), rows)


def _write(folder: Path) -> None:
    """Write a megabyte, read it back and remove it.

    Raises:
        EnvironmentProblem: The system refuses.
    """
    path, data = temporary_path(folder / "doctor"), os.urandom(1 << 20)
    try:
        with writing(path):
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if path.read_bytes() != data:
                raise OSError("what is read is not what was written")
    except OSError as error:
        raise EnvironmentProblem(f"cannot write: {error}") from None
    finally:
        if path.exists():
            remove_file(path)


def _variables(found: Examination) -> None:
    """Environment variables that change what happens here."""
    rows = [(name, _shown(name), told) for name, told in VARIABLES.items()]
    rows += [(name, _shown(name), "set by a launcher")
             for name in sorted(os.environ) if LAUNCHERS.match(name)]  # fmt: skip
    found.add("variables", ("variable", "value", "what it does"), rows)
    data, limit = os.environ.get("SCALEEVENT_DATA"), os.environ.get(LIMIT)
    if data and not Path(data).is_dir():
        found.problems.append((f"SCALEEVENT_DATA: no folder {data}", "make it, or unset it"))
    if limit and not re.fullmatch(r"\d*\.?\d+(e\d+)?", limit):
        found.problems.append((f"{LIMIT}: {limit} is not a size", "gigabytes, such as 200"))


def _shown(name: str) -> str:
    value = os.environ.get(name)
    return "-" if value is None else "set" if SECRET.search(name) else value


def _size(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
