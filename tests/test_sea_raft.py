"""SEA-RAFT against the published implementation, against slow loops, and its use of the encoder."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from scaleevent.decoders.flow_parts import resize_flow, sequence_loss
from scaleevent.decoders.sea_raft import SIZES, SeaRaft, Size
from scaleevent.decoders.sea_raft_correlation import CorrelationPyramid
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import CheckpointError, ConfigError, DataError
from scaleevent.grids.inputs import IMAGENET_MEAN, IMAGENET_STD

GOLDEN = Path(__file__).parent / "data" / "sea_raft.safetensors"
STRIDED = (..., slice(None, None, 4), slice(None, None, 4))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    """Weights, inputs, outputs and gradients of princeton-vl/SEA-RAFT with few channels."""
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def published(golden) -> dict[str, torch.Tensor]:
    """The weights as a safetensors export names them."""
    state = {name[3:]: value for name, value in golden.items() if name.startswith("sd/")}
    return {name: v.float() if v.is_floating_point() else v for name, v in state.items()}


@pytest.fixture(autouse=True)
def golden_size(monkeypatch):
    monkeypatch.setitem(SIZES, "golden", Size(24, 16, (16, 24, 32), (2, 2, 2)))


@pytest.fixture(scope="module")
def frames(golden) -> torch.Tensor:
    return torch.cat([golden["in/image1"], golden["in/image2"]]) / 127.5 - 1


def small_encoder(patch: int = 8) -> Encoder:
    torch.manual_seed(0)
    kwargs = {"patch_size": patch, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return Encoder({"name": ARCHS["tiny"]["name"], "kwargs": kwargs})


def voxels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The published network


def test_outputs_loss_and_gradients_are_the_published_ones(golden, published, frames):
    decoder = SeaRaft(small_encoder(), "golden", iters=2, fuse=False).eval()
    decoder.load_published(published)
    raw = decoder.estimates(frames)
    assert len(raw) == 3
    for index, estimate in enumerate(raw):
        torch.testing.assert_close(
            estimate.flow[STRIDED], golden[f"out/flow/{index}"], atol=1e-3, rtol=0
        )
    torch.testing.assert_close(raw[-1].info[STRIDED], golden["out/info/2"], atol=1e-3, rtol=0)

    target = golden["in/flow_gt"].float()
    target = torch.where(golden["in/valid"][:, None] > 0, target, math.nan)
    loss = sequence_loss(raw, target)
    torch.testing.assert_close(loss, golden["out/loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        sequence_loss(raw, target, gamma=0.8), golden["out/loss_gamma0.8"], atol=1e-4, rtol=0
    )
    for value in raw[-1]:
        value.retain_grad()
    loss.backward()
    for name, value in zip(("flow", "info"), raw[-1], strict=True):
        expected = golden[f"grad/{name}/last"]
        torch.testing.assert_close(value.grad[..., :40, :40], expected, atol=1e-7, rtol=1e-3)
    for name in [name for name in golden if name.startswith("grad/param/")]:
        gradient = decoder.get_parameter(name.removeprefix("grad/param/")).grad
        scale = golden[name].abs().max().item()
        torch.testing.assert_close(gradient, golden[name], atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize(("size", "count"), [("S", 8_883_460), ("M", 19_663_876)])
def test_parameter_counts_are_the_published_ones(size, count):
    with torch.device("meta"):
        decoder = SeaRaft(small_encoder(), size, fuse=False)
    own = [p for name, p in decoder.named_parameters() if not name.startswith("encoder.")]
    assert sum(parameter.numel() for parameter in own) == count


@pytest.mark.parametrize(
    ("arch", "ours", "papers"),
    [("vits", 25.35, 40.95), ("vitb", 73.66, 135.62), ("vitl", 236.94, 485.27)],
)
def test_the_papers_flow_model_is_a_larger_one(arch, ours, papers):
    """Counted as table 19: thop leaves out fused qkv, layer scales and tokens."""
    with torch.device("meta"):
        small, medium = (SeaRaft(Encoder(ARCHS[arch]), size) for size in ("S", "M"))

    def counted(decoder: SeaRaft) -> float:
        left_out = ("qkv", "gamma", "_token")
        own = [
            p.numel() for n, p in decoder.named_parameters() if not any(x in n for x in left_out)
        ]
        return sum(own) / 1e6

    assert round(counted(small), 2) == ours < papers
    assert round(counted(medium) - counted(small), 2) == 10.78


def test_pth_names_load_too(published):
    """A .pth holds the shortcut's norm twice; some exports keep the other name."""
    other = {name.replace(".bn3.", ".downsample.1."): v for name, v in published.items()}
    states = []
    for names in (published, published | other, other):
        decoder = SeaRaft(small_encoder(), "golden")
        loaded = decoder.load_published(names)
        assert set(loaded.loaded) == set(published) and not loaded.unused
        states.append(decoder.own_state())
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())
    name = next(name for name in other if name not in published)
    with pytest.raises(CheckpointError, match="two names of one tensor"):
        SeaRaft(small_encoder(), "golden").load_published(
            published | other | {name: other[name] + 1}
        )


