"""Targets on the input's grid, constant baselines, and what the pictures show."""

import numpy as np
import pytest

from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.errors import DataError
from scaleevent.grids.geometry import Fit
from scaleevent.tasks.depth import Depth
from scaleevent.tasks.flow import Flow
from scaleevent.tasks.segmentation import Segmentation
from scaleevent.tasks.task import GroundTruth, nearest

PALETTE = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
CLASSES = Segmentation(("a", "b", "c"), PALETTE)


def truth(values):
    return GroundTruth(values, np.ones(values.shape[-2:], bool), "sample")


@pytest.mark.parametrize("target", [(6, 8), (12, 16), (9, 12), (4, 4)])
def test_nearest_takes_the_label_under_each_pixel_centre(target):
    values = np.arange(48).reshape(6, 8)
    fit = Fit(6, 8, *target)
    top, left, rows, columns = fit.crop
    found = nearest(values, fit)
    for y in range(target[0]):
        for x in range(target[1]):
            source = (
                top + int((y + 0.5) * rows / target[0]),
                left + int((x + 0.5) * columns / target[1]),
            )
            assert found[y, x] == values[source]


def test_a_label_outside_the_classes_is_named():
    label = np.array([[0, 255], [3, 7]], np.uint8)
    with pytest.raises(DataError, match=r"\[3, 7\]") as error:
        CLASSES.target(label, Fit(2, 2, 2, 2), "pair 4")
    assert "pair 4" in str(error.value)
    kept = CLASSES.target(np.array([[0, 255], [2, 1]], np.uint8), Fit(2, 2, 2, 2), "")
    assert kept.dtype == np.int64 and kept.tolist() == [[0, 255], [2, 1]]


def test_depth_beyond_the_limit_is_unknown():
    label = np.array([[np.nan, 0.0, 5.0, 81.0]], np.float32)
    target = Depth(80.0).target(label, Fit(1, 4, 1, 4), "")
    assert np.isnan(target[0, [0, 1, 3]]).all() and target[0, 2] == 5


def test_flow_is_scaled_to_input_pixels():
    label = np.full((2, 4, 6), 3.0, np.float32)
    label[:, 0, 0] = 1.0, np.nan
    target = Flow().target(label, Fit(4, 6, 8, 24, stretch=10), "")
    assert target.shape == (2, 8, 24)
    assert np.isnan(target[:, :2, :4]).all()
    assert (target[0, 2:] == 12).all() and (target[1, 2:] == 6).all()


def test_depth_is_scored_in_the_middle():
    values = np.full((6, 8), 100.0)  # out of range, so the border would count for nothing
    values[1:5, 2:6] = 10.0
    values[1, 2] = 20.0
    prediction = np.full((6, 8), 10.0)
    whole = Depth(80.0).update(prediction, truth(values))
    middle = Depth(80.0, crop=(4, 4)).update(prediction, truth(values))
    assert middle["dav2_pixels"] == whole["dav2_pixels"] == 16
    inner = Depth(80.0, crop=(2, 2)).update(prediction, truth(values))
    assert inner["dav2_pixels"] == 4 and inner["dav2_rmse"] == 0


def test_constant_baselines():
    labels = [np.array([[0, 1, 1]], np.uint8), np.array([[255, 255, 2]], np.uint8)]
    name, best = CLASSES.constant_baseline(labels)
    assert best == 1 and name == "b everywhere"
    _, median = Depth(80.0).constant_baseline([np.array([1.0, np.nan, 90.0, 3.0, 8.0])])
    assert median == 3
    name, zero = Flow().constant_baseline([])
    assert name == "zero flow" and zero == 0


def test_flow_errors_of_single_recordings():
    task, flow = Flow(("a", "c")), np.ones((2, 3, 4), np.float32)
    states = [task.update(flow * k, truth(flow)) for k in (1, 2, 4)]
    result = task.compute(states, ["b", "a", "a"])
    assert result["epe a"] == pytest.approx(np.sqrt(2) * (1 + 3) / 2)
    assert "epe b" not in result and "epe c" not in result
    assert task.rows(result)["sparse"]["epe a"] == result["epe a"]


def test_labels_without_a_pixel_that_counts_give_no_baseline():
    with pytest.raises(DataError, match="no training label"):
        Depth(80.0).constant_baseline([np.full((2, 2), np.nan)])
    with pytest.raises(DataError, match="no training label"):
        CLASSES.constant_baseline([np.full((2, 2), 255, np.uint8)])


def test_pictures_show_errors_and_leave_the_unknown_black():
    label = np.array([[0, 1], [2, 255]])
    (shown,), (right,), (error,) = CLASSES.draw([np.array([[0, 2], [2, 1]])], [label]).values()
    assert (shown[0, 1] == PALETTE[2]).all() and (right[0, 1] == PALETTE[1]).all()
    assert not right[1, 1].any() and not error[1, 1].any()
    assert error[0, 1, 0] > 200 > error[0, 1, 1] and (error[0, 0] == error[1, 0]).all()
    depth = np.array([[3.0, np.nan], [30.0, 79.0]])
    for (picture,) in list(Depth(80.0).draw([np.full((2, 2), 3.0)], [depth]).values())[1:]:
        assert picture.shape == (2, 2, 3) and not picture[0, 1].any()
    right = np.zeros((2, 2, 2))
    right[:, 0] = [[3.0, -3.0], [0.0, 0.0]]
    right[:, 1, 1] = np.nan
    _, (picture,), _ = Flow().draw([np.zeros((2, 2, 2))], [right]).values()
    east, west, still = picture[0, 0], picture[0, 1], picture[1, 0]
    assert east[0] > east[2] and west[2] > west[0]  # hue 0 is red, half a turn is cyan
    assert (still == 255).all() and not picture[1, 1].any()


def test_every_benchmark_has_as_many_colours_as_classes():
    for benchmark in BENCHMARKS.values():
        if isinstance(benchmark.task, Segmentation):
            assert len(benchmark.task.palette) == len(benchmark.task.classes)
