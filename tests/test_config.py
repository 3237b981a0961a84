"""Settings: order of sources, unknown keys, YAML traps, data resolution, presets."""

import re
import sys
from pathlib import Path

import pytest

from scaleevent import cli
from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.config.downstream import EvalConfig, FinetuneConfig, ProbeConfig
from scaleevent.config.export import ExportConfig
from scaleevent.config.pretrain import PRESETS, PretrainConfig, pretrain_config
from scaleevent.config.settings import dump_yaml, load_config, unknown_setting
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.system.locations import data_source


def yaml_file(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_order_of_sources(tmp_path):
    file = yaml_file(tmp_path, "lr: 2e-6\nepochs: 3\n")
    preset = {"lr": 1.0, "epochs": 9, "clip": 5.0}
    cfg = load_config(PretrainConfig, {"epochs": 4, "seed": None}, file, preset)
    assert (cfg.lr, cfg.epochs, cfg.clip, cfg.seed) == (2e-6, 4, 5.0, 0)


def test_an_unknown_key_names_the_nearest(tmp_path):
    file = yaml_file(tmp_path, "learning_rate: 1\nweight_deacy: 0.1\n")
    with pytest.raises(ConfigError) as error:
        load_config(PretrainConfig, {}, file)
    assert error.value.exit_code == 2 and "learning_rate" in str(error.value)
    file = yaml_file(tmp_path, "weight_deacy: 0.1\n")
    with pytest.raises(ConfigError, match="did you mean weight_decay"):
        load_config(PretrainConfig, {}, file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nlr: 2\n", "given twice"),
        ("lr: &a 1\nclip: *a\n", "aliases"),
        ("- 1\n", "key: value"),
        ("lr: [\n", "YAML"),
        ("seed: !!python/object/apply:os.getcwd []\n", "YAML"),
        ("lr: .nan\n", "cannot be used"),
        ("lr: -1\n", "cannot be used"),
        ("lr: .inf\n", "cannot be used"),
        ("mask: medium\n", "cannot be used"),
        ("size: 480\n", "cannot be used"),
    ],
)
def test_bad_yaml(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(PretrainConfig, {}, yaml_file(tmp_path, text))


def test_sizes_are_rows_by_columns():
    assert load_config(PretrainConfig, {"size": "96x128"}).size == (96, 128)
    with pytest.raises(ConfigError, match="rows x columns"):
        load_config(PretrainConfig, {"size": "96*128"})


def test_settings_survive_yaml(tmp_path):
    cfg = pretrain_config({"preset": "released-vitl", "out": "here", "data": [str(tmp_path)]})
    file = yaml_file(tmp_path, dump_yaml(cfg))
    assert pretrain_config({}, file) == cfg
    prepare = PrepareConfig(name="custom", roots=[Path("a b")], size=(260, 346))
    assert load_config(PrepareConfig, {}, yaml_file(tmp_path, dump_yaml(prepare))) == prepare


def test_paper_defaults():
    cfg = PretrainConfig()
    assert (cfg.lr, cfg.weight_decay, cfg.epochs, cfg.draws) == (5e-6, 1e-4, 10, 100_000)
    assert cfg.lambdas == {"l1": 1.0, "intra": 10.0, "cross": 4.0}
    assert (cfg.size, cfg.tau, cfg.freeze, cfg.mask) == ((480, 640), 64.0, "none", "hard")
    assert (cfg.schedule, cfg.decay, cfg.clip) == ("exponential", 0.9, 0.1)
    assert cfg.structure == "released" and cfg.normaliser == "contrast"  # ours: CHANGELOG.md


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name, tmp_path):
    assert pretrain_config({"preset": name, "data": [str(tmp_path)]}).preset == name


def test_data_resolution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)
    assert data_source([]) == ([], "street")
    assert pretrain_config({}).preset == "demo"
    assert pretrain_config({"arch": "vitb"}).arch == "vitb"  # a flag is stronger than demo
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/manifest.json").write_text("{}")
    assert data_source([]) == ([Path("pairs")], "./pairs")
    assert pretrain_config({"device": "cpu"}).preset == "cpu"
    shelf = tmp_path / "shelf"
    for name in ("dsec", "mine"):
        (shelf / name).mkdir(parents=True)
        (shelf / name / "manifest.json").write_text("{}")
    monkeypatch.setenv("SCALEEVENT_DATA", str(shelf))
    assert data_source([]) == ([shelf / "dsec", shelf / "mine"], "$SCALEEVENT_DATA")
    assert data_source([Path("mine")]) == ([shelf / "mine"], "argument")
    assert data_source([Path("pairs")]) == ([Path("pairs")], "argument")
    with pytest.raises(ConfigError, match="no such pair store"):
        data_source([Path("absent")])


