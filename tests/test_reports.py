"""What is printed: cells, JSON, progress lines."""

import json

import pytest

from scaleevent.system import reports
from scaleevent.system.reports import Report, cell, progress

REPORT = Report(
    "probe", "a title", ("what", "value"), (("loss", 0.123456789), ("events", 1234567)),
    ("a note",), {"extra": [1, 2]},
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.123456, "0.1235"), (123456.7, "123,457"), (None, "-"),
     (True, "yes"), (False, "no"), ("x", "x"), (0.0, "0")],
)  # fmt: skip
def test_cells(value, text):
    assert cell(value) == text


def test_json_is_one_whole_document(capsys):
    REPORT.show(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "scaleevent.probe/1" and document["extra"] == [1, 2]
    assert document["rows"][0] == {"what": "loss", "value": 0.123456789}


def test_the_table_has_every_cell(capsys):
    REPORT.show(as_json=False)
    out = capsys.readouterr().out
    for text in ("a title", "0.1235", "1,234,567", "a note"):
        assert text in out


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(reports.time, "monotonic", lambda: next(clock))
    with progress("work", 100, "steps") as ticker:
        ticker.start_at(40)
        for _ in range(4):
            ticker.advance(10, "loss 1")
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("work: ") for line in lines)
    assert "steps/s loss 1" in lines[0] and "s left" in lines[0]
    with progress("work", 100, "steps", show=False) as ticker:
        for _ in range(4):
            ticker.advance(10)
    assert capsys.readouterr().err == ""


def test_a_wide_table_is_not_squeezed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    columns = ("", *(f"number {i}" for i in range(12)))
    Report("eval", "wide", columns, (("ours", *(0.5 + i for i in range(12))),)).show(False)
    lines = capsys.readouterr().out.splitlines()
    assert any("number 11" in line and "number 0" in line for line in lines)


def test_brackets_are_no_markup(capsys):
    """Such as of an extra, or of a folder's name."""
    report = Report("x", "pairs in [red]out", ("[name]", "told"), (("a[b]", "scaleevent[aedat]"),))
    report.show(as_json=False)
    told = capsys.readouterr().out
    for text in ("pairs in [red]out", "[name]", "a[b]", "scaleevent[aedat]"):
        assert text in told
