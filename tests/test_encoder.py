"""The encoder against Meta's own outputs, against timm, and its ways of finding weights."""

import doctest
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, safe_open, save_file

import scaleevent.encoders.encoder
from scaleevent.checkpoint import load_encoder, load_task, save_encoder
from scaleevent.config.catalog import DEFAULT_NORMALISER
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.config.settings import load_config
from scaleevent.encoders.colours import Colours, colours_of_timm
from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher, build_encoder, checked_spec
from scaleevent.encoders.weights import convert_weights
from scaleevent.errors import CheckpointError, ConfigError, EnvironmentProblem
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    InputSettings,
    image_input,
    voxel_input,
)
from scaleevent.training.tensors import save_tensors
from tests.test_end_to_end import call

GOLDEN = Path(__file__).parent / "data" / "dinov3_vit.safetensors"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    """Weights, inputs, outputs and gradients of facebookresearch/dinov3 (64 wide, 4 blocks)."""
    return load_file(GOLDEN)


def meta_state(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name[3:]: tensor for name, tensor in golden.items() if name.startswith("sd/")}


@pytest.fixture
def encoder(golden, tmp_path) -> Encoder:
    path = tmp_path / "meta.pth"
    torch.save(meta_state(golden), path)
    return build_encoder(weights=path, keep_periods=True).eval()


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize("image", ["a", "b"])
def test_equals_dinov3(encoder, golden, image):
    x = golden[f"in/{image}"]
    with torch.no_grad():
        assert difference(encoder.tokens(x), golden[f"out/{image}/x_norm_patchtokens"]) <= 1e-5
        features = encoder.vit.forward_features(x)
        assert difference(features[:, 0], golden[f"out/{image}/x_norm_clstoken"]) <= 1e-5
        assert difference(features[:, 1:5], golden[f"out/{image}/x_storage_tokens"]) <= 1e-5
        for layer, found in zip((3, 1), encoder.maps(x, [-1, 1]), strict=True):
            h, w = encoder.grid(*x.shape[-2:])
            assert found.shape == (len(x), 64, h, w)
            expected = golden[f"out/{image}/inter_norm/{layer}/patch"]
            assert difference(found.flatten(2).mT, expected) <= 1e-5


def test_zero_bias_mask_gives_an_encoder_without_bias(golden):
    state = meta_state(golden)
    state |= {n: torch.zeros_like(t) for n, t in state.items() if n.endswith("bias_mask")}
    weights = convert_weights(state)
    assert not weights.shape.qkv_bias
    kwargs = {"patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 2}
    encoder = Encoder({"name": "vit_small_patch16_dinov3", "kwargs": kwargs}).eval()
    encoder.load(weights.state)
    for image in "ab":
        with torch.no_grad():
            tokens = encoder.tokens(golden[f"in/{image}"])
        assert difference(tokens, golden[f"alt_bias_mask_zero/{image}/x_norm_patchtokens"]) <= 1e-5


def test_periods_of_the_file_are_used_only_when_asked(golden, tmp_path):
    state = meta_state(golden) | {"rope_embed.periods": golden["alt_periods_bf16/periods"]}
    torch.save(state, tmp_path / "meta.pth")
    teacher = build_encoder(weights=tmp_path / "meta.pth", keep_periods=True).eval()
    student = build_encoder(weights=tmp_path / "meta.pth").eval()
    for image in "ab":
        x = golden[f"in/{image}"]
        with torch.no_grad():
            rounded = golden[f"alt_periods_bf16/{image}/x_norm_patchtokens"]
            exact = golden[f"out/{image}/x_norm_patchtokens"]
            assert difference(teacher.tokens(x), rounded) <= 1e-5 < difference(rounded, exact)
            assert difference(student.tokens(x), exact) <= 1e-5


def test_gradients_equal_dinov3(encoder, golden):
    x = golden["in/b"].clone().requires_grad_()
    (encoder.tokens(x) * golden["in/b_cotangent"]).sum().backward()
    vit, block = encoder.vit, encoder.vit.blocks[0].attn
    bias = torch.cat([block.q_bias.grad, torch.zeros(64), block.v_bias.grad])
    pairs = {
        "input": x.grad,
        "param/blocks.0.attn.qkv.bias": bias,
        "param/blocks.1.ls1.gamma": vit.blocks[1].gamma_1.grad,
        "param/norm.weight": vit.norm.weight.grad,
        "param/patch_embed.proj.bias": vit.patch_embed.proj.bias.grad,
        "param/storage_tokens": vit.reg_token.grad,
    }
    for name, found in pairs.items():
        expected = golden[f"grad/b/{name}"]
        assert difference(found, expected) <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("arch", ["tiny", "vits"])
def test_saved_weights_load_through_timm_alone(arch, tmp_path):
    encoder = build_encoder(arch).eval()
    path = tmp_path / "encoder.safetensors"
    save_file(encoder.vit.state_dict(), path)
    spec = encoder.spec
    vit = timm.create_model(spec["name"], checkpoint_path=str(path), **spec["kwargs"]).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        alone = vit.forward_features(x)[:, 5:]
        assert torch.equal(encoder.tokens(x), alone)


def test_archs_are_the_published_sizes():
    sizes = {
        "tiny": (96, 4, 8),
        "vits": (384, 12, 16),
        "vitb": (768, 12, 16),
        "vitl": (1024, 24, 16),
    }
    for arch, spec in ARCHS.items():
        with torch.device("meta"):
            encoder = Encoder(spec)
        assert (encoder.width, encoder.depth, encoder.patch) == sizes[arch]
    assert sum(weight.numel() for weight in encoder.parameters()) == 303_079_424


def test_own_checkpoint_says_its_architecture(tmp_path):
    encoder = build_encoder("tiny").eval()
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, {})
    again = build_encoder(weights=path).eval()
    assert again.spec == encoder.spec == checked_spec(dict(encoder.spec))
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(again.tokens(x), encoder.tokens(x))


