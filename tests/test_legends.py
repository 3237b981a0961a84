"""Keys of colours agree with the pictures they explain, and fit on sheets."""

import numpy as np
import pytest
from PIL import Image

from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.legends import (
    Legend,
    amount_legend,
    class_legend,
    depth_legend,
    drawn_keys,
    event_legend,
    flow_legend,
    hatch_legends,
    legend_strip,
)
from scaleevent.panels import Row, panel
from scaleevent.pictures import BLUE, HATCH, RED, draw_amount, draw_classes, draw_depth, draw_flow


def pixels(legend, width=420):
    return np.asarray(legend_strip(legend, width) if isinstance(legend, Legend) else legend)


def has(key, colour) -> bool:
    return bool((pixels(key) == np.asarray(colour, np.uint8)).all(-1).any())


def scale_of(key) -> np.ndarray:
    """(w, 3) colours of the bar: the first row that runs from frame to frame in colour."""
    colourful = (np.ptp(pixels(key).astype(int), axis=-1) > 20).sum(1)
    row = pixels(key)[int(np.argmax(colourful > 250))]
    inside = np.flatnonzero(np.ptp(row.astype(int), axis=-1) > 20)
    return row[inside.min() : inside.max() + 1]


def test_every_class_has_its_square_and_black_is_told():
    for name in ("dsec-semantic", "ddd17-seg", "street-semantic"):
        task = BENCHMARKS[name].task
        key = class_legend(task.classes, task.palette, "does not count")
        for colour in draw_classes(np.arange(len(task.classes))[None], task.palette)[0]:
            block = (pixels(key) == colour).all(-1)
            assert block.sum() >= 13 * 13
        assert has(key, (0, 0, 0))


def test_a_scale_of_metres_runs_as_depths_are_drawn():
    drawn = scale_of(depth_legend(80.0))
    metres = 2 * (80 / 2) ** np.linspace(0, 1, len(drawn))
    assert np.abs(drawn.astype(int) - draw_depth(metres[None])[0]).max() <= 4
    assert (drawn[0] == draw_depth(np.array([[0.5]]))[0, 0]).all()  # "or less"


def test_a_scale_of_amounts_runs_as_amounts_are_drawn():
    drawn = scale_of(amount_legend("Error", "0", "3 px"))
    assert np.abs(drawn.astype(int) - draw_amount(np.linspace(0, 1, len(drawn))[None])[0]).max() < 5


@pytest.mark.parametrize("right, down", [(1, 0), (0, 1), (-1, 0), (0, -1), (0.5, 0.5)])
def test_the_wheel_has_each_direction_where_it_points(right, down):
    key = pixels(flow_legend(8.0)).astype(int)
    vivid = np.ptp(key, axis=-1) > 40
    y, x = np.nonzero(vivid)
    top, left, side = y.min(), x.min(), np.ptp(x) + 1
    at = [round(start + (side - 1) / 2 * (1 + 0.9 * part))
          for start, part in ((top, down), (left, right))]  # fmt: skip
    flow = np.array([right, down]).reshape(2, 1, 1) * 8.0 * 0.9
    assert np.abs(key[at[0], at[1]] - draw_flow(flow, 8.0)[0, 0]).max() < 25


def test_events_are_red_and_blue():
    assert has(event_legend(), RED) and has(event_legend(), BLUE)


def test_hatching_is_explained_where_there_is_any():
    part = np.array([[True, False]])
    assert hatch_legends([None, part[:, :1]]) == []
    (legend,) = hatch_legends([None, part])
    assert has(legend, HATCH)


def test_long_names_are_wrapped_and_stay_inside():
    entries = [("a_class_of_one_word" * 8, (1, 2, 3)), ("b", (4, 5, 6))]
    key = pixels(Legend("Names " * 40, entries), 300)
    assert key.shape[1] == 300 and has(key, (4, 5, 6)) and key.shape[0] > 150


@pytest.mark.parametrize("width", [420, 640, 1920])
def test_legends_are_as_wide_as_asked_and_their_words_do_not_meet(width):
    legends = (class_legend(["road"] * 40, np.full((40, 3), 99, np.uint8)), depth_legend(75.8),
               flow_legend(3.0), amount_legend("Error", "0", "1 px"))  # fmt: skip
    for legend in legends:
        strip = pixels(legend, width)
        assert strip.shape[1] == width and (strip[:, -2:] == 255).all()
    ticked = depth_legend(75.8)._replace(title="")
    below = pixels(ticked, width)[-14:]  # the words alone
    dark = (below < 120).all(-1).any(0)
    gaps = np.diff(np.flatnonzero(np.diff(dark.astype(int)) != 0))[1::2]
    assert sum(gaps > 8) >= 4  # ends and some between


def test_keys_lie_below_the_pictures_and_beside_each_other_where_they_fit():
    picture = np.full((40, 160, 3), (9, 200, 9), np.uint8)
    keys = [Image.new("RGB", (300, 30), colour) for colour in ("red", "blue", "orange")]
    for wide, lines in ((40, 2), (160, 1)):
        rows = [Row("r", [picture[:, :wide]] * 2)]
        sheet = pixels(panel("t", ["a", "b"], rows, tall=240 if wide > 40 else 100, keys=keys))
        places = [np.argwhere((sheet == pixels(key)[0, 0]).all(-1)) for key in keys]
        green = np.argwhere((sheet == (9, 200, 9)).all(-1))[:, 0].max()
        assert all(len(place) == 9000 and place[:, 0].min() > green for place in places)
        assert len({place[:, 0].min() for place in places}) == (3 if lines == 2 else 1)


@pytest.mark.parametrize("name", ["street-semantic", "street-depth", "street-flow"])
def test_every_task_explains_its_colours(name):
    task = BENCHMARKS[name].task
    truth = {"segmentation": np.zeros((4, 5), np.uint8), "depth": np.full((4, 5), 30.0)}
    keys = task.colour_keys([truth.get(task.name, np.ones((2, 4, 5)))])
    assert len(keys) == 2 and all(key.width == 420 for key in drawn_keys(*keys))
    assert task.colour_keys([])  # nothing drawn
