"""The README tells the truth about commands and files."""

import glob
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import fakes
import pytest
import torch
import yaml
from event_files import evt3_words, some_events, write_aedat4, write_raw
from hint_files import SHORT, STORE, TASK
from hint_situations import array_with_gaps
from PIL import Image
from test_end_to_end import call
from test_failures import typed
from test_hints import QUICKSTART, parse
from test_own_labels import write_labelled

from scaleevent import cli, errors
from scaleevent.checkpoint import load_encoder, save_encoder
from scaleevent.config.settings import PartSettings, load_config
from scaleevent.encoders.encoder import ARCHS, Encoder

ROOT = Path(__file__).parent.parent
FREE = ("json", "config", "list", "set", "print_config")  # options of the command line alone
README = (ROOT / "README.md").read_text()

DOWNLOAD = "needs a data set that must be downloaded"
MINUTES = "takes minutes: the same with less data in test_end_to_end.py and test_own_labels.py"
STREAM = "waits for a camera: tests/test_live_predict.py sends events"
ONLY_PARSED = {  # how a command line of the README begins: why it is not run
    "pip install": "made by .ci/run, in a fresh environment",
    "scaleevent prepare dsec": DOWNLOAD,
    "scaleevent probe dsec-semantic": DOWNLOAD,
    "scaleevent finetune dsec-": DOWNLOAD,
    "scaleevent eval dsec-semantic": DOWNLOAD,
    "sbatch": "needs SLURM",
    "scaleevent pretrain": MINUTES,
    "scaleevent probe street-depth": MINUTES,
    "scaleevent finetune": MINUTES,
    "scaleevent eval street-depth": MINUTES,
    "scaleevent probe custom": MINUTES,
    "scaleevent export task.safetensors --format onnx,": "compiles for minutes: test_reduced.py",
    "CAMERA_PROGRAM": STREAM,
    "scaleevent predict run recording.raw --follow": STREAM,
    "scaleevent predict run udp:": STREAM,
}


def test_every_module_is_in_the_file_tree():
    tree = README.split("## Files")[1]
    for path in (ROOT / "scaleevent").rglob("*.py"):
        name = path.stem
        if name not in ("__init__",) and path.parent.name != "commands":
            assert name in tree, path
    for path in (ROOT / "scaleevent/commands").glob("[a-z]*.py"):
        assert path.stem in tree, path


def test_commands_and_flags_exist():
    assert len(re.findall(r"^pip install ", README, re.M)) == 2
    for command, rest in re.findall(r"`?scaleevent (\w+)([^`\n|]*)", README.replace("\\", "")):
        if command not in cli.COMMANDS:
            continue
        model = cli.COMMANDS[command][0]
        models = [model, *model.every_part()] if issubclass(model, PartSettings) else [model]
        fields = {key for one in models for key in one.model_fields}
        for flag in re.findall(r"--([a-z-]+)", rest):
            assert flag.replace("-", "_") in {*fields, *FREE}, (command, flag)
    assert set(re.findall(r"`scaleevent (\w+) ", README)) <= set(cli.COMMANDS)


@pytest.mark.parametrize("arch", ["tiny", "vits"])  # the first command's, and a published size
def test_the_lines_that_load_an_encoder_without_us_work_as_printed(tmp_path, arch):
    (lines,) = re.findall(r"```python\n(import json, safetensors, timm\n.*?)```", README, re.S)
    path = tmp_path / "runs/pretrain/encoder.safetensors"
    assert f'"{path.relative_to(tmp_path)}"' in lines and "scaleevent." not in lines
    encoder = Encoder(ARCHS[arch])
    save_encoder(path, encoder, {})
    code = lines + "import sys, torch; torch.save(vit.state_dict(), 'state.pt')\n"
    code += "assert not any(name.startswith('scaleevent') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    own = load_encoder(path).vit.state_dict()
    assert state.keys() == own.keys() and all(torch.equal(state[n], own[n]) for n in own)


# Command lines: each is run, or parsed where it stands on the list with its reason


class Line(NamedTuple):
    """A line of a block of code, without its comment."""

    text: str

    @property
    def reason(self) -> str | None:
        """Why it is only parsed; None where it is run."""
        fitting = [start for start in ONLY_PARSED if self.text.startswith(start)]
        return ONLY_PARSED[max(fitting, key=len)] if fitting else None

    @property
    def commands(self) -> list[str]:
        """The commands of scaleevent in it."""
        if wrapped := re.search(r'--wrap "scaleevent ([^"]+)"', self.text):
            return [wrapped[1]]
        return re.findall(r"(?:^|[|&] )scaleevent ([^|&]+)", self.text)


