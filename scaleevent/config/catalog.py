"""Every name a user can give, once: choices, help and tables are made from here.

Nothing here imports numpy, numba or torch, so that help stays fast: a part is named by where its
code is and loaded when it is used. To add a part, write its module and one line here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """Something that is chosen by name."""

    where: str  # ``module`` or ``module:attribute``
    summary: str  # one line for help

    def load(self) -> Any:
        """Import the module and return it, or its attribute."""
        module, _, attribute = self.where.partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, attribute) if attribute else loaded


# Data sets of `prepare`: modules with `Settings` (a subclass of `PrepareConfig`) and
# `sources(settings) -> list[PairSource]`. Those of benchmarks have `SPLITS`: recording to part.
# Those whose settings are a `SourceConfig` have `left_out(settings)`, see `datasets.held_out`.
DATASETS: dict[str, Part] = {
    "street": Part("scaleevent.datasets.street", "the embedded world, rendered"),
    "custom": Part("scaleevent.datasets.custom", "your own recordings, frames and labels"),
    "video": Part("scaleevent.datasets.simulated", "videos and picture sequences, simulated"),
    "dsec": Part("scaleevent.datasets.dsec", "DSEC, frames warped into the event view"),
    "dsec-semantic": Part("scaleevent.datasets.dsec_semantic", "DSEC with semantic labels"),
    "dsec-depth": Part("scaleevent.datasets.dsec_depth", "DSEC with disparity as depth"),
    "dsec-flow": Part("scaleevent.datasets.dsec_flow", "DSEC with optical flow"),
    "ddd17-seg": Part("scaleevent.datasets.ddd17_seg", "DDD17 with Ev-SegNet's labels"),
    "mvsec-depth": Part("scaleevent.datasets.mvsec_depth", "MVSEC with LiDAR depth"),
    "mvsec-flow": Part("scaleevent.datasets.mvsec_flow", "MVSEC with optical flow"),
    "mvsec": Part("scaleevent.datasets.mvsec_frames", "MVSEC's grey images, both cameras"),
    "ddd17": Part(
        "scaleevent.datasets.ddd17", "DDD17's grey images, as packed for ESS or recorded"
    ),
    "m3ed": Part("scaleevent.datasets.m3ed", "M3ED, images warped into both event views"),
    "visevent": Part("scaleevent.datasets.visevent", "VisEvent, frames of its recordings"),
    "coesot": Part("scaleevent.datasets.coesot", "COESOT, frames of its recordings"),
    "scaleevent-release": Part(
        "scaleevent.datasets.released", "the authors' pairs, pictures in place of events"
    ),
    "decd": Part("scaleevent.datasets.released", "DECD, as the authors of ScaleEvent release it"),
    "rgbe-seg": Part("scaleevent.datasets.rgbe_seg", "RGBE-SEG, pictures with their events"),
    "eventscape": Part("scaleevent.datasets.eventscape", "EventScape, driving in CARLA"),
    "cityscapes": Part("scaleevent.datasets.cityscapes", "Cityscapes' snippets, simulated"),
    "kitti": Part("scaleevent.datasets.kitti", "KITTI's colour cameras, simulated"),
    "waymo": Part("scaleevent.datasets.waymo", "Waymo Open Dataset's cameras, simulated"),
    "gopro": Part("scaleevent.datasets.gopro", "GoPro's 240 frames a second, simulated"),
    "sdsd": Part("scaleevent.datasets.sdsd", "SDSD, by day and in the dark, simulated"),
    "davis-2017": Part("scaleevent.datasets.davis2017", "DAVIS 2017's videos, simulated"),
}

# Sources of the paper (its Table 7) of which no public text says how the files are laid out.
UNDOCUMENTED: dict[str, str] = {
    "see-600k": "SEE-600K: DAVIS346, 346x260, changing light",
    "fevd": "FEVD: 1024x768",
    "highrev": "HighREV: 1632x1224, blurred and sharp",
}

EMBEDDED = "street"  # the data set that needs no files: used where no data are named

# Objectives of `pretrain`: modules with `Settings` (a subclass of `PretrainConfig`) and
# `build(settings, run) -> Objective`.
OBJECTIVES: dict[str, Part] = {
    "scaleevent": Part(
        "scaleevent.objectives.scaleevent", "distil a frozen image teacher: L1, IS and CS"
    )
}


@dataclass(frozen=True)
class DecoderPart(Part):
    """A decoder: a subclass of `Decoder`."""

    tasks: tuple[str, ...]  # that it serves


DEFAULT_DECODERS = {"segmentation": "eomt", "depth": "dpt", "flow": "sea_raft"}  # by task
DECODERS: dict[str, DecoderPart] = {
    "linear": DecoderPart(
        "scaleevent.decoders.linear:Linear", "one linear layer on the tokens",
        tuple(DEFAULT_DECODERS),
    ),
    "eomt": DecoderPart(
        "scaleevent.decoders.eomt:EoMT", "queries in the encoder's last blocks", ("segmentation",)
    ),
    "dpt": DecoderPart("scaleevent.decoders.dpt:DPT", "Depth Anything V2's", ("depth",)),
    "sea_raft": DecoderPart(
        "scaleevent.decoders.sea_raft:SeaRaft", "recurrent, with correlations", ("flow",)
    ),
    "waft": DecoderPart("scaleevent.decoders.waft:Waft", "recurrent, by warping", ("flow",)),
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """An encoder of a known size."""

    model: str  # name of the timm model
    width: int  # channels of a token
    depth: int  # blocks
    heads: int
    batch: int  # global batch of pretraining
    options: tuple[tuple[str, float], ...] = ()  # further keyword arguments of `timm.create_model`

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return int(dict(self.options).get("patch_size", 16))


# DINOv3 S, B, L: facebookresearch/dinov3:dinov3/hub/backbones.py. Batches: four GPUs with the
# per-GPU batch of the released code's comment ("20-S, 12/8-B, 5-L":
# zhiwen-xdu/ScaleEvent:scale_event/pretrain/pretrain_ddp.py); the paper gives none. "tiny" is ours:
# it fits a CPU, and its layer scale starts at 0.1 so that it trains from scratch.
ARCHITECTURES: dict[str, Architecture] = {
    "tiny": Architecture(
        "vit_small_patch16_dinov3", 96, 4, 3, 16,
        (("patch_size", 8), ("embed_dim", 96), ("depth", 4), ("num_heads", 3),
         ("init_values", 0.1)),
    ),
    "vits": Architecture("vit_small_patch16_dinov3", 384, 12, 6, 80),
    "vitb": Architecture("vit_base_patch16_dinov3", 768, 12, 12, 48),
    "vitl": Architecture("vit_large_patch16_dinov3", 1024, 24, 16, 20),
}  # fmt: skip
DEFAULT_ARCHITECTURE = "vits"

# How voxel values are scaled for a network: functions of a (B, H, W) grid.
_IN = "scaleevent.grids.inputs"
NORMALISERS: dict[str, Part] = {
    "minmax": Part(f"{_IN}:minmax", "minimum to 0 and maximum to 1, over the whole sample"),
    "symmetric": Part(f"{_IN}:symmetric", "by the largest |value|; pixels without events are grey"),
    "contrast": Part(f"{_IN}:contrast", "the non-zero values to an image's contrast around grey"),
    "none": Part(f"{_IN}:none", "as they are"),
    "minmax8": Part(f"{_IN}:minmax8", "minmax in 8 bits"),
    "symmetric8": Part(f"{_IN}:symmetric8", "symmetric in 8 bits"),
    "robust8": Part(f"{_IN}:robust8", "symmetric8, by a percentile of the |values|"),
    "std_pop": Part(f"{_IN}:std_pop", "by mean and population deviation of the non-zero values"),
    "std_unbiased": Part(f"{_IN}:std_unbiased", "the same by their unbiased deviation"),
}

DEFAULT_NORMALISER = "contrast"  # on three worlds better than the authors' minmax: CHANGELOG.md

# Grids of events that `voxelize` can store: channels, and whose definition it is.
REPRESENTATIONS: dict[str, str] = {
    "zhu": "B signed bins over the window; Zhu et al. 2019, exact: grids/voxels.py",
    "e2vid": "B signed bins, first to last event; uzh-rpg/rpg_e2vid:utils/inference_utils.py",
    "dsec": "e2vid, bilinear in space too; uzh-rpg/DSEC:scripts/dataset/representations.py",
    "ess": "e2vid, bounds checked; uzh-rpg/ess:datasets/data_util.py",
    "event_utils": "e2vid, a triangle around each bin; TimoStoff/event_utils",
    "tonic": "B bins, time 0..B: loses the last events; neuromorphs/tonic:to_voxel_grid",
    "openeb_volume": "B bins, linear between centres; prophesee-ai/openeb:event_to_tensor_torch.py",
    "count": "2: darker, brighter; the histogram of uzh-rpg/ess",
    "frame": "1: brighter minus darker",
    "time_surface": "2: exp(-age / window) of the latest event; neuromorphs/tonic:ToTimesurface",
    "tencode": "3: brighter, age, darker; bartn8/depthanyevent",
}
