"""The plain decoder: one linear layer on every token, which measures the features themselves.

The pixel-wise linear head of the paper's linear probe, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.decoders.depth_loss import measured, silog
from scaleevent.decoders.segment_loss import segment_terms
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.tasks.task import Task
from scaleevent.training.terms import Terms

INIT_STD = 0.01  # facebookresearch/dinov2:dinov2/eval/linear.py


class Linear(Decoder):
    """A linear layer on the final normalised tokens, enlarged to pixels by bilinear interpolation.

    Because it asks nothing else of the encoder, `head` also works on tokens computed before.

    Args:
        encoder: Event encoder.
        task: "segmentation", "depth" or "flow".
        classes: Number of classes; segmentation only.
        max_depth: Metres; depth only. Predictions stay below, ground truth beyond does not count.

    Raises:
        ConfigError: Unknown task, or unusable `classes` or `max_depth`.
    """

    weights: ClassVar[Mapping[str, float]] = {"ce": 1.0, "dice": 1.0, "silog": 1.0, "l1": 1.0}
    head_only = True

    def __init__(
        self,
        encoder: Encoder,
        task: str = "segmentation",
        classes: int | None = None,
        max_depth: float = 80.0,
    ) -> None:
        if task not in ("segmentation", "depth", "flow"):
            raise ConfigError("unknown task", found=task, expected="segmentation, depth or flow")
        if (classes is None) == (task == "segmentation") or (classes is not None and classes < 2):
            raise ConfigError(
                "segmentation, and nothing else, takes a number of classes",
                found=f"task {task}, classes {classes}",
                expected="at least 2 classes for segmentation",
            )
        if not max_depth > 0:
            raise ConfigError("max_depth must be positive", found=max_depth, expected="metres > 0")
        super().__init__(encoder, {"task": task, "classes": classes, "max_depth": max_depth})
        self.task, self.max_depth = task, max_depth
        frames = 2 if task == "flow" else 1
        channels = classes or {"depth": 1, "flow": 2}[task]
        self.linear = nn.Linear(frames * encoder.width, channels)
        nn.init.normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def for_task(cls, encoder: Encoder, task: Task, options: Decoder.Options) -> Self:
        """See `Decoder.for_task`."""
        return cls(encoder, task.name, **task.decoder_settings)

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> Tensor:
        """`head` on the encoder's tokens.

        Raises:
            ConfigError: Flow without `after`.
        """
        grid = self.encoder.grid(*voxel.shape[-2:])
        if self.task != "flow":
            return self.head(self.encoder.tokens(voxel), grid)
        if after is None:
            raise ConfigError("flow needs two windows, before and after its start")
        both = self.encoder.tokens(torch.cat([voxel, after]))
        return self.head(torch.cat(both.unflatten(0, (2, -1)).unbind(), -1), grid)

    def head(self, tokens_NLD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Raw output on the token grid.

        Segmentation: (N, C, h, w) logits. Depth: (N, 1, h, w) metres. Flow: (N, 2, h, w) input
        pixels.
        """
        raw: Tensor = self.linear(tokens_NLD).transpose(1, 2).unflatten(2, grid)
        return raw.float().sigmoid() * self.max_depth if self.task == "depth" else raw

    def loss(self, raw: Tensor, target: Tensor) -> Terms:
        """`ce` and `dice`, `silog`, or `l1` in pixels, all over pixels with ground truth."""
        if self.task == "segmentation":
            return segment_terms(raw, target)
        fine = _enlarged(raw, (target.shape[-2], target.shape[-1]))
        if self.task == "depth":
            return {"silog": silog(fine[:, 0], target, measured(target, self.max_depth))}
        known = target.isfinite().all(1)
        error = (fine - target).abs().sum(1)
        return {"l1": error[known].sum() / known.sum().clamp_min(1)}

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """See `Decoder.predict`."""
        fine = _enlarged(raw.float(), size)
        if self.task == "segmentation":
            return fine.argmax(1)
        if self.task == "depth":
            return fine[:, 0]
        height, width = (tokens * self.encoder.patch for tokens in raw.shape[-2:])
        return fine * fine.new_tensor([size[1] / width, size[0] / height])[:, None, None]

    def scores(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (N, C, h, w) on a grid of `size`; their argmax is `predict`."""
        if self.task != "segmentation":
            return super().scores(raw, size)
        return _enlarged(raw.float(), size)

    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Always refused: a linear head belongs to one encoder and one label set.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(
            "the linear decoder has no published weights",
            where=where,
            hint="probe trains it in minutes; or choose another decoder",
        )


def _enlarged(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """Values on the token grid at pixel resolution."""
    return F.interpolate(raw, size, mode="bilinear", align_corners=False)
