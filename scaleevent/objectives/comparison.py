"""An encoder before and after pretraining, on pairs it has not seen: probe and picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaleevent.config.benchmarks import IGNORE
from scaleevent.encoders.encoder import Encoder
from scaleevent.objectives.probing import place_probe, ridge_probe
from scaleevent.pairs.drawing import pair_name
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.samples import PairSamples, Split, evenly_spaced, in_order
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import FeatureColours, brightened, draw_voxel

PROBE_TRAINING, PROBE_HELD_OUT = 200, 300
PANEL_ROWS = 4
ENCODERS = ("teacher", "student before", "student after")
COLUMNS = ("image", "events", *ENCODERS, *(f"{name}, residual" for name in ENCODERS))
COLOUR_SAMPLES = 16  # that the principal components are those of


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on which pairs."""

    samples: PairSamples  # all pairs
    split: Split  # which of them were held out
    teacher: Encoder  # frozen image encoder
    before: Encoder  # the student as it started, on voxels
    after: Encoder  # the trained student, on voxels
    batch: int  # samples encoded together
    place: Tensor | None = None  # (L, D) the teacher's mean token of each place, on training pairs

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.after.grid(self.samples.settings.height, self.samples.settings.width)

    def probe(self) -> tuple[list[tuple[str, float, float]], list[str]]:
        """Ridge probes for the semantics in the stores, as rows and notes for the final table.

        A row has a name, and mean intersection over union in percent before and after. The second
        knows only the place of a token: what is learned counts from there.
        """
        train = self._labelled(evenly_spaced(self.split.train, PROBE_TRAINING))
        held = self._labelled(evenly_spaced(self.split.validation, PROBE_HELD_OUT))
        if not len(train[0]) or not len(held[0]):
            return [], []
        classes = int(max(label[label < IGNORE].max() for label in train[1])) + 1

        def score(encoder: Encoder, key: str) -> float:
            tokens = [
                encode_all(
                    encoder, (batch[key] for batch in in_order(self.samples, indices, self.batch))
                )
                for indices in (train[0], held[0])
            ]
            iou = ridge_probe(tokens[0], train[1], tokens[1], held[1], self.grid, classes)
            return 100 * float(np.nanmean(iou))

        rows = [("probe mIoU", score(self.before, "voxel"), score(self.after, "voxel"))]
        place = 100 * float(np.nanmean(place_probe(train[1], held[1], self.grid, classes)))
        rows.append(("probe mIoU, place only", place, place))
        note = (
            f"probe: ridge on frozen tokens, {classes} classes, {len(train[0])} labelled pairs, "
            f"{len(held[0])} held out; teacher on images {score(self.teacher, 'image'):.1f} mIoU; "
            "place only: what a token's place in the picture tells, without events"
        )
        return rows, [note]

    def picture(self, path: Path) -> None:
        """PNG: images, events, and features of teacher and student in the teacher's colours.

        Once as they are, and once less the teacher's mean token of their place, which shows what
        follows the scene and not the usual layout.
        """
        pool = self.split.validation if len(self.split.validation) else self.split.train
        indices = evenly_spaced(pool, PANEL_ROWS)
        tokens = self._tokens(indices, self.teacher, self.before, self.after)
        (known,) = self._tokens(evenly_spaced(pool, COLOUR_SAMPLES), self.teacher)
        colours = [(FeatureColours(known), tokens)]
        if self.place is not None:
            place = self.place.cpu().numpy()
            colours.append((FeatureColours(known - place), [one - place for one in tokens]))
        rows = []
        for i, index in enumerate(indices):
            shard, row = self.samples.shard(int(index))
            image, lifted = brightened(decode_image(shard.image(row)))
            fit = self.samples.settings.fit(*image.shape[:2])
            events = draw_voxel(fit.crop_array(shard.voxel(row, self.samples.settings.bins)))
            features = [basis.draw(one[i], self.grid) for basis, ones in colours for one in ones]
            shown = [fit.crop_picture(image), events, *features]
            rows.append(Row(pair_name(shard, row) + lifted, shown))
        kind = "held-out" if len(self.split.validation) else "training"
        title = (
            f"Tokens on {kind} pairs, in the colours of the teacher's principal components; "
            "residual: less the teacher's mean token of the place, so it shows what is of the scene"
        )
        save_picture(path, panel(title, COLUMNS[: len(rows[0].pictures)], rows))

    def _tokens(self, indices: np.ndarray, *encoders: Encoder) -> list[np.ndarray]:
        """(M, L, D) of samples for each encoder: the teacher sees images, the others events."""
        batches = list(in_order(self.samples, indices, self.batch))
        keys = ["image" if encoder is self.teacher else "voxel" for encoder in encoders]
        return [
            encode_all(encoder, (batch[key] for batch in batches)).numpy()
            for encoder, key in zip(encoders, keys, strict=True)
        ]

    def _labelled(self, indices: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Indices of the samples with semantic labels, and the labels, cropped to the input."""
        found, labels = [], []
        for index in indices:
            shard, row = self.samples.shard(int(index))
            label = shard.label("semantics", row)
            if label is not None:
                found.append(index)
                seen = self.samples.settings.fit(*label.values.shape).crop_array(label.values)
                labels.append(torch.from_numpy(seen.copy()))
        return np.array(found), torch.stack(labels) if labels else torch.empty(0)


@torch.no_grad()
def encode_all(encoder: Encoder, inputs: Iterable[Tensor]) -> Tensor:
    """(M, L, D) float32 tokens on the CPU of batches of inputs."""
    device = next(encoder.parameters()).device
    return torch.cat([encoder.tokens(batch.to(device)).float().cpu() for batch in inputs])
