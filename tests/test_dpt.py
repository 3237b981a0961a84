"""Depth Anything V2's decoder against its original, and every layout its weights come in."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scaleevent.decoders.dpt import DPT
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.encoders.tensor_files import read_tensors
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.training.terms import total

GOLDEN = Path(__file__).parent / "data" / "dpt_head.safetensors"
HEAD, METRES = 1e-6, 1e-4  # what the golden file allows; on one thread, ours are equal to the bit
# Of the largest value, for what it states no limit for: the recorded float32 numbers are themselves
# up to 2.3e-6 of it away from the same network in float64.
ROUNDING = 5e-6
SMALL = {"features": 16, "out_channels": (8, 16, 24, 24), "layers": (0, 1, 2, 3)}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """DepthAnything/Depth-Anything-V2's heads with random weights on random tokens."""
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def head(golden) -> dict[str, Tensor]:
    """The original's weights under its names below `depth_head.`."""
    return {name[3:]: value.float() for name, value in golden.items() if name.startswith("sd/")}


def small(patch: int = 16, **settings) -> DPT:
    """A decoder of the golden file's size."""
    kwargs = {"patch_size": patch, "embed_dim": 48, "depth": 4, "num_heads": 3}
    encoder = Encoder({"name": "vit_small_patch16_dinov3", "kwargs": kwargs})
    return DPT(encoder, **SMALL, **settings)


def golden_maps(golden: dict[str, Tensor]) -> list[Tensor]:
    """The golden tokens as maps of 4 x 6, with the strides that the original makes of them."""
    tokens = [golden[f"in/tokens/{level}"] for level in range(4)]
    return [each.mT.unflatten(2, (4, 6)).requires_grad_() for each in tokens]


def close(ours: Tensor, recorded: Tensor, rounding: float = HEAD) -> bool:
    return bool((ours - recorded).abs().max() <= rounding)


def nearly(ours: Tensor, recorded: Tensor) -> bool:
    return close(ours, recorded, ROUNDING * max(1, recorded.abs().max().item()))


