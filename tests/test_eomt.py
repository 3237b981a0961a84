"""The EoMT decoder against tue-mps/eomt and the authors' class, and its duties."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from scaleevent.decoders.crops import Crops, windowed_scores
from scaleevent.decoders.eomt import (
    EoMT,
    annealing_phases,
    default_blocks,
    mask_probability,
    pixel_scores,
)
from scaleevent.decoders.eomt_weights import published_encoder
from scaleevent.encoders.encoder import ARCHS, Encoder, build_encoder
from scaleevent.encoders.weights import convert_weights
from scaleevent.errors import ConfigError
from scaleevent.training.terms import total

DATA = Path(__file__).parent / "data"
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def upstream() -> dict[str, Tensor]:
    """A tiny EoMT of tue-mps/eomt over Hugging Face's DINOv3, and what it says."""
    return load_file(DATA / "eomt_upstream.safetensors")


@pytest.fixture(scope="module")
def authors() -> dict[str, Tensor]:
    """The same weights in the class that the authors of ScaleEvent fine-tune."""
    return load_file(DATA / "eomt_scaleevent.safetensors")


def weights_of(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights as their file holds them."""
    return {prefix + n[3:]: t.float() for n, t in golden.items() if n.startswith("sd/")}


def rebuild(golden: dict[str, Tensor], prefix: str, **options) -> EoMT:
    """Our decoder with the golden weights, encoder and head."""
    tensors = weights_of(golden, prefix)
    encoder = convert_weights(published_encoder(tensors))
    sizes = {"patch_size": 16, "embed_dim": 48, "depth": 4, "num_heads": 2, "qkv_bias": True}
    built = Encoder({"name": "vit_small_patch16_dinov3", "kwargs": sizes})
    built.load(encoder.state)
    decoder = EoMT(built, classes=5, queries=8, blocks=2, **options)
    loaded = decoder.load_published(tensors)
    assert set(loaded.loaded) == set(decoder.own_state()) and not loaded.fresh
    assert set(loaded.unused) == {n for n in tensors if ".encoder." in n or "attn_mask" in n}
    return decoder


def picture(golden: dict[str, Tensor]) -> Tensor:
    return (golden["in/image_uint8"] / 255 - MEAN) / STD


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def tiny(**options) -> EoMT:
    torch.manual_seed(0)
    return EoMT(build_encoder("tiny"), classes=3, **options)


# The references' numbers


@pytest.mark.parametrize(
    ("case", "probabilities"),
    [("masked_p1", [1.0, 1.0]), ("masked_p0", [0.0, 0.0]), ("masked_p06_p03", [0.6, 0.3])],
)
def test_masked_attention_equals_upstream(upstream, case, probabilities):
    decoder = rebuild(upstream, "network.").train()
    decoder.mask_probs = probabilities
    draws = [upstream["in/rand_attn/0"], upstream["in/rand_attn/1"]]
    decoder.generator = lambda *size, device: draws.pop(0)
    with torch.no_grad():
        raw = decoder(picture(upstream))
    assert len(raw.masks) == len(raw.classes) == 3
    for i in range(3):
        assert difference(raw.masks[i], upstream[f"out/{case}/mask_logits/{i}"]) <= 1e-4
        assert difference(raw.classes[i], upstream[f"out/{case}/class_logits/{i}"]) <= 1e-5


def test_evaluation_equals_upstream_without_masks(upstream):
    decoder = rebuild(upstream, "network.").eval()
    with torch.no_grad():
        raw = decoder(picture(upstream))
    assert len(raw.masks) == len(raw.classes) == 1
    assert difference(raw.masks[-1], upstream["out/unmasked/mask_logits"]) <= 1e-4
    assert difference(raw.classes[-1], upstream["out/unmasked/class_logits"]) <= 1e-5
    scores = pixel_scores(raw.masks[-1], raw.classes[-1], (64, 96))
    assert difference(scores[:1], upstream["out/unmasked/per_pixel_scores"]) <= 1e-5
    prediction = decoder.predict(raw, (64, 96))
    assert prediction.dtype == torch.int64
    assert torch.equal(prediction, upstream["out/unmasked/argmax"].long())


def test_the_authors_class(authors):
    decoder = rebuild(authors, "module.", mode="scaleevent", width=48).eval()
    with torch.no_grad():
        raw = decoder(picture(authors))
        assert len(decoder.train()(picture(authors)).masks) == 1
    masks = F.interpolate(raw.masks[-1], (64, 96), mode="bilinear")
    assert difference(masks[:1, :4], authors["out/mask_logits_fullres"]) <= 1e-4
    assert difference(raw.classes[-1], authors["out/class_logits"]) <= 1e-5
    scores = pixel_scores(raw.masks[-1], raw.classes[-1], (64, 96))
    assert difference(scores[:1], authors["out/per_pixel_scores"]) <= 1e-5


@pytest.mark.parametrize(
    ("arch", "mode", "count"),
    [
        ("vits", "scaleevent", 12_006_924),
        ("vitb", "scaleevent", 12_438_540),
        ("vitl", "scaleevent", 11_676_684),
        ("vits", "upstream", None),
        ("vitb", "upstream", None),
        ("vitl", "upstream", None),
    ],
)
def test_parameter_counts(arch, mode, count):
    with torch.device("meta"):
        decoder = EoMT(Encoder(ARCHS[arch]), classes=11, mode=mode)
    d = decoder.encoder.width
    plain = 100 * d + 12 * d + 12 + 3 * (d * d + d) + 2 * (4 * d * d + d + 9 * d + 2 * d)
    assert sum(value.numel() for value in decoder.own_state().values()) == (count or plain)
    assert decoder.blocks == (4 if mode == "scaleevent" or arch == "vitl" else 3)


def test_annealing_equals_upstream():
    golden = load_file(DATA / "eomt_train_utils.safetensors")
    start, end = golden["annealing/start_end"].tolist()
    ours = torch.tensor([mask_probability(step, start, end) for step in range(40)])
    assert difference(ours, golden["annealing/prob"]) <= 1e-6
    assert annealing_phases(39_120, 4) == [
        (6520, 13040), (13040, 19560), (19560, 26080), (26080, 32600)
    ]  # fmt: skip


# Duties


@pytest.mark.parametrize("mode", ["upstream", "scaleevent"])
def test_one_step_of_training_improves_the_loss(mode):
    decoder = tiny(queries=10, mode=mode, width=96).train()
    assert decoder.blocks == (2 if mode == "upstream" else 4)
    voxel = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(2, 48, 64, dtype=torch.int64)
    target[:, 20:, :30], target[0, :10] = 2, 255
    optimizer = torch.optim.AdamW(decoder.parameters(), 1e-3)
    losses = []
    for step in range(6):
        decoder.begin_step(step, 6)
        loss = total(decoder.loss(decoder(voxel), target), decoder.weights)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in decoder.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    prediction = decoder.eval().predict(decoder(voxel), (30, 40))
    assert prediction.shape == (2, 30, 40) and prediction.max() < 3


def test_fresh_probabilities_follow_the_run():
    decoder = tiny()
    decoder.begin_step(0, 40)
    assert decoder.mask_probs == [1, 1]
    decoder.begin_step(25, 40)
    assert decoder.mask_probs[0] == 0 and 0 < decoder.mask_probs[1] < 1
    decoder.begin_step(39, 40)
    assert decoder.mask_probs == [0, 0]


def test_the_encoder_alone_is_untouched():
    decoder, voxel = tiny(), torch.randn(1, 3, 48, 64)
    before = decoder.encoder.tokens(voxel)
    with torch.no_grad():
        decoder(voxel), decoder.eval()(voxel)
    assert torch.equal(decoder.encoder.tokens(voxel), before)


def test_settings_and_own_state_rebuild_it():
    decoder = tiny(queries=7, blocks=3, width=64).eval()
    again = EoMT(decoder.encoder, **decoder.settings).eval()
    again.load_own(decoder.own_state())
    voxel = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        for ours, theirs in zip(decoder(voxel), again(voxel), strict=True):
            assert torch.equal(ours[0], theirs[0])


def test_empty_masks_are_an_option_that_the_settings_keep():
    """A class that is nowhere takes a query of its own, also in a decoder that was rebuilt."""
    decoder = tiny(queries=6, mode="scaleevent", width=96, empty_masks=True)
    again = EoMT(decoder.encoder, **decoder.settings)
    plain = EoMT(decoder.encoder, **{**decoder.settings, "empty_masks": False})
    voxel, target = torch.randn(1, 3, 48, 64), torch.zeros(1, 48, 64, dtype=torch.int64)

    def matched(one: EoMT) -> int:
        raw = one(voxel)
        raw.masks[-1].retain_grad()
        one.loss(raw, target)["mask"].backward()
        return int(raw.masks[-1].grad.flatten(2).any(2).sum())

    assert (matched(decoder), matched(again), matched(plain)) == (3, 3, 1)


def test_masks_hide_patches_from_queries_only():
    decoder = tiny(queries=4)
    masks = torch.full((1, 4, 12, 16), -1.0)
    masks[..., :6, :8] = 1
    allowed = decoder._attention_mask(masks, 4 + 5 + 48, (6, 8), 1.0)[0, 0]
    assert allowed[4:].all() and allowed[:, :9].all()
    inside = allowed[:4, 9:].unflatten(1, (6, 8))
    assert inside[:, :3, :4].all() and inside.sum() == 4 * 12
    assert decoder._attention_mask(masks, 57, (6, 8), 0.0) is None


@pytest.mark.parametrize("options", [{"mode": "v2"}, {"blocks": 5}, {"blocks": 0}, {"queries": 0}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ConfigError):
        tiny(**options)


def test_encoders_without_rotary_positions_are_refused():
    spec = {"name": "vit_tiny_patch16_224", "kwargs": {"depth": 2}}
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224"):
        EoMT(Encoder(spec), classes=3)


def test_blocks_by_depth():
    assert [default_blocks(depth) for depth in (4, 12, 24, 40)] == [2, 3, 4, 5]


# Windows


@pytest.mark.parametrize("case", ["square", "tall", "wide"])
def test_windows_equal_upstream(case):
    golden = load_file(DATA / "eomt_train_utils.safetensors")
    image, side = golden[f"window/{case}/image"], golden[f"window/{case}/img_size"][0].item()
    crops = Crops.over(*image.shape[1:], side)
    origins = [[0, start, start + side] for start in crops.starts]
    assert origins == golden[f"window/{case}/origins"].tolist()
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
    resized = np.array(pillow.resize((crops.width, crops.height), Image.Resampling.BILINEAR))
    cut = crops.cut(torch.from_numpy(resized).permute(2, 0, 1))
    assert torch.equal(cut, golden[f"window/{case}/crops"])

    def score(windows: Tensor) -> Tensor:
        assert (windows - cut).abs().max() <= 1.01  # grey levels: Pillow rounds twice
        return golden[f"window/{case}/crop_logits"]

    scores = windowed_scores(score, image.float(), side)
    assert difference(scores, golden[f"window/{case}/merged"]) <= 1e-6


def test_windows_of_a_pixelwise_rule_change_nothing():
    image = torch.rand(2, 32, 75)
    assert difference(windowed_scores(lambda crops: crops, image, 32), image) <= 1e-6
    assert math.isclose(Crops.over(480, 640, 480).width, 640)
