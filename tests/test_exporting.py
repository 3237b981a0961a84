"""Exported files: every decoder in every format, complete, checked, and nothing left on failure."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from scaleevent.checkpoint import load_encoder, save_encoder, save_task
from scaleevent.commands import export
from scaleevent.config.export import ExportConfig
from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.eomt import EoMT
from scaleevent.decoders.linear import Linear
from scaleevent.decoders.sea_raft import SeaRaft
from scaleevent.decoders.waft import Waft
from scaleevent.deployment import artifacts as exporting
from scaleevent.deployment.artifacts import artifacts, writable
from scaleevent.deployment.parity import INPUTS, Parity, parity_inputs
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.deployment.programs import EXTRA_FILE, trace
from scaleevent.deployment.weight_files import meta_tensors
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.encoders.weights import read_weights
from scaleevent.errors import CheckpointError, ConfigError, EnvironmentProblem, MissingPackageError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.files import MARKER, sha256_file

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 32, 48
SPEC = {
    "name": "vit_small_patch16_dinov3",
    "kwargs": {
        "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 1, "init_values": 0.1,
    },
}  # fmt: skip
CLASSES = 8  # of street-semantic
DPT_SIZE = {"features": 8, "out_channels": [4, 8, 8, 8], "layers": [0, 0, 1, 1]}
MODELS = {
    "encoder": lambda encoder: encoder,
    "linear-segmentation": lambda encoder: Linear(encoder, "segmentation", CLASSES),
    "linear-depth": lambda encoder: Linear(encoder, "depth", max_depth=50.0),
    "linear-flow": lambda encoder: Linear(encoder, "flow"),
    "eomt": lambda encoder: EoMT(encoder, CLASSES, queries=5, blocks=1, width=32),
    "dpt": lambda encoder: DPT(encoder, **DPT_SIZE),
    "sea_raft": lambda encoder: SeaRaft(encoder, "tiny", iters=1),
    "waft": lambda encoder: Waft(encoder, iters=1),
}
SLOW = "waft"  # torch takes half a minute to translate it to ONNX
ELSEWHERE = ("linear-depth", "linear-flow")  # in other tests: each translation takes seconds
TRANSLATED = [name for name in MODELS if name not in ELSEWHERE]
OUTPUTS = {
    "encoder": ("tokens", (24, 32)),
    "linear-segmentation": ("scores", (CLASSES, HEIGHT, WIDTH)),
    "eomt": ("scores", (CLASSES, HEIGHT, WIDTH)),
    "dpt": ("depth", (HEIGHT, WIDTH)),
    "sea_raft": ("flow", (2, HEIGHT, WIDTH)),
    "waft": ("flow", (2, HEIGHT, WIDTH)),
}


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Make every weight matter, those too that start at zero or one."""
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)


def small_encoder(spec: dict = SPEC) -> Encoder:
    torch.manual_seed(1)
    encoder = Encoder(spec)
    shake(encoder)
    encoder.input = InputSettings(HEIGHT, WIDTH, 8)
    return encoder.eval()


def checkpoint(folder: Path, name: str, **description: object) -> Path:
    """A checkpoint of one of `MODELS`."""
    model = MODELS[name](small_encoder(ARCHS["tiny"] if name == "waft" else SPEC))
    path = folder / f"{name}.safetensors"
    if isinstance(model, Encoder):
        save_encoder(path, model, description)
        return path
    shake(model)
    benchmark = {"segmentation": "street-semantic"}.get(model.task, f"street-{model.task}")
    save_task(path, model, {"benchmark": benchmark, **description})
    return path


def exported(folder: Path, path: Path, format: str, **options: object) -> Path:
    """What `scaleevent export` makes of a checkpoint."""
    out = folder / "export"
    export.run(ExportConfig(checkpoint=path, out=out, format=format, **options), quiet=True)
    return out


def inputs_of(source) -> list[torch.Tensor]:
    """Network input of one sample that the command has not compared."""
    generator = torch.Generator().manual_seed(5)
    size = (1, 3, *source.deployed.size)
    return [torch.randn(size, generator=generator) for _ in source.deployed.inputs]


def has_onnx() -> bool:
    try:
        writable("onnx")
    except MissingPackageError:
        return False
    return True


needs_onnx = pytest.mark.skipif(
    not has_onnx(), reason='the ONNX format needs pip install "scaleevent[export]"'
)


# Programs