@pytest.mark.parametrize(
    "spec",
    [None, {"name": "x"}, {"name": "x", "kwargs": {"checkpoint_path": "/a"}}]
    + [{"name": "x", "kwargs": {"pretrained": True}}],
)
def test_a_spec_from_a_file_is_only_numbers(spec, tmp_path):
    with pytest.raises(CheckpointError, match="description of an encoder"):
        checked_spec(spec)
    path = tmp_path / "encoder.safetensors"
    weights = build_encoder("tiny").vit.state_dict()
    save_tensors(path, weights, {"kind": "encoder", "arch": spec})
    with pytest.raises(CheckpointError, match="description of an encoder|malformed description"):
        build_encoder(weights=path)


def test_input_size_must_divide_into_patches():
    encoder = build_encoder("tiny")
    assert encoder.grid(96, 128) == (12, 16)
    for size in [(97, 128), (96, 4), (0, 8)]:
        with pytest.raises(ConfigError, match="multiples of 8"):
            encoder.tokens(torch.zeros(1, 3, *size))
    with pytest.raises(ConfigError, match="no such layer"):
        encoder.maps(torch.zeros(1, 3, 8, 8), [4])


def test_teacher_is_frozen():
    teacher = as_teacher(build_encoder("tiny").train())
    assert not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_weights_of_another_architecture_are_refused(golden, tmp_path):
    torch.save(meta_state(golden), tmp_path / "meta.pth")
    with pytest.raises(CheckpointError, match="missing: blocks.10.*of another shape: blocks.0"):
        build_encoder("vits", tmp_path / "meta.pth")
    with pytest.raises(ConfigError, match="not of this architecture"):
        build_encoder("vitb", "timm:vit_small_patch16_dinov3")


@pytest.mark.parametrize(
    "name",
    ["timm:vit_small_patch16_dinov3", "vit_base_patch16_dinov3.lvd1689m", "hf-hub:org/model"],
)
def test_weights_that_cannot_be_fetched_name_the_ways_out(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"
    )  # nobody listens
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)  # between tries of the hub's own client
    for offline in (True, False):
        with pytest.raises(EnvironmentProblem, match="licence.*name that file"):
            build_encoder(weights=name, offline=offline)
    assert sum(slept) < 8


