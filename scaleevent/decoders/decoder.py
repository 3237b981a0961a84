"""The contract of every decoder: an adapter that takes the encoder and owns its training loss.

How many feature maps a decoder wants, whether it puts queries between the encoder's blocks or looks
at two windows, is its own affair; a task only sees `forward`, `loss` and `predict`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from scaleevent.encoders.encoder import Encoder
from scaleevent.encoders.weights import check_keys
from scaleevent.metrics.segmentation import IGNORE
from scaleevent.training.terms import Terms

__all__ = ["IGNORE", "Decoder", "Loaded"]


@dataclass(frozen=True)
class Loaded:
    """What became of a file of published decoder weights.

    Attributes:
        layout: Whose names the file uses.
        loaded: Own keys that took a value from the file.
        fresh: Own keys that keep their random start, such as a class head for other classes.
        unused: Keys of the file that have no place here, such as its image encoder.
        notes: What a user should know, such as "class head re-initialised: 150 -> 11 classes".
    """

    layout: str
    loaded: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Decoder(nn.Module, ABC):
    """An encoder with what turns its features into a task's prediction.

    Own parameters lie beside `encoder` under the names that the decoder's origin published. For
    segmentation there is also `scores(raw, size)`: (N, C, h, w) float32 whose argmax is `predict`.

    Args:
        encoder: Event encoder; trained or frozen by whoever builds the optimiser.

    Attributes:
        task: `segmentation`, `depth` or `flow`.
        settings: The own keyword arguments that rebuild this decoder on another encoder; JSON-able.
        weights: Factor of each loss term in the total.
    """

    task: str
    weights: ClassVar[Mapping[str, float]]

    def __init__(self, encoder: Encoder, settings: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings

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
            target: On the input's grid. Segmentation: (N, H, W) int64, 255 ignored. Depth:
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

    @abstractmethod
    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Take decoder weights from a published file's tensors; the layout is detected.

        Raises:
            CheckpointError: Not weights of this decoder; or keys that are missing or unexpected,
                all named.
        """

    def begin_step(self, step: int, steps: int) -> None:
        """Told before every training step, from 0; for decoders that anneal something."""

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
