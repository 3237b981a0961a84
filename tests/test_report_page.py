"""The page of `report` in a real browser: silent, offline, sortable, readable on a phone."""

import numpy as np
import pytest
from browser import CHROMIUM, browser
from report_files import pretraining, probing, write_run

from scaleevent.reporting.page import write_page
from scaleevent.reporting.runs import read_runs

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
EVIL = "<script>window.hit = 1; fetch('http://127.0.0.1:9/')</script><img src=x onerror=hit=2>"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A browser, and a page of runs with long names, texts, tables and pictures."""
    place = tmp_path_factory.mktemp("page")
    long = "a_name_without_a_single_space_" * 5
    runs = [
        pretraining(place / "a", seed=0, loss=0.9, title=EVIL),
        pretraining(place / "b", seed=1, loss=10.0, notes=[long * 3, EVIL]),
        pretraining(place / long, seed=2, loss=-2.5, teacher=long),
        probing(place / "p", "random"),
        write_run(place / "half", finished=False, objective="scaleevent"),
    ]
    write_page(place / "report.html", read_runs(runs), overwrite=False)
    with browser(place / "profile") as page:
        yield page, place / "report.html"


@pytest.mark.parametrize("width", [320, 390, 820, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_said_asked_for_or_wider_than_the_window(shown, width, dark):
    page, file = shown
    page.show(file, width, 844, dark)
    assert page.problems() == [] and page.requests() == []
    assert page.run("window.hit") is None
    assert page.run("document.querySelectorAll('script').length") == 1
    for state in ("closed", "open"):
        wide = page.run("[document.documentElement.scrollWidth, document.body.scrollWidth]")
        assert max(wide) <= width, state
        page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.run(
        "[...document.querySelectorAll('.scroll')].some((one) => one.scrollWidth > one.clientWidth)"
    ) or width > 1000  # fmt: skip
    page.run("document.querySelector('.picture button').click()")
    assert page.run("document.documentElement.scrollWidth") <= width


def contrast(one, other):
    """Of two colours rgb(..), as the accessibility guidelines define it."""
    light = []
    for colour in (one, other):
        level = np.array([int(x) for x in colour[4:-1].split(",")]) / 255
        linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
        light.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_can_be_read(shown, dark):
    page, file = shown
    page.show(file, dark=dark)

    def colour(of, what="color"):
        return page.run(f"getComputedStyle(document.querySelector('{of}')).{what}")

    paper, raised = colour("body", "backgroundColor"), colour(".chart > svg", "backgroundColor")
    assert (contrast(paper, "rgb(0, 0, 0)") > 10) is not dark
    for text in ("body", ".faded", "caption", "a", ".finished", ".interrupted", ".about"):
        assert contrast(colour(text), paper) >= 4.5, text
    assert contrast(colour(".tick", "fill"), raised) >= 4.5
    for number in range(3):
        assert contrast(colour(f"path.c{number}", "stroke"), raised) >= 3


def column(page, table, number):
    return page.run(
        f"[...document.querySelectorAll('table')[{table}].tBodies[0].rows]"
        f".map((row) => row.cells[{number}].dataset.v ?? row.cells[{number}].textContent)"
    )


def click(page, table, number):
    page.run(f"document.querySelectorAll('table')[{table}].tHead.rows[0].cells[{number}]"
             ".querySelector('button').click()")  # fmt: skip


def test_tables_are_sorted_by_clicks(shown):
    page, file = shown
    page.show(file)
    captions = page.run("[...document.querySelectorAll('caption')].map((one) => one.textContent)")
    runs = next(k for k, one in enumerate(captions) if one.startswith("The 5 runs"))
    before = column(page, runs, 4)
    assert before == ["0", "1", "2", "0", "-"]
    click(page, runs, 4)
    assert column(page, runs, 4) == ["0", "0", "1", "2", "-"]
    click(page, runs, 4)
    assert column(page, runs, 4) == ["2", "1", "0", "0", "-"]  # what has no value stays last
    heads = f"[...document.querySelectorAll('table')[{runs}].tHead.rows[0].cells]"
    assert page.run(f"{heads}.map((head) => head.getAttribute('aria-sort'))") == [
        None, None, None, None, "descending", None
    ]  # fmt: skip
    click(page, runs, 1)
    assert column(page, runs, 1) == ["pretrain", "pretrain", "pretrain", "pretrain", "probe"]
    results = next(k for k, one in enumerate(captions) if one.startswith("Results by run"))
    click(page, results, 3)
    assert [float(x) for x in column(page, results, 3)] == [-2.5, 15.0]  # as numbers, not texts
    assert page.problems() == []


def test_buttons_are_reached_by_the_keyboard(shown):
    page, file = shown
    page.show(file)
    page.run("document.querySelector('thead button').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", code="Enter",
                  windowsVirtualKeyCode=13)  # fmt: skip
    assert page.run("document.querySelector('thead th').getAttribute('aria-sort')") == "ascending"
