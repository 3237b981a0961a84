"""Text at speed: the scanner reads what `float` reads, and hands on what it does not know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleevent.errors import DataError
from scaleevent.formats import open_recording, read_events, text
from scaleevent.formats.text_lines import Layout, scan_lines
from tests import event_files
from tests.event_files import some_events, write_text


def scan(lines: str, places=(0, 1, 2, 3), mark="", whole=False, room=100):
    values, times, odd = (
        np.zeros((room, 4)),
        np.zeros(room, np.int64),
        np.zeros((room, 3), np.int32),
    )
    data = np.frombuffer(lines.encode(), np.uint8)
    mark = ord(mark) if mark else 0
    rows, unusual = scan_lines(data, mark, np.array(places), whole, values, times, odd)
    return values[:rows].tolist(), times[:rows].tolist(), odd[:unusual].tolist()


plain = st.from_regex(r"[+-]?([0-9]{1,15}|[0-9]{1,8}\.[0-9]{0,8}|\.[0-9]{1,12})", fullmatch=True)


@given(st.lists(st.tuples(plain, plain, plain, plain), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_plain_numbers_are_those_of_float(rows):
    for mark in ("", ",", ";"):
        texts = [f" {(mark or ' ').join(row)} \r\n" for row in rows]
        values, _, odd = scan("".join(texts), mark=mark)
        assert len(values) == len(rows)
        unusual = {row: (begin, end) for row, begin, end in odd}
        for k, row in enumerate(rows):
            if k in unusual:  # more digits than an exact integer has
                begin = sum(map(len, texts[:k]))
                assert unusual[k] == (begin, begin + len(texts[k]))
                assert (
                    max(int(n.translate({43: None, 45: None, 46: None})) for n in row) > 2**53 // 10
                )
            else:
                assert values[k] == [float(number) for number in row]


@pytest.mark.parametrize(
    "odd",
    ["1e-3 2 3 1", "1 2 3", "1 2 3 x", "1 2 3 1 # note", "nan 1 2 1", "1 2 3 -", "1..2 3 4 1",
     "12345678901234567 1 2 1", "1,2,3,1", "0x10 1 1 1", "1 2 3 1\r1 2 3 1", "\x00 1 2 1"],
)  # fmt: skip
def test_what_is_unusual_is_noted(odd):
    lines = f"0.5 1 2 0\n# 3 4\n{odd}\n\n0.7 5 6 1\n{odd}"
    values, _, noted = scan(lines)
    assert (len(values), values[0], values[2]) == (4, [0.5, 1, 2, 0], [0.7, 5, 6, 1])
    first = lines.index(odd)
    begin, end = lines.rindex(odd), len(lines)
    assert noted == [[1, first, first + len(odd) + 1], [3, begin, end]]


def test_places_whole_times_and_the_last_line():
    values, times, _ = scan("7,x,9007199254740991,3,1\n8,,12,4,0", (2, 0, 3, 4), ",", whole=True)
    assert times == [9007199254740991, 12]
    assert [row[1:] for row in values] == [[7, 3, 1], [8, 4, 0]]
    assert scan("1.0 2 3 1\n", whole=True)[2] == [[0, 0, 10]]
    values, _, odd = scan("1 2 3 1\n" * 5, room=3)
    assert (len(values), odd) == (3, [])


def test_whole_times_are_read_as_far_as_64_bits_go():
    for time in (1_643_243_628_737_093_001, 2**63 - 1, -(2**63), 2**53 + 1):
        values, times, odd = scan(f"{time} 2 3 1\n", whole=True)
        assert odd or (times == [time] and values[0][0] == float(time))
        assert bool(odd) == (abs(time) > 2**63 - 10)
        layout = Layout(0, 0, None, (0, 1, 2, 3), whole=True)
        assert layout.parse(f"{time} 2 3 1\n".encode(), 0)[0].tolist() == [time]
    layout = Layout(0, 0, None, (0, 1, 2, 3), whole=True)
    for time in (2**63, -(2**63) - 1, 10**400, "nan", "1e999", "1_0"):
        t, _, flaws = layout.parse(f"{time} 2 3 1\n5 2 3 1\n".encode(), 7)
        assert (t.dtype, t.tolist()) == (np.int64, [5])
        assert [(flaw.count, flaw.where) for flaw in flaws] == [(1, "line 8")]


number = st.one_of(
    plain,
    st.floats(width=64).map(repr),
    st.floats(0, 1e9).map("{:.18e}".format),
    st.floats(0, 1e9).map("{:.25f}".format),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        ["", "x", "1_0", "1e", "0x1", "1d5", "--1", "1 2", '"3"', "\u0661", "inf", "+"]
    ),
)
line = st.tuples(
    st.lists(number, min_size=3, max_size=5),
    st.sampled_from(["\n", "\r\n", " # note\n", ",\n", "\t\n", "\r1,2,3,1\n", ",,\n\n# 1,2,3,1\n"]),
)


def slow(text: str) -> list[float] | None:
    """One line by `float`."""
    fields = [field.strip(' "') for field in text.partition("#")[0].rstrip(" ,\r\t").split(",")]
    wanted = [fields[k] for k in (1, 0, 2, 3)] if len(fields) > 3 else ["x"]
    try:
        return [float(field.encode()) for field in wanted] if "_" not in "".join(wanted) else None
    except ValueError:
        return None


@given(st.lists(line, min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_every_line_is_what_float_reads_or_counted(rows, repeat):
    text = "".join(",".join(fields) + end for fields, end in rows) * repeat
    expected = []
    bad = 0
    for one in text.split("\n"):
        found = None if "\r" in one.strip() else slow(one)
        expected += [found] if found else []
        bad += found is None and bool(one.partition("#")[0].strip(' ,\r\t"'))
    layout = Layout(0, 0, b",", (1, 0, 2, 3), whole=False)
    t, columns, flaws = layout.parse(text.encode(), 0)
    read = np.stack([t, *columns], axis=1)
    np.testing.assert_array_equal(read, np.array(expected).reshape(-1, 4))
    assert sum(flaw.count for flaw in flaws) == bad and len(flaws) <= 1


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
