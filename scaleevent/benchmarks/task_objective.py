"""The objective of a task model: what its decoder loses on labelled samples."""

from __future__ import annotations

from torch import Tensor, nn

from scaleevent.decoders.decoder import Decoder
from scaleevent.training.loop import Trainable
from scaleevent.training.terms import Metrics, Terms


class TaskObjective(Trainable):
    """A decoder on its encoder, trained on labels.

    Args:
        decoder: On the run's device.
        frozen: Whether the encoder is; it stays in evaluation mode then.
        cached: The encoder's grid, where batches hold its `tokens` instead of its inputs.
    """

    def __init__(self, decoder: Decoder, frozen: bool, cached: tuple[int, int] | None) -> None:
        self.decoder, self.frozen, self.cached = decoder, frozen, cached
        self.weights = decoder.weights

    @property
    def model(self) -> nn.Module:
        """Decoder and encoder."""
        return self.decoder

    def training_mode(self) -> None:
        """Training mode, but for a frozen encoder."""
        self.decoder.train()
        if self.frozen:
            self.decoder.encoder.eval()

    def begin_step(self, step: int, steps: int) -> None:
        """The decoder may anneal something."""
        self.decoder.begin_step(step, steps)

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Terms, Metrics]:
        """The decoder's terms."""
        target = batch.pop("target")
        if self.cached is None:
            return self.decoder.loss(model(**batch), target), {}
        side_by_side = batch["tokens"].transpose(1, 2).flatten(2)  # (N, L, frames x D)
        return self.decoder.loss(self.decoder.head(side_by_side, self.cached), target), {}
