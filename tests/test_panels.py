"""Sheets of pictures: aspect, names, missing pictures; frames and flow that can be compared."""

import numpy as np
import pytest

from scaleevent.panels import Row, panel, save_picture
from scaleevent.pictures import HATCH, TOKEN, brightened, hatched, hatched_tokens
from scaleevent.tasks.flow import Flow

RED, GREEN = (250, 0, 0), (0, 250, 0)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def box(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """(rows, columns) that a colour fills."""
    y, x = np.nonzero((sheet == colour).all(-1))
    return int(np.ptp(y)) + 1, int(np.ptp(x)) + 1


def test_every_picture_keeps_its_own_aspect():
    rows = [Row("wide", [plain(40, 80, RED)]), Row("square", [plain(300, 300, GREEN)])]
    sheet = np.asarray(panel("Two cameras", ["events"], rows, tall=100))
    assert box(sheet, RED) == (100, 200) and box(sheet, GREEN) == (100, 100)


def test_small_pictures_are_enlarged_without_smoothing_and_framed():
    checks = np.kron([[0, 1], [1, 0]], np.ones((2, 2))).astype(np.uint8)[..., None] * 250
    picture = np.repeat(checks, 3, -1)
    picture[..., 0] = 7
    sheet = np.asarray(panel("t", ["events"], [Row("r", [picture])], tall=80))
    y, x = np.nonzero((sheet[..., 0] == 7) & (sheet[..., 1] != 7))  # and no letter has
    inside = sheet[y.min() : y.max() + 1, x.min() : x.max() + 1]
    assert np.array_equal(inside, np.kron(picture, np.ones((20, 20, 1), np.uint8)))
    frame = sheet[y.min() - 1 : y.max() + 2, x.min() - 1 : x.max() + 2]
    edges = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
    assert (edges == 238).all()  # so that a white picture shows where it ends


def test_a_column_without_pictures_is_left_out_and_a_gap_says_none():
    both = [plain(100, 300, RED)] * 2
    full = panel("t", ["a", "b"], [Row("r", both)], tall=200)
    empty = panel("t", ["a", "b"], [Row("r", [None, both[0]])], tall=200)
    assert full.width - empty.width > 500
    part = panel("t", ["a", "b"], [Row("r", both), Row("s", [None, both[0]])], tall=200)
    assert part.width == full.width and box(np.asarray(part), RED)[0] > 400
    grey = (np.asarray(part) == 238).all(-1)
    y, x = np.nonzero(grey[:, 30:600] & grey[:, 31:601])
    gap = np.asarray(part)[y.min() + 5 : y.max() - 5, 20:590]
    assert (gap == 90).all(-1).any()  # and in it stands: none
    assert panel("nothing at all", ["a"], [Row("r", [None])]).width > 100


@pytest.mark.parametrize("longer", ["title", "column", "row"])
def test_titles_and_names_are_drawn_and_long_ones_wrapped(longer):
    words = {"title": "Title", "column": "Column", "row": "Row"}

    def drawn() -> np.ndarray:
        row = Row(words["row"], [plain(50, 100, RED)])
        return np.asarray(panel(words["title"], [words["column"]], [row], tall=100))

    short = drawn()
    words[longer] = "x"
    assert (drawn() != short).any()
    words[longer] = "a_path_without_a_space/" * 12
    long = drawn()
    assert long.shape[0] > short.shape[0] and long.shape[1] == short.shape[1]
    assert (long[:, -5:] == 255).all()  # nothing runs off the sheet


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    rows = [Row("r", [plain(40, 80, RED)])]
    for name in ("a.png", "b.png"):
        save_picture(tmp_path / name, panel("Title", ["events"], rows))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_dark_frames_are_brightened_and_said():
    ramp = np.repeat(np.linspace(0, 50, 80).astype(np.uint8)[None], 60, 0)
    dark = np.repeat(ramp[..., None], 3, -1)
    dark[:2, :2] = 255  # a lamp
    lifted, words = brightened(dark)
    assert dark.mean() < 30 and lifted.mean() > 90 and words == ", image brightened"
    assert (np.diff(lifted[30, :, 0].astype(int)) >= 0).all()  # the order of brightness stays
    for image in (dark + np.uint8(100), np.zeros_like(dark)):
        same, words = brightened(image)
        assert same is image and words == ""


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), RED, HATCH])
def test_what_does_not_count_is_hatched_on_any_colour(colour):
    counted = np.ones((48, 64), bool)
    counted[30:, :50] = False
    picture = plain(48, 64, colour)
    drawn = hatched(picture, counted)
    assert (drawn == picture)[counted].all() and (picture == colour).all()
    hidden = drawn[~counted].astype(int)
    assert (hidden == HATCH).all(-1).mean() > 0.1
    assert (np.abs(hidden - colour).max(-1) > 100).mean() > 0.1  # lines, or their edges, stand out
    for mask in (None, np.ones((48, 64), bool)):
        assert hatched(picture, mask) is picture and hatched_tokens(picture, mask) is picture


def test_tokens_are_enlarged_where_some_are_hatched():
    counted = np.array([[True, False], [True, True]])
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    drawn = hatched_tokens(picture, counted)
    assert drawn.shape == (2 * TOKEN, 2 * TOKEN, 3)
    assert (drawn[TOKEN:] == picture[1].repeat(TOKEN, 0)).all()
    assert (drawn[:TOKEN, TOKEN:] == HATCH).all(-1).sum() >= TOKEN // 2


def test_flow_has_one_scale_in_all_rows():
    slow, fast = (np.full((2, 4, 4), length, np.float32) for length in (1.0, 20.0))
    predictions, truths, errors = Flow().draw([slow, slow], [slow, fast]).values()
    assert (predictions[0] == predictions[1]).all() and (predictions[0] == truths[0]).all()
    assert truths[0].min() > 200 > 60 > truths[1].min()  # pale, and in full colour
    (title, *_) = Flow().draw([slow], [fast])
    assert "28.3 px" in title
    assert (errors[0] != errors[1]).any()
