"""Confusion and overlap against recorded numbers of the reference evaluators and slow loops."""

import json

import numpy as np
import pytest
from conftest import DATA
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scaleevent.errors import DataError
from scaleevent.metrics.segmentation import IGNORE, compute, update

CLASSES = {"dsec11": 11, "ddd17_6": 6}
EXPECTED = json.loads((DATA / "metrics_expected.json").read_text())


def recorded(case: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "segmentation.npz") as archive:
        names = [name for name in archive if name.startswith(case)]
        return {name.split("__")[1]: archive[name] for name in names}


def measure_all(predictions, labels, classes):
    return [update(p, t, classes) for p, t in zip(predictions, labels, strict=True)]


@pytest.mark.parametrize("case", CLASSES)
def test_equals_the_reference_evaluators(case):
    data = recorded(case)
    states = measure_all(data["pred"], data["label"], CLASSES[case])
    confusion = sum(state["confusion"] for state in states)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, data["confusion"])
    result, expected = compute(states), EXPECTED[f"semseg_{case}"]
    np.testing.assert_allclose(result["iou"], data["iou"], rtol=1e-12)
    np.testing.assert_allclose(np.array(result["iou"]) / 100, data["jaccard"], rtol=1e-6)
    assert result["miou"] == pytest.approx(expected["miou"], rel=1e-12)
    assert result["acc"] == pytest.approx(expected["acc"], rel=1e-12)
    assert result["pixels"] == np.count_nonzero(data["label"] != 255)


def test_absent_classes_are_zero_in_one_mean_and_left_out_of_the_other():
    label = np.array([[0, 0, 1, 1]])
    prediction = np.array([[0, 0, 1, 0]])
    result = compute([update(prediction, label, 4)])
    assert result["iou"] == pytest.approx([200 / 3, 50, 0, 0])
    assert result["miou"] == pytest.approx((200 / 3 + 50) / 4)
    assert result["miou_present"] == pytest.approx((200 / 3 + 50) / 2)
    assert result["acc"] == 75


def test_a_class_only_predicted_is_present():
    result = compute([update(np.array([[0, 2]]), np.array([[0, 0]]), 3)])
    assert result["miou_present"] == pytest.approx(50 / 2)


maps = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))
labels = arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 1, 2, 3, IGNORE]))


@given(maps, labels)
def test_equals_a_slow_loop(prediction, label):
    slow = np.zeros((4, 4), int)
    for p, t in zip(prediction.ravel(), label.ravel(), strict=True):
        if t != 255:
            slow[t, p] += 1
    whole = update(prediction.reshape(12, 5), label.reshape(12, 5), 4)
    np.testing.assert_array_equal(whole["confusion"], slow)


@given(maps, labels, st.permutations(range(3)))
def test_parts_add_up_in_any_order(prediction, label, order):
    if (label == IGNORE).all():
        return
    whole = compute([update(prediction.reshape(12, 5), label.reshape(12, 5), 4)])
    parts = measure_all(prediction, label, 4)
    parts = compute([parts[i] for i in order])
    assert {**parts, "samples": 1, "empty": 0} == whole


def test_samples_without_a_label_are_counted_and_do_not_matter():
    seen = update(np.zeros((2, 2), int), np.zeros((2, 2), int), 2)
    unseen = update(np.zeros((2, 2), int), np.full((2, 2), IGNORE), 2)
    result = compute([unseen, seen, unseen])
    assert (result["samples"], result["empty"], result["pixels"]) == (3, 2, 4)
    assert result["acc"] == 100
    with pytest.raises(DataError, match="no sample has a labelled pixel"):
        compute([unseen])
    with pytest.raises(DataError, match="no sample has a labelled pixel"):
        compute([])


def test_records_survive_json():
    data = recorded("ddd17_6")
    states = measure_all(data["pred"], data["label"], 6)
    texts = [json.dumps({name: value.tolist() for name, value in r.items()}) for r in states]
    assert compute([json.loads(text) for text in texts]) == compute(states)


@pytest.mark.parametrize("wrong", [4, 7, 254, -1])
def test_label_outside_the_classes_is_refused_with_its_place(wrong):
    label = np.zeros((3, 4), np.int16)
    label[2, 1] = wrong
    with pytest.raises(DataError) as caught:
        update(np.zeros((3, 4), int), label, 4, where="a/000012")
    assert "label ids" in caught.value.what
    assert caught.value.where == "a/000012"
    assert caught.value.found.startswith(f"{wrong} at row 2, column 1; 1 pixels")
    assert caught.value.expected == "0 to 3 or 255"


@pytest.mark.parametrize("wrong", [4, 255])
def test_prediction_outside_the_classes_is_refused(wrong):
    label = np.full((3, 4), IGNORE)
    with pytest.raises(DataError, match="prediction ids outside") as caught:
        update(np.full((3, 4), wrong), label, 4)
    assert caught.value.expected == "0 to 3"


def test_sizes_and_kinds_are_compared():
    with pytest.raises(DataError, match="differ in size"):
        update(np.zeros((3, 4), int), np.zeros((4, 3), int), 4)
    with pytest.raises(DataError, match="prediction is not of integers"):
        update(np.zeros((3, 4)), np.zeros((3, 4), int), 4)
