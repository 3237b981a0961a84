"""`scaleevent prepare`: every data set's own flags, and a data set added by one line."""

import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from fakes import write_custom, write_times
from test_end_to_end import call

from scaleevent.config.catalog import DATASETS, Part
from scaleevent.config.data import PrepareConfig
from scaleevent.config.settings import load_config
from scaleevent.datasets import custom, street
from scaleevent.errors import ConfigError
from scaleevent.pairs.preparing import lost
from scaleevent.pairs.store import PairStore

SHARED = {"--out", "--lossless", "--jobs", "--dask", "--shard", "--resume", "--overwrite",
          "--take-over", "--dry-run", "--check-only", "--picture", "--tag", "--config", "--set",
          "--print-config", "--json", "--list", "--help"}  # fmt: skip


@pytest.fixture
def toy(monkeypatch):
    """The one line that adds a data set."""
    monkeypatch.setitem(DATASETS, "toy", Part("tests.toy_dataset", "a blinking square"))


def shown(capsys, line):
    """The options in the help of a command line, and the whole text."""
    call(line)
    text = capsys.readouterr().out
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.M)), text


# A data set of one file and one line


def test_a_toy_data_set_is_prepared(toy, tmp_path):
    call(f"prepare toy -o {tmp_path / 'pairs'} --side 2")
    store = PairStore(tmp_path / "pairs")
    assert len(store) == 3 and store.manifest["settings"]["side"] == 2
    shard, row = store.locate(1)
    label = shard.label("semantics", row)
    assert np.argwhere(label.values).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert label.start_us == label.end_us == 2000 and len(shard.events(row)[0]) == 4


def test_a_toy_data_set_has_help_and_checks_of_its_own(toy, tmp_path, capsys):
    assert re.search(r"toy {2,}a blinking square", shown(capsys, "prepare --help")[1])
    flags, text = shown(capsys, "prepare toy --help")
    assert flags == SHARED | {"--side"} and "pixels along the square (default 4)" in text
    call(f"prepare toy --side 17 -o {tmp_path / 'p'}", 2)
    assert "side" in capsys.readouterr().err
    call(f"prepare street --side 3 -o {tmp_path / 'p'}", 2)
    assert "side is only for toy" in capsys.readouterr().err


# Help


def test_help_lists_the_data_sets(capsys):
    flags, text = shown(capsys, "prepare --help")
    assert flags == SHARED
    for name, part in DATASETS.items():
        assert re.search(rf"^ +{name} +{re.escape(part.summary)}$", text, re.M)


@pytest.mark.parametrize("name", DATASETS)
def test_help_of_a_data_set_shows_its_flags_alone(name, capsys):
    own = DATASETS[name].load().Settings.model_fields.keys() - {"name", "roots"}
    expected = {f"--{key.replace('_', '-')}" for key in own} | SHARED
    for line in (f"prepare {name} --help", f"prepare -h {name}", f"prepare --jobs 2 {name} -h"):
        assert shown(capsys, line)[0] == expected
    if name not in ("street", "custom", "dsec"):
        assert "--scenes" not in expected and "--homography" not in expected


