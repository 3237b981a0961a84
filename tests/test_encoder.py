"""The encoder against Meta's own outputs, against timm, and its ways of finding weights."""

import doctest
import json
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, safe_open, save_file

import scaleevent.encoders.encoder
from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher, build_encoder, checked_spec
from scaleevent.encoders.weights import convert_weights
from scaleevent.errors import CheckpointError, ConfigError, EnvironmentProblem

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
    about = {"format": 1, "kind": "encoder", "arch": encoder.spec}
    save_file(encoder.vit.state_dict(), path, {"scaleevent": json.dumps(about)})
    again = build_encoder(weights=path).eval()
    assert again.spec == encoder.spec == checked_spec(about["arch"])
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
    save_file(weights, path, {"scaleevent": json.dumps({"arch": spec})})
    with pytest.raises(CheckpointError, match="description of an encoder"):
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
    for offline in (True, False):
        start = time.perf_counter()
        with pytest.raises(EnvironmentProblem, match="licence.*--teacher FILE.*--arch tiny"):
            build_encoder(weights=name, offline=offline)
        assert time.perf_counter() - start < 8


@pytest.mark.parametrize(
    ("arch", "weights", "message"),
    [
        (None, None, "needs an architecture"),
        ("vitx", None, "unknown architecture"),
        (None, "vit_smal_patch16_dinov3", "vit_small_patch16_dinov3"),
        (None, "vit_small_patch16_dinov3.nowhere", "lvd1689m"),
        (None, "hf-hub:a/b/c", "not the name of a hub repository"),
        (None, "nowhere/weights", "cannot read"),
        (None, "nowhere.pth", "cannot read"),
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
