"""Learning-rate schedules as plain functions: step in, factor on the base rate out.

A step is counted from 0; the factor is the one in effect while that step is taken.
"""

from __future__ import annotations

from typing import Literal

Stage = Literal["head", "encoder"]


def poly(step: int, total: int, power: float = 0.9) -> float:
    """(1 - step / total)^power, from 1 to 0; 0 beyond the end."""
    return float(max(0.0, 1.0 - step / total) ** power)


def one_cycle_linear(step: int, total: int, pct_start: float) -> float:
    """Linear rise to 1 and linear fall, as torch's OneCycleLR with ``anneal_strategy="linear"``.

    From 1 / 25 at step 0 to 1 at step ``pct_start * total - 1``, which need not be whole, and down
    to 1 / 250,000 at step ``total - 1``; it stays there.
    """
    start, peak, end = 1 / 25, pct_start * total - 1, total - 1
    floor = start / 1e4
    if step <= peak:
        return start + (1 - start) * step / peak if peak > 0 else 1.0
    return 1 + (floor - 1) * (min(step, end) - peak) / (end - peak)


def two_stage_poly(step: int, total: int, warmup: tuple[int, int], stage: Stage) -> float:
    """EoMT's schedule: the head warms up first, then the encoder, each followed by its poly decay.

    Source: tue-mps/eomt:training/two_stage_warmup_poly_schedule.py.

    Args:
        step: From 0.
        total: Steps of the run.
        warmup: Steps of linear warm-up of the head, and then of the encoder, which rests until
            the head is warm.
        stage: Whose factor.
    """
    rest, ramp = (0, warmup[0]) if stage == "head" else warmup
    if step < rest:
        return 0.0
    if step < rest + ramp:
        return (step - rest) / ramp
    return poly(step - rest - ramp, max(1, total - rest - ramp))