@pytest.fixture(scope="module", params=TRANSLATED)
def programs(request, tmp_path_factory) -> tuple[str, LoadedCheckpoint, Path]:
    """A model of `MODELS`, its checkpoint, and the folder with its exports."""
    folder = tmp_path_factory.mktemp(request.param)
    path = checkpoint(folder, request.param)
    out = exported(folder, path, "all" if has_onnx() and request.param != SLOW else "exported")
    return request.param, LoadedCheckpoint(path), out


def test_the_exported_program_predicts_the_same(programs):
    name, source, out = programs
    extra, (file,) = {EXTRA_FILE: ""}, out.glob("*.pt2")
    program = torch.export.load(file, extra_files=extra).module()
    inputs = inputs_of(source)
    with torch.no_grad():
        expected, found = source.deployed(*inputs), program(*inputs)
    assert torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    output, shape = OUTPUTS[name]
    assert found.shape == (1, *shape) and found.dtype == torch.float32
    about = json.loads(extra[EXTRA_FILE])
    assert about["outputs"][output]["shape"] == ["N", *shape]
    assert about["input"]["normaliser"] == "minmax" and about["input"]["mean"][0] == 0.485
    assert ("classes" in about) == (output == "scores")
    document = json.loads((out / "export.json").read_text())
    assert about == document["model"]
    for written in set(out.iterdir()) - {out / "README.md", out / "export.json", out / MARKER}:
        assert document["files"][written.name]["sha256"] == sha256_file(written)
        assert document["files"][written.name]["difference"] <= 1e-4


