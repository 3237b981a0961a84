"""`predict` of live sources and at a recording's own speed, against `predict` of the same file."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from math import ceil
from pathlib import Path

import numpy as np
import pytest

import scaleevent
from scaleevent import cli
from scaleevent.checkpoint import save_encoder, save_task
from scaleevent.config.live import live_address
from scaleevent.config.predict import PredictConfig
from scaleevent.config.settings import load_config
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, InUseError
from scaleevent.live import source as source_module
from scaleevent.live.evt_stream import GARBAGE_WORDS
from scaleevent.live.udp import BUFFER, Packets
from scaleevent.prediction.writers import ArrayWriter
from tests.event_files import evt3_words, some_events, write_raw
from tests.live_sources import aestream_packets, faery_packets, pieces
from tests.test_predict import HEIGHT, WIDTH, small_encoder, task_model

pytestmark = pytest.mark.usefixtures("one_thread")

EVENTS = some_events(9_000, HEIGHT, WIDTH, span_us=400_000, seed=5)
FAST = {"rate": 50, "write": ["npy"], "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("live")
    save_task(root / "depth.safetensors", task_model("depth"), {})
    save_task(root / "flow.safetensors", task_model("flow"), {})
    save_encoder(root / "encoder.safetensors", small_encoder(), {})
    write_raw(root / "a.raw", evt3_words(EVENTS), "evt 3.0", f"geometry {WIDTH}x{HEIGHT}", "end")
    for model in ("depth", "flow", "encoder"):
        predict(root, model, root / "a.raw", root / f"whole-{model}")
    return root


def predict(folder, model, where, out, **options):
    path = str(folder / f"{model}.safetensors")
    config = PredictConfig(checkpoint=path, recordings=[where], out=out, **FAST | options)
    return scaleevent.predict(config, quiet=True)


def rows(out) -> list[dict[str, str]]:
    with open(out / "times.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same(out, whole, every=True) -> int:
    """The windows and maps are those of the whole file; returns how many there are."""
    found, expected = rows(out), {row["index"]: row for row in rows(whole)}
    for row in found:
        assert row == expected[row["index"]]
        assert (out / row["file"]).read_bytes() == (whole / row["file"]).read_bytes()
    assert len(found) == len(expected) if every else 0 < len(found) <= len(expected)
    assert len(list((out / "maps").iterdir())) == len(found)
    return len(found)


@pytest.fixture
def standard_input(monkeypatch):
    """A pipe as standard input; gives its other end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as opened:
        monkeypatch.setattr("sys.stdin", opened)
        yield writing
        try:
            os.close(writing)
        except OSError:
            pass


def in_pieces(descriptor: int, data: bytes, close: bool = True) -> threading.Thread:
    """Writes bytes into a pipe, in a thread."""

    def write():
        for piece in pieces(data, np.random.default_rng(0), 900):
            os.write(descriptor, piece)
        if close:
            os.close(descriptor)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("model", ["depth", "flow"])
def test_standard_input_gives_what_the_file_does(folder, tmp_path, standard_input, model):
    thread = in_pieces(standard_input, (folder / "a.raw").read_bytes())
    report = predict(folder, model, "-", tmp_path / "out", when_slow="wait")
    thread.join()
    count = assert_same(tmp_path / "out", folder / f"whole-{model}")
    live = json.loads((tmp_path / "out/report.json").read_text())["recordings"][0]["live"]
    assert (live["windows"], live["dropped windows"], live["lag"]["number"]) == (count, 0, count)
    assert any(note == f"windows dropped for newer ones: none of {count}" for note in report.notes)
    assert [row[0] for row in report.more[0].rows][0] == "waiting"
    [meaning] = [note for note in report.notes if "voxelising: " in note]
    stages = [row[0] for row in report.more[0].rows]
    assert [part.split(": ")[0] for part in meaning.split("; ") if ": " in part][:-1] == stages


def test_colours_of_an_encoder_are_chosen_by_the_first_windows(folder, tmp_path, standard_input):
    thread = in_pieces(standard_input, (folder / "a.raw").read_bytes())
    out = tmp_path / "out"
    report = predict(folder, "encoder", "-", out, queue=1000)  # nothing is dropped
    thread.join()
    assert [row["index"] for row in rows(out)] == [str(at) for at in range(3, 20)]
    assert any("the first 4 windows chose the colours" in note for note in report.notes)
    again = tmp_path / "again"
    predict(folder, "encoder", folder / "a.raw", again, basis=out / "basis.safetensors")
    assert_same(out, again, every=False)


def test_a_growing_file_gives_what_the_finished_one_does(folder, tmp_path):
    path = tmp_path / "growing.raw"
    path.touch()

    def grow():
        for piece in pieces((folder / "a.raw").read_bytes(), np.random.default_rng(0), 900):
            with path.open("ab") as file:
                file.write(piece)
            time.sleep(0.002)

    thread = threading.Thread(target=grow)
    thread.start()
    report = predict(folder, "depth", path, tmp_path / "out", follow=True, idle=1, when_slow="wait")
    thread.join()
    assert_same(tmp_path / "out", folder / "whole-depth")
    assert "ended because nothing came for 1 s" in report.notes