@pytest.mark.parametrize(
    ("arch", "weights", "message"),
    [
        (None, None, "needs an architecture"),
        ("vitx", None, "unknown architecture"),
        (None, "vit_smal_patch16_dinov3", "vit_small_patch16_dinov3"),
        (None, "vit_small_patch16_dinov3.nowhere", "lvd1689m"),
        (None, "hf-hub:a/b/c", "not the name of a hub repository"),
        (None, "nowhere/weights", "file not found"),
        (None, "nowhere.pth", "file not found"),
        (None, "nowhere.pt", "file not found"),
    ],
)
def test_names_that_mean_nothing(arch, weights, message):
    with pytest.raises((ConfigError, CheckpointError), match=message):
        build_encoder(arch, weights)


def test_published_timm_weights_come_from_the_hub_cache(monkeypatch, tmp_path):
    """A file where the hub client keeps it stands in for a download."""
    original = timm.create_model("vit_small_patch16_dinov3").eval()
    file = tmp_path / "model.safetensors"
    save_file(original.state_dict(), file)
    monkeypatch.setattr("scaleevent.encoders.hub.hf_hub_download", lambda **kwargs: str(file))
    encoder = build_encoder("vits", "timm:vit_small_patch16_dinov3", offline=True).eval()
    assert encoder.spec == ARCHS["vits"]
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(encoder.tokens(x), original.forward_features(x)[:, 5:])
    with safe_open(file, "pt") as stored:
        assert set(stored.keys()) == set(encoder.vit.state_dict())


def test_the_examples_of_the_docstrings():
    result = doctest.testmod(scaleevent.encoders.encoder)
    assert result.attempted and not result.failed


# Colours: what a network was trained with


CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
SATELLITE = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_base_patch16_clip_224.openai", CLIP),
        ("vit_base_patch16_clip_224", None),
        ("vit_base_patch16_siglip_224", HALF),
        ("vit_small_patch16_224", HALF),
        ("vit_small_patch14_dinov2", IMAGENET),
        ("vit_small_patch16_dinov3", IMAGENET),
        ("vit_large_patch16_dinov3.sat493m", SATELLITE),
        ("deit3_small_patch16_224", IMAGENET),
    ],
)
def test_timm_knows_the_colours_of_its_weights(name, expected):
    with torch.device("meta"):
        config = timm.data.resolve_model_data_config(timm.create_model(name))
    found = colours_of_timm(name)
    assert (found.mean, found.std) == (config["mean"], config["std"])
    assert expected is None or (found.mean, found.std) == expected
    assert name in str(found)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("test_vit.r160_in1k", 1),
        ("hf-hub:timm/test_vit3.r160_in1k", 1),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 1),  # from an archive of arrays, at Google
        ("deit_tiny_distilled_patch16_224", 2),
        ("eva02_tiny_patch14_224", 1),
        ("vit_xsmall_patch16_clip_224", 1),
    ],
)
def test_any_plain_vit_of_timm_is_a_teacher(name, prefix, monkeypatch, tmp_path):
    """Its own tokens, whatever its patch, prefix tokens and positions, and its own colours."""
    bare = name.removeprefix("hf-hub:timm/")
    torch.manual_seed(0)
    original = timm.create_model(bare.partition(".")[0], dynamic_img_size=True).eval()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "scaleevent.encoders.hub.hf_hub_download", lambda **_: str(tmp_path / "model.safetensors")
    )
    source = name if name.startswith("hf-hub:") else f"timm:{name}"
    encoder = build_encoder(None, source, offline=True).eval()
    size = (3 * encoder.patch, 5 * encoder.patch)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = original.forward_features(x)[:, prefix:]
        assert expected.shape == (2, 15, encoder.width)
        assert torch.equal(encoder.tokens(x), expected)
        (features,) = encoder.maps(x, [-1])
        assert features.shape == (2, encoder.width, 3, 5)
    cfg = timm.get_pretrained_cfg(bare)
    assert (encoder.colours.mean, encoder.colours.std) == (cfg.mean, cfg.std)

    encoder.input = InputSettings(*size, encoder.patch, mean=cfg.mean, std=cfg.std)
    save_encoder(tmp_path / "encoder.safetensors", encoder, {})
    for again in (
        load_encoder(tmp_path / "encoder.safetensors"),
        build_encoder(None, tmp_path / "encoder.safetensors").eval(),
    ):
        assert again.input == encoder.input
        assert (again.colours.mean, again.colours.std) == (cfg.mean, cfg.std)
        with torch.no_grad():
            assert torch.equal(again.tokens(x), expected)


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_r_s16_p8_224", "vitamin_small_224", "swin_tiny_patch4_window7_224", "resnet18",
     "beit_base_patch16_224", "naflexvit_base_patch16_gap", "xcit_nano_12_p8_224",
     "test_vit_relpos"],
)  # fmt: skip
def test_other_networks_are_refused_by_name(name):
    with torch.device("meta"), pytest.raises(ConfigError, match=name) as caught:
        Encoder({"name": name, "kwargs": {}})
    assert "plain ViT" in str(caught.value) or "any input size" in str(caught.value)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_network_for_other_images_is_refused(channels):
    with pytest.raises(ConfigError, match=f"{channels} channels"):
        Encoder({"name": "test_vit", "kwargs": {"in_chans": channels}})


