"""What a run of `pretrain` leaves: the encoder, described, and numbers before and after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scaleevent.benchmarks.leaks import leak_notes
from scaleevent.checkpoint import save_encoder
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.objectives.objective import Change, Compared, Objective, PretrainResult
from scaleevent.pairs.samples import PairSamples
from scaleevent.system.files import Json, read_json_lines
from scaleevent.system.reports import counted
from scaleevent.training.best import Best
from scaleevent.training.log import LOG

BEST_BY = "val_loss"  # lower is better


@dataclass(frozen=True)
class Pretrained:
    """An encoder after any number of steps, and what is told of it."""

    cfg: PretrainConfig
    objective: Objective
    samples: PairSamples
    origin: Json  # where the pairs are from

    def keeper(self) -> Best:
        """Keeps the encoder at its best held-out loss."""

        def save(path: Path, kept: Json) -> None:
            value = kept["best"]["value"]
            rows = [(self.objective.titles.get(BEST_BY, BEST_BY), self._before(BEST_BY), value)]
            own = self.description(kept["step"], rows) | {"best": kept["best"]}
            save_encoder(path, self.objective.encoder, own)

        return Best(self.cfg.out, BEST_BY, False, save)

    def _before(self, key: str) -> float | None:
        """A number before the first step; None where the log has lost it."""
        lines = read_json_lines(self.cfg.out / LOG)
        return next((line.get(key) for line in lines if line.get("epoch") == 0), None)

    def description(self, step: int, rows: Iterable[tuple[str, float | None, float]]) -> Json:
        """What the checkpoint says of itself; JSON-able.

        Args:
            step: It is of the encoder after so many steps.
            rows: Numbers by title, before and after.
        """
        return {
            "config": self.cfg.recorded(),
            **self.objective.description(),
            "data": {**self.origin, "stores": [one.fingerprint for one in self.samples.stores]},
            "window": self.samples.window,
            "step": step,
            "metrics": {title: [before, after] for title, before, after in rows},
        }

    def report(
        self, result: PretrainResult, compared: Compared, best: Best | None
    ) -> PretrainResult:
        """The result with its numbers; writes the encoder to `result.checkpoint`."""
        objective = self.objective
        last = [one for one in read_json_lines(self.cfg.out / LOG) if "epoch" in one][-1]
        named = objective.titles.items()
        metrics = {t: Change(self._before(key), last[key]) for key, t in named if key in last}
        metrics |= {title: Change(before, after) for title, before, after in compared.rows}
        rows = tuple((title, *change) for title, change in metrics.items())
        description = self.description(last["step"], rows)
        save_encoder(result.checkpoint, objective.encoder, description)
        notes = (*leak_notes(self.origin), *compared.notes, f"encoder: {result.checkpoint}")
        return replace(
            result,
            title=f"pretrain, {objective.source}: {counted(last['step'], 'step')}",
            columns=("on held-out pairs", "before", "after"),
            rows=rows,
            notes=(*notes, best.describe() if best else "no best: no pair was held out"),
            record=description
            | {"input": asdict(self.samples.settings), "best": best.fact() if best else None}
            | compared.facts,
            more=compared.tables,
            best=best.path if best and best.kept else None,
            steps=last["step"],
            metrics=metrics,
            probes=compared.probes,
        )
