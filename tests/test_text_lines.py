"""Text at speed: the scanner reads what `float` reads, and hands on what it does not know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.errors import DataError
from scaleevent.formats import open_recording, read_events, text
from scaleevent.formats.text_lines import scan_lines
from tests import event_files
from tests.event_files import some_events, write_text


def scan(lines: str, places=(0, 1, 2, 3), mark="", whole=False, start=0, room=100):
    values, times = np.zeros((room, 4)), np.zeros(room, np.int64)
    data = np.frombuffer(lines.encode(), np.uint8)
    mark = ord(mark) if mark else 0
    rows, stop = scan_lines(data, start, mark, np.array(places), whole, values, times)
    return values[:rows].tolist(), times[:rows].tolist(), stop


plain = st.from_regex(r"[+-]?([0-9]{1,15}|[0-9]{1,8}\.[0-9]{0,8}|\.[0-9]{1,12})", fullmatch=True)


@given(st.lists(st.tuples(plain, plain, plain, plain), min_size=1, max_size=5))
@settings(max_examples=500, deadline=None)
def test_plain_numbers_are_those_of_float(rows):
    for mark in ("", ",", ";"):
        lines = "".join(f" {(mark or ' ').join(row)} \r\n" for row in rows)
        values, _, stop = scan(lines, mark=mark)
        for row, found in zip(rows, values, strict=False):
            assert found == [float(number) for number in row]
        if len(values) < len(rows):  # more digits than an exact integer has
            assert max(int(n.translate({43: None, 45: None, 46: None})) for n in rows[len(values)])
            assert stop == sum(
                len(f" {(mark or ' ').join(row)} \r\n") for row in rows[: len(values)]
            )
        else:
            assert stop == len(lines)


@pytest.mark.parametrize(
    "odd",
    ["1e-3 2 3 1", "1 2 3", "1 2 3 x", "1 2 3 1 # note", "", "nan 1 2 1", "1 2 3 -", "1..2 3 4 1",
     "12345678901234567 1 2 1", "1,2,3,1", "0x10 1 1 1", "1 2 3 1\r1 2 3 1", "\x00 1 2 1"],
)  # fmt: skip
def test_what_is_unusual_stops_the_scan_at_its_line(odd):
    lines = f"0.5 1 2 0\n# 3 4\n{odd}\n0.7 5 6 1\n"
    values, _, stop = scan(lines)
    if odd == "":
        assert len(values) == 2 and stop == len(lines)
        return
    assert values[0] == [0.5, 1, 2, 0]
    if odd == "1 2 3 1\r1 2 3 1":  # one line to the scanner: fields beyond the fourth
        return
    assert len(values) == 1
    assert lines[stop:].startswith(odd)
    assert scan(lines, start=lines.index("0.7"))[0] == [[0.7, 5, 6, 1]]


def test_places_whole_times_and_the_last_line():
    values, times, _ = scan("7,x,9007199254740991,3,1\n8,,12,4,0", (2, 0, 3, 4), ",", whole=True)
    assert times == [9007199254740991, 12]
    assert [row[1:] for row in values] == [[7, 3, 1], [8, 4, 0]]
    assert scan("1.0 2 3 1\n", whole=True)[2] == 0
    values, _, stop = scan("1 2 3 1\n" * 5, room=3)
    assert (len(values), stop) == (3, 24)


ROWS = event_files.in_seconds(some_events(3000))


@pytest.mark.parametrize("size", [700, 1 << 22])
def test_other_ways_to_write_numbers_are_read(tmp_path, monkeypatch, size):
    monkeypatch.setattr(text, "_CHUNK_BYTES", size)
    odd = [[f"{float(t):.6e}", *rest] for t, *rest in ROWS]
    mixed = [odd[k] if k % 7 == 3 else ROWS[k] for k in range(len(ROWS))]
    expected = read_events(write_text(tmp_path / "plain.txt", ROWS))
    for name, rows in (("all", odd), ("some", mixed)):
        read = read_events(write_text(tmp_path / f"{name}.txt", rows))
        for column in "txyp":
            np.testing.assert_array_equal(getattr(read, column), getattr(expected, column))


@pytest.mark.parametrize("size", [700, 1 << 22])
def test_lines_that_are_no_events_are_errors_or_left_out(tmp_path, monkeypatch, size):
    monkeypatch.setattr(text, "_CHUNK_BYTES", size)
    rows = [list(row) for row in ROWS]
    for number in (500, 501, 2000, 2999):
        rows[number] = ["0.02", "7", "oops", "1"]
    rows[2999] = ["0.05", "1"]
    path = write_text(tmp_path / "a.txt", rows, "# t x y p\n\n")
    with pytest.raises(DataError, match="not an event") as caught:
        read_events(path)
    assert "line 503" in str(caught.value) and "oops" in str(caught.value)
    recording = open_recording(path, max_bad=0.01)
    kept = [float(row[0]) for k, row in enumerate(rows) if k not in (500, 501, 2000, 2999)]
    times = np.concatenate([events.t for events in recording.blocks()])
    assert times.tolist() == np.rint(np.array(kept) * 1e6).astype(int).tolist()
    flaw = recording.counts.flaws["not an event"]
    assert (flaw.count, flaw.where) == (4, "line 503")
    with pytest.raises(DataError, match="4 of 3000"):
        list(open_recording(path, max_bad=0.001).blocks())


def test_a_second_read_begins_at_a_noted_place(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_CHUNK_BYTES", 2000)
    path = write_text(tmp_path / "a.txt", ROWS, "240 180\n")
    recording = open_recording(path)
    recording.source.index.every = 300
    whole = list(recording.blocks())
    firsts = []
    blocks = text.TextSource.blocks

    def noting(self, start_us, end_us):
        for number, block in enumerate(blocks(self, start_us, end_us)):
            if number == 0:
                firsts.append(block.first)
            yield block

    monkeypatch.setattr(text.TextSource, "blocks", noting)
    for start in (None, 0, 9_000, 30_000, 50_000):
        part = [t for events in recording.blocks(start) for t in events.t.tolist()]
        assert part == [t for e in whole for t in e.t.tolist() if start is None or t >= start]
    assert firsts[:2] == [0, 0] and firsts == sorted(firsts) and firsts[-1] > 2000
