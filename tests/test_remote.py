"""Stores elsewhere: every pair comes out as from a folder, or the error says what is wrong."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from test_end_to_end import call
from test_store import rich_pairs, write_shard

from scaleevent.commands import info
from scaleevent.config.data import InfoConfig, PrepareConfig
from scaleevent.config.mix import check_weights, store_names
from scaleevent.config.pretrain import pretrain_config
from scaleevent.config.run import RunSettings
from scaleevent.config.settings import dump_yaml
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, MissingPackageError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.loading import load_batches
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.shard import FORMAT
from scaleevent.pairs.store import FETCHED_AGAIN, MANIFEST, PairStore, finish_shard, verify_shards
from scaleevent.system import remote
from scaleevent.system.files import write_json
from scaleevent.system.locations import address_of, data_source, shown, without_passwords

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of two shards."""
    place = tmp_path_factory.mktemp("store") / "pairs"
    pairs = rich_pairs()
    shards = {"a": pairs[:3], "b": pairs[3:]}
    entries = [
        finish_shard(write_shard(place / f"{name}.h5", part), len(part), {}, name)
        for name, part in shards.items()
    ]
    settings = {"settings": {"name": "custom"}, "format": FORMAT, "shards": entries}
    write_json(place / MANIFEST, settings)
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEEVENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    return tmp_path / "cache" / "shards"


class Server(ThreadingHTTPServer):
    """A web server on this machine; `answers` are what its next answers for shards are."""

    daemon_threads = True

    def __init__(self, folder):
        self.asked, self.answers = [], []

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *parts):
                super().__init__(*parts, directory=str(folder))

            def do_GET(self):
                self.server.asked.append(self.path)
                plan = self.server.answers
                answer = plan.pop(0) if plan and self.path.endswith(".h5") else None
                if isinstance(answer, int):
                    self.send_error(answer)
                elif answer == "cut":
                    data = Path(self.translate_path(self.path)).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                elif answer == "slow":
                    data = Path(self.translate_path(self.path)).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    time.sleep(30)
                else:
                    super().do_GET()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def shards(self):
        return sorted(path for path in self.asked if path.endswith(".h5"))


@pytest.fixture
def server(folder):
    pytest.importorskip("aiohttp")
    with Server(folder) as one:
        yield one
        one.shutdown()


@pytest.fixture
def memory(folder):
    files = fsspec.filesystem("memory")
    files.put(str(folder), "/shelf/pairs", recursive=True)
    yield files
    files.rm("/shelf", recursive=True)


def content(store):
    """What all pairs hold."""
    for index in range(len(store)):
        shard, row = store.locate(index)
        yield shard.image(row), shard.voxel(row, 3).tobytes(), shard.provenance(row)


@pytest.mark.parametrize("kind", ["memory", "file", "http"])
def test_a_store_elsewhere_is_the_store(kind, folder, memory, server, cache):
    address = {
        "memory": "memory://shelf/pairs", "file": folder.as_uri(), "http": server.address
    }[kind]  # fmt: skip
    store, here = PairStore(Path(address)), PairStore(folder)
    assert store.where == address and not cache.exists()  # nothing is fetched before it is read
    assert list(content(store)) == list(content(here)) and len(store) == 5
    assert store.fingerprint == here.fingerprint
    np.testing.assert_array_equal(store.recordings, here.recordings)
    names = {entry["sha256"] for entry in store.shards}
    assert {path.stem for path in cache.glob("*.h5")} == names
    again = PairStore(Path(address))
    assert list(content(again)) == list(content(here))
    if kind == "http":
        assert server.shards() == ["/a.h5", "/b.h5"]  # each once


def test_which_paths_are_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("s3://bucket/a/b", "https://host:80/x?y=1", "file:///tmp/x"):
        assert address_of(Path(address)) == address and address_of(address) == address
    for path in ("pairs", "/a/b", "./a:/b", "C:/pairs", "a/s3:/b"):
        assert address_of(Path(path)) is None
    Path("s3:/bucket").mkdir(parents=True)
    assert address_of(Path("s3:/bucket")) is None  # a folder of that name is meant
    assert data_source([Path("s3://other/x")]) == ([Path("s3://other/x")], "argument")


