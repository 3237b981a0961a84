"""Settings on the command line: --set, --print-config, and where each setting comes from."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaleevent import cli
from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig, VoxelizeConfig
from scaleevent.config.pretrain import PretrainConfig, pretrain_config
from scaleevent.config.report import ReportConfig
from scaleevent.config.settings import assignments, explained_yaml, load_config
from scaleevent.errors import ConfigError

# a line of every command, and of every kind of value
LINES = [
    "info file.raw --set size=480x640 --time-unit us",
    "prepare custom here --set window=count --set window_events=0.5 -o 'a: b # c'",
    'prepare custom clips --set tag=\'["real", "outdoor"]\' --on-error skip --max-bad 1%',
    *(f"prepare {name} --jobs 3" for name in DATASETS),
    "voxelize 'a, b' --bins 5 --set representation=count --shard 3/8",
    "pretrain --set lr=1e-5 --preset demo --seed 4",
    "pretrain --videos . --film sensor=davis346 --set film.noise=0.5 --set size=96x128",
    "pretrain --preset released-vitb --teacher-mean 0.5,0.5,0.5 --set teacher_std=0.2,0.2,0.2",
    "probe street-depth random --set steps=subset --fraction 0.1",
    "finetune street-semantic embedded --decoder-option mode=upstream --set cache=false",
    "finetune street-flow embedded --set decoder_options.iters=3 --set lr=1e-3",
    "eval street-depth task.safetensors --alignment median --set batch=2",
    "predict embedded a.raw b.raw --write npy,png --every-events 500 --set patch=12,8",
    "predict embedded - --format EVT3 --set idle=5",
    "export run --format onnx --set batch=2",
    "doctor --out elsewhere",
    'report a b --set curves=\'"null"\' --out "line\\nbreak"',
]


def run(line, capsys, monkeypatch, code=0):
    """What a command line prints on stdout, or of an error on stderr."""
    monkeypatch.setattr(sys, "argv", ["scaleevent", *shlex.split(line)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    told = capsys.readouterr()
    assert (left.value.code or 0) == code, told.err
    return told.err if code else told.out


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)


def test_there_is_a_line_of_every_command():
    assert {line.split()[0] for line in LINES} >= cli.COMMANDS.keys()


@pytest.mark.parametrize("line", LINES)
def test_what_is_printed_is_read_back(line, capsys, monkeypatch):
    """And what was not given is not given then either: some settings mean more once they are."""
    before = json.loads(run(f"{line} --print-config --json", capsys, monkeypatch))
    command = line.split()[0]
    text = run(f"{line} --print-config", capsys, monkeypatch)
    Path("printed.yaml").write_text(text)
    after = json.loads(run(f"{command} -c printed.yaml --print-config --json", capsys, monkeypatch))
    assert after["settings"] == before["settings"]
    assert before["schema"] == "scaleevent.config/1" and before["command"] == command

    def given_keys(told):
        return {key for key, origin in told["origins"].items() if origin != "default"}

    assert given_keys(after) == given_keys(before) == yaml.safe_load(text).keys()
    lines = text.splitlines()[1:]
    assert len(lines) == len(before["settings"])
    for one, (key, origin) in zip(lines, before["origins"].items(), strict=True):
        assert one.removeprefix("# ").startswith(f"{key}: ")
        assert one.endswith(f"  # {origin}") and one.startswith("# ") == (origin == "default")
    assert not [path for path in Path().iterdir() if path.name != "printed.yaml"]


@given(st.text(min_size=1), st.lists(st.text()))
@example("\x85\U0001f600", ["\u2028", "\n...\n", "5", "a: b # c"])
@settings(deadline=None, max_examples=400)
def test_any_text_is_read_back(path, more):
    report = ReportConfig(out=path.replace("\0", "_"), runs=[one.replace("\0", "_") for one in more]
                          or ["x"])  # fmt: skip
    vars(report)["origins"] = dict.fromkeys(ReportConfig.model_fields, "flag")
    text = explained_yaml(report)
    assert len(text.splitlines()) == len(ReportConfig.model_fields)
    assert ReportConfig(**yaml.safe_load(text)) == report


def test_the_order_of_all_sources(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("lr: 2e-6\nepochs: 3\nclip: 0.5\n")
    preset = {"preset": "demo", "lr": 1.0, "epochs": 9, "clip": 5.0, "decay": 0.5}
    cfg = load_config(PretrainConfig, {"lr": 1e-3}, file, preset, ["lr=0.5", "epochs=4"])
    assert (cfg.lr, cfg.epochs, cfg.clip, cfg.decay, cfg.seed) == (1e-3, 4, 0.5, 0.5, 0)
    origins = [cfg.origins[key] for key in ("lr", "epochs", "clip", "decay", "seed")]
    assert origins == ["flag", "--set", f"file {file}", "preset demo", "default"]
    named = pretrain_config({"data": [tmp_path]}, None, ["preset=paper-vitb"])
    assert named.arch == "vitb" and named.origins["preset"] == "--set"


def test_a_file_of_another_preset_is_told(tmp_path, capsys, monkeypatch):
    """Its settings are stronger than the preset that a flag names, so the name says too much."""
    text = run("finetune street-depth random --preset demo --print-config", capsys, monkeypatch)
    file = tmp_path / "run.yaml"
    file.write_text(text)
    for preset, said in (("demo", ""), ("origin", f"{file} is of preset demo")):
        cfg = ["scaleevent", "finetune", "-c", str(file), "--preset", preset, "--print-config"]
        monkeypatch.setattr(sys, "argv", cfg)
        with pytest.raises(SystemExit):
            cli.main()
        told = capsys.readouterr()
        assert told.err.startswith(said) and bool(told.err) == bool(said)
        expected = yaml.safe_load(text) | {"preset": preset}
        assert yaml.safe_load(told.out).items() >= expected.items()


def test_one_process_of_a_launcher_prints(capsys, monkeypatch):
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "LOCAL_RANK": "0"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    printed = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        printed.append(run("pretrain --preset demo --print-config", capsys, monkeypatch))
    assert yaml.safe_load(printed[0])["preset"] == "demo" and printed[1] == ""


def test_values_are_text_as_of_flags_or_json():
    texts = ["a=1", "b=[1, 2]", 'c="7"', "d=null", "e=x=y", "f=", "a=2", "g.h=3", 'g.i={"j": 1}']
    assert assignments(texts) == {
        "a": "2", "b": [1, 2], "c": "7", "d": None, "e": "x=y", "f": "",
        "g": {"h": "3", "i": {"j": 1}},
    }  # fmt: skip
    cfg = load_config(VoxelizeConfig, {"root": "."}, assigned=["resume=true", "camera=12"])
    assert cfg.resume is True and cfg.camera == "12"


def test_a_part_of_a_mapping_leaves_the_others(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("videos: [.]\nfilm: {sensor: davis346, noise: '1'}\n")
    cfg = load_config(PretrainConfig, {}, file, None, ["film.noise=2"])
    assert cfg.film == {"sensor": "davis346", "noise": "2"}
    assert cfg.origins["film"] == f"file {file}, --set"
    cfg = load_config(PretrainConfig, {}, file, None, ['film={"noise": 2}'])
    assert cfg.film == {"noise": "2"} and cfg.origins["film"] == "--set"


def test_a_setting_that_nobody_has_names_the_nearest(capsys, monkeypatch):
    for line in ("pretrain --set weight_deacy=1", "pretrain --set weight-decay=1"):
        told = run(line, capsys, monkeypatch, 2)
        assert "did you mean weight_decay?" in told and "--set weight" in told
    assert "only for street" in run("prepare video . --set scenes=3", capsys, monkeypatch, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lr", "NAME=VALUE"),
        ("=1", "NAME=VALUE"),
        ("film.=1", "NAME=VALUE"),
        ("data=[", "JSON"),
        ("data=[1}", "JSON"),
        ('arch="', "JSON"),
        ("lr=fast", "valid number"),
        ("lr.peak=1", "no mapping"),
        ("epochs.first=1", "valid integer"),
        ("data=pairs", r'valid list, such as \["pairs"\], not'),
        ("arch=\udc80[", "one of"),
        ('arch="\udc80"', "JSON"),
    ],
)
def test_what_cannot_be_set(text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(PretrainConfig, {}, None, {"lr": 1.0}, [text])
    assert caught.value.exit_code == 2


def test_a_part_is_chosen_by_set_too(capsys, monkeypatch):
    told = run("prepare --set name=street --scenes 9 --print-config", capsys, monkeypatch)
    assert yaml.safe_load(told) == {"name": "street", "scenes": 9}
    assert "did you mean street" in run("prepare --set name=stret", capsys, monkeypatch, 2)
    Path("own.yaml").write_text("name: street\n")
    for named in ("-c own.yaml", "-cown.yaml", "--config own.yaml", "--config=own.yaml"):
        told = run(f"prepare {named} --scenes 9 --print-config", capsys, monkeypatch)
        assert yaml.safe_load(told) == {"name": "street", "scenes": 9}
    told = run("prepare --set name=street custom . --print-config", capsys, monkeypatch)
    assert yaml.safe_load(told)["name"] == "custom"  # what is explicit is stronger
    assert PrepareConfig(name="street").origins["name"] == "given"
