"""EoMT: the vision transformer itself segments, with learned queries in its last blocks.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025
(tue-mps/eomt:models/eomt.py, models/scale_block.py), and the variant that the authors of ScaleEvent
fine-tune (zhiwen-xdu/ScaleEvent:scale_event/models/build_segmentor_eomt.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.models.eva import Eva
from torch import Tensor, nn

from scaleevent.decoders.decoder import Decoder, Loaded
from scaleevent.decoders.eomt_loss import POINTS, WEIGHTS, Generator, mask_classification_loss
from scaleevent.decoders.eomt_weights import fit_head, sort_published
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import ConfigError
from scaleevent.training.terms import Terms

Mode = Literal["upstream", "scaleevent"]

SCALEEVENT_WIDTH = 1024  # of the public ViT-L head, which the authors put on smaller encoders too
SCALEEVENT_BLOCKS = 4
SCALEEVENT_STD = 0.01  # of the start of the class head and `transfer`
PIXELS_PER_POINT = 4  # at least: small inputs are compared at fewer points than upstream's 12,544
NORM_EPS = 1e-6  # of timm's LayerNorm2d; LightlyTrain's copy of EoMT has torch's 1e-5
ANNEALING_POWER = 0.9


class Prediction(NamedTuple):
    """The queries' output, once for each prediction of a forward pass; the last one is final."""

    # (N, Q, h, w) float logits, four input pixels apart for patches of 8 or 16
    masks: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]  # (N, Q, K + 1) float logits; the last class means no object


