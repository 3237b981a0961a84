"""The pair store: what goes in comes out, damage is an error, and runs leave the same bytes."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import random_events
from PIL import Image

from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, StoppedError
from scaleevent.events import Events
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window
from scaleevent.pairs import preparing
from scaleevent.pairs import store as pair_store
from scaleevent.pairs.pair import Label, Pair, decode_image, encode_image
from scaleevent.pairs.shard import Shard, ShardWriter
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard, shard_done, verify_shards
from scaleevent.system.files import read_json
from scaleevent.system.workers import ProcessExecutor

HEIGHT, WIDTH = 24, 32


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def pair_of(seed: int, count: int = 500, **parts) -> Pair:
    start = 1_600_000_000_000_000 + 100_000 * seed
    window = Window(start, start + 50_000, "density")
    return Pair(
        recording=f"drive-{seed // 2}",
        image_us=window.end_us,
        image=encode_image(picture(seed), lossless=bool(seed % 2)),
        events=random_events(count, HEIGHT, WIDTH, 50_000, seed, start),
        window=window,
        **{"provenance": {"frame": seed, "file": "ü.h5"}} | parts,
    )


def rich_pairs() -> list[Pair]:
    """Pairs that differ in which optional parts they have."""
    rng = np.random.default_rng(0)
    pairs = [pair_of(seed, count=200 * seed) for seed in range(5)]
    end = pairs[1].window.end_us
    after = (Window(end, end + 9_000), random_events(77, HEIGHT, WIDTH, 9_000, 1, end))
    depth = rng.random((12, 16)).astype(np.float32)
    depth[3, 4] = np.nan
    classes = rng.integers(0, 9, (HEIGHT, WIDTH), np.uint8)
    flow = rng.normal(size=(2, HEIGHT, WIDTH)).astype(np.float32)
    pairs[1] = replace(pairs[1], after=after, labels={"classes": Label(classes, end, end)})
    pairs[3] = replace(
        pairs[3],
        after=(Window(0, 0), Events.empty(HEIGHT, WIDTH)),
        valid=rng.random((HEIGHT, WIDTH)) < 0.5,
        labels={
            "classes": Label(classes[:5] + 1, end, end),
            "depth": Label(depth, 5, 5),
            "flow": Label(flow, end, end + 9_000),
        },
    )
    return pairs


def write_shard(path: Path, pairs: list[Pair], voxels: list | None = None) -> Path:
    with ShardWriter(path) as writer:
        for number, pair in enumerate(pairs):
            writer.add(pair, None if voxels is None else voxels[number])
    return path


def assert_same_events(actual: Events, expected: Events) -> None:
    assert (actual.height, actual.width) == (expected.height, expected.width)
    for name in "txyp":
        column = getattr(actual, name)
        assert column.dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(column, getattr(expected, name))


# One shard


def test_round_trip(tmp_path):
    pairs = rich_pairs()
    shard = Shard(write_shard(tmp_path / "a.h5", pairs))
    assert shard.pairs == len(pairs)
    for index, pair in enumerate(pairs):
        events, window = shard.events(index)
        assert_same_events(events, pair.events)
        assert window == pair.window
        assert shard.image(index) == pair.image
        assert shard.provenance(index) == pair.provenance
        assert shard.rows("image_us")[index] == pair.image_us
        assert shard.recordings[shard.rows("recording")[index]] == pair.recording
        np.testing.assert_array_equal(shard.voxel(index, 4), voxelize(pair.events, pair.window, 4))
        if pair.after is None:
            assert shard.after(index) is None
        else:
            events, window = shard.after(index)
            assert_same_events(events, pair.after[1])
            assert window == pair.after[0]
        if pair.valid is None:
            assert shard.valid(index) is None
        else:
            np.testing.assert_array_equal(shard.valid(index), pair.valid)
        for task in ("classes", "depth", "flow", "unheard of"):
            label, expected = shard.label(task, index), pair.labels.get(task)
            if expected is None:
                assert label is None
            else:
                assert (label.start_us, label.end_us) == (expected.start_us, expected.end_us)
                assert label.values.dtype == expected.values.dtype
                np.testing.assert_array_equal(label.values, expected.values)


def test_window_of_years_comes_back(tmp_path):
    pair = replace(pair_of(0), window=Window(0, pair_of(0).image_us))
    shard = Shard(write_shard(tmp_path / "a.h5", [pair]))
    events, window = shard.events(0)
    assert_same_events(events, pair.events)
    assert window == pair.window
    np.testing.assert_array_equal(shard.voxel(0, 3), voxelize(pair.events, pair.window, 3))


def test_events_are_read_only(tmp_path):
    events, _ = Shard(write_shard(tmp_path / "a.h5", [pair_of(0)])).events(0)
    for name in "txyp":
        with pytest.raises(ValueError, match="read-only"):
            getattr(events, name)[0] = 1


def test_images_decode():
    image = picture(0)
    np.testing.assert_array_equal(decode_image(encode_image(image, lossless=True)), image)
    smooth = np.tile(np.arange(0, 256, 8, np.uint8), (HEIGHT, 1))
    decoded = decode_image(encode_image(smooth))
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(decoded.astype(int) - smooth[..., None]).max() <= 3


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(40), encode_image(picture(0))[:-200]])
def test_broken_image_is_an_error(data):
    with pytest.raises(DataError, match=r"image cannot be read[\s\S]*pair 7"):
        decode_image(data, "pair 7")


def test_image_that_declares_too_many_pixels_is_refused():
    png = bytearray(encode_image(np.zeros((1, 1), np.uint8), lossless=True))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(DataError):
        decode_image(bytes(png))


def test_written_twice_gives_the_same_bytes(tmp_path):
    one = write_shard(tmp_path / "one.h5", rich_pairs())
    two = write_shard(tmp_path / "two.h5", rich_pairs())
    assert one.read_bytes() == two.read_bytes()


def test_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a.h5") as writer:
        writer.add(pair_of(0))
        raise KeyError
    assert not list(tmp_path.iterdir())


def late(pair: Pair) -> Pair:
    return replace(pair, window=replace(pair.window, end_us=pair.window.end_us - 40_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (late, "do not fit their window"),
        (lambda p: replace(p, window=Window(p.image_us, p.image_us)), "do not fit their window"),
        (lambda p: replace(p, valid=np.ones((WIDTH, HEIGHT), bool)), "differ in size"),
        (lambda p: replace(p, labels={"d": Label(np.ones((2, 2)), 0, 0)}), "several types"),
    ],
)
def test_pair_that_would_change_on_the_way_is_refused(tmp_path, change, message):
    first = replace(pair_of(0), labels={"d": Label(np.ones((2, 2), np.uint8), 0, 0)})
    with pytest.raises(DataError, match=message):
        write_shard(tmp_path / "a.h5", [first, change(pair_of(1))])
    assert not list(tmp_path.iterdir())


def test_voxel_shard(tmp_path):
    pairs = [pair_of(0), pair_of(1)]
    voxels = [voxelize(pair.events, pair.window, 5) for pair in pairs]
    shard = Shard(write_shard(tmp_path / "a.h5", pairs, voxels))
    for index, pair in enumerate(pairs):
        np.testing.assert_array_equal(shard.voxel(index, 5), voxels[index])
        assert shard.image(index) == pair.image
        assert shard.rows("before/window_us")[index].tolist() == [
            pair.window.start_us,
            pair.window.end_us,
        ]
    with pytest.raises(DataError, match=r"another bin count[\s\S]*found: 5[\s\S]*expected: 3"):
        shard.voxel(0, 3)


# Damage


def everything(shard: Shard) -> list:
    """All that a shard returns, in a comparable form."""
    out = [shard.pairs, shard.recordings]
    for index in range(shard.pairs):
        parts = [shard.events(index), shard.after(index) or (Events.empty(1, 1), None)]
        for events, window in parts:
            out += [getattr(events, name).tobytes() for name in "txyp"]
            out += [events.height, events.width, window]
        valid = shard.valid(index)
        out += [shard.image(index), None if valid is None else valid.tobytes()]
        out += [shard.provenance(index), int(shard.rows("image_us")[index])]
        out.append(shard.recordings[shard.rows("recording")[index]])
        for task in ("classes", "depth", "flow"):
            label = shard.label(task, index)
            out.append(label and (label.values.tobytes(), label.values.shape, label.start_us))
    return out


def test_flipped_bit_in_a_column_names_it(tmp_path):
    path = write_shard(tmp_path / "a.h5", [pair_of(0, count=5_000)])
    with h5py.File(path) as file:
        chunk = file["before/words/values"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"shard is damaged[\s\S]*a\.h5:before/words/values"):
        Shard(path).events(0)


@pytest.mark.slow
def test_no_flipped_bit_goes_unnoticed(tmp_path):
    whole = write_shard(tmp_path / "whole.h5", rich_pairs())
    expected, data = everything(Shard(whole)), whole.read_bytes()
    rng = np.random.default_rng(1)
    outcomes = Counter()
    for number in range(400):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{number}.h5"
        path.write_bytes(damaged)
        try:
            assert everything(Shard(path)) == expected, f"flip {number} changed what is read"
            outcomes["harmless"] += 1
        except DataError:
            outcomes["noticed"] += 1
        path.unlink()
    assert outcomes["noticed"] > 20


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 0.99])
def test_truncated_shard_is_an_error(tmp_path, fraction):
    path = write_shard(tmp_path / "a.h5", rich_pairs())
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(DataError, match="not a whole shard"):
        Shard(path)


def test_another_format_is_an_error(tmp_path):
    path = write_shard(tmp_path / "a.h5", [pair_of(0)])
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = 1
    with pytest.raises(DataError, match=r"another format[\s\S]*found: 1[\s\S]*expected: 2"):
        Shard(path)


def link(file: h5py.File, target: Path) -> None:
    file["before/words/values"] = h5py.ExternalLink(target, "before/words/values")


def link_group(file: h5py.File, target: Path) -> None:
    del file["before/words"]
    file["before/words"] = h5py.ExternalLink(target, "before/words")


def external(file: h5py.File, target: Path) -> None:
    file.create_dataset("before/words/values", (500,), "u4", external=[(str(target), 0, 2000)])


def virtual(file: h5py.File, target: Path) -> None:
    layout = h5py.VirtualLayout((500,), "u4")
    layout[:] = h5py.VirtualSource(target, "before/words/values", (500,))
    file.create_virtual_dataset("before/words/values", layout)


@pytest.mark.parametrize("point", [link, link_group, external, virtual])
def test_data_outside_the_file_is_refused(tmp_path, point):
    target = write_shard(tmp_path / "other.h5", [pair_of(0)])
    path = write_shard(tmp_path / "a.h5", [pair_of(0)])
    with h5py.File(path, "r+") as file:
        del file["before/words/values"]
        point(file, target)
    with pytest.raises(DataError, match="points outside its file"):
        Shard(path).events(0)


def test_pixel_off_the_sensor_is_refused(tmp_path):
    """Written by something else, with right checksums: the kernels must never see it."""
    path = write_shard(tmp_path / "a.h5", [pair_of(0)])
    with h5py.File(path, "r+") as file:
        file["before/words/values"][7] = HEIGHT << 6
    shard = Shard(path)
    for read in (shard.events, lambda index: shard.voxel(index, 3)):
        with pytest.raises(DataError, match=r"events out of range[\s\S]*event 7[\s\S]*y = 24"):
            read(0)


# Stores


@dataclass
class Source:
    """A task of `write_store`: some pairs of `rich_pairs`, or an error after them."""

    name: str
    seeds: tuple[int, ...]
    fails: bool = False
    inputs: tuple[Path, ...] = ()

    @property
    def expected(self) -> int:
        return len(self.seeds)

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        for seed in self.seeds:
            counts["images"] += 1
            counts["pairs"] += 1
            yield pair_of(seed)
        if self.fails:
            raise DataError("a damaged recording", where=self.name)


SOURCES = [Source("alpha", (0, 1, 2)), Source("nothing", ()), Source("beta", (3, 4))]


def write_store(sources, folder: Path, settings, executor: Executor | None = None, **options):
    """On one process, unless another executor is given."""
    with executor or ProcessExecutor(1) as running:
        return preparing.write_store(sources, folder, settings, executor=running, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "pairs"
    folder.mkdir()
    write_store(SOURCES, folder, {"seed": 1})
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name, data in content(finished).items():
        (folder / name).write_bytes(data)
    return folder


def test_store_numbers_all_pairs(finished):
    store = PairStore(finished)
    assert len(store) == 5
    for index in range(5):
        shard, row = store.locate(index)
        assert_same_events(shard.events(row)[0], pair_of(index).events)
    for index in (-1, 5):
        with pytest.raises(IndexError):
            store.locate(index)
    assert store.recordings.tolist() == ["drive-0", "drive-0", "drive-1", "drive-1", "drive-2"]
    assert store.windows_us.tolist() == [
        [pair_of(i).window.start_us, pair_of(i).window.end_us] for i in range(5)
    ]
    verify_shards(store)


def test_manifest_counts_and_hashes(finished):
    manifest = read_json(finished / MANIFEST)
    assert manifest["counts"]["pairs"] == manifest["counts"]["images"] == 5
    assert manifest["counts"]["windows ended by density"] == 5
    assert manifest["counts"]["events in windows"] == 2_500
    assert [entry["pairs"] for entry in manifest["shards"]] == [3, 0, 2]
    names = {"00000-alpha", "00001-nothing", "00002-beta"}
    jsons = {f"{name}.json" for name in names}
    shards = {"00000-alpha.h5", "00002-beta.h5"}
    assert set(content(finished)) == jsons | shards | {MANIFEST}


def test_open_shards_are_bounded_over_all_stores(finished, copied, monkeypatch):
    monkeypatch.setattr(pair_store, "MOST_OPEN", 2)
    stores = [PairStore(finished), PairStore(copied), PairStore(finished)]
    for index in (0, 4, 1, 3) * 3:
        for store in stores:
            shard, row = store.locate(index)
            assert shard.image(row) == pair_of(index).image
        del shard
        links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        open_now = [link for link in links if Path(link).parent in (finished, copied)]
        assert len(open_now) == 2


def test_store_survives_pickling_and_processes(finished):
    store = PairStore(finished)
    store.locate(0)
    again = pickle.loads(pickle.dumps(store))
    assert again.locate(4)[0].pairs == 2
    assert again.fingerprint == store.fingerprint
    with multiprocessing.get_context("fork").Pool(2) as pool:
        images = pool.map(_image_of, [(store, index) for index in range(5)])
    assert images == [pair_of(index).image for index in range(5)]


def _image_of(job: tuple[PairStore, int]) -> bytes:
    shard, row = job[0].locate(job[1])
    return shard.image(row)


def spawned_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


@pytest.mark.parametrize(
    "executor", [lambda: ProcessExecutor(2), lambda: ThreadPoolExecutor(2), spawned_pool]
)
def test_no_executor_changes_a_byte(finished, tmp_path, executor):
    advanced = []
    write_store(SOURCES, tmp_path, {"seed": 1}, executor(), advance=advanced.append)
    assert content(tmp_path) == content(finished)
    assert sum(advanced) == 5


def test_who_looks_on_changes_no_byte(tmp_path, monkeypatch):
    """References that others hold, as a profiler does, must not decide when HDF5 writes what."""
    straight = write_shard(tmp_path / "a.h5", [pair_of(k) for k in range(4)]).read_bytes()
    held = []
    for kind, name in ((h5py.Group, "__getitem__"), (h5py.Group, "create_dataset")):
        real = getattr(kind, name)

        def holding(*given, real=real, **named):
            held.append(real(*given, **named))
            return held[-1]

        monkeypatch.setattr(kind, name, holding)
    assert write_shard(tmp_path / "b.h5", [pair_of(k) for k in range(4)]).read_bytes() == straight
    assert held


def test_resume_remakes_only_what_is_missing(finished, copied):
    (copied / "00000-alpha.h5").unlink()
    (copied / "00002-beta.h5").write_bytes(b"torn")
    (copied / MANIFEST).unlink()
    kept = (copied / "00001-nothing.json").stat().st_mtime_ns
    write_store(SOURCES, copied, {"seed": 1})
    assert content(copied) == content(finished)
    assert (copied / "00001-nothing.json").stat().st_mtime_ns == kept
    before = {path: path.stat().st_mtime_ns for path in copied.glob("*.h5")}
    write_store(SOURCES, copied, {"seed": 1})
    assert before == {path: path.stat().st_mtime_ns for path in copied.glob("*.h5")}


def test_other_settings_are_refused_and_touch_nothing(copied):
    before = {path: path.stat().st_mtime_ns for path in copied.iterdir()}
    with pytest.raises(ConfigError, match="seed 2[\\s\\S]*seed 1"):
        write_store(SOURCES, copied, {"seed": 2})
    assert before == {path: path.stat().st_mtime_ns for path in copied.iterdir()}


def test_an_unfinished_store_keeps_its_settings_until_it_is_whole(copied, monkeypatch):
    def refuse(*_):
        raise OSError("no room")

    (copied / MANIFEST).unlink()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no room"):
        patched.setattr(preparing, "_wait_for", refuse)
        write_store(SOURCES, copied, {"seed": 1})
    assert json.loads((copied / "settings.json").read_text()) == {"seed": 1}
    with pytest.raises(ConfigError, match="seed 2"):
        write_store(SOURCES, copied, {"seed": 2})
    write_store(SOURCES, copied, {"seed": 1})
    assert not (copied / "settings.json").exists()


def test_shard_of_another_job_or_size_is_not_taken_as_done(tmp_path):
    path = write_shard(tmp_path / "a.h5", [pair_of(0)])
    assert shard_done(path, "job") is None
    entry = finish_shard(path, 1, {"pairs": 1}, "job")
    assert shard_done(path, "job") == entry
    assert shard_done(path, "another") is None
    path.write_bytes(path.read_bytes()[:-1])
    assert shard_done(path, "job") is None


@pytest.mark.parametrize("executor", [ProcessExecutor, ThreadPoolExecutor])
@pytest.mark.parametrize("jobs", [1, 2])
def test_failing_source_leaves_no_manifest_and_no_half_shard(tmp_path, executor, jobs):
    sources = [Source("good", (0,)), Source("bad", (1, 2), fails=True)]
    with pytest.raises(DataError, match=r"a damaged recording[\s\S]*where: bad"):
        write_store(sources, tmp_path, {}, executor(jobs))
    assert not {"00001-bad.h5", MANIFEST} & set(os.listdir(tmp_path))
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(DataError, match="not a prepared pair store"):
        PairStore(tmp_path)


@dataclass
class Killer(Source):
    """A task whose process dies after a pair, leaving a file, unless that is there."""

    died: Path = Path()

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        for number, pair in enumerate(super().pairs(counts)):
            if number and not self.died.exists():
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield pair


@dataclass
class Endless(Source):
    """A task that looks at images for ever and yields no pair."""

    begun: Path = Path()

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        self.begun.touch()
        while True:
            counts["images"] += 1
            time.sleep(0.001)
            yield from ()


def when_there(path: Path) -> None:
    """Wait for a file."""
    while not path.exists():
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_is_one_error_and_resume_completes(tmp_path):
    """Even if the other worker is at a task that would never end."""
    folder, straight, died = tmp_path / "pairs", tmp_path / "straight", tmp_path / "died"
    folder.mkdir()
    straight.mkdir()
    killer = Killer("alpha", (0, 1, 2), died=died)
    endless = Endless("endless", (), begun=tmp_path / "begun")
    others = set(multiprocessing.active_children())  # loaders of other tests
    with pytest.raises(EnvironmentProblem) as caught:
        write_store([killer, endless], folder, {}, ProcessExecutor(2))
    assert caught.value.where == folder / "00000-alpha.h5"
    assert "killed by SIGKILL" in str(caught.value) and "--resume" in str(caught.value)
    assert not list(folder.iterdir())
    assert set(multiprocessing.active_children()) <= others
    write_store([killer, *SOURCES[1:]], folder, {})
    write_store(SOURCES, straight, {})
    assert content(folder) == content(straight)


def test_a_stop_is_heard_where_no_pair_comes(tmp_path):
    folder, begun = tmp_path / "pairs", tmp_path / "begun"
    folder.mkdir()

    def stop():
        when_there(begun)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(StoppedError):
        write_store([Endless("endless", (), begun=begun)], folder, {})
    assert not list(folder.iterdir())


PARENT = """
import sys
from pathlib import Path
from test_store import Endless, write_store

