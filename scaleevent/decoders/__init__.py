"""Decoders: adapters from encoder features to a task's prediction, one origin a module."""

from __future__ import annotations

from typing import Any

from scaleevent.decoders.decoder import Decoder
from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.eomt import EoMT
from scaleevent.decoders.linear import Linear
from scaleevent.decoders.sea_raft import SeaRaft
from scaleevent.decoders.waft import Waft
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError
from scaleevent.tasks.task import Task

DECODERS: dict[str, type[Decoder]] = {
    "linear": Linear,
    "eomt": EoMT,
    "dpt": DPT,
    "sea_raft": SeaRaft,
    "waft": Waft,
}
DEFAULT_DECODER = {"segmentation": "eomt", "depth": "dpt", "flow": "sea_raft"}
SEA_RAFT_SIZES = ((768, "M"), (384, "S"), (0, "tiny"))  # from this encoder width on


def build_decoder(name: str | None, encoder: Encoder, task: Task, eomt: str) -> Decoder:
    """A fresh decoder for a task.

    Args:
        name: Key of `DECODERS`; None takes the task's default.
        encoder: It sits on.
        task: With its classes or largest depth.
        eomt: Mode of EoMT, "upstream" or "scaleevent".

    Raises:
        ConfigError: A decoder of another task, or one that cannot sit on this encoder.
    """
    name = name or DEFAULT_DECODER[task.name]
    kind = DECODERS[name]
    if kind is not Linear and kind.task != task.name:
        raise ConfigError(
            "this decoder is for another task",
            where="--decoder",
            found=f"{name}: {kind.task}",
            expected=task.name,
        )
    own: dict[str, Any] = {"task": task.name} if kind is Linear else {}
    if task.name == "segmentation":
        own["classes"] = len(task.classes)
    if task.name == "depth":
        own["max_depth"] = task.max_depth
    if kind is EoMT:
        own["mode"] = eomt
    if kind is SeaRaft:
        own["size"] = next(size for least, size in SEA_RAFT_SIZES if encoder.width >= least)
    return kind(encoder, **own)
