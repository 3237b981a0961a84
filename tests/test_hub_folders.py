"""Weights that travel: folders for the hub, and every name under which weights are taken."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from fakes import fake_events
from safetensors.torch import load_file, save_file

from scaleevent import Predictor, build_encoder, cli, predict
from scaleevent.benchmarks.foreign import model_to_score
from scaleevent.benchmarks.meaning import facts_of
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.benchmarks.task_model import task_model
from scaleevent.checkpoint import (
    load_described,
    load_encoder,
    load_model,
    load_task,
    save_encoder,
    save_task,
)
from scaleevent.commands import export, info
from scaleevent.config.data import InfoConfig
from scaleevent.config.downstream import EvalConfig, FinetuneConfig
from scaleevent.config.export import ExportConfig
from scaleevent.config.predict import PredictConfig
from scaleevent.config.settings import load_config
from scaleevent.decoders.linear import Linear
from scaleevent.deployment.licence import DINOV3, OWN, UNKNOWN, licence_of
from scaleevent.encoders.encoder import Encoder
from scaleevent.encoders.hub import weight_file
from scaleevent.errors import CheckpointError, ConfigError, EnvironmentProblem
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import WindowRule
from scaleevent.prediction.models import open_model
from scaleevent.prediction.views import choose_view
from scaleevent.system.files import MARKER, sha256_file
from scaleevent.system.locations import names_only
from scaleevent.tasks.segmentation import Segmentation
from tests.event_files import some_events, write_dsec

HEIGHT, WIDTH = 32, 48
SPEC = {
    "name": "vit_small_patch16_dinov3",
    "kwargs": {
        "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 1, "init_values": 0.1,
    },
}  # fmt: skip
CLASSES = 8  # of street-semantic
ALWAYS = {"num_classes": 0, "dynamic_img_size": True}
OURS = {"teacher": {"source": "embedded-v2"}, "config": {"student_init": "teacher", "lr": 1e-4}}
OURS["config"]["out"] = "/home/me/runs"


@torch.no_grad()
def small_encoder(seed: int = 1) -> Encoder:
    """One in which every weight matters, those too that start at zero or one."""
    torch.manual_seed(seed)
    encoder = Encoder(SPEC)
    for parameter in encoder.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    encoder.input = InputSettings(HEIGHT, WIDTH, 8, normaliser="contrast", mean=(0.5, 0.4, 0.3))
    return encoder.eval()


def hub_folder(folder: Path, path: Path, **options: object) -> Path:
    out = folder / "hub"
    export.run(ExportConfig(checkpoint=path, out=out, format="hub", **options), quiet=True)
    return out


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory) -> Path:
    """An encoder's folder, its checkpoint beside it."""
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder / "encoder.safetensors", small_encoder(), OURS)
    return hub_folder(folder, folder / "encoder.safetensors")


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory) -> Path:
    """A task model's folder, its checkpoint beside it."""
    folder = tmp_path_factory.mktemp("task")
    decoder = Linear(small_encoder(2), "segmentation", CLASSES)
    described = {
        "benchmark": "street-semantic", "protocol": "probe", "metrics": {"miou": 41.5},
        "pretraining": {"recordings": ["a", "b"]}, "data": {"recordings": ["c"], "stores": ["12"]},
        "encoder": {"source": "runs/x/encoder.safetensors", "sha256": "0" * 64}, **OURS,
    }  # fmt: skip
    save_task(folder / "task.safetensors", decoder, described)
    return hub_folder(folder, folder / "task.safetensors")


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def in_cache(
    source: Path, cache: Path, name: str, ref: str = "main", commit: str = "c0ffee"
) -> Path:
    """A folder as the hub's client keeps it; the snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / ref).write_text(commit)
    return copied(source, repository / "snapshots" / commit)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, with no network."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@torch.no_grad()
def tokens(vit, x: torch.Tensor) -> torch.Tensor:
    """Patch tokens of a timm model."""
    return vit.eval().forward_features(x)[:, vit.num_prefix_tokens :]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, HEIGHT, 64, generator=torch.Generator().manual_seed(3))


# Written


def test_timm_loads_the_folder_by_one_line_with_the_same_tokens(encoder_folder, x):
    own = load_encoder(encoder_folder.parent / "encoder.safetensors")
    vit = timm.create_model(f"local-dir:{encoder_folder}", pretrained=True)
    with torch.no_grad():
        assert torch.equal(tokens(vit, x), own.tokens(x))
    assert torch.equal(vit.rope.periods, own.vit.rope.periods)
    assert vit.pretrained_cfg["mean"] == [0.5, 0.4, 0.3]
    assert vit.pretrained_cfg["input_size"] == [3, HEIGHT, WIDTH]
    other = timm.create_model(f"local-dir:{encoder_folder}", pretrained=False)
    assert not torch.equal(tokens(other, x), own.tokens(x))  # it is the weights that are loaded


def test_a_task_model_travels_with_its_encoder(task_folder, x):
    original, own = load_task(task_folder.parent / "task.safetensors")
    again, description = load_described(f"local-dir:{task_folder}")
    assert own["config"]["out"] == "/home/me/runs"
    assert description | {"sha256": ""} == names_only(own) | {"sha256": ""}
    assert description["benchmark"] == "street-semantic"
    with torch.no_grad():
        assert torch.equal(again(x), original(x))
        vit = timm.create_model(f"local-dir:{task_folder}", pretrained=True)
        assert torch.equal(tokens(vit, x), original.encoder.tokens(x))
        for encoder in (
            load_encoder(f"local-dir:{task_folder}"),
            build_encoder(None, f"local-dir:{task_folder}"),
        ):
            assert torch.equal(encoder.eval().tokens(x), original.encoder.tokens(x))
    assert encoder.history["recordings"] == ["a", "b", "c"]  # what it has seen travels too


def test_the_printed_lines_load(encoder_folder, tmp_path, x):
    report = export.run(
        ExportConfig(
            checkpoint=encoder_folder.parent / "encoder.safetensors",
            out=tmp_path / 'my "own" weights', format="hub",
        ), quiet=True,
    )  # fmt: skip
    lines = dict(note.split(": ", 1) for note in report.notes)
    import scaleevent

    vit = eval(lines["timm"], {"timm": timm})
    predictor = eval(lines["ScaleEvent"], {"scaleevent": scaleevent})
    with torch.no_grad():
        assert torch.equal(tokens(vit, x), predictor.encoder.tokens(x))


def test_no_folder_of_this_machine_is_in_what_others_get(tmp_path):
    """Names stay, so that settings can be read; recordings and addresses are no paths."""
    secret = tmp_path / "secret place"
    secret.mkdir()
    known = {
        "config": {"data": [str(secret / "pairs"), "s3://bucket/pairs", "rel/pairs"], "lr": 0.1,
                   "checkpoint": f"local-dir:{secret}/enc", "out": str(secret / "run")},
        "teacher": {"source": str(secret / "dinov3_vits.pth")},
        "pretraining": {"recordings": ["town/1", "town/2"]},
        "encoder": {"source": "hf-hub:me/events@v2", "student_init": "timm:vit_x"},
        "benchmark": "street-semantic",
    }  # fmt: skip
    decoder = Linear(small_encoder(2), "segmentation", CLASSES)
    save_task(secret / "task.safetensors", decoder, known)
    out = secret / "my model"
    (tmp_path / "set.yaml").write_text(f"checkpoint: {secret / 'task.safetensors'}\n")
    flags = {"out": out, "format": "hub"}
    report = export.run(load_config(ExportConfig, flags, tmp_path / "set.yaml"), quiet=True)
    assert str(out) in "".join(report.notes)  # the person at this machine is told
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
        assert b"secret" not in file.read_bytes(), file
    told = json.loads((out / "export.json").read_text())
    assert told["checkpoint"] == told["settings"]["checkpoint"] == "task.safetensors"
    assert (
        told["settings"]["out"] == "my model" and told["origins"]["checkpoint"] == "file set.yaml"
    )
    assert told.keys() == report.to_json().keys()
    description = load_task(f"local-dir:{out}")[1]
    assert description["config"]["data"] == ["pairs", "s3://bucket/pairs", "pairs"]
    assert description["config"]["checkpoint"] == "local-dir:enc"
    assert description["pretraining"]["recordings"] == ["town/1", "town/2"]
    assert description["encoder"]["source"] == "hf-hub:me/events@v2"
    assert licence_of(description) == DINOV3  # by its name alone


def test_info_tells_of_weights_by_their_names(task_folder, cache, tmp_path, monkeypatch):
    in_cache(task_folder, cache, "me/events")
    monkeypatch.setenv("HOME", str(tmp_path))
    copied(task_folder, tmp_path / "mine")
    downloaded = copied(task_folder, tmp_path / "downloaded")
    (downloaded / MARKER).unlink()  # as the hub's client leaves it
    file = info.run(InfoConfig(path=task_folder / "task.safetensors")).facts
    for name in (f"local-dir:{task_folder}", "local-dir:~/mine", "hf-hub:me/events", downloaded):
        found = info.run(InfoConfig(path=name))
        assert found.facts == file and found.kind == "task" and found.title == str(name)
    assert torch.equal(
        load_encoder("local-dir:~/mine").vit.norm.weight, load_encoder(f"local-dir:{task_folder}")
        .vit.norm.weight,
    )  # fmt: skip
    for name, error in (("local-dir:~/none", CheckpointError), ("hf-hub:a/b", EnvironmentProblem)):
        with pytest.raises(error):
            info.run(InfoConfig(path=name))


def test_another_input_size_is_in_both_files(task_folder, tmp_path):
    out = hub_folder(tmp_path, task_folder.parent / "task.safetensors", size=(16, 24))
    config = json.loads((out / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 16, 24]
    for model in (load_model(f"local-dir:{out}").encoder, load_encoder(f"local-dir:{out}")):
        assert (model.input.height, model.input.width) == (16, 24)


def test_the_card_begins_with_keys_and_tells_data_settings_metrics_hashes(task_folder):
    text = (task_folder / "README.md").read_text()
    front, body = re.fullmatch(r"---\n(.*?)---\n(.*)", text, re.S).groups()
    keys = yaml.safe_load(front)
    assert keys["license"] == "apache-2.0" and keys["library_name"] == "timm"
    assert keys["pipeline_tag"] == "image-segmentation" and "event-camera" in keys["tags"]
    assert "base_model" not in keys
    assert "Recordings: 2 (a, b)" in body and "Recordings: 1 (c)" in body
    assert "| miou | 41.5 |" in body and "lr: 0.0001" in body
    assert "/home/me" not in body  # where a run lay on the machine is nobody's business
    for file in ("model.safetensors", "task.safetensors"):
        assert f"`{sha256_file(task_folder / file)}`" in body


def test_all_formats_leave_the_hub_alone():
    assert "config.json" not in export.writable("all")[0]
    assert "hub" not in export.writable("all")[0] and export.writable("hub")[0] == ["hub"]


LICENCES = [
    (OWN, {"teacher": {"source": "embedded-v2"}, "config": {"student_init": "teacher"}}),
    (OWN, {"teacher": {"source": "embedded"}, "config": {"student_init": "random"}}),
    (OWN, {"encoder": {"source": "random", "sha256": None}, "teacher": None}),
    (DINOV3, {"teacher": {"source": "DINOv3 vits"}}),
    (DINOV3, {"teacher": {"source": "timm:vit_small_patch16_dinov3"}}),
    (DINOV3, {"teacher": {"source": "hf-hub:facebook/dinov3-vitb16-pretrain-lvd1689m"}}),
    (DINOV3, {"teacher": {"source": "/w/dinov3_vits16_pretrain_lvd1689m-08c60483.pth"}}),
    (DINOV3, {"teacher": {"source": "embedded"}, "config": {"student_init": "timm:vit_dinov3"}}),
    (DINOV3, {"encoder": {"source": "timm:vit_small_patch16_dinov3"}, "teacher": None}),
    (DINOV3, {"finetuned": {"encoder": {"source": "timm:vit_small_patch16_dinov3"}}}),
    (DINOV3, {"finetuned": {"teacher": {"source": "DINOv3 vitb"}, "encoder": {"source": "e"}}}),
    (DINOV3, {
        "teacher": {"source": "embedded"}, "encoder": {"source": "e", "student_init": "dinov3.pth"},
    }),
    (UNKNOWN, {"teacher": {"source": "teacher.pth"}}),
    (UNKNOWN, {"teacher": {"source": "embedded"}, "config": {"student_init": "start.pth"}}),
    (UNKNOWN, {"encoder": {"source": "runs/x/encoder.safetensors"}, "teacher": None}),
    (UNKNOWN, {"teacher": {"source": "embedded"}, "config": {"decoder_weights": "sea_raft.pth"}}),
    (UNKNOWN, {}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "description"), LICENCES)
def test_the_licence_follows_from_teacher_and_start(expected, description):
    # the architecture of the embedded teacher is DINOv3's too, and decides nothing
    assert licence_of(description | {"arch": SPEC}) is expected


def test_a_licence_that_travels_is_said(tmp_path):
    described = {"teacher": {"source": "timm:vit_small_patch16_dinov3"}}
    save_encoder(tmp_path / "encoder.safetensors", small_encoder(), described)
    out = tmp_path / "hub"
    config = ExportConfig(checkpoint=tmp_path / "encoder.safetensors", out=out, format="hub")
    assert "DINOv3 License travels" in export.run(config, quiet=True).notes[-1]
    front = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert front["license_name"] == "dinov3-license" and "dinov3-license" in front["license_link"]


# Taken


def test_every_command_takes_a_name_on_the_hub(encoder_folder, task_folder, cache, x):
    in_cache(encoder_folder, cache, "me/events")
    in_cache(task_folder, cache, "me/street")
    own = load_encoder(encoder_folder.parent / "encoder.safetensors")
    task, _ = load_task(task_folder.parent / "task.safetensors")
    named = {"checkpoint": "hf-hub:me/events", "decoder": "linear"}
    start = task_model(FinetuneConfig(benchmark="street-semantic", **named))
    assert start.pretraining["teacher"]["source"] == "embedded-v2"
    assert start.settings.normaliser == "contrast"
    with torch.no_grad():
        assert torch.equal(start.decoder.encoder.eval().tokens(x), own.tokens(x))
        teacher = build_encoder(None, "hf-hub:me/events", keep_periods=True).eval()
        assert torch.equal(teacher.tokens(x), own.tokens(x))
        scored, description = model_to_score(
            EvalConfig(benchmark="street-semantic", checkpoint="hf-hub:me/street")
        )
        assert torch.equal(scored(x), task(x)) and description["metrics"] == {"miou": 41.5}
        assert torch.equal(Predictor.load("hf-hub:me/street").model(x), task(x))
        assert torch.equal(load_model("hf-hub:me/events").tokens(x), own.tokens(x))
        assert torch.equal(load_encoder("hf-hub:me/street").tokens(x), task.encoder.tokens(x))
    with pytest.raises(CheckpointError, match="another kind of checkpoint"):
        load_task("hf-hub:me/events")


@pytest.mark.parametrize("own", [False, True])
def test_predict_predicts_the_task_of_a_folder(task_folder, tmp_path, own):
    """Maps are those of the checkpoint; classes have their names, the user's own ones too."""
    path, folder = task_folder.parent / "task.safetensors", task_folder
    classes = BENCHMARKS["street-semantic"].task.classes
    if own:
        classes = tuple(f"thing {number}" for number in range(CLASSES))
        task = Segmentation(classes, np.arange(3 * CLASSES, dtype=np.uint8).reshape(-1, 3))
        described = {"benchmark": "custom", "labels": facts_of(task).to_json()}
        save_task(tmp_path / "task.safetensors", load_task(path)[0], described)
        path = tmp_path / "task.safetensors"
        folder = hub_folder(tmp_path, path)
    events = some_events(4_000, HEIGHT, WIDTH, span_us=200_000)
    write_dsec(tmp_path / "a.h5", events)
    for out, name in (("file", path), ("folder", f"local-dir:{folder}")):
        config = PredictConfig(
            checkpoint=str(name), recordings=[tmp_path / "a.h5"], size=(HEIGHT, WIDTH),
            out=tmp_path / out, write=["npy"], device="cpu", offline=True,
        )  # fmt: skip
        report = predict(config, quiet=True)
        assert report.facts["view"]["name"] == "segmentation"
        assert choose_view(open_model(str(name), (HEIGHT, WIDTH))).classes == classes
    maps = sorted((tmp_path / "file/maps").iterdir())
    assert len(maps) >= 5
    for one in maps:
        assert one.read_bytes() == (tmp_path / "folder/maps" / one.name).read_bytes()


