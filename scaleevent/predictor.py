"""`Predictor`: a model together with its input settings. Events in, features or maps out.

The networks know tensors only. What lies between an event stream and their input is here: the
window, the voxel grid, the crop and the normalisation. `Predictor.preparation` describes it in
words, and `scaleevent export` writes that description into its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scaleevent.checkpoint import load_described
from scaleevent.decoders.decoder import Decoder
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats import Recording, open_recording
from scaleevent.grids.geometry import Fit
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.voxels import voxelize
from scaleevent.grids.windows import Window, WindowRule, choose_window
from scaleevent.pairs.window_words import stored_rule

Stream = Events | Recording | Path | str


def network_input(events: Events, window: Window, settings: InputSettings) -> Tensor:
    """The (3, H, W) float32 network input made from the events of one window."""
    voxel = voxelize(events, window, settings.bins)
    fit = settings.fit(events.height, events.width)
    return torch.from_numpy(settings.prepare(voxel, fit))


class Predictor:
    """An encoder or task model that takes events instead of tensors.

    All methods take a stream of events on any sensor (`Events`, or a recording or its path, of
    which only the part that the window may need is read), the time `at` in microseconds where the
    window ends, or the window itself, and the rule that finds the window's start, by default the
    predictor's. Two-frame flow also looks at the window of the same length that starts at `at`.

    Args:
        model: Encoder or task model; it is switched to evaluation mode and stays on its device.
        rule: How windows are found where a call does not say it; None: `WindowRule()`.

    Attributes:
        model: As given.
        encoder: The encoder, of a task model too.
        settings: How the network input is made from a voxel grid.
        grid: Rows and columns of patches (h, w).
        inputs: Names of the network's inputs.
        rule: How windows are found.

    Raises:
        ConfigError: The encoder has no input settings, or its input does not divide into patches.

    Examples:
        >>> import scaleevent
        >>> from scaleevent.grids.inputs import InputSettings
        >>> encoder = scaleevent.build_encoder("tiny")
        >>> encoder.input = InputSettings(height=48, width=64, patch=8)  # a checkpoint stores it
        >>> predictor = scaleevent.Predictor(encoder)
        >>> events = scaleevent.Events.from_columns(
        ...     t=[10, 20, 30], x=[3, 4, 5], y=[7, 7, 7], p=[1, 1, 0], height=240, width=320
        ... )
        >>> predictor.features(events, at=40).shape
        torch.Size([6, 8, 96])
    """

    def __init__(self, model: Encoder | Decoder, rule: WindowRule | None = None) -> None:
        self.model = model.eval()
        self.encoder = model if isinstance(model, Encoder) else model.encoder
        if self.encoder.input is None:
            raise ConfigError(
                "the model does not store how its input is made",
                hint="load a file that pretrain, probe or finetune has written, or set `input`",
            )
        self.settings = self.encoder.input
        self.grid = self.encoder.grid(self.settings.height, self.settings.width)
        self.inputs = input_names(model)
        self.rule = rule or WindowRule()

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        size: tuple[int, int] | None = None,
    ) -> Predictor:
        """Load an encoder or task checkpoint, with the rule for windows that it was trained with.

        Where it does not store that, it is `WindowRule()`.

        Args:
            path: A .safetensors file written by ScaleEvent, or another name that
                `scaleevent.checkpoint.load_model` takes, such as ``hf-hub:ORG/NAME``.
            device: Where the model runs.
            size: Rows and columns of the network input; None uses the checkpoint's.

        Raises:
            CheckpointError: Not such a checkpoint, or damaged.
            ConfigError: As for the class.
        """
        model, description = load_described(path, size)
        stored = stored_rule(description)
        return cls(model.to(device), stored[0] if stored else None)

    @property
    def preparation(self) -> str:
        """How `features` and `predict` make the network input, in words."""
        settings = self.settings
        height, width = settings.height, settings.width
        crop = f"centred crop to the shape of {height} x {width} (rows x columns; no crop"
        if settings.pad:
            crop = f"centred in pixels without events of the shape of {height} x {width} (none"
        after = " (`after`: as long, and starts then)" if "after" in self.inputs else ""
        return (
            f"events of the half-open window that ends at the requested time{after}; signed voxel "
            f"grid with {settings.bins} time bins, bilinear in time over the window, on the "
            f"sensor's pixels; {crop} if the aspect ratios differ by at most "
            f"{settings.stretch:.0%}) and bilinear resize to it; normaliser "
            f"`{settings.normaliser}` over the whole tensor; then (x - mean) / std with mean "
            f"{_triple(settings.mean)} and std {_triple(settings.std)} for the three bins"
        )

    @torch.no_grad()
    def features(self, stream: Stream, at: int | Window, rule: WindowRule | None = None) -> Tensor:
        """The encoder's features.

        Returns:
            (h, w, D) float32, on the model's device.

        Raises:
            DataError: The recording is damaged, or its clock was reset within the window.
        """
        inputs, _ = self._prepare(stream, at, rule, ("voxel",))
        return self.features_of(inputs[0])

    @torch.no_grad()
    def predict(self, stream: Stream, at: int | Window, rule: WindowRule | None = None) -> Tensor:
        """The task's map on those sensor pixels that the network sees.

        `Fit.onto_sensor` puts it back on all of the sensor.

        Returns:
            On the model's device, for a centred crop of (h, w) sensor pixels; for all of them where
            the input is padded. Segmentation: (h, w) int64 classes. Depth: (h, w) float32 metres.
            Flow: (2, h, w) float32 pixels right and down, from `at` to the end of the window that
            follows.

        Raises:
            ConfigError: The model is an encoder without a task.
            DataError: As `features`.
        """
        self._task()
        inputs, fit = self._prepare(stream, at, rule, self.inputs)
        rows, columns = fit.on_sensor
        return self.map_of(inputs, fit)[..., rows, columns]

    @torch.no_grad()
    def features_of(self, voxel: Tensor) -> Tensor:
        """`features` of a network input (3, H, W), as `network_input` makes it."""
        tokens: Tensor = self.encoder.tokens(self._batch(voxel))
        return tokens[0].reshape(*self.grid, -1)

    @torch.no_grad()
    def map_of(self, inputs: Sequence[Tensor], fit: Fit) -> Tensor:
        """`predict` of network inputs (3, H, W), one for each of `inputs`, on the box of a fit.

        Raises:
            ConfigError: The model is an encoder without a task.
        """
        model = self._task()
        return model.predict(model(*map(self._batch, inputs)), fit.crop[2:])[0]

    def _batch(self, voxel: Tensor) -> Tensor:
        return voxel[None].to(next(self.model.parameters()).device)

    def _task(self) -> Decoder:
        if isinstance(self.model, Encoder):
            raise ConfigError(
                "an encoder predicts no task",
                expected="a task checkpoint, such as probe and finetune write",
                hint="`features` gives the features of an encoder",
            )
        return self.model

    def _prepare(
        self, stream: Stream, at: int | Window, rule: WindowRule | None, names: tuple[str, ...]
    ) -> tuple[list[Tensor], Fit]:
        """Network inputs (3, H, W), and how the sensor fits them."""
        if isinstance(stream, str | Path):
            stream = open_recording(stream)
        rule = rule or self.rule
        before = _history(stream, at, rule)
        window = at if isinstance(at, Window) else choose_window(before, at, rule)
        inputs = [network_input(before, window, self.settings)]
        if "after" in names:
            after = Window(window.end_us, 2 * window.end_us - window.start_us)
            events = _between(stream, after.start_us, after.end_us)
            inputs.append(network_input(events, after, self.settings))
        return inputs, self.settings.fit(stream.height, stream.width)


def _triple(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def input_names(model: Encoder | Decoder) -> tuple[str, ...]:
    """Names of a model's inputs: flow compares the window before a time with the one after it."""
    flow = isinstance(model, Decoder) and model.task == "flow"
    return ("voxel", "after") if flow else ("voxel",)


