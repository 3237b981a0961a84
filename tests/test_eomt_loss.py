"""The EoMT loss against the references' own numbers, slow loops, and what must always hold."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from scaleevent.config.benchmarks import IGNORE
from scaleevent.decoders.eomt_loss import (
    WEIGHTS,
    assign,
    bordered,
    mask_at_points,
    mask_classification_loss,
    matching_cost,
)
from scaleevent.errors import DataError
from scaleevent.training.terms import total

GOLDEN = Path(__file__).parent / "data" / "eomt_loss.safetensors"
POINTS = 48


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Losses and gradients of tue-mps/eomt and of the authors' criterion, with their draws."""
    return load_file(GOLDEN)


def replay(*draws: Tensor):
    """A source of random numbers that gives these, in this order."""
    queue = list(draws)

    def rand(*size: int, device: object = None) -> Tensor:
        draw = queue.pop(0)
        assert tuple(draw.shape) == size
        return draw

    return rand


def golden_draws(golden: dict[str, Tensor]):
    matcher = torch.cat([golden[f"in/rand/matcher_points/{i}"] for i in (0, 1)])
    return replay(matcher, golden["in/rand/candidate_points"], golden["in/rand/random_points"])


def random_case(seed: int, images: int = 2, queries: int = 6, classes: int = 4):
    """Mask and class logits of one prediction, and a label map with ignored pixels."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.randn(images, queries, 8, 12, generator=random) * 3
    label = torch.randn(images, queries, classes + 1, generator=random)
    target = torch.randint(classes, (images, 4, 6), generator=random)
    target[:, 0, :2] = IGNORE
    return mask, label, target.repeat_interleave(8, 1).repeat_interleave(8, 2)


def same_points(*size: int, device: object = None) -> Tensor:
    """The same draws for every mask, whatever the order of masks."""
    random = torch.Generator().manual_seed(size[1])
    return torch.rand(1, *size[1:], generator=random).expand(size)


@pytest.mark.parametrize("criterion", ["eomt", "scaleevent_fullres"])
def test_values_and_gradients_equal_the_reference(golden, criterion):
    mask = golden["in/mask_logits"].clone().requires_grad_()
    label = golden["in/class_logits"].clone().requires_grad_()
    terms = mask_classification_loss(
        [mask],
        [label],
        golden["in/seg"].long(),
        upsampled=criterion != "eomt",
        points=POINTS,
        generator=golden_draws(golden),
    )
    names = {"mask": "loss_mask", "dice": "loss_dice", "class": "loss_cross_entropy"}
    for ours, theirs in names.items():
        assert abs(terms[ours] - golden[f"out/{criterion}/{theirs}"]) <= 1e-5, ours
    loss = total(terms, WEIGHTS)
    assert abs(loss - golden[f"out/{criterion}/total"]) <= 1e-5
    loss.backward()
    torch.testing.assert_close(
        mask.grad, golden[f"grad/{criterion}/mask_logits"], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        label.grad, golden[f"grad/{criterion}/class_logits"], rtol=0, atol=1e-5
    )


def test_matches_equal_the_reference(golden):
    target, points = golden["in/seg"].long(), golden_draws(golden)(2, POINTS, 2)
    labels = bordered(target, 5)
    logits = F.grid_sample(golden["in/mask_logits"], points[:, None] * 2 - 1, align_corners=False)[
        :, :, 0
    ]
    every = torch.arange(5)
    masks = torch.stack(
        [
            mask_at_points(labels, torch.full((5,), i), every, points[i].expand(5, -1, -1))
            for i in (0, 1)
        ]
    )
    present = torch.stack([(target == c).flatten(1).any(1) for c in every], 1)
    costs = matching_cost(logits, golden["in/class_logits"], masks)
    image, query, wanted = assign(costs[None], present)[0]
    for i in (0, 1):
        classes = golden[f"in/target/{i}/labels"]
        assert query[image == i].tolist() == golden[f"out/eomt/match/{i}/query"].tolist()
        expected = classes[golden[f"out/eomt/match/{i}/target"]]
        assert wanted[image == i].tolist() == expected.tolist()


def test_masks_at_points_equal_sampling_full_masks(golden):
    target, image = golden["in/seg"].long(), torch.tensor([0, 1, 1])
    wanted = torch.tensor([0, 3, 4])
    points = torch.rand(3, 200, 2, generator=torch.Generator().manual_seed(0))
    points[:, :4] = torch.tensor([[0.0, 0.0], [0.999999, 0.0], [0.0, 0.999999], [0.5, 0.999999]])
    masks = (target[image] == wanted[:, None, None]).float()
    expected = F.grid_sample(masks[:, None], points[:, None] * 2 - 1, align_corners=False)
    found = mask_at_points(bordered(target, 5), image, wanted, points)
    torch.testing.assert_close(found, expected[:, 0, 0], rtol=0, atol=1e-5)


def slow_cost(logits: Tensor, chances: Tensor, mask: Tensor, wanted: int) -> float:
    """5 BCE + 5 dice - 2 p of one query and one class, number by number."""
    bce = overlap = inside = area = 0.0
    for x, t in zip(logits.tolist(), mask.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        bce -= t * math.log(p) + (1 - t) * math.log(1 - p)
        overlap, inside, area = overlap + p * t, inside + p, area + t
    dice = 1 - (2 * overlap + 1) / (inside + area + 1)
    share = math.exp(chances[wanted]) / sum(math.exp(c) for c in chances.tolist())
    return 5 * bce / len(logits) + 5 * dice - 2 * share


def test_matching_cost_and_assignment_equal_slow_ones():
    random = np.random.default_rng(3)
    mask = torch.from_numpy(random.normal(0, 3, (1, 4, 30)))
    label = torch.from_numpy(random.normal(0, 1, (1, 4, 4)))
    target = torch.from_numpy(random.random((1, 3, 30)))
    cost = matching_cost(mask, label, target)[0]
    for q, k in itertools.product(range(4), range(3)):
        assert abs(cost[q, k] - slow_cost(mask[0, q], label[0, q], target[0, k], k)) < 1e-9

    present = torch.tensor([[True, False, True]])
    _, query, wanted = assign(cost[None, None], present)[0]
    best = min(itertools.permutations(range(4), 2), key=lambda qs: cost[qs[0], 0] + cost[qs[1], 2])
    assert dict(zip(wanted.tolist(), query.tolist(), strict=True)) == {0: best[0], 2: best[1]}


def test_terms_equal_slow_ones():
    """One query, one class: the match is known and the points are all of equal weight."""
    mask, label, target = random_case(0, images=1, queries=1, classes=1)
    terms = mask_classification_loss([mask], [label], target, points=20, generator=same_points)
    candidates, others = same_points(1, 60, 2)[0], same_points(1, 5, 2)[0]

    def value(point: Tensor) -> float:
        return F.grid_sample(mask, point[None, None, None] * 2 - 1, align_corners=False).item()

    chosen = sorted(candidates, key=lambda point: abs(value(point)))[:15] + list(others)
    bce = overlap = inside = area = 0.0
    for point in chosen:
        x, wanted, zero = value(point), torch.tensor([0]), torch.tensor([0])
        t = mask_at_points(bordered(target, 1), zero, wanted, point[None, None]).item()
        p = 1 / (1 + math.exp(-x))
        bce -= t * math.log(p) + (1 - t) * math.log(1 - p)
        overlap, inside, area = overlap + p * t, inside + p, area + t
    assert terms["mask"].item() == pytest.approx(bce / 20, abs=1e-5)
    dice = 1 - (2 * overlap + 1) / (inside + area + 1)
    assert terms["dice"].item() == pytest.approx(dice, abs=1e-5)
    chances = [math.exp(c) for c in label[0, 0].tolist()]
    assert terms["class"].item() == pytest.approx(-math.log(chances[0] / sum(chances)), abs=1e-5)


def slow_loss(mask: Tensor, label: Tensor, target: Tensor, points: int, classes: int):
    """The terms of the authors' loss: a mask for every class of every image, number by number.

    The best assignment is found by trying all; points are those of `same_points`.
    """
    queries = mask.shape[1]
    at, candidates, others = (
        same_points(1, count, 2)[0]
        for count in (points, 3 * points, points - int(0.75 * points))
    )  # fmt: skip

    def logit(image: int, query: int, point: Tensor) -> float:
        one = mask[image, query][None, None]
        return F.grid_sample(one, point[None, None, None] * 2 - 1, align_corners=False).item()

    def inside(image: int, wanted: int, point: Tensor) -> float:
        whole = (target[image] == wanted).float()[None, None]  # zero for an absent class
        return F.grid_sample(whole, point[None, None, None] * 2 - 1, align_corners=False).item()

    bce = dice = 0.0
    weighted, weights = 0.0, 0.0
    for image in range(len(mask)):
        cost = torch.tensor([
            [slow_cost(torch.tensor([logit(image, q, p) for p in at]), label[image, q],
                       torch.tensor([inside(image, k, p) for p in at]), k)
             for k in range(classes)]
            for q in range(queries)
        ])  # fmt: skip
        best = min(
            itertools.permutations(range(queries), classes),
            key=lambda chosen: sum(cost[q, k] for k, q in enumerate(chosen)),
        )
        wanted = dict(zip(best, range(classes), strict=True))
        for query in range(queries):
            weight = 1.0 if query in wanted else 0.1
            chances = label[image, query].double().softmax(0)
            weighted -= weight * math.log(chances[wanted.get(query, classes)])
            weights += weight
        for query, k in wanted.items():
            doubt = sorted(candidates, key=lambda point: abs(logit(image, query, point)))
            overlap = area = entropy = 0.0
            for point in doubt[: int(0.75 * points)] + list(others):
                p, t = 1 / (1 + math.exp(-logit(image, query, point))), inside(image, k, point)
                entropy -= t * math.log(p) + (1 - t) * math.log(1 - p)
                overlap, area = overlap + p * t, area + p + t
            bce += entropy / points
            dice += 1 - (2 * overlap + 1) / (area + 1)
    masks = classes * len(mask)
    return {"mask": bce / masks, "dice": dice / masks, "class": weighted / weights}


def test_empty_masks_equal_a_slow_loss_over_every_class():
    mask, label, target = random_case(10, images=2, queries=4, classes=3)
    target[target == 1] = 0  # no image has class 1, the second only class 2
    target[1] = torch.where(target[1] == IGNORE, IGNORE, 2)
    terms = mask_classification_loss(
        [mask], [label], target, empty_masks=True, points=16, generator=same_points
    )
    expected = slow_loss(mask, label, target, 16, 3)
    for name in WEIGHTS:
        assert terms[name].item() == pytest.approx(expected[name], abs=2e-5), name
    present = mask_classification_loss([mask], [label], target, points=16, generator=same_points)
    assert all(abs(present[name] - expected[name]) > 1e-3 for name in WEIGHTS)


def test_empty_masks_by_hand():
    """One class of two is absent: its query's certain emptiness costs nothing, its mask counts."""
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    full, empty = torch.full((8, 8), 50.0), torch.full((8, 8), -50.0)
    mask, label = torch.stack([full, empty])[None], torch.eye(3)[None, :2] * 100
    options = {"points": 64, "generator": lambda *size, device=None: torch.full(size, 0.5)}
    right = mask_classification_loss([mask], [label], target, empty_masks=True, **options)
    assert all(right[name] < 1e-6 for name in WEIGHTS)
    wrong = mask_classification_loss([mask * 0], [label], target, empty_masks=True, **options)
    assert wrong["mask"].item() == pytest.approx(math.log(2), rel=1e-6)  # of both masks
    full_dice, empty_dice = 1 - (2 * 32 + 1) / (32 + 64 + 1), 1 - 1 / (32 + 1)
    assert wrong["dice"].item() == pytest.approx((full_dice + empty_dice) / 2, rel=1e-6)
    nothing = mask_classification_loss([mask], [label], target, **options)["class"]
    assert nothing.item() == pytest.approx(0.1 * 100 / 1.1, rel=1e-6)  # "no object" was wanted


