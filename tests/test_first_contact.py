"""What a newcomer reads of the first commands: all of it is so, and explained."""

import json
import re

import pytest
from test_end_to_end import call

pytestmark = pytest.mark.slow

SHORT = "--epochs 1 --draws 8 --batch 8 --size 48x64 --no-probe --device cpu"
TASK = "--size 48x64 --epochs 1 --batch 4 --pictures 0 --device cpu"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two worlds, and an encoder of the first."""
    folder = tmp_path_factory.mktemp("first")
    for name, seed in (("pairs", 0), ("other", 7)):
        call(f"prepare street -o {folder / name} --scenes 24 --size 48x64 --seed {seed} --after")
    call(f"pretrain {folder / 'pairs'} {SHORT} -o {folder / 'run'}")
    return folder


def told(capfd, line, code=0):
    """What a command prints."""
    capfd.readouterr()
    call(line, code)
    return "".join(capfd.readouterr())


def test_a_probe_names_no_flag_that_it_lacks(place, capfd):
    said = told(capfd, f"probe street-semantic {place / 'run'} --data {place / 'other'} {TASK} "
                f"-o {place / 'seg'}")  # fmt: skip
    assert "decoder starts fresh\n" in said and "--decoder-weights" not in said
    assert "encoder frozen" in said and "max_depth" not in said and "{'" not in said
    assert "miou: mean IoU of all classes, %" in said and "miou_present: mean" in said


@pytest.mark.parametrize(("benchmark", "words"), [
    ("street-depth", ("rmse: metres", "dav2: as Depth Anything", "d1, d2, d3: share")),
    ("street-flow", ("epe: mean error in pixels", "fl_all: %", "sparse: pixels with events")),
])  # fmt: skip
def test_every_column_of_a_result_is_explained(place, capfd, benchmark, words):
    out = place / benchmark
    data = f"--data {place / 'other'}"
    said = told(capfd, f"probe {benchmark} {place / 'run'} {data} {TASK} -o {out}")
    scored = told(capfd, f"eval {benchmark} {out} {data} --json")
    report = json.loads(scored[scored.index("{") :])
    for word in words:
        assert word in said and any(word in note for note in report["notes"])
    (legend,) = [note for note in report["notes"] if words[0] in note]
    columns = {key for row in report["rows"] for key in row} - {""}
    named = set(re.findall(r"\w+", legend.replace("error / true", "")))
    assert {c for c in columns if " " not in c} <= named


def test_a_leak_is_told_with_what_can_be_done_and_not_with_every_recording(place, capfd):
    call(f"pretrain {place / 'pairs'} {SHORT} --validation 0 -o {place / 'seen'}")
    line = (
        f"probe street-depth {place / 'seen'} --data {place / 'pairs'} {TASK} -o {place / 'leak'}"
    )
    said = told(capfd, line, 2)
    found = re.search(r"found: (\d+) of (\d+): (.+), \.\.\n", said)
    assert found and found[1] == found[2] == "7" and found[3].count(",") == 4
    assert "--data" in said and "--transductive" in said


def test_where_the_data_of_a_run_come_from(place, capfd):
    said = told(capfd, f"pretrain {place / 'pairs'} {SHORT} -o {place / 'again'}")
    assert f"data: {place / 'pairs'} (from argument)\n" in said
    assert ": 1 step\n" in said
    assert "1 shard, " in told(capfd, f"prepare street -o {place / 'few'} --scenes 2 --size 32x48")
