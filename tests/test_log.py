"""The log of a run: lines, the same numbers as a table, and event files."""

import csv
import json
import math
import struct

import pytest

from scaleevent.config.pretrain import PretrainConfig, pretrain_config
from scaleevent.config.run import ScheduledSettings
from scaleevent.config.settings import ORIGINS, keep_settings, load_config
from scaleevent.errors import MissingPackageError
from scaleevent.system.files import append_json_line, read_json_lines
from scaleevent.training import log as logs
from scaleevent.training.log import EVENTS, LOG, TABLE, open_log, tag_of, write_table

RECORDS = [
    (0, {"epoch": 0, "val_loss": 2.0 / 3}),
    (1, {"loss": 1e-17, "lr": 5e-6}),
    (2, {"loss": 123456.789012345, "lr": 1.0}),
    (2, {"epoch": 1, "val_loss": math.nan, 'a "new", one': 4.0}),
    (3, {"loss": math.inf, "lr": 0.1 + 0.2}),
]


def as_table(folder):
    """The numbers of log.jsonl in columns, by a slow loop."""
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    columns = []
    for line in lines:
        for key in line:
            if key not in columns:
                columns.append(key)
    rows = [[repr(line[c]) if c in line else "" for c in columns] for line in lines]
    return [columns, *rows]


def table(folder):
    with open(folder / TABLE, newline="") as file:
        return list(csv.reader(file))


def test_the_table_has_the_numbers_of_the_lines_after_every_record(tmp_path):
    with open_log(tmp_path) as log:
        for step, record in RECORDS:
            log.append(step, record)
            assert table(tmp_path) == as_table(tmp_path)
    assert table(tmp_path)[0] == ["step", "epoch", "val_loss", "loss", "lr", 'a "new", one']
    assert float(table(tmp_path)[-1][4]) == 0.1 + 0.2  # in full


@pytest.mark.parametrize("harm", ["cut", "lost row", "lost file", "empty"])
def test_a_table_that_a_killed_writer_left_is_whole_again(harm, tmp_path):
    with open_log(tmp_path) as log:
        for step, record in RECORDS[:3]:
            log.append(step, record)
    whole = (tmp_path / TABLE).read_bytes()
    if harm == "lost file":
        (tmp_path / TABLE).unlink()
    else:
        harmed = {"cut": whole[:-5], "empty": b"", "lost row": whole[: whole[:-1].rfind(b"\n") + 1]}
        (tmp_path / TABLE).write_bytes(harmed[harm])
    if harm == "lost row":  # killed between the two files: a resumed run begins so
        write_table(tmp_path)
    with open_log(tmp_path) as log:
        log.append(3, {"loss": 0.5, "lr": 1.0})
    assert table(tmp_path) == as_table(tmp_path)
    assert (tmp_path / TABLE).read_bytes().startswith(whole)


def test_rows_are_appended_and_not_written_anew_where_the_columns_are_there(tmp_path, monkeypatch):
    with open_log(tmp_path) as log:
        log.append(1, {"loss": 1.0})
        monkeypatch.setattr(logs, "write_table", lambda folder: pytest.fail("written anew"))
        log.append(2, {"loss": 2.0})
        log.append(3, {})
    assert table(tmp_path) == as_table(tmp_path)


def scalars(folder):
    """(step, tag, value) and session starts of event files, in the order of their names."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / EVENTS).iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            found += [("start", event.step)] if event.session_log.status == 1 else []
            found += [(event.step, one.tag, one.simple_value) for one in event.summary.value]
    return found


def test_event_files_hold_the_same_and_a_later_part_voids_what_it_does_again(tmp_path):
    pytest.importorskip("tensorboardX")
    for first, records in ((0, RECORDS[:1]), (0, RECORDS[1:3]), (1, RECORDS[2:3])):
        with open_log(tmp_path, True, first) as log:
            for step, record in records:
                log.append(step, record)
    told = scalars(tmp_path)
    assert (0, "held_out/loss", pytest.approx(2 / 3)) in told and (0, "epoch", 0) in told
    assert [one for one in told if one[0] == "start"] == [("start", 1), ("start", 2)]
    losses = [one for one in told if one[1] == "training/loss"]
    assert losses == [(step, "training/loss", pytest.approx(RECORDS[step][1]["loss"]))
                      for step in (1, 2, 2)]  # fmt: skip
    assert len(read_json_lines(tmp_path / LOG)) == 4


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError) as error, open_log(tmp_path, True):
        pass
    assert error.value.exit_code == 4 and 'pip install "scaleevent[tensorboard]"' in str(
        error.value
    )
    assert not list(tmp_path.iterdir())
    with open_log(tmp_path):  # not asked for
        pass


def test_names_in_tensorboard():
    assert [tag_of(name) for name in ("val_loss", "loss", "epoch")] == [
        "held_out/loss", "training/loss", "epoch"
    ]  # fmt: skip


def test_settings_know_where_they_come_from(tmp_path):
    (tmp_path / "mine.yaml").write_text("lr: 0.001\nseed: 4\n")
    flags = {"seed": 5, "preset": "demo", "epochs": None}
    cfg = pretrain_config(flags, tmp_path / "mine.yaml")
    assert cfg.seed == 5 and cfg.lr == 0.001
    named = {key: cfg.origins[key] for key in ("seed", "lr", "clip", "tau", "preset")}
    assert named == {
        "seed": "flag", "lr": f"file {tmp_path / 'mine.yaml'}", "clip": "preset demo",
        "tau": "default", "preset": "flag",
    }  # fmt: skip
    assert cfg.origins.keys() == type(cfg).model_fields.keys()
    assert cfg.model_copy(update={"workers": 1}).origins == cfg.origins
    assert cfg == type(cfg)(**cfg.model_dump())  # it is no part of the settings
    assert PretrainConfig(lr=1.0).origins["lr"] == "given"
    keep_settings(cfg, tmp_path, {"overwrite"})
    kept = json.loads((tmp_path / ORIGINS).read_text())
    assert kept["lr"] == named["lr"] and "overwrite" not in kept
    again = load_config(PretrainConfig, {}, tmp_path / "config.yaml")
    assert again == cfg and set(again.origins.values()) == {
        f"file {tmp_path / 'config.yaml'}", "default"
    }  # fmt: skip


def test_tensorboard_changes_no_result():
    assert "tensorboard" not in ScheduledSettings(tensorboard=True).with_effect()


def test_appending_beside_a_log_of_an_earlier_version(tmp_path):
    append_json_line(tmp_path / LOG, {"step": 1, "loss": 1.0})
    with open_log(tmp_path) as log:
        log.append(2, {"loss": 0.5})
    assert table(tmp_path) == as_table(tmp_path) == [["step", "loss"], ["1", "1.0"], ["2", "0.5"]]