def test_on_a_cpu_without_a_preset_size_and_length_are_the_demos(tmp_path, monkeypatch):
    data = {"data": [tmp_path], "device": "cpu"}

    def lasts(cfg):
        return cfg.size, cfg.epochs, cfg.draws

    demo, paper = pretrain_config(data | {"preset": "demo"}), PretrainConfig()
    small = pretrain_config(data)
    assert small == demo.model_copy(update={"preset": "cpu", "mask": "hard"})
    large = pretrain_config(data | {"arch": "vitb"})
    assert large.arch == "vitb" and large.lr == paper.lr and large.schedule == paper.schedule
    teacher = pretrain_config(data | {"teacher": "weights.pth"})
    assert teacher.arch is None and teacher.lr == paper.lr
    assert lasts(small) == lasts(large) == lasts(teacher) == lasts(demo) != lasts(paper)
    asked = pretrain_config(data | {"epochs": 99, "size": "480x640", "draws": 5000})
    assert lasts(asked) == ((480, 640), 99, 5000)
    assert lasts(pretrain_config(data | {"preset": "paper-vits"})) == lasts(paper)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    on_gpus = pretrain_config({"data": [tmp_path], "arch": "vitb", "gpus": 4})
    assert on_gpus == PretrainConfig(data=[tmp_path], arch="vitb", gpus=4)


def test_short_presets_compute_in_bf16_where_the_processor_does(tmp_path, monkeypatch):
    flags = {"data": [tmp_path], "device": "cpu"}
    for has, expected in ((True, "bf16"), (False, "auto")):
        monkeypatch.setattr("scaleevent.config.pretrain.has_bfloat16", lambda has=has: has)
        for name in ("demo", None):
            assert pretrain_config(flags | {"preset": name}).precision == expected
            assert (
                pretrain_config(flags | {"preset": name, "precision": "fp32"}).precision == "fp32"
            )
        assert pretrain_config(flags | {"preset": "paper-vits"}).precision == "auto"
        on_gpu = pretrain_config({"data": [tmp_path], "device": "cuda", "preset": "demo"})
        assert on_gpu.precision == "auto"


def test_unknown_preset():
    with pytest.raises(ConfigError, match="unknown preset .did you mean paper-vits"):
        pretrain_config({"preset": "paper-vitx"})


def test_the_architecture_is_that_asked_for_else_the_teachers_else_the_presets(
    tmp_path, monkeypatch
):
    file = {"teacher": "weights.pth"}
    assert PretrainConfig(**file).arch is None
    assert pretrain_config(file).arch is None  # on street, whose preset would be tiny
    assert pretrain_config(file | {"arch": "vitl"}).arch == "vitl"
    assert pretrain_config({}).arch == "tiny"
    assert pretrain_config({"data": [tmp_path], "device": "cpu"}).arch == "tiny"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert pretrain_config({"data": [tmp_path]}).arch == "vits"
    assert pretrain_config({"preset": "released-vitb", "data": [tmp_path]}).arch == "vitb"


