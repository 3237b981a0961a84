"""WAFT: its pieces against the published implementation, its keys, and the adapter."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scaleevent.decoders.flow_parts import centred_padding, resize_flow, upsample_estimate, warp
from scaleevent.decoders.waft import Waft, padded_side
from scaleevent.decoders.waft_backbone import TokenPyramid
from scaleevent.decoders.waft_refine import Refiner, RefinerSize
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import CheckpointError, ConfigError, DataError

GOLDEN = Path(__file__).parent / "data" / "waft_parts.safetensors"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    """Pieces of zhiwen-xdu/ScaleEvent's WAFT, with few channels."""
    return load_file(GOLDEN)


def part(golden: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    names = [name for name in golden if name.startswith(prefix)]
    return {name.removeprefix(prefix): golden[name] for name in names}


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def decoder(arch: str = "tiny", **settings) -> Waft:
    torch.manual_seed(0)
    return Waft(Encoder(ARCHS[arch]), **settings)


def voxels(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# The published network


def test_pyramid_is_the_published_one(golden):
    pyramid = TokenPyramid(width=20, features=8, channels=(6, 8, 12, 16), finest=3)
    pyramid.load_state_dict(part(golden, "dpt/sd/"))
    outputs = {}
    for level, block in enumerate(pyramid.refine):
        block.register_forward_hook(lambda *call, level=level: outputs.update({level: call[-1]}))
    maps = [golden[f"dpt/in/{i}"].transpose(1, 2).unflatten(2, (3, 4)) for i in range(4)]
    with torch.no_grad():
        finest = pyramid(maps)
    for level in range(4):
        assert_close(outputs[level], golden[f"dpt/out/{level}"])
    assert_close(finest, golden["dpt/out/final_half_res"])


def test_refiner_is_the_published_one(golden):
    refiner = Refiner(RefinerSize(32, 2, (2, 5, 8, 11), 8, (4, 6, 8, 8)))
    refiner.load_state_dict(part(golden, "refine/sd/"))
    outputs = {}
    for level in (1, 4):
        block = refiner.dpt_head.scratch[f"refinenet{level}"]
        block.register_forward_hook(lambda *call, level=level: outputs.update({level: call[-1]}))
    with torch.no_grad():
        out = refiner(golden["refine/in"])
    assert_close(outputs[4], golden["refine/out/path_4"])
    assert_close(outputs[1], golden["refine/out/path_1"])
    assert_close(out, golden["refine/out/out"])


def test_warping_is_the_published_one(golden):
    assert_close(warp(golden["warp/in/feat"], golden["warp/in/flow"]), golden["warp/out"])


def test_warping_reads_where_the_flow_points():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert_close(warp(x, flow)[0, 0, :2, :3], x[0, 0, :2, 1:] + 2)
    assert warp(x, torch.full((1, 2, 3, 4), 9.0)).eq(0).all()


def test_upsampling_is_the_published_one(golden):
    found = upsample_estimate(
        *(golden[f"up/in/{name}"] for name in ("flow", "info", "mask")), factor=2
    )
    assert_close(found.flow, golden["up/out/flow"])
    assert_close(found.info, golden["up/out/info"])


def test_padding_is_the_published_one(golden):
    for height, width, *expected in golden["pad/table"].tolist():
        target = padded_side(height), padded_side(width)
        assert list(centred_padding((height, width), target)) == expected


def test_parameter_count_is_the_published_one():
    """The published encoder, Meta's, also counts 12 biases of 3 * 384 and a mask token of 384."""
    with torch.device("meta"):
        network = decoder("vits")
    unused = 12 * 3 * 384 + 384
    assert sum(p.numel() for p in network.parameters()) + unused == 56_477_195


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vitb", "vitl"])
def test_other_encoders_fit(arch):
    with torch.device("meta"):
        raw = decoder(arch).eval()(*torch.empty(2, 1, 3, 48, 64))
    assert raw[-1].flow.shape == (1, 2, 48, 64)


def test_published_names_load():
    source, target = decoder(), decoder()
    file = {
        f"encoder.{n}" if n.startswith("dpt_head.") else n: torch.randn_like(v)
        for n, v in source.own_state().items()
    }
    loaded = target.load_published(file | {"encoder.encoder.cls_token": torch.zeros(1)})
    assert loaded.unused == ("encoder.encoder.cls_token",) and loaded.notes
    assert set(loaded.loaded) == set(target.own_state()) and not loaded.fresh
    assert torch.equal(target.dpt_head.projects[1].bias, file["encoder.dpt_head.projects.1.bias"])
    assert torch.equal(target.refine_net.pos_embed, file["refine_net.pos_embed"])


def test_wrong_files_are_refused_by_name():
    waft = decoder()
    file = {
        f"encoder.{n}" if n.startswith("dpt_head.") else n: v for n, v in waft.own_state().items()
    }
    with pytest.raises(CheckpointError, match=r"missing: fmap_conv\.bias"):
        waft.load_published({name: v for name, v in file.items() if name != "fmap_conv.bias"})
    with pytest.raises(CheckpointError, match="unexpected: surplus"):
        waft.load_published(file | {"surplus": torch.zeros(1)})


# The adapter


def test_every_weight_but_the_dead_learns():
    waft = decoder(iters=2).train()
    raw = waft(*voxels(2, 2, 3, 48, 64))
    assert len(raw) == 2 and raw[-1].flow.shape == (2, 2, 48, 64)
    terms = waft.loss(raw, torch.full((2, 2, 48, 64), 2.0))
    assert set(terms) == set(waft.weights)
    terms["flow"].backward()
    asleep = [name for name, p in waft.named_parameters() if p.grad is None]
    assert sorted(asleep) == sorted(waft.dead_parameters()) and len(asleep) == 12


def test_outside_of_training_only_the_last_estimate_is_made():
    waft = decoder(iters=2)
    before, after = voxels(2, 1, 3, 48, 64)
    with torch.no_grad():
        every, (last,) = waft.train()(before, after), waft.eval()(before, after)
    assert len(every) == 2
    assert torch.equal(every[-1].flow, last.flow)
    assert torch.equal(waft.predict([last], (24, 128)), resize_flow(last.flow, (24, 128)))


def test_mixed_precision_keeps_positions_exact():
    waft = decoder(iters=2).train()
    with torch.autocast("cpu", torch.bfloat16):
        raw = waft(*voxels(2, 1, 3, 48, 64))
        loss = waft.loss(raw, torch.zeros(1, 2, 48, 64))["flow"]
    loss.backward()
    assert raw[-1].flow.dtype == torch.float32 and loss.isfinite()


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ConfigError, match="at least once"):
        decoder(iters=0)
    with pytest.raises(DataError, match="two event windows"):
        decoder()(voxels(1, 3, 48, 64))
    odd = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    with pytest.raises(ConfigError, match="no size for this encoder"):
        Waft(Encoder({"name": ARCHS["tiny"]["name"], "kwargs": odd}))
