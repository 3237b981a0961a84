"""Test recordings of benchmarks stay out of pretraining, or are on record in it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from test_end_to_end import call
from test_weights import to_meta

from scaleevent.benchmarks.leaks import check_pretraining, provenance_notes, task_history
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.checkpoint import save_encoder
from scaleevent.config.benchmarks import BENCHMARKS as ENTRIES
from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.datasets.held_out import SCORED, scored_recordings
from scaleevent.datasets.street import recording_name
from scaleevent.encoders.encoder import ARCHS, Encoder, build_encoder
from scaleevent.encoders.provenance import AUTHORS, AUTHORS_RECORDINGS
from scaleevent.errors import ConfigError
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.system.files import write_json
from scaleevent.system.sealed import read_description

SHORT = "--preset demo --size 48x64 --epochs 1 --draws 4 --batch 4 --no-probe"


def store_of(folder: Path, name: str | None, recordings: list[str], tmp_path: Path) -> Path:
    """A store of another data set's name with a pair of each recording."""
    root = fakes.write_dsec_root(tmp_path / f"{folder.name} root", "A", "interlaken_00_c")
    (source,) = DATASETS["dsec"].load().sources(PrepareConfig(name="dsec", roots=[root]))
    pair = next(source.pairs(Counter()))
    folder.mkdir()
    with ShardWriter(folder / "00000.h5") as writer:
        for recording in recordings:
            writer.add(replace(pair, recording=recording))
    entry = finish_shard(folder / "00000.h5", writer.pairs, {}, "job")
    settings = {} if name is None else {"name": name}
    write_json(folder / MANIFEST, {"format": FORMAT, "settings": settings, "shards": [entry]})
    return folder


# Which recordings


def test_every_recording_that_a_benchmark_scores_is_known():
    for name, benchmark in BENCHMARKS.items():
        data = ENTRIES[name].data
        splits = DATASETS[data].load().SPLITS
        scored = {r for r, part in splits.items() if part in ("test", benchmark.eval_split)}
        assert scored and scored <= scored_recordings(data).keys()
        assert all(data in scored_recordings(data)[recording] for recording in scored)
        assert benchmark.eval_split in SCORED
    assert "train" not in SCORED


def test_families_share_their_recordings():
    tests = scored_recordings("dsec")
    assert len(tests) == 25 and tests["zurich_city_13_a"] == ["dsec", "dsec-semantic"]
    assert tests["zurich_city_05_a"] == ["dsec-depth"] and "zurich_city_00_a" not in tests
    assert set(scored_recordings("ddd17")) == {"dir1", "rec1487417411"}
    assert "dir1" not in tests and not scored_recordings("custom")
    street = scored_recordings("street")
    assert set(street) == {recording_name(1, index) for index in range(700, 1000)}
    assert scored_recordings().keys() >= tests.keys() | street.keys()


# prepare


@pytest.fixture
def root(tmp_path):
    """A DSEC root with a sequence that trains, one that tests, and one that lacks files."""
    for sequence in ("zurich_city_00_a", "zurich_city_13_a", "zurich_city_05_a"):
        fakes.write_dsec_root(tmp_path / "dsec", "A", sequence)
    (tmp_path / "dsec/train/zurich_city_05_a/images/timestamps.txt").unlink()
    return tmp_path / "dsec"


def test_a_whole_root_is_prepared_without_test_sequences(root, tmp_path, capsys):
    call(f"prepare dsec {root} -o {tmp_path / 'pairs'}")
    told = capsys.readouterr().err
    assert "left out, 2 test recordings of benchmarks: zurich_city_05_a (dsec-depth)" in told
    assert "zurich_city_13_a (dsec, dsec-semantic)" in told
    store = PairStore(tmp_path / "pairs")
    assert set(store.recordings) == {"zurich_city_00_a"}
    assert set(store.manifest["left_out"]) == {"zurich_city_05_a", "zurich_city_13_a"}
    call(f"prepare dsec {root} -o {tmp_path / 'none'} --dry-run --json")
    assert "left out, 2 test" in json.loads(capsys.readouterr().out)["choices"][0]
    check_pretraining([tmp_path / "pairs"], allowed=False)


