"""The task model that a run starts from: an encoder with a decoder of the benchmark's task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scaleevent.benchmarks.own import benchmark_of
from scaleevent.config import benchmarks
from scaleevent.config.catalog import DEFAULT_ARCHITECTURE, DEFAULT_NORMALISER
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.decoders import build_decoder, decoder_name
from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.encoders.encoder import ARCHS, Encoder, build_encoder
from scaleevent.encoders.tensor_files import read_tensors
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.locations import embedded_file
from scaleevent.system.sealed import read_description


@dataclass(frozen=True)
class Start:
    """What training starts from."""

    decoder: Decoder  # on the encoder
    settings: InputSettings  # how the input is made; `encoder.input` too
    loaded: Loaded | None  # what became of published decoder weights; None where none were named
    # description of the encoder's checkpoint; empty if it is not one of ours
    pretraining: dict[str, Any]

    def describe(self) -> list[str]:
        """Lines on the weights: the encoder's, and the decoder's loaded, fresh and unused ones."""
        encoder = self.decoder.encoder
        lines = [*encoder.remarks, f"encoder's channels: {encoder.colours}"]
        if self.loaded is None:
            linear = decoder_name(self.decoder) == "linear"
            published = "" if linear else " (--decoder-weights takes published ones)"
            return [*lines, f"decoder starts fresh{published}"]
        taken = len(self.loaded.loaded)
        lines.append(f"decoder weights: {self.loaded.layout}, {taken} tensors taken")
        for title, names in (("fresh", self.loaded.fresh), ("unused", self.loaded.unused)):
            if names:
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                lines.append(f"  {title}: {len(names)}: {shown}")
        return lines + [f"  {note}" for note in self.loaded.notes]


def task_model(cfg: FinetuneConfig) -> Start:
    """Build encoder and decoder; what is random depends on the seed alone.

    Raises:
        ConfigError: The checkpoint does not fit decoder or input size.
        CheckpointError: Not an encoder, or weights that cannot be used.
    """
    torch.manual_seed(cfg.seed)
    encoder, pretraining = _encoder(cfg)
    benchmark = benchmark_of(cfg.benchmark, cfg.data)
    size = cfg.size or benchmark.size
    encoder.grid(*size)
    known = pretraining.get("input") or {}
    normaliser = cfg.normaliser or known.get("normaliser", DEFAULT_NORMALISER)
    bins = known.get("bins", 3)
    colours = encoder.colours
    settings = InputSettings(
        *size, encoder.patch, bins, normaliser, benchmark.stretch, colours.mean, colours.std,
        known.get("pad", False),
    )  # fmt: skip
    encoder.input = settings
    torch.manual_seed(cfg.seed)
    decoder = build_decoder(cfg.decoder, encoder, benchmark.task, cfg.options)
    loaded = None
    if cfg.decoder_weights is not None:
        loaded = decoder.load_published(read_tensors(cfg.decoder_weights)[0], cfg.decoder_weights)
    return Start(decoder, settings, loaded, pretraining)


def _encoder(cfg: FinetuneConfig) -> tuple[Encoder, dict[str, Any]]:
    """The encoder, and what its checkpoint says of itself."""
    if cfg.checkpoint == "random":
        small = benchmarks.BENCHMARKS[cfg.benchmark].embedded
        arch = cfg.arch or ("tiny" if small else DEFAULT_ARCHITECTURE)
        return Encoder(ARCHS[arch]), {}
    path = embedded_file(cfg.checkpoint) or Path(cfg.checkpoint)
    description = read_description(path, "encoder") if path.exists() else None
    return build_encoder(cfg.arch, cfg.checkpoint, offline=cfg.offline), description or {}
