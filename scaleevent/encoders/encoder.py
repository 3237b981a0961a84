"""Vision transformers as dense encoders: images or voxels in, normalised patch tokens out.

Teacher and student are the same kind of network, a DINOv3 ViT as built by timm. An `Encoder` keeps
its `spec`, the exact `timm.create_model` call. Its weights have bare timm names and load without
ScaleEvent: ``timm.create_model(spec["name"], checkpoint_path="encoder.safetensors",
**spec["kwargs"])``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

import timm
from torch import Tensor, nn

from scaleevent.config.catalog import ARCHITECTURES
from scaleevent.config.settings import patch_grid
from scaleevent.encoders.hub import fetch_weights
from scaleevent.encoders.weights import ViTShape, ViTWeights, check_keys, read_weights
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.locations import is_weight_file

DINOV3_HEAD_WIDTH = 64


class Spec(TypedDict):
    """The arguments of `timm.create_model`: a model name and its keyword arguments."""

    name: str
    kwargs: dict[str, Any]


ARCHS: dict[str, Spec] = {
    name: {"name": arch.model, "kwargs": dict(arch.options)} for name, arch in ARCHITECTURES.items()
}


def checked_spec(spec: object, where: object = None) -> Spec:
    """Check a spec that was read from a file.

    It may hold a name and plain numbers, but nothing that makes timm open or fetch files.

    Raises:
        CheckpointError: It holds anything else.
    """
    match spec:
        case {"name": str(name), "kwargs": dict(kwargs)} if (
            all(isinstance(value, int | float) for value in kwargs.values())
            and "pretrained" not in kwargs
        ):
            return {"name": name, "kwargs": kwargs}
    raise CheckpointError(
        "not the description of an encoder",
        where=where,
        found=spec,
        expected='{"name": ..., "kwargs": {numbers}}',
    )


class Encoder(nn.Module):
    """A timm ViT that returns dense features.

    Args:
        spec: The `timm.create_model` call that builds it, see `ARCHS`.
        pretrained: File of weights that timm publishes for this model; None initialises randomly.

    Raises:
        ConfigError: timm has no such model, or it is not a ViT for any input size.

    Attributes:
        vit: The timm model; its `state_dict` is what an encoder checkpoint holds.
        spec: As given.
        input: Input preprocessing used in training, None if unknown.
    """

    def __init__(self, spec: Spec, pretrained: Path | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.input: InputSettings | None = None
        if not timm.is_model(spec["name"]):
            raise ConfigError(
                "timm has no such model",
                found=spec["name"],
                expected=", ".join(get_close_matches(spec["name"], timm.list_models())) or None,
                hint="timm.list_models('*dinov3*') lists the DINOv3 encoders",
            )
        # DINOv3 models have no classifier and take any input size; others need these options
        options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True} | spec["kwargs"]
        if pretrained is not None:
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(pretrained)}}
        try:
            self.vit: Any = timm.create_model(spec["name"], **options)
        except (RuntimeError, TypeError, ValueError) as problem:
            raise ConfigError(
                "timm cannot build this encoder",
                where=spec["name"],
                found=problem,
                expected="a vision transformer that takes any input size",
                hint=f"use one of {', '.join(ARCHS)}",
            ) from problem

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return int(self.vit.patch_embed.patch_size[0])

    @property
    def width(self) -> int:
        """Channels of a token, D."""
        return int(self.vit.embed_dim)

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.vit.blocks)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches (h, w) for an input of this size in pixels.

        Raises:
            ConfigError: The size is not a positive multiple of the patch.
        """
        return patch_grid(height, width, self.patch)

    def tokens(self, x_NCHW: Tensor) -> Tensor:
        """Patch tokens after the final norm, without class and register tokens.

        Args:
            x_NCHW: (N, 3, H, W) float, already normalised; H and W multiples of `patch`.

        Returns:
            (N, L, D), L = h * w in row-major order.
        """
        self.grid(*x_NCHW.shape[-2:])
        tokens: Tensor = self.vit.forward_features(x_NCHW)
        return tokens[:, self.vit.num_prefix_tokens :]

    def embed(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """The input of the first block, for decoders that run the blocks themselves.

        Returns:
            (N, S, D) class, register and patch tokens, and the rotary table of the patches.
        """
        self.grid(*x_NCHW.shape[-2:])
        tokens, rope = self.vit._pos_embed(self.vit.patch_embed(x_NCHW))
        return self.vit.norm_pre(tokens), rope

    def maps(self, x_NCHW: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Feature maps after chosen blocks, each passed through the final norm.

        Args:
            x_NCHW: As for `tokens`.
            layers: Block indices from 0; negative ones count from the end.

        Returns:
            One (N, D, h, w) map per layer, in the order of `layers`.

        Raises:
            ConfigError: A layer does not exist, or the input size does not divide into patches.
        """
        self.grid(*x_NCHW.shape[-2:])
        if any(not -self.depth <= layer < self.depth for layer in layers):
            raise ConfigError(
                "no such layer", found=list(layers), expected=f"0 to {self.depth - 1}"
            )
        blocks = [layer % self.depth for layer in layers]
        ascending = sorted(set(blocks))  # timm returns them in this order
        maps = self.vit.forward_intermediates(
            x_NCHW, indices=ascending, norm=True, stop_early=True, intermediates_only=True
        )
        return [maps[ascending.index(block)] for block in blocks]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`tokens`, so that wrappers such as DistributedDataParallel work."""
        return self.tokens(x_NCHW)

    def load(self, state: Mapping[str, Tensor], where: object = None) -> None:
        """Load weights under bare timm names; every name and shape must match.

        Raises:
            CheckpointError: Keys are missing, unexpected or of another shape; all are named.
        """
        shapes = {name: tuple(value.shape) for name, value in self.vit.state_dict().items()}
        check_keys(state, shapes, where)
        self.vit.load_state_dict(state)


def build_encoder(
    arch: str | None = None,
    weights: Path | str | None = None,
    *,
    offline: bool = False,
    keep_periods: bool = False,
) -> Encoder:
    """Build an encoder with random or given weights.

    Args:
        arch: A key of `ARCHS`; None uses the architecture of the weights.
        weights: A weight file of any layout that `read_weights` knows, ``timm:NAME`` or a plain
            timm model name, ``hf-hub:ORG/NAME``, or None or "random" for random initialisation.
        offline: Use only weights that are already on this machine.
        keep_periods: Use the rotary periods stored in the file. Meta's files are reported to hold
            them rounded to bfloat16 (huggingface/pytorch-image-models:timm/layers/
            pos_embed_sincos.py), so a teacher is exact only with them. They are not part of a timm
            checkpoint: leave this off for a student.

    Raises:
        ConfigError: Unknown architecture or model name.
        CheckpointError: The file cannot be read, or does not fit `arch`.
        EnvironmentProblem: Pretrained weights cannot be fetched.

    Examples:
        >>> encoder = build_encoder("tiny")
        >>> encoder.patch, encoder.width, encoder.depth
        (8, 96, 4)
    """
    if arch is not None and arch not in ARCHS:
        raise ConfigError("unknown architecture", found=arch, expected=", ".join(ARCHS))
    if weights is None or str(weights) == "random":
        if arch is None:
            raise ConfigError(
                "an encoder needs an architecture or weights", expected=", ".join(ARCHS)
            )
        return Encoder(ARCHS[arch])
    source = str(weights)
    if source.startswith("hf-hub:"):
        found = read_weights(fetch_weights(source.removeprefix("hf-hub:"), offline))
    elif is_weight_file(source):
        found = read_weights(Path(weights))
    else:
        return _from_timm(arch, source.removeprefix("timm:"), offline)
    encoder = Encoder(_spec_of(found, arch, source))
    encoder.load(found.state, source)
    if keep_periods and found.periods is not None:
        periods = encoder.vit.rope.periods
        if periods.shape != found.periods.shape:
            raise CheckpointError(
                "the rotary periods do not fit the attention heads",
                where=source,
                found=f"{len(found.periods)} periods",
                expected=len(periods),
            )
        periods.copy_(found.periods)
    return encoder


def as_teacher(encoder: Encoder) -> Encoder:
    """Freeze an encoder in place: evaluation mode, no gradients."""
    return encoder.eval().requires_grad_(False)


def _from_timm(arch: str | None, name: str, offline: bool) -> Encoder:
    """Build an encoder with the weights that timm publishes as ``NAME`` or ``NAME.TAG``."""
    model = name.partition(".")[0]
    spec: Spec = {"name": model, "kwargs": {}}
    if arch is not None and ARCHS[arch] != spec | {"name": model.removesuffix("_qkvb")}:
        raise ConfigError("these weights are not of this architecture", found=name, expected=arch)
    published = timm.list_pretrained(f"{model}.*")
    known = published and name in [model, *published]
    config = timm.get_pretrained_cfg(name) if known else None
    if config is None or not config.hf_hub_id:
        raise ConfigError(
            "timm has no pretrained weights of that name",
            found=name,
            expected=", ".join(published or get_close_matches(model, timm.list_models())) or None,
        )
    return Encoder(spec, fetch_weights(config.hf_hub_id, offline))


def _spec_of(found: ViTWeights, arch: str | None, where: str) -> Spec:
    """The timm call for the weights of a file."""
    if arch is not None:
        bias = {"qkv_bias": True} if found.shape.qkv_bias else {}
        return {"name": ARCHS[arch]["name"], "kwargs": ARCHS[arch]["kwargs"] | bias}
    if "scaleevent" not in found.metadata:
        return _nearest_spec(found.shape, where)
    try:  # a ScaleEvent checkpoint: it stores its spec
        return checked_spec(json.loads(found.metadata["scaleevent"])["arch"], where)
    except (KeyError, TypeError, ValueError) as problem:
        raise CheckpointError("damaged metadata", where=where, found=repr(problem)) from problem


def _nearest_spec(shape: ViTShape, where: str) -> Spec:
    """A published DINOv3 model if one has this size, else a spec that lists the sizes."""
    heads = shape.heads
    if heads is None:
        if shape.width % DINOV3_HEAD_WIDTH:
            raise CheckpointError(
                "the number of attention heads cannot be read from the file",
                where=where,
                found=f"width {shape.width}, no rotary periods",
                hint=f"name the architecture, one of {', '.join(ARCHS)}",
            )
        heads = shape.width // DINOV3_HEAD_WIDTH
    sizes = {"embed_dim": shape.width, "depth": shape.depth, "num_heads": heads}
    options = {
        "patch_size": (shape.patch, 16),
        "in_chans": (shape.channels, 3),
        "num_reg_tokens": (shape.registers, 4),
        "mlp_ratio": (shape.hidden / shape.width, 4.0),
        "qkv_bias": (shape.qkv_bias, False),
    }
    kwargs = {name: value for name, (value, usual) in options.items() if value != usual}
    for arch in ARCHITECTURES.values():
        if not arch.options and (arch.width, arch.depth, arch.heads) == tuple(sizes.values()):
            return {"name": arch.model, "kwargs": kwargs}
    return {"name": ARCHS["vits"]["name"], "kwargs": sizes | kwargs}