def test_empty_masks_are_targets_without_any_labelled_pixel():
    mask, label, target = random_case(11)
    mask.requires_grad_()
    target[:] = IGNORE
    terms = mask_classification_loss([mask], [label], target, empty_masks=True, points=32)
    total(terms, WEIGHTS).backward()
    assert terms["mask"] > 0 and mask.grad.flatten(2).any(2).sum(1).tolist() == [4, 4]


def test_order_of_queries_does_not_matter():
    mask, label, target = random_case(1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(5))
    straight = mask_classification_loss([mask], [label], target, points=64, generator=same_points)
    shuffled = mask_classification_loss(
        [mask[:, order]], [label[:, order]], target, points=64, generator=same_points
    )
    for name in WEIGHTS:
        assert straight[name].item() == pytest.approx(shuffled[name].item(), rel=1e-5)


def test_predictions_add_up():
    (mask, label, target), (mask2, label2, _) = random_case(2), random_case(3)
    both = mask_classification_loss(
        [mask, mask2], [label, label2], target, points=64, generator=same_points
    )
    alone = [
        mask_classification_loss([m], [c], target, points=64, generator=same_points)
        for m, c in ((mask, label), (mask2, label2))
    ]
    for name in WEIGHTS:
        assert both[name].item() == pytest.approx(sum(a[name].item() for a in alone), rel=1e-5)