@pytest.fixture
def port(monkeypatch):
    """A free port; what is put into `sent` is sent to it as soon as somebody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    sent = []
    listen = source_module.listen

    def listening(*address):
        receiver = listen(*address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for packet in sent:
                sender.sendto(packet, ("127.0.0.1", number))
        return receiver

    monkeypatch.setattr(source_module, "listen", listening)
    return number, sent


@pytest.mark.parametrize("encoding", ["t64_x16_y16_on8", "t32_x16_y15_on1", "aestream"])
def test_udp_gives_what_the_file_does(folder, tmp_path, port, encoding):
    number, sent = port
    stamped = encoding == "aestream"
    sent += aestream_packets(EVENTS, True) if stamped else faery_packets(EVENTS, encoding)
    report = predict(
        folder, "depth", f"udp://127.0.0.1:{number}", tmp_path / "out", format=encoding,
        size=(HEIGHT, WIDTH), idle=0.5, queue=1000,
    )  # fmt: skip
    assert_same(tmp_path / "out", folder / "whole-depth")
    assert any(note.startswith(f"{len(sent)} packets came") for note in report.notes)


def test_packets_without_times_are_predicted_by_their_arrival(folder, tmp_path, port):
    number, sent = port
    sent += aestream_packets(EVENTS, False)
    report = predict(
        folder, "depth", f"udp://127.0.0.1:{number}", tmp_path / "out", format="aestream",
        size=(HEIGHT, WIDTH), idle=0.5, queue=1000,
    )  # fmt: skip
    assert any("hold no times" in note for note in report.notes)
    assert len(rows(tmp_path / "out")) >= 1
    assert sum(int(row["events"]) for row in rows(tmp_path / "out")) >= len(EVENTS)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["t64_x16_y16_on8", "t32_x16_y15_on1", "aestream"])
def test_the_example_sends_what_is_received(folder, encoding):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)  # room for all of it
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.5)
        address = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
        example = Path(__file__).parent.parent / "examples/play_udp.py"
        command = [sys.executable, example, folder / "a.raw", address, "--format", encoding]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        decoder, columns = Packets(encoding, HEIGHT, WIDTH, "here"), []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as sender:
            while not columns or sender.poll() is None:
                try:
                    columns += decoder.decode([receiver.recv(65_535)], 0)
                except TimeoutError:
                    continue
            said = sender.stdout.read()
        assert sender.returncode == 0 and f"--size {HEIGHT}x{WIDTH}" in said
        assert "9,000 events" in said
        receiver.settimeout(0.1)
        with pytest.raises(TimeoutError):
            while True:
                columns += decoder.decode([receiver.recv(65_535)], 0)
    for name in "txyp":
        found = np.concatenate([getattr(block, name) for block in columns])
        assert np.array_equal(found, getattr(EVENTS, name))


def test_a_file_at_its_own_speed_tells_its_lag(folder, tmp_path):
    began = time.monotonic()
    report = predict(folder, "depth", folder / "a.raw", tmp_path / "out", pace="real", queue=1000)
    assert time.monotonic() - began > 0.39  # seconds that it lasts
    count = assert_same(tmp_path / "out", folder / "whole-depth")
    [facts] = json.loads((tmp_path / "out/report.json").read_text())["recordings"]
    lag = facts["live"]["lag"]
    assert lag["number"] == count and 0 < lag["median_s"] <= lag["p99_s"] <= lag["largest_s"] < 60
    assert any(note.startswith(f"lag of {count} predictions") for note in report.notes)


def test_no_window_at_its_own_speed_is_told_as_elsewhere(folder, tmp_path):
    """An error that were its own cause would be looked through without an end."""
    with pytest.raises(ConfigError, match="no window ends within the events") as caught:
        predict(folder, "depth", folder / "a.raw", tmp_path / "out", pace="real", start=9.0)
    assert caught.value.__cause__ is None


def test_a_network_that_is_too_slow_leaves_windows_out(folder, tmp_path):
    report = predict(folder, "depth", folder / "a.raw", tmp_path / "out", pace="real", rate=20_000)
    [facts] = json.loads((tmp_path / "out/report.json").read_text())["recordings"]
    live, written = facts["live"], len(rows(tmp_path / "out"))
    assert live["dropped windows"] > 1000 and facts["windows"] == written
    assert (
        live["windows"]
        == live["dropped windows"] + written
        == live["lag"]["number"] + (live["dropped windows"])
    )
    assert live["events in dropped windows"] > 0
    assert any("windows dropped for newer ones: " in note for note in report.notes)


def test_ctrl_c_ends_with_everything_whole(folder, tmp_path, standard_input):
    out = tmp_path / "out"
    in_pieces(standard_input, (folder / "a.raw").read_bytes(), close=False).join()

    def stop():
        until = time.monotonic() + 20
        while len(list(out.glob("maps/*.npy"))) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    report = predict(folder, "depth", "-", out, when_slow="wait", write=["npy", "hdf5"])
    assert "stopped on request" in report.notes and (out / "report.json").exists()
    found, expected = rows(out), rows(folder / "whole-depth")
    assert 3 <= len(found) <= len(expected)
    for row, same in zip(found, expected, strict=False):
        name = row["file"].split()[0]
        assert (out / name).read_bytes() == (folder / "whole-depth" / same["file"]).read_bytes()


def test_a_full_disk_leaves_no_thread_behind(folder, tmp_path, standard_input, monkeypatch):
    """Although the source is silent, and would be waited for."""

    def full(*_):
        time.sleep(0.5)  # by now all that came is cut
        raise EnvironmentProblem("the disk is full")

    monkeypatch.setattr(ArrayWriter, "write", full)
    in_pieces(standard_input, (folder / "a.raw").read_bytes(), close=False).join()
    with pytest.raises(EnvironmentProblem, match="the disk is full"):
        predict(folder, "depth", "-", tmp_path / "out", queue=1000)
    assert "live source" not in {thread.name for thread in threading.enumerate()}


def test_what_was_written_before_garbage_is_whole(folder, tmp_path, standard_input):
    garbage = np.random.default_rng(0).integers(0, 256, 40_000, np.uint8).tobytes()
    thread = in_pieces(standard_input, (folder / "a.raw").read_bytes() + garbage)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="the stream is not EVT3"):
        predict(folder, "depth", "-", out, when_slow="wait")
    thread.join()
    found, expected = rows(out), rows(folder / "whole-depth")
    size = 2 * GARBAGE_WORDS  # so many bytes are judged together
    sure = len(expected) - 1 - ceil(len(expected) * size / (folder / "a.raw").stat().st_size)
    assert len(found) >= sure > 0.6 * len(expected)
    assert json.loads((out / "report.json").read_text())
    for row, same in zip(found[: len(expected) - 1], expected, strict=False):
        assert row == same
        assert (out / row["file"]).read_bytes() == (
            folder / "whole-depth" / row["file"]
        ).read_bytes()


def test_what_comes_instead_of_events_is_told(folder, tmp_path, standard_input, port):
    in_pieces(standard_input, b"GIF89a..").join()
    with pytest.raises(DataError, match="does not begin as a RAW"):
        predict(folder, "depth", "-", tmp_path / "out")
    number, sent = port
    sent += [b"GET / HTTP/1.1"] * 50
    with pytest.raises(DataError, match="the packets are not t64"):
        predict(folder, "depth", f"udp://127.0.0.1:{number}", tmp_path / "out", size=(40, 56),
                idle=0.5)  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = f"udp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InUseError, match="another program listens"):
            predict(folder, "depth", taken, tmp_path / "out", size=(40, 56))
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize(
    ("recordings", "options", "message"),
    [
        (["-", "a.raw"], {}, "a live source is predicted alone"),
        (["-"], {"pace": "real"}, "has its own pace"),
        (["-"], {"follow": True}, "only a file can be followed"),
        (["-"], {"on_error": "skip"}, "only files have this"),
        (["udp://h:1"], {"when_slow": "wait"}, "does not wait"),
        (["a.raw"], {"follow": True, "pace": "real"}, "pace has no effect with follow"),
        (["a.raw"], {"idle": 5}, "idle has no effect"),
        (["a.raw"], {"format": "EVT3"}, "format has no effect"),
        (["a.raw"], {"queue": 2}, "queue has no effect"),
    ],
)
def test_settings_that_contradict_each_other(folder, recordings, options, message):
    paths = [folder / one if one == "a.raw" else Path(one) for one in recordings]
    given = {"checkpoint": str(folder / "depth.safetensors"), "recordings": paths, **options}
    with pytest.raises(ConfigError) as told:
        load_config(PredictConfig, given).check()
    assert message in str(told.value)


def test_addresses_survive_being_paths():
    for text in ("udp://0.0.0.0:7777", "udp://[::1]:80", "tcp://a:1", "-"):
        assert live_address(Path(text)) == text
    for text in ("a.raw", "/data/udp/a.raw", "./-", "C:/data/a.raw"):
        assert live_address(Path(text)) is None or text == "./-"


def test_the_command_line(folder, tmp_path, standard_input, monkeypatch, capsys):
    thread = in_pieces(standard_input, (folder / "a.raw").read_bytes())
    line = f"predict {folder}/depth.safetensors - --when-slow wait --rate 50 -o {tmp_path}/out"
    monkeypatch.setattr("sys.argv", ["scaleevent", *line.split(), "--json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    thread.join()
    told = json.loads(capsys.readouterr().out)
    assert not left.value.code and told["schema"] == "scaleevent.predict/1"
    said = f"standard input: EVT3, {WIDTH}x{HEIGHT} pixels; ends after 30 s"
    assert any(line.startswith(said) for line in told["choices"])
