"""Test recordings of benchmarks stay out of pretraining, or are on record in it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
import pytest
from test_end_to_end import call

from scaleevent.benchmarks.leaks import check_pretraining
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.config.benchmarks import BENCHMARKS as ENTRIES
from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.datasets.held_out import SCORED, scored_recordings
from scaleevent.datasets.street import recording_name
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
    assert set(scored_recordings("ddd17")) == {"dir1"}
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
    with pytest.raises(ConfigError, match="street-1-000700"):
        check_pretraining([street, tested], allowed=False)
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
