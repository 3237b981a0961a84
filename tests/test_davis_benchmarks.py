import pickle
import tracemalloc
import weakref
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from scaleevent.datasets import hdf5_frames, mvsec, mvsec_depth, mvsec_flow
from scaleevent.datasets.timed_labels import read_ids
from scaleevent.errors import DataError
from scaleevent.events import Events
from scaleevent.pairs.pair import decode_image
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.system.files import write_json
from tests.davis_files import (
    DAVIS,
    DEPTHS_US,
    DRIVE_US,
    FLOW_US,
    FRAMES_US,
    IMAGES_US,
    START_US,
    class_masks,
    davis_events,
    depth_maps,
    drive_events,
    flow_maps,
    sources,
    write_ddd17,
    write_depth,
    write_drive,
    write_flow,
    write_mvsec_truth,
)


def prepare(folder: Path, name: str, *roots: Path, **settings: object):
    """The prepared store and the tally; sources cross a process boundary on the way."""
    counts: Counter[str] = Counter()
    shards = []
    folder.mkdir()
    for source in pickle.loads(pickle.dumps(sources(name, *roots, **settings))):
        before = counts["labels"]
        with ShardWriter(folder / f"{source.name}.h5") as writer:
            for pair in source.pairs(counts):
                writer.add(pair)
        shards.append(finish_shard(writer.path, writer.pairs, {}, "job"))
        assert counts["labels"] - before == source.expected
        assert all(path.is_file() for path in source.inputs)
    write_json(folder / MANIFEST, {"format": FORMAT, "settings": {}, "shards": shards})
    for kind, kept in (("labels", "pairs"), ("events decoded", "events kept")):
        lost = f"{kind.split()[0]} dropped: "
        assert counts[kind] == counts[kept] + sum(
            number for key, number in counts.items() if key.startswith(lost)
        )
    store = PairStore(folder)
    assert len(store) == counts["pairs"]
    return store, counts


def rows(events: Events, start_us: int, end_us: int, below: int = DAVIS[0]) -> list[tuple]:
    """The events of a window, one by one."""
    every = zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True)
    return [row for row in every if start_us <= row[0] < end_us and row[2] < below]


def stored_rows(events: Events) -> list[tuple]:
    return list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))


def pairs(store: PairStore):
    for index in range(len(store)):
        yield store.locate(index)


# --- mvsec-depth


def test_depth_windows_and_images(tmp_path):
    write_depth(tmp_path / "outdoor_night")
    store, counts = prepare(
        tmp_path / "s", "mvsec-depth", tmp_path, window="time", window_ms=30, lossless=True
    )
    assert counts["labels"] == counts["pairs"] == 4
    events, maps = davis_events(), depth_maps()
    for number, ((shard, row), frame) in enumerate(zip(pairs(store), (1, 2, 3, 3), strict=True)):
        time = int(DEPTHS_US[number])
        found, window = shard.events(row)
        assert (window.start_us, window.end_us) == (time - 30_000, time)
        assert stored_rows(found) == rows(events, time - 30_000, time)
        label = shard.label("depth", row)
        assert (label.start_us, label.end_us) == (time, time)
        expected = maps[number].copy()
        expected[0, :3] = np.nan
        assert label.values.dtype == np.float32
        np.testing.assert_array_equal(label.values, expected)
        printed = shard.provenance(row)
        if number == 3:  # the nearest image is more than 50 ms away
            assert printed.pop("frame") is None and shard.image(row) == b""
        else:
            assert (printed.pop("frame"), printed.pop("frame_us")) == (frame, IMAGES_US[frame])
            assert (decode_image(shard.image(row)) == 10 * (frame + 1)).all()
        assert printed == {
            "sequence": "outdoor_night2", "split": "test", "subset": "night", "map": number,
        }  # fmt: skip


