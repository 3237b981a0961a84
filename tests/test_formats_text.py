"""Text as people and programs write it: names, units, encodings, quotes, separators, damage."""

import codecs
from pathlib import Path

import numpy as np
import pytest

from scaleevent.errors import ConfigError, DataError, NotEventsError
from scaleevent.formats import open_recording, read_events, text
from tests.event_files import in_seconds, some_events
from tests.test_formats import assert_same

EVENTS = some_events(60)
ROWS = list(zip(*(getattr(EVENTS, name).tolist() for name in "txyp"), strict=True))
NUMBERED = [(k, *row) for k, row in enumerate(ROWS)]
SAVETXT = "{:.18e} {:.18e} {:.18e} {:.18e}\r\n"
SIZE = (180, 240)


def lines(rows=ROWS, mark=",", end="\n") -> str:
    return "".join(mark.join(map(str, row)) + end for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, *words: str, error=DataError, **options) -> None:
    """Reading fails with our message, all the words in it."""
    with pytest.raises(error) as caught:
        list(open_recording(path, size=SIZE, **options).blocks())
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message, message


# Names and units

FACTORS = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("t", "us"), ("ts", "us"), ("time", "us"), ("times", "us"), ("timestamp", "us"),
        ("timestamps", "us"), ("t_us", "us"), ("t[us]", "us"), ("t [us]", "us"),
        ("t ( us )", "us"), ("timestamp (us)", "us"), ("Timestamp_us", "us"), ("t/us", "us"),
        ("time_ns", "ns"), ("t_s", "s"), ("ts_s", "s"), ("times [s]", "s"), ("time(ms)", "ms"),
        ("t [\u00b5s]", "us"), ("T [\u03bcs]", "us"), ("timestamps_\u00b5s", "us"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mark", [",", ", ", ";", "\t", " "])
@pytest.mark.parametrize("comment", ["", "# ", "# columns: "])
def test_a_unit_stands_apart_from_the_name(tmp_path, name, unit, mark, comment):
    head = comment + mark.join((name, "x", "y", "polarity")) + "\n"
    rows = [(t * (1000 if unit == "ns" else 1), *rest) for t, *rest in ROWS]
    path = write(tmp_path / "a.txt", head + lines(rows, mark.strip(" ") or " "))
    recording = open_recording(path, size=SIZE)
    assert recording.notes["time unit"] == unit
    (events,) = recording.blocks()
    assert events.t.tolist() == [t * FACTORS[unit] for t, *_ in ROWS]
    assert events.x.tolist() == EVENTS.x.tolist()


@pytest.mark.parametrize("name", ["tus", "timestampus", "t [min]", "t [", "u", ""])
def test_an_unknown_name_of_time_is_reported(tmp_path, name):
    path = write(tmp_path / "a.csv", f"{name},x,y,p\n{lines()}")
    refused(path, "line 1", "t[us],x,y,p", error=NotEventsError)


def test_names_next_to_the_events_count(tmp_path):
    path = write(tmp_path / "a.csv", f"# x y t p\n# t [us]\n240 180\nt,x,y,p\n{lines()}")
    assert_same(read_events(path), EVENTS)
    path = write(tmp_path / "b.csv", f"# t [us] x y p\nt,x,y,p\n{lines()}")
    assert open_recording(path).notes["time unit"] == "us"


# Encodings


def test_a_byte_order_mark_is_no_content(tmp_path):
    seconds = lines(in_seconds(EVENTS))
    for head in ("t,x,y,p\n", "", "# Aufl\u00f6sung\n", "240,180\n"):
        path = write(tmp_path / "a.bin.log", codecs.BOM_UTF8 + (head + seconds).encode())
        assert_same(read_events(path, size=SIZE), EVENTS)
    cut = write(tmp_path / "cut.csv", codecs.BOM_UTF8 + (seconds + "0.06,12\n").encode())
    refused(cut, "line 61")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("head", ["t [\u00b5s],x,y,p\n", "# gr\u00f6\u00dfe\nt,x,y,p\n"])
def test_characters_beyond_ascii(tmp_path, encoding, head):
    for name in ("a.csv", "a"):
        path = write(tmp_path / name, (head + lines()).encode(encoding))
        assert_same(read_events(path, size=SIZE), EVENTS)
    path = write(tmp_path / "bad.csv", (head + lines() + "1,2,\u00b5,1\n").encode(encoding))
    refused(path, "not an event", "'1,2,\u00b5,1'")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    for name in ("a.csv", "a"):
        path = write(tmp_path / name, ("\ufefft,x,y,p\n" + lines()).encode(encoding))
        refused(path, "UTF-16", "UTF-8", error=NotEventsError)


def test_binary_is_no_text(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(200):
        head = (b"", b"1 2 3 4\n", b"t,x,y,p\n", b"\xff\xfe", b"\xef\xbb\xbf")[number % 5]
        assert not text.matches(head + rng.bytes(500), tmp_path / "a.txt")
    for head in (b"\xb5\xe9\xff\n", b"\xff\xfe\xb5\xe9", b"GIF89a", b"", b"\n\n", b"# only\n"):
        assert not text.matches(head, tmp_path / "a.bin")


# What programs write


WHOLE = {
    "windows": "t,x,y,p\r\n" + lines(end="\r\n"),
    "tabs": "t\tx\ty\tp\n" + lines(mark="\t"),
    "trailing blanks": "t,x,y,p  \n" + lines(end="  \n"),
    "trailing commas": "t,x,y,p,\n" + lines(end=",\n"),
    "trailing commas below the names": "t,x,y,p\n" + lines(end=",\n"),
    "trailing commas without names": lines(in_seconds(EVENTS), end=",\n"),
    "an empty last column": "t,x,y,p,note\n" + lines(end=",\n"),
    "empty lines at the end": "t,x,y,p\n" + lines() + "\n\n",
    "empty rows of Excel": "t,x,y,p\n" + lines() + ",,,\n,,,\n",
    "no newline at the end": "t,x,y,p\n" + lines().rstrip(),
    "quoted names": '"t","x","y","p"\n' + lines(),
    "quoted unit": '"t [us]";"x";"y";"p"\n' + lines(mark=";"),
    "units of pixels": "t [us], x [px], y (row), p [0/1]\n" + lines(),
    "quoted names between blanks": '"t [us]" "x" "y" "p"\n' + lines(mark=" "),
    "all quoted": '"t","x","y","p"\n' + lines([[f'"{value}"' for value in row] for row in ROWS]),
    "quoted numbers without names": lines(
        [[f'"{value}"' for value in row] for row in in_seconds(EVENTS)]
    ),
    "write.csv of R": '"","t","x","y","p"\n' + lines([(f'"{k}"', *r) for k, r in enumerate(ROWS)]),
    "to_csv of pandas": ",t,x,y,p\n" + lines(NUMBERED),
    "names after comments": "# made by hand\n% by me\n#\n\nt,x,y,p\n" + lines(),
    "comma in a comment behind": "t x y p\n" + lines(mark=" ", end=" # a, b\n"),
    "savetxt of NumPy": "".join(SAVETXT.format(t / 1e6, *rest) for t, *rest in ROWS),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_files_are_read(tmp_path, kind):
    assert_same(read_events(write(tmp_path / "a.csv", WHOLE[kind]), size=SIZE), EVENTS)


SHIFTED = "names of the columns do not fit"
REFUSED = {
    "write.table of R": (
        '"t" "x" "y" "p"\n' + lines([(f'"{k}"', *r) for k, r in enumerate(ROWS)], " "),
        SHIFTED, "line 2", "4 names, 5 columns",
    ),
    "to_csv of pandas with tabs": (
        "\tt\tx\ty\tp\n" + lines(NUMBERED, "\t"),
        SHIFTED, "line 2", "4 names, 5 columns",
    ),
    "a column without a name": ("t,x,y,p\n" + lines(NUMBERED), SHIFTED),
    "a name without a column": ("n,t,x,y,p\n" + lines(), SHIFTED, "5 names, 4 columns"),
    "five columns without names": (
        lines(NUMBERED),
        "text that is not events", "line 1", "four numbers a line", "line of names",
    ),
    "unknown names": ("a,b,c,d\n" + lines(), "text that is not events", "'a,b,c,d'"),
    "decimal commas": ("t;x;y;p\n" + lines([("0,5", 1, 2, 1)], ";"), "'0,5;1;2;1'", "a point"),
    "decimal commas without names": (lines([("0,5", 1, 2, 1)], ";"), "'0,5;1;2;1'", "a point"),
    "carriage returns alone": ("t,x,y,p\r" + lines(end="\r"), "not events", "t,x,y,p\\r"),
    "a carriage return within": ("t,x,y,p\n" + lines() + "9,1,1,1\r9,2,2,1\n", "line 62", "\\r"),
    "other words for polarity": ("t,x,y,p\n" + lines([(1, 2, 3, "up")]), "line 2", "1,2,3,up"),
    "two numbers in a field": ("t,x,y,p\n" + lines() + "9,1,1,1 0\n", "line 62", "9,1,1,1 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused_with_the_reason(tmp_path, kind):
    content, *words = REFUSED[kind]
    refused(write(tmp_path / "a.csv", content), *words)


# The time unit


@pytest.mark.parametrize(
    "before", [[(k, k % 240, k % 180, k % 2) for k in range(900)], [("1000000.0", 1, 2, 1)] * 300]
)
@pytest.mark.parametrize("late", ["31.5", "3.15e1"])
def test_fractions_after_the_sample_ask_for_the_unit(tmp_path, monkeypatch, before, late):
    monkeypatch.setattr(text, "_SAMPLE_BYTES", 700)
    monkeypatch.setattr(text, "_CHUNK_BYTES", 3000)
    rows = [*before, ("oops",), (late, 1, 2, 1), ("31.75", 1, 2, 1)]
    path = write(tmp_path / "a.csv", "t,x,y,p\n" + lines(rows))
    words = ("time unit", f"line {len(before) + 3}", "31.5", "whole numbers", "s, ms, us or ns")
    refused(path, *words, error=ConfigError, max_bad=1.0)
    with pytest.raises(ConfigError, match="time unit"):
        read_events(path, max_bad=0.1)
    path = write(tmp_path / "a.csv", "t,x,y,p\n" + lines([*before, *rows[-2:]]))
    refused(path, "time unit", "31.5", error=ConfigError)


@pytest.mark.parametrize("given", [True, False])
def test_fractions_after_the_sample_in_a_known_unit(tmp_path, monkeypatch, given):
    monkeypatch.setattr(text, "_SAMPLE_BYTES", 700)
    monkeypatch.setattr(text, "_CHUNK_BYTES", 3000)
    rows = [(k // 40, k % 240, k % 180, k % 2) for k in range(900)]
    rows += [(f"{30 + k / 8}", 3, 4, 1) for k in range(500)]
    path = write(tmp_path / "a.csv", f"t{'' if given else '_s'},x,y,p\n" + lines(rows))
    events = read_events(path, size=SIZE, time_unit="s" if given else None)
    assert events.t.tolist() == [round(float(row[0]) * 1e6) for row in rows]


def test_nanoseconds_since_1970_are_exact(tmp_path):
    rows = [(1_643_243_628_737_093_001 + 999 * k, *row[1:]) for k, row in enumerate(ROWS)]
    events = read_events(write(tmp_path / "a.csv", "t,x,y,p\n" + lines(rows)), size=SIZE)
    assert events.t.tolist() == [row[0] // 1000 for row in rows]


# Damage


@pytest.mark.parametrize("size", [3000, 4 << 20])
@pytest.mark.parametrize("form", ["{:.6f}", "{:.6e}", "{:.0f}"])
@pytest.mark.parametrize("rubbish", ["0.02,7,oops,1", "0.05,1", "\u00b5", "<html>", "1,2,3,4e"])
def test_many_bad_lines_are_counted_in_a_few_steps(tmp_path, monkeypatch, size, form, rubbish):
    calls = []
    loadtxt = np.loadtxt
    monkeypatch.setattr(text, "_CHUNK_BYTES", size)
    monkeypatch.setattr(np, "loadtxt", lambda *a, **k: calls.append(1) or loadtxt(*a, **k))
    times = np.arange(4000) * (100 if form == "{:.0f}" else 1e-4)
    good = [(form.format(t), k % 240, k % 180, k % 2) for k, t in enumerate(times.tolist())]
    rows = [row for one in good for row in (one, (rubbish,))]
    path = write(tmp_path / "a.csv", "t,x,y,p\n" + lines(rows))
    recording = open_recording(path, size=SIZE, max_bad=1.0)
    events = list(recording.blocks())
    counts = recording.counts
    assert counts.decoded == counts.kept == 4000 and not counts.dropped
    assert (counts.bad, list(counts.flaws)) == (4000, ["not an event"])
    assert counts.flaws["not an event"].where == "line 3"
    assert np.concatenate([block.t for block in events]).tolist() == [100 * k for k in range(4000)]
    chunks = 2 + path.stat().st_size // size
    assert len(calls) <= 2 * (chunks + 2)
    assert sum(len(block.flaws) for block in recording.source.blocks(None, None)) <= chunks
    refused(path, "not an event", "line 3", rubbish[:4])
    refused(path, "4000 of 8000", max_bad=0.4)


def test_bad_lines_and_bad_values_are_counted_side_by_side(tmp_path):
    rows = [*ROWS, (70_000, 1, 2, 7), ("oops",), (70_001, 1.5, 2, 1), (70_002, 1, 2, 1)]
    path = write(tmp_path / "a.csv", "t,x,y,p\n" + lines(rows))
    recording = open_recording(path, size=SIZE, max_bad=1.0)
    (events,) = recording.blocks()
    counts = recording.counts
    assert events.t.tolist() == [*EVENTS.t.tolist(), 70_002]
    assert (counts.decoded, counts.kept, sum(counts.dropped.values())) == (63, 61, 2)
    assert counts.flaws["not an event"].count == 1 and counts.bad == 3


def test_names_may_carry_the_sensor_size(tmp_path):
    """As aestream/faery writes it, with "on" for the polarity."""
    path = tmp_path / "a.csv"
    path.write_text("t,x@640,y@480,on\n1000,3,4,1\n2000,5,6,0\n")
    events = read_events(path)
    assert (events.height, events.width) == (480, 640)
    assert events.t.tolist() == [1000, 2000] and events.x.tolist() == [3, 5]
    assert events.y.tolist() == [4, 6] and events.p.tolist() == [1, 0]


# Columns that the caller names


def test_further_columns_are_left_out_by_order(tmp_path):
    rows = [(*row, 7.5, "c") for row in in_seconds(EVENTS)]
    path = write(tmp_path / "a.txt", lines(rows, " "))
    for columns in ("txyp--", "t x y p - -", "t,x,y,p,-,-"):
        assert_same(read_events(path, size=SIZE, columns=columns), EVENTS)
    shifted = write(tmp_path / "b.txt", lines([(k, *row) for k, row in enumerate(rows)]))
    assert_same(read_events(shifted, size=SIZE, columns="-txyp--"), EVENTS)
    for columns in ("txyp", "txyp-", "txyp---"):
        refused(path, "another number of columns", "6 columns", error=ConfigError, columns=columns)


@pytest.mark.parametrize("before", [0, 1])
def test_a_fifth_column_names_the_flag_and_the_order(tmp_path, before):
    rows = [(0.5, *row) if before else (*row, 0.5) for row in in_seconds(EVENTS, "xypt")]
    path = write(tmp_path / "a.txt", lines(rows))
    order = "- x y p t" if before else "x y p t -"
    refused(path, f'--columns "{order}"', error=NotEventsError)
    assert_same(read_events(path, size=SIZE, columns=order), EVENTS)


def test_unknown_names_can_be_told(tmp_path):
    for head in ("Stamp [us],Col,Row,Sign,dt\n", "# Stamp [us],Col,Row,Sign,dt\n"):
        path = write(tmp_path / "a.csv", head + lines([(*row, 1) for row in ROWS]))
        names = "t='Stamp [us]' x=Col y=Row p=Sign"
        recording = open_recording(path, size=SIZE, columns=names)
        assert recording.choices == ()  # the name states the unit
        assert_same(read_events(path, size=SIZE, columns=names), EVENTS)
        assert_same(read_events(path, size=SIZE, columns="txyp-"), EVENTS)
        wrong = {"columns": "t=Col x=Col2 y=Row p=Sign2"}
        refused(path, "Sign2 (p)", "no columns of these names", error=ConfigError, **wrong)


@pytest.mark.parametrize("names", [
    "events_t,events_x,events_y,events_p", "x_event,y_event,ts_event,pol_event",
    "eventX,eventY,eventT,eventPolarity", "ev_ts_us,ev_x,ev_y,ev_pol", "note,t,x,y,p,left_t,left_x",
])  # fmt: skip
def test_names_may_share_a_part(tmp_path, names):
    order = [name.replace("ev", "").replace("ent", "").replace("s_", "").strip("_ ")
             for name in names.split(",")]  # fmt: skip
    columns = {"t": EVENTS.t, "x": EVENTS.x, "y": EVENTS.y, "p": EVENTS.p}
    keys = [next((k for k in "txyp" if o.lower().startswith(k)), "t") for o in order]
    rows = zip(*(columns[key].tolist() for key in keys), strict=True)
    path = write(tmp_path / "a.csv", names + "\n" + lines(rows))
    assert_same(read_events(path, size=SIZE), EVENTS)


def test_names_of_two_streams_are_not_guessed(tmp_path):
    names = "left_t,left_x,left_y,left_p,right_t,right_x,right_y,right_p"
    path = write(tmp_path / "a.csv", names + "\n" + lines([(*row, *row) for row in ROWS]))
    refused(path, "left_t", error=NotEventsError)
    told = "t=right_t x=right_x y=right_y p=right_p"
    assert_same(read_events(path, size=SIZE, columns=told), EVENTS)


@pytest.mark.parametrize("words", [("False", "True"), ("false", "true"), ("FALSE", "TRUE")])
@pytest.mark.parametrize("head", ["t,x,y,p\n", ""])
def test_polarity_in_words(tmp_path, words, head):
    rows = [(f"{t / 1e6:.6f}", x, y, words[p]) for t, x, y, p in ROWS]
    assert_same(read_events(write(tmp_path / "a.csv", head + lines(rows)), size=SIZE), EVENTS)
    rows[40] = (*rows[40][:3], "maybe")
    refused(write(tmp_path / "b.csv", head + lines(rows)), f"line {41 + bool(head)}", "maybe")
    mixed = [(*row[:3], "True" if row[3] and k % 2 else row[3]) for k, row in enumerate(ROWS)]
    assert_same(read_events(write(tmp_path / "c.csv", "t,x,y,p\n" + lines(mixed))), EVENTS)


def test_the_whole_text_decides_the_order(tmp_path):
    """The first rows have one polarity, and rows and columns of 0 and 1 alone."""
    rows = [(k, k % 2, 1, 1) for k in range(40_000)]
    rows += [(40_000 + k, k % 240, k * 37 % 180, k % 2) for k in range(1, 9000)]
    path = write(tmp_path / "a.txt", lines(rows, " "))
    events = read_events(path, size=SIZE)
    columns = (getattr(events, name).tolist() for name in "txyp")
    assert list(zip(*columns, strict=True)) == rows
    refused(write(tmp_path / "b.txt", lines(rows[:40_000], " ")), "orders ", "--columns")