def test_a_test_sequence_that_is_named_is_refused(root, tmp_path, capsys):
    line = f"prepare dsec {root} -o {tmp_path / 'pairs'} --sequences zurich_city_13_a"
    call(line, 2)
    told = capsys.readouterr().err
    assert "zurich_city_13_a (dsec, dsec-semantic)" in told and "--transductive takes" in told
    assert not (tmp_path / "pairs").exists()
    call(f"{line} --transductive")
    assert set(PairStore(tmp_path / "pairs").recordings) == {"zurich_city_13_a"}


def test_a_root_of_test_sequences_alone_is_refused(tmp_path, capsys):
    root = fakes.write_dsec_root(tmp_path / "dsec", "A", "zurich_city_13_a")
    call(f"prepare dsec {root} -o {tmp_path / 'pairs'}", 3)
    assert "all recordings here are test recordings" in capsys.readouterr().err


# pretrain


def test_pretrain_refuses_test_recordings_before_it_builds_anything(root, tmp_path, capsys):
    pairs = tmp_path / "pairs"
    call(f"prepare dsec {root} -o {pairs} --sequences zurich_city_13_a "
         "--sequences zurich_city_00_a --transductive")  # fmt: skip
    (tmp_path / "teacher.pth").write_bytes(b"damaged, which would be told first")
    call(f"pretrain {pairs} -o {tmp_path / 'run'} {SHORT} --teacher {tmp_path / 'teacher.pth'}", 2)
    told = capsys.readouterr().err
    assert "1 recordings: zurich_city_13_a (dsec, dsec-semantic)" in told
    assert "--transductive" in told and not (tmp_path / "run").exists()
    call(f"pretrain {pairs} -o {tmp_path / 'run'} {SHORT} --transductive --json")
    report = json.loads(capsys.readouterr().out)
    assert any("transductive: pretrained on test recordings: zurich_city_13_a" in note
               for note in report["notes"])  # fmt: skip
    description = read_description(tmp_path / "run/encoder.safetensors", "encoder")
    assert description["config"]["transductive"] is True
    assert description["data"]["transductive"] == {"zurich_city_13_a": ["dsec", "dsec-semantic"]}


def test_stores_of_other_names_are_judged_by_their_data_set(tmp_path, capsys):
    own = store_of(tmp_path / "own", "custom", ["dir1", "mine"], tmp_path)
    assert check_pretraining([own], allowed=False) == {}
    assert "dir1 (ddd17-seg)" in capsys.readouterr().err
    nameless = store_of(tmp_path / "nameless", None, ["mine"], tmp_path)
    assert check_pretraining([nameless], allowed=False) == {}
    assert not capsys.readouterr().err
    scenes = [recording_name(seed, index) for seed, index in ((0, 999), (1, 0), (1, 699))]
    street = store_of(tmp_path / "street", "street", scenes, tmp_path)
    assert check_pretraining([street], allowed=False) == {}
    tested = store_of(tmp_path / "tested", "street", [*scenes, recording_name(1, 700)], tmp_path)
    with pytest.raises(ConfigError, match="street-1-000700") as caught:
        check_pretraining([street, tested], allowed=False)
    assert caught.value.where == str(tested)  # the one to leave out
    assert list(check_pretraining([street, tested], allowed=True)) == ["street-1-000700"]
    labelled = store_of(tmp_path / "drives", "ddd17-seg", ["dir0", "dir1"], tmp_path)
    with pytest.raises(ConfigError, match=r"dir1 \(ddd17-seg\)"):
        check_pretraining([labelled], allowed=False)


