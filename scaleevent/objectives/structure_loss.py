"""The distillation loss: token L1, intra-modal (IS) and cross-modal (CS) structure, paper eq. 1-5.

The structure terms compare L x L similarity maps of student tokens K and teacher tokens Q:
IS compares K K^T with Q Q^T, CS compares K Q^T with Q Q^T. Masked tokens count as zero, so map
entries with a masked row or column add nothing, and only active tokens need computing. That is done
in tiles, loss and gradient in the same pass: memory grows with the number of tokens, never with its
square.

Teacher tokens are targets; no gradient flows into them.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from scaleevent.errors import ConfigError, DataError
from scaleevent.objectives.structures import STRUCTURES, Structure
from scaleevent.training.terms import Terms

LAMBDAS: dict[str, float] = {"l1": 1.0, "intra": 10.0, "cross": 4.0}  # paper eq. 5

TILE_CPU = 512  # tokens; a float32 tile is 1 MiB, near the cache and large enough for the GEMM
TILE_GPU = 2048
NORM_EPS = 1e-12  # of torch.nn.functional.normalize, which the released code uses


def distillation_terms(
    student_NLD: Tensor,
    teacher_NLD: Tensor,
    mask_NL: Tensor | None = None,
    structure: str | Structure = "released",
) -> Terms:
    """The three terms of the loss, unweighted.

    Args:
        student_NLD: (N, L, D) float tokens of the student; gradients flow here only.
        teacher_NLD: (N, L, D) float tokens of the teacher.
        mask_NL: (N, L) bool, or float in 0..1: a token weighs m_i and a map entry m_i m_j. None is
            all ones.
        structure: A key of `STRUCTURES`, or own options.

    Returns:
        Scalars "l1", "intra" and "cross": float64 for float64 tokens, else float32.

    Raises:
        ConfigError: Unknown preset.
        DataError: Shapes that do not belong together.
    """
    if isinstance(structure, str):
        if structure not in STRUCTURES:
            raise ConfigError(
                "unknown structure loss", found=structure, expected=", ".join(STRUCTURES)
            )
        structure = STRUCTURES[structure]
    if mask_NL is None:
        mask_NL = torch.ones(student_NLD.shape[:2], dtype=torch.bool, device=student_NLD.device)
    if student_NLD.ndim != 3 or teacher_NLD.shape != student_NLD.shape:
        raise DataError(
            "student and teacher tokens differ in shape",
            found=f"{tuple(student_NLD.shape)} and {tuple(teacher_NLD.shape)}",
            expected="(N, L, D) twice",
        )
    if mask_NL.shape != student_NLD.shape[:2]:
        raise DataError(
            "the mask does not fit the tokens",
            found=tuple(mask_NL.shape),
            expected=tuple(student_NLD.shape[:2]),
        )
    l1, intra, cross = _Distillation.apply(student_NLD, teacher_NLD.detach(), mask_NL, structure)
    return {"l1": l1, "intra": intra, "cross": cross}


@torch.no_grad()
def effective_rank(tokens: Tensor) -> float:
    """How many directions the tokens use: exp of the entropy of their normalised singular values.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007, on centred (..., D) tokens. It falls
    to 1 when an encoder collapses.
    """
    centred = tokens.detach().flatten(0, -2).double()
    centred = centred - centred.mean(0)
    singular = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0).sqrt()
    fractions = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(fractions).sum().exp())


@torch.no_grad()
def mean_cosine(student_NLD: Tensor, teacher_NLD: Tensor, mask_NL: Tensor | None = None) -> float:
    """Mean cosine between tokens at the same place, weighted by the mask; 0 if nothing is active.

    The mask is bool or float in 0..1; None is all ones.
    """
    cosine = F.cosine_similarity(student_NLD.double(), teacher_NLD.double(), dim=-1)
    weight = torch.ones_like(cosine) if mask_NL is None else mask_NL.double()
    return float((cosine * weight).sum() / weight.sum().clamp_min(NORM_EPS))


class _Context(Protocol):
    """What forward leaves for backward; torch's own type does not have it all."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]
    scales: list[float]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward."""


class _Distillation(Function):
    """All three terms and their gradients with respect to the student, over active tokens only."""

    @staticmethod
    def forward(
        ctx: _Context, student: Tensor, teacher: Tensor, mask: Tensor, structure: Structure
    ) -> tuple[Tensor, Tensor, Tensor]:
        images, length, width = student.shape
        active = mask > 0
        index = active.flatten().nonzero().squeeze(1)
        weight = None if mask.dtype == torch.bool else mask.flatten()[index]
        k, q = _gather(student, index), _gather(teacher, index)
        if weight is not None:
            weight = None if bool((weight == 1).all()) else weight.to(k.dtype)

        distance = (k - q).abs_().sum(1, dtype=torch.float64)
        l1 = distance.sum() if weight is None else distance @ weight.double()
        norms = None
        if structure.similarity == "cosine":
            norms = torch.stack([torch.linalg.vector_norm(x, dim=1) for x in (k, q)])
            norms.clamp_min_(NORM_EPS)
            k.div_(norms[0, :, None])
            q.div_(norms[1, :, None])

        needs_gradient = ctx.needs_input_grad[0]
        slopes = (torch.zeros_like(k), torch.zeros_like(k)) if needs_gradient else None
        sums = torch.zeros(2, dtype=torch.float64, device=k.device)
        start = 0
        with torch.autocast(k.device.type, enabled=False):
            for count in active.sum(1).tolist():
                part = slice(start, start + count)
                soft = None if weight is None else weight[part]
                into = None if slopes is None else [slope[part] for slope in slopes]
                _add_image(k[part], q[part], soft, structure, sums, into)
                start += count

        rows = images * length
        per_token, per_map = {
            "mean": (rows * width, rows * length), "rowsum": (rows, rows), "sum": (images, images),
        }[structure.reduction]  # fmt: skip
        ctx.scales = [1 / per_token, 2 / per_map, 1 / per_map]
        if slopes is not None:
            if norms is not None:
                for slope in slopes:  # through x / |x|: drop the part along x
                    slope.sub_(k * (slope * k).sum(1, keepdim=True)).div_(norms[0, :, None])
            ctx.save_for_backward(student, teacher, index, weight, *slopes)
        values = (l1 / per_token, *(sums / per_map))
        return tuple(value.to(k.dtype) for value in values)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher, index, weight, intra, cross = ctx.saved_tensors
        factors = [grad * scale for grad, scale in zip(grads, ctx.scales, strict=True)]
        result = _gather(student, index).sub_(_gather(teacher, index)).sign_().mul_(factors[0])
        if weight is not None:
            result.mul_(weight[:, None])
        result.addcmul_(intra, factors[1]).addcmul_(cross, factors[2])
        full = torch.zeros_like(student).flatten(0, 1)
        full.index_copy_(0, index, result.to(full.dtype))
        return full.view_as(student), None, None, None


def _gather(tokens: Tensor, index: Tensor) -> Tensor:
    """The active tokens of all images, one after the other, in at least float32."""
    picked = tokens.flatten(0, 1).index_select(0, index)
    return picked if picked.dtype == torch.float64 else picked.float()


def _add_image(
    k: Tensor,
    q: Tensor,
    weight: Tensor | None,
    structure: Structure,
    sums: Tensor,
    slopes: list[Tensor] | None,
) -> None:
    """Add one image's summed map differences to `sums`, and their slopes to `slopes`.

    K K^T and Q Q^T are symmetric, so only tiles on and above the diagonal are visited. With G the
    derivative of a map's sum by its entries, IS has the gradient (G + G^T) K = 2 G K, of which
    `slopes[0]` gets G K (the caller doubles it), and CS has G Q.

    `k` and `q` are the (A, D) active tokens of student and teacher, of unit length for cosine maps,
    `weight` is the (A,) soft mask or None. `sums` is (2,) float64, and `slopes` are two (A, D)
    tensors or None without gradient, for IS and CS each.
    """
    tile = TILE_GPU if k.is_cuda else TILE_CPU
    for i in range(0, len(k), tile):
        rows = slice(i, i + tile)
        for j in range(i, len(k), tile):
            columns = slice(j, j + tile)
            target = q[rows] @ q[columns].T
            pair = None if weight is None else weight[rows, None] * weight[columns]
            value, slope = _compare(k[rows] @ k[columns].T, target, pair, structure)
            sums[0] += value if i == j else 2 * value
            if slopes is not None:
                slopes[0][rows].addmm_(slope, k[columns])
                if i != j:
                    slopes[0][columns].addmm_(slope.T, k[rows])
            value, slope = _compare(k[rows] @ q[columns].T, target, pair, structure)
            sums[1] += value
            if slopes is not None:
                slopes[1][rows].addmm_(slope, q[columns])
            if i != j:  # the tile mirrored at the diagonal, transposed
                value, slope = _compare(q[rows] @ k[columns].T, target, pair, structure)
                sums[1] += value
                if slopes is not None:
                    slopes[1][columns].addmm_(slope.T, q[rows])


def _compare(
    similarity: Tensor, target: Tensor, pair: Tensor | None, structure: Structure
) -> tuple[Tensor, Tensor]:
    """Sum of the distances between two tiles, and its slope by the first, which is overwritten."""
    if structure.gate is None:
        difference = similarity.sub_(target)
    else:
        similarity.relu_()
        difference = _where_above(similarity - target, target, structure.gate)
    weighted = difference if pair is None else difference * pair
    if structure.distance == "mse":
        value = torch.dot(difference.flatten(), weighted.flatten())
        slope = weighted.mul_(2)
    else:
        value = torch.linalg.vector_norm(weighted, 1, dim=1).sum(dtype=torch.float64)
        slope = weighted.sign_() if pair is None else weighted.sign_().mul_(pair)
    if structure.gate is not None:
        slope = _where_above(slope, similarity, 0.0)
    return value, slope


def _where_above(values: Tensor, reference: Tensor, threshold: float) -> Tensor:
    """`values`, in place set to zero where `reference` <= `threshold`, without a bool mask."""
    torch.ops.aten.threshold_backward.grad_input(values, reference, threshold, grad_input=values)
    return values
