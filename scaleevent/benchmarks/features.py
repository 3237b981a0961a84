"""Features of a frozen encoder, computed once and read back in every epoch of a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.encoders.encoder import Encoder
from scaleevent.system.files import SteadyFile, check_space, temporary_path, writing
from scaleevent.system.platform import make_folder, remove_file

BATCH = 8  # samples encoded together


class CachedFeatures(Dataset[dict[str, Tensor]]):
    """Tokens and target of labelled samples; the encoder has run before.

    Tokens lie in one file as float16: after the final norm they are of order one, so rounding is
    2^-11 of that.

    Args:
        samples: Where inputs and targets come from.
        indices: Which of them; items are addressed by the same indices.
        encoder: Frozen, in evaluation mode.
        path: File for the tokens, under a temporary name; removed by `close`.
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
        self.samples, self.path = samples, temporary_path(path)
        self._place = {int(index): place for place, index in enumerate(indices)}
        settings = samples.settings
        self.grid = h, w = encoder.grid(settings.height, settings.width)
        self.shape = (len(indices), samples.task.frames, h * w, encoder.width)
        size = 2 * prod(self.shape)
        check_space(
            path, size, "--resume --no-cache goes on and computes the features in every epoch"
        )
        try:
            with writing(path, size):
                make_folder(path.parent)
                file = SteadyFile(self.path)
            with file:
                for count in self._encode(encoder, file):
                    with writing(path, size):
                        file.check()
                    advance(count)
        except BaseException:
            self.close()
            raise

    def _encode(self, encoder: Encoder, file: SteadyFile) -> Iterator[int]:
        """Write the tokens group by group; gives the sizes of the groups.

        Not through a memory map: a full disk would kill the process.
        """
        header = {"descr": "<f2", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin, frame_bytes = file.tell(), 2 * prod(self.shape[2:])
        device = next(encoder.parameters()).device
        order = sorted(self._place)
        for first in range(0, len(order), BATCH):
            group = order[first : first + BATCH]
            inputs = [self.samples.inputs(index) for index in group]
            for frame, name in enumerate(("voxel", "after")[: self.shape[1]]):
                x = torch.stack([one[name] for one in inputs]).to(device)
                with torch.inference_mode():
                    encoded = encoder.tokens(x).half().cpu().numpy().astype("<f2")
                for index, value in zip(group, encoded, strict=True):
                    file.seek(begin + (self._place[index] * self.shape[1] + frame) * frame_bytes)
                    file.write(value)
            yield len(group)

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
        remove_file(self.path)
