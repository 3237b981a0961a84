"""What the settings of a run mean, in the words of the command's help."""

from __future__ import annotations

from contextlib import suppress

from scaleevent.config.data import PrepareConfig, VoxelizeConfig
from scaleevent.config.downstream import EvalConfig, FinetuneConfig, ProbeConfig
from scaleevent.config.export import ExportConfig
from scaleevent.config.predict import PredictConfig
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.config.settings import PartSettings, Settings
from scaleevent.errors import ScaleEventError
from scaleevent.reporting.runs import RunRecord

MODELS: dict[str, type[Settings]] = {
    "prepare": PrepareConfig,
    "voxelize": VoxelizeConfig,
    "pretrain": PretrainConfig,
    "probe": ProbeConfig,
    "finetune": FinetuneConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
}


def meanings(run: RunRecord) -> dict[str, str]:
    """The description of each setting that is known, by its key."""
    model = MODELS.get(run.command)
    if model is None:
        return {}
    if issubclass(model, PartSettings):
        with suppress(ScaleEventError):  # a part of a newer version
            model = model.of_part(run.settings)
    return {key: field.description or "" for key, field in model.model_fields.items()}
