"""The loss against the authors' code, the printed equations, a scalar loop and full maps."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from scaleevent.errors import ConfigError, DataError
from scaleevent.objectives import structure_loss as losses
from scaleevent.objectives.structure_loss import (
    LAMBDAS,
    STRUCTURES,
    Structure,
    distillation_terms,
    effective_rank,
    mean_cosine,
)
from scaleevent.training.terms import total

GOLDEN = Path(__file__).parent / "data" / "distill_losses.safetensors"
NAMES = ("l1", "intra", "cross")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Values and gradients of zhiwen-xdu/ScaleEvent's criterion.py, and of the equations."""
    return load_file(GOLDEN)


@pytest.fixture(params=[losses.TILE_CPU, 5], ids=["one tile", "many tiles"])
def tile(request, monkeypatch):
    monkeypatch.setattr(losses, "TILE_CPU", request.param)


def run(student: Tensor, teacher: Tensor, mask: Tensor | None, structure="released"):
    """Terms, total and the student's gradient of the total."""
    student = student.clone().requires_grad_()
    terms = distillation_terms(student, teacher, mask, structure)
    value = total(terms, LAMBDAS)
    value.backward()
    return terms, value, student.grad


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.dtype == theirs.dtype
    assert (ours - theirs).abs().max().item() <= tolerance


def scalar_terms(student: Tensor, teacher: Tensor, mask: Tensor, structure: Structure) -> Tensor:
    """The three terms with one Python number at a time; differentiable, for gradients."""
    images, length, width = student.shape
    sums = [torch.zeros((), dtype=torch.float64) for _ in NAMES]

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        product = sum(a[c] * b[c] for c in range(width))
        if structure.similarity == "cosine":
            product = product / (a.square().sum().sqrt() * b.square().sum().sqrt())
        return product

    def distance(value: Tensor, target: Tensor) -> Tensor:
        if structure.gate is not None:
            if target <= structure.gate:
                return torch.zeros((), dtype=torch.float64)
            value = value.clamp_min(0)
        return (value - target) ** 2 if structure.distance == "mse" else (value - target).abs()

    for n in range(images):
        k, q, m = student[n], teacher[n], mask[n]
        for i in range(length):
            sums[0] = sums[0] + m[i] * sum((k[i, c] - q[i, c]).abs() for c in range(width))
            for j in range(length):
                if m[i] * m[j] == 0:
                    continue
                target = similarity(q[i], q[j])
                both = m[i] * m[j]
                sums[1] = sums[1] + both * distance(similarity(k[i], k[j]), target)
                sums[2] = sums[2] + both * distance(similarity(k[i], q[j]), target)
    rows = images * length
    counts = {
        "sum": (images, images, images),
        "rowsum": (rows, rows, rows),
        "mean": (rows * width, rows * length, rows * length),
    }[structure.reduction]
    return torch.stack([s / count for s, count in zip(sums, counts, strict=True)])


