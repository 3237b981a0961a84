"""What a run of `pretrain` leaves: the encoder, described, and numbers before and after."""

from __future__ import annotations

from dataclasses import asdict, replace

from scaleevent.benchmarks.leaks import leak_notes
from scaleevent.checkpoint import save_encoder
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.objectives.objective import Change, Compared, Objective, PretrainResult
from scaleevent.pairs.samples import PairSamples
from scaleevent.system.files import Json, read_json_lines
from scaleevent.system.reports import counted
from scaleevent.training.log import LOG


def pretrain_report(
    result: PretrainResult,
    cfg: PretrainConfig,
    objective: Objective,
    samples: PairSamples,
    compared: Compared,
    origin: Json,
) -> PretrainResult:
    """The result with its numbers; writes the encoder to `result.checkpoint`."""
    checks = [line for line in read_json_lines(cfg.out / LOG) if "epoch" in line]
    first, last = checks[0] if checks[0]["epoch"] == 0 else {}, checks[-1]  # a log may be lost
    named = objective.titles.items()
    metrics = {t: Change(first.get(key), last[key]) for key, t in named if key in last}
    metrics |= {title: Change(before, after) for title, before, after in compared.rows}
    description: Json = {
        "config": cfg.recorded(),
        **objective.description(),
        "data": {**origin, "stores": [store.fingerprint for store in samples.stores]},
        "window": samples.window,
        "step": last["step"],
        "metrics": {title: list(change) for title, change in metrics.items()},
    }
    save_encoder(result.checkpoint, objective.encoder, description)
    return replace(
        result,
        title=f"pretrain, {objective.source}: {counted(last['step'], 'step')}",
        columns=("on held-out pairs", "before", "after"),
        rows=tuple((title, *change) for title, change in metrics.items()),
        notes=(*leak_notes(origin), *compared.notes, f"encoder: {result.checkpoint}"),
        record=description | {"input": asdict(samples.settings)} | compared.facts,
        more=compared.tables,
        steps=last["step"],
        metrics=metrics,
        probes=compared.probes,
    )
