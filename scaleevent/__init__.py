"""ScaleEvent: distil image foundation models into event-camera encoders."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scaleevent.version import __version__

if TYPE_CHECKING:
    from scaleevent.checkpoint import load_encoder, load_task
    from scaleevent.commands.finetune import run as finetune
    from scaleevent.commands.predict import run as predict
    from scaleevent.commands.prepare import run as prepare
    from scaleevent.commands.pretrain import run as pretrain
    from scaleevent.config.data import PrepareConfig
    from scaleevent.config.downstream import FinetuneConfig
    from scaleevent.config.predict import PredictConfig
    from scaleevent.config.pretrain import PretrainConfig
    from scaleevent.encoders.encoder import Encoder, build_encoder
    from scaleevent.errors import ScaleEventError
    from scaleevent.events import Events
    from scaleevent.formats import open_recording, read_events
    from scaleevent.grids.density import active_mask, patch_density
    from scaleevent.grids.voxels import voxelize
    from scaleevent.grids.windows import Window, WindowRule, choose_window
    from scaleevent.objectives.structure_loss import distillation_terms
    from scaleevent.pairs.store import PairStore
    from scaleevent.predictor import Predictor

# public name: the module it lives in, imported on first use
_HOME = {
    "Encoder": "encoders.encoder",
    "Events": "events",
    "FinetuneConfig": "config.downstream",
    "PairStore": "pairs.store",
    "PredictConfig": "config.predict",
    "Predictor": "predictor",
    "PrepareConfig": "config.data",
    "PretrainConfig": "config.pretrain",
    "ScaleEventError": "errors",
    "Window": "grids.windows",
    "WindowRule": "grids.windows",
    "active_mask": "grids.density",
    "build_encoder": "encoders.encoder",
    "choose_window": "grids.windows",
    "distillation_terms": "objectives.structure_loss",
    "load_encoder": "checkpoint",
    "load_task": "checkpoint",
    "open_recording": "formats",
    "patch_density": "grids.density",
    "read_events": "formats",
    "voxelize": "grids.voxels",
}
_COMMANDS = {"finetune", "predict", "prepare", "pretrain"}

__all__ = [
    "Encoder",
    "Events",
    "FinetuneConfig",
    "PairStore",
    "PredictConfig",
    "Predictor",
    "PrepareConfig",
    "PretrainConfig",
    "ScaleEventError",
    "Window",
    "WindowRule",
    "__version__",
    "active_mask",
    "build_encoder",
    "choose_window",
    "distillation_terms",
    "finetune",
    "load_encoder",
    "load_task",
    "open_recording",
    "patch_density",
    "predict",
    "prepare",
    "pretrain",
    "read_events",
    "voxelize",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"scaleevent.{_HOME[name]}"), name)
    if name in _COMMANDS:
        return importlib.import_module(f"scaleevent.commands.{name}").run
    raise AttributeError(f"module 'scaleevent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
