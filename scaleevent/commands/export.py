"""`scaleevent export`: a checkpoint as files for other programs."""

from __future__ import annotations

from collections.abc import Sequence

from scaleevent.benchmarks.own import benchmark_of
from scaleevent.benchmarks.samples import benchmark_split
from scaleevent.commands.benchmark_data import benchmark_samples
from scaleevent.config.export import ExportConfig
from scaleevent.deployment.artifact import Artifact, write_checked
from scaleevent.deployment.artifacts import artifacts, writable
from scaleevent.deployment.latency import latency_table
from scaleevent.deployment.parity import Parity, Run
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.deployment.results import FLOAT32, ExportResult, write_results
from scaleevent.deployment.scoring import score_programs, task_of
from scaleevent.pairs.draws import evenly_spaced
from scaleevent.system.files import Json
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.ranks import ranks
from scaleevent.system.reports import progress


@kept_random_state()
def run(cfg: ExportConfig, quiet: bool = True) -> ExportResult:
    """Write a checkpoint in the requested formats, each file checked before it is kept.

    Args:
        cfg: All settings.
        quiet: No progress on stderr.

    Returns:
        The files with the measured differences.

    Raises:
        MissingPackageError: The format asked for needs a package that is not installed; of all
            formats such a one is left out, and said.
        CheckpointError: Not a checkpoint, a format that the model cannot be converted to, or a file
            that computes something else; then no file is left.
        ConfigError: Data to score an encoder on, or labels of other classes than the model's.
        EnvironmentProblem: A checkpoint on the hub cannot be fetched.
    """
    formats, missing = writable(cfg.format)
    cfg.check()
    checkpoint = LoadedCheckpoint(
        cfg.checkpoint, cfg.size, offline=cfg.offline, for_others=cfg.format == "hub"
    )
    if cfg.data:
        task_of(checkpoint, cfg.data)
    files = artifacts(checkpoint, formats, cfg.batch)
    with cfg.claimed():
        with progress("export", len(files), "files", not quiet) as ticker:
            parity = Parity(checkpoint.predictor.settings)
            differences = write_checked(files, cfg.out, parity, ticker.advance)
        onnx = {file.name: cfg.out / file.name for file in files if file.name.endswith(".onnx")}
        return write_results(
            checkpoint, files, differences, cfg.out,
            left=missing if cfg.format == "all" else {},
            scores=_scores(cfg, checkpoint, files, quiet) if cfg.data else {},
            latency=latency_table(checkpoint, onnx) if cfg.latency else None,
            settings=cfg.with_origins(),
        )  # fmt: skip


def _scores(
    cfg: ExportConfig, checkpoint: LoadedCheckpoint, files: Sequence[Artifact], quiet: bool
) -> Json:
    """The task's headline number of the checkpoint and of files of reduced precision."""
    name, decoder = task_of(checkpoint, cfg.data)
    benchmark = benchmark_of(name, cfg.data)
    runs: dict[str, Run] = {FLOAT32: checkpoint.deployed}
    runs |= {file.name: file.reload(cfg.out / file.name) for file in files if file.limits}
    with ranks("cpu") as group:
        settings = checkpoint.predictor.settings
        samples = benchmark_samples(name, benchmark.task, cfg.data, settings, group, quiet=quiet)
        test = benchmark_split(samples, benchmark.eval_split).test
        chosen = evenly_spaced(test, cfg.limit or len(test)).tolist()
        with progress("score", len(runs) * len(chosen), "samples", not quiet) as ticker:
            found = score_programs(decoder, runs, samples, chosen, group, ticker.advance)
    about: Json = {"metric": samples.task.headline, "samples": len(chosen), "programs": [*runs]}
    return about | found
