"""ScaleEvent: distil image foundation models into event-camera encoders.

The verbs of the command line are functions of one settings object each, such as
``pretrain(PretrainConfig(...))``, and return typed results: files written, numbers, tables, and the
same JSON as ``--json``. They print nothing unless called with ``quiet=False``, raise
`ScaleEventError`, never end the program, and leave the global random state as it was. `voxelize`
makes the voxel grid of some events; the command `scaleevent voxelize` is `voxelize_recordings`.
Warnings go to the logger `scaleevent`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scaleevent.version import __version__

if TYPE_CHECKING:
    from scaleevent.benchmarks.evaluation import EvalResult
    from scaleevent.benchmarks.task_report import TaskResult
    from scaleevent.checkpoint import load_encoder, load_model, load_task
    from scaleevent.commands.eval import run as evaluate
    from scaleevent.commands.export import run as export
    from scaleevent.commands.finetune import run as finetune
    from scaleevent.commands.info import run as info
    from scaleevent.commands.predict import run as predict
    from scaleevent.commands.prepare import run as prepare
    from scaleevent.commands.pretrain import run as pretrain
    from scaleevent.commands.probe import run as probe
    from scaleevent.commands.report import run as report
    from scaleevent.commands.voxelize import run as voxelize_recordings
    from scaleevent.config.data import InfoConfig, PrepareConfig, VoxelizeConfig
    from scaleevent.config.downstream import EvalConfig, FinetuneConfig, ProbeConfig
    from scaleevent.config.export import ExportConfig
    from scaleevent.config.predict import PredictConfig
    from scaleevent.config.pretrain import PretrainConfig
    from scaleevent.config.report import ReportConfig
    from scaleevent.deployment.results import ExportResult
    from scaleevent.encoders.encoder import Encoder, build_encoder
    from scaleevent.errors import ScaleEventError
    from scaleevent.events import Events
    from scaleevent.formats import open_recording, read_events
    from scaleevent.grids.density import active_mask, patch_density
    from scaleevent.grids.voxels import voxelize
    from scaleevent.grids.windows import Window, WindowRule, choose_window
    from scaleevent.objectives.objective import PretrainResult
    from scaleevent.objectives.structure_loss import distillation_terms
    from scaleevent.pairs.describing import InfoResult, StoreResult
    from scaleevent.pairs.planning import DryRun
    from scaleevent.pairs.store import PairStore
    from scaleevent.prediction.report import PredictResult
    from scaleevent.predictor import Predictor
    from scaleevent.reporting.page import PageResult

# public name: the module it lives in, imported on first use
_HOME = {
    "DryRun": "pairs.planning",
    "Encoder": "encoders.encoder",
    "EvalConfig": "config.downstream",
    "EvalResult": "benchmarks.evaluation",
    "Events": "events",
    "ExportConfig": "config.export",
    "ExportResult": "deployment.results",
    "FinetuneConfig": "config.downstream",
    "InfoConfig": "config.data",
    "InfoResult": "pairs.describing",
    "PageResult": "reporting.page",
    "PairStore": "pairs.store",
    "PredictConfig": "config.predict",
    "PredictResult": "prediction.report",
    "Predictor": "predictor",
    "PrepareConfig": "config.data",
    "PretrainConfig": "config.pretrain",
    "PretrainResult": "objectives.objective",
    "ProbeConfig": "config.downstream",
    "ReportConfig": "config.report",
    "ScaleEventError": "errors",
    "StoreResult": "pairs.describing",
    "TaskResult": "benchmarks.task_report",
    "VoxelizeConfig": "config.data",
    "Window": "grids.windows",
    "WindowRule": "grids.windows",
    "active_mask": "grids.density",
    "build_encoder": "encoders.encoder",
    "choose_window": "grids.windows",
    "distillation_terms": "objectives.structure_loss",
    "load_encoder": "checkpoint",
    "load_model": "checkpoint",
    "load_task": "checkpoint",
    "open_recording": "formats",
    "patch_density": "grids.density",
    "read_events": "formats",
    "voxelize": "grids.voxels",
}
# public name of a command: its module in `commands`
_COMMANDS = {
    "evaluate": "eval",
    "export": "export",
    "finetune": "finetune",
    "info": "info",
    "predict": "predict",
    "prepare": "prepare",
    "pretrain": "pretrain",
    "probe": "probe",
    "report": "report",
    "voxelize_recordings": "voxelize",
}

__all__ = [
    "DryRun",
    "Encoder",
    "EvalConfig",
    "EvalResult",
    "Events",
    "ExportConfig",
    "ExportResult",
    "FinetuneConfig",
    "InfoConfig",
    "InfoResult",
    "PageResult",
    "PairStore",
    "PredictConfig",
    "PredictResult",
    "Predictor",
    "PrepareConfig",
    "PretrainConfig",
    "PretrainResult",
    "ProbeConfig",
    "ReportConfig",
    "ScaleEventError",
    "StoreResult",
    "TaskResult",
    "VoxelizeConfig",
    "Window",
    "WindowRule",
    "__version__",
    "active_mask",
    "build_encoder",
    "choose_window",
    "distillation_terms",
    "evaluate",
    "export",
    "finetune",
    "info",
    "load_encoder",
    "load_model",
    "load_task",
    "open_recording",
    "patch_density",
    "predict",
    "prepare",
    "pretrain",
    "probe",
    "read_events",
    "report",
    "voxelize",
    "voxelize_recordings",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"scaleevent.{_HOME[name]}"), name)
    if name in _COMMANDS:
        return importlib.import_module(f"scaleevent.commands.{_COMMANDS[name]}").run
    raise AttributeError(f"module 'scaleevent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