@pytest.mark.usefixtures("tile")
class TestGolden:
    def test_released_equals_the_authors_code(self, golden):
        prefix = "official/DistillLoss_With_CrossGram"
        student, teacher = golden["in/event_tokens"], golden["in/image_tokens"]
        mask = golden["in/mask"].flatten(1)
        for dtype, name, tolerance in [(torch.float64, "f64", 1e-12), (torch.float32, "f32", 1e-6)]:
            terms, value, gradient = run(student.to(dtype), teacher.to(dtype), mask.to(dtype))
            for ours, theirs in zip(NAMES, ("sim", "intra", "cross"), strict=True):
                expected = golden[f"{prefix}/{name}/{theirs}"]
                close(terms[ours].detach(), expected, tolerance)
            close(value.detach(), golden[f"{prefix}/{name}/total"], tolerance)
            close(gradient, golden[f"{prefix}/{name}/grad_event"], tolerance)

    @pytest.mark.parametrize("kind", ["full_mask", "empty_mask"])
    def test_released_with_everything_and_nothing_active(self, golden, kind):
        student, teacher = golden["in/event_tokens"], golden["in/image_tokens"]
        mask = torch.full(student.shape[:2], kind == "full_mask")
        terms, value, gradient = run(student, teacher, mask)
        prefix = f"official/{kind}/DistillLoss_With_CrossGram/f64"
        close(value.detach(), golden[f"{prefix}/total"], 1e-12)
        close(gradient, golden[f"{prefix}/grad_event"], 1e-12)
        if kind == "full_mask":
            assert run(student, teacher, None)[1] == value

    @pytest.mark.parametrize(
        ("structure", "reading", "factor"),
        [
            ("equation", "raw/rowsum", 24),  # the recorded rows are averaged over the 24 tokens
            ("equation-row", "raw/rowsum", 1),
            ("equation-mean", "raw/mean", 1),
            ("cosine-l1", "cosine/mean", 1),
        ],
    )
    def test_printed_equations(self, golden, structure, reading, factor):
        student, teacher = golden["in/event_tokens"], golden["in/image_tokens"]
        terms, value, gradient = run(student, teacher, golden["in/mask"].flatten(1), structure)
        for ours, theirs in zip(NAMES, ("l1", "is", "cs"), strict=True):
            close(terms[ours].detach(), factor * golden[f"paper/{reading}/{theirs}"], 1e-11)
        close(value.detach(), factor * golden[f"paper/{reading}/total"], 1e-10)
        close(gradient, factor * golden[f"paper/{reading}/grad_event"], 1e-11)


OPTIONS = [
    Structure(similarity, distance, gate, reduction)
    for similarity in ("cosine", "dot")
    for distance in ("mse", "l1")
    for gate in (None, 0.1)
    for reduction in ("mean", "rowsum", "sum")
]


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("structure", OPTIONS, ids=lambda s: "-".join(map(str, vars(s).values())))
def test_every_option_equals_a_scalar_loop(structure, soft):
    random = torch.Generator().manual_seed(3)
    teacher = torch.randn(2, 7, 4, generator=random, dtype=torch.float64)
    student = 0.8 * teacher + 0.5 * torch.randn(2, 7, 4, generator=random, dtype=torch.float64)
    mask = torch.rand(2, 7, generator=random, dtype=torch.float64)
    mask = mask * (mask > 0.3) if soft else (mask > 0.3).double()

    slow = student.clone().requires_grad_()
    expected = scalar_terms(slow, teacher, mask, structure)
    weights = torch.tensor([LAMBDAS[name] for name in NAMES], dtype=torch.float64)
    (expected * weights).sum().backward()
    terms, _, gradient = run(student, teacher, mask, structure)
    close(torch.stack([terms[name] for name in NAMES]).detach(), expected.detach(), 1e-12)
    close(gradient, slow.grad, 1e-12)


def test_sums_over_a_sample_are_averaged_over_samples():
    """The printed equations do not change when a batch is repeated, and grow with its tokens."""
    random = torch.Generator().manual_seed(9)
    student, teacher = torch.randn(2, 3, 6, 4, generator=random, dtype=torch.float64)
    mask = torch.rand(3, 6, generator=random) < 0.7
    once = run(student, teacher, mask, "equation")[0]
    alone = [run(student[i : i + 1], teacher[i : i + 1], mask[i : i + 1], "equation")[0]
             for i in range(3)]  # fmt: skip
    by_row = run(student, teacher, mask, "equation-row")[0]
    for name in NAMES:
        close(sum(one[name] for one in alone).detach() / 3, once[name].detach(), 1e-12)
        close(once[name].detach(), 6 * by_row[name].detach(), 1e-11)


def test_each_term_has_its_own_gradient():
    random = torch.Generator().manual_seed(4)
    teacher, student = torch.randn(2, 2, 9, 5, generator=random, dtype=torch.float64)
    student.requires_grad_()
    terms = distillation_terms(student, teacher)
    parts = {n: torch.autograd.grad(t, student, retain_graph=True)[0] for n, t in terms.items()}
    whole = torch.autograd.grad(total(terms, LAMBDAS), student)[0]
    close(sum(LAMBDAS[name] * part for name, part in parts.items()), whole, 1e-12)
    assert torch.autograd.gradcheck(
        lambda x: tuple(distillation_terms(x, teacher, None, "released").values()), student
    )