class ScaleBlock(nn.Module):
    """Doubles a feature map of `width` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x_NDhw: Tensor) -> Tensor:
        """(N, D, h, w) to (N, D, 2h, 2w)."""
        x = self.conv2(F.gelu(self.conv1(x_NDhw)))
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class EoMT(Decoder):
    """Queries join the tokens before the last blocks; each then names a class and a mask.

    In training with masked attention, a query sees only the patches inside the mask it has just
    predicted, with a probability that falls from 1 to 0, block after block (`begin_step`); every
    such intermediate prediction is supervised too. Evaluation needs neither and computes only the
    final prediction.

    Args:
        encoder: A rotary vision transformer (timm's Eva), such as every DINOv3 model.
        classes: K, without "no object".
        queries: Q.
        blocks: How many blocks the queries pass; None takes upstream's choice by depth, or the
            authors' 4.
        mode: "upstream" as published by the makers of EoMT, or "scaleevent" as its authors build
            it: a head 1024 wide behind a linear layer `transfer` where the encoder is narrower,
            no masked attention, and a loss on logits resized to the input. Their targets are
            `empty_masks`, their draws a setting of the run.
        width: Channels of the head; None is the encoder's, or at least 1024 in the authors' mode.
        masked_attention: None is True upstream and False in the authors' mode.
        empty_masks: Whether classes that an image lacks are targets too, as the authors train it.

    Raises:
        ConfigError: Another kind of encoder, or values that do not fit it.

    Attributes:
        mask_probs: Probability by block that a query's attention is masked in training.
        generator: Source of all random numbers, `torch.rand` unless replaced.
    """

    task = "segmentation"
    weights: ClassVar[Mapping[str, float]] = WEIGHTS

    class Options(Decoder.Options):
        """See `Decoder.Options`."""

        mode: Annotated[
            Mode, Field(description="upstream (masked attention, deep supervision) or scaleevent")
        ] = "scaleevent"
        empty_masks: Annotated[
            bool, Field(description="classes that an image lacks are targets too, as empty masks")
        ] = False

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        queries: int = 100,
        blocks: int | None = None,
        mode: Mode = "upstream",
        width: int | None = None,
        masked_attention: bool | None = None,
        empty_masks: bool = False,
    ) -> None:
        if mode not in ("upstream", "scaleevent"):
            raise ConfigError("unknown mode of EoMT", found=mode, expected="upstream or scaleevent")
        upstream = mode == "upstream"
        if blocks is None:
            blocks = default_blocks(encoder.depth) if upstream else SCALEEVENT_BLOCKS
        width = width or (encoder.width if upstream else max(SCALEEVENT_WIDTH, encoder.width))
        masked = upstream if masked_attention is None else masked_attention
        _check(encoder, classes, queries, blocks)
        settings = {"classes": classes, "queries": queries, "blocks": blocks, "mode": mode}
        settings |= {"width": width, "masked_attention": masked, "empty_masks": empty_masks}
        super().__init__(encoder, settings)
        self.queries, self.blocks, self.masked_attention = queries, blocks, masked
        self.empty_masks = empty_masks
        self.upsampled_loss = not upstream
        self.mask_probs = [1.0] * blocks
        self.generator: Generator = torch.rand

        self.q = nn.Embedding(queries, encoder.width)
        self.class_head = nn.Linear(width, classes + 1)
        wide = [nn.Linear(width, width) for _ in range(3)]
        self.mask_head = nn.Sequential(wide[0], nn.GELU(), wide[1], nn.GELU(), wide[2])
        doublings = max(1, int(math.log2(encoder.patch)) - 2)
        self.upscale = nn.Sequential(*(ScaleBlock(width) for _ in range(doublings)))
        narrow = width != encoder.width
        self.transfer = nn.Linear(encoder.width, width) if narrow else nn.Identity()
        if not upstream:
            for layer in (self.class_head, self.transfer):
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=SCALEEVENT_STD)

    def begin_step(self, step: int, steps: int) -> None:
        """Anneal masked attention in equal phases, see `mask_probability`."""
        phases = annealing_phases(steps, self.blocks)
        self.mask_probs = [mask_probability(step, *phase) for phase in phases]

    def forward(self, voxel: Tensor, after: Tensor | None = None) -> Prediction:
        """Masks and classes of all queries; `after` is unused."""
        grid = self.encoder.grid(*voxel.shape[-2:])
        tokens, rope = self.encoder.embed(voxel)
        assert rope is not None  # see _check
        blocks = cast(nn.ModuleList, self.encoder.vit.blocks)
        first = len(blocks) - self.blocks
        for block in blocks[:first]:
            tokens = block(tokens, rope=rope)

        tokens = torch.cat([self.q.weight.expand(tokens.shape[0], -1, -1), tokens], 1)
        rope = self._unrotated_queries(rope)
        predictions = []
        for block, probability in zip(blocks[first:], self.mask_probs, strict=True):
            allowed = None
            if self.masked_attention and self.training:
                predictions.append(self._predict(tokens, grid))
                masks, _ = predictions[-1]
                allowed = self._attention_mask(masks, tokens.shape[1], grid, probability)
            tokens = block(tokens, rope=rope, attn_mask=allowed)
        predictions.append(self._predict(tokens, grid))
        return Prediction(*zip(*predictions, strict=True))

    def loss(self, raw: Prediction, target: Tensor) -> Terms:
        """Terms "mask", "dice" and "class", each summed over the predictions.

        Raises:
            DataError: Labels outside the classes.
        """
        points = min(POINTS, target[0].numel() // PIXELS_PER_POINT)
        return mask_classification_loss(
            raw.masks, raw.classes, target,
            upsampled=self.upsampled_loss, empty_masks=self.empty_masks, points=points,
            generator=self.generator,
        )  # fmt: skip

    def predict(self, raw: Prediction, size: tuple[int, int]) -> Tensor:
        """The best class of each pixel, (N, h, w) int64 on a grid of `size`."""
        masks, classes = raw.masks[-1], raw.classes[-1]
        images = zip(masks.split(1), classes.split(1), strict=True)  # bounds the memory
        return torch.cat([pixel_scores(*image, size).argmax(1) for image in images])

    def scores(self, raw: Prediction, size: tuple[int, int]) -> Tensor:
        """`pixel_scores` of the final prediction; their argmax is `predict`."""
        return pixel_scores(raw.masks[-1], raw.classes[-1], size)

    def load_published(self, tensors: Mapping[str, Tensor], where: object = None) -> Loaded:
        """Take the head of a published EoMT; `published_encoder` gives the encoder beside it.

        Upstream's files (whole or differences to DINOv3: their heads are absolute), LightlyTrain's,
        Hugging Face's and the authors' downstream ones are known. The class head of other classes
        starts fresh; surplus queries are left out, missing ones repeat the file's; a head wider
        than the encoder takes the first columns of the queries, as the authors do.

        Raises:
            CheckpointError: No such layout, or keys missing, unexpected or of other shapes.
        """
        published = sort_published(tensors, where)
        state, notes = fit_head(published.head, self.own_state(), where)
        self.load_state_dict(state, strict=False)
        return Loaded(
            published.layout,
            loaded=tuple(sorted(state)),
            fresh=tuple(sorted(self.own_state().keys() - state.keys())),
            unused=tuple(sorted(name for name, own in published.names.items() if own not in state)),
            notes=notes,
        )

    def _unrotated_queries(self, rope: Tensor) -> Tensor:
        """The rotary table with Q rows of no rotation before it.

        timm leaves as many leading tokens unrotated as the encoder alone has class and registers;
        Q more come with the queries.
        """
        sine, cosine = rope.new_zeros(self.queries, rope.shape[-1]).chunk(2, -1)
        return torch.cat([torch.cat([sine, cosine + 1], -1), rope])

    def _predict(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mask and class logits from the tokens as they are after some block."""
        tokens = self.transfer(self.encoder.vit.get_submodule("norm")(tokens))
        queries = tokens[:, : self.queries]
        patches = tokens[:, -grid[0] * grid[1] :].mT.unflatten(2, grid)
        masks = torch.einsum("nqd,ndhw->nqhw", self.mask_head(queries), self.upscale(patches))
        return masks, self.class_head(queries)

    @torch.no_grad()
    def _attention_mask(
        self, masks_NQhw: Tensor, length: int, grid: tuple[int, int], probability: float
    ) -> Tensor | None:
        """Who may attend to whom, (N, 1, S, S) bool of S = `length` tokens; None: all to all.

        Queries see the patches inside their mask; each is exempt with 1 - probability.
        """
        if probability <= 0:
            return None
        inside = F.interpolate(masks_NQhw, grid, mode="bilinear").flatten(2) > 0
        if probability < 1:
            draws = self.generator(*inside.shape[:2], device=inside.device)
            inside |= (draws > probability)[..., None]
        allowed = inside.new_ones(len(inside), 1, length, length)
        allowed[:, 0, : self.queries, -inside.shape[2] :] = inside
        return allowed


def pixel_scores(masks_NQhw: Tensor, classes_NQC: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (N, K, H, W) of the K real classes on a grid of `size`.

    The sum over queries of their mask and class probabilities, masks resized as logits
    (tue-mps/eomt:training/lightning_module.py, to_per_pixel_logits_semantic).
    """
    masks = F.interpolate(masks_NQhw.float(), size, mode="bilinear").sigmoid_()
    classes = classes_NQC.float().softmax(-1)[..., :-1]
    return torch.einsum("nqk,nqhw->nkhw", classes, masks)


def default_blocks(depth: int) -> int:
    """Blocks with queries: 3 for ViT-S and B, 4 for L, 5 for g (tue-mps/eomt:configs), else 2."""
    return next(blocks for least, blocks in ((40, 5), (24, 4), (12, 3), (0, 2)) if depth >= least)


def annealing_phases(steps: int, blocks: int) -> list[tuple[float, float]]:
    """When the masks of each block fade: one of `blocks` + 2 equal phases each, from the second.

    These are upstream's phases for DINOv2 (tue-mps/eomt:configs/dinov2/ade20k/semantic: 6520 steps
    each of 39,120), scaled to the run; its DINOv3 configurations space theirs unevenly, each for
    one data set and length.
    """
    phase = steps / (blocks + 2)
    return [(phase * (block + 1), phase * (block + 2)) for block in range(blocks)]


def mask_probability(step: int, start: float, end: float) -> float:
    """1 before `start`, 0 from `end`, (1 - progress)^0.9 between.

    Source: tue-mps/eomt:training/lightning_module.py, mask_annealing.
    """
    if step < start:
        return 1.0
    if step >= end:
        return 0.0
    return float((1 - (step - start) / (end - start)) ** ANNEALING_POWER)


def _check(encoder: Encoder, classes: int, queries: int, blocks: int) -> None:
    """Refuse an encoder or values that do not fit together."""
    if not isinstance(encoder.vit, Eva) or encoder.vit.rope is None or encoder.vit.rope_mixed:
        raise ConfigError(
            "EoMT puts queries between the blocks of a vision transformer with rotary positions",
            found=encoder.spec["name"],
            expected="a DINOv3 model",
        )
    if classes < 1 or queries < 1:
        raise ConfigError("EoMT needs classes and queries", found=f"{classes} and {queries}")
    if not 1 <= blocks <= encoder.depth:
        raise ConfigError(
            "the queries cannot pass so many blocks", found=blocks, expected=f"1 to {encoder.depth}"
        )
