"""What is written lasts, has the mode the user asks for, and a full disk costs nothing else."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaleevent.checkpoint import save_encoder
from scaleevent.encoders.encoder import build_encoder
from scaleevent.grids.inputs import InputSettings
from scaleevent.panels import save_picture
from scaleevent.system.files import append_json_line, write_json
from tests.test_store import pair_of, write_shard

WRITERS = {
    "json": lambda path: write_json(path, {"a": 1}),
    "log": lambda path: append_json_line(path, {"a": 1}),
    "picture": lambda path: save_picture(path, np.zeros((8, 8, 3), np.uint8)),
    "shard": lambda path: write_shard(path, [pair_of(0)]),
    "encoder": lambda path: save_encoder(path, build_encoder("tiny"), {}),
}
NAMES = {"picture": "a.png", "shard": "a.h5", "encoder": "a.safetensors"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("kind", WRITERS)
def test_modes_follow_the_umask(kind, mask, tmp_path):
    path = tmp_path / NAMES.get(kind, "a")
    before = os.umask(mask)
    try:
        WRITERS[kind](path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "log"])
def test_data_are_synced_before_the_name_and_the_folder_after_it(kind, tmp_path, monkeypatch):
    done = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def replace(old, new):
        done.append("name")
        real_replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    WRITERS[kind](tmp_path / NAMES.get(kind, "a"))
    at = done.index("name")
    assert done.count("name") == 1
    assert "file" in done[:at] and "folder" in done[at + 1 :]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 12 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """Fill the disk but for some bytes."""
    filler = place / "filler"
    free = os.statvfs(place)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
    return filler


def scaleevent(line: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scaleevent", *line.split()]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "pairs"
    assert scaleevent(f"prepare street --scenes 8 --size 48x64 -o {place}").returncode == 0
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 1_000_000, 20_000))
    x, y, p = (rng.integers(0, limit, len(t)) for limit in (64, 48, 2))
    np.savez(place.parent / "events.npz", t=t, x=x, y=y, p=p)
    encoder = build_encoder("tiny")
    encoder.input = InputSettings(height=48, width=64, patch=8)
    save_encoder(place.parent / "a.safetensors", encoder, {})
    return place


COMMANDS = {
    "prepare": ("prepare street --scenes 8 --size 48x64 -o {out}", 20_000),
    "prepare, no byte": ("prepare street --scenes 8 --size 48x64 -o {out}", 0),
    "pretrain": (
        "pretrain {pairs} --arch tiny --size 48x64 --epochs 1 --draws 4 --batch 2 --device cpu "
        "-o {out}",
        400_000,
    ),
    "probe": (
        "probe street-depth random --arch tiny --data {pairs} --size 48x64 --epochs 1 --batch 2 "
        "--device cpu -o {out}",
        100_000,
    ),
    "finetune": (
        "finetune street-depth random --arch tiny --decoder linear --data {pairs} --size 48x64 "
        "--epochs 1 --batch 2 --device cpu -o {out}",
        400_000,
    ),
    "voxelize": ("voxelize {pairs}/../events.npz --size 48x64 -o {out}", 20_000),
    "export": ("export {pairs}/../a.safetensors --format safetensors -o {out}", 400_000),
    "info": ("info {pairs}/../events.npz --size 48x64 --picture {out}.png", 100),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_and_nothing_is_lost(name, small_disk, pairs, tmp_path):
    line, leave = COMMANDS[name]
    out = small_disk / "out"
    line = line.format(out=out, pairs=pairs)
    filler = fill(small_disk, leave)
    full = scaleevent(line)
    assert full.returncode == 5, full.stderr
    assert "Traceback" not in full.stderr and full.stderr.count("error[") == 1, full.stderr
    assert "No space left" in full.stderr
    assert not list(small_disk.rglob("*.tmp"))
    filler.unlink()
    again = {"info": "", "export": "--overwrite" if out.exists() else ""}.get(name, "--resume")
    assert scaleevent(f"{line} {again}").returncode == 0
