"""Vision transformers as dense encoders: images or voxels in, normalised patch tokens out.

Teacher and student are the same kind of network, a DINOv3 ViT as built by timm. An `Encoder` keeps
its `spec`, the exact `timm.create_model` call. Its weights have bare timm names and load without
ScaleEvent: ``timm.create_model(spec["name"], checkpoint_path="encoder.safetensors",
**spec["kwargs"])``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from scaleevent.config.catalog import ARCHITECTURES
from scaleevent.config.settings import patch_grid
from scaleevent.encoders.colours import Colours, colours_of_file, colours_of_timm
from scaleevent.encoders.hub import fetch_weights, weight_file
from scaleevent.encoders.provenance import history_in, history_of
from scaleevent.encoders.tensor_files import read_every_tensor
from scaleevent.encoders.weights import ViTShape, ViTWeights, check_keys, convert_weights
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.files import Json
from scaleevent.system.hub_folders import names_hub
from scaleevent.system.locations import embedded_file, embedded_name, is_weight_file, similar_name
from scaleevent.system.random_state import kept_random_state
from scaleevent.system.sealed import check_kind, read_header

DINOV3_HEAD_WIDTH = 64
LARGEST_OPTION = 4096  # number in the description of an encoder
CHANNELS = 3  # of images and voxels
TIMM_ON_HUB = "hf-hub:timm/"


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
            all(
                isinstance(value, int | float) and abs(value) <= LARGEST_OPTION
                for value in kwargs.values()
            )
            and "pretrained" not in kwargs
        ):
            return {"name": name, "kwargs": kwargs}
    raise CheckpointError(
        "not the description of an encoder",
        where=where,
        found=str(spec)[:200],
        expected='{"name": ..., "kwargs": {numbers}}',
    )


class Encoder(nn.Module):
    """A timm ViT that returns dense features.

    Args:
        spec: The `timm.create_model` call that builds it, see `ARCHS`.
        pretrained: timm's configuration of published weights, with the `file` that holds them; None
            initialises randomly.

    Raises:
        ConfigError: timm has no such model, or it is not a ViT for any input size that takes images
            of three colours in square patches.

    Attributes:
        vit: The timm model; its `state_dict` is what an encoder checkpoint holds.
        spec: As given.
        input: Input preprocessing used in training, None if unknown.
        colours: Mean and deviation of the channels that it is used to.
        remarks: Lines on the file its weights are from, for people.
        history: What it was pretrained on: `recordings`, or in `provenance` what is known instead;
            empty for random weights. See `scaleevent.encoders.provenance`.
    """

    def __init__(self, spec: Spec, pretrained: object = None) -> None:
        super().__init__()
        self.spec = spec
        self.input: InputSettings | None = None
        self.colours = Colours()
        self.remarks: tuple[str, ...] = ()
        self.history: Json = {}
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
            options |= {"pretrained": True, "pretrained_cfg": pretrained}
        try:
            self.vit: Any = timm.create_model(spec["name"], **options)
        except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as problem:
            raise ConfigError(
                "timm cannot build this encoder",
                where=spec["name"],
                found=problem,
                expected="a vision transformer that takes any input size",
                hint=f"use one of {', '.join(ARCHS)}",
            ) from problem
        _check_patches(self.vit, spec["name"])

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
            timm model name, ``hf-hub:ORG/NAME[@REVISION]``, ``local-dir:FOLDER`` in the hub's
            layout, "embedded" for those in the package, or None or "random" for random
            initialisation.
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
    packaged = embedded_file(source)
    if packaged is not None:
        encoder = _from_file(arch, packaged, source, keep_periods)
        known = read_header(packaged).description or {}
        encoder.remarks = taught_by(known, str(embedded_name(source)))
        encoder.history = history_in(known.get("data") or {"recordings": []})
        return encoder
    if source.startswith(TIMM_ON_HUB) and "@" not in source:
        source = f"timm:{source.removeprefix(TIMM_ON_HUB)}"
    if not is_weight_file(source) and not names_hub(source):
        return _from_timm(arch, source.removeprefix("timm:"), offline)
    return _from_file(arch, weight_file(source, offline=offline), source, keep_periods)


def described_encoder(tensors: Mapping[str, Tensor], description: Json, where: object) -> Encoder:
    """The encoder of a file of ours, with the settings of its input.

    Args:
        tensors: Under bare timm names, of any floating type.
        description: What the file says of itself.
        where: Named in errors.

    Raises:
        CheckpointError: The description is not that of an encoder, or not of these tensors.
    """
    spec = checked_spec(description.get("arch"), f"{where}, arch")
    state = {name: tensor.float() for name, tensor in tensors.items()}
    if spec["kwargs"].get("depth", 0) > len(state):  # would take time, not memory
        raise CheckpointError(
            "the description is not that of these weights",
            where=f"{where}, arch",
            found=f"depth {spec['kwargs']['depth']}, {len(state)} tensors",
        )
    try:
        with torch.device("meta"):  # takes no memory, whatever the sizes
            shapes = Encoder(spec).vit.state_dict()
    except Exception as problem:  # any value of an option may fail anywhere in timm
        raise CheckpointError(
            "the description is not that of an encoder",
            where=f"{where}, arch",
            found=f"{spec}: {getattr(problem, 'what', problem)}"[:400],
        ) from None
    check_keys(state, {name: tuple(value.shape) for name, value in shapes.items()}, where)
    encoder = Encoder(spec)
    encoder.vit.load_state_dict(state)
    settings = description.get("input")
    encoder.input = InputSettings.of(settings, where) if settings else None
    encoder.colours = _described_colours(description, where)
    return encoder


@kept_random_state()
def _from_file(arch: str | None, file: Path, source: str, keep_periods: bool) -> Encoder:
    """Build an encoder with the weights of a file: of ours as described in it, else as detected."""
    tensors, description = read_every_tensor(file)
    if description is None:
        found: ViTWeights | None
        found = convert_weights(tensors, file)
        encoder = Encoder(_spec_of(found, arch, source))
        encoder.load(found.state, source)
        encoder.history = history_of(found.prefix)
        encoder.colours = colours_of_file(file, source)
    else:
        check_kind(description, file, "encoder")
        found = convert_weights(tensors, file) if description.get("layout") == "meta" else None
        encoder = described_encoder(found.state if found else tensors, description, file)
        _check_architecture(encoder.spec, arch, source)
        encoder.history = history_in(description.get("data"))
    if found is None:
        return encoder
    encoder.remarks = found.remarks
    if keep_periods:
        _keep_periods(encoder, found, source)
    return encoder


def taught_by(description: Json, name: str) -> tuple[str, ...]:
    """A line on what weights in the package learned from and what they are not; none of others."""
    about = description.get("training")
    if not isinstance(about, dict):
        return ()
    said = "; ".join(str(about[key]) for key in ("data", "limits") if key in about)
    return (f"{name}: taught by {said}",)


def encoder_of(tensors: Mapping[str, Tensor], where: object) -> Encoder:
    """The encoder inside a file of another origin, with the rotary periods stored there.

    Raises:
        CheckpointError: As `convert_weights`.
    """
    found = convert_weights(tensors, where)
    encoder = Encoder(_spec_of(found, None, str(where)))
    encoder.load(found.state, where)
    _keep_periods(encoder, found, str(where))
    return encoder


def _keep_periods(encoder: Encoder, found: ViTWeights, source: str) -> None:
    """Use the rotary periods of a file, if it has any."""
    if found.periods is None:
        return
    periods = encoder.vit.rope.periods
    if periods.shape != found.periods.shape:
        raise CheckpointError(
            "the rotary periods do not fit the attention heads",
            where=source,
            found=f"{len(found.periods)} periods",
            expected=len(periods),
        )
    periods.copy_(found.periods)


def as_teacher(encoder: Encoder) -> Encoder:
    """Freeze an encoder in place: evaluation mode, no gradients."""
    return encoder.eval().requires_grad_(False)


@kept_random_state()
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
            "neither a file nor a name of weights that timm publishes",
            found=name,
            expected=", ".join(published or _similar_names(name, model)) or None,
            hint="name a file, the folder of a run, embedded, timm:NAME or hf-hub:ORG/NAME",
        )
    file = fetch_weights(config.hf_hub_id, offline)
    # `custom_load` is for the archives that some of the weights come from
    encoder = Encoder(spec, replace(config, file=str(file), custom_load=False))
    encoder.colours = colours_of_timm(name)
    encoder.history = history_of("")
    return encoder


def _similar_names(name: str, model: str) -> list[str]:
    """The name in the package that a name is close to, else timm's models."""
    own = similar_name(name)
    return [own] if own is not None else get_close_matches(model, timm.list_models())