def test_an_address_is_shown_without_its_password():
    assert shown(Path("https://me:secret@host/a@b/pairs")) == "https://host/a@b/pairs"
    assert shown(Path("s3://bucket/pairs")) == "s3://bucket/pairs" and shown(Path("a/b")) == "a/b"


@pytest.mark.parametrize(
    "text", ["file:///a@b/c", "C:/me@home", "hf-hub:me/x@main", "a/b@c", "s3:/b/c@d"]
)
def test_an_at_that_ends_no_password_stays(text):
    assert without_passwords(text) == text


@pytest.mark.parametrize("start", ["https://", "HTTPS://", "s3:/", "S3:/", "//", "failed at //"])
def test_a_password_goes_however_an_address_begins(start):
    assert without_passwords(f"{start}me:secret@host/a@b") == f"{start}host/a@b"


def test_no_record_of_settings_holds_a_password():
    address = Path("https://me:secret@host/pairs")
    data = {"data": [address], "weights": {str(address): 2}, "videos": [address]}
    for cfg in (pretrain_config(data), PrepareConfig(name="custom", roots=[address])):
        records = [cfg.model_dump(mode="json"), dump_yaml(cfg), cfg.with_origins()]
        if isinstance(cfg, RunSettings):
            records += [cfg.recorded(), cfg.with_effect()]
        assert all(
            "secret" not in str(record) and "host/pairs" in str(record) for record in records
        )
    assert cfg.roots == [address] and cfg.model_dump()["roots"] == [address]
    without = pretrain_config({"data": [Path("https://host/pairs")]})
    assert without.with_effect() == pretrain_config({"data": [address]}).with_effect()


def told(place, **options):
    report = info.run(InfoConfig(path=place, **options))
    return dict(report.rows), report


def test_commands_take_addresses(memory, capsys):
    rows, report = told("memory://shelf/pairs", verify=True)
    assert rows["pairs"] == 5 and rows["in the cache"].startswith("2 of 2 shards")
    assert "needs all" not in rows["in the cache"] and report.more
    assert rows["verified"].startswith("2 shards whole, 5 pairs, ")
    assert report.facts["verified"]["pairs"] == 5
    call("info memory://shelf/pairs --verify --json")
    facts = json.loads(capsys.readouterr().out)
    assert "a.h5" in json.dumps(facts) and "memory://shelf/pairs" in json.dumps(facts)
    for line in ("info memory://nowhere", "pretrain memory://nowhere -o run"):
        call(line, 3)
        assert "no pair store at this address" in capsys.readouterr().err
    call("probe dsec-depth random --data memory://shelf/pairs -o run", None)
    assert "this store is not of dsec-depth" in capsys.readouterr().err


def test_info_fetches_no_shard_that_nobody_asked_for(server, folder, tmp_path, cache):
    """Neither of one store nor of a mix, which lists what is not here."""
    rows, report = told(server.address)
    assert rows["in the cache"].startswith("0 of 2 shards") and "needs all" in rows["in the cache"]
    (tmp_path / "mix.yaml").write_text(
        f"data: [{server.address}, {folder}]\nvideos: [clips]\n"
        f"weights: {{'{Path(server.address).name}': 1, pairs: 2, videos: 5}}\n"
    )
    report = info.run(InfoConfig(path=tmp_path / "mix.yaml"))
    assert [row[0] for row in report.rows] == ["pairs"]
    assert [row[:2] for row in report.more[0].rows] == [(server.address, "12.5%")]
    assert any("share of the mix 62.5%" in note for note in report.notes)
    assert not server.shards() and not cache.exists()
    told(server.address, verify=True)
    assert told(server.address)[1].facts["composition"]["sources"][0]["pairs"] == 5
    report = info.run(InfoConfig(path=tmp_path / "mix.yaml"))
    assert len(report.rows) == 3 and not report.more


