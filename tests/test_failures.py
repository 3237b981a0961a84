"""What users do wrong, and what goes wrong for them: the exit code, the message, what is left.

A row is a command line as it is typed. Whatever fails: no traceback, nothing on stdout, one error
with its code, the inputs as they were, and no output that looks finished.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fakes
import label_files
import numpy as np
import pytest
import yaml
from event_files import some_events, write_dsec
from hint_files import INPUTS, SHORT, STORE, TASK, columns
from hint_situations import (
    diverging,
    failing,
    full_disk,
    half_torchrun,
    not_ours,
    onnx_refuses,
    stalled,
    stopped_at_once,
)
from test_hints import given_inputs, typed
from test_own_labels import SIZE

from scaleevent import cli, errors

PARTS = ("where", "found", "expected", "hint")
FINISHED = ("report.json", "export.json", "manifest.json")  # what a finished command leaves
Fault = Callable[[pytest.MonkeyPatch], None]


class Failure(NamedTuple):
    """A command line that fails."""

    line: str  # inputs are made by name; OUT is a new folder
    exit_code: int
    code: str  # of the error
    words: str  # of the message, divided by |
    fault: Fault | None = None  # of the system


F = Failure


def missing(*packages: str) -> Fault:
    """Packages that are not installed."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        for name in packages:
            parent, _, child = name.rpartition(".")
            if hasattr(sys.modules.get(parent), child):  # `from parent import child` takes it there
                patch.delattr(sys.modules[parent], child)
            for module in [name, *(m for m in sys.modules if m.startswith(f"{name}."))]:
                patch.setitem(sys.modules, module, None)

    return fault


def text(content: str) -> Callable[[Path], object]:
    """A writer of a text file."""
    return lambda path: path.write_text(content)