def test_stamps_of_the_camera_come_back_from_seconds(tmp_path):
    rng = np.random.default_rng(1)
    stamps = START_US + np.sort(rng.choice(10**9, 5000, replace=False)).astype(np.int64)
    assert np.array_equal(mvsec.ascending_times(stamps / 1e6, "here"), stamps)


def test_depth_splits(tmp_path):
    for scene in mvsec_depth.SCENES:
        write_depth(tmp_path / scene[:-1] / scene, scene)
    found = sources("mvsec-depth", tmp_path)
    assert [source.name for source in found] == sorted(mvsec_depth.SCENES)
    (one,) = sources("mvsec-depth", tmp_path, sequences=["outdoor_day2"])
    assert next(one.pairs(Counter())).provenance["split"] == "train"


def test_labels_that_cannot_be_used_are_counted(tmp_path):
    maps = depth_maps()
    maps[1] = np.nan
    times = DEPTHS_US.copy()
    times[0], times[3] = START_US - 5, START_US + 10**6
    root = write_depth(tmp_path / "a", maps=maps)
    (root / "outdoor_night2_gt.hdf5").unlink()
    write_mvsec_truth(root / "outdoor_night2_gt.hdf5", depth_image_raw=(maps, times))
    _, counts = prepare(tmp_path / "s", "mvsec-depth", root)
    assert counts["pairs"] == 1
    for reason in ("before the first event", "after the last event", "no pixel with depth"):
        assert counts[f"labels dropped: {reason}"] == 1


def test_no_depth_at_all(tmp_path):
    root = write_depth(tmp_path, maps=np.full((4, *DAVIS), np.nan, np.float32))
    (source,) = sources("mvsec-depth", root)
    with pytest.raises(DataError, match="no pixel with depth': 4"):
        list(source.pairs(Counter()))


def test_maps_are_read_in_blocks(tmp_path, monkeypatch):
    write_depth(tmp_path / "d")
    whole, _ = prepare(tmp_path / "whole", "mvsec-depth", tmp_path / "d")
    read = []
    reader = mvsec.Hdf5Maps.read

    def noted(maps: mvsec.Hdf5Maps, start: int, stop: int) -> np.ndarray:
        read.append((maps.name, start, stop))
        return reader(maps, start, stop)

    monkeypatch.setattr(mvsec.Hdf5Maps, "read", noted)
    monkeypatch.setattr(hdf5_frames, "BLOCK_MAPS", 1)
    monkeypatch.setattr(hdf5_frames, "BLOCK_BYTES", 1)
    blocks, _ = prepare(tmp_path / "blocks", "mvsec-depth", tmp_path / "d")
    assert all(stop - start == 1 for _, start, stop in read)
    assert len(read) == len(set(read)) == 7  # four maps, three images, each once
    assert whole.fingerprint == blocks.fingerprint


def test_no_more_than_two_blocks_are_held():
    given = []

    def read(start: int, stop: int) -> np.ndarray:
        block = np.arange(start, stop)
        given.append(weakref.ref(block))
        return block

    reader = hdf5_frames.BlockReader(read, 100, hdf5_frames.BLOCK_BYTES)  # eight a block
    for number in range(100):
        assert reader[number] == number and reader[max(number - 8, 0)] == max(number - 8, 0)
        assert sum(block() is not None for block in given) <= 2
    assert len(given) == 13


# --- mvsec-flow


def walked(x: int, y: int, start: int, end: int) -> tuple[float, float]:
    """Displacement of one pixel by EV-FlowNet's rule, map by map."""
    maps, times = flow_maps(), FLOW_US.tolist()
    k = max(number for number, time in enumerate(times) if time <= start)
    if end - start < times[k + 1] - times[k]:
        share = (end - start) / (times[k + 1] - times[k])
        return maps[k, 0, y, x] * share, maps[k, 1, y, x] * share
    at, alive = [float(x), float(y)], [True, True]
    while True:
        share = (min(end, times[k + 1]) - max(start, times[k])) / (times[k + 1] - times[k])
        column, row = round(at[0]), round(at[1])
        inside = 0 <= column < DAVIS[1] and 0 <= row < DAVIS[0]
        step = maps[k, :, row, column] if inside else (0.0, 0.0)
        for axis in (0, 1):
            alive[axis] &= step[axis] != 0
            at[axis] += step[axis] * share
        if times[k + 1] >= end:
            break
        k += 1
    return tuple(
        moved if lives else 0.0 for moved, lives in zip((at[0] - x, at[1] - y), alive, strict=True)
    )