def test_wrong_files_are_refused_by_name(published):
    decoder = SeaRaft(small_encoder(), "golden")
    before = {name: value.clone() for name, value in decoder.own_state().items()}
    lacking = {name: value for name, value in published.items() if name != "init_conv.bias"}
    with pytest.raises(CheckpointError, match=r"missing: init_conv\.bias"):
        decoder.load_published(lacking)
    with pytest.raises(CheckpointError, match="unexpected: surplus"):
        decoder.load_published(published | {"surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="another shape"):
        SeaRaft(small_encoder(), "tiny").load_published(published)
    assert all(torch.equal(value, before[name]) for name, value in decoder.own_state().items())


# Correlation


def test_windows_are_the_slow_loop():
    """Every sample by hand: bilinear, zero outside, columns outermost, each level halved."""
    torch.manual_seed(0)
    radius, levels, (c, h, w) = 2, 2, (3, 4, 6)
    first, second = torch.randn(2, 1, c, h, w)
    flow = 2.5 * torch.randn(1, 2, h, w)
    found = CorrelationPyramid(first, second, levels).windows(flow, radius)
    side = 2 * radius + 1
    assert found.shape == (1, levels * side**2, h, w)
    for level in range(levels):
        rows, columns = h // 2**level, w // 2**level
        target = second[0].view(c, rows, 2**level, columns, 2**level).mean((2, 4))
        for i, j, y, x in product(range(side), range(side), range(h), range(w)):
            u = (x + flow[0, 0, y, x].item()) / 2**level + i - radius
            v = (y + flow[0, 1, y, x].item()) / 2**level + j - radius
            expected = 0.0
            for row, column in product(range(rows), range(columns)):
                share = max(0, 1 - abs(u - column)) * max(0, 1 - abs(v - row))
                product_ = (first[0, :, y, x] @ target[:, row, column]).item() / math.sqrt(c)
                expected += share * product_
            value = found[0, level * side**2 + i * side + j, y, x].item()
            assert value == pytest.approx(expected, abs=1e-5)


def test_windows_are_the_published_ones(golden):
    """The golden lookup lies at 0.3 cells right and down, of features we must compute first."""
    decoder = SeaRaft(small_encoder(), "golden", fuse=False).eval()
    state = {name[3:]: value for name, value in golden.items() if name.startswith("sd/")}
    decoder.load_published(state)
    images = torch.cat([golden["in/image1"], golden["in/image2"]]) / 127.5 - 1
    rows, columns = golden["dbg/padded_shape"].tolist()[-2:]
    down, right = rows - images.shape[2], columns - images.shape[3]
    padding = (right // 2, right - right // 2, down // 2, down - down // 2)
    with torch.no_grad():
        matching = decoder.fnet(F.pad(images, padding, mode="replicate"))
    torch.testing.assert_close(matching[:1, :8], golden["dbg/fmap1"], atol=1e-4, rtol=0)
    windows = CorrelationPyramid(*matching.chunk(2), levels=4).windows(
        torch.full((1, 2, *matching.shape[2:]), 0.3), radius=4
    )
    torch.testing.assert_close(windows[STRIDED], golden["dbg/corr_at_plus0.3"], atol=1e-3, rtol=0)


def test_a_planted_shift_is_where_the_windows_peak():
    torch.manual_seed(0)
    right, down, radius = 3, -2, 4
    first = F.normalize(torch.randn(1, 64, 16, 20), dim=1)
    second = first.roll((down, right), (2, 3))
    window = CorrelationPyramid(first, second, 1).windows(torch.zeros(1, 2, 16, 20), radius)
    peak = window[0, :, 4:-4, 4:-4].argmax(0)
    assert (peak == (right + radius) * (2 * radius + 1) + down + radius).all()


def test_a_fresh_tiny_network_already_sees_a_shift():
    """Its matching features are normalised; without that most windows peak anywhere."""
    decoder = SeaRaft(small_encoder(), "tiny", iters=1, fuse=False).train()
    for parameter in decoder.flow_head.parameters():
        torch.nn.init.zeros_(parameter)  # so that windows lie around no motion
    seen = []
    decoder.update_block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    frame = voxels(1, 3, 96, 128)
    decoder.estimates(torch.cat([frame, frame.roll((-8, 16), (2, 3))]))
    finest = seen[0][0, :81, 3:-3, 3:-3].detach()
    assert (finest.argmax(0) == (2 + 4) * 9 + (-1 + 4)).float().mean() > 0.9


# The adapter


def test_published_weights_start_as_published_and_the_encoder_blends_in(published):
    alone = SeaRaft(small_encoder(), "golden", fuse=False).eval()
    fused = SeaRaft(small_encoder(), "golden").eval()
    alone.load_published(published)
    loaded = fused.load_published(published)
    assert set(loaded.fresh) == {
        f"fuse_{place}.{part}" for place in ("match", "context") for part in ("weight", "bias")
    }
    before, after = voxels(2, 1, 3, 64, 96)
    with torch.no_grad():
        expected = alone(before, after)[0].flow
        assert torch.equal(fused(before, after)[0].flow, expected)
        fused.fuse_context.weight.normal_()
        assert not torch.allclose(fused(before, after)[0].flow, expected, atol=1e-2)
        fused.fuse_context.weight.zero_()
        fused.fuse_match.weight.normal_()
        assert not torch.allclose(fused(before, after)[0].flow, expected, atol=1e-2)


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_every_weight_learns_with_any_patch(patch):
    """14 does not divide into cells of 8 pixels, and 98 rows are fewer than the pyramid wants."""
    decoder = SeaRaft(small_encoder(patch), "golden", iters=2).train()
    height, width = (98, 140) if patch == 14 else (96, 144)
    raw = decoder(*voxels(2, 2, 3, height, width))
    assert len(raw) == 3 and raw[-1].flow.shape == (2, 2, height, width)
    terms = decoder.loss(raw, torch.full((2, 2, height, width), 2.0))
    assert set(terms) == set(decoder.weights)
    terms["flow"].backward()
    asleep = [name for name, p in decoder.named_parameters() if p.grad is None]
    assert asleep == list(decoder.dead_parameters()) == []


def test_tokens_lie_over_their_pixels():
    """Features of one token reach the cells of its own pixels, though the input is padded."""
    decoder = SeaRaft(small_encoder(16), "golden", iters=1).eval()
    seen = []
    decoder.init_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = torch.zeros(2, 32, 4, 6)  # of 64 x 96 pixels, padded to 128 x 128
    frames = torch.zeros(2, 3, 64, 96)
    with torch.no_grad():
        decoder.estimates(frames, tokens)
        tokens[0, :, 1, 4] = 1
        decoder.estimates(frames, tokens)
    changed = (seen[1] - seen[0]).abs().sum((0, 1))
    rows, columns = torch.nonzero(changed == changed.max(), as_tuple=True)
    # 4 rows of cells above, 2 columns to the left; a token covers 2 x 2 cells
    assert set(rows.tolist()) == {4 + 2, 4 + 3} and set(columns.tolist()) == {2 + 8, 2 + 9}


def test_outside_of_training_only_the_last_estimate_is_made():
    """And an input is brought from ImageNet's mean and deviation to -1..1."""
    decoder = SeaRaft(small_encoder(), "tiny").eval()
    pictures = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    inputs = (pictures - mean) / std
    with torch.no_grad():
        (last,) = decoder(*inputs.chunk(2))
        every = decoder.estimates(2 * pictures - 1, decoder.encoder.maps(inputs, [-1])[0])
    assert len(every) == decoder.iters + 1
    torch.testing.assert_close(last.flow, every[-1].flow, atol=1e-4, rtol=0)


def test_prediction_is_the_last_flow_in_pixels_of_the_grid_asked_for():
    decoder = SeaRaft(small_encoder(), "tiny").eval()
    with torch.no_grad():
        raw = decoder(*voxels(2, 1, 3, 32, 48))
    assert torch.equal(decoder.predict(raw, (32, 48)), raw[-1].flow)
    assert torch.equal(decoder.predict(raw, (16, 96)), resize_flow(raw[-1].flow, (16, 96)))


def test_mixed_precision_keeps_positions_exact():
    decoder = SeaRaft(small_encoder(), "tiny").train()
    with torch.autocast("cpu", torch.bfloat16):
        raw = decoder(*voxels(2, 1, 3, 32, 48))
        loss = decoder.loss(raw, torch.zeros(1, 2, 32, 48))["flow"]
    loss.backward()
    assert raw[-1].flow.dtype == torch.float32 and loss.isfinite()


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ConfigError, match="unknown size"):
        SeaRaft(small_encoder(), "XL")
    with pytest.raises(ConfigError, match="at least once"):
        SeaRaft(small_encoder(), "tiny", iters=0)
    with pytest.raises(DataError, match="two event windows"):
        SeaRaft(small_encoder(), "tiny")(voxels(1, 3, 32, 48))


def test_settings_rebuild_it():
    decoder = SeaRaft(small_encoder(), "tiny", iters=2, fuse=False)
    again = SeaRaft(small_encoder(), **decoder.settings)
    again.load_own(decoder.own_state())
    assert again.dead_parameters() and all(
        name.startswith("encoder.") for name in again.dead_parameters()
    )
