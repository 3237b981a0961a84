"""A complete objective in one file: what `examples/own_objective.py` of a user would look like.

The encoder learns to tell, from one linear layer on its tokens, how many events each patch holds.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from scaleevent.config.pretrain import PretrainConfig
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.objectives.objective import Objective
from scaleevent.pairs.sample_inputs import INPUTS
from scaleevent.training.loop import to_device


class Settings(PretrainConfig):
    """One option of its own."""

    sharpness: Annotated[float, Field(gt=0, description="factor on the error")] = 1.0

    def describe(self):
        return f"toy objective, sharpness {self.sharpness:g}"


def events(pair):
    """() float32: the number of events, an input of its own."""
    return torch.tensor(float(len(pair.shard.events(pair.row)[0])))


class Counting(Objective):
    inputs: ClassVar = {"voxel": INPUTS["voxel"], "density": INPUTS["density"], "events": events}
    weights: ClassVar = {"count": 1.0}
    titles: ClassVar = {"val_count": "error of the density", "val_events": "events per sample"}
    source = "the events themselves"

    def __init__(self, encoder, sharpness):
        super().__init__(encoder)
        self.sharpness = sharpness
        self.head = nn.Linear(encoder.width, 1).to(next(encoder.parameters()).device)
        self._model = nn.ModuleDict({"encoder": encoder, "head": self.head})
        self._model.forward = lambda voxel: self.head(encoder.tokens(voxel)).squeeze(-1)

    @property
    def model(self):
        return self._model

    def step(self, model, batch):
        error = self.sharpness * (model(batch["voxel"]) - batch["density"].flatten(1).float()).abs()
        return {"count": error.mean()}, {"largest": lambda: float(error.detach().max())}

    def validate(self, batches):
        device = next(self.encoder.parameters()).device
        found = [to_device(batch, device) for batch in batches]
        errors = [float(self.step(self.model, batch)[0]["count"]) for batch in found]
        events = torch.cat([batch["events"] for batch in found])
        return {"val_count": sum(errors) / len(errors), "val_events": float(events.mean())}


def build(settings, run):
    torch.manual_seed(settings.seed)
    encoder = Encoder(ARCHS[settings.arch]).to(run.ranks.device)
    return Counting(encoder, settings.sharpness)
