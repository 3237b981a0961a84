"""Schedules against torch's own, the references' loops and recorded numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scaleevent.training.schedules import one_cycle_linear, poly, two_stage_poly

DATA = Path(__file__).parent / "data"


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)


def test_two_stage_poly_equals_upstream():
    golden = load_file(DATA / "eomt_train_utils.safetensors")
    total, warmup = golden["schedule/total"].item(), tuple(golden["schedule/warmup"].tolist())
    for step, (encoder, head) in enumerate(golden["schedule/lr"].tolist()):
        assert abs(1e-4 * two_stage_poly(step, total, warmup, "encoder") - encoder) <= 1e-12
        assert abs(3e-4 * two_stage_poly(step, total, warmup, "head") - head) <= 1e-12


def test_two_stage_poly_without_warmup_is_poly():
    for stage in ("head", "encoder"):
        assert [two_stage_poly(s, 10, (0, 0), stage) for s in range(12)] == [
            poly(s, 10) for s in range(12)
        ]
    assert poly(0, 10) == 1 and poly(5, 10, 2) == 0.25 and poly(11, 10) == 0


@pytest.mark.parametrize(("total", "start"), [(100, 0.05), (37, 0.3), (100_100, 0.05), (40, 1.0)])
def test_one_cycle_equals_torch(total, start):
    group = optimizer()
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        group, 1.0, total_steps=total, pct_start=start, anneal_strategy="linear"
    )
    for step in range(min(total, 6000)):
        ours = one_cycle_linear(step, total, start)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-12)
        if step + 1 < total:
            group.step()
            theirs.step()