@needs_onnx
@pytest.mark.parametrize("programs", [n for n in TRANSLATED if n != SLOW], indirect=True)
def test_onnx_predicts_the_same(programs):
    import onnxruntime

    name, source, out = programs
    (file,) = out.glob("*.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    output, shape = OUTPUTS[name]
    assert tuple(each.name for each in session.get_inputs()) == source.deployed.inputs
    assert [each.name for each in session.get_outputs()] == [output]
    samples = 1 if "batch1" in file.name else "N"
    assert all(each.shape[0] == samples for each in session.get_inputs())
    inputs = inputs_of(source)
    with torch.no_grad():
        expected = source.deployed(*inputs).numpy()
    feed = {each: x.numpy() for each, x in zip(source.deployed.inputs, inputs, strict=True)}
    (found,) = session.run(None, feed)
    assert found.shape == (1, *shape)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    about = json.loads(session.get_modelmeta().custom_metadata_map["scaleevent"])
    assert about["input"]["height"] == HEIGHT and about["source"]["file_sha256"]


@pytest.mark.parametrize("name", ["linear-segmentation", "eomt"])
def test_the_argmax_of_the_scores_is_the_prediction(tmp_path, name):
    source = LoadedCheckpoint(checkpoint(tmp_path, name))
    (voxel,) = inputs_of(source)
    with torch.no_grad():
        classes = source.predictor.model.predict(source.predictor.model(voxel), (HEIGHT, WIDTH))
        assert torch.equal(source.deployed(voxel).argmax(1), classes)
    assert classes.unique().numel() > 1


class OneAtATime(torch.nn.Module):
    """Code that fixes the number of samples."""

    inputs, size = ("voxel",), (8, 8)

    def forward(self, voxel: torch.Tensor) -> torch.Tensor:
        return torch.cat(voxel.split([1] * len(voxel)))


class Untraceable(OneAtATime):
    """Code that depends on the values of its input."""

    def forward(self, voxel: torch.Tensor) -> torch.Tensor:
        return voxel if voxel.sum().item() > 0 else -voxel


def test_any_number_of_samples_where_the_code_allows_it(tmp_path):
    program, any_batch = trace(LoadedCheckpoint(checkpoint(tmp_path, "encoder")).deployed)
    assert any_batch and program.module()(torch.zeros(5, 3, HEIGHT, WIDTH)).shape[0] == 5
    program, any_batch = trace(OneAtATime())
    assert not any_batch and program.module()(torch.zeros(1, 3, 8, 8)).shape[0] == 1
    with pytest.raises(CheckpointError, match="cannot trace"):
        trace(Untraceable())


# Weights


def test_timm_and_meta_weights_of_an_encoder(tmp_path):
    path = checkpoint(tmp_path, "encoder", teacher={"source": "timm:vit_small_patch16_dinov3"})
    out = exported(tmp_path, path, "safetensors")
    original = load_encoder(path)
    again = timm.create_model(
        SPEC["name"], checkpoint_path=out / "encoder.safetensors", num_classes=0, **SPEC["kwargs"]
    )
    for key, value in again.state_dict().items():
        assert torch.equal(value, original.vit.state_dict()[key])
    assert load_encoder(out / "encoder.safetensors").input == original.input
    first = (out / "encoder.safetensors").read_bytes()
    assert "DINOv3 License" in (out / "README.md").read_text()
    exported(tmp_path, path, "safetensors", overwrite=True)
    assert (out / "encoder.safetensors").read_bytes() == first

    exported(tmp_path, path, "meta", overwrite=True)
    found = read_weights(out / "encoder_meta.safetensors")
    assert found.layout == "meta" and found.shape.heads == 1
    assert found.state.keys() == original.vit.state_dict().keys()
    for key, value in original.vit.state_dict().items():
        assert torch.equal(found.state[key], value)
    assert torch.equal(found.periods, original.vit.rope.periods)
    assert not (out / "encoder.safetensors").exists()


def test_metas_module_gets_every_tensor_it_asks_for():
    """Names and shapes as its `state_dict` has them (facebookresearch/dinov3)."""
    encoder, width = small_encoder(), 32
    tensors = meta_tensors(encoder)
    block = {
        "norm1.weight": (width,), "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
        "attn.qkv.bias_mask": (3 * width,),
        "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
        "ls1.gamma": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,), "ls2.gamma": (width,),
    }  # fmt: skip
    expected = {
        "cls_token": (1, 1, width), "storage_tokens": (1, 4, width), "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 8, 8), "patch_embed.proj.bias": (width,),
        "rope_embed.periods": (8,), "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    expected |= {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    assert {name: tuple(value.shape) for name, value in tensors.items()} == expected
    mask = tensors["blocks.1.attn.qkv.bias_mask"].reshape(3, width)
    assert torch.equal(mask[:, 0], torch.tensor([1.0, 0, 1])) and not mask.var(1).any()
    head = 32
    periods = [100 ** (2 * i / (head / 2)) for i in range(head // 4)]
    assert np.allclose(tensors["rope_embed.periods"], periods, rtol=1e-6)


def test_biases_of_queries_and_values_survive_in_metas_names(tmp_path):
    encoder = Encoder({"name": SPEC["name"], "kwargs": SPEC["kwargs"] | {"qkv_bias": True}})
    for i, block in enumerate(encoder.vit.blocks):
        torch.nn.init.constant_(block.attn.q_bias, 1.0 + i)
        torch.nn.init.constant_(block.attn.v_bias, 5.0 + i)
    encoder.input = InputSettings(HEIGHT, WIDTH, 8)
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    out = exported(tmp_path, tmp_path / "e.safetensors", "meta")
    bias = load_file(out / "encoder_meta.safetensors")["blocks.1.attn.qkv.bias"].reshape(3, -1)
    assert bias.unique(dim=1).flatten().tolist() == [2, 0, 6]
    found = read_weights(out / "encoder_meta.safetensors").state
    assert all(torch.equal(found[key], value) for key, value in encoder.vit.state_dict().items())


def test_only_dinov3_networks_have_metas_names(tmp_path):
    encoder = Encoder({
        "name": "vit_tiny_patch16_224",
        "kwargs": {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 1},
    })  # fmt: skip
    encoder.input = InputSettings(32, 48, 16)
    save_encoder(tmp_path / "e.safetensors", encoder, {})
    with pytest.raises(CheckpointError, match="DINOv3 networks only"):
        exported(tmp_path, tmp_path / "e.safetensors", "meta")
    assert not (tmp_path / "export").exists()


def test_a_task_falls_into_encoder_and_decoder(tmp_path):
    seen = {"recordings": ["zurich_city_00_a"]}
    path = checkpoint(tmp_path, "dpt", pretraining=seen)
    out = exported(tmp_path, path, "safetensors")
    source = LoadedCheckpoint(path)
    encoder = load_encoder(out / "encoder.safetensors")
    with safe_open(out / "encoder.safetensors", "pt") as file:
        description = json.loads(file.metadata()["scaleevent"])
    assert description["data"] == seen and description["export"]["task"] == "depth"
    again = DPT(encoder, **DPT_SIZE).eval()
    again.load_published(load_file(out / "decoder.safetensors"))
    (voxel,) = inputs_of(source)
    with torch.no_grad():
        assert torch.equal(again(voxel), source.predictor.model(voxel))


# Checks and refusals


def test_the_comparison_uses_real_inputs_and_an_empty_one():
    settings = InputSettings(HEIGHT, WIDTH, 8)
    inputs = parity_inputs(settings)
    assert len(inputs) == INPUTS
    for before, after in inputs[:-1]:
        assert before.shape == (1, 3, HEIGHT, WIDTH) and before.std() > 0.1
        assert not torch.equal(before, after)
    for empty in inputs[-1]:
        assert (empty.flatten(2).std(2) == 0).all()
    again = parity_inputs(replace(settings))
    assert all(map(torch.equal, sum(inputs, ()), sum(again, ())))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda out: out + 2e-4 * out.abs().max(),
        lambda out: out * torch.nan,
        lambda out: out[:, :-1],
    ],
)
def test_other_output_is_refused(tmp_path, wrong):
    source = LoadedCheckpoint(checkpoint(tmp_path, "linear-depth"))
    parity = Parity(source.predictor.settings)
    assert parity.difference(source.deployed, source.deployed, any_batch=True) == 0
    with pytest.raises(CheckpointError):
        parity.difference(source.deployed, lambda x: wrong(source.deployed(x)), any_batch=True)


def test_an_output_wrong_for_two_samples_only_is_refused(tmp_path):
    source = LoadedCheckpoint(checkpoint(tmp_path, "linear-depth"))

    def run(voxel: torch.Tensor) -> torch.Tensor:
        return source.deployed(voxel[:1]).expand(len(voxel), -1, -1)

    parity = Parity(source.predictor.settings)
    assert parity.difference(source.deployed, run, any_batch=False) == 0
    with pytest.raises(CheckpointError, match="does not compute"):
        parity.difference(source.deployed, run, any_batch=True)


@needs_onnx
def test_a_wrong_weight_in_an_onnx_file_leaves_nothing(tmp_path, monkeypatch):
    import onnx

    def spoiled(source, formats, samples=None):
        (file,) = artifacts(source, formats)

        def write(path: Path) -> None:
            file.write(path)
            model = onnx.load(path)
            (bias,) = (w for w in model.graph.initializer if w.name.endswith("linear.bias"))
            value = onnx.numpy_helper.to_array(bias) + 0.01
            bias.CopyFrom(onnx.numpy_helper.from_array(value, bias.name))
            onnx.save(model, path)

        return [replace(file, write=write)]

    path = checkpoint(tmp_path, "linear-depth")
    monkeypatch.setattr(export, "artifacts", spoiled)
    with pytest.raises(CheckpointError, match=r"not exported.*does not compute") as error:
        exported(tmp_path, path, "onnx")
    assert "of the largest value" in str(error.value.found)
    assert not (tmp_path / "export").exists()


def test_one_bad_file_leaves_none(tmp_path, monkeypatch):
    def spoiled(source, formats, samples=None):
        encoder, decoder = artifacts(source, formats)
        return [encoder, replace(decoder, reload=lambda path: lambda x: source.deployed(x) + 1)]

    path = checkpoint(tmp_path, "linear-depth")
    monkeypatch.setattr(export, "artifacts", spoiled)
    with pytest.raises(CheckpointError, match="not exported"):
        exported(tmp_path, path, "safetensors")
    assert not (tmp_path / "export").exists()


def test_what_is_there_stays(tmp_path):
    path = checkpoint(tmp_path, "encoder")
    out = exported(tmp_path, path, "safetensors")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(EnvironmentProblem, match="not empty"):
        exported(tmp_path, path, "safetensors")
    assert before == {file.name: file.read_bytes() for file in out.iterdir()}


def test_absent_packages_are_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(MissingPackageError, match=r"onnxscript[^$]*scaleevent\[export\]"):
        exported(tmp_path, tmp_path / "absent.safetensors", "onnx")
    assert not list(tmp_path.iterdir())


def test_of_all_formats_those_without_their_package_are_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else 1)
    report = export.run(
        ExportConfig(checkpoint=checkpoint(tmp_path, "encoder"), out=tmp_path / "export"), True
    )
    files = {file["format"] for file in report.facts["files"].values()}
    assert files == {"safetensors", "meta", "exported"} and report.facts["left_out"] == ["onnx"]
    assert 'onnxscript; pip install "scaleevent[export]"' in report.notes[-1]
    assert (tmp_path / "export/README.md").exists()


def test_sizes(tmp_path):
    path = checkpoint(tmp_path, "encoder")
    out = exported(tmp_path, path, "safetensors", size=(16, 24))
    assert load_encoder(out / "encoder.safetensors").input == InputSettings(16, 24, 8)
    with pytest.raises(ConfigError, match="divide into patches"):
        LoadedCheckpoint(path, (20, 24))
    encoder = small_encoder()
    encoder.input = None
    save_encoder(path, encoder, {})
    with pytest.raises(ConfigError, match="how their input is made"):
        LoadedCheckpoint(path)
    with pytest.raises(CheckpointError, match="not found"):
        LoadedCheckpoint(tmp_path / "absent.safetensors")
