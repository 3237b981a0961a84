import pickle
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.config.settings import load_config
from scaleevent.datasets import dsec_depth, dsec_flow, dsec_labels, dsec_semantic
from scaleevent.datasets.calibration import read_depth_scale
from scaleevent.datasets.flow_png import write_png16
from scaleevent.datasets.timed_labels import read_times, seen_from
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.formats import Recording
from scaleevent.formats.source import RawBlock
from scaleevent.grids.geometry import pixel_grid
from scaleevent.pairs.pair import Pair
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.source import PairSource
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.system.files import write_json
from tests import dsec_files as files

GOLDEN = Path(__file__).parent / "data" / "dsec_png.npz"
WRITERS = {
    "semantic": files.write_semantic,
    "depth": files.write_depth,
    "flow": files.write_flow,
    "flow-test": files.write_flow_test,
}


def sources_of(kind: str, *roots: Path, **settings: object) -> list[PairSource]:
    name = f"dsec-{kind.partition('-')[0]}"
    return DATASETS[name].load().sources(PrepareConfig(name=name, roots=list(roots), **settings))


def prepare(kind: str, *roots: Path, **settings: object) -> tuple[list[Pair], Counter]:
    """All pairs of a benchmark and the tally; sources travel as they do to a worker."""
    counts: Counter[str] = Counter()
    again = pickle.loads(pickle.dumps(sources_of(kind, *roots, **settings)))
    return [pair for source in again for pair in source.pairs(counts)], counts


def stored(pairs: list[Pair], folder: Path) -> PairStore:
    """The pairs, written and opened again."""
    folder.mkdir()
    with ShardWriter(folder / "00000.h5") as writer:
        for pair in pairs:
            writer.add(pair)
    entry = finish_shard(folder / "00000.h5", writer.pairs, {}, "job")
    write_json(folder / MANIFEST, {"format": FORMAT, "shards": [entry]})
    return PairStore(folder)


def content(pair: Pair) -> tuple:
    """Everything a pair holds, comparable."""
    parts = [(pair.window, pair.events), *([pair.after] if pair.after else [])]
    events = [(w, *(getattr(e, name).tobytes() for name in "txyp")) for w, e in parts]
    labels = [(k, v.values.tobytes(), v.start_us, v.end_us) for k, v in pair.labels.items()]
    return pair.recording, pair.image_us, events, labels, pair.provenance


def expected_events(start: int, end: int, rows: int, rectified: bool) -> list[tuple]:
    """Events of a window on the labels' grid, one at a time."""
    events, points, found = files.fake_events(), files.rectify_map(), []
    for t, x, y, p in zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True):
        if not start <= t < end:
            continue
        if rectified:
            x, y = (round(float(value)) for value in points[y, x])
        if 0 <= x < files.WIDTH and 0 <= y < rows:
            found.append((t, x, y, p))
    return found


def as_tuples(events: Events) -> list[tuple]:
    return list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))


def assert_adds_up(counts: Counter) -> None:
    """Labels and events are all accounted for."""
    for total, kept in (("labels", "pairs"), ("events decoded", "events kept")):
        kind = f"{total.split()[0]} dropped: "
        lost = sum(number for key, number in counts.items() if key.startswith(kind))
        assert counts[total] == counts[kept] + lost


# --- what all have in common


@pytest.mark.parametrize(
    ("kind", "layouts"),
    [("semantic", files.SEMANTIC), ("depth", files.DEPTH), ("flow", files.FLOW),
     ("flow-test", files.FLOW_TEST)],
)  # fmt: skip
def test_every_layout_gives_the_same_pairs(tmp_path, kind, layouts):
    results = {}
    for number, layout in enumerate(layouts):
        root = WRITERS[kind](tmp_path / str(number), layout)
        results[layout] = list(map(content, prepare(kind, root)[0]))
        (source,) = sources_of(kind, root)
        assert source.found.startswith(f"layout {layout[0]}, ")
        assert all(path.is_file() for path in source.inputs)
    assert results["A"] and all(pairs == results["A"] for pairs in results.values())


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_and_events_are_accounted_for(tmp_path, kind):
    root = WRITERS[kind](tmp_path)
    _, counts = prepare(kind, root)
    (source,) = sources_of(kind, root)
    assert counts["labels"] == source.expected
    assert counts["events decoded"] == len(files.fake_events())
    assert_adds_up(counts)