def test_an_unexpected_end_of_a_file_is_not_a_user_who_leaves(monkeypatch, capsys):
    def run(cfg, quiet):
        raise EOFError

    monkeypatch.setattr("scaleevent.commands.info.run", run)
    monkeypatch.setattr(sys, "argv", ["scaleevent", "info", "a.npz"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    told = capsys.readouterr().err
    assert left.value.code == 1 and "this is a bug" in told and "Aborted" not in told


# What people mistype


def test_a_run_folder_stands_for_the_checkpoint_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / ".scaleevent").write_text("run\n")
    scored = {"benchmark": "street-depth", "checkpoint": str(run)}
    for model, settings in (
        (EvalConfig, scored), (ProbeConfig, scored), (FinetuneConfig, scored),
        (ExportConfig, {"checkpoint": run}),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match="a run that has not finished"):
            load_config(model, settings)
        (run / "encoder.safetensors").touch()
        found = load_config(model, settings).checkpoint
        assert str(found) == str(run / "encoder.safetensors")
        (run / "encoder.safetensors").unlink()
    (run / "task.safetensors").touch()
    assert load_config(EvalConfig, scored).checkpoint == run / "task.safetensors"
    assert pretrain_config({"teacher": str(run)}).teacher == str(run / "task.safetensors")
    (tmp_path / "random").mkdir()
    cfg = load_config(ProbeConfig, scored | {"checkpoint": "random"})
    assert cfg.checkpoint == "random"
    other = load_config(ExportConfig, {"checkpoint": tmp_path})
    assert other.checkpoint == tmp_path  # its reader says what is wrong with it


@pytest.mark.parametrize("model", [EvalConfig, ProbeConfig, FinetuneConfig])
def test_benchmark_and_checkpoint_in_each_others_place(model):
    command = model.__name__.removesuffix("Config").lower()
    with pytest.raises(ConfigError, match="have changed places") as caught:
        load_config(model, {"benchmark": "a b.safetensors", "checkpoint": "dsec-flow"})
    assert caught.value.hint == f"`scaleevent {command} dsec-flow 'a b.safetensors'`"
    with pytest.raises(ConfigError, match="no benchmark is named") as caught:
        load_config(model, {"benchmark": "runs/a.safetensors"})
    assert caught.value.hint == f"`scaleevent {command} BENCHMARK runs/a.safetensors`"
    with pytest.raises(ConfigError, match="did you mean street-semantic?"):
        load_config(model, {"benchmark": "street-semantc", "checkpoint": "a.safetensors"})


def test_the_nearest_value_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="expected one of hard, soft, none .did you mean hard"):
        load_config(PretrainConfig, {"mask": "hrd"})
    with pytest.raises(ConfigError, match="did you mean vits"):
        load_config(PretrainConfig, {"arch": "vitt"})
    with pytest.raises(ConfigError, match="did you mean custom"):
        PrepareConfig(name="costum")
    (tmp_path / "recordings").mkdir()
    with pytest.raises(ConfigError, match="no data set is named") as caught:
        PrepareConfig(name="recordings")
    assert "`scaleevent prepare custom recordings -o PAIRS`" in str(caught.value)
    with pytest.raises(ConfigError, match="unknown data set"):
        PrepareConfig(name="absent")


# Seeds


def test_one_seed_is_all_seeds_and_each_has_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)
    names = ("world", "split", "draws", "init")
    assert [PretrainConfig(seed=3).seed_of(name) for name in names] == [6, 3, 3, 3]
    for fixed in names:
        cfg = PretrainConfig(seed=3, **{f"{fixed}_seed": 8})
        assert cfg.seed_of(fixed) == 8
        assert [cfg.seed_of(n) for n in names if n != fixed] == [
            PretrainConfig(seed=3).seed_of(n) for n in names if n != fixed
        ]
    assert PretrainConfig().describe_seeds() == "seeds: world 0, split 0, draws 0, init 0"
    assert "world" not in PretrainConfig(data=[tmp_path]).describe_seeds()
    assert ProbeConfig(benchmark="street-depth", checkpoint="random", seed=4).seed_of("draws") == 4


def test_no_seed_trains_on_the_scenes_of_a_benchmark():
    for seed in range(5):
        assert PretrainConfig(seed=seed).seed_of("world") != 1
    with pytest.raises(ConfigError, match="street benchmarks"):
        load_config(PretrainConfig, {"world_seed": 1})


def test_another_split_is_another_run_and_that_of_seed_0_is_as_it_was():
    assert "split" not in PretrainConfig().with_effect()
    changed = [PretrainConfig(seed=2), PretrainConfig(split_seed=2)]
    assert [cfg.with_effect()["split"] for cfg in changed] == [2, 2]
    assert "split" not in PretrainConfig(seed=2, split_seed=0).with_effect()


def test_runs_of_versions_without_padding_can_be_resumed(tmp_path):
    plain, padded = (PretrainConfig(data=[tmp_path], pad=pad) for pad in (False, True))
    assert "pad" not in plain.with_effect() and padded.with_effect()["pad"] is True
    assert padded.with_effect().keys() - plain.with_effect().keys() == {"pad"}


@pytest.mark.parametrize("key", ["every", "window_events", "homography", "scenes", "transductive"])
def test_whom_a_setting_is_for_is_told_exactly_in_few_names(key):
    """Those it is for, or else all others: together the data sets, each in one of the two."""
    owners = {name for name, part in DATASETS.items() if key in part.load().Settings.model_fields}
    told = str(unknown_setting(PrepareConfig, key, "here"))
    named = {name for name in DATASETS if re.search(rf"(?<![\w-]){name}(?![\w-])", told)}
    only = "is only for" in told
    assert only or "is for every data set but" in told
    assert named == (owners if only else DATASETS.keys() - owners)
    assert len(named) <= max(3, len(DATASETS) // 2)
