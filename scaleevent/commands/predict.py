"""`scaleevent predict`: what a model sees, in recordings or live, as pictures, arrays or video."""

from __future__ import annotations

from math import prod

from scaleevent.config.predict import PredictConfig
from scaleevent.errors import ConfigError, DataError, ScaleEventError
from scaleevent.live.predicting import ended_by, event_source, open_inputs, predicted
from scaleevent.prediction.models import open_model
from scaleevent.prediction.recordings import (
    Done,
    choose_rule,
    choose_schedule,
    folder_names,
    given_times,
    learn,
    span_of,
)
from scaleevent.prediction.report import PredictResult, failures, prediction_report
from scaleevent.prediction.streaming import Plan
from scaleevent.prediction.views import choose_view
from scaleevent.prediction.writers import check_packages
from scaleevent.system.files import write_json
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.ranks import choose_device
from scaleevent.system.reports import progress, say

BASIS = "basis.safetensors"


@kept_random_state()
def run(cfg: PredictConfig, quiet: bool = True) -> PredictResult:
    """Predict along recordings or a live source, and write what is predicted to a folder.

    Args:
        cfg: All settings.
        quiet: No progress on stderr.

    Returns:
        Windows of every recording and how long they took, stage by stage.

    Raises:
        CheckpointError: Not a model.
        DataError: Not a recording, a damaged one, or one without a window; the predictions of
            others are made and written before.
        ConfigError: Options that the model does not have; no window of the only recording.
        ScaleEventError: What ended a live source; everything is written before.
    """
    cfg.check()
    check_packages(cfg.write)
    recordings = open_inputs(cfg)
    sensor = max(((one.height, one.width) for one in recordings), key=prod)
    opened = open_model(
        cfg.checkpoint, sensor, size=cfg.input_size, device=choose_device(cfg.device),
        offline=cfg.offline,
    )  # fmt: skip
    if opened.task is not None and cfg.asks_for_view:
        raise ConfigError(
            "only for encoders", where=", ".join(cfg.asks_for_view),
            found=f"{cfg.checkpoint}, a model for {opened.task}",
        )  # fmt: skip
    view = choose_view(
        opened, patch=cfg.patch, clusters=cfg.clusters, basis=cfg.basis, seed=cfg.seed
    )
    times = given_times(cfg)
    (rule, rule_line), (schedule, when_line) = choose_rule(cfg, opened), choose_schedule(cfg, times)
    plan = Plan(schedule, rule, span_of(cfg))
    names = folder_names(cfg.recordings)
    inputs = zip(recordings, names, strict=True)
    sources = [event_source(one, name, plan, cfg) for one, name in inputs]
    for source in sources:
        view.check(opened.predictor.settings.fit(source.height, source.width))
    choices = dict.fromkeys(choice for one in recordings for choice in one.choices)
    lines = [*opened.notes, rule_line, when_line, *choices]
    for line in () if quiet else lines:
        say(line)
    learns = view.learns
    with cfg.claimed():
        expected = None if cfg.is_live else learn(view, sources, plan, cfg.out / BASIS, quiet)
        done: list[Done] = []
        failed: dict[str, ScaleEventError] = {}
        with progress("predict", expected, "windows", not quiet) as ticker:
            for source in sources:
                folder = cfg.out / source.name if len(sources) > 1 else cfg.out
                try:
                    done.append(predicted(source, view, plan, folder, cfg, times, ticker))
                except (DataError, ConfigError) as error:  # such as a recording without a window
                    failed[source.name] = error
        if not done:
            raise failures(failed, done, cfg.out)
        if cfg.is_live and learns:
            view.save(cfg.out / BASIS)
        report = prediction_report(cfg, opened, view, done, lines, failed)
        write_json(cfg.out / "report.json", report.to_json())
    for ended in filter(None, map(ended_by, done)):
        raise ended
    if failed:
        raise failures(failed, done, cfg.out)
    return report