if __name__ == "__main__":
    write_store([Endless("endless", (), begun=Path(sys.argv[1]))], Path(sys.argv[2]), {})
"""


def test_workers_end_with_their_parent(tmp_path):
    folder, begun, script = tmp_path / "pairs", tmp_path / "begun", tmp_path / "parent.py"
    folder.mkdir()
    script.write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, script, begun, folder],
        env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE,
    )  # fmt: skip
    when_there(begun)
    parent.kill()
    parent.communicate(timeout=60)  # returns when no process holds its output any more


def test_recordings_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"same name[\s\S]*alpha"):
        write_store([Source("alpha", (0,)), Source("alpha", (1,))], tmp_path, {})


def test_store_of_voxels(tmp_path):
    write_store(
        SOURCES, tmp_path, {}, voxels={"representation": "zhu", "bins": 3, "tau": 64.0, "patch": 8}
    )
    store = PairStore(tmp_path)
    assert store.manifest["kind"] == "voxels"
    assert store.manifest["counts"]["cells"] == 5 * 12
    shard, row = store.locate(3)
    pair = pair_of(3)
    np.testing.assert_array_equal(shard.voxel(row, 3), voxelize(pair.events, pair.window, 3))


def test_missing_and_changed_shards_are_named(copied):
    store = PairStore(copied)
    path = copied / "00002-beta.h5"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"have changed[\s\S]*00002-beta\.h5"):
        verify_shards(store)
    path.write_bytes(data[:-1])
    (copied / "00000-alpha.h5").unlink()
    with pytest.raises(DataError, match=r"2 of 2 shards[\s\S]*00000-alpha\.h5, 00002-beta\.h5"):
        PairStore(copied)


def test_manifest_of_another_format_or_missing_is_an_error(copied):
    manifest = read_json(copied / MANIFEST)
    (copied / MANIFEST).write_text(json.dumps(manifest | {"format": 7}))
    with pytest.raises(DataError, match=r"another format[\s\S]*found: 7"):
        PairStore(copied)
    (copied / MANIFEST).write_text(json.dumps(manifest)[:-5])
    with pytest.raises(DataError, match="not a JSON file"):
        PairStore(copied)
    (copied / MANIFEST).unlink()
    with pytest.raises(DataError, match="not a prepared pair store"):
        PairStore(copied)


@pytest.mark.parametrize("name", ["../pairs/00000-alpha.h5", "/etc/passwd"])
def test_manifest_cannot_point_outside_the_store(copied, name):
    manifest = read_json(copied / MANIFEST)
    manifest["shards"][0]["file"] = name
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="a shard outside its store"):
        PairStore(copied)


def test_folder_of_pictures_is_not_a_store(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a prepared pair store"):
        PairStore(tmp_path)