def test_ten_numbers_by_hand():
    """Two tokens at right angles; the student's second leans 45 degrees towards the first."""
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    student = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    lean = math.sqrt(0.5)
    terms = distillation_terms(student, teacher)  # the gate leaves the diagonal only
    assert terms["l1"] == 1 / 4
    assert terms["intra"].item() == pytest.approx(0, abs=1e-7)
    assert terms["cross"].item() == pytest.approx((1 - lean) ** 2 / 4, rel=1e-6)
    for structure, (per_token, per_map) in {
        "equation": (1, 1), "equation-row": (2, 2), "equation-mean": (4, 4),
    }.items():  # fmt: skip
        terms = distillation_terms(student, teacher, None, structure)
        assert terms["l1"] == 1 / per_token
        assert terms["intra"] == (1 + 1 + 1) / per_map  # K K^T = [1 1; 1 2]
        assert terms["cross"] == 1 / per_map  # K Q^T = [1 0; 1 1]
    terms = distillation_terms(student, teacher, None, "cosine-l1")
    assert terms["intra"].item() == pytest.approx(2 * lean / 4, rel=1e-6)
    assert terms["cross"].item() == pytest.approx((lean + 1 - lean) / 4, rel=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_float32_at_production_size(structure):
    """1200 tokens of 384 channels in float32 against whole maps in float64."""
    random = torch.Generator().manual_seed(5)
    teacher = 0.2 * torch.randn(1, 1200, 384, generator=random)
    student = 0.8 * teacher + 0.12 * torch.randn(1, 1200, 384, generator=random)
    mask = (torch.rand(1, 1200, generator=random) < 0.6).float()
    options = STRUCTURES[structure]
    wide = student.double().requires_grad_()
    k, q = wide * mask[..., None], teacher.double() * mask[..., None]
    l1 = (k - q).abs().mean()
    if options.similarity == "cosine":
        k, q = F.normalize(k, dim=-1), F.normalize(q, dim=-1)
    maps = [k @ k.mT, k @ q.mT, q @ q.mT]
    if options.gate is not None:
        maps = [m.relu() * (maps[2] > options.gate) for m in maps]
    distance = {"mse": F.mse_loss, "l1": F.l1_loss}[options.distance]
    sizes = {
        "mean": (1, 1, 1), "rowsum": (384, 1200, 1200), "sum": (384 * 1200, 1200**2, 1200**2),
    }[options.reduction]  # fmt: skip
    expected = torch.stack([l1, distance(maps[0], maps[2]), distance(maps[1], maps[2])])
    expected = expected * torch.tensor(sizes)
    (expected * torch.tensor([LAMBDAS[name] for name in NAMES])).sum().backward()
    terms, _, gradient = run(student, teacher, mask, structure)
    found = torch.stack([terms[name] for name in NAMES]).double()
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    error = (gradient - wide.grad).norm() / wide.grad.norm()
    assert error < (1e-5 if options.distance == "mse" else 1e-3)  # signs flip where maps meet


def test_masked_tokens_do_not_matter():
    random = torch.Generator().manual_seed(6)
    student, teacher = torch.randn(2, 3, 40, 8, generator=random)
    mask = torch.rand(3, 40, generator=random) < 0.5
    terms, value, gradient = run(student, teacher, mask)
    garbage = torch.where(mask[..., None], student, 1e6)
    _, again, other = run(garbage, teacher, mask)
    assert torch.equal(value, again) and torch.equal(gradient, other)
    assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))
    _, float_value, float_gradient = run(student, teacher, mask.float())
    assert torch.equal(value, float_value) and torch.equal(gradient, float_gradient)


