"""Features of a frozen encoder, computed once and read back in every epoch of a probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import EnvironmentProblem

BATCH = 8  # samples encoded together


class CachedFeatures(Dataset[dict[str, Tensor]]):
    """Tokens and target of labelled samples; the encoder has run before.

    Tokens lie in one file as float16: after the final norm they are of order one, so rounding is
    2^-11 of that.

    Args:
        samples: Where inputs and targets come from.
        indices: Which of them; items are addressed by the same indices.
        encoder: Frozen, in evaluation mode.
        path: File for the tokens; removed by `close`.
        advance: Called with the number of samples encoded since the last call.

    Raises:
        EnvironmentProblem: No room for the file.
    """

    def __init__(
        self,
        samples: LabelledSamples,
        indices: Sequence[int],
        encoder: Encoder,
        path: Path,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.samples, self.path = samples, path
        self._place = {int(index): place for place, index in enumerate(indices)}
        settings = samples.settings
        self.grid = h, w = encoder.grid(settings.height, settings.width)
        self.shape = (len(indices), samples.task.frames, h * w, encoder.width)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tokens = np.lib.format.open_memmap(path, "w+", np.float16, self.shape)
        except OSError as error:
            size = 2 * np.prod(self.shape, dtype=np.int64)
            raise EnvironmentProblem(
                "no room for the cached features",
                where=path,
                found=error.strerror,
                expected=f"{size / 1e9:.1f} GB",
                hint="--no-cache computes them in every epoch",
            ) from None
        device = next(encoder.parameters()).device
        order = sorted(self._place)
        with torch.inference_mode():
            for first in range(0, len(order), BATCH):
                group = order[first : first + BATCH]
                inputs = [samples.inputs(index) for index in group]
                for frame, name in enumerate(("voxel", "after")[: samples.task.frames]):
                    x = torch.stack([one[name] for one in inputs]).to(device)
                    encoded = encoder.tokens(x).half().cpu().numpy()
                    for index, value in zip(group, encoded, strict=True):
                        tokens[self._place[index], frame] = value
                advance(len(group))
        tokens.flush()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`tokens`: (frames, L, D) float32; `target` as `LabelledSamples` has it."""
        tokens = np.load(self.path, mmap_mode="r")[self._place[index]]
        return {
            "tokens": torch.from_numpy(tokens.astype(np.float32)),
            "target": self.samples.target(index),
        }

    def close(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