def test_events_without_a_place_are_counted_by_reason(tmp_path):
    events, points = files.fake_events(), files.rectify_map()
    outside = below = 0
    for x, y in zip(events.x.tolist(), events.y.tolist(), strict=True):
        x, y = (round(float(value)) for value in points[y, x])
        if not (0 <= x < files.WIDTH and 0 <= y < files.HEIGHT):
            outside += 1
        elif y >= files.LABEL_ROWS:
            below += 1
    assert outside and below
    _, counts = prepare("semantic", files.write_semantic(tmp_path), event_view="rectified")
    assert counts["events dropped: outside the rectified view"] == outside
    assert counts["events dropped: below the label image"] == below


def test_events_the_decoder_drops_stay_in_the_tally():
    class Source:
        format, size, notes, has_frames = "fake", (4, 6), {}, False

        def blocks(self, start_us, end_us):
            column = np.arange(4)
            yield RawBlock(0, column + 10, column, column, np.ones(4, np.uint8), {"bad word": 3})

    seen = seen_from(Recording(Path("fake"), Source(), 4, 6), pixel_grid(4, 6), 2)
    assert [as_tuples(events) for events in seen.blocks()] == [[(10, 0, 0, 1), (11, 1, 1, 1)]]
    assert (seen.counts.decoded, seen.counts.kept) == (7, 2)
    assert seen.counts.dropped == {"bad word": 3, "below the label image": 2}


def test_splits_are_those_of_the_protocols():
    def sizes(module) -> Counter:  # noqa: ANN001
        return Counter(module.SPLITS.values())

    assert sizes(dsec_semantic) == {"train": 8, "test": 3}
    chosen = {name: sum(len(range(labels)[skip::stride]) for labels in (379, 1191, 1239))
              for name, (skip, stride) in dsec_semantic.CHOICE.items()}  # fmt: skip
    assert chosen == {"all": 2809, "ess": 1397}
    assert sizes(dsec_depth) == {"train": 31, "test": 10}
    assert sizes(dsec_flow) == {"train": 13, "validation": 5, "test": 7}
    # maps of every sequence, as counted in the data set: 19,217 train and 7,167 test
    maps = """interlaken_00 c 269 d 996 e 996 f 746 g 668
        thun_00 a 120
        zurich_city_00 a 470 b 732
        zurich_city_01 a 341 b 663 c 489 d 398 e 996 f 787
        zurich_city_02 a 118 b 613 c 1442 d 922 e 923
        zurich_city_03 a 442
        zurich_city_04 a 351 b 135 c 591 d 479 e 135 f 430
        zurich_city_05 a 877 b 815
        zurich_city_06 a 762
        zurich_city_07 a 732
        zurich_city_08 a 394
        zurich_city_09 a 907 b 184 c 662 d 850 e 409
        zurich_city_10 a 1158 b 1203
        zurich_city_11 a 233 b 967 c 979"""
    found: Counter[str] = Counter()
    for line in maps.splitlines():
        drive, *parts = line.split()
        for letter, number in zip(parts[::2], parts[1::2], strict=True):
            found[dsec_depth.SPLITS[f"{drive}_{letter}"]] += int(number)
    assert found == {"train": 19_217, "test": 7_167}


def test_sequences_of_other_benchmarks_are_passed_over(tmp_path):
    for sequence in ("zurich_city_00_a", "zurich_city_11_c", "zurich_city_13_a"):
        files.write_semantic(tmp_path, "E", sequence)
    pairs, _ = prepare("semantic", tmp_path)
    assert {p.recording: p.provenance["split"] for p in pairs} == {
        "zurich_city_00_a": "train",
        "zurich_city_13_a": "test",
    }
    pairs, _ = prepare("semantic", tmp_path, sequences=["zurich_city_13_a"])
    assert {pair.recording for pair in pairs} == {"zurich_city_13_a"}
    with pytest.raises(ConfigError, match="zurich_city_11_c"):
        prepare("semantic", tmp_path, sequences=["zurich_city_11_c"])