@pytest.mark.parametrize(
    ("kind", "patch", "max_depth", "name"),
    [
        ("metric", 16, 1.0, "scaleevent_metric_patch16/head"),
        ("metric", 16, 80.0, "scaleevent_metric_patch16/depth_max80"),
        ("metric", 14, 1.0, "upstream_metric_patch14/head"),
        ("relative", 14, 80.0, "upstream_relative_patch14/head"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_depth_equals_the_original(golden, head, kind, patch, max_depth, name, training):
    """Within what the file allows, or within what it is itself off the same network in float64.

    The latter on processors whose convolutions add in another order than where it was recorded.
    """
    decoder = small(patch, kind=kind, max_depth=max_depth)
    decoder.load_published(head)
    with torch.set_grad_enabled(training):
        depth = decoder.from_maps(golden_maps(golden))
    recorded = golden[f"out/{name}"].reshape(depth.shape)
    rounding = METRES if name.endswith("depth_max80") else HEAD
    with torch.no_grad():
        exact = decoder.double().from_maps([each.double() for each in golden_maps(golden)])
    off = (exact - recorded).abs().max().item()
    assert off <= max(rounding, ROUNDING * max(1, recorded.abs().max().item()))
    assert close(depth, recorded, max(rounding, off))


def test_fused_maps_and_gradients_equal_the_original(golden, head):
    decoder = small(max_depth=1.0)
    decoder.load_published(head)
    paths = {}
    for level in range(1, 5):
        decoder.scratch[f"refinenet{level}"].register_forward_hook(
            lambda module, given, out, level=level: paths.update({level: out})
        )
    maps = golden_maps(golden)
    (decoder.from_maps(maps) * golden["in/cotangent"][:, 0]).sum().backward()
    for level, path in paths.items():
        assert nearly(path[:1], golden[f"out/scaleevent_metric_patch16/path_{level}"])
    gradients = {f"tokens/{i}": each.grad.flatten(2).mT for i, each in enumerate(maps)}
    gradients |= {f"param/{name}": p.grad for name, p in decoder.named_parameters()}
    names = [name for name in golden if name.startswith("grad/")]
    assert len(names) == 9
    for name in names:
        assert nearly(gradients[name.removeprefix("grad/")], golden[name]), name


# sizes

# facebookresearch/dinov3's modules, with mask token and the qkv bias that has no effect
DINOV3 = {"vits": 21_601_152, "vitb": 85_669_632, "vitl": 303_154_176}
HEADS = {"vits": 2_728_513, "vitb": 10_890_305, "vitl": 30_947_009}
TRUE_M = {"vits": 24.330, "vitb": 96.560, "vitl": 334.101}
THOP = {"vits": 18_922_049, "vitb": 74_980_417, "vitl": 257_294_529}  # the paper's table 19


@pytest.mark.parametrize("arch", HEADS)
def test_parameter_counts_are_those_of_the_paper(arch):
    with torch.device("meta"):
        decoder = DPT(Encoder(ARCHS[arch]))
    counts = {name: p.numel() for name, p in decoder.named_parameters()}
    own = sum(count for name, count in counts.items() if not name.startswith("encoder."))
    assert own == HEADS[arch] == sum(v.numel() for v in decoder.own_state().values())

    encoder, width, depth = decoder.encoder, decoder.encoder.width, decoder.encoder.depth
    # timm leaves out the mask token and the qkv bias, whose stored mask is zero
    meta = sum(p.numel() for p in encoder.parameters()) + width + depth * 3 * width
    assert meta == DINOV3[arch]
    assert round((meta + own) / 1e6, 3) == TRUE_M[arch]

    # thop, which counted for the paper, knows no fused qkv, layer scales and tokens, and counts
    # nothing that does not run
    qkv = depth * 3 * width * (width + 1)
    scales, tokens = depth * 2 * width, (1 + 4 + 1) * width
    dead = sum(counts[name] for name in decoder.dead_parameters())
    assert meta + own - qkv - scales - tokens - dead == THOP[arch]


@pytest.mark.parametrize("arch", ARCHS)
def test_every_encoder_gives_depth_at_the_inputs_size(arch):
    with torch.device("meta"):
        decoder = DPT(Encoder(ARCHS[arch]))
        maps = [torch.empty(2, decoder.encoder.width, 3, 5) for _ in range(4)]
        patch = decoder.encoder.patch
        assert decoder.from_maps(maps).shape == (2, 3 * patch, 5 * patch)
    assert len(decoder.layers) == 4 and max(decoder.layers) == decoder.encoder.depth - 1


@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_tiny_trains_and_predicts(kind):
    torch.manual_seed(0)
    decoder = DPT(Encoder(ARCHS["tiny"]), kind=kind)
    raw = decoder(torch.randn(2, 3, 96, 128))
    assert raw.shape == (2, 96, 128)
    target = 1 + 30 * torch.rand(2, 96, 128)
    target[0, :50] = torch.nan
    total(decoder.loss(raw, target), decoder.weights).backward()
    assert not any(decoder.get_parameter(name).requires_grad for name in decoder.dead_parameters())
    without = {name for name, p in decoder.named_parameters() if p.grad is None}
    assert without == set(decoder.dead_parameters()) and len(without) == 4
    gradients = [p.grad for p in decoder.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert decoder.predict(raw, (60, 80)).shape == (2, 60, 80)

    nothing = decoder.loss(raw.detach().requires_grad_(), torch.full((2, 96, 128), torch.nan))
    assert total(nothing, decoder.weights) == 0


def test_a_metric_depth_is_between_zero_and_max_depth():
    decoder = small(max_depth=20.0)
    depth = decoder.from_maps([100 * torch.randn(1, 48, 2, 3) for _ in range(4)])
    assert 0 <= depth.min() and depth.max() <= 20


def test_prediction_is_resized_with_aligned_corners():
    raw = torch.arange(12.0).view(1, 3, 4)
    resized = small().predict(raw, (5, 7))
    assert torch.equal(resized[:, ::2, ::2], raw)  # every old pixel is a new one
    assert resized[0, 1, 1] == pytest.approx((0 + 1 + 4 + 5) / 4)


def test_settings_rebuild_the_decoder(head):
    decoder = small(kind="relative", max_depth=30.0)
    again = DPT(decoder.encoder, **decoder.settings)
    again.load_own(decoder.own_state())
    assert again.settings == decoder.settings
    assert set(decoder.own_state()) == set(head)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "absolute"},
        {"max_depth": 0.0},
        {"out_channels": (1, 2, 3)},
        {"layers": (0, 1, 2, 4)},
        {"layers": (-1, 1, 2, 3)},
        {"features": 1},
    ],
)
def test_unusable_settings_are_refused(settings):
    with torch.device("meta"), pytest.raises(ConfigError):
        DPT(Encoder(ARCHS["tiny"]), **settings)


def test_an_encoder_of_unknown_size_must_be_given():
    kwargs = {"embed_dim": 48, "depth": 4, "num_heads": 3}
    with pytest.raises(ConfigError, match="features, out_channels and layers"):
        DPT(Encoder({"name": "vit_small_patch16_dinov3", "kwargs": kwargs}))


# published files

ENCODER = {"pretrained.cls_token": torch.zeros(1, 1, 48), "pretrained.norm.bias": torch.zeros(48)}

# huggingface/transformers, DepthAnythingForDepthEstimation; indices run over levels
HUGGING_FACE = {
    "projects.{i}.": "neck.reassemble_stage.layers.{i}.projection.",
    "resize_layers.{i}.": "neck.reassemble_stage.layers.{i}.resize.",
    "scratch.layer{k}_rn.": "neck.convs.{i}.",
    "scratch.refinenet{k}.out_conv.": "neck.fusion_stage.layers.{r}.projection.",
    "scratch.refinenet{k}.resConfUnit1.conv1.": (
        "neck.fusion_stage.layers.{r}.residual_layer1.convolution1."
    ),
    "scratch.refinenet{k}.resConfUnit1.conv2.": (
        "neck.fusion_stage.layers.{r}.residual_layer1.convolution2."
    ),
    "scratch.refinenet{k}.resConfUnit2.conv1.": (
        "neck.fusion_stage.layers.{r}.residual_layer2.convolution1."
    ),
    "scratch.refinenet{k}.resConfUnit2.conv2.": (
        "neck.fusion_stage.layers.{r}.residual_layer2.convolution2."
    ),
    "scratch.output_conv1.": "head.conv1.",
    "scratch.output_conv2.0.": "head.conv2.",
    "scratch.output_conv2.2.": "head.conv3.",
}


def hugging_face(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file as Hugging Face publishes it."""
    table = {
        ours.format(i=i, k=i + 1): theirs.format(i=i, r=3 - i)
        for ours, theirs in HUGGING_FACE.items()
        for i in range(4)
    }
    renamed = {
        name.replace(ours, theirs): value
        for name, value in head.items()
        for ours, theirs in table.items()
        if name.startswith(ours)
    }
    assert len(renamed) == len(head)
    return renamed | {"backbone.embeddings.cls_token": torch.zeros(1, 1, 48)}


def original(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file as Depth Anything V2 publishes it."""
    return {f"depth_head.{name}": value for name, value in head.items()} | ENCODER


@pytest.mark.parametrize("layout", ["pth", "training", "huggingface", "bare"])
def test_every_layout_loads_and_says_what_it_left(golden, head, tmp_path, layout):
    if layout == "pth":
        path, unused = tmp_path / "depth_anything_v2_metric_vkitti_vits.pth", set(ENCODER)
        torch.save(original(head), path)
    elif layout == "training":
        path, unused = tmp_path / "latest.pth", {f"module.{name}" for name in ENCODER}
        model = {f"module.{name}": value for name, value in original(head).items()}
        torch.save({"model": model, "epoch": 3, "previous_best": {"d1": 0.9}}, path)
    elif layout == "huggingface":
        path, unused = tmp_path / "model.safetensors", {"backbone.embeddings.cls_token"}
        save_file(hugging_face(head), path)
    else:
        path, unused = tmp_path / "head.safetensors", set()
        save_file(head, path)
    decoder = small(max_depth=1.0)
    report = decoder.load_published(read_tensors(path)[0], path)
    assert set(report.loaded) == set(head) and not report.fresh
    assert set(report.unused) == unused
    depth = decoder.from_maps(golden_maps(golden))
    assert close(depth, golden["out/scaleevent_metric_patch16/head"][:, 0])


@pytest.mark.parametrize("layout", [original, hugging_face])
def test_wrong_keys_are_named(head, layout):
    missing = layout(head)
    del missing[next(name for name, value in missing.items() if value is head["projects.2.bias"])]
    with pytest.raises(CheckpointError, match=r"1 missing: projects\.2\.bias"):
        small().load_published(missing)
    prefix = "depth_head." if layout is original else "neck."
    with pytest.raises(CheckpointError, match=r"unexpected: .*readout_projects"):
        extra = {f"{prefix}readout_projects.0.0.weight": torch.zeros(2)}
        small().load_published(layout(head) | extra)


def test_a_head_of_another_size_is_refused(head):
    other = {name: torch.cat([value, value]) for name, value in head.items()}
    with pytest.raises(CheckpointError, match=re.escape("of another shape")):
        small().load_published(original(other), "file.pth")


@pytest.mark.parametrize("tensors", [{}, ENCODER, {"head.weight": torch.zeros(3)}])
def test_files_without_a_depth_head_are_refused(tensors):
    with pytest.raises(CheckpointError, match="no depth head"):
        small().load_published(tensors, "file.pth")


def test_weights_that_are_not_finite_are_refused(head):
    broken = original(head)
    broken["depth_head.projects.1.bias"] = torch.full((16,), torch.nan)
    with pytest.raises(CheckpointError, match=r"not finite[^$]*projects\.1\.bias"):
        small().load_published(broken)


@pytest.mark.parametrize(
    ("name", "kind", "patch", "words"),
    [
        ("depth_anything_v2_metric_vkitti_vits.pth", "metric", 14, []),
        ("depth_anything_v2_metric_vkitti_vits.pth", "metric", 16, ["patches of 14"]),
        ("depth_anything_v2_metric_hypersim_vitl.pth", "metric", 14, ["max_depth 20 m, here 80"]),
        ("depth_anything_v2_vitb.pth", "relative", 14, []),
        ("depth_anything_v2_vitb.pth", "metric", 14, ["a relative head in a metric decoder"]),
        (
            "models--depth-anything--Depth-Anything-V2-Metric-Indoor-Small-hf/model.safetensors",
            "relative",
            14,
            ["a metric head in a relative decoder"],
        ),
        ("latest.pth", "metric", 14, ["does not say whether its depth is metric"]),
    ],
)
def test_notes_tell_what_a_file_was_trained_for(head, name, kind, patch, words):
    notes = small(patch, kind=kind).load_published(original(head), name).notes
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))
