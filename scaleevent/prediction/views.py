"""What a model shows of a window: the values on the sensor's pixels, their colours, a legend.

A view is made for one model. Some look at a few windows first, to choose what all pictures share:
see `View.learns`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from scaleevent.config.benchmarks import IGNORE
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.grids.geometry import Fit
from scaleevent.panels import Legend
from scaleevent.pictures import FeatureColours, draw_amount, draw_classes, draw_depth, draw_flow
from scaleevent.prediction.clusters import fit_clusters, nearest_cluster
from scaleevent.prediction.models import OpenedModel
from scaleevent.system.files import Json
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.training.tensors import content_hash, load_tensors, save_tensors

SAMPLE = 16  # windows that a view learns from
TOKENS = 2_000  # of each of them
NEAREST, FARTHEST = 2.0, 80.0  # metres: drawn brightest, and the last tick of the legend
METRES = (2, 3, 5, 10, 20, 40, 80, 160, 320)
SHOWN_QUANTILE = 0.99  # of flow lengths: full colour
WHEEL = 72  # pixels
Inputs = Sequence[Tensor]  # network inputs (3, H, W) of one window
Sample = Sequence[tuple[Inputs, Fit]]  # of some windows, with how the sensor fits them


class View(ABC):
    """What is shown of a model.

    Args:
        opened: The model.

    Attributes:
        predictor: It, with its input.
        name: One word.
        unit: What its values are, in words.
        fill: Value of pixels that the network does not see.
        learns: Whether `learn` is to be called first.
        notes: Lines for people.
    """

    name: ClassVar[str]
    unit: str
    fill: ClassVar[float] = np.nan
    learns: bool = False

    def __init__(self, opened: OpenedModel) -> None:
        self.predictor = opened.predictor
        self.notes: list[str] = []

    @property
    def needs_after(self) -> bool:
        """Whether it also takes the window that follows."""
        return "after" in self.predictor.inputs

    def check(self, fit: Fit) -> None:  # noqa: B027
        """Refuse a sensor that cannot be shown.

        Raises:
            ConfigError: The network does not see the pixel that was asked for.
        """

    def learn(self, sample: Sample, sources: Sequence[str]) -> None:  # noqa: B027
        """Choose what all pictures share.

        Args:
            sample: At least one window.
            sources: The recordings that it is of.
        """

    def save(self, path: Path) -> bool:
        """Write what was learnt, for other runs; False where none can take it."""
        return False

    @abstractmethod
    def values(self, inputs: Inputs, fit: Fit) -> np.ndarray:
        """(height, width) of the sensor, or (2 or 3, height, width)."""

    @abstractmethod
    def colours(self, values: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8; black where the network sees nothing."""

    @abstractmethod
    def legend(self) -> Legend:
        """What the colours mean."""

    def mark(self, picture: np.ndarray) -> None:  # noqa: B027
        """Draw what is to be seen over everything else on a (height, width, 3) uint8 picture."""

    def seen(self, values: np.ndarray) -> np.ndarray:
        """(height, width) bool, pixels that the network sees."""
        if values.dtype.kind == "f":
            return np.asarray(np.isfinite(values if values.ndim == 2 else values[0]))
        return np.asarray(values != self.fill)


class TaskView(View):
    """The map that a task model predicts."""

    def values(self, inputs: Inputs, fit: Fit) -> np.ndarray:
        """On all of the sensor."""
        return fit.onto_sensor(self.stored(self.predictor.map_of(inputs, fit)), self.fill)

    def stored(self, found: Tensor) -> np.ndarray:
        """A map of the network as it is stored."""
        return found.float().cpu().numpy()


