"""The contract of every decoder: an adapter that takes the encoder and owns its training loss.

How many feature maps a decoder wants, whether it puts queries between the encoder's blocks or looks
at two windows, is its own affair; commands use only what this module names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.config.settings import Settings
from scaleevent.decoders.crops import windowed_scores
from scaleevent.encoders.encoder import Encoder
from scaleevent.encoders.weights import check_keys
from scaleevent.errors import ConfigError
from scaleevent.tasks.task import Task
from scaleevent.training.terms import Terms


@dataclass(frozen=True)
class Loaded:
    """What became of a file of published decoder weights."""

    layout: str  # whose names the file uses
    loaded: tuple[str, ...]  # own keys that took a value from the file
    # own keys that keep their random values, such as a class head for other classes
    fresh: tuple[str, ...] = ()
    # keys of the file that have no place here, such as its image encoder
    unused: tuple[str, ...] = ()
    # what a user should know, such as "class head re-initialised: 150 -> 11 classes"
    notes: tuple[str, ...] = ()


class Decoder(nn.Module, ABC):
    """An encoder with what turns its features into a task's prediction.

    Own parameters lie beside `encoder` under the names that the decoder's origin published.

    Args:
        encoder: Event encoder; trained or frozen by whoever builds the optimiser.
        settings: The own keyword arguments that rebuild this decoder on another encoder; JSON-able.

    Attributes:
        task: `segmentation`, `depth` or `flow`.
        weights: Factor of each loss term in the total.
        head_only: Whether `head` makes the raw output from the encoder's final tokens alone, so
            that the tokens of a frozen encoder can be computed once.
        place_prior: What its training labels say of each place, see `Task.place_prior`; a baseline
            that travels with the model. None if that is not known.
    """

    task: str
    weights: ClassVar[Mapping[str, float]]
    head_only: ClassVar[bool] = False
    place_prior: np.ndarray | None = None

    class Options(Settings):
        """What a user can choose with `--decoder-option`: keyword arguments of the class."""

    def __init__(self, encoder: Encoder, settings: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings

    @classmethod
    def for_task(cls, encoder: Encoder, task: Task, options: Options) -> Self:
        """A fresh decoder for one of its tasks; `options` are of the class's own `Options`."""
        return cls(encoder, **task.decoder_settings, **options.model_dump())

    @abstractmethod
    def forward(self, voxel: Tensor, after: Tensor | None = None) -> Any:
        """Raw output, in whatever form `loss` and `predict` want.

        Args:
            voxel: (N, 3, H, W) float network input of the window that ends at the label's time.
            after: The same of the window that starts there; only two-frame decoders want it.
        """

    @abstractmethod
    def loss(self, raw: Any, target: Tensor) -> Terms:
        """Named scalar terms; the total weighs them with `weights`.

        Args:
            raw: From `forward`.
            target: On the input's grid. Segmentation: (N, H, W) int64, `IGNORE` not counted. Depth:
                (N, H, W) float32 metres, NaN unknown. Flow: (N, 2, H, W) float32 input pixels
                right and down, NaN unknown.
        """

    @abstractmethod
    def predict(self, raw: Any, size: tuple[int, int]) -> Tensor:
        """The task's prediction on `size` rows and columns over the input's field of view.

        Returns:
            Segmentation: (N, h, w) int64 classes. Depth: (N, h, w) float32 metres. Flow:
            (N, 2, h, w) float32 pixels of that grid.
        """

    def scores(self, raw: Any, size: tuple[int, int]) -> Tensor:
        """Segmentation: (N, K, h, w) float32 scores on a grid of `size`; argmax is `predict`.

        Raises:
            ConfigError: A decoder that predicts no classes.
        """
        raise ConfigError(f"{type(self).__name__} gives no scores of classes")

    def predict_windows(self, voxel: Tensor, size: tuple[int, int], side: int) -> Tensor:
        """As `predict`, from overlapping square crops of the input, as EoMT evaluates.

        Args:
            voxel: (N, 3, H, W) float network input.
            size: Rows and columns of the prediction.
            side: Of a crop, pixels; a multiple of the encoder's patch.

        Raises:
            ConfigError: See `scores`.
        """

        def score(crops: Tensor) -> Tensor:
            return self.scores(self(crops), (side, side))

        scores = (windowed_scores(score, image, side)[None] for image in voxel)
        fine = (F.interpolate(one, size, mode="bilinear") for one in scores)
        return torch.cat([one.argmax(1) for one in fine])

    def head(self, tokens_NLD: Tensor, grid: tuple[int, int]) -> Any:
        """`forward` from tokens that were computed before; where `head_only`.

        Args:
            tokens_NLD: (N, L, D) from `Encoder.tokens`; with two windows (N, L, 2 D), those of the
                window before and then those of the window after.
            grid: Rows and columns of tokens, see `Encoder.grid`.

        Raises:
            ConfigError: A decoder that needs more of the encoder than its tokens.
        """
        raise ConfigError(f"{type(self).__name__} needs more than the encoder's tokens")

    @abstractmethod
    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Take decoder weights from a published file's tensors; the layout is detected.

        Raises:
            CheckpointError: Not weights of this decoder; or keys that are missing or unexpected,
                all named.
        """

    def begin_step(self, step: int, steps: int) -> None:
        """Called before every training step, from 0; for decoders that anneal something."""

    def dead_parameters(self) -> tuple[str, ...]:
        """Own parameters that no output depends on: kept for strict loading, never trained."""
        return ()

    def own_state(self) -> dict[str, Tensor]:
        """The decoder's own tensors, without the encoder's."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("encoder.")}

    def load_own(self, state: Mapping[str, Tensor], where: object = None) -> None:
        """Load what `own_state` gave.

        Raises:
            CheckpointError: Missing or unexpected keys, or other shapes.
        """
        shapes = {name: tuple(value.shape) for name, value in self.own_state().items()}
        check_keys(state, shapes, where)
        self.load_state_dict(dict(state), strict=False)