@pytest.mark.parametrize("upsampled", [False, True])
def test_queries_that_are_right_cost_little_in_any_order(upsampled):
    mask, label, target = random_case(4)
    masks = torch.stack([(target == c).float() for c in range(4)], 1) * 8 - 4
    labels = (torch.eye(5)[:4] * 50).expand(2, -1, -1)
    order = [2, 0, 3, 1]
    options = {"upsampled": upsampled, "points": 500, "generator": same_points}
    right = mask_classification_loss([masks[:, order]], [labels[:, order]], target, **options)
    wrong = mask_classification_loss([mask], [label], target, **options)
    assert right["class"] < 1e-6
    assert all(right[name] < wrong[name] / 3 for name in WEIGHTS)


@pytest.mark.parametrize("labelled", ["one image", "none"])
def test_images_without_labels_only_say_no_object(labelled):
    mask, label, target = random_case(5)
    target[1:] = IGNORE
    if labelled == "none":
        target[:] = IGNORE
    mask.requires_grad_(), label.requires_grad_()
    terms = mask_classification_loss([mask], [label], target, points=32)
    total(terms, WEIGHTS).backward()
    assert all(term.isfinite() for term in terms.values())
    assert mask.grad.isfinite().all() and label.grad.isfinite().all()
    assert not mask.grad[1].any() and label.grad[1].any()
    if labelled == "none":
        assert terms["mask"] == 0 and terms["dice"] == 0
        nothing = torch.full((2, 6), 4)
        assert terms["class"].item() == pytest.approx(F.cross_entropy(label.mT, nothing).item())