def test_stores_elsewhere_that_share_a_name_are_called_by_their_addresses():
    places = [Path("s3://one/pairs"), Path("s3://two/pairs")]
    assert store_names(places) == ["s3://one/pairs", "s3://two/pairs"]
    assert store_names([Path("s3://one/videos")], ["videos"]) == ["s3://one/videos"]
    check_weights({"s3://one/pairs": 1, "s3://two/pairs": 2}, places)


def test_loader_processes_read_from_an_address(server, folder):
    settings = InputSettings(32, 32, patch=16)
    samples = [PairSamples([PairStore(Path(p))], settings) for p in (server.address, folder)]
    (far, near) = (list(load_batches(s, [[0, 4], [2, 3]], workers=2)) for s in samples)
    for one, other in zip(far, near, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
    assert server.shards() == ["/a.h5", "/b.h5"]


def _read_all(address):
    return sum(len(image) for image, _, _ in content(PairStore(Path(address))))


def test_several_processes_fetch_a_shard_once(server, cache):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_read_all, [server.address] * 8, chunksize=1))) == 1
    assert server.shards() == ["/a.h5", "/b.h5"]
    assert not list(cache.glob(".*"))


def test_a_killed_download_leaves_nothing_that_counts(server, cache, folder):
    server.answers = ["slow"]
    code = "import sys; sys.path.insert(0, 'tests'); import test_remote; "
    code += f"test_remote._read_all({server.address!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(cache.glob(".*.tmp")) and time.monotonic() < until:
        time.sleep(0.02)
    left = list(cache.glob(".*.tmp"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(left) == 1 and not list(cache.glob("*.h5"))
    assert list(content(PairStore(Path(server.address)))) == list(content(PairStore(folder)))
    assert not list(cache.glob(".*.tmp"))


@pytest.mark.parametrize("fault", ["cut", 500, 503])
def test_a_lost_connection_is_tried_again(fault, server, folder, cache):
    server.answers = [fault, fault]
    assert list(content(PairStore(Path(server.address)))) == list(content(PairStore(folder)))
    server.answers = [fault] * 3
    shutil.rmtree(cache)
    with pytest.raises(EnvironmentProblem, match="the connection is lost") as told:
        PairStore(Path(server.address)).locate(0)
    assert "3 times" in told.value.found and told.value.where == f"{server.address}/a.h5"
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_a_server_that_is_gone(server):
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(EnvironmentProblem, match="the connection is lost"):
        PairStore(Path(address))


@pytest.mark.parametrize("status", [401, 403])
def test_no_permission_is_not_tried_again(status, server):
    server.answers = [status] * 2
    with pytest.raises(EnvironmentProblem, match="no permission to read"):
        PairStore(Path(server.address)).locate(0)
    assert len(server.answers) == 1


def test_no_permission_of_a_file_system(memory, monkeypatch):
    def refused(*_, **__):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(memory), "_open", refused)
    with pytest.raises(EnvironmentProblem, match="no permission to read"):
        PairStore(Path("memory://shelf/pairs"))


def test_other_bytes_than_the_manifests_are_refused(memory, cache):
    whole = memory.cat("/shelf/pairs/b.h5")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (bytes(flipped), whole + b"x"):
        memory.pipe("/shelf/pairs/b.h5", data)
        store = PairStore(Path("memory://shelf/pairs"))
        store.locate(0)
        with pytest.raises(DataError, match="not the one that the manifest lists"):
            store.locate(4)
        assert len(list(cache.glob("*.h5"))) == 1 and not list(cache.glob(".*"))
    memory.rm("/shelf/pairs/b.h5")
    with pytest.raises(DataError, match="a shard is missing"):
        store.locate(4)


def test_a_store_that_changed_is_fetched_anew(memory, folder, tmp_path):
    PairStore(Path("memory://shelf/pairs")).locate(0)
    other = write_shard(tmp_path / "a.h5", rich_pairs()[4:])
    entry = finish_shard(other, 1, {}, "a")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"][0] = entry
    memory.put(str(other), "/shelf/pairs/a.h5")
    memory.pipe(f"/shelf/pairs/{MANIFEST}", json.dumps(manifest).encode())
    store = PairStore(Path("memory://shelf/pairs"))
    assert len(store) == 3 and store.locate(0)[0].provenance(0)["frame"] == 4


def test_the_cache_keeps_to_its_limit(memory, cache, monkeypatch):
    store = PairStore(Path("memory://shelf/pairs"))
    sizes = [entry["bytes"] for entry in store.shards]
    monkeypatch.setenv("SCALEEVENT_CACHE_GB", str((max(sizes) + 1) / 1e9))
    for index in (0, 4, 0):
        store = PairStore(Path("memory://shelf/pairs"))
        first, row = store.locate(index)
        assert [path.stem for path in cache.glob("*.h5")] == [store.shards[index // 3]["sha256"]]
        store.locate(4 - index)
        assert first.image(row)  # open shards are read on
    monkeypatch.setenv("SCALEEVENT_CACHE_GB", "1e-9")
    with pytest.raises(ConfigError, match="one shard is larger than the cache may be"):
        PairStore(Path("memory://shelf/pairs")).locate(0)
    monkeypatch.setenv("SCALEEVENT_CACHE_GB", "many")
    with pytest.raises(ConfigError, match="not a size"):
        PairStore(Path("memory://shelf/pairs")).locate(0)


def test_damage_in_the_cache_is_found(memory, cache):
    store = PairStore(Path("memory://shelf/pairs"))
    assert verify_shards(store)["pairs"] == 5
    path = next(cache.glob("*.h5"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="shards have changed") as told:
        verify_shards(PairStore(Path("memory://shelf/pairs")))
    assert told.value.found == f"1 of 2: {path}" and "delete the file" in told.value.hint
    path.unlink()
    assert verify_shards(PairStore(Path("memory://shelf/pairs")))["pairs"] == 5


@pytest.mark.parametrize("place", [9, 3000])
def test_damage_in_the_cache_that_is_read_says_what_helps(place, memory, cache):
    address = Path("memory://shelf/pairs")
    PairStore(address).locate(0)
    path = next(cache.glob("*.h5"))
    data = bytearray(path.read_bytes())
    data[place:-100] = bytes(len(data) - 100 - place)
    path.write_bytes(data)

    def read() -> None:
        shard, row = PairStore(address).locate(0)
        shard.events(row)

    with pytest.raises(DataError) as told:
        read()
    assert str(path) in str(told.value.where) and told.value.hint == FETCHED_AGAIN
    path.unlink()
    read()


def test_a_shard_that_lost_its_end_in_the_cache_is_fetched_again(memory, cache):
    address = Path("memory://shelf/pairs")
    PairStore(address).locate(0)
    path = next(cache.glob("*.h5"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    PairStore(address).locate(0)
    assert path.read_bytes() == whole


def test_what_is_missing_for_an_address_is_told(monkeypatch):
    with pytest.raises(ConfigError, match="unknown protocol"):
        PairStore(Path("foo://bucket/pairs"))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match="s3fs") as told:
        PairStore(Path("s3://bucket/pairs"))
    assert told.value.hint == "pip install s3fs"


def test_passwords_are_not_shown():
    assert remote.RemoteStore("memory://me:secret@host/pairs").shown == "memory://host/pairs"


def test_verify_says_what_it_did_and_what_not(folder, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    (place / "notes.txt").write_text("mine")
    verified = verify_shards(PairStore(place))
    assert [entry["file"] for entry in verified["shards"]] == ["a.h5", "b.h5"]
    assert verified["pairs"] == 5
    assert verified["bytes"] == sum(os.path.getsize(place / f"{name}.h5") for name in "ab")
    assert verified["not_checked"][-1] == "1 other file in the folder: notes.txt"
    rows, report = told(place, verify=True)
    assert rows["verified"].startswith("2 shards whole, 5 pairs, ")
    assert report.facts["verified"] == verified
