"""Decoders: adapters from encoder features to a task's prediction, one origin a module."""

from __future__ import annotations

from scaleevent.decoders.decoder import Decoder
from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.eomt import EoMT
from scaleevent.decoders.linear import Linear
from scaleevent.decoders.sea_raft import SeaRaft
from scaleevent.decoders.waft import Waft

DECODERS: dict[str, type[Decoder]] = {
    "linear": Linear,
    "eomt": EoMT,
    "dpt": DPT,
    "sea_raft": SeaRaft,
    "waft": Waft,
}
DEFAULT_DECODER = {"segmentation": "eomt", "depth": "dpt", "flow": "sea_raft"}
