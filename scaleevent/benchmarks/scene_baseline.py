"""What the kind of scene and the place tell: a control, fitted on an encoder's own tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from scaleevent.benchmarks.baselines import SCENE_AND_PLACE, Baseline
from scaleevent.benchmarks.samples import LabelledSamples
from scaleevent.encoders.encoder import Encoder, encode_all
from scaleevent.objectives.probing import Features, Linear, class_shares, fit_log_depth, log_depths
from scaleevent.objectives.softmax_probe import fit_softmax
from scaleevent.pairs.draws import evenly_spaced
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import Task

MOST = 400  # training samples that it is fitted on
LEAST_M = 0.1  # metres, of its depths


@dataclass(frozen=True)
class SceneBaseline(Baseline):
    """A linear map of a sample's mean token, with offsets of the places.

    It knows how a scene is as a whole, and where a token lies, but not what is where: a probe's
    dense features are worth what they score beyond it.
    """

    samples: LabelledSamples
    encoder: Encoder
    linear: Linear

    @property
    def known(self) -> bool:
        """Always."""
        return True

    def predict(self, task: Task, shape: tuple[int, ...], index: int) -> np.ndarray:
        """Of a sample, on the pixels of a ground truth of this shape."""
        settings = self.samples.settings
        grid = self.encoder.grid(settings.height, settings.width)
        scores = self.linear.scores(_features(self.samples, self.encoder, np.array([index])))
        maps = F.interpolate(
            scores[0].T.reshape(1, -1, *grid).float(), shape[-2:], mode="bilinear"
        )[0]  # fmt: skip
        if isinstance(task, Depth):
            return maps[0].exp().clamp(LEAST_M, task.max_depth).numpy()
        best: np.ndarray = maps.max(0).indices.numpy()
        return best


def scene_baselines(
    samples: LabelledSamples, train: np.ndarray, encoder: Encoder
) -> list[SceneBaseline]:
    """Fitted on training labels, or on some of them, as the probe is: all classes weigh the same.

    Args:
        samples: Of the benchmark.
        train: Indices of the training samples.
        encoder: Frozen, in evaluation mode; its tokens of the events.

    Returns:
        One; none without a label that counts, and for flow, which no scene has as a whole.
    """
    task, settings = samples.task, samples.settings
    chosen = evenly_spaced(np.asarray(train), MOST)
    labels = [samples.label(int(index)) for index in chosen]
    there = [k for k, label in enumerate(labels) if label is not None]
    own = [torch.from_numpy(label.copy()) for label in labels if label is not None]
    if not own or not isinstance(task, Segmentation | Depth):
        return []
    grid = encoder.grid(settings.height, settings.width)
    features = _features(samples, encoder, chosen[there])
    if isinstance(task, Depth):
        targets, shares = log_depths(own, grid, task.max_depth)
        if not bool(shares.any()):
            return []
        linear, _ = fit_log_depth(features, targets, shares)
    else:
        linear, _ = fit_softmax(features, class_shares(own, grid, len(task.classes)), balance=0)
    return [SceneBaseline(SCENE_AND_PLACE, None, samples, encoder, linear)]


def _features(samples: LabelledSamples, encoder: Encoder, indices: np.ndarray) -> Features:
    settings = samples.settings
    height, width = encoder.grid(settings.height, settings.width)
    means = [
        encode_all(encoder, [samples.inputs(int(index))["voxel"][None]]).mean(1, keepdim=True)
        for index in indices
    ]
    return Features(len(indices), height * width, torch.cat(means), by_place=True)