def test_colours_beside_a_weight_file(golden, tmp_path):
    """As Hugging Face and timm publish them; else by its name, else those of DINOv3."""

    def colours(folder: str, name: str = "x.pth", **files: object) -> Colours:
        (tmp_path / folder).mkdir()
        torch.save(meta_state(golden), tmp_path / folder / name)
        for kind, content in files.items():
            (tmp_path / folder / f"{kind}.json").write_text(json.dumps(content))
        return build_encoder(weights=tmp_path / folder / name).colours

    clip = {"mean": CLIP[0], "std": CLIP[1]}
    found = colours("hf", preprocessor_config={f"image_{key}": v for key, v in clip.items()})
    assert (found.mean, found.std) == CLIP and "preprocessor_config.json" in str(found)
    assert colours("timm", config={"pretrained_cfg": clip}).mean == CLIP[0]
    assert colours("none") == Colours() and "DINOv3" in str(Colours())
    assert colours("other", config=[1], preprocessor_config={"image_mean": None}) == Colours()
    assert colours("sat", "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth").mean == SATELLITE[0]
    for number, wrong in enumerate([[0.5, 0.5], 0.5, [0.1, 0.2, "a"], [0.1, 0.2, 0.0], None]):
        with pytest.raises(CheckpointError, match="mean and std"):
            config = {"image_mean": CLIP[0], "image_std": wrong}
            colours(f"wrong{number}", preprocessor_config=config)


def test_an_own_checkpoint_without_recorded_colours_used_imagenets(tmp_path):
    encoder = build_encoder("tiny")
    encoder.input = InputSettings(32, 48, 8)
    description = {"kind": "encoder", "arch": dict(encoder.spec)}
    known = {"height": 32, "width": 48, "patch": 8, "bins": 3, "normaliser": "robust8"}
    path = tmp_path / "x.safetensors"
    save_tensors(path, encoder.vit.state_dict(), description | {"input": known})
    again = load_encoder(path)
    assert again.input == replace(encoder.input, normaliser="robust8")
    assert (again.colours.mean, again.colours.std) == IMAGENET


def test_a_file_of_ours_of_another_architecture_or_kind(tmp_path):
    path = tmp_path / "x.safetensors"
    encoder = Encoder({"name": ARCHS["tiny"]["name"], "kwargs": ARCHS["tiny"]["kwargs"]})
    save_encoder(path, encoder, {})
    assert build_encoder("tiny", path).spec == encoder.spec
    with pytest.raises(CheckpointError, match="not of this architecture"):
        build_encoder("vits", path)
    other = Encoder(
        {"name": encoder.spec["name"], "kwargs": encoder.spec["kwargs"] | {"num_heads": 2}}
    )
    save_encoder(path, other, {})  # the same shapes, other features
    with pytest.raises(CheckpointError, match="not of this architecture"):
        build_encoder("tiny", path)
    save_tensors(path, encoder.vit.state_dict(), {"kind": "task", "arch": dict(encoder.spec)})
    with pytest.raises(CheckpointError, match="another kind"):
        build_encoder("tiny", path)