def test_roots_without_the_benchmark(tmp_path):
    with pytest.raises(ConfigError, match="folder of its data"):
        prepare("depth")
    files.write_semantic(tmp_path / "one", "E", "zurich_city_13_a")
    with pytest.raises(DataError, match="no sequence of this benchmark") as caught:
        prepare("depth", tmp_path / "one")
    assert caught.value.found == "zurich_city_13_a"
    for layout in ("A", "E"):
        files.write_depth(tmp_path / "two", layout)
    with pytest.raises(DataError, match="found twice"):
        prepare("depth", tmp_path / "two")


@pytest.mark.parametrize(
    ("kind", "part"),
    [("semantic", "11classes"), ("semantic", "zurich_city_00_a_semantic_timestamps.txt"),
     ("depth", "disparity/event"), ("depth", "disparity/timestamps.txt"),
     ("depth", "calibration/cam_to_cam.yaml"), ("depth", "events/left/rectify_map.h5"),
     ("flow", "flow/forward"), ("flow", "flow/forward_timestamps.txt"),
     ("flow", "events/left/rectify_map.h5")],
)  # fmt: skip
def test_what_is_missing_is_named(tmp_path, kind, part):
    root = WRITERS[kind](tmp_path)
    (sequence,) = (root / "train").iterdir()
    (sequence / part).rename(root / "gone")
    with pytest.raises(DataError, match=f"{sequence.name} .layout .. has no {part}"):
        prepare(kind, root)


# --- dsec-semantic


@pytest.mark.parametrize("view", ["raw", "rectified"])
def test_class_ids_and_events_come_back(tmp_path, view):
    pairs, _ = prepare(
        "semantic", files.write_semantic(tmp_path), event_view=view, window="time", window_ms=30
    )
    store = stored(pairs, tmp_path / "pairs")
    assert len(store) == len(files.SEMANTIC_US)
    for number, time in enumerate(files.SEMANTIC_US):
        shard, row = store.locate(number)
        label = shard.label("semantics", row)
        assert label.values.dtype == np.uint8
        assert np.array_equal(label.values, files.class_ids(number))
        assert label.start_us == label.end_us == time
        events, window = shard.events(row)
        assert (window.start_us, window.end_us) == (time - 30_000, time)
        assert (events.height, events.width) == (files.LABEL_ROWS, files.WIDTH)
        rectified = view == "rectified"
        wanted = expected_events(time - 30_000, time, files.LABEL_ROWS, rectified)
        assert sorted(as_tuples(events)) == sorted(wanted)
        assert shard.image(row) == b"" and shard.after(row) is None
        assert shard.provenance(row) == {
            "sequence": "zurich_city_00_a",
            "split": "train",
            "file": f"{number:06d}.png",
            "number": number,
        }


@pytest.mark.parametrize("sequence", ["zurich_city_00_a", "zurich_city_13_a"])
def test_every_label_is_taken_or_the_choice_of_ess(tmp_path, sequence):
    root = files.write_semantic(tmp_path, "E", sequence)
    pairs, counts = prepare("semantic", root)
    assert [pair.image_us for pair in pairs] == list(files.SEMANTIC_US)
    assert not counts["labels dropped: not of the protocol"]
    pairs, counts = prepare("semantic", root, labels="ess")
    assert [pair.image_us for pair in pairs] == list(files.SEMANTIC_US[6::2])
    assert [pair.provenance["number"] for pair in pairs] == [6, 8, 10, 12]  # in all labels
    assert counts["labels dropped: not of the protocol"] == 10
    assert counts["labels"] == 14
    pairs, _ = prepare("semantic", root, label_skip=1, label_stride=3)
    assert [pair.provenance["file"] for pair in pairs] == [
        f"{number:06d}.png" for number in (1, 4, 7, 10, 13)
    ]


