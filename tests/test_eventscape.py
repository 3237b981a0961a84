"""`prepare eventscape`: one archive of events an image, in a unit that is found."""

import numpy as np
import pytest
from fakes import HEIGHT, TOWN_US, WIDTH, fake_events, write_eventscape, write_times
from PIL import Image
from test_datasets import prepare
from test_davis_benchmarks import rows, stored_rows

from scaleevent.errors import ConfigError, DataError
from scaleevent.pairs.pair import decode_image

WINDOW = {"window": "time", "window_ms": 30}


@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_events_and_images_in_any_unit(tmp_path, unit):
    pairs, counts = prepare("eventscape", write_eventscape(tmp_path, unit), lossless=True, **WINDOW)
    events = fake_events()
    assert [pair.image_us for pair in pairs] == list(TOWN_US[:3])
    for k, pair in enumerate(pairs):
        assert decode_image(pair.image)[7, 9].tolist() == [10 * k, 20 * k, 30]
        assert stored_rows(pair.events) == rows(events, pair.image_us - 30_000, pair.image_us)
        assert pair.provenance["frame"] == f"01_003_{k + 5:04d}_image.png"
    assert pairs[0].recording == "Town01_sequence_3"
    missing = rows(events, TOWN_US[2], TOWN_US[3])
    after = rows(events, TOWN_US[4], 2_000_000)
    assert counts["events kept"] == len(events) - len(missing) - len(after)
    assert counts["images dropped: empty window"] == 1  # its archive is empty
    assert counts["images dropped: after the last event"] == 1 and counts["images"] == 5


def test_towns_and_sequences(tmp_path):
    for town, sequence in (("Town01", "sequence_0"), ("Town05", "sequence_0")):
        write_eventscape(tmp_path / "Town01-05", town=town, sequence=sequence)
    for root in (tmp_path, tmp_path / "Town01-05"):
        pairs, _ = prepare("eventscape", root)
        assert {pair.recording for pair in pairs} == {"Town01_sequence_0", "Town05_sequence_0"}
    pairs, _ = prepare("eventscape", tmp_path, sequences=["Town05_sequence_0"])
    assert {pair.recording for pair in pairs} == {"Town05_sequence_0"}
    with pytest.raises(ConfigError, match="no such sequence"):
        prepare("eventscape", tmp_path, sequences=["Town09_sequence_0"])


def test_one_list_of_times_is_enough(tmp_path):
    folder = write_eventscape(tmp_path) / "Town01/sequence_3"
    (folder / "rgb/data/timestamps.txt").unlink()
    assert len(prepare("eventscape", tmp_path)[0]) == 4
    (folder / "events/data/timestamps.txt").unlink()
    with pytest.raises(DataError, match="files of 1 of 1") as caught:
        prepare("eventscape", tmp_path)
    assert "Town01_sequence_3 has no rgb/data/timestamps.txt" in caught.value.found


def change(name, **columns):
    def spoil(folder):
        path = folder / "events/data" / name
        with np.load(path) as stored:
            values = dict(stored)
        np.savez(path, **(values | {key: make(values[key]) for key, make in columns.items()}))

    return spoil


def shorten(path_of):
    return lambda folder: path_of(folder).write_bytes(path_of(folder).read_bytes()[:-120])


SPOILT = {
    "cannot tell the unit of the events' times": change(
        "01_003_0009_events.npz", t=lambda t: t + 10**12
    ),
    "pictures and time stamps differ in number": lambda folder: (
        folder / "rgb/data/01_003_0007_image.png"
    ).unlink(),
    "times step back": lambda folder: write_times(
        folder / "rgb/data/timestamps.txt", ["5 1.04", "6 1.08", "7 1.07", "8 1.16", "9 1.19"]
    ),
    "events without an image of their number": lambda folder: (
        folder / "events/data/01_003_0009_events.npz"
    ).rename(folder / "events/data/01_003_0010_events.npz"),
    "file name without a number of its own": lambda folder: Image.new("L", (64, 48)).save(
        folder / "rgb/data/01_004_0007_image.png"
    ),
    "images without a file of events": lambda folder: (
        folder / "events/data/01_003_0006_events.npz"
    ).unlink(),
    "events off the sensor": change("01_003_0007_events.npz", x=lambda x: x + 1),
    "damaged NumPy file": shorten(lambda folder: folder / "events/data/01_003_0007_events.npz"),
    "image cannot be read": shorten(lambda folder: folder / "rgb/data/01_003_0007_image.png"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_is_said(tmp_path, what):
    folder = write_eventscape(tmp_path) / "Town01/sequence_3"
    SPOILT[what](folder)
    with pytest.raises(DataError) as caught:
        prepare("eventscape", tmp_path)
    assert caught.value.what == what and "sequence_3" in str(caught.value.where)


def test_events_may_lack_at_an_end_but_not_between(tmp_path):
    folder = write_eventscape(tmp_path) / "Town01/sequence_3/events/data"
    (folder / "01_003_0005_events.npz").unlink()
    (folder / "01_003_0009_events.npz").unlink()
    pairs, counts = prepare("eventscape", tmp_path, **WINDOW)
    assert [pair.image_us for pair in pairs] == [TOWN_US[1]] and counts["images"] == 5
    assert counts["images dropped: before the first event"] == 1
    (folder / "01_003_0008_events.npz").unlink()  # as a download cut short leaves it
    with pytest.raises(DataError, match="images without a file of events") as caught:
        prepare("eventscape", tmp_path, **WINDOW)
    assert caught.value.found == "1 of 5, such as that of image 0008"


def test_a_wrong_root_and_pictures_of_another_size(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no EventScape sequence"):
        prepare("eventscape", tmp_path / "empty")
    folder = write_eventscape(tmp_path / "data") / "Town01/sequence_3"
    Image.new("RGB", (WIDTH, HEIGHT - 1)).save(folder / "rgb/data/01_003_0007_image.png")
    with pytest.raises(DataError, match="not on the event camera's pixels") as caught:
        prepare("eventscape", tmp_path / "data")
    assert "01_003_0007_image.png" in str(caught.value.where) and caught.value.hint is None


def test_the_place_of_damage_is_told(tmp_path):
    events = fake_events()
    archive = "01_003_0007_events.npz"
    folder = write_eventscape(tmp_path / "a") / "Town01/sequence_3"
    change(archive, p=lambda p: np.where(np.arange(len(p)) == 10, 5, p))(folder)
    with pytest.raises(DataError, match="polarity out of range") as caught:
        prepare("eventscape", tmp_path / "a")
    assert str(caught.value.where).endswith(f"events/data, {archive}, event 10")
    folder = write_eventscape(tmp_path / "b") / "Town01/sequence_3"
    change(archive, x=lambda x: x + 1)(folder)
    before = int(np.searchsorted(events.t, TOWN_US[1]))  # events of the first two archives
    first = before + int(np.argmax(events.x[before:] == WIDTH - 1))
    with pytest.raises(DataError, match="events off the sensor") as caught:
        prepare("eventscape", tmp_path / "b")
    assert str(caught.value.where).endswith(f"events/data, event {first}")