@pytest.mark.slow
def test_a_teacher_sees_its_own_colours_from_pretraining_to_probing(monkeypatch, tmp_path, capfd):
    original = timm.create_model("test_vit")  # patches of 16, colours of mean and deviation 0.5
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "scaleevent.encoders.hub.hf_hub_download", lambda **_: str(tmp_path / "model.safetensors")
    )
    seen = []
    monkeypatch.setattr(
        "scaleevent.pairs.sample_inputs.image_input",
        lambda pixels, fit, mean, std: (
            seen.append((mean, std)) or image_input(pixels, fit, mean, std)
        ),
    )
    pairs, encoder = tmp_path / "pairs", tmp_path / "run" / "encoder.safetensors"
    call(f"prepare street -o {pairs} --scenes 12 --size 48x64")
    short = "--size 48x64 --epochs 1 --draws 8 --batch 4 --workers 0 --validation 0.3 --no-probe"
    call(f"pretrain {pairs} --teacher timm:test_vit {short} -o {tmp_path / 'run'}")
    assert "teacher's colours: mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5" in capfd.readouterr().err
    assert set(seen) == {HALF}
    assert load_encoder(encoder).input == InputSettings(
        48, 64, 16, 3, DEFAULT_NORMALISER, mean=HALF[0], std=HALF[1]
    )
    call(f"info {encoder} --json")
    facts = json.loads(capfd.readouterr().out)
    assert facts["input"]["mean"] == facts["teacher"]["mean"] == [0.5, 0.5, 0.5]

    call(f"pretrain {pairs} --teacher {encoder} {short} --teacher-mean 0.4,0.5,0.6"
         f" --teacher-std 0.2,0.3,0.25 -o {tmp_path / 'told'}")  # fmt: skip
    assert set(seen) == {HALF, ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))}
    told = load_encoder(tmp_path / "told" / "encoder.safetensors").input
    assert told.mean == (0.4, 0.5, 0.6) and told.std == (0.2, 0.3, 0.25)

    voxels = []
    monkeypatch.setattr(
        "scaleevent.grids.inputs.voxel_input",
        lambda *given: voxels.append(given[3:]) or voxel_input(*given),
    )
    for source in (encoder, "timm:test_vit"):
        options = "--size 48x64 --epochs 1 --batch 2 --pictures 0 --workers 0 --transductive"
        out = f"-o {tmp_path / 'probe'} --overwrite"
        call(f"probe street-depth {source} --data {pairs} {options} {out}")
        assert "encoder's channels: mean 0.5, 0.5, 0.5" in capfd.readouterr().err
        assert set(voxels) == {HALF}
    task = tmp_path / "probe" / "task.safetensors"
    assert load_task(task)[0].encoder.input.mean == HALF[0]


@pytest.mark.parametrize(
    "flags",
    [
        {"teacher_mean": "0.5,0.5"}, {"teacher_mean": "123.7,116.3,103.5"},
        {"teacher_std": "0,1,1"}, {"teacher_mean": "a,b,c"}, {"teacher_std": "nan,1,1"},
        {"teacher_mean": [0.1, -0.2, 0.3]},
    ],
    ids=str,
)  # fmt: skip
def test_colours_that_cannot_be_are_refused(flags):
    with pytest.raises(ConfigError, match=next(iter(flags))):
        load_config(PretrainConfig, flags)


def test_colours_are_three_numbers():
    found = load_config(
        PretrainConfig, {"teacher_mean": "0.48, 0.46,0.41", "teacher_std": (1, 1, 1)}
    )
    assert found.teacher_mean == (0.48, 0.46, 0.41) and found.teacher_std == (1, 1, 1)


def test_images_and_voxels_are_standardised_as_asked():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3), np.uint8)
    fit, (mean, std) = Fit(6, 8, 6, 8), CLIP
    centre, spread = (np.array(values)[:, None, None] for values in (mean, std))
    expected = (image.transpose(2, 0, 1) / 255 - centre) / spread
    np.testing.assert_allclose(image_input(image, fit, mean, std), expected, atol=1e-6)
    voxel = rng.normal(size=(3, 6, 8)).astype(np.float32)
    scaled = (voxel - voxel.min()) / (voxel.max() - voxel.min())
    settings = InputSettings(6, 8, 2, mean=mean, std=std)
    np.testing.assert_allclose(
        settings.prepare(voxel.copy(), fit), (scaled - centre) / spread, atol=1e-5
    )