def test_export_takes_a_name_on_the_hub_and_says_it(encoder_folder, cache, tmp_path):
    in_cache(encoder_folder, cache, "me/events")
    config = ExportConfig(checkpoint="hf-hub:me/events", out=tmp_path / "out", format="safetensors")
    config.check()
    report = export.run(config, quiet=True)
    assert report.title == "export of hf-hub:me/events"
    again = load_encoder(tmp_path / "out/encoder.safetensors")
    own = load_encoder(encoder_folder.parent / "encoder.safetensors")
    assert all(map(torch.equal, again.vit.state_dict().values(), own.vit.state_dict().values()))


def test_a_revision_is_another_snapshot(encoder_folder, task_folder, cache):
    in_cache(encoder_folder, cache, "me/one", "main", "a" * 40)
    in_cache(task_folder, cache, "me/one", "v2", "b" * 40)
    kinds = [load_described(name)[1]["kind"] for name in ("hf-hub:me/one", "hf-hub:me/one@v2")]
    assert kinds == ["encoder", "task"]
    assert weight_file(f"hf-hub:me/one@{'b' * 40}").parent.name == "b" * 40
    with pytest.raises(EnvironmentProblem, match="me/one@v3"):
        weight_file("hf-hub:me/one@v3")


def test_weights_of_other_origin_without_our_keys(cache, tmp_path, x):
    """timm's own `save_for_hf` wrote the folder."""
    vit = timm.create_model("vit_small_patch16_dinov3", depth=2, num_classes=0).eval()
    timm.models.save_for_hf(vit, tmp_path / "timm", safe_serialization=True)
    in_cache(tmp_path / "timm", cache, "you/timm")
    for name in ("hf-hub:you/timm", f"local-dir:{tmp_path / 'timm'}"):
        with torch.no_grad():
            found = build_encoder(None, name).eval().tokens(x)
            assert torch.allclose(found, tokens(vit, x), atol=1e-5)


