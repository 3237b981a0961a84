"""`prepare --list`: what is told of every data set, fast and true."""

import json
import subprocess
import sys

import pytest
from davis_files import write_scene
from fakes import write_custom
from test_end_to_end import call

from scaleevent.config.catalog import DATASETS, UNDOCUMENTED, Part
from scaleevent.datasets.descriptions import DESCRIPTIONS, WRITTEN, unverified
from scaleevent.datasets.held_out import scored_recordings


def told(capsys, line, code=0):
    capsys.readouterr()
    call(line, code)
    return capsys.readouterr()


def listed(capsys, name):
    """What `--list NAME --json` says, by key."""
    rows = json.loads(told(capsys, f"prepare --list {name} --json").out)["rows"]
    return {row["of"]: row["told"] for row in rows}


def test_every_data_set_is_described(capsys):
    assert DESCRIPTIONS.keys() == DATASETS.keys()
    rows = json.loads(told(capsys, "prepare --list --json").out)["rows"]
    assert [row["name"] for row in rows] == [*DATASETS, *UNDOCUMENTED]
    by_name = {row["name"]: row for row in rows}
    assert by_name["mvsec"]["layout verified"] == "no"
    assert "as custom" in by_name["highrev"]["layout verified"]
    for known in DESCRIPTIONS.values():
        assert all(vars(known)[key] for key in vars(known) if key != "doubts")


@pytest.mark.parametrize("name", DATASETS)
def test_one_data_set_tells_where_from_and_which_recordings_test(capsys, name):
    facts = listed(capsys, name)
    for key in ("download", "page", "size", "licence", "layout"):
        assert facts[key] == vars(DESCRIPTIONS[name])[key]
    for recording in [*scored_recordings(name)][:3]:
        assert recording in facts["test recordings of"]
    if name in ("custom", "dsec"):
        assert ("none" in facts["test recordings of"]) == (name == "custom")


def test_names_in_any_place_and_unknown_ones(capsys):
    assert told(capsys, "prepare mvsec --list").out == told(capsys, "prepare --list mvsec").out
    assert "did you mean mvsec?" in told(capsys, "prepare --list mvsek", 2).err
    assert listed(capsys, "see-600k")["layout"] == "unknown"


def test_an_undocumented_layout_is_not_guessed(capsys, tmp_path):
    for name in UNDOCUMENTED:
        said = told(capsys, f"prepare {name} {tmp_path} -o {tmp_path / 'pairs'}", 2).err
        assert "not documented, and not guessed" in said and "scaleevent prepare custom" in said


def test_a_data_set_without_description_is_listed_too(capsys, monkeypatch):
    monkeypatch.setitem(DATASETS, "toy", Part("tests.toy_dataset", "a blinking square"))
    assert "a blinking square" in told(capsys, "prepare --list").out
    assert listed(capsys, "toy")["what"] == "a blinking square" and unverified("toy") == []


def test_the_list_loads_nothing_heavy():
    code = """
import sys
from scaleevent.cli import main
sys.argv = ["scaleevent", "prepare", "--list"]
main()
assert not {"torch", "numba", "h5py", "numpy"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_what_was_not_verified_is_said_when_it_is_prepared(capsys, tmp_path):
    root = write_scene(tmp_path / "mvsec")
    said = told(capsys, f"prepare mvsec {root} -o {tmp_path / 'pairs'}").err
    assert f"layout of mvsec {WRITTEN}" in said and "--picture pairs.png" in said
    plan = told(capsys, f"prepare mvsec {root} -o {tmp_path / 'pairs'} --dry-run --json").out
    assert WRITTEN in json.loads(plan)["choices"][0]
    said = told(
        capsys, f"prepare custom {write_custom(tmp_path / 'rig')} -o {tmp_path / 'own'}"
    ).err
    assert WRITTEN not in said


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "street"])
def test_a_root_that_is_not_there(capsys, tmp_path, name):
    said = told(capsys, f"prepare {name} {tmp_path / 'nowhere'} -o {tmp_path / 'pairs'}", 3).err
    assert "no such file or folder" in said and "nowhere" in said
