"""The mask classification loss of EoMT: matching queries to classes, mask, dice and class terms.

The formulas are Mask2Former's as EoMT uses them (tue-mps/eomt:
training/mask_classification_loss.py on huggingface/transformers:
models/mask2former/modeling_mask2former.py). Targets stay a label map: the binary masks that the
reference builds in full resolution, one a class, are only ever needed at some points, where
four labels and their bilinear weights give the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scaleevent.config.benchmarks import IGNORE
from scaleevent.errors import DataError
from scaleevent.training.terms import Terms

# tue-mps/eomt:training/mask_classification_semantic.py
WEIGHTS: dict[str, float] = {"mask": 5.0, "dice": 5.0, "class": 2.0}
NO_OBJECT = 0.1  # weight of queries without a match in the class term
POINTS = 12544  # 112 x 112 points a mask
OVERSAMPLE = 3.0  # candidates for the uncertain points, in multiples of the points
IMPORTANCE = 0.75  # fraction of the points that is chosen for its uncertainty
COST_LIMIT = 1e10

Generator = Callable[..., Tensor]  # called as torch.rand: sizes and device in, uniform [0, 1) out
Size = tuple[int, int]


def mask_classification_loss(
    mask_logits: Sequence[Tensor],
    class_logits: Sequence[Tensor],
    target: Tensor,
    *,
    upsampled: bool = False,
    empty_masks: bool = False,
    points: int = POINTS,
    generator: Generator = torch.rand,
) -> Terms:
    """Unweighted terms, each summed over the predictions.

    Every class present in an image is one target mask; ignored pixels belong to none of them. An
    image without any labelled pixel has no targets: its queries should all predict "no object".
    With `empty_masks`, every class is a target of every image.

    Args:
        mask_logits: (N, Q, h, w) float, one a prediction.
        class_logits: (N, Q, K + 1) float, one a prediction; the last class means no object.
        target: (N, H, W) int64 classes, `IGNORE` not counted.
        upsampled: Take the mask logits as if resized to (H, W) first, as the authors of
            ScaleEvent do (zhiwen-xdu/ScaleEvent:scale_event/downstream/criterion.py); without
            forming the large maps.
        empty_masks: Match absent classes too, with masks that are zero everywhere, as the authors
            of ScaleEvent do (target_parser in the same file, and in the loaders of its history).
        points: Where masks are compared, for the matching and for each matched mask.
        generator: Source of the random points.

    Returns:
        Scalars "mask" (binary cross entropy), "dice" and "class".

    Raises:
        DataError: Labels outside the classes.
    """
    through = (target.shape[-2], target.shape[-1]) if upsampled else None
    with torch.autocast(target.device.type, enabled=False):
        mask_logits = [logits.float() for logits in mask_logits]
        class_logits = [logits.float() for logits in class_logits]
        labels = bordered(target, class_logits[0].shape[-1] - 1)
        wanted_NK = _wanted(labels, class_logits[0].shape[-1], empty_masks)
        matches = _match(mask_logits, class_logits, labels, wanted_NK, through, points, generator)
        _check_labels(target, class_logits[0].shape[-1] - 1)
        masks = _masks_per_rank(wanted_NK.sum())
        terms = []
        for mask, label, match in zip(mask_logits, class_logits, matches, strict=True):
            image, query, wanted = match
            matched = mask[image, query]
            where = _uncertain_points(matched, through, points, generator)
            values = _at_points(matched[:, None], where, through)[:, 0]
            inside = mask_at_points(labels, image, wanted, where)
            bce, dice = _mask_terms(values, inside)
            terms.append((bce / masks, dice / masks, _class_term(label, image, query, wanted)))
    summed = [torch.stack(term).sum() for term in zip(*terms, strict=True)]
    return dict(zip(WEIGHTS, summed, strict=True))


def matching_cost(mask_NQP: Tensor, class_NQC: Tensor, target_NKP: Tensor) -> Tensor:
    """What it costs to give each class to each query.

    5 BCE + 5 dice - 2 p(class), over points. With softplus(x) - x t = BCE(x, t), one product of
    matrices gives the cross entropy of all pairs.

    Args:
        mask_NQP: (N, Q, P) float mask logits at the points of each image.
        class_NQC: (N, Q, K + 1) float class logits.
        target_NKP: (N, K, P) float in 0..1, target masks at the same points.

    Returns:
        (N, Q, K) float.
    """
    target_NPK = target_NKP.mT
    bce = F.softplus(mask_NQP).mean(-1, keepdim=True) - mask_NQP @ target_NPK / mask_NQP.shape[-1]
    inside = mask_NQP.sigmoid()
    area = inside.sum(-1, keepdim=True) + target_NPK.sum(-2, keepdim=True)
    dice = 1 - (2 * inside @ target_NPK + 1) / (area + 1)
    chance = class_NQC.softmax(-1)[..., :-1]
    cost = WEIGHTS["mask"] * bce + WEIGHTS["dice"] * dice - WEIGHTS["class"] * chance
    return cost.clamp(-COST_LIMIT, COST_LIMIT).nan_to_num(0.0)


def assign(costs_LNQK: Tensor, wanted_NK: Tensor) -> Tensor:
    """The cheapest one-to-one matches of queries and the classes wanted (Hungarian method).

    Args:
        costs_LNQK: (L, N, Q, K) float on the CPU, for L predictions.
        wanted_NK: (N, K) bool on the CPU.

    Returns:
        (L, 3, M) int64: image, query and class of each match, by image and then query.
    """
    classes = [wanted.nonzero()[:, 0] for wanted in wanted_NK]
    matches = []
    for costs in costs_LNQK:
        for image, (cost, here) in enumerate(zip(costs, classes, strict=True)):
            query, column = map(torch.from_numpy, linear_sum_assignment(cost[:, here].numpy()))
            matches.append(torch.stack([torch.full_like(query, image), query, here[column]]))
    by_prediction: Tensor = torch.cat(matches, 1).unflatten(1, (len(costs_LNQK), -1))
    return by_prediction.transpose(0, 1)


def bordered(target: Tensor, classes: int) -> Tensor:
    """The label map with a border of one pixel, (N, H + 2, W + 2); `classes` stands for no class.

    What lies beyond the image belongs to no mask; with the border no point needs to be checked.
    """
    known = (target >= 0) & (target < classes)
    return F.pad(torch.where(known, target, classes), (1, 1, 1, 1), value=classes)


def mask_at_points(labels: Tensor, image: Tensor, wanted: Tensor, points_MP2: Tensor) -> Tensor:
    """Binary masks read bilinearly at points, (M, P) float in 0..1; zero outside the image.

    Args:
        labels: From `bordered`.
        image: (M,) int64, whose masks.
        wanted: (M,) int64, their classes.
        points_MP2: (M, P, 2) float x, y in 0..1.
    """
    around, weights = _labels_at_points(labels, image, points_MP2)
    return ((around == wanted[:, None, None]) * weights).sum(-1)


def _wanted(labels: Tensor, bins: int, empty_masks: bool) -> Tensor:
    """Which classes are target masks, (N, K) bool: those in the image, or all of the K."""
    if empty_masks:
        return labels.new_ones(len(labels), bins - 1, dtype=torch.bool)
    present = labels.new_zeros(len(labels), bins, dtype=torch.bool)
    return present.scatter_(1, labels.flatten(1), True)[:, :-1]


@torch.no_grad()
def _match(
    mask_logits: Sequence[Tensor],
    class_logits: Sequence[Tensor],
    labels: Tensor,
    wanted_NK: Tensor,
    through: Size | None,
    points: int,
    generator: Generator,
) -> Tensor:
    """Matches of all predictions on the labels' device, see `assign`.

    All predictions are compared at the same points, so that labels are read once, and the costs
    leave the device in one transfer, where the reference waits for each image of each prediction.
    """
    images, bins = len(labels), class_logits[0].shape[-1]
    where = generator(images, points, 2, device=labels.device)
    every = torch.arange(images, device=labels.device)
    around, weights = _labels_at_points(labels, every, where)
    masks = weights.new_zeros(images, points, bins).scatter_add_(2, around, weights)
    masks = masks[..., :-1].mT
    costs = [
        matching_cost(_at_points(mask, where, through), label, masks)
        for mask, label in zip(mask_logits, class_logits, strict=True)
    ]
    return assign(torch.stack(costs).cpu(), wanted_NK.cpu()).to(labels.device)


def _check_labels(target: Tensor, classes: int) -> None:
    """Refuse labels outside the classes; called once the device has been waited for anyway."""
    strange = ((target < 0) | (target >= classes)) & (target != IGNORE)
    if strange.any():
        raise DataError(
            "labels outside the classes",
            found=target[strange].unique().tolist()[:8],
            expected=f"0 to {classes - 1}, or {IGNORE} for pixels to ignore",
        )


@torch.no_grad()
def _uncertain_points(
    logits_Mhw: Tensor, through: Size | None, points: int, generator: Generator
) -> Tensor:
    """Points (M, P, 2) for the mask terms: most where the logits are near 0, the rest anywhere."""
    count, device = len(logits_Mhw), logits_Mhw.device
    chosen = int(IMPORTANCE * points)
    candidates = generator(count, int(OVERSAMPLE * points), 2, device=device)
    doubt = -_at_points(logits_Mhw[:, None], candidates, through)[:, 0].abs()
    best = doubt.topk(chosen, dim=1, sorted=False).indices
    near = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    return torch.cat([near, generator(count, points - chosen, 2, device=device)], 1)


def _mask_terms(values_MP: Tensor, inside_MP: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy and dice of mask logits against values in 0..1, summed over masks."""
    bce = F.binary_cross_entropy_with_logits(values_MP, inside_MP, reduction="none").mean(1).sum()
    chance = values_MP.sigmoid()
    overlap = (chance * inside_MP).sum(1)
    dice = 1 - (2 * overlap + 1) / (chance.sum(1) + inside_MP.sum(1) + 1)
    return bce, dice.sum()


