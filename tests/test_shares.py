"""A store written in shares, by several processes at a time: the same bytes as by one."""

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from test_store import SOURCES, Source, content, when_there

from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import dsec, street
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem
from scaleevent.pairs import preparing
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.shard import Shard
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import MARKER, claimed_folder
from scaleevent.system.locations import MANIFEST
from scaleevent.system.owner import Owner
from scaleevent.system.shares import ARRAY, Share, check_shares, joined_folder

MANY = [*SOURCES, Source("gamma", (5,)), Source("delta", (6, 7))]


def write(sources, out: Path, share: str | None = None, settings=None, **options):
    """As `prepare` does: claim the folder or join it, then write."""
    part = Share.parse(share) if share else None
    claim = (
        joined_folder(out, "pairs", part, take_over=False)
        if part
        else claimed_folder(
            out, "pairs", lambda: check_shares(out, False), resume=True, overwrite=False
        )
    )
    with claim, ThreadPoolExecutor(1) as executor:
        return preparing.write_store(
            sources, out, settings or {"seed": 1}, executor=executor, share=part, **options
        )


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, bytes]:
    """What one process writes."""
    out = tmp_path_factory.mktemp("straight") / "pairs"
    write(MANY, out)
    return content(out)


# Which share


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_all_tasks_once(count):
    tasks = list(range(5))
    shares = [Share(number, count) for number in range(1, count + 1)]
    taken = [task for share in shares for task in share.of(tasks)]
    assert sorted(taken) == tasks
    assert max(Counter(map(len, (s.of(tasks) for s in shares)))) - 5 // count <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "-1/4", "1/0", "1/2/3", "", "1/ 4"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="1/8 to 8/8"):
        Share.parse(text)


def array(monkeypatch, task, count, first, step, last):
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", str(last))
    for name, value in zip(ARRAY, (task, count, first, step), strict=True):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("tasks", "step"), [(range(8), 1), (range(1, 9), 1), (range(3, 20, 4), 4), (range(7, 8), 1)]
)
def test_tasks_of_a_job_array_are_its_shares(monkeypatch, tasks, step):
    found = []
    for task in tasks:
        array(monkeypatch, task, len(tasks), tasks[0], step, tasks[-1])
        found.append(PrepareConfig(name="street", shard="slurm").shard)
    assert found == [f"{k + 1}/{len(tasks)}" for k in range(len(tasks))]


def test_a_job_array_with_gaps_is_refused_and_so_is_none(monkeypatch):
    array(monkeypatch, 3, 3, 1, 1, 7)  # --array=1,3,7
    with pytest.raises(ConfigError, match=r"gaps[\s\S]*task 3 of 3 from 1 to 7[\s\S]*--shard"):
        Share.parse("slurm")
    monkeypatch.delenv("SLURM_ARRAY_TASK_COUNT")
    with pytest.raises(ConfigError, match=r"job array[\s\S]*_ID=3[\s\S]*--array=1-8"):
        Share.parse("slurm")


# The same bytes


@pytest.mark.parametrize(
    "order", [("1/1",), ("1/2", "2/2"), ("3/3", "1/3", "2/3"), ("1/2", "2/3", "2/2", "2/2"),
              [f"{k}/9" for k in range(9, 0, -1)]],
)  # fmt: skip
def test_any_shares_in_any_order_are_the_same_store(straight, tmp_path, order):
    out = tmp_path / "pairs"
    for number, share in enumerate(order):
        manifest = write(MANY, out, share)
        assert (out / MANIFEST).exists() == ("missing" not in manifest)
        assert number == len(order) - 1 or len(set(order)) < len(order) or manifest["missing"]
    assert content(out) == straight


