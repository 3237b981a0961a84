"""Files are whole under their names or not there, whatever kills the writer."""

import errno
import io
import json
import os
import signal
import subprocess
import sys

import pytest

from scaleevent.config.settings import read_yaml
from scaleevent.datasets.calibration import (
    read_depth_scale,
    read_homography,
    read_rectified_rig,
    read_rig,
)
from scaleevent.datasets.ddd17_seg import read_index
from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.datasets.frames import read_bytes
from scaleevent.encoders.tensor_files import read_tensors
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem
from scaleevent.formats import open_recording
from scaleevent.images import open_image
from scaleevent.system.files import (
    MARKER,
    append_json_line,
    atomic_path,
    check_space,
    claimed_folder,
    clean_leftovers,
    fingerprint,
    read_json,
    read_json_lines,
    sha256_file,
    write_bytes,
    write_json,
)
from scaleevent.system.sealed import read_header

CRASH = """
import os, signal, sys
from pathlib import Path
from scaleevent.system import files as durable
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2], die)
durable.write_bytes(Path(sys.argv[1]), b"new")
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_before_the_rename_leaves_the_old_file(tmp_path, moment):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    process = subprocess.run([sys.executable, "-c", CRASH, target, moment], check=False)
    assert process.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2  # and a leftover ...
    clean_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [target]  # ... of a dead writer


def test_error_in_the_block_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.bin"
    write_bytes(target, b"old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_name_appears_only_when_whole(tmp_path):
    target = tmp_path / "new" / "file.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"content")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_bytes() == b"content"


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EACCES, "--out"), (errno.EROFS, "--out")],
)
def test_refusals_of_the_system_say_what_to_do(tmp_path, monkeypatch, number, hint):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(EnvironmentProblem) as caught:
        write_bytes(tmp_path / "file.bin", b"content")
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())


READERS = {
    "a.yaml": [read_yaml, read_rig, read_rectified_rig, read_depth_scale],
    "a.txt": [lambda path: read_frame_times(path, None, "start"), read_homography, open_recording],
    "a.npy": [read_index, read_bytes, open_recording],
    "a.png": [lambda path: open_image(path, path).__enter__()],
    "a.json": [read_json],
    "a.safetensors": [read_header],
    "a.pth": [read_tensors],
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_what_the_system_refuses_to_read_is_no_damage(tmp_path, monkeypatch, name, number):
    path = tmp_path / name
    path.write_bytes(b"{}")

    def refuse(file, *args, **kwargs):
        if str(file) == str(path):
            raise OSError(number, os.strerror(number))
        return given(file, *args, **kwargs)

    given = io.open
    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    for read in READERS[name]:
        with pytest.raises(EnvironmentProblem, match=os.strerror(number)) as caught:
            read(path)
        assert caught.value.where == path and caught.value.hint


def test_an_owner_cleans_its_folder_of_leftovers_and_of_nothing_else(tmp_path):
    folder = tmp_path / "out"
    claim(folder)
    places = [folder, folder / "state", folder / "run-of-its-own", folder / "state/deeper"]
    kept = {".notes.tmp", ".12.tmp", ".a.h5.12.notours.tmp", "a.h5.12.0123abcd.tmp", "a.h5"}
    left = {f".a.h5.{os.getpid()}.0123abcd.tmp", ".b.12.00000000.tmp"}
    for place in places:
        place.mkdir(exist_ok=True)
        for name in kept | left:
            (place / name).touch()
    (places[2] / MARKER).touch()
    claim(folder, resume=True)
    for place, cleaned in zip(places, (True, True, False, False), strict=True):
        names = {path.name for path in place.iterdir() if path.is_file()}
        assert names - {MARKER, "content"} == (kept if cleaned else kept | left)


# Folders


def claim(folder, resume=False, overwrite=False):
    with claimed_folder(folder, "marbles", resume=resume, overwrite=overwrite):
        (folder / "content").touch()


@pytest.mark.parametrize("exists", [False, True])
def test_new_or_empty_folder_is_taken_and_marked(tmp_path, exists):
    folder = tmp_path / "a" / "b"
    if exists:
        folder.mkdir(parents=True)
    claim(folder)
    assert (folder / MARKER).read_text() == "marbles\n"


@pytest.mark.parametrize("consent", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", ["thesis.tex", MARKER])  # a marker of another kind too
def test_folder_of_something_else_is_never_touched(tmp_path, consent, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(EnvironmentProblem, match="choose another --out"):
        claim(tmp_path, **consent)
    assert (tmp_path / name).read_text() == "x" and len(list(tmp_path.iterdir())) == 1


def test_own_folder_needs_consent(tmp_path):
    folder, outside = tmp_path / "out", tmp_path / "outside"
    claim(folder)
    (folder / "sub").mkdir()
    outside.mkdir()
    for path in (folder / "sub" / "part", outside / "precious"):
        path.touch()
    (folder / "link").symlink_to(outside)
    with pytest.raises(EnvironmentProblem, match="--resume goes on, --overwrite starts anew"):
        claim(folder)
    with pytest.raises(ConfigError, match="exclude each other"):
        claim(folder, resume=True, overwrite=True)
    claim(folder, resume=True)
    assert (folder / "sub" / "part").exists()
    claim(folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {MARKER, "content"}
    assert (outside / "precious").exists()


def test_a_folder_in_which_nothing_was_made_goes_again(tmp_path):
    with pytest.raises(DataError):  # noqa: SIM117
        with claimed_folder(tmp_path / "out", "marbles", resume=False, overwrite=False):
            raise DataError("bad input")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError):  # noqa: SIM117
        with claimed_folder(tmp_path / "out", "marbles", resume=False, overwrite=False):
            (tmp_path / "out" / "part").touch()
            raise DataError("bad input")
    claim(tmp_path / "out", resume=True)


def test_folder_where_a_first_run_died_at_once_is_taken(tmp_path):
    subprocess.run([sys.executable, "-c", CRASH, tmp_path / "out" / MARKER, "replace"], check=False)
    assert len(list((tmp_path / "out").iterdir())) == 1
    claim(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARKER, "content"}


def test_places_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(EnvironmentProblem, match="output is a file"):
        claim(tmp_path / "out", overwrite=True)
    with pytest.raises(EnvironmentProblem, match="output is a file"):
        claim(tmp_path / "out" / "below")


# JSON


def test_json_keeps_values_and_order(tmp_path):
    value = {"b": 1.5, "a": [None, True, "ü"]}
    write_json(tmp_path / "x.json", value)
    assert list(read_json(tmp_path / "x.json").items()) == list(value.items())


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"PK\x03\x04"])
def test_damaged_json_is_an_error_with_its_path(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"not a JSON file[\s\S]*x\.json"):
        read_json(tmp_path / "x.json")
    with pytest.raises(DataError, match="file not found"):
        read_json(tmp_path / "y.json")


def test_torn_last_line_is_dropped_and_later_lines_are_whole(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_json_lines(log) == []
    lines = [{"step": 0, "loss": 1.25}, {"step": 1}, {"step": 2}]
    append_json_line(log, lines[0])
    append_json_line(log, lines[1])
    whole = log.read_bytes()
    for torn in range(1, len(json.dumps(lines[2])) + 1):
        log.write_bytes(whole + json.dumps(lines[2]).encode()[:torn])
        assert read_json_lines(log) == lines[:2]
        append_json_line(log, lines[2])
        assert read_json_lines(log) == lines
    log.write_bytes(b'{"st')
    append_json_line(log, lines[0])
    assert read_json_lines(log) == lines[:1]


def test_hashes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_full_disk_tells_small_sizes_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("scaleevent.system.files._free_bytes", lambda path: 4096)
    with pytest.raises(EnvironmentProblem) as told:
        check_space(tmp_path, 20_000, "")
    assert (told.value.found, told.value.expected) == ("4,096 bytes free", "20,000 bytes")
    with pytest.raises(EnvironmentProblem) as told:
        check_space(tmp_path, 20_000_000, "")
    assert told.value.expected == "20.0 MB"