def test_windows_are_half_open(tmp_path):
    end = files.SEMANTIC_US[3]
    times = [end - 100_000, end - 50_001, end - 50_000, end - 1, end, end + 1, end + 500_000]
    column = np.arange(len(times), dtype=np.uint16)
    ones = np.ones(len(times), np.uint8)
    events = Events(np.array(times), column, column, ones, files.HEIGHT, files.WIDTH)
    root = files.write_semantic(tmp_path, events=events)
    pairs, counts = prepare("semantic", root, window="time", window_ms=50, event_view="raw")
    found = {pair.image_us - end: pair.events.x.tolist() for pair in pairs}
    assert found == {-50_000: [0, 1], 0: [2, 3], 50_000: [4, 5]}
    assert counts["labels dropped: before the first event"] == 2
    assert counts["labels dropped: empty window"] == 9
    assert_adds_up(counts)


def test_labels_without_events_at_all(tmp_path):
    root = files.write_semantic(tmp_path)
    times = root / "train/zurich_city_00_a/zurich_city_00_a_semantic_timestamps.txt"
    files.write_lines(times, [time + 10**9 for time in files.SEMANTIC_US])
    with pytest.raises(DataError, match="no label has events before it") as caught:
        prepare("semantic", root, event_view="raw")
    assert str(files.SEMANTIC_US[0] + 10**9) in caught.value.found
    assert str(files.fake_events().t[0]) in caught.value.expected


def spoil_class(path: Path) -> None:
    ids = files.class_ids(0)
    ids[5, 7] = 11
    Image.fromarray(ids).save(path)


SPOILT_LABELS = {
    "11; 1 such pixels": spoil_class,
    "mode RGB": lambda path: Image.new("RGB", (files.WIDTH, files.LABEL_ROWS)).save(path),
    "mode I;16": lambda path: path.write_bytes(
        write_png16(np.zeros((files.LABEL_ROWS, files.WIDTH, 1), np.uint16))
    ),
    "128x136": lambda path: Image.new("L", (files.WIDTH, files.HEIGHT)).save(path),
    "cannot be read": lambda path: path.write_bytes(path.read_bytes()[:-4000]),
}


@pytest.mark.parametrize("what", SPOILT_LABELS)
def test_damaged_class_maps_are_refused(tmp_path, what):
    root = files.write_semantic(tmp_path)
    path = root / "train/zurich_city_00_a/11classes/000002.png"
    SPOILT_LABELS[what](path)
    with pytest.raises(DataError) as caught:
        prepare("semantic", root)
    assert what in str(caught.value) and str(path) in str(caught.value.where)
    if what.startswith("11;"):
        assert "row 5, column 7" in caught.value.where


def test_palette_pngs_hold_their_numbers(tmp_path):
    root = files.write_semantic(tmp_path)
    path = root / "train/zurich_city_00_a/11classes/000002.png"
    picture = Image.fromarray(files.class_ids(2), "P")
    picture.putpalette(bytes(range(256)) * 3)
    picture.save(path)
    pairs, _ = prepare("semantic", root)
    assert np.array_equal(pairs[2].labels["semantics"].values, files.class_ids(2))


# --- dsec-depth


def test_depth_comes_back(tmp_path):
    pairs, counts = prepare("depth", files.write_depth(tmp_path), window="time", window_ms=50)
    store = stored(pairs, tmp_path / "pairs")
    assert len(store) == len(files.DEPTH_US) - 1 == counts["pairs"]
    for number, time in enumerate(files.DEPTH_US[1:], 1):
        shard, row = store.locate(number - 1)
        label = shard.label("depth", row)
        assert label.values.dtype == np.float32 and label.start_us == time
        words = files.disparity_words(number)
        for y, x in ((0, 0), (50, 3), (135, 127), *np.argwhere(words == 0)[:2]):
            if words[y, x] == 0:
                assert np.isnan(label.values[y, x])
                continue
            depth = files.FOCAL * files.BASELINE / (int(words[y, x]) / 256)
            assert label.values[y, x] == pytest.approx(depth, rel=1e-7)
        assert np.array_equal(np.isnan(label.values), words == 0)
        events, window = shard.events(row)
        assert (window.start_us, window.end_us) == (time - 50_000, time)
        wanted = expected_events(time - 50_000, time, files.HEIGHT, True)
        assert sorted(as_tuples(events)) == sorted(wanted)
        assert shard.provenance(row)["file"] == f"{2 * number:06d}.png"
    assert counts["labels dropped: not of the protocol"] == 1