def test_offline_and_not_in_the_cache_says_where_it_looked(cache, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scaleevent", *"export hf-hub:me/none -o out".split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr().err
    assert stop.value.code == EnvironmentProblem.exit_code
    assert "HF_HUB_OFFLINE" in printed and f"looked in {cache}/models--me--none" in printed
    assert "hf download me/none" in printed and "model.safetensors" in printed
    with pytest.raises(EnvironmentProblem, match="--offline forbids"):
        weight_file("hf-hub:me/none", offline=True)
    with pytest.raises(ConfigError, match="ORG/NAME"):
        weight_file("hf-hub:a/b/c")


def test_checkpoint_and_benchmark_in_each_others_place(cache):
    with pytest.raises(ConfigError, match="changed places"):
        EvalConfig(benchmark="hf-hub:me/street", checkpoint="street-semantic")


# Broken


@pytest.mark.parametrize("file", ["model.safetensors", "task.safetensors"])
@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_flipped_bit_is_found(task_folder, tmp_path, file, place):
    folder = copied(task_folder, tmp_path / "copy")
    content = bytearray((folder / file).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / file).write_bytes(content)
    load = load_model if file == "task.safetensors" else load_encoder
    with pytest.raises(CheckpointError, match=rf"damaged[^$]*{file}"):
        load(f"local-dir:{folder}")


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "vit_base_patch16_dinov3"},
        {"model_args": {}},
        {
            "model_args": {"num_classes": 0, "dynamic_img_size": True}
            | SPEC["kwargs"]
            | {"depth": 3}
        },
    ],
)
def test_a_config_of_another_architecture_is_refused(encoder_folder, tmp_path, change):
    folder = copied(encoder_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    for load in (load_model, load_encoder, lambda name: build_encoder(None, name)):
        with pytest.raises(CheckpointError, match="another architecture"):
            load(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "without weights"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "malformed config.json"),
        (lambda f: (f / "config.json").write_text("[1]"), "malformed config.json"),
        (lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'), "given twice"),
        (lambda f: [one.unlink() for one in f.iterdir()], "no config.json"),
        (lambda f: f.rename(f.with_name("elsewhere")), "no such folder"),
    ],
)
def test_folders_that_are_none(encoder_folder, tmp_path, spoil, message):
    folder = copied(encoder_folder, tmp_path / "copy")
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load_model(f"local-dir:{folder}")
    with pytest.raises(CheckpointError, match=message):  # before anything is imported
        ExportConfig(checkpoint=f"local-dir:{folder}").check()


