"""Task models of others, scored from the files that they publish, without a training run between.

What a file holds is told by its keys and shapes; what these leave open is asked for, taken from
the published code and then marked "unverified", or refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field, ValidationError
from torch import Tensor

from scaleevent.benchmarks.own import benchmark_of
from scaleevent.checkpoint import load_task
from scaleevent.config.downstream import EvalConfig
from scaleevent.config.settings import Settings
from scaleevent.decoders.decoder import Decoder
from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.dpt_weights import PUBLISHED_PATCH, published_depth
from scaleevent.decoders.eomt import SCALEEVENT_BLOCKS, EoMT, default_blocks
from scaleevent.decoders.eomt_weights import published_encoder, sort_published
from scaleevent.decoders.sea_raft import SIZES, SeaRaft
from scaleevent.encoders.dinov2 import dinov2_encoder
from scaleevent.encoders.encoder import ARCHS, Encoder, encoder_of
from scaleevent.encoders.provenance import AUTHORS, UNKNOWN
from scaleevent.encoders.tensor_files import read_tensors
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.files import Json, sha256_file
from scaleevent.system.sealed import read_description
from scaleevent.training.tensors import under

OURS_SAY = ("size", "normaliser", "decoder_options", "encoder_weights")  # settings for others'
AUTHORS_CODE = "zhiwen-xdu/ScaleEvent at e3d2083"
LARGEST_DEPTH = 80.0  # metres: scale_event/models/build_depther_dav2.py


class Options(Settings):
    """What the tensors of published files leave open: `--decoder-option`."""

    blocks: Annotated[int | None, Field(ge=1, le=64)] = None  # EoMT: those that queries pass
    max_depth: Annotated[float | None, Field(gt=0, le=10_000)] = None  # depth: metres
    iters: Annotated[int | None, Field(ge=1, le=64)] = None  # SEA-RAFT: refinements


@dataclass(frozen=True)
class Foreign:
    """A published model, built and loaded."""

    decoder: Decoder
    origin: str  # whose file it is
    used: tuple[str, ...]  # `Options` that applied to it
    unverified: tuple[str, ...]  # what is taken from code or assumed, for people
    authors: bool = False  # whether it is of ScaleEvent's authors, whose voxels have 8 bits
    size: tuple[int, int] | None = None  # of its input, where it takes no other


def model_to_score(cfg: EvalConfig) -> tuple[Decoder, Json]:
    """The model of a file of ours or of others, in evaluation mode, and its description.

    Raises:
        CheckpointError: Not a task model that is known, or not a complete one.
        ConfigError: Settings that the file does not leave open; or a size that does not fit.
    """
    if read_description(cfg.checkpoint, "task") is None:
        return _published(cfg)
    given = [name for name in OURS_SAY if getattr(cfg, name)]
    if given:
        flags = (f"--{name.removesuffix('s').replace('_', '-')}" for name in given)
        raise ConfigError(
            "only for files of other origins: this checkpoint says it itself",
            where=", ".join(flags), found=cfg.checkpoint,
        )  # fmt: skip
    return load_task(cfg.checkpoint)


def foreign_notes(description: Json) -> list[str]:
    """What a report says of a published model; nothing for ours."""
    about = description.get("foreign")
    if about is None:
        return []
    return [
        f"weights as published: {about['origin']}, {about['tensors']} tensors",
        *(f"unverified: {line}" for line in about["unverified"]),
        "its training is not recorded: the published rows are those of full supervision",
    ]


def _published(cfg: EvalConfig) -> tuple[Decoder, Json]:
    tensors, _ = read_tensors(cfg.checkpoint)
    options = _options(cfg)
    size = cfg.size or benchmark_of(cfg.benchmark, cfg.data).size
    model = _reader(tensors, cfg)(tensors, cfg, options, size)
    unused = set(cfg.decoder_options) - set(model.used)
    if cfg.encoder_weights is not None and not isinstance(model.decoder, EoMT):
        unused.add("encoder_weights")
    if unused:
        raise ConfigError(
            "the file does not leave this open", where="--decoder-option, --encoder-weights",
            found=", ".join(sorted(unused)), expected=", ".join(model.used) or "no option",
        )  # fmt: skip
    decoder, encoder = model.decoder.eval(), model.decoder.encoder
    size = model.size or size
    encoder.grid(*size)
    normaliser = cfg.normaliser or ("minmax8" if model.authors else "minmax")
    mean, std = encoder.colours.mean, encoder.colours.std
    stretch = benchmark_of(cfg.benchmark, cfg.data).stretch
    encoder.input = InputSettings(*size, encoder.patch, 3, normaliser, stretch, mean, std)
    unverified = (
        f"input: the benchmark's voxel at {size[0]}x{size[1]}, {normaliser}, channels "
        "standardised with ImageNet's mean and deviation",
        *model.unverified,
        "no file that its authors published was at hand: key names are those of their code",
    )
    history = {"provenance": AUTHORS if model.authors else UNKNOWN}
    description = {
        "sha256": sha256_file(cfg.checkpoint),
        "input": asdict(encoder.input),
        "pretraining": history,
        "decoder": {"name": type(decoder).__name__, "settings": decoder.settings},
        "foreign": {
            "origin": model.origin, "tensors": len(tensors), "unverified": list(unverified),
        },
    }  # fmt: skip
    return decoder, description


Reader = Callable[[Mapping[str, Tensor], EvalConfig, Options, tuple[int, int]], Foreign]


def _reader(tensors: Mapping[str, Tensor], cfg: EvalConfig) -> Reader:
    """What reads a file, by marks in its keys.

    Raises:
        CheckpointError: Nothing does.
    """
    names = [name.removeprefix("_orig_mod.").removeprefix("module.") for name in tensors]
    for mark, reader in _READERS.items():
        if any(re.match(mark, name) for name in names):
            return reader
    raise CheckpointError(
        "neither a task model of ours nor a published one that is known",
        where=cfg.checkpoint,
        found=f"keys {', '.join(sorted(tensors)[:8])}",
        expected="the authors' EoMT or depth model, EoMT of tue-mps, LightlyTrain or Hugging Face, "
        "Depth Anything V2, SEA-RAFT",
        hint=f"`scaleevent probe {cfg.benchmark} {shlex.quote(str(cfg.checkpoint))}` "
        "gives an encoder its task, so does `finetune`",
    )


def _eomt(
    tensors: Mapping[str, Tensor], cfg: EvalConfig, options: Options, size: tuple[int, int]
) -> Foreign:
    where = cfg.checkpoint
    published = sort_published(tensors, where)
    base = None
    if cfg.encoder_weights is not None:
        base = read_tensors(cfg.encoder_weights)[0]
    if any(name.endswith("pos_embed") for name in published.encoder):
        raise CheckpointError(
            "an EoMT over DINOv2: only those over DINOv3 are known", where=where,
            found="absolute positions, pos_embed",
        )  # fmt: skip
    encoder = encoder_of(published_encoder(tensors, base, where=where), where)
    classes, queries = (published.head.get(name) for name in ("class_head.weight", "q.weight"))
    if classes is None or queries is None or classes.ndim != 2 or queries.ndim != 2:
        raise CheckpointError(
            "not a whole EoMT: no class head or no queries", where=where,
            expected="class_head.weight (K + 1, D), q.weight (Q, D)",
        )  # fmt: skip
    authors = published.layout == "scaleevent"
    held = [len(v) for name, v in tensors.items() if name.endswith("attn_mask_probs")]
    usual = SCALEEVENT_BLOCKS if authors else default_blocks(encoder.depth)
    blocks = options.blocks or (held[0] if held else usual)
    decoder = EoMT(
        encoder, len(classes) - 1, len(queries), blocks,
        "scaleevent" if authors else "upstream", classes.shape[1],
    )  # fmt: skip
    _require_whole(decoder, tensors, where)
    unverified = ["the order of its classes is the benchmark's"]
    if not held and options.blocks is None:
        unverified.append(f"queries pass {blocks} blocks, which the file does not say")
    if published.layout == "lightly-train":
        unverified.append("LightlyTrain's norm has epsilon 1e-5, here 1e-6")
    origin = AUTHORS_CODE if authors else published.layout
    return Foreign(decoder, f"EoMT, {origin}", ("blocks",), tuple(unverified), authors)


def _depth(
    tensors: Mapping[str, Tensor], cfg: EvalConfig, options: Options, size: tuple[int, int]
) -> Foreign:
    where = cfg.checkpoint
    bare = {name.removeprefix("module."): value for name, value in tensors.items()}
    places = ("encoder.", "pretrained.", "depth_head.")
    if strange := [name for name in bare if not name.startswith(places)]:
        raise CheckpointError(
            "keys that no published depth model has", where=where,
            found=", ".join(sorted(strange)[:8]), expected=", ".join(f"{one}*" for one in places),
        )  # fmt: skip
    published = published_depth(where)
    if published is not None and published.kind == "relative":
        raise CheckpointError(
            "a relative depth model: it gives no metres, which the benchmark measures",
            where=where, expected="a metric one, such as depth_anything_v2_metric_vkitti_vits.pth",
        )  # fmt: skip
    unverified = []
    authors = not any(name.startswith("pretrained.") for name in bare)
    if authors:
        encoder = encoder_of(under(bare, "encoder."), where)
    else:
        if cfg.size is None:
            size = _divided(size[0]), _divided(size[1])
        encoder = dinov2_encoder(under(bare, "pretrained."), size, where)
        if published is None:
            unverified.append("the file does not say metric or relative: taken as metric")
    usual = LARGEST_DEPTH if published is None else published.max_depth or LARGEST_DEPTH
    max_depth = options.max_depth or usual
    if options.max_depth is None:
        unverified.append(f"its depth ends at {max_depth:g} m (--decoder-option max_depth=...)")
    decoder = DPT(encoder, max_depth)
    _require_whole(decoder, tensors, where)
    origin = AUTHORS_CODE if authors else "DepthAnything/Depth-Anything-V2"
    return Foreign(decoder, f"depth, {origin}", ("max_depth",), tuple(unverified), authors, size)


def _divided(side: int) -> int:
    """The nearest number of pixels that Depth Anything's patches divide."""
    return max(1, round(side / PUBLISHED_PATCH)) * PUBLISHED_PATCH