def test_depth_matches_the_reference(tmp_path):
    golden = np.load(GOLDEN)
    path, calibration = tmp_path / "map.png", tmp_path / "cam_to_cam.yaml"
    path.write_bytes(golden["disparity__png"].tobytes())
    files.write_calibration(calibration, golden["Q_event"].tolist())
    depth = dsec_depth.read_depth(path, (24, 32), read_depth_scale(calibration))
    known = golden["disparity"] > 0
    assert np.array_equal(np.isfinite(depth), known)
    np.testing.assert_allclose(depth[known], golden["depth"][known], rtol=2e-7)


def test_calibration_without_depth(tmp_path):
    root = files.write_depth(tmp_path)
    path = root / "train/zurich_city_00_a/calibration/cam_to_cam.yaml"
    for matrix, what in ((np.eye(3).tolist(), "cams_03"), (np.eye(4).tolist(), "baseline")):
        files.write_calibration(path, matrix)
        with pytest.raises(DataError, match=what):
            prepare("depth", root)
    path.write_text("extrinsics: {}")
    with pytest.raises(DataError, match="missing"):
        prepare("depth", root)


@pytest.mark.parametrize("what", ["8 bits", "size", "cut short"])
def test_damaged_disparity_is_refused(tmp_path, what):
    root = files.write_depth(tmp_path)
    path = root / "train/zurich_city_00_a/disparity/event/000006.png"
    if what == "8 bits":
        Image.new("L", (files.WIDTH, files.HEIGHT)).save(path)
    elif what == "size":
        path.write_bytes(write_png16(np.ones((files.LABEL_ROWS, files.WIDTH, 1), np.uint16)))
    else:
        path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError) as caught:
        prepare("depth", root)
    assert str(path) in str(caught.value.where)


# --- dsec-flow


def test_flow_comes_back_with_both_windows(tmp_path):
    pairs, counts = prepare("flow", files.write_flow(tmp_path))
    store = stored(pairs, tmp_path / "pairs")
    assert len(store) == len(files.SPANS_US) == counts["pairs"] > 3
    for number, (start, end) in enumerate(files.SPANS_US):
        shard, row = store.locate(number)
        label = shard.label("flow", row)
        assert (label.start_us, label.end_us) == (start, end)
        flow, valid = files.flow_and_valid(number)
        assert label.values.dtype == np.float32
        assert np.array_equal(label.values[:, valid], flow[:, valid])
        assert np.isnan(label.values[:, ~valid]).all()
        both = (shard.events(row), (2 * start - end, start)), (shard.after(row), (start, end))
        for (events, window), span in both:
            assert (window.start_us, window.end_us) == span
            wanted = expected_events(*span, files.HEIGHT, True)
            assert sorted(as_tuples(events)) == sorted(wanted)
        assert store.locate(number)[0].rows("image_us")[row] == start
        assert shard.provenance(row)["split"] == "train"


def test_spans_are_half_open(tmp_path):
    start, end = files.SPANS_US[2]
    before = 2 * start - end
    times = [before - 50_000, before - 1, before, start - 1, start, end - 1, end, end + 10**6]
    column = np.arange(len(times), dtype=np.uint16) + 50  # stays in the rectified view
    ones = np.ones(len(times), np.uint8)
    events = Events(np.array(times), column, column, ones, files.HEIGHT, files.WIDTH)
    pairs, _ = prepare("flow", files.write_flow(tmp_path, events=events))
    (pair,) = [pair for pair in pairs if pair.image_us == start]
    assert pair.events.t.tolist() == [before, start - 1]
    assert pair.after[1].t.tolist() == [start, end - 1]


def test_the_flow_test_set_has_names_for_its_answers(tmp_path):
    pairs, _ = prepare("flow", files.write_flow_test(tmp_path))
    assert [pair.provenance for pair in pairs] == [
        {"sequence": "thun_01_a", "split": "test", "file_index": index}
        for _, _, index in files.TEST_SPANS_US
    ]
    for pair, (start, end, _) in zip(pairs, files.TEST_SPANS_US, strict=True):
        assert not pair.labels
        assert (pair.window.end_us, pair.after[0].end_us) == (start, end)
        assert len(pair.events) and len(pair.after[1])