def cut(whole: Callable[[Path], object], share: float) -> Callable[[Path], None]:
    """A writer of a file whose end is missing."""

    def write(path: Path) -> None:
        whole(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return write


def flipped(path: Path) -> None:
    """The encoder of a run with a byte changed in its middle."""
    data = bytearray((path.parent / "run/encoder.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def killed(path: Path) -> None:
    """A run as it is left by a kill before its end."""
    shutil.copytree(path.parent / "run", path)
    for name in ("report.json", "encoder.safetensors"):
        (path / name).unlink()


def lost(path: Path) -> None:
    """A store whose shards somebody has deleted."""
    shutil.copytree(path.parent / "pairs", path)
    for shard in path.glob("*.h5"):
        shard.unlink()


def rotten(path: Path) -> None:
    """A store with a bit changed in a shard."""
    shutil.copytree(path.parent / "pairs", path)
    shard = next(path.glob("*.h5"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def zipped(path: Path) -> None:
    """An archive."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "recordings")


def calibrated(**changes: object) -> Callable[[Path], object]:
    """A writer of a calibration with something else in it."""
    return lambda path: path.write_text(yaml.safe_dump(fakes.cam_to_cam() | changes))


def labelled_beyond(path: Path) -> None:
    """Labels with an id that no class has."""
    INPUTS["mylabels"](path)
    label_files.write_ids(next(path.glob("labels/*/*.png")), np.full(SIZE, 77, np.uint8))


OWN = {
    "notes.txt": text("bring the camera back on Monday\n"),
    "pointer.raw": text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "page.raw": text("<!DOCTYPE html><html><body>Sign in</body></html>"),
    "archive.raw": zipped,
    "pickled.npy": lambda path: np.save(path, np.array([{"t": 1}]), allow_pickle=True),
    "cut.npz": cut(lambda path: np.savez(path, **columns()), 0.6),
    "cut.h5": cut(lambda path: write_dsec(path, some_events(9000)), 0.5),
    "flipped.safetensors": flipped,
    "cut.safetensors": cut(flipped, 0.3),
    "noise.pth": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "killed": killed,
    "lost": lost,
    "rotten": rotten,
    "misspelt.yaml": text("epochs: 1\nlearning_rate: 1e-4\n"),
    "twice.yaml": text("epochs: 1\nepochs: 2\n"),
    "torn.yaml": text("epochs: [1\n"),
    "singular.txt": text("1 0 0\n1 0 0\n0 0 1\n"),
    "lacking.yaml": calibrated(intrinsics={}),
    "beyond": labelled_beyond,
    "times.txt": text("soon\nlater\n"),
}
NEEDS = {
    "flipped.safetensors": "run",
    "cut.safetensors": "run",
    "killed": "run",
    "lost": "pairs",
    "rotten": "pairs",
}

READING = [
    F("inof plain.npz", 2, "E200", "no such command|found: inof|one of info, prep|mean info?"),
    F("--json info plain.npz", 2, "E200", "no such option|where: scaleevent\n|after the command"),
    F("info plain.npz --ful", 2, "E200", "where: scaleevent info\n|found: --ful|mean --full?"),
    F("info plain.npz --fulll=x", 2, "E200", "found: --fulll|did you mean --full?"),
    F("info plain.npz -z", 2, "E200", "found: -z|`scaleevent info --help`"),
    F("info plain.npz --topic", 2, "E200", "needs a value|scaleevent info\n|--topic VALUE"),
    F("info plain.npz --full=1", 2, "E200", "takes no value|found: --full|--full alone"),
    F("info", 2, "E200", "where: scaleevent info\n|path is not given|path: a recording, store"),
    F("info plain.npz --size 48", 2, "E200", "rows x columns, such as 480x640|not '48'"),
    F("info nowhere.raw", 3, "E300", "no such file or folder|where: nowhere.raw"),
    F("info alone", 3, "E300", "where: alone|found: empty|manifest.json"),
    F("info empty.raw", 3, "E300", "empty file|0 bytes|look at the original"),
    F("info notes.txt", 3, "E301", "notes.txt, line 1|bring the camera|time, x, y, polarity"),
    F("info pointer.raw", 3, "E300", "Git LFS|pointer.raw|git lfs pull"),
    F("info page.raw", 3, "E301", "a web page|page.raw"),
    F("info archive.raw", 3, "E301", "a zip archive|unzip archive.raw"),
    F("info filmed/000000.png", 3, "E301", "a PNG image|--frames"),
    F("info pickled.npy", 3, "E300", "Python objects|pickled.npy|np.savez"),
    F("info cut.npz", 3, "E300", "cut.npz"),
    F("info cut.h5", 3, "E300", "cut.h5|truncated"),
    F("info strange.npz", 3, "E301", "a.npy int64|--columns"),
    F("info flipped.safetensors", 3, "E310", "flipped.safetensors|damaged"),
    F(
        "info wordy.bag",
        4,
        "E400",
        'rosbags|pip install "scaleevent[ros]"',
        missing("rosbags", "scaleevent.formats.ros_readers"),
    ),
    F("info rotten --verify", 3, "E300", "rotten|00000-street-0-000000.h5|--resume"),
]
PREPARING = [
    F("prepare -o OUT", 2, "E200", "name is not given|data set, one of street, custom"),
    F("prepare custom rig --frams x -o OUT", 2, "E200", "prepare custom\n|did you mean --frames?"),
    F("prepare custom rig --out", 2, "E200", "--out VALUE|`scaleevent prepare custom --help`"),
    F("prepare custm rig -o OUT", 2, "E200", "did you mean custom?|found: custm|dsec-semantic"),
    F("prepare rig -o OUT", 2, "E200", "rig, which is a path|prepare custom rig -o PAIRS"),
    F("prepare street --fps 25 -o OUT", 2, "E200", "fps is only for video|--fps"),
    F("prepare street --scenes -3 -o OUT", 2, "E200", "scenes|greater than or equal to 1, not -3"),
    F("prepare street --shard 9/8 -o OUT", 2, "E200", "shard|1/8 to 8/8|not '9/8'"),
    F("prepare custom reset --segment 9 -o OUT", 2, "E200", "reset/events.npz|--segment 1 .. 2"),
    F("prepare dsec dsecall -o OUT", 3, "E300", "zurich_city_13_a|--transductive"),
    F("prepare dsec alone -o OUT", 3, "E300", "no DSEC sequence|SEQUENCE/events/left/events.h5"),
    F("prepare custom alone -o OUT", 3, "E300", "no event recording|no files"),
    F("prepare custom noframes -o OUT", 3, "E300", "no frames|a folder images, frames|--frames"),
    F("prepare custom notimes -o OUT", 3, "E300", "no time stamps|timestamps.txt|--timestamps"),
    F("prepare custom framerig -o OUT", 3, "E300", "96x72|64x48|--homography or --calibration"),
    F("prepare custom otherclock -o OUT", 3, "E302", "no image has events|--offset-us"),
    F("prepare custom framerig --homography singular.txt -o OUT", 3, "E300", "singular.txt"),
    F("prepare custom framerig --calibration lacking.yaml -o OUT", 3, "E300", "lacking.yaml|cam0"),
    F("prepare custom unclassed --labels labels --size 48x64 -o OUT", 2, "E200", "classes.yaml"),
    F("prepare custom beyond --labels labels --size 48x64 -o OUT", 3, "E300", "beyond/labels|77"),
    F("prepare street -o pairs", 5, "E500", "not empty|where: pairs|--resume goes on"),
    F("prepare street -o elsewhere", 5, "E500", "not empty|choose another --out"),
    F("prepare street -o busy", 5, "E510", "another run|where: busy|process|wait until"),
    F("prepare street -o abroad", 5, "E510", "on elsewhere|--take-over"),
    F("prepare street -o plain.npz/pairs", 5, "E500", "plain.npz|choose another --out"),
    F(f"{STORE} -o OUT", 5, "E500", "cannot write|you may write to", not_ours),
    F(
        f"{STORE} -o OUT",
        5,
        "E500",
        "No space left|OUT|free some space",
        failing("os.replace", OSError(28, "No space left")),
    ),
    F(
        f"{STORE} -o OUT",
        5,
        "E500",
        "out of memory|fewer --workers or --jobs",
        failing("concurrent.futures.Future.result", MemoryError()),
    ),
    F(f"{STORE} -o OUT", 75, "E750", "stopped on request|--resume", stopped_at_once),
    F("prepare video walk.mkv -o OUT", 4, "E400", 'av|"scaleevent[video]"', missing("av")),
    F(
        f"{STORE} --dask tcp://127.0.0.1:9 -o OUT",
        4,
        "E400",
        'distributed|"scaleevent[dask]"',
        missing("distributed"),
    ),
    F("voxelize nowhere -o OUT", 3, "E300", "no such file or folder|nowhere"),
    F("voxelize alone -o OUT", 3, "E300", "no event recording found|where: alone"),
    F("voxelize plain.npz --bins 0 -o OUT", 2, "E200", "bins|not 0"),
    F("voxelize plain.npz --representation e2vd -o OUT", 2, "E200", "one of zhu|not 'e2vd'"),
    F("voxelize doubt.npz --size 48x64 -o OUT", 3, "E300", "ambiguous|--time-unit"),
    F("voxelize bad.npz --size 48x64 -o OUT", 3, "E300", "event 0|x = 9000|0 <= x < 64"),
    F("voxelize reset.npz -o OUT", 3, "E300", "event 20000|steps back|--on-error skip"),
    F("voxelize cut.npz -o OUT", 3, "E300", "cut.npz"),
    F("voxelize two.aedat4 -o OUT", 4, "E400", '"scaleevent[aedat]"', missing("aedat")),
    F("voxelize plain.npz -o busy", 5, "E510", "another run|busy"),
]
TRAINING = [
    F("pretrain nowhere -o OUT", 2, "E200", "no such pair store|nowhere|prepare custom"),
    F("pretrain rig -o OUT", 3, "E300", "not a prepared pair store|manifest.json|prepare custom"),
    F("pretrain lost -o OUT", 3, "E300", "1 of 1 shards|00000-street-0-000000.h5|--resume"),
    F("pretrain pairs -c nowhere.yaml -o OUT", 2, "E200", "nowhere.yaml|No such file"),
    F("pretrain pairs -c misspelt.yaml -o OUT", 2, "E200", "misspelt.yaml, key learning_rate"),
    F("pretrain pairs -c twice.yaml -o OUT", 2, "E200", "twice.yaml|line 2|epochs"),
    F("pretrain pairs -c torn.yaml -o OUT", 2, "E200", "torn.yaml|line"),
    F("pretrain pairs --lr fast -o OUT", 2, "E200", "pretrain --lr\n|found: fast|: a valid number"),
    F("pretrain pairs --epochs 1.5 -o OUT", 2, "E200", "--epochs\n|found: 1.5|: a valid integer"),
    F("pretrain pairs -lr 1 -o OUT", 2, "E200", "found: -l\n|did you mean --lr?"),
    F("pretrain pairs --lr nan -o OUT", 2, "E200", "lr|nan"),
    F("pretrain pairs --preset debug -o OUT", 2, "E200", "found: debug|demo, cpu, paper-vits"),
    F("pretrain pairs --size 50x64 -o OUT", 2, "E200", "height 50|multiples of 8 pixels|height 48"),
    F("pretrain pairs --only outdor -o OUT", 2, "E200", "did you mean outdoor?"),
    F("pretrain pairs --teacher nowhere.pth -o OUT", 3, "E310", "file not found|nowhere.pth"),
    F("pretrain pairs --teacher noise.pth -o OUT", 3, "E310", "noise.pth|fetch or copy"),
    F("pretrain pairs --arch vits --offline -o OUT", 5, "E500", "--offline|--teacher|demo"),
    F("pretrain pairs --device cuda -o OUT", 5, "E500", "no CUDA device|--device cpu"),
    F(f"pretrain pairs {SHORT} -o OUT", 5, "E500", "RANK|--gpus", half_torchrun),
    F(f"pretrain pairs {SHORT} -o OUT", 6, "E600", "step|--lr", diverging),
    F(f"pretrain pairs {SHORT} --workers 2 -o OUT", 5, "E500", "a stalled disk", stalled),
    F(
        f"pretrain pairs {SHORT.replace('1', '3', 1)} --log-every 1 -o OUT", 75, "E750",
        "state saved|--resume goes on", stopped_at_once,
    ),
    F(
        f"pretrain pairs {SHORT} --tensorboard -o OUT", 4, "E400", '"scaleevent[tensorboard]"',
        missing("tensorboardX"),
    ),
    F("pretrain s3://bucket/pairs -o OUT", 4, "E400", "s3fs|pip install", missing("s3fs")),
    F(f"pretrain pairs --lr 0.1 {SHORT} -o run --resume", 2, "E200", "lr|run"),
    F("probe street-dept run -o OUT", 2, "E200", "one of dsec-semantic|not 'street-dept'"),
    F("probe dsec-semantic run -o OUT", 2, "E200", "$SCALEEVENT_DATA|prepare dsec-semantic"),
    F("probe street-depth run --data rig -o OUT", 3, "E300", "where: rig|manifest.json"),
    F("probe street-depth run --data ownpairs -o OUT", 3, "E300", "found: custom|prepare street"),
    F("probe street-depth killed --data labelled -o OUT", 3, "E310", "not finished|--resume"),
    F("probe street-depth flipped.safetensors --data labelled -o OUT", 3, "E310", "damaged"),
    F(f"probe street-depth run {TASK} -o OUT", 5, "E500", "no room|--no-cache", full_disk),
    F("finetune street-depth run --decoder dtp --data labelled -o OUT", 2, "E200", "eomt"),
    F("finetune street-depth run --decoder eomt --data labelled -o OUT", 2, "E200", "depth"),
    F("finetune street-depth run --fraction 2 --data labelled -o OUT", 2, "E200", "fraction"),
    F("finetune street-depth run --data labelled -o pairs", 5, "E500", "not empty|where: pairs"),
    F("finetune street-depth cut.safetensors --data labelled -o OUT", 3, "E310", "not a whole"),
    F(
        f"finetune street-depth run --decoder dpt --decoder-weights encoder.pth {TASK} -o OUT", 3,
        "E310", "no depth head|encoder.pth|expected: depth_head",
    ),
    F(
        f"finetune street-depth run --decoder linear {TASK} -o OUT", 6, "E600", "step|--lr",
        diverging,
    ),
]  # fmt: skip
SCORING = [
    F("eval depth street-depth", 2, "E200", "changed places|`scaleevent eval street-depth depth`"),
    F("eval street-depth depth labelled", 2, "E200", "more arguments|found: labelled|[checkpoint]"),
    F("eval street-depth depth --dta labelled", 2, "E200", "found: --dta|did you mean --data?"),
    F("eval", 2, "E200", "scaleevent eval|checkpoint is not given|checkpoint: task checkpoint"),
    F("eval street-depth depth --data labelled --pictures 1", 2, "E200", "add --out FOLDER"),
    F("eval street-semantic depth --data labelled", 2, "E200", "found: depth|segmentation"),
    F("eval street-depth run --data labelled", 3, "E310", "found: encoder|`scaleevent probe"),
    F("eval street-depth encoder.pth --data labelled", 3, "E310", "neither a task model|EoMT"),
    F("eval street-depth nowhere --data labelled", 3, "E310", "file not found|nowhere"),
    F(
        "eval street-depth depth --data labelled -o OUT", 5, "E500", "No space|free some space",
        failing("os.replace", OSError(28, "No space left")),
    ),
    F("predict embedded -o OUT", 2, "E200", "no recording is named|predict CHECKPOINT RECORDING"),
    F("predict nowhere plain.npz -o OUT", 2, "E200", "neither a file|nowhere|hf-hub:ORG/NAME"),
    F("predict embedded plain.npz --rate 0 -o OUT", 2, "E200", "rate|greater than 0"),
    F("predict embedded plain.npz --write gif -o OUT", 2, "E200", "png, npy, hdf5, video|gif"),
    F("predict embedded plain.npz --start 7 -o OUT", 2, "E200", "no window|an earlier --start"),
    F("predict embedded plain.npz --patch 900,900 -o OUT", 2, "E200", "--patch|column 0 to 63"),
    F("predict embedded udp://nonsense -o OUT", 2, "E200", "udp://HOST:PORT|udp://0.0.0.0:7777"),
    F("predict embedded plain.npz --at times.txt -o OUT", 3, "E300", "times.txt|soon"),
    F("predict embedded filmed -o OUT", 3, "E300", "a folder|filmed|name one of its files"),
    F("predict embedded empty.raw --follow --idle 1 -o OUT", 5, "E500", "nothing came|--idle"),
    F(
        "predict embedded plain.npz --write video -o OUT", 4, "E400", '"scaleevent[video]"',
        missing("av"),
    ),
    F("export", 2, "E200", "checkpoint is not given"),
    F("export run --format tflite -o OUT", 2, "E200", "safetensors, meta|not 'tflite'"),
    F("export rig -o OUT", 3, "E310", "a folder, not a file|rig"),
    F("export flipped.safetensors -o OUT", 3, "E310", "flipped.safetensors|damaged"),
    F("export run --format onnx -o OUT", 3, "E310", "ONNX|--format", onnx_refuses),
    F("export run --format hub -o pairs", 5, "E500", "not empty|choose another --out"),
    F(
        "export run --format onnx -o OUT", 4, "E400", 'onnx|"scaleevent[export]"',
        missing("onnx", "onnxscript", "onnxruntime"),
    ),
    F("report", 2, "E200", "runs is not given"),
    F("report nowhere -o OUT.html", 3, "E300", "no such run|nowhere"),
    F("report rig -o OUT.html", 3, "E300", "nothing of scaleevent|config.yaml"),
    F("report run -o alone", 5, "E500", "a folder|such as report.html"),
    F("report run -o notes.txt", 5, "E500", "is no report|--overwrite"),
    F("doctor --set ouut=x", 2, "E200", "unknown setting|ouut|did you mean out?"),
    F(
        "report run -o OUT.html --curves OUT", 4, "E400", '"scaleevent[viz]"',
        missing("matplotlib"),
    ),
]  # fmt: skip
FAILURES = [*READING, *PREPARING, *TRAINING, *SCORING]
QUICK = [one for one in FAILURES if one.fault is None and one.exit_code in (2, 3)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where all of it happens."""
    return tmp_path_factory.mktemp("failures")


@pytest.fixture
def inputs(place, capfd, monkeypatch):
    """Make what a command line names."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)
    monkeypatch.setenv("SCALEEVENT_CACHE", str(place / "cache"))

    def make(line):
        words = re.split(r"[\s/=]+", line)
        given_inputs(" ".join([line, *(NEEDS[word] for word in words if word in NEEDS)]),
                     place, capfd)  # fmt: skip
        for word in words:
            if word in OWN and not (place / word).exists():
                OWN[word](place / word)

    return make


def contents(folder):
    """Path: hash of every file below a folder, None for folders."""
    return {
        path.relative_to(folder): path.is_file() and hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
    }


def message(told):
    """The one error that stderr ends with, by part; and its code."""
    first, *rest = told[told.index("error[") :].splitlines()
    code, what = re.fullmatch(r"error\[(E\d{3})\]: (.+)", first).groups()
    parts = [line.strip().partition(":")[0] for line in rest if re.match(r"  \w+: ", line)]
    assert parts == [part for part in PARTS if part in parts], told
    return code, what


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: f"{f.line.split()[0]}-{f.words[:40]}")
def test_a_failure_is_told_and_leaves_nothing_that_looks_whole(
    place, inputs, capfd, monkeypatch, failure
):
    name = f"out{FAILURES.index(failure)}"
    line = failure.line.replace("OUT", name)
    inputs(line)
    before = contents(place)
    with monkeypatch.context() as during:
        if failure.fault:
            failure.fault(during)
        exit_code, out, told = typed(line, capfd)
    assert exit_code == failure.exit_code, told
    assert out == "" and "Traceback" not in told
    assert [
        word for word in failure.words.replace("OUT", name).split("|") if word not in told
    ] == []
    assert told.count("error[") == 1 and "Usage:" not in told
    assert message(told)[0] == failure.code
    after = contents(place)
    assert {path: after.get(path) for path in before} == before
    new = {path for path in after.keys() - before.keys() if path.parts[0] != "cache"}
    assert {path.parts[0] for path in new} <= {name}
    assert not [path for path in new if path.name in FINISHED or path.suffix == ".tmp"
                or path.name.startswith(".owner")]  # fmt: skip
    if failure.exit_code == 2:
        assert new == set()


@pytest.mark.parametrize("failure", QUICK, ids=lambda f: f"{f.line.split()[0]}-{f.words[:40]}")
def test_where_json_is_asked_for_stdout_stays_empty_too(place, inputs, capfd, failure):
    command, _, rest = failure.line.replace("OUT", "jsonout").partition(" ")
    line = f"{command} --json {rest}"
    inputs(line)
    exit_code, out, told = typed(line, capfd)
    assert (exit_code, out) == (failure.exit_code, "")
    assert message(told)[0] == failure.code


def test_the_table_covers_every_command_and_every_code():
    assert len(FAILURES) >= 60 and len({(f.line, f.fault) for f in FAILURES}) == len(FAILURES)
    assert {f.line.split()[0] for f in FAILURES} == {*cli.COMMANDS, "inof", "--json"}
    kinds = {kind for kind in vars(errors).values()
             if isinstance(kind, type) and issubclass(kind, errors.ScaleEventError)}  # fmt: skip
    exits = {(kind.code, kind.exit_code) for kind in kinds if kind is not errors.ScaleEventError}
    assert exits <= {(f.code, f.exit_code) for f in FAILURES}
    # each has wrong words, wrong data, and a system that refuses, which is what doctor reports
    for command in cli.COMMANDS.keys() - {"doctor"}:
        found = {f.exit_code for f in FAILURES if f.line.split()[0] == command}
        assert {2, 3} <= found and found & {4, 5}, command


def test_without_a_word_the_help_is_shown(capfd):
    exit_code, out, told = typed("", capfd)
    assert (exit_code, out) == (2, "") and "error[" not in told
    assert told.startswith("Usage: scaleevent [OPTIONS] COMMAND") and "pretrain" in told


def test_what_we_did_wrong_ourselves_is_told_as_that(inputs, capfd, monkeypatch):
    inputs("info plain.npz")
    failing("scaleevent.commands.info.run", KeyError("no such key"))(monkeypatch)
    exit_code, out, told = typed("info plain.npz", capfd)
    assert (exit_code, out) == (1, "") and told.startswith("Traceback")
    assert "error[E100]: this is a bug in scaleevent" in told and "no such key" in told


@pytest.mark.parametrize(("line", "exit_code"), [
    ("info nowhere.raw --json", 3), ("pretrain nowhere", 2), ("eval street-depth nowhere", 3)
])  # fmt: skip
def test_a_program_of_its_own_ends_the_same(tmp_path, line, exit_code):
    ended = subprocess.run([sys.executable, "-m", "scaleevent", *line.split()], cwd=tmp_path,
                           capture_output=True, text=True)  # fmt: skip
    assert ended.returncode == exit_code and ended.stdout == ""
    assert ended.stderr.startswith("error[E") and not list(tmp_path.iterdir())


def test_a_working_folder_that_is_gone_is_told(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f'cd "{gone}" && rmdir "{gone}" && "{sys.executable}" -m scaleevent info x.raw'
    ended = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert ended.returncode == 5 and "Traceback" not in ended.stderr
    assert "error[E500]: the working folder is not there any more" in ended.stderr


def test_a_store_that_is_not_there_is_told_with_the_nearest(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "manifest.json").write_text("{}")
    exit_code, _, told = typed("eval street-semantic embedded-event --data labeled", capfd)
    assert exit_code == 3 and "no such pair store" in told and "did you mean labelled?" in told