def test_inputs_stay_and_repeats_are_identical():
    random = torch.Generator().manual_seed(7)
    student, teacher = torch.randn(2, 2, 700, 16, generator=random)
    copies = student.clone(), teacher.clone()
    first, second = run(student, teacher, None), run(student, teacher, None)
    assert torch.equal(first[1], second[1]) and torch.equal(first[2], second[2])
    assert torch.equal(student, copies[0]) and torch.equal(teacher, copies[1])
    with torch.no_grad():
        assert total(distillation_terms(student, teacher), LAMBDAS) == first[1]


def test_half_precision_is_computed_in_float32():
    random = torch.Generator().manual_seed(8)
    student, teacher = torch.randn(2, 2, 30, 16, generator=random).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        terms, value, gradient = run(student, teacher, None)
    exact = run(student.float(), teacher.float(), None)
    assert torch.equal(value, exact[1]) and gradient.dtype == torch.bfloat16
    assert torch.equal(gradient, exact[2].bfloat16())


def test_the_teacher_gets_no_gradient():
    student, teacher = torch.randn(2, 1, 6, 4).unbind()
    student.requires_grad_()
    teacher.requires_grad_()
    total(distillation_terms(student, teacher), LAMBDAS).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.slow
def test_memory_is_linear_in_tokens():
    """19,200 tokens, 40% active: whole maps would take gigabytes, 250 MB are allowed."""
    code = """
import torch
from scaleevent.objectives.structure_loss import LAMBDAS, distillation_terms
from scaleevent.training.terms import total
from tests.peak_memory import peak_mib
torch.set_num_threads(1)
def step(length):
    student = torch.randn(1, length, 384, requires_grad=True)
    teacher, mask = torch.randn(1, length, 384), torch.zeros(1, length)
    mask[:, : int(0.4 * length)] = 1
    before = peak_mib()
    total(distillation_terms(student, teacher, mask), LAMBDAS).backward()
    return peak_mib() - before
step(64)
print(step(19200))
"""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert 0 < float(found) <= 250


@pytest.mark.slow
def test_the_benchmark_runs():
    script = Path(__file__).parents[1] / "examples" / "bench_losses.py"
    command = [sys.executable, str(script), "--cases", "4801x16x0.02", "--rounds", "1"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1].split()[:3] == ["4801", "16", "2%"]


def test_what_does_not_fit_is_refused():
    tokens = torch.zeros(2, 5, 4)
    with pytest.raises(ConfigError, match="released, equation, equation-row, equation-mean"):
        distillation_terms(tokens, tokens, None, "paper")
    with pytest.raises(DataError, match="differ in shape"):
        distillation_terms(tokens, tokens[:, :4])
    with pytest.raises(DataError, match="mask does not fit"):
        distillation_terms(tokens, tokens, torch.ones(2, 5, 1))
    with pytest.raises(ConfigError, match="unknown distance"):
        replace(STRUCTURES["released"], distance="l2")
    with pytest.raises(ConfigError, match="gate"):
        Structure(gate=-0.1)
    with pytest.raises(ConfigError, match="without a weight.*\n.*cross"):
        total({"cross": torch.ones(())}, {"l1": 1.0})


def test_effective_rank_counts_directions():
    basis = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]
    signs = torch.cat([basis[:5], -basis[:5]])  # five equal directions, centred
    assert effective_rank(signs + 3.0) == pytest.approx(5, rel=1e-6)
    assert effective_rank(torch.ones(2, 9, 8)) == 1
    line = torch.linspace(-1, 1, 50)[:, None] * torch.ones(8)
    assert effective_rank(line) == pytest.approx(1, rel=1e-3)


def test_mean_cosine():
    a = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    b = torch.tensor([[[3.0, 0.0], [5.0, 0.0]]])
    assert mean_cosine(a, b) == pytest.approx(0.5)
    assert mean_cosine(a, b, torch.tensor([[True, False]])) == pytest.approx(1)
    assert mean_cosine(a, b, torch.zeros(1, 2)) == 0
