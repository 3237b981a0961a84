"""An objective of your own is one file and one line. This one: tokens that count events.

python examples/own_objective.py pretrain --objective density --preset demo --sharpness 2
"""

from typing import Annotated

from pydantic import Field

from scaleevent import cli
from scaleevent.config.catalog import OBJECTIVES, Part
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.objectives.objective import INPUTS, Objective

OBJECTIVES["density"] = Part("own_objective", "tokens that count events")  # the one line


class Settings(PretrainConfig):
    sharpness: Annotated[float, Field(gt=0, description="factor on the error")] = 1.0


class Density(Objective):
    inputs = {"voxel": INPUTS["voxel"], "density": INPUTS["density"]}
    weights = {"error": 1.0}

    def step(self, model, batch):
        error = model(batch["voxel"])[..., 0] - batch["density"].flatten(1)
        return {"error": self.sharpness * error.abs().mean()}, {}


def build(settings: Settings, run) -> Density:
    objective = Density(Encoder(ARCHS[settings.arch]).to(run.ranks.device))
    objective.sharpness = settings.sharpness
    return objective


if __name__ == "__main__":
    cli.main()