def test_no_span_of_the_test_set_is_dropped(tmp_path):
    """A submission without one of its files is refused by the benchmark."""
    root = files.write_flow_test(tmp_path)
    (times,) = root.rglob("*.csv")
    late = files.START_US + 10 * files.SPAN_US
    spans = [(files.START_US - 900_000, files.START_US - 800_000, 3), *files.TEST_SPANS_US,
             (late, late + 100_000, 9000)]  # fmt: skip
    files.write_lines(times, (", ".join(map(str, span)) for span in spans))
    pairs, counts = prepare("flow", root)
    assert [pair.provenance["file_index"] for pair in pairs] == [index for *_, index in spans]
    assert counts["labels"] == counts["pairs"] == len(spans)
    assert counts["spans without events, kept"] == 2
    assert [len(pair.events) > 0 for pair in pairs] == [False, *[True] * (len(spans) - 2), False]


def test_spans_outside_the_recording_are_dropped(tmp_path):
    root = files.write_flow(tmp_path)
    times = root / "train/zurich_city_01_a/flow/forward_timestamps.txt"
    last = files.START_US + files.SPAN_US
    spans = [(files.START_US - 50_000, files.START_US + 50_000), *files.SPANS_US[1:-1],
             (last - 50_000, last + 50_000)]  # fmt: skip
    files.write_lines(times, (f"{start}, {end}" for start, end in spans))
    pairs, counts = prepare("flow", root)
    assert [pair.image_us for pair in pairs] == [start for start, _ in files.SPANS_US[1:-1]]
    assert counts["labels dropped: before the first event"] == 1
    assert counts["labels dropped: after the last event"] == 1
    assert_adds_up(counts)


def test_flow_takes_no_rule_for_windows():
    with pytest.raises(ConfigError, match="window is for every data set but .*dsec-flow"):
        load_config(PrepareConfig, {"name": "dsec-flow", "window": "time"})


def test_flow_of_another_size(tmp_path):
    root = files.write_flow(tmp_path)
    path = root / "train/zurich_city_01_a/flow/forward/000004.png"
    path.write_bytes(write_png16(np.zeros((files.HEIGHT, 64, 3), np.uint16)))
    with pytest.raises(DataError, match="label and events differ in size") as caught:
        prepare("flow", root)
    assert caught.value.where == path and "64x136" in caught.value.found


# --- times


def test_count_mismatch_tells_both_numbers(tmp_path):
    root = files.write_depth(tmp_path)
    (root / "train/zurich_city_00_a/disparity/event/000004.png").unlink()
    with pytest.raises(DataError, match="7 labels, 8 time stamps"):
        prepare("depth", root)


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "no label times"), ("# header\n", "no label times"), ("5, 9\n8, 12.5\n", "line 2"),
     ("5, 9\n8\n", "line 2"), ("5, 9\n5, 12\n", "not ascending"), ("5, 9\n8, 9\n", "not ascending"),
     ("5, 5\n", "ends before it starts"), ("5, 9\n# end\nfrom, to\n", "line 3"),
     ("1" * 30 + ", 9\n", "line 1")],
)  # fmt: skip
def test_bad_times_are_refused(tmp_path, text, what):
    path = tmp_path / "times.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=what) as caught:
        read_times(path, 2)
    assert str(path) in str(caught.value.where)


def test_times_with_and_without_a_header(tmp_path):
    path = tmp_path / "times.csv"
    for header in ("", "# from_timestamp_us, to_timestamp_us\n", "from_timestamp_us,to\n"):
        path.write_text(f"{header}5, 9\n8,12 # a remark\n\n")
        assert read_times(path, 2).tolist() == [[5, 9], [8, 12]]


def test_rectify_map_of_another_camera(tmp_path):
    root = files.write_depth(tmp_path)
    path = root / "train/zurich_city_00_a/events/left/rectify_map.h5"
    with h5py.File(path, "w") as file:
        file["rectify_map"] = files.rectify_map()[:100]
    with pytest.raises(DataError):
        prepare("depth", root)


def test_sensor_of_dsec_without_a_map():
    assert dsec_labels.sensor_size(None) == (480, 640)