def _history(stream: Events | Recording, at: int | Window, rule: WindowRule) -> Events:
    """All events that a window may hold, for a rule with one older event if there is any.

    The older event shows `choose_window` that the recording does not start within its span.
    """
    if isinstance(at, Window):
        return _between(stream, at.start_us, at.end_us)
    if isinstance(stream, Events):
        return stream
    first = next(stream.blocks(None, at), Events.empty(stream.height, stream.width))[:1]
    span = max(rule.duration_us, 1)
    while True:
        older, events = first.between(None, at - span), _between(stream, at - span, at)
        enough = rule.kind != "count" or choose_window(events, at, rule).stop != "start"
        if enough or not len(older):
            break
        span *= 2
    return Events.concatenate([older, events], stream.height, stream.width)


def _between(stream: Events | Recording, start_us: int, end_us: int) -> Events:
    """Events with start_us <= t < end_us."""
    if isinstance(stream, Events):
        return stream.between(start_us, end_us)
    blocks = list(stream.blocks(start_us, end_us))
    if sum(segment.events > 0 for segment in stream.counts.segments) > 1:
        raise DataError(
            "the clock was reset within the recording",
            where=stream.path,
            expected="one stretch of time",
            hint="open it with segment=0, 1, ..",
        )
    return Events.concatenate(blocks, stream.height, stream.width)
