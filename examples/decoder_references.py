"""The published networks that the decoders follow, run from their own checkouts.

Nothing of them is copied: each is imported, built in the sizes of the decoder it is compared with,
and one of the two takes the other's weights.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleevent.config.benchmarks import IGNORE
from scaleevent.decoders.decoder import Decoder
from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.eomt import PIXELS_PER_POINT, EoMT
from scaleevent.decoders.eomt_loss import IMPORTANCE, NO_OBJECT, OVERSAMPLE, POINTS, WEIGHTS
from scaleevent.decoders.eomt_weights import published_encoder
from scaleevent.decoders.flow_parts import GAMMA
from scaleevent.decoders.sea_raft import SeaRaft
from scaleevent.decoders.waft import Waft
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.encoders.weights import convert_weights
from scaleevent.grids.inputs import IMAGENET_MEAN, IMAGENET_STD

CLASSES = 11


class NoReferenceError(Exception):
    """Why there is nothing to compare with."""


@dataclass(frozen=True)
class Data:
    """Inputs and targets of one size.

    Attributes:
        before: (N, 3, H, W) network input.
        after: The same of the window after.
        targets: Ground truth by task, see `Decoder.loss`.
    """

    before: Tensor
    after: Tensor
    targets: dict[str, Tensor]

    @classmethod
    def random(cls, batch: int, height: int, width: int) -> Data:
        """Noise, and labels in blobs; a tenth of the pixels has none, except of flow."""
        blobs = torch.randint(CLASSES, (batch, 1, 12, 16)).float()
        classes = F.interpolate(blobs, (height, width))[:, 0].long()
        depth = 1 + 60 * torch.rand(batch, height, width)
        unknown = torch.rand(batch, height, width) < 0.1
        targets = {
            "segmentation": classes.masked_fill(unknown, IGNORE),
            "depth": depth.masked_fill(unknown, torch.nan),
            "flow": 3 * torch.randn(batch, 2, height, width),
        }
        return cls(*torch.randn(2, batch, 3, height, width), targets)

    def images(self) -> tuple[Tensor, Tensor]:
        """Both inputs as what they are normalised from, mostly from 0 to 1."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return self.before * std + mean, self.after * std + mean

    def masks(self) -> list[dict[str, Tensor]]:
        """The segmentation target as a mask for each class in an image, as Mask2Former wants it."""
        present = [labels[labels != IGNORE].unique() for labels in self.targets["segmentation"]]
        pairs = zip(self.targets["segmentation"], present, strict=True)
        return [
            {"masks": (labels == ids[:, None, None]).float(), "labels": ids}
            for labels, ids in pairs
        ]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return tuple(self.before.shape[-2:])

    @property
    def points(self) -> int:
        """How many points `EoMT.loss` compares masks at."""
        return min(POINTS, self.size[0] * self.size[1] // PIXELS_PER_POINT)


class Contender(NamedTuple):
    """A network and what it does with the data.

    Attributes:
        network: Everything that is trained.
        loss: Forward pass to the loss, in training mode.
        output: Forward pass to scores, metres or flow, in evaluation mode.
    """

    network: nn.Module
    loss: Callable[[], Tensor]
    output: Callable[[], Tensor]

    def step(self) -> float:
        """One step without its update; the loss."""
        self.network.train()
        loss = self.loss()
        loss.backward()
        self.network.zero_grad()
        return loss.item()

    @torch.no_grad()
    def infer(self) -> Tensor:
        """One inference."""
        self.network.eval()
        return self.output()


def reference_eomt(decoder: EoMT, data: Data, repo: Path) -> Contender:
    """tue-mps/eomt on Hugging Face's DINOv3; at inference without masked attention, as ours."""
    transformers = _import("transformers")
    vit = decoder.encoder.vit
    config = transformers.DINOv3ViTConfig(
        hidden_size=vit.embed_dim,
        intermediate_size=vit.blocks[0].mlp.fc1.out_features,
        num_hidden_layers=len(vit.blocks),
        num_attention_heads=vit.blocks[0].attn.num_heads,
        num_register_tokens=vit.num_prefix_tokens - 1,
        patch_size=decoder.encoder.patch,
        layerscale_value=0.1,
        attn_implementation="sdpa",
    )
    wrapper = _import("models.vit", repo)
    wrapper.AutoModel = MagicMock()
    wrapper.AutoModel.from_pretrained.return_value = transformers.DINOv3ViTModel(config)
    encoder = wrapper.ViT(data.size, backbone_name="facebook/dinov3")
    queries, blocks = decoder.queries, decoder.blocks
    network = _import("models.eomt").EoMT(encoder, CLASSES, queries, blocks)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    decoder.encoder.load(convert_weights(published_encoder(weights, delta=False)).state)
    decoder.load_published(weights)
    criterion = _import("training.mask_classification_loss").MaskClassificationLoss(
        data.points, OVERSAMPLE, IMPORTANCE, *WEIGHTS.values(), CLASSES, NO_OBJECT
    )
    image, _ = data.images()

    def loss() -> Tensor:
        network.masked_attn_enabled = True
        masks = data.masks()
        terms = {
            f"{name}_{number}": term
            for number, (mask, label) in enumerate(zip(*network(image), strict=True))
            for name, term in criterion(mask, masks, label).items()
        }
        return criterion.loss_total(terms, lambda *_, **__: None)

    def output() -> Tensor:
        network.masked_attn_enabled = False
        masks, classes = (found[-1] for found in network(image))
        masks = F.interpolate(masks, data.size, mode="bilinear").sigmoid()
        return torch.einsum("bqhw, bqc -> bchw", masks, classes.softmax(-1)[..., :-1])

    return Contender(network, loss, output)


def reference_eomt_scaleevent(decoder: EoMT, data: Data, repo: Path) -> Contender:
    """The EoMT of ScaleEvent's authors on our encoder, which is trained too."""
    _import("transformers")
    _dinov3(decoder.encoder)
    module = _import("scale_event.models.build_segmentor_eomt", repo)
    kind = module.EoMT_ViTB if decoder.encoder.width < 1024 else module.EoMT_ViTL
    kind._load_pretrained = lambda self: None
    height, width = decoder.encoder.grid(*data.size)
    network = kind(height, width, num_classes=CLASSES).requires_grad_(True)
    for name in ("class_head", "transfer"):
        if hasattr(network, name):  # from the authors' small start nearly all scores are alike
            getattr(network, name).reset_parameters()
    decoder.load_published(network.state_dict())
    criterion = _import("scale_event.downstream.criterion").SegmentLoss_MOET(
        CLASSES, num_points=data.points
    )

    def loss() -> Tensor:
        masks = data.masks()
        masks, labels = ([one[key] for one in masks] for key in ("masks", "labels"))
        return criterion(*network(data.before), masks, labels)[0]

    return Contender(
        network, loss, lambda: network.to_per_pixel_logits_semantic(*network(data.before))
    )


def reference_dpt(decoder: DPT, data: Data, repo: Path) -> Contender:
    """The head of Depth Anything V2 on our encoder."""
    _stand_in("cv2")
    root = repo / "metric_depth"
    head = _import("depth_anything_v2.dpt", root).DPTHead(
        decoder.encoder.width,
        decoder.settings["features"],
        out_channels=decoder.settings["out_channels"],
    )
    head.load_state_dict(decoder.own_state())
    meta = MetaCalls(decoder.encoder)
    network = nn.ModuleList([meta, head])
    criterion = _import("util.loss").SiLogLoss()
    target = data.targets["depth"]

    class Patches(int):
        """A number of patches that the head multiplies by DINOv2's 14 to get pixels."""

        def __mul__(self, _: int) -> int:
            return int(self) * decoder.encoder.patch

    grid = [Patches(side) for side in decoder.encoder.grid(*data.size)]

    def output() -> Tensor:
        tokens = meta.get_intermediate_layers(data.before, decoder.layers)
        return head(tokens, *grid).squeeze(1) * decoder.max_depth

    return Contender(network, lambda: criterion(output(), target, target > 0), output)


def reference_sea_raft(decoder: SeaRaft, data: Data, repo: Path) -> Contender:
    """SEA-RAFT as published; its two images are what our input is normalised from."""
    size = decoder.settings["size"]
    if size not in ("S", "M"):
        raise NoReferenceError(f"SEA-RAFT has no size {size}")
    settings = json.loads((repo / f"config/eval/sintel-{size}.json").read_text())
    extractor = _import("extractor", repo / "core")
    extractor.ResNetFPN._init_weights = lambda *_: None  # downloads them
    network = _import("raft").RAFT(argparse.Namespace(**settings))
    decoder.load_published(network.state_dict())
    sequence_loss = _import("loss").sequence_loss
    images = [255 * image for image in data.images()]
    target = data.targets["flow"]

    def loss() -> Tensor:
        found = network(*images, flow_gt=target)
        return sequence_loss(found, target, torch.ones_like(target[:, 0]), GAMMA)

    return Contender(network, loss, lambda: network(*images, test_mode=True)["final"])


def reference_waft(decoder: Waft, data: Data, repo: Path) -> Contender:
    """WAFT on DINOv3 by ScaleEvent's authors, on our encoder.

    The loss over its likelihoods is not in the checkout; all targets are valid, so it is a mean.
    """
    if decoder.encoder.spec != ARCHS["vits"]:
        raise NoReferenceError("WAFT on DINOv3 exists for ViT-S only")
    _dinov3(decoder.encoder)
    timm = _import("timm")
    timm.create_model = partial(_untrained, timm.create_model)
    network = _import("scale_event.models.build_flower_waft", repo).WAFTv2_ViTS()
    decoder.load_published(network.state_dict())
    frames, iters = (data.before, data.after), decoder.iters
    target = data.targets["flow"]

    def loss() -> Tensor:
        found = network(*frames, target, torch.ones_like(target[:, :1]), iters)["nf"]
        return sum(GAMMA**age * nll.mean() for age, nll in enumerate(reversed(found)))

    return Contender(network, loss, lambda: network(*frames, None, None, iters)["flow"][-1])


REFERENCES: dict[str, tuple[str, Callable[[Decoder, Data, Path], Contender]]] = {
    "eomt": ("eomt_repo", reference_eomt),
    "eomt-scaleevent": ("scaleevent_repo", reference_eomt_scaleevent),
    "dpt": ("dpt_repo", reference_dpt),
    "sea_raft-alone": ("sea_raft_repo", reference_sea_raft),
    "waft": ("scaleevent_repo", reference_waft),
}


class MetaCalls(nn.Module):
    """An encoder behind those calls of facebookresearch/dinov3 that ScaleEvent's authors make."""

    rope: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        vit = encoder.vit
        self.embed_dim, self.patch_size = encoder.width, encoder.patch
        self.patch_embed, self.norm = vit.patch_embed, vit.norm
        self.n_storage_tokens = vit.num_prefix_tokens - 1
        self.blocks = [partial(self._run, block) for block in vit.blocks]

    def get_intermediate_layers(
        self, x: Tensor, n: Sequence[int], return_class_token: bool = True
    ) -> list[tuple[Tensor]]:
        """Tokens (N, L, D) after chosen blocks, without the class tokens, which no head uses.

        In the memory order of the origin: the heads' convolutions inherit it.
        """
        maps = self.encoder.maps(x, n)
        return [(each.flatten(2).transpose(1, 2).contiguous(),) for each in maps]

    def prepare_tokens_with_masks(self, x: Tensor, masks: None) -> tuple[Tensor, tuple[int, int]]:
        """What enters the first block, and the grid."""
        tokens, self.rope = self.encoder.embed(x)
        return tokens, self.encoder.grid(*x.shape[-2:])

    def rope_embed(self, H: int, W: int) -> Tensor:  # noqa: N803
        """The rotary table, sines and then cosines."""
        return self.rope

    def _run(self, block: nn.Module, tokens: list[Tensor], ropes: list[Tensor]) -> list[Tensor]:
        """A block, with rows of no rotation for tokens beyond those that timm knows of."""
        (x,), (rope,) = tokens, ropes
        more = x.shape[1] - len(rope) - self.n_storage_tokens - 1
        sine, cosine = rope.new_zeros(more, rope.shape[1]).chunk(2, 1)
        return [block(x, rope=torch.cat([torch.cat([sine, cosine + 1], 1), rope]))]


def _dinov3(encoder: Encoder) -> None:
    """Let imports of Meta's package find our encoder, and imports that no model needs anything."""
    _stand_in("cv2", "torchmetrics", "torchmetrics.classification")
    hub = MagicMock()
    for arch in ("vits", "vitb", "vitl"):
        setattr(hub, f"dinov3_{arch}16", lambda: MetaCalls(encoder))
    sys.modules |= {"dinov3": hub, "dinov3.hub": hub, "dinov3.hub.backbones": hub}


def _import(name: str, root: Path | None = None) -> object:
    """A module, with `root` on the path from now on."""
    if root is not None:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise NoReferenceError(f"needs {missing.name}") from None


def _stand_in(*names: str) -> None:
    """Modules that the references import and their networks do not use, where not installed."""
    if importlib.util.find_spec(names[0].partition(".")[0]) is None:
        sys.modules |= {name: MagicMock() for name in names}


def _untrained(create: Callable[..., nn.Module], *args: object, **options: object) -> nn.Module:
    """`timm.create_model` without its download."""
    return create(*args, **options | {"pretrained": False})
