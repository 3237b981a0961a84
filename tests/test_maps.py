"""Sheets of tokens: cosines by hand, planted clusters, the marked place, words for the blind."""

import numpy as np
import pytest
from PIL import Image

from scaleevent.encoders.clusters import fit_clusters, nearest_cluster
from scaleevent.objectives.maps import CLUSTERS, Shown, busiest, cosine_map, draw_maps, marked
from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import distinct_colours, draw_amount

GRID = (3, 4)


def test_cosines_by_a_slow_loop():
    tokens = np.random.default_rng(1).normal(size=(12, 5))
    by_hand = [sum(a * b) / (sum(a * a) * sum(b * b)) ** 0.5
               for a, b in ((one, tokens[7]) for one in tokens)]  # fmt: skip
    assert np.allclose(cosine_map(tokens, 7), by_hand) and cosine_map(tokens, 7)[7] == 1
    assert (cosine_map(np.zeros((3, 5)), 0) == 0).all()


def test_the_busiest_place_of_the_middle():
    density = np.zeros((8, 12))
    density[0, 0], density[5, 4], density[3, 7] = 99, 3, 4
    assert busiest(density) == 3 * 12 + 7
    assert busiest(np.zeros((1, 1))) == 0


@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_mark_leaves_what_is_inside(place):
    picture = np.random.default_rng(2).integers(0, 250, (30, 40, 3)).astype(np.uint8)
    drawn = marked(picture, place, GRID)
    row, column = divmod(place, 4)
    inside = slice(10 * row, 10 * row + 10), slice(10 * column, 10 * column + 10)
    assert np.array_equal(drawn[inside], picture[inside])
    changed = (drawn != picture).any(-1)
    y, x = np.nonzero(changed)
    assert 10 * row - 2 <= y.min() and y.max() < 10 * row + 12 and x.max() < 10 * column + 12
    assert (drawn == (60, 255, 60)).all(-1).any()
    assert not np.shares_memory(drawn, picture)


def test_the_sheet_shows_cosines_and_clusters(tmp_path):
    rng = np.random.default_rng(3)
    tokens = [rng.normal(size=(2, 12, 8)) for _ in range(2)]
    blank = np.full((30, 40, 3), 255, np.uint8)
    shown = [Shown(f"pair {k}", blank, blank) for k in range(2)]
    path = tmp_path / "maps.png"
    draw_maps(shown, tokens, ("teacher", "student"), [0, 5], GRID, path)
    with Image.open(path) as sheet:
        pixels, about = np.asarray(sheet.convert("RGB")), sheet.info["Description"]
    assert "2 rows of: image, events, like the square, teacher" in about
    for one in tokens:
        for sample, place in zip(one, (0, 5), strict=True):
            for colour in draw_amount(cosine_map(sample, place)[None])[0]:
                assert (pixels == colour).all(-1).sum() >= 40 * 40
    centres = fit_clusters(tokens[0].reshape(-1, 8), CLUSTERS, seed=0)
    found = {int(k) for one in tokens for k in nearest_cluster(one, centres).ravel()}
    drawn = distinct_colours(CLUSTERS)[sorted(found)]
    assert all((pixels == colour).all(-1).sum() >= 40 * 40 for colour in drawn)


def test_a_sheet_says_in_words_what_it_shows(tmp_path):
    rows = [Row("r", [np.zeros((4, 4, 3), np.uint8), None])]
    save_picture(tmp_path / "a.png", panel("Über alles", ["image", "nothing"], rows))
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.info["Description"] == "Über alles. 1 row of: image"
    save_picture(tmp_path / "b.png", np.zeros((4, 4, 3), np.uint8))
    with Image.open(tmp_path / "b.png") as picture:
        assert "Description" not in picture.info
