"""Tokens of a frozen teacher, computed once a sample where they fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor

from scaleevent.encoders.encoder import Encoder
from scaleevent.training.loop import Batch

CACHE_BYTES = 1 << 30  # of tokens that a rank keeps at most


class TeacherTokens:
    """A teacher's tokens of a batch: as computed, or as computed before, to the bit.

    Kept are the tokens of single samples, on the CPU, apart for each precision. A batch with a
    sample that is not kept is computed as a whole, as it would be without a cache: kernels may be
    chosen by the size of a batch. So a run with a cache has the losses of one without.

    Args:
        teacher: Frozen, in evaluation mode.
        keeps: Whether tokens are kept. The images of a sample must be the same whenever it is
            drawn, and batches tell them apart by `index`.
    """

    def __init__(self, teacher: Encoder, keeps: bool = False) -> None:
        self.teacher, self.keeps = teacher, keeps
        self.computed = 0  # batches that the teacher has seen
        self._kept: dict[tuple[int, bool], Tensor] = {}

    def __deepcopy__(self, memo: object) -> TeacherTokens:
        """For steps that are only tried: what is kept, and nothing more."""
        other = TeacherTokens(self.teacher)
        other._kept = self._kept
        return other

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """(N, L, D) tokens of a batch with `image` and, to be kept, `index`."""
        image = batch["image"]
        keys = []
        if (self.keeps or self._kept) and "index" in batch:
            low = torch.is_autocast_enabled(image.device.type)
            keys = [(number, low) for number in batch["index"].tolist()]
        if keys and all(key in self._kept for key in keys):
            return torch.stack([self._kept[key] for key in keys]).to(image.device)
        tokens = self.teacher.tokens(image)
        self.computed += 1
        if self.keeps:
            for key, own in zip(keys, tokens.cpu(), strict=False):
                self._kept.setdefault(key, own.clone())
        return tokens