def test_shares_at_the_same_time_are_the_same_store(straight, tmp_path):
    out = tmp_path / "pairs"
    start = multiprocessing.get_context("spawn")
    shares = ["1/2", "2/2", "1/2", "3/3"]  # one twice: it refuses, or does it again
    processes = [start.Process(target=_write_unless_in_use, args=(out, one)) for one in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 4
    assert content(out) == straight


def _write_unless_in_use(out: Path, share: str) -> None:
    try:
        write(MANY, out, share)
    except EnvironmentProblem as error:
        assert "another run is writing" in str(error)


class Tagged(Source):
    """Its pairs tell a tag."""

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        return (replace(pair, tags="static") for pair in Source.pairs(self, counts))


def test_tags_of_recordings_come_out_the_same(tmp_path):
    """In one go, by shares, and where all shards were there already."""
    sources = [Tagged("delta", (6, 7)), *SOURCES, Tagged("gamma", ())]
    write(sources, tmp_path / "straight")
    straight = content(tmp_path / "straight")
    assert b'"static"' in straight[MANIFEST]
    for share in ("2/2", "1/2"):
        write(sources, tmp_path / "shares", share)
    write(sources, tmp_path / "straight")
    assert content(tmp_path / "shares") == content(tmp_path / "straight") == straight


def test_resuming_without_a_share_finishes_what_shares_began(straight, tmp_path):
    out = tmp_path / "pairs"
    write(MANY, out, "2/3")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert kept
    write(MANY, out)
    assert content(out) == straight
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    (out / "00000-alpha.h5").unlink()  # and the other way round
    write(MANY, out, "1/3")
    assert content(out) == straight


def test_a_recording_that_has_no_pairs_any_more_loses_its_shard(straight, tmp_path):
    out = tmp_path / "pairs"
    longer = tmp_path / "file"
    longer.touch()
    write([replace(one, inputs=(longer,), seeds=one.seeds or (9,)) for one in MANY], out)
    assert (out / "00001-nothing.h5").exists()
    for share in ("2/2", "1/2"):
        write(MANY, out, share)
    assert content(out) == straight


def test_a_share_of_other_settings_is_refused(tmp_path):
    out = tmp_path / "pairs"
    write(MANY, out, "1/2")
    with pytest.raises(ConfigError, match=r"seed 2[\s\S]*seed 1"):
        write(MANY, out, "2/2", {"seed": 2})


@pytest.mark.parametrize("finished", [False, True])
def test_shares_of_other_tags_are_refused_and_both_are_named(tmp_path, finished):
    """Tags are of the whole store: the last share would have told them for all."""
    out = tmp_path / "pairs"
    told = {"left_out": {}, "tags": {"*": "real, outdoor", "a*": "real, static"}}
    other = told | {"tags": {"*": "real, indoor", "a*": "real, static"}}
    for share in ("1/2", "2/2")[: 1 + finished]:
        write(MANY, out, share, remarks=told)
    before = content(out)
    with pytest.raises(ConfigError) as caught:
        write(MANY, out, "2/2", remarks=other)
    assert caught.value.found == "tags *: real, indoor"
    assert caught.value.expected == "tags *: real, outdoor"
    assert content(out) == before
    write(MANY, out, "2/2", remarks=told)
    assert PairStore(out).manifest["tags"] == told["tags"]
    write(MANY, out, remarks=other)  # they can be told anew of the whole
    assert PairStore(out).manifest["tags"] == other["tags"]


def test_a_share_that_began_at_the_same_time_with_other_tags_is_found_at_the_end(
    tmp_path, monkeypatch
):
    out = tmp_path / "pairs"
    both = [{"tags": {"*": word}} for word in ("indoor", "outdoor")]
    made = preparing.write_json

    def meanwhile(path, value):
        made(path, value)
        if path.name == "settings.json":
            made(path, value | both[1])

    with monkeypatch.context() as patched, pytest.raises(ConfigError, match="indoor"):
        patched.setattr(preparing, "write_json", meanwhile)
        write(MANY, out, "1/1", remarks=both[0])
    assert not (out / MANIFEST).exists()


def test_shards_of_pairs_as_they_once_were_are_made_again(tmp_path, monkeypatch):
    """DSEC's pictures have masks of their black border since; a store is of one kind."""
    from fakes import write_dsec_root, write_pictures

    root = write_dsec_root(tmp_path / "raw", sequence="zurich_city_00_a")
    write_dsec_root(tmp_path / "raw", sequence="zurich_city_00_b")
    for folder in (root / "train").iterdir():
        pictures = [np.full((48, 64), 90, np.uint8) for _ in range(3)]
        for picture in pictures:
            picture[40:] = 0
        write_pictures(folder / "images/left/distorted", pictures)
        (folder / "calibration/cam_to_cam.yaml").unlink()
    sources = dsec.sources(PrepareConfig(name="dsec", roots=[root]))
    out, said = tmp_path / "pairs", []
    with monkeypatch.context() as earlier:
        earlier.setattr(preparing, "CONTENT", preparing.CONTENT - 1)
        earlier.setattr(dsec, "blank_border", lambda files: None)
        write(sources, out, "1/2")
        (old,) = out.glob("*.h5")
        assert Shard(old).valid(0) is None
    assert [one["shard"] for one in write(sources, out, "2/2")["missing"]] == ["1/2"]
    write(sources, out, warn=said.append)
    assert "1 of 2 shards are made again" in said[0]
    store = PairStore(out)
    assert len(store.shards) == 2 and len(store) == 6
    for index in range(6):
        shard, row = store.locate(index)
        assert shard.valid(row) is not None


# What is missing


def test_what_is_missing_is_named_with_who_is_at_work(tmp_path):
    out = tmp_path / "pairs"
    write(MANY, out, "1/3")
    me = Owner.this()
    for number, owner in ((2, me), (3, replace(me, host="node7"))):
        folder = Share(number, 3).folder(out)
        folder.mkdir()
        (folder / MARKER).write_text("share\n")
        (folder / ".owner-1").write_text(json.dumps(asdict(owner)))
    missing = write(MANY, out, "1/3")["missing"]
    assert [(one["shard"], one["files"]) for one in missing] == [
        ("2/3", ["00001-nothing.h5", "00004-delta.h5"]), ("3/3", ["00002-beta.h5"])
    ]  # fmt: skip
    assert missing[0]["state"] == me.described()
    assert missing[1]["state"].startswith(f"process {me.pid} on node7, since")
    assert missing[1]["state"].endswith("if it is alive")
    with pytest.raises(EnvironmentProblem, match="another run is writing"):
        write(MANY, out)
    with pytest.raises(EnvironmentProblem, match="another run is writing"):
        write(MANY, out, "2/3")
    write(MANY, out, "3/3")  # a scheduler has started it again on this host


@dataclass
class Deadly(Source):
    """A task that kills the whole run in the middle of its shard, unless a file is there."""

    died: Path = Path()

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        for number, pair in enumerate(super().pairs(counts)):
            if number and not self.died.exists():
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair


def test_a_killed_share_is_named_and_goes_on_with_the_same_command(straight, tmp_path):
    out, died = tmp_path / "pairs", tmp_path / "died"
    sources = [Deadly("alpha", (0, 1, 2), died=died), *MANY[1:]]
    killed = multiprocessing.get_context("spawn").Process(target=write, args=(sources, out, "1/2"))
    killed.start()
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    when_there(died)
    (missing,) = write(sources, out, "2/2")["missing"]
    assert missing["shard"] == "1/2" and missing["state"] == "nobody is at work"
    assert "00000-alpha.h5" in missing["files"]
    write(sources, out, "1/2")
    assert content(out) == straight


def test_no_room_is_told_and_nothing_is_lost(straight, tmp_path):
    out = tmp_path / "pairs"
    with pytest.raises(EnvironmentProblem, match="a damaged disk"):
        write([replace_fails(one) for one in MANY], out, "1/2")
    assert not (out / MANIFEST).exists() and not list(out.glob(".shard-*"))
    for share in ("1/2", "2/2"):
        write(MANY, out, share)
    assert content(out) == straight


@dataclass
class Full(Source):
    """A task that finds no room after its first pair."""

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        yield from super().pairs(counts)
        raise EnvironmentProblem("a damaged disk", where=self.name)


def replace_fails(source: Source) -> Source:
    return Full(source.name, source.seeds) if source.name == "beta" else source


# Commands


def test_commands_in_shares(tmp_path, capsys, monkeypatch):
    from test_end_to_end import call  # imports torch, which workers do not need

    monkeypatch.setattr(street, "SCENES_PER_SHARD", 2)
    line = "prepare street --scenes 5 --size 16x24 --layout fixed --shutter-ms 0 --window-ms 5"
    call(f"{line} -o {tmp_path / 'whole'} --jobs 2")
    out = tmp_path / "shares"
    capsys.readouterr()
    call(f"{line} -o {out} --shard 2/2 --json")
    told = json.loads(capsys.readouterr().out)
    assert [one["shard"] for one in told["missing"]] == ["1/2"]
    assert told["counts"]["pairs"] == 2
    call(f"{line} -o {out} --shard 1/2 --json")
    assert "missing" not in json.loads(capsys.readouterr().out)
    assert content(out) == content(tmp_path / "whole")
    assert len(PairStore(out)) == 5
    call(f"{line} -o {out} --shard 1/2 --overwrite", 2)
    assert "other shards" in capsys.readouterr().err


def write_recordings(folder, count):
    """Recordings of events at random, of other lengths each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(count):
        many = 3000 + 500 * k
        t = np.sort(rng.integers(0, 150_000, many))
        x, y = rng.integers(0, 32, many), rng.integers(0, 24, many)
        np.savez(folder / f"{k}.npz", t=t, x=x, y=y, p=rng.integers(0, 2, many))


def test_voxelize_in_shares(tmp_path, capsys):
    from test_end_to_end import call

    write_recordings(tmp_path / "raw", 3)
    line = f"voxelize {tmp_path / 'raw'} --size 24x32 --window time --window-ms 40"
    call(f"{line} -o {tmp_path / 'whole/voxels'} --jobs 2")
    out = tmp_path / "shares/voxels"  # whose name is in the picture
    for share in ("3/3", "1/3"):
        call(f"{line} -o {out} --shard {share}")
        with pytest.raises(DataError):
            PairStore(out)
    call(f"{line} -o {out} --shard 2/3 --bins 5", 2)  # not the settings that the others had
    call(f"{line} -o {out} --shard 2/3")
    assert content(out) == content(tmp_path / "whole/voxels")
    assert sorted(set(PairStore(out).recordings)) == ["0", "1", "2"]


@pytest.mark.slow
def test_videos_in_shares(tmp_path):
    """A source with files, whose sizes and times are part of what a shard is made from."""
    from clip_files import moving, write_video
    from test_end_to_end import call

    for k in range(3):
        write_video(tmp_path / "clips" / f"{k}.mkv", moving(4, step=1.0 + k))
    line = f"prepare video {tmp_path / 'clips'} --sensor gen4"
    call(f"{line} -o {tmp_path / 'whole'} --jobs 2")
    for share in ("3/3", "1/3", "2/3"):
        call(f"{line} -o {tmp_path / 'shares'} --shard {share}")
    assert content(tmp_path / "shares") == content(tmp_path / "whole")


def test_a_dry_run_of_a_share_without_recordings_says_so(tmp_path, capsys):
    from test_end_to_end import call

    call(f"prepare street --scenes 1 --shard 2/2 --dry-run -o {tmp_path / 'pairs'}")
    said = capsys.readouterr().out
    assert "more shares than recordings" in said and "not known" not in said
    assert not (tmp_path / "pairs").exists()
