"""The cached street: made once, whole or made again, by one of several processes at a time."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from conftest import Clock

from scaleevent.commands import pretrain_data
from scaleevent.commands import street_store as module
from scaleevent.commands.street_store import street_store
from scaleevent.config.pretrain import pretrain_config
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs import preparing
from scaleevent.pairs.sample_inputs import INPUTS
from scaleevent.pairs.store import PairStore, verify_shards
from scaleevent.system.files import MARKER, sha256_file
from scaleevent.system.owner import Owner

FEW = {"scenes": 2}
SIZE = (32, 48)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEEVENT_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(preparing, "ProcessExecutor", ThreadPoolExecutor)  # starts at once


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def change_kind(path):
    path.write_text("runs\n")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("*.h5", lambda path: path.write_bytes(path.read_bytes()[:5000])),
        ("*.h5", lambda path: path.unlink()),
        ("*.h5", flip_a_bit),
        ("manifest.json", lambda path: path.write_text("{}")),
        ("manifest.json", lambda path: path.write_bytes(b"")),
        (MARKER, lambda path: path.unlink()),
        (MARKER, change_kind),
    ],
    ids=["cut", "lost", "bit", "manifest", "empty manifest", "no marker", "other marker"],
)
def test_a_damaged_street_is_rendered_again_and_this_is_said(capsys, name, harm):
    folder = street_store(SIZE, settings=FEW)
    before = {path.name: sha256_file(path) for path in folder.glob("*.h5")}
    capsys.readouterr()
    assert street_store(SIZE, settings=FEW) == folder
    assert not capsys.readouterr().err
    for path in folder.glob(name):
        harm(path)
    if name == MARKER:  # noticed only when there is something to mend
        (folder / "manifest.json").write_bytes(b"")
    street_store(SIZE, settings=FEW)
    assert "the cached street was damaged" in capsys.readouterr().err
    verify_shards(PairStore(folder))
    assert {path.name: sha256_file(path) for path in folder.glob("*.h5")} == before


@pytest.mark.slow
def test_several_processes_at_once_get_the_same_street(tmp_path):
    code = (
        "from scaleevent.commands.street_store import street_store;"
        "from scaleevent.pairs.store import PairStore;"
        f"print(len(PairStore(street_store({SIZE}, False, {FEW}))))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]
    ended = [racer.communicate(timeout=400) for racer in racers]
    assert [out for out, _ in ended] == ["2\n"] * 3, ended
    assert all("Traceback" not in error for _, error in ended)


@pytest.mark.parametrize("works", [True, False])
def test_a_street_rendered_on_another_host_is_waited_for_while_it_grows(
    tmp_path, monkeypatch, capsys, works
):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.6)
    folder = street_store(SIZE, quiet=True, settings=FEW)
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    there = replace(Owner.this(), host="node7")
    (folder / ".owner-1").write_text(json.dumps(asdict(there)))

    def other() -> None:
        if works:
            (folder / "progress").write_text("." * int(clock.now / 0.1))
        if works and clock.now > 2:
            (folder / ".owner-1").unlink()
            (folder / "manifest.json").write_bytes(manifest)

    clock = Clock(other)
    monkeypatch.setattr(module, "time", clock)
    street_store(SIZE, settings=FEW)
    assert clock.now == pytest.approx(2 if works else 0.6, abs=0.1)
    assert capsys.readouterr().err.count("waiting for process") == 1
    assert not list(folder.glob(".owner-*"))


def test_the_first_rendering_says_that_it_is_kept_and_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCALEEVENT_CACHE", str(tmp_path))
    folder = street_store(SIZE, settings=FEW)
    told = " ".join(capsys.readouterr().err.split())
    assert "rendered once and kept" in told and str(folder) in told
    street_store(SIZE, settings=FEW)
    street_store(SIZE, settings=FEW | {"seed": 3}, quiet=True)
    assert not capsys.readouterr().err


def test_the_seed_of_a_run_is_another_world_and_another_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)
    folder = street_store(SIZE, settings=FEW | {"scenes": 8})
    asked = []

    def rendered(size, quiet=False, settings=None):
        asked.append(settings)
        return folder

    monkeypatch.setattr(pretrain_data, "street_store", rendered)
    ranks = SimpleNamespace(main=True, wait=lambda: None)
    said = []
    run = SimpleNamespace(ranks=ranks, quiet=True, say=said.append, tell=lambda *_: None)
    found = {}
    for seed in (0, 1, 2):
        cfg = pretrain_config({"preset": "demo", "size": SIZE, "seed": seed, "validation": 0.5})
        settings = InputSettings(*SIZE, patch=8)
        _, split, _ = pretrain_data.pretraining_data(cfg, settings, INPUTS, run)
        found[seed] = tuple(split.validation)
    assert asked == [None, None, {"seed": 2}, {"seed": 2}, {"seed": 4}, {"seed": 4}]
    assert found[0] == (4, 5, 6, 7) and len(set(found.values())) == 3
    assert any("seeds: world 4, split 2, draws 2, init 2" in line for line in said)