def _spec_of(found: ViTWeights, arch: str | None, where: str) -> Spec:
    """The timm call for the weights of a file."""
    if found.shape.channels != CHANNELS:
        raise CheckpointError(
            "the patch embedding takes images of another kind",
            where=where,
            found=f"{found.shape.channels} channels",
            expected=f"{CHANNELS}, the colours of an image",
        )
    if arch is not None:
        bias = {"qkv_bias": True} if found.shape.qkv_bias else {}
        return {"name": ARCHS[arch]["name"], "kwargs": ARCHS[arch]["kwargs"] | bias}
    return _nearest_spec(found.shape, where)


def _described_colours(description: Json, where: object) -> Colours:
    """Those of the encoder's input; before they were recorded, they were ImageNet's."""
    if not description.get("input"):
        return Colours()
    settings = InputSettings.of(description["input"], where)
    return Colours(settings.mean, settings.std, f"recorded in {where}")


def _check_architecture(spec: Spec, arch: str | None, where: str) -> None:
    """Refuse a file of ours that is of another architecture than the one asked for."""
    if arch is None:
        return
    free = ("qkv_bias", "init_values")  # the weights tell both
    found, asked = (
        {name: value for name, value in one["kwargs"].items() if name not in free}
        for one in (spec, ARCHS[arch])
    )
    if (spec["name"], found) != (ARCHS[arch]["name"], asked):
        raise CheckpointError(
            "these weights are not of this architecture", where=where, found=spec, expected=arch
        )


def _check_patches(vit: nn.Module, name: str) -> None:
    """Refuse a network that does not cut images of three colours into square patches."""
    embedding = getattr(vit, "patch_embed", None)
    if not isinstance(embedding, PatchEmbed) or not hasattr(vit, "blocks"):
        found, expected = type(vit).__name__, "a plain vision transformer"
    elif embedding.proj.in_channels != CHANNELS:
        found, expected = f"{embedding.proj.in_channels} channels", f"{CHANNELS} channels"
    elif len(set(embedding.patch_size)) != 1:
        found, expected = f"patches of {embedding.patch_size}", "square patches"
    else:
        return
    raise ConfigError(
        "not a vision transformer for dense features of colour images",
        where=name,
        found=found,
        expected=expected,
        hint=f"use one of {', '.join(ARCHS)}, or another plain ViT of timm",
    )


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


@torch.no_grad()
def encode_all(encoder: Encoder, inputs: Iterable[Tensor]) -> Tensor:
    """(M, L, D) float32 tokens on the CPU of batches of inputs."""
    device = next(encoder.parameters()).device
    return torch.cat([encoder.tokens(batch.to(device)).float().cpu() for batch in inputs])
