"""Sheets of what tokens say of a scene: what resembles a place, what belongs together, scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from scaleevent.encoders.clusters import fit_clusters, nearest_cluster
from scaleevent.encoders.encoder import Encoder, encode_all
from scaleevent.legends import (
    Legend,
    amount_legend,
    class_legend,
    drawn_keys,
    event_legend,
    hatch_legends,
)
from scaleevent.objectives.meters import shown_tokens
from scaleevent.pairs.drawing import pair_name
from scaleevent.pairs.loading import in_order
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.sample_inputs import StoredPair, valid
from scaleevent.pairs.samples import PairSamples
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import (
    FeatureColours,
    brightened,
    distinct_colours,
    draw_amount,
    draw_voxel,
    hatched,
    hatched_tokens,
)

CLUSTERS = 6
SCALES = (1, 2, 4)  # of the network input, as in figure 4 of the paper
MOST_TOKENS = 5_000  # of a sample; larger inputs are left out
FEATURES = (
    "Features: the teacher's first three principal components as red, green and blue. Like colours "
    "are like features, in all pictures of a row and below each other"
)


@dataclass(frozen=True)
class Shown:
    """A pair as it is drawn: what its image does not show is hatched."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8, as the network sees it
    events: np.ndarray  # (h, w, 3) uint8, of the same part of the sensor
    valid: np.ndarray | None = None  # (h, w) bool, pixels that the image shows; None: all
    counted: np.ndarray | None = None  # (rows, columns) bool, tokens that count; None: all

    @classmethod
    def of(cls, samples: PairSamples, index: int) -> Shown:
        """A sample with its image, brightened if it is dark, and its events."""
        pair = StoredPair(*samples.shard(index), samples.settings)
        shard, row, fit = pair.shard, pair.row, pair.fit
        image, lifted = brightened(decode_image(shard.image(row)))
        mask = shard.valid(row)
        shown = fit.crop_label(np.ones(image.shape[:2], bool) if mask is None else mask)
        return cls(
            pair_name(shard, row) + lifted,
            hatched(fit.crop_picture(image), shown),
            draw_voxel(fit.crop_array(pair.voxel)),
            shown,
            _counted(valid(pair)),
        )

    def tokens(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 picture of its tokens; those that do not count are hatched."""
        return hatched_tokens(picture, self.counted)


def cosine_map(tokens: np.ndarray, at: int) -> np.ndarray:
    """(L,) cosines of (L, D) tokens with the one at a place."""
    unit = _unit(tokens)
    cosines: np.ndarray = unit @ unit[at]
    return cosines


def busiest(density: np.ndarray) -> int:
    """The place with most events in the middle half of (h, w), as an index into h x w places."""
    rows, columns = density.shape
    middle = np.full(density.shape, -np.inf)
    inside = slice(rows // 4, rows - rows // 4), slice(columns // 4, columns - columns // 4)
    middle[inside] = density[inside]
    return int(middle.argmax())


def marked(picture: np.ndarray, place: int, grid: tuple[int, int]) -> np.ndarray:
    """A copy of (H, W, 3) uint8 with a square around one of h x w places."""
    drawn = picture.copy()
    height, width = picture.shape[:2]
    row, column = divmod(place, grid[1])
    top, bottom = (round(height * edge / grid[0]) for edge in (row, row + 1))
    left, right = (round(width * edge / grid[1]) for edge in (column, column + 1))
    thick = max(1, round(height / 120))
    for colour, out in (((0, 0, 0), 2 * thick), ((60, 255, 60), thick)):
        y0, y1 = max(top - out, 0), min(bottom + out, height)
        x0, x1 = max(left - out, 0), min(right + out, width)
        kept = drawn[top:bottom, left:right].copy()
        drawn[y0:y1, x0:x1] = colour
        drawn[top:bottom, left:right] = kept
    return drawn


def draw_maps(
    shown: Sequence[Shown],
    tokens: Sequence[np.ndarray],
    names: Sequence[str],
    places: Sequence[int],
    grid: tuple[int, int],
    path: Path,
) -> None:
    """PNG: for each encoder what resembles a marked place, and what belongs together.

    Args:
        shown: The pairs.
        tokens: (M, L, D) of these by each encoder; the clusters are those of the first.
        names: Of the encoders.
        places: The marked one of each pair, an index into h x w.
        grid: Rows and columns of places (h, w).
        path: Of the file.
    """
    centres = fit_clusters(tokens[0].reshape(-1, tokens[0].shape[-1]), CLUSTERS, seed=0)
    palette = distinct_colours(CLUSTERS)
    rows = []
    for number, (one, place) in enumerate(zip(shown, places, strict=True)):
        own = [each[number] for each in tokens]
        drawn = [draw_amount(cosine_map(each, place).reshape(grid)) for each in own]
        drawn += [palette[nearest_cluster(each, centres)].reshape(*grid, 3) for each in own]
        pair = [marked(picture, place, grid) for picture in (one.image, one.events)]
        rows.append(Row(one.name, (*pair, *map(one.tokens, drawn))))
    columns = (
        "image", "events", *(f"like the square, {name}" for name in names),
        *(f"clusters, {name}" for name in names),
    )  # fmt: skip
    title = (
        "What resembles what: how alike each token is to the one in the square, and to which of "
        f"{CLUSTERS} clusters it belongs"
    )
    names_of = [str(number + 1) for number in range(CLUSTERS)]
    told = "Clusters of the teacher's tokens (k-means), the same in all pictures"
    alike_to = amount_legend("Cosine with the token in the square", "0 or less", "1", "0.5")
    clusters = class_legend(names_of, palette, title=told)
    legends = event_legend(), alike_to, clusters, *hatch_legends(one.valid for one in shown)
    save_picture(path, panel(title, columns, rows, keys=drawn_keys(*legends)))


def draw_scales(
    samples: PairSamples, indices: np.ndarray, teacher: Encoder, student: Encoder, path: Path
) -> list[int]:
    """PNG in the layout of the paper's figure 4: features of teacher and student, inputs enlarged.

    Colours are those of the teacher's tokens at the smallest scale.

    Returns:
        The scales that are drawn; without a file if it is one alone.
    """
    settings = samples.settings
    base = settings.height // settings.patch * (settings.width // settings.patch)
    scales = [scale for scale in SCALES if base * scale**2 <= MOST_TOKENS]
    if len(scales) < 2:
        return scales
    colours: FeatureColours | None = None
    columns = ["image", "events"]
    drawn: list[list[np.ndarray]] = [[] for _ in indices]
    for scale in scales:
        size = settings.height * scale, settings.width * scale
        larger = replace(settings, height=size[0], width=size[1])
        batches = list(in_order(PairSamples(samples.stores, larger, samples.inputs), indices, 1))
        grid = teacher.grid(*size)
        for name, encoder, key in (("teacher", teacher, "image"), ("student", student, "voxel")):
            tokens = encode_all(encoder, (batch[key] for batch in batches)).numpy()
            colours = colours or FeatureColours.fitted(tokens)
            columns.append(f"{name}, {size[0]}x{size[1]}")
            for pictures, one, batch in zip(drawn, tokens, batches, strict=True):
                counted = _counted(batch["valid"][0])
                pictures.append(hatched_tokens(colours.draw(one, grid), counted))
    shown = [Shown.of(samples, int(index)) for index in indices]
    rows = [
        Row(one.name, (one.image, one.events, *pictures))
        for one, pictures in zip(shown, drawn, strict=True)
    ]
    title = (
        "The same scenes with the network's input enlarged, as in figure 4 of the paper: what "
        "stays sharp, and what dissolves"
    )
    legends = event_legend(), Legend(FEATURES), *hatch_legends(one.valid for one in shown)
    save_picture(path, panel(title, columns, rows, keys=drawn_keys(*legends)))
    return scales


def _counted(share: Tensor) -> np.ndarray:
    """(h, w) bool: the tokens that count, of the (h, w) shares of them that the image shows."""
    return shown_tokens(share[None]).reshape(share.shape).numpy()


def _unit(tokens: np.ndarray) -> np.ndarray:
    unit: np.ndarray = tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    return unit