def test_a_config_names_no_file_elsewhere(encoder_folder, tmp_path):
    folder = copied(encoder_folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["scaleevent"] = {"kind": "../../task", "file": "/etc/passwd"}
    (folder / "config.json").write_text(json.dumps(config))
    assert weight_file(f"local-dir:{folder}", task=True) == folder / "model.safetensors"


def test_without_its_description_the_file_is_one_of_another_origin(encoder_folder, tmp_path):
    folder = copied(encoder_folder, tmp_path / "copy")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a ScaleEvent checkpoint"):
        load_model(f"local-dir:{folder}")


@pytest.mark.slow
def test_offline_through_the_real_cache_timm_and_we_agree(encoder_folder, task_folder, tmp_path):
    """Another process whose only source is HF_HOME: no name of ours, no network."""
    in_cache(encoder_folder, tmp_path / "hub", "me/events")
    in_cache(task_folder, tmp_path / "hub", "me/street", "v1")
    code = """
import timm, torch, scaleevent
x = torch.randn(1, 3, 40, 48)
for name in ("hf-hub:me/events", "hf-hub:me/street@v1"):
    vit = timm.create_model(name, pretrained=True).eval()
    with torch.no_grad():
        expected = vit.forward_features(x)[:, vit.num_prefix_tokens :]
        assert torch.equal(scaleevent.Predictor.load(name).encoder.tokens(x), expected)
"""
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("task", [False, True])
def test_the_windows_of_the_training_travel(tmp_path, task):
    """In the files, in the folder's record, and in what Python predicts with."""
    path, rule = tmp_path / "trained.safetensors", WindowRule("time", 40_000)
    stored = OURS | {"window": {"window": "time", "window_ms": 40.0}}
    if task:
        save_task(path, Linear(small_encoder(), "segmentation", CLASSES), stored)
    else:
        save_encoder(path, small_encoder(), stored)
    out = hub_folder(tmp_path, path)
    told = json.loads((out / "export.json").read_text())["model"]["window"]
    assert told["kind"] == "time" and told["duration_us"] == 40_000
    assert "- Window: the last 40 ms\n" in (out / "README.md").read_text()
    for name in (path, f"local-dir:{out}", out / "model.safetensors"):
        predictor = Predictor.load(name)
        assert predictor.rule == rule
    events = fake_events(0)
    at = 1_150_000
    asked = predictor.features(events, at, rule)
    assert torch.equal(predictor.features(events, at), asked)
    assert not torch.equal(predictor.features(events, at, WindowRule("time", 80_000)), asked)