def test_the_embedded_default_holds_no_test_recording(tmp_path):
    assert check_pretraining([], allowed=False) == {}
    config = DATASETS["street"].load().Settings(name="street", out=tmp_path)
    names = {recording_name(config.seed, index) for index in range(config.scenes)}
    assert not names & scored_recordings("street").keys()
    assert np.all([name.startswith("street-0-") for name in names])


# Encoders of unknown provenance


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A street store with a tiny encoder in the layouts of others, and one of ours."""
    folder = tmp_path_factory.mktemp("street")
    call(f"prepare street -o {folder / 'pairs'} --scenes 8 --size 32x48")
    encoder = Encoder(ARCHS["tiny"])
    state = encoder.vit.state_dict()
    authors = {f"module.event_encoder.{n}": t for n, t in to_meta(state).items()}
    torch.save(authors, folder / "ViTT_Event_Encoder_EP05.pth")
    torch.save(to_meta(state), folder / "dinov3.pth")
    save_encoder(folder / "seen.safetensors", encoder, {"data": {"recordings": ["elsewhere"]}})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "history", "note"),
    [
        ("ViTT_Event_Encoder_EP05.pth", {"provenance": AUTHORS},
         f"pretraining data: {AUTHORS} (0 of 2 test recordings here)"),
        ("dinov3.pth", {"provenance": "unknown"},
         "pretraining data: unknown, so is whether they hold test recordings"),
        ("seen.safetensors", {"recordings": ["elsewhere"]}, None),
        ("random", {}, None),
    ],
)  # fmt: skip
def test_reports_say_what_an_encoder_was_pretrained_on(
    street, tmp_path, capsys, start, history, note
):
    encoder = start if start == "random" else street / start
    call(f"probe street-depth {encoder} --data {street / 'pairs'} -o {tmp_path / 'run'} --size "
         "32x48 --epochs 1 --batch 4 --pictures 0 --json")  # fmt: skip
    task = tmp_path / "run/task.safetensors"
    assert read_description(task, "task")["pretraining"] == history
    first = json.loads(capsys.readouterr().out)
    call(f"eval street-depth {task} --data {street / 'pairs'} --json")
    for report in (first, json.loads(capsys.readouterr().out)):
        assert [n for n in report["notes"] if n.startswith("pretraining data")] == [note] * bool(
            note
        )
    call(f"export {task} -o {tmp_path / 'out'} --format safetensors --json")
    exported = build_encoder(weights=next((tmp_path / "out").glob("encoder*.safetensors")))
    assert exported.history.get("provenance") == history.get("provenance")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["seen.safetensors", "ViTT_Event_Encoder_EP05.pth", "teacher"])
def test_further_pretraining_keeps_what_was_seen_before(street, tmp_path, start):
    init = start if start == "teacher" else street / start
    call(f"pretrain {street / 'pairs'} -o {tmp_path / 'run'} --preset demo --size 32x48 --epochs 1 "
         f"--draws 4 --batch 4 --no-probe --student-init {init}")  # fmt: skip
    data = read_description(tmp_path / "run/encoder.safetensors", "encoder")["data"]
    assert ("elsewhere" in data["recordings"]) == (start == "seen.safetensors")
    scenes = [name for name in data["recordings"] if name.startswith("street-0-")]
    assert scenes == [f"street-0-{index:06d}" for index in range(len(scenes))]
    assert len(scenes) == len(PairStore(street / "pairs")) * 4 // 5  # the demo holds out a fifth
    assert data.get("provenance") == (AUTHORS if start.startswith("ViTT") else None)


def test_old_task_files_are_unknown_where_they_say_nothing():
    assert task_history({"pretraining": {}, "encoder": {"source": "random"}}) == {}
    assert task_history({"encoder": {"source": "x.pth"}}) == {"provenance": "unknown"}
    assert AUTHORS_RECORDINGS <= scored_recordings().keys()
    tests = {"zurich_city_13_a", "zurich_city_14_c", "zurich_city_15_a"}
    (note,) = provenance_notes({"provenance": AUTHORS}, tests)
    assert note.endswith("dir1 (3 of 3 test recordings here)")