class ClassesView(TaskView):
    """Classes, uint8; `IGNORE` where the network sees nothing."""

    name, fill = "segmentation", IGNORE

    def __init__(self, opened: OpenedModel) -> None:
        super().__init__(opened)
        task = opened.benchmark_task
        count = int(opened.decoder_settings["classes"])
        if isinstance(task, Segmentation) and len(task.classes) == count:
            self.classes, self.palette = task.classes, task.palette
        else:
            self.classes = tuple(f"class {number}" for number in range(count))
            self.palette = distinct_colours(count)
        self.unit = f"class, 0 to {count - 1}; {IGNORE}: not seen"

    def stored(self, found: Tensor) -> np.ndarray:
        """uint8."""
        return found.to(torch.uint8).cpu().numpy()

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Of the classes."""
        return draw_classes(values, self.palette)

    def legend(self) -> Legend:
        """Names and colours."""
        return Legend("predicted class", _swatches(self.classes, self.palette))


class DepthView(TaskView):
    """Metres, float32."""

    name, unit = "depth", "depth along the optical axis, metres; NaN: not seen"

    def __init__(self, opened: OpenedModel) -> None:
        super().__init__(opened)
        self.farthest = float(opened.decoder_settings.get("max_depth", FARTHEST))

    def colours(self, values: np.ndarray) -> np.ndarray:
        """By inverse depth."""
        return draw_depth(values, NEAREST)

    def legend(self) -> Legend:
        """A scale in metres, the nearest on the right."""
        low = float(np.sqrt(NEAREST / max(self.farthest, NEAREST + 1)))
        ramp = draw_amount(np.linspace(low, 1, 256)[None])
        ticks = [
            ((np.sqrt(NEAREST / metres) - low) / (1 - low), f"{metres:g} m")
            for metres in METRES if metres <= self.farthest
        ]  # fmt: skip
        return Legend("predicted depth, metres", ramp=ramp, ticks=ticks)


class FlowView(TaskView):
    """Pixels right and down, float32 (2, height, width)."""

    name = "flow"
    unit = "motion right and down, sensor pixels, during the window that follows; NaN: not seen"
    learns = True
    largest = 1.0

    def learn(self, sample: Sample, sources: Sequence[str]) -> None:
        """The length that has full colour."""
        lengths = []
        for inputs, fit in sample:
            flow = self.predictor.map_of(inputs, fit)
            lengths.append(torch.hypot(flow[0], flow[1]).float().cpu().numpy().ravel())
        self.largest = max(float(np.quantile(np.concatenate(lengths), SHOWN_QUANTILE)), 0.1)

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Hue by direction, saturation by length."""
        return draw_flow(values, self.largest)

    def legend(self) -> Legend:
        """A colour wheel."""
        y, x = (np.mgrid[:WHEEL, :WHEEL] + 0.5) * (2 / WHEEL) - 1
        wheel = draw_flow(np.stack([x, y]) * self.largest, self.largest)
        wheel[np.hypot(x, y) > 1] = 255
        title = (
            "predicted motion from the end of this window to the end of the next one; the wheel "
            f"shows the direction, white is no motion, full colour is {self.largest:.3g} pixels or "
            "more"
        )
        return Legend(title, wheel=wheel)


