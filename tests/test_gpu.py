"""What a GPU computes is what the CPU computes: SCALEEVENT_TEST_GPU=1 pytest tests/test_gpu.py."""

import json

import pytest
import torch

from scaleevent.objectives.structure_loss import LAMBDAS, STRUCTURES, distillation_terms
from scaleevent.training.terms import total
from tests.test_end_to_end import TINY, call

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or not asked for")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("soft", [False, True])
def test_losses_and_their_gradients(structure, soft):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 1100, 96, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 1100, generator=generator)
    weights = torch.where(weights > 0.6, weights if soft else 1.0, 0.0)
    weights = weights if soft else weights > 0
    values = []
    for device in ("cpu", "cuda"):
        tokens = student.to(device).clone().requires_grad_()
        terms = distillation_terms(tokens, teacher.to(device), weights.to(device), structure)
        loss = total(terms, LAMBDAS)
        loss.backward()
        values.append([*(float(term.detach()) for term in terms.values()), tokens.grad.cpu()])
    (*terms, gradient), (*terms_gpu, gradient_gpu) = values
    assert terms_gpu == pytest.approx(terms, rel=1e-12)
    torch.testing.assert_close(gradient_gpu, gradient, rtol=1e-9, atol=1e-14)


def test_memory_of_the_losses_grows_with_the_tokens_not_their_square():
    tokens = torch.randn(2, 1, 19_200, 384, device="cuda")
    student = tokens[0].clone().requires_grad_()
    weights = torch.rand(1, 19_200, device="cuda") < 0.4
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    total(distillation_terms(student, tokens[1], weights), LAMBDAS).backward()
    assert torch.cuda.max_memory_allocated() - before < 400e6


def test_the_first_losses_of_a_run_are_those_of_the_cpu(tmp_path):
    """In float32 nearly the same; in bfloat16, the default on a GPU, within a few percent."""
    call(f"prepare street -o {tmp_path / 'pairs'} --scenes 12 --size 48x64")
    logs = {}
    for name, flags in (
        ("cpu", "--device cpu"),
        ("float32", "--device cuda --precision fp32"),
        ("bfloat16", "--device cuda"),
    ):
        run = tmp_path / name
        call(f"pretrain {tmp_path / 'pairs'} --arch tiny -o {run} {TINY} --no-probe {flags}")
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        logs[name] = [line["loss"] for line in lines if "loss" in line]
    assert logs["float32"] == pytest.approx(logs["cpu"], rel=1e-4)
    assert logs["bfloat16"] == pytest.approx(logs["cpu"], rel=0.05)