def _class_term(class_NQC: Tensor, image: Tensor, query: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy of all queries, those without a match as no object and with less weight."""
    nothing = class_NQC.shape[-1] - 1
    target = wanted.new_full(class_NQC.shape[:2], nothing)
    target[image, query] = wanted
    weight = class_NQC.new_ones(nothing + 1)
    weight[nothing] = NO_OBJECT
    return F.cross_entropy(class_NQC.flatten(0, 1), target.flatten(), weight)


def _masks_per_rank(masks: Tensor) -> Tensor:
    """Target masks a rank on average, at least 1: what the mask terms are divided by."""
    count = masks.float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return count.clamp(min=1)


def _at_points(logits_MChw: Tensor, points_MP2: Tensor, through: Size | None) -> Tensor:
    """Bilinear values (M, C, P) at points, of the maps as they are or as if resized to `through`.

    A resized pixel is itself a bilinear value of the small map, which repeats its border; so four
    of those, weighed as a point between resized pixels is, give the value exactly.
    """
    if through is None:
        return F.grid_sample(logits_MChw, points_MP2[:, None] * 2 - 1, align_corners=False)[:, :, 0]
    left, top, weights = _around(points_MP2, through)
    column = left[..., None] + left.new_tensor([0, 1, 0, 1])
    row = top[..., None] + top.new_tensor([0, 0, 1, 1])
    centres = torch.stack([(2 * column + 1) / through[1] - 1, (2 * row + 1) / through[0] - 1], -1)
    weights = weights * (centres.abs() < 1).all(-1)  # nothing lies beyond the resized map
    values = F.grid_sample(logits_MChw, centres, padding_mode="border", align_corners=False)
    return (values * weights[:, None]).sum(-1)


def _labels_at_points(labels: Tensor, image: Tensor, points_MP2: Tensor) -> tuple[Tensor, Tensor]:
    """The labels of the four pixels around each point and their bilinear weights, (M, P, 4)."""
    height, width = labels.shape[-2:]
    left, top, weights = _around(points_MP2, (height - 2, width - 2))
    corner = (image[:, None] * height + top + 1) * width + left + 1
    steps = corner.new_tensor([0, 1, width, width + 1])
    return labels.flatten()[corner[..., None] + steps], weights


def _around(points_MP2: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """The upper left of the four pixels around points, and the weights of all four.

    Returns:
        Its column and row, (M, P) int64, from -1; and (M, P, 4) float weights, row by row.
    """
    x, y = (points_MP2[..., axis] * size[1 - axis] - 0.5 for axis in (0, 1))
    left, top = x.floor(), y.floor()
    right_share, low_share = x - left, y - top
    high_share, low_right = 1 - low_share, right_share * low_share
    upper = [high_share - right_share + low_right, right_share - low_right]
    weights = torch.stack([*upper, low_share - low_right, low_right], -1)
    return left.long(), top.long(), weights