def _sea_raft(
    tensors: Mapping[str, Tensor], cfg: EvalConfig, options: Options, size: tuple[int, int]
) -> Foreign:
    stages = [f"fnet.layer{stage}." for stage in (1, 2, 3)]
    blocks = tuple(len({n.split(".")[2] for n in tensors if n.startswith(s)}) for s in stages)
    known = {name: one.blocks for name, one in SIZES.items() if not one.normalised}
    name = next((name for name, one in known.items() if one == blocks), None)
    if name is None:
        raise CheckpointError(
            "a SEA-RAFT of no published size", where=cfg.checkpoint,
            found=f"{blocks} blocks", expected=", ".join(f"{k} {v}" for k, v in known.items()),
        )  # fmt: skip
    iters = options.iters or 4
    decoder = SeaRaft(Encoder(ARCHS["tiny"]), name, iters, fuse=False)
    _require_whole(decoder, tensors, cfg.checkpoint)
    unverified = () if options.iters else (f"{iters} refinements (--decoder-option iters=12: L)",)
    return Foreign(decoder, f"princeton-vl/SEA-RAFT {name}", ("iters",), unverified)


# a mark at the beginning of a key, without wrappers: reader
_READERS: dict[str, Reader] = {
    r"(network\.|model\.)?(q|queries|query)\.weight$": _eomt,
    r"depth_head\.": _depth,
    r"update_block\.refine\.": _sea_raft,
}


def _require_whole(decoder: Decoder, tensors: Mapping[str, Tensor], where: object) -> None:
    """Load everything that the decoder has of its own.

    Raises:
        CheckpointError: The file does not hold it all.
    """
    fresh = decoder.load_published(tensors, where).fresh
    if fresh:
        raise CheckpointError(
            "not a whole task model", where=where, found=f"without {', '.join(fresh)}",
            hint="`scaleevent finetune BENCHMARK ENCODER --decoder-weights "
            f"{shlex.quote(str(where))}` trains what is missing",
        )  # fmt: skip


def _options(cfg: EvalConfig) -> Options:
    try:
        return Options.model_validate(cfg.decoder_options)
    except ValidationError as error:
        raise ConfigError(
            "no such option or value of a published file", where="--decoder-option",
            found=", ".join(f"{one['loc'][0]}={one['input']}" for one in error.errors()),
            expected=", ".join(Options.model_fields),
        ) from None  # fmt: skip