@pytest.mark.parametrize("dt", [1, 4])
def test_flow_between_images(tmp_path, dt):
    root = write_flow(tmp_path / "mvsec")
    store, counts = prepare(
        tmp_path / "s", "mvsec-flow", root, dt=dt, all_frames=True, lossless=True
    )
    assert counts["pairs"] == counts["labels"] == len(FRAMES_US) - 1 - dt  # the first has no truth
    events = davis_events()
    rng = np.random.default_rng(3)
    for first, (shard, row) in enumerate(pairs(store), 1):
        start, end = int(FRAMES_US[first]), int(FRAMES_US[first + dt])
        before, window = shard.events(row)
        assert (window.start_us, window.end_us) == (2 * start - end, start)
        assert stored_rows(before) == rows(events, 2 * start - end, start)
        after, window = shard.after(row)
        assert (window.start_us, window.end_us) == (start, end)
        assert stored_rows(after) == rows(events, start, end)
        assert (decode_image(shard.image(row)) == 10 * (first + 1)).all()
        assert shard.provenance(row) == {
            "sequence": "indoor_flying2", "split": "test", "frame": first, "dt": dt,
        }  # fmt: skip
        label = shard.label("flow", row)
        assert (label.start_us, label.end_us) == (start, end)
        assert label.values.shape == (2, *DAVIS) and label.values.dtype == np.float32
        assert np.isnan(label.values[:, [10, 12], [10, 12]]).all()
        some = zip(rng.integers(0, DAVIS[1], 12), rng.integers(0, DAVIS[0], 12), strict=True)
        for x, y in (*some, (3, 5), (0, 0), (345, 259)):
            u, v = walked(int(x), int(y), start, end)
            found = label.values[:, y, x]
            if u == v == 0:
                assert np.isnan(found).all()
            else:
                np.testing.assert_allclose(found, (u, v), atol=1e-4)


def test_every_form_of_the_truth_gives_the_same_pairs(tmp_path):
    prints = set()
    for truth in ("npz", "compressed", "hdf5"):
        root = write_flow(tmp_path / truth, truth=truth)
        store, _ = prepare(tmp_path / f"s-{truth}", "mvsec-flow", root, dt=4, all_frames=True)
        prints.add(store.fingerprint)
    assert len(prints) == 1


def test_only_frames_of_the_published_range(tmp_path, monkeypatch):
    root = write_flow(tmp_path / "mvsec")
    with pytest.raises(DataError, match="140 and 1500"):
        sources("mvsec-flow", root)
    scenes = {"indoor_flying2": ("test", slice(1, 5))}  # 100 to 250 ms
    monkeypatch.setattr(mvsec_flow, "SCENES", scenes)
    store, _ = prepare(tmp_path / "s", "mvsec-flow", root)
    assert [shard.provenance(row)["frame"] for shard, row in pairs(store)] == [3, 4]


def test_gaps_and_repeated_stamps_between_images(tmp_path, monkeypatch):
    root = write_flow(tmp_path / "mvsec")
    path = root / "hdf5" / "indoor_flying2_data.hdf5"
    with h5py.File(path, "r+") as file:
        times = FRAMES_US / 1e6
        times[3] = times[2]
        file["davis/left/image_raw_ts"][...] = times
    monkeypatch.setattr(mvsec_flow, "LONGEST_US", 60_000)
    _, counts = prepare(tmp_path / "s", "mvsec-flow", root, all_frames=True)
    assert counts["labels dropped: repeated time stamp"] == 1
    assert counts["labels dropped: gap between the images"] == 1
    assert counts["pairs"] == 3