def test_help_of_data_sets_does_without_torch():
    code = f"""
import sys
from collections import Counter
from scaleevent.cli import main
for name in {list(DATASETS)}:
    sys.argv = ["scaleevent", "prepare", name, "--help"]
    try:
        main()
    except SystemExit as leave:
        assert not leave.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# Command lines


@pytest.mark.parametrize(
    "line",
    [
        "prepare street --scenes 5 --dry-run",
        "prepare --scenes 5 street --dry-run",
        "prepare --jobs 2 --dry-run street --scenes 5",
        "prepare --after --scenes=5 street --dry-run",
        "prepare --scenes 5 --dry-run -o custom street",
        "prepare -oFOLDER street --scenes 5 --dry-run",
        "prepare --check -o FOLDER/pairs --scenes 5 street",
        "prepare street --window time --window-ms 40 --scenes 5 --dry-run",
        "prepare -c FOLDER/street.yaml --dry-run",
        "prepare -c FOLDER/street.yaml --dry-run --speed 2",
        "prepare --config=FOLDER/street.yaml street --dry-run",
        "prepare custom FOLDER/rig --size 48x64 --dry-run",
        "prepare --frames images custom FOLDER/rig --size 48x64 --dry-run",
        "prepare --size 48x64 custom --on-error skip FOLDER/rig --max-bad 1% --dry-run",
    ],
)
def test_the_name_may_stand_anywhere(line, tmp_path, capsys):
    write_custom(tmp_path / "rig")
    (tmp_path / "street.yaml").write_text("name: street\nscenes: 5\n")
    call(line.replace("FOLDER", str(tmp_path)))
    number = 3 if "rig" in line else 5
    assert f"{number} images in 1 shard would go to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prepare street --homography h.txt", "homography is only for custom"),
        ("prepare --homography h.txt street", "homography is only for custom"),
        ("prepare custom . --scenes 3", "scenes is only for street"),
        ("prepare mvsec-depth . --dt 4", "dt is only for mvsec-flow"),
        ("prepare dsec . --label-skip 1", "label_skip is only for dsec-semantic and dsec-depth"),
        (
            "prepare ddd17-seg . --on-error skip",
            "on_error is for every data set but street, dsec-semantic, ",
        ),
        (
            "prepare street --sequences a",
            "sequences is for every data set but street, custom, video",
        ),
        (
            "prepare dsec-flow . --window count",
            "window is for every data set but dsec-flow, mvsec-flow, ",
        ),
        ("prepare custom . -c FOLDER/street.yaml", "scenes is only for street"),
        ("prepare strete", "did you mean street?"),
        ("prepare --jobs 2 dsec_flow .", "did you mean dsec-flow?"),
        ("prepare street --scens 5", "scens"),
        ("prepare street --window count", "window"),
        ("prepare -c FOLDER/unknown.yaml", "did you mean custom?"),
        ("prepare", "name is not given"),
    ],
)
def test_what_a_data_set_does_not_have_is_refused(line, message, tmp_path, capfd):
    (tmp_path / "street.yaml").write_text("name: street\nscenes: 5\n")
    (tmp_path / "unknown.yaml").write_text("name: costum\n")
    call(line.replace("FOLDER", str(tmp_path)), 2)
    assert message in capfd.readouterr().err


# In Python


def test_the_settings_are_those_of_the_data_set():
    config = PrepareConfig(name="street", scenes=4)
    assert type(config) is street.Settings and config.scenes == 4 and config.size == (96, 128)
    assert type(load_config(PrepareConfig, {"name": "custom"})) is custom.Settings
    with pytest.raises(ConfigError, match="did you mean street"):
        PrepareConfig(name="strete")
    with pytest.raises(ValueError, match="scenes"):
        PrepareConfig(name="custom", scenes=4)


def test_the_first_scenes_of_street_train():
    (scenes,) = street.sources(PrepareConfig(name="street", scenes=4, size=(32, 48)))
    splits = [pair.provenance["split"] for pair in scenes.pairs(Counter())]
    assert splits == ["train", "train", "train", "test"]


# Going on, and what is lost


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_not_resumed(tmp_path, capsys, finished):
    """Neither into a finished store nor into one whose run was interrupted."""
    root = write_custom(tmp_path / "raw")
    pairs = tmp_path / "pairs"
    line = f"prepare custom {root} -o {pairs}"
    call(line)
    if not finished:
        manifest = json.loads((pairs / "manifest.json").read_text())
        (pairs / "manifest.json").unlink()
        (pairs / "settings.json").write_text(json.dumps(manifest["settings"]))
    before = {path.name: path.read_bytes() for path in pairs.iterdir()}
    capsys.readouterr()
    call(f"{line} --resume --quantile 0.3 --lossless", 2)
    told = capsys.readouterr().err
    assert "found: lossless True; quantile 0.3" in told
    assert "expected: lossless False; quantile 0.5" in told
    assert "--overwrite instead of --resume" in told and "another --out" in told
    assert {path.name: path.read_bytes() for path in pairs.iterdir()} == before
    shard = next(pairs.glob("*.h5"))
    made = shard.stat().st_mtime_ns
    call(f"{line} --resume --jobs 2")  # which changes nothing that is written
    assert "made again" not in capsys.readouterr().err and shard.stat().st_mtime_ns == made
    call(f"{line} --overwrite --quantile 0.3 --lossless")
    assert json.loads((pairs / "manifest.json").read_text())["settings"]["quantile"] == 0.3
    call(f"{line} --resume", 2)


def test_recordings_that_have_changed_are_made_again_and_said(tmp_path, capsys):
    root = write_custom(tmp_path / "raw")
    line = f"prepare custom {root} -o {tmp_path / 'pairs'}"
    call(line)
    write_times(root / "timestamps.txt", [1_080_000, 1_130_000, 1_170_000])
    call(f"{line} --resume")
    told = capsys.readouterr().err
    assert "1 of 1 shards are made again, not resumed: their files, or what" in told
    assert PairStore(tmp_path / "pairs").windows_us[-1, 1] == 1_170_000


def test_many_dropped_images_are_a_warning_with_the_reasons(tmp_path, capsys):
    root = write_custom(tmp_path / "raw")
    line = f"prepare custom {root} -o {tmp_path / 'pairs'}"
    call(line)
    assert "warning" not in capsys.readouterr().out
    times = root / "timestamps.txt"
    stamps = times.read_text().split()
    times.write_text("\n".join([stamps[0], stamps[0], stamps[0]]))
    call(f"{line} --overwrite")
    told = capsys.readouterr().out
    assert "warning: 2 of 3 images dropped: repeated time stamp (2)" in told


def test_a_few_dropped_are_no_warning_and_the_protocols_own_choice_is_none():
    assert lost({"images": 87, "images dropped: empty window": 5}) == []
    assert lost({"labels": 10, "labels dropped: not of the protocol": 9}) == []
    told = lost({"images": 87, "images dropped: b": 80, "images dropped: a": 2, "labels": 3})
    assert told == ["warning: 82 of 87 images dropped: b (80), a (2)"]