def lines_of(text):
    """The command lines of a text of shell; settings of variables are none."""
    joined = re.sub(r"\\\n\s*", " ", text)
    stripped = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [Line(line) for line in stripped if line and not re.match(r"export \w+=", line)]


def blocks(text):
    """The command lines in fenced blocks of Markdown: of shell, or of no named language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)
    lines = [line for kind, block in found if kind in ("", "sh") for line in lines_of(block)]
    return [line for line in lines if line.text.startswith(("pip ", "sh ", "python ", "sbatch "))
            or re.search(r"(^|\W)scaleevent [a-z]", line.text)]  # fmt: skip


LINES = blocks(README)
RUN = [line for line in LINES if line.reason is None]
PARSED = [command for line in LINES for command in line.commands]
PARSED += [command for line in lines_of(QUICKSTART) for command in line.commands]
PARSED += [c for line in blocks((ROOT / "CHANGELOG.md").read_text()) for c in line.commands]


def test_command_lines_are_found_and_reasons_used():
    text = "```sh\nscaleevent info a  # why\n```\n```\nX | scaleevent predict b -\n```\n"
    text += '```sh\nexport A=b\nsbatch --wrap "scaleevent prepare c"\n'
    text += "pip install x && scaleevent pretrain\n```\n"
    commands = [command for line in blocks(text) for command in line.commands]
    assert commands == ["info a", "predict b -", "prepare c", "pretrain"]
    assert len(RUN) > 20 and {line.split()[0] for line in PARSED} == set(cli.COMMANDS)
    unused = [
        start for start in ONLY_PARSED if not any(line.text.startswith(start) for line in LINES)
    ]
    assert unused == []


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A folder with what settings ask for before anything is read: that stores are there."""
    folder = tmp_path_factory.mktemp("stores")
    shutil.copytree(ROOT / "examples", folder / "examples")
    mix = yaml.safe_load((ROOT / "examples/paper_mix.yaml").read_text())["data"]
    for name in (*mix, "pairs", "$out/pairs"):
        (folder / name).mkdir(parents=True)
    write_labelled(folder / "labelled")
    call(f"prepare custom {folder / 'labelled'} --labels labels -o {folder / 'mine'}")
    return folder