# --- ddd17-seg


def test_semantics_windows_and_images(tmp_path):
    write_drive(tmp_path / "data")
    store, counts = prepare(
        tmp_path / "s", "ddd17-seg", tmp_path, window="time", window_ms=40, lossless=True
    )
    events, masks = drive_events(), class_masks(2, 4, 5)
    for place, ((shard, row), number) in enumerate(zip(pairs(store), (2, 4, 5), strict=True)):
        time = int(DRIVE_US[number - 1])
        found, window = shard.events(row)
        assert (found.height, found.width) == (200, 346)
        assert (window.start_us, window.end_us) == (time - 40_000, time)
        assert stored_rows(found) == rows(events, time - 40_000, time, below=200)
        label = shard.label("semantics", row)
        assert (label.start_us, label.end_us) == (time, time)
        assert label.values.dtype == np.uint8
        np.testing.assert_array_equal(label.values, masks[number])
        picture = decode_image(shard.image(row))
        assert picture.shape == (200, 346, 3) and (picture == 10 * number).all()
        printed = {"sequence": "dir0", "split": "train", "frame": number, "number": place}
        assert shard.provenance(row) == printed
    assert counts["events decoded"] == len(events)
    hood = int((events.y >= 200).sum())
    assert counts["events dropped: below the label image"] == hood > 0


def test_the_count_rule_counts_what_is_seen(tmp_path):
    write_drive(tmp_path)
    (source,) = sources("ddd17-seg", tmp_path, window="count", window_events=300 / 69_200)
    pair = list(source.pairs(Counter()))[-1]
    seen = rows(drive_events(), 0, pair.image_us, below=200)
    assert stored_rows(pair.events) == [row for row in seen if row[0] >= seen[-300][0]]


def test_splits_of_ddd17(tmp_path):
    for name in ("dir0", "dir1", "dir5", "dir7"):
        write_drive(tmp_path, name)
    found = {
        source.name: next(source.pairs(Counter())).provenance["split"]
        for source in sources("ddd17-seg", tmp_path)
    }
    assert found == {"dir0": "train", "dir1": "test", "dir7": "train"}
    (single,) = sources("ddd17-seg", tmp_path, sequences=["dir5"])
    assert next(single.pairs(Counter())).provenance["split"] == "val"


def test_masks_that_cannot_be_used_are_counted_and_pictures_may_be_absent(tmp_path):
    masks = class_masks(1, 2, 3, 6)
    masks[3][:] = 255
    folder = write_drive(tmp_path, masks=masks)
    (folder / "imgs" / "img_00000002.png").unlink()
    store, counts = prepare(tmp_path / "s", "ddd17-seg", tmp_path)
    assert counts["pairs"] == 1 and store.image_bytes.tolist() == [0]
    for reason in ("before the first event", "after the last event", "no pixel with a class"):
        assert counts[f"labels dropped: {reason}"] == 1


def test_masks_stored_as_grey_colours(tmp_path):
    folder = write_drive(tmp_path)
    mask = class_masks(2)[2]
    path = folder / "segmentation_masks" / "segmentation_00000002.png"
    Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(path)
    assert np.array_equal(read_ids(path, (200, 346), 6, grey=True), mask)


def test_memory_does_not_grow_with_the_recording(tmp_path):
    events = davis_events(3_000_000, span_us=60_000_000, start_us=0)
    times = list(range(1_000_000, 60_000_000, 10_000_000))
    folder = tmp_path / "dir1"
    write_ddd17(folder, events, times, class_masks(*range(1, len(times) + 1)), pictures=False)
    del events
    (source,) = sources("ddd17-seg", tmp_path)
    assert sum(1 for _ in source.pairs(Counter())) == len(times)  # compiles
    tracemalloc.start()
    for _ in source.pairs(Counter()):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 45e6 < 3_000_000 * 22  # 22 bytes an event in memory would be all of them