class FeatureView(View):
    """Something of an encoder's tokens: each pixel has the value of the token that it lies in."""

    @property
    def needs_after(self) -> bool:
        """An encoder takes one window."""
        return False

    def tokens(self, inputs: Inputs) -> np.ndarray:
        """(h, w, D) float32."""
        return self.predictor.features_of(inputs[0]).float().cpu().numpy()

    def spread(self, values: np.ndarray, fit: Fit) -> np.ndarray:
        """(..., h, w) of the tokens on the pixels of the sensor."""
        rows, columns = fit.cells(self.predictor.settings.patch)
        fine = np.repeat(np.repeat(values, np.diff(rows), -2), np.diff(columns), -1)
        whole = np.full((*values.shape[:-2], fit.height, fit.width), self.fill, values.dtype)
        whole[..., rows[0] : rows[-1], columns[0] : columns[-1]] = fine
        return whole

    def sampled(self, sample: Sample) -> np.ndarray:
        """(M, D) tokens, evenly spaced over those of each window."""
        parts = []
        for inputs, _ in sample:
            flat = self.tokens(inputs).reshape(-1, self.predictor.encoder.width)
            parts.append(flat[:: max(1, -(-len(flat) // TOKENS))])
        return np.concatenate(parts)


class _Learnt(FeatureView):
    """A view whose basis can be saved and loaded again."""

    learns = True
    sources: Sequence[str] = ()

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""

    def save(self, path: Path) -> bool:
        """A sealed .safetensors file of kind `basis`."""
        tensors = {name: torch.from_numpy(value) for name, value in self.tensors().items()}
        save_tensors(path, tensors, self._described() | {"recordings": list(self.sources)})
        return True

    def _described(self) -> Json:
        encoder = self.predictor.encoder
        return {
            "kind": "basis", "view": self.name, "width": encoder.width,
            "encoder": content_hash(encoder.vit.state_dict()),
        }  # fmt: skip

    @abstractmethod
    def take(self, arrays: dict[str, np.ndarray]) -> None:
        """Use what another run has learnt."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of `tensors`."""

    def load(self, path: Path, tensors: dict[str, Tensor], description: Json) -> None:
        """Take the basis of another run, and note one of another encoder.

        Raises:
            CheckpointError: It is of another view, or of another number of channels or clusters.
        """
        own = self._described()
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if description.get("view") != self.name or found != self.shapes:
            raise CheckpointError(
                "a basis of another kind", where=path,
                found=f"{description.get('view')}, {found}", expected=f"{self.name}, {self.shapes}",
            )  # fmt: skip
        self.take({name: tensor.double().numpy() for name, tensor in tensors.items()})
        self.learns = False
        if description.get("encoder") != own["encoder"]:
            self.notes.append(f"the basis {path} was learnt with another encoder")


class ColoursView(_Learnt):
    """Three principal components of the features, float32 (3, height, width)."""

    name, unit = "pca", "first three principal components of the features; NaN: not seen"
    basis: FeatureColours

    def learn(self, sample: Sample, sources: Sequence[str]) -> None:
        """The components."""
        self.basis, self.sources = FeatureColours.fitted(self.sampled(sample)), sources

    def tensors(self) -> dict[str, np.ndarray]:
        """Mean, components and limits."""
        return {key: np.ascontiguousarray(value) for key, value in vars(self.basis).items()}

    def take(self, arrays: dict[str, np.ndarray]) -> None:
        """The basis."""
        self.basis = FeatureColours(**arrays)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of D channels."""
        width = self.predictor.encoder.width
        return {"mean": (width,), "basis": (width, 3), "low": (3,), "high": (3,)}

    def values(self, inputs: Inputs, fit: Fit) -> np.ndarray:
        """On all of the sensor."""
        components = self.basis.components(self.tokens(inputs)).astype(np.float32)
        return self.spread(components.transpose(2, 0, 1), fit)

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Red, green and blue."""
        colours = self.basis.colours(values.transpose(1, 2, 0))
        colours[~self.seen(values)] = 0
        return colours

    def legend(self) -> Legend:
        """In words."""
        return Legend(
            "features of the encoder: their three principal components as red, green and blue; "
            "equal colours mean similar features"
        )


class ClustersView(_Learnt):
    """The nearest of K cluster centres, uint8; `IGNORE` where the network sees nothing."""

    name, fill = "clusters", IGNORE
    centres: np.ndarray

    def __init__(self, opened: OpenedModel, clusters: int, seed: int) -> None:
        super().__init__(opened)
        self.count, self.seed = clusters, seed
        self.unit = f"cluster, 0 to {clusters - 1}; {IGNORE}: not seen"

    def learn(self, sample: Sample, sources: Sequence[str]) -> None:
        """The centres."""
        self.centres = fit_clusters(self.sampled(sample), self.count, self.seed)
        self.sources = sources

    def tensors(self) -> dict[str, np.ndarray]:
        """The centres."""
        return {"centres": self.centres}

    def take(self, arrays: dict[str, np.ndarray]) -> None:
        """The centres."""
        self.centres = arrays["centres"]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of K centres."""
        return {"centres": (self.count, self.predictor.encoder.width)}

    def values(self, inputs: Inputs, fit: Fit) -> np.ndarray:
        """On all of the sensor."""
        return self.spread(nearest_cluster(self.tokens(inputs), self.centres), fit)

    def colours(self, values: np.ndarray) -> np.ndarray:
        """One for each cluster."""
        return draw_classes(values, distinct_colours(self.count))

    def legend(self) -> Legend:
        """Numbers and colours."""
        names = [str(number) for number in range(self.count)]
        title = f"features of the encoder in {self.count} clusters, which have no names"
        return Legend(title, _swatches(names, distinct_colours(self.count)))


class SimilarityView(FeatureView):
    """Cosine of each token to the one at a pixel, float32."""

    name = "similarity"

    def __init__(self, opened: OpenedModel, pixel: tuple[int, int]) -> None:
        super().__init__(opened)
        self.pixel = pixel
        self.unit = f"cosine to the features at column {pixel[0]}, row {pixel[1]}; NaN: not seen"

    def check(self, fit: Fit) -> None:
        """See `cell`."""
        self.cell(fit)

    def cell(self, fit: Fit) -> tuple[int, int]:
        """Row and column of the token that holds the pixel.

        Raises:
            ConfigError: The network does not see it.
        """
        edges = fit.cells(self.predictor.settings.patch)
        x, y = self.pixel
        if not all(e[0] <= at < e[-1] for e, at in zip(edges, (y, x), strict=True)):
            rows, columns = edges
            raise ConfigError(
                "the network does not see this pixel", where="--patch", found=f"{x},{y}",
                expected=f"column {columns[0]} to {columns[-1] - 1}, row {rows[0]} to "
                f"{rows[-1] - 1}, of a sensor of {fit.width}x{fit.height}",
            )  # fmt: skip
        row, column = (
            int(np.searchsorted(e, at, "right")) - 1 for e, at in zip(edges, (y, x), strict=True)
        )
        return row, column

    def values(self, inputs: Inputs, fit: Fit) -> np.ndarray:
        """On all of the sensor; 1 at the pixel itself."""
        tokens = self.tokens(inputs)
        length = np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
        units = tokens / length
        return self.spread(units @ units[self.cell(fit)], fit)

    def colours(self, values: np.ndarray) -> np.ndarray:
        """From 0 to 1; less is drawn as 0."""
        return draw_amount(values)

    def mark(self, picture: np.ndarray) -> None:
        """A white cross with a black rim, around the pixel."""
        x, y = self.pixel
        reach = max(3, picture.shape[1] // 40)
        for wide, colour in ((1, 0), (0, 255)):
            for across, down in ((reach + wide, wide), (wide, reach + wide)):
                rows = slice(max(y - down, 0), y + down + 1)
                picture[rows, max(x - across, 0) : x + across + 1] = colour

    def legend(self) -> Legend:
        """A scale."""
        ticks = [(at, f"{at:g}" if at else "0 or less") for at in (0.0, 0.25, 0.5, 0.75, 1.0)]
        title = "cosine similarity of the features to those at the white cross"
        return Legend(title, ramp=draw_amount(np.linspace(0, 1, 256)[None]), ticks=ticks)


TASK_VIEWS: dict[str, type[ClassesView | DepthView | FlowView]] = {
    "segmentation": ClassesView, "depth": DepthView, "flow": FlowView,
}  # fmt: skip


def choose_view(
    opened: OpenedModel,
    *,
    patch: tuple[int, int] | None = None,
    clusters: int | None = None,
    basis: Path | None = None,
    seed: int = 0,
) -> View:
    """The view of a model: a task's own; of an encoder, the one asked for, else colours.

    Args:
        opened: The model.
        patch: Column and row of the sensor pixel that features are compared with.
        clusters: Number of clusters.
        basis: Colours or clusters of another run.
        seed: Of the clusters.

    Raises:
        ConfigError: Options of an encoder for a task model.
        CheckpointError: Not a basis of this view.
    """
    if opened.task is not None:
        return TASK_VIEWS[opened.task](opened)
    if patch is not None:
        return SimilarityView(opened, patch)
    if basis is not None:
        tensors, description = load_tensors(basis, "basis")
        if clusters is None and description.get("view") == ClustersView.name:
            clusters = len(tensors.get("centres", ()))
    found = ClustersView(opened, clusters, seed) if clusters else ColoursView(opened)
    if basis is not None:
        found.load(basis, tensors, description)
    return found


def distinct_colours(count: int) -> np.ndarray:
    """(count, 3) uint8 colours that are easy to tell apart; the first are always the same."""
    hue = (0.58 + 0.618_034 * np.arange(count)) % 1.0  # steps of the golden section
    level = np.array([0.95, 0.7, 0.82])[np.arange(count) % 3]
    fade = np.array([0.6, 0.85, 0.5, 0.75])[np.arange(count) % 4]
    part = (hue[:, None] * 6 + np.array([5, 3, 1])) % 6
    share = np.clip(np.minimum(part, 4 - part), 0, 1)
    colours: np.ndarray = np.rint(255 * level[:, None] * (1 - fade[:, None] * share))
    return colours.astype(np.uint8)


def _swatches(names: Sequence[str], palette: np.ndarray) -> list[tuple[str, tuple[int, int, int]]]:
    colours = [(int(red), int(green), int(blue)) for red, green, blue in palette.tolist()]
    return list(zip(names, colours, strict=True))