def test_more_classes_than_queries_and_absent_ones():
    mask, label, target = random_case(6, queries=2, classes=6)
    mask.requires_grad_(), label.requires_grad_()
    terms = mask_classification_loss([mask], [label], target.clamp(max=IGNORE), points=32)
    total(terms, WEIGHTS).backward()
    assert mask.grad.isfinite().all() and label.grad.isfinite().all()
    both = mask_classification_loss(
        [mask], [label], target, empty_masks=True, points=32, generator=same_points
    )
    assert 0 < both["dice"] <= 4 / 12  # two queries an image, divided by six masks an image


@pytest.mark.parametrize("label", [-1, 4, 300])
def test_labels_outside_the_classes_are_named(label):
    mask, logits, target = random_case(7)
    target[1, 3, 3] = label
    with pytest.raises(DataError, match=rf"outside the classes[\s\S]*\[{label}\]"):
        mask_classification_loss([mask], [logits], target, points=32)


def test_half_precision_logits_are_compared_in_full():
    mask, label, target = random_case(8)
    mask, label = mask.bfloat16(), label.bfloat16()
    full = mask_classification_loss(
        [mask.float()], [label.float()], target, points=64, generator=same_points
    )
    with torch.autocast("cpu"):
        half = mask_classification_loss([mask], [label], target, points=64, generator=same_points)
    for name in WEIGHTS:
        assert half[name].dtype == torch.float32 and half[name] == full[name]


def test_mask_terms_are_divided_by_the_masks_of_all_ranks(monkeypatch):
    """Beside a rank that has none, 8 matched masks count as 4 a rank."""
    mask, label, target = random_case(9)
    options = {"points": 64, "generator": same_points}
    alone = mask_classification_loss([mask], [label], target, **options)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    shared = mask_classification_loss([mask], [label], target, **options)
    for name, factor in {"mask": 2, "dice": 2, "class": 1}.items():
        assert shared[name].item() == pytest.approx(factor * alone[name].item(), rel=1e-6)