@pytest.mark.parametrize("line", sorted(set(PARSED)))
def test_a_command_line_parses_and_its_settings_fit(stores, monkeypatch, line):
    monkeypatch.chdir(stores)
    monkeypatch.setenv("SCALEEVENT_DATA", str(stores))
    array_with_gaps(monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "7")
    name, given = line.split()[0], parse(line)
    file, assigned = given.pop("config"), given.pop("set") or []
    assert not given.pop("json") and not given.pop("print_config")
    if given.pop("list", False):
        return
    flags = {key: value for key, value in given.items() if value not in (None, [], ())}
    load = cli.LOADERS.get(name) or partial(load_config, cli.COMMANDS[name][0])
    assert load(flags, file, assigned=assigned)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which what the README names is there, small."""
    folder = tmp_path_factory.mktemp("readme")
    events = some_events(240_000, 480, 640, span_us=150_000)
    for name in ("my_recording.raw", "a.raw", "b.raw", "recording.raw"):
        write_raw(folder / name, evt3_words(events), "evt 3.0", "geometry 640x480", "end")
    write_aedat4(folder / "b.aedat4", [some_events(20_000, span_us=150_000)])
    fakes.write_custom(folder / "my_recording")
    fakes.write_custom(folder / "raw")
    write_labelled(folder / "my_data")
    call(f"{STORE} --after --seed 7 -o {folder / 'labelled'}")
    call(f"{STORE} -o {folder / 'street'}")
    call(f"pretrain {folder / 'street'} {SHORT} -o {folder / 'runs/mine'}")
    call(f"prepare custom {folder / 'my_data'} --labels labels -o {folder / 'labels'}")
    for benchmark, data, out in (
        ("street-depth", "labelled", "depth"),
        ("custom", "labels", "own"),
    ):
        small = TASK.replace("labelled", str(folder / data))
        call(f"probe {benchmark} {folder / 'runs/mine'} {small} -o {folder / 'runs' / out}")
    shutil.move(folder / "runs/own", folder / "run")
    shutil.copytree(folder / "runs/mine", folder / "runs/pretrain")
    shutil.copytree(folder / "runs/depth", folder / "runs/finetune")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder, set()


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN, ids=lambda line: line.text[:60])
def test_a_command_line_runs_as_printed(prepared, capfd, monkeypatch, line):
    folder, written = prepared
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)
    monkeypatch.setenv("SCALEEVENT_CACHE", str(folder / "cache"))
    assert line.commands and line.text.startswith("scaleevent "), "run it, or list it with a reason"
    (command,) = line.commands
    words = [one for word in shlex.split(command) for one in sorted(glob.glob(word)) or [word]]
    outs = [words[k + 1] for k, word in enumerate(words) if word in ("-o", "--curves", "--picture")]
    for out in outs:  # of an earlier line
        path = folder / out
        if out in written:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    exit_code, _, told = typed(shlex.join(words), capfd)
    assert exit_code == 0, told
    assert all((folder / out).exists() for out in outs)
    written |= {*outs}


# Sections that must be whole


def section(title):
    """The text below a heading, to the next one of its level or above."""
    level = len(title) - len(title.lstrip("#"))
    return re.split(rf"^#{{1,{level}}} ", README.split(f"\n{title}", 1)[1], flags=re.M)[0]


def test_every_error_code_is_in_troubleshooting():
    rows = re.findall(r"^\| `(E\d+)` \| (\d+) \|(.*)\|$", section("### Troubleshooting"), re.M)
    kinds = [kind for kind in vars(errors).values()
             if isinstance(kind, type) and issubclass(kind, errors.ScaleEventError)]  # fmt: skip
    assert [(code, int(exit_code)) for code, exit_code, _ in rows] == sorted(
        {(kind.code, kind.exit_code) for kind in kinds}
    )
    assert all(cell.strip() for _, _, rest in rows for cell in rest.split("|"))
    named = {flag for _, _, rest in rows for flag in re.findall(r"--[a-z-]+", rest)}
    models = [model for model, _, _ in cli.COMMANDS.values()]
    models += [part for m in models if issubclass(m, PartSettings) for part in m.every_part()]
    known = {f"--{key.replace('_', '-')}" for model in models for key in model.model_fields}
    assert named - known <= {"--help"}


def test_every_command_has_its_section():
    commands = section("### The commands")
    assert re.findall(r"^#### `(\w+)`: ", commands, re.M) == list(cli.COMMANDS)
    for name in cli.COMMANDS:
        text = section(f"#### `{name}`: ")
        assert re.search(rf"^scaleevent {name}( |$)", text, re.M)
        assert re.search(r"^Writes ", text, re.M)


def test_every_table_of_the_paper_is_accounted_for():
    rows = re.findall(r"^\| ([\d, ]+)[:|]", section("### Reproduce the paper"), re.M)
    tables = {int(number) for row in rows for number in row.split(",")}
    assert tables == set(range(1, 20))


def test_pictures_are_there_small_and_readable():
    pictures = re.findall(r"!\[[^]]{20,}\]\(([^)]+)\)", README)
    assert len(pictures) >= 2 and README.count("![") == len(pictures)
    for name in pictures:
        assert (ROOT / name).stat().st_size < 150_000
        with Image.open(ROOT / name) as picture:
            assert 800 <= picture.width <= 1400


def test_tables_are_tables():
    """Markdown shows rows as a table only below a head and a line of dashes, all of one width."""
    tables = re.findall(r"(?:^\|.*\|\n)+", README, re.M)
    assert len(tables) == len(re.findall(r"^\|---", README, re.M)) > 15
    for table in tables:
        head, dashes, *rows = table.splitlines()
        assert re.fullmatch(r"\|(---\|)+", dashes), head
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {dashes.count("|")}, head


def test_no_line_of_text_is_too_long():
    for name in ("README.md", "CHANGELOG.md"):
        for line in (ROOT / name).read_text().splitlines():
            assert len(line) <= 125 or line.startswith("|"), line


def test_no_line_of_text_is_longer_than_the_others():
    for name in ("README.md", "CHANGELOG.md"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line[:1] != "|"]
        assert max(lines, key=len)[125:] == "", name


def test_links_within_the_page_have_their_heading():
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(
            r"^#+ (.+)$", re.sub(r"^```.*?^```", "", README, flags=re.S | re.M), re.M
        )
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings
