"""The plain decoder, and its segmentation loss against interpolation and losses one by one."""

import pytest
import torch
import torch.nn.functional as F

from scaleevent.config.benchmarks import IGNORE
from scaleevent.decoders.linear import Linear
from scaleevent.decoders.segment_loss import segment_terms
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.training.terms import total

H, W = 96, 128
GRID = (12, 16)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(ARCHS["tiny"]).eval()


def labels(classes: int, size: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Random labels of which a fifth is ignored."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, size, generator=draw)
    return torch.where(torch.rand(size, generator=draw) < 0.2, IGNORE, target)


def plain_terms(logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """The two losses as one would write them down."""
    fine = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    known = target != IGNORE
    p = fine.softmax(1).movedim(1, -1)[known]
    t = F.one_hot(target[known], logits.shape[1]).to(p.dtype)
    dice = [
        1 - 2 * (p[:, c] * t[:, c]).sum() / (p[:, c].sum() + t[:, c].sum())
        for c in range(logits.shape[1])
        if t[:, c].any()
    ]
    return {
        "ce": F.cross_entropy(fine, target, ignore_index=IGNORE),
        "dice": torch.stack(dice).mean(),
    }


@pytest.mark.parametrize("size", [(2, 40, 56), (3, 17, 23), (1, 5, 7)])
def test_segment_terms_equal_the_losses_one_by_one(size):
    logits = torch.randn(size[0], 6, 5, 7, dtype=torch.float64)
    target = labels(4, size)  # two of six classes are absent
    results = []
    for terms in (segment_terms, plain_terms):
        given = logits.clone().requires_grad_()
        values = terms(given, target)
        (values["ce"] + 0.7 * values["dice"]).backward()
        results.append((values["ce"], values["dice"], given.grad))
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)


def test_segment_terms_in_single_and_half_precision():
    logits, target = 20 * torch.randn(2, 11, 6, 8), labels(11, (2, 48, 64))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-5)):
        rounded = logits.to(dtype).clone().requires_grad_()
        ours = segment_terms(rounded, target)
        plain = plain_terms(rounded.detach().double(), target)
        assert ours["ce"].dtype == torch.float32
        for name, value in plain.items():
            assert ours[name].item() == pytest.approx(value.item(), rel=tolerance)
        sum(ours.values()).backward()
        assert rounded.grad.dtype == dtype and rounded.grad.isfinite().all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([-1e4, 0.0, 1e4]).view(1, 3, 1, 1).expand(1, 3, 2, 2).clone()
    logits.requires_grad_()
    terms = segment_terms(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
    sum(terms.values()).backward()
    assert terms["ce"].item() == pytest.approx(2e4)
    assert logits.grad.isfinite().all()


def test_a_perfect_segmentation_costs_nothing():
    target = torch.tensor([[[0, 0], [1, 2]]])
    logits = 100.0 * F.one_hot(target, 3).movedim(-1, 1)
    assert all(value.abs() < 1e-6 for value in segment_terms(logits, target).values())


def test_segment_terms_without_labels_are_zero_and_in_the_graph():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    terms = segment_terms(logits, torch.full((1, 8, 8), IGNORE))
    sum(terms.values()).backward()
    assert all(value == 0 for value in terms.values())
    assert not logits.grad.any()


# the decoder


def decoder_and_target(encoder: Encoder, task: str) -> tuple[Linear, torch.Tensor]:
    """A decoder, and ground truth with unknown pixels."""
    draw = torch.Generator().manual_seed(1)
    if task == "segmentation":
        return Linear(encoder, task, classes=5), labels(5, (2, H, W))
    shape = (2, H, W) if task == "depth" else (2, 2, H, W)
    target = 5 + torch.rand(shape, generator=draw)
    return Linear(encoder, task), target.where(
        torch.rand((2, H, W), generator=draw).reshape(2, *[1] * (len(shape) - 3), H, W) < 0.5,
        torch.nan,
    )


@pytest.mark.parametrize("task", ["segmentation", "depth", "flow"])
def test_every_task_trains_predicts_and_takes_cached_tokens(encoder, task):
    decoder, target = decoder_and_target(encoder, task)
    voxels = [torch.randn(2, 3, H, W) for _ in range(2 if task == "flow" else 1)]
    raw = decoder(*voxels)
    cached = torch.cat([encoder.tokens(voxel) for voxel in voxels], -1)
    assert torch.allclose(raw, decoder.head(cached, GRID), atol=1e-6)
    total(decoder.loss(raw, target), decoder.weights).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in decoder.linear.parameters())

    prediction = decoder.predict(raw, (50, 70))
    shape = {"segmentation": (2, 50, 70), "depth": (2, 50, 70), "flow": (2, 2, 50, 70)}[task]
    assert prediction.shape == shape
    assert prediction.dtype == (torch.int64 if task == "segmentation" else torch.float32)
    again = Linear(encoder, **decoder.settings)
    again.load_own(decoder.own_state())
    assert torch.equal(again.head(cached, GRID), decoder.head(cached, GRID))


@pytest.mark.parametrize("task", ["segmentation", "depth", "flow"])
def test_unknown_everywhere_is_a_zero_loss(encoder, task):
    decoder, target = decoder_and_target(encoder, task)
    unknown = torch.full_like(target, IGNORE if task == "segmentation" else torch.nan)
    tokens = torch.randn(2, 192, decoder.linear.in_features)
    value = total(decoder.loss(decoder.head(tokens, GRID), unknown), decoder.weights)
    value.backward()
    assert value == 0 and not decoder.linear.weight.grad.any()


def test_flow_is_the_mean_absolute_error_over_known_pixels(encoder):
    decoder = Linear(encoder, "flow")
    raw = torch.zeros(1, 2, *GRID)
    raw[:, 0] += 3
    target = torch.full((1, 2, H, W), torch.nan)
    target[0, :, 4, 5] = torch.tensor([1.0, -1.0])
    target[0, :, 7, 9] = torch.tensor([4.0, 0.0])
    target[0, 0, 8, 8] = 1e6  # one component alone is no flow
    assert decoder.loss(raw, target)["l1"].item() == pytest.approx(((2 + 1) + (1 + 0)) / 2)


def test_predicted_flow_is_in_pixels_of_the_asked_size(encoder):
    raw = torch.tensor([8.0, 6.0])[None, :, None, None].expand(1, 2, *GRID)
    flow = Linear(encoder, "flow").predict(raw, (H // 2, W * 2))
    assert torch.allclose(flow[0, 0], torch.tensor(16.0))
    assert torch.allclose(flow[0, 1], torch.tensor(3.0))


def test_it_learns_what_is_linear_in_the_tokens(encoder):
    torch.manual_seed(2)
    tokens = torch.randn(4, 192, encoder.width)
    coarse = (tokens @ torch.randn(encoder.width, 3)).argmax(-1).view(4, *GRID)
    target = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    decoder = Linear(encoder, classes=3)
    optimizer = torch.optim.Adam(decoder.linear.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        total(decoder.loss(decoder.head(tokens, GRID), target), decoder.weights).backward()
        optimizer.step()
    centres = decoder.predict(decoder.head(tokens, GRID), GRID)
    assert (centres == coarse).float().mean() > 0.95


@pytest.mark.parametrize(
    "settings",
    [
        {"task": "poetry"},
        {"task": "segmentation"},
        {"task": "segmentation", "classes": 1},
        {"task": "depth", "classes": 3},
        {"task": "depth", "max_depth": 0.0},
    ],
)
def test_unusable_settings_are_refused(encoder, settings):
    with pytest.raises(ConfigError):
        Linear(encoder, **settings)


def test_flow_needs_two_windows(encoder):
    with pytest.raises(ConfigError, match="two windows"):
        Linear(encoder, "flow")(torch.zeros(1, 3, H, W))


def test_there_are_no_published_weights(encoder):
    with pytest.raises(CheckpointError, match="no published weights"):
        Linear(encoder, "depth").load_published({}, "file.pth")
