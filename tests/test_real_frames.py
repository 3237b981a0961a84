"""Recordings of real cameras with frames: read, paired, and events on the edges of images."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scaleevent.config.data import PrepareConfig
from scaleevent.datasets import custom
from scaleevent.datasets.video import video_frames, video_length
from scaleevent.events import Events
from scaleevent.pairs.alignment import alignment, best_shift, gradient
from scaleevent.pairs.pair import Pair, decode_image


def real(name: str) -> Path:
    folder = os.environ.get("SCALEEVENT_TEST_DATA")
    if not folder:
        pytest.skip("SCALEEVENT_TEST_DATA is not set: no real recordings")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    if path.suffix == ".aedat4":
        pytest.importorskip("aedat")
    return path


def prepared(path: Path, **settings: object) -> tuple[list[Pair], Counter]:
    counts: Counter[str] = Counter()
    (source,) = custom.sources(PrepareConfig(name="custom", roots=[path], **settings))
    return list(source.pairs(counts)), counts


def shift(pairs: list[Pair], last_us: int = 5000) -> tuple[int, int]:
    """Shift of the events at which the images' gradient under them is largest."""
    scores = [
        alignment(decode_image(pair.image), pair.events.between(pair.image_us - last_us, None))
        for pair in pairs
    ]
    return best_shift(np.mean(scores, axis=0))


def test_alignment_finds_a_planted_shift():
    image = np.full((60, 80, 3), 100, np.uint8)
    image[20:40, 30:50] = 200
    y, x = np.nonzero(gradient(image))
    columns = (np.arange(len(x)), x - 3, y + 2, np.ones(len(x), int))
    events = Events.from_columns(*columns, height=60, width=80)
    scores = alignment(image, events)
    assert best_shift(scores) == (3, -2)


def test_thirteen_frames_of_a_davis_recording():
    pairs, counts = prepared(real("davis/cuke-emlb/demo-01.aedat4"))
    assert len(pairs) == counts["images"] == counts["pairs"] == 13
    assert counts["events decoded"] == counts["events kept"] == 319_512
    first = 1_643_243_628_757_800 + 10_000  # begin of the exposure and half of its 20 ms
    assert [pair.image_us for pair in pairs] == [first + 40_000 * k for k in range(13)]
    assert shift(pairs) == (0, 0)


def test_exposure_that_ends_after_the_events():
    pairs, counts = prepared(real("davis/cuke-emlb/demo-01.aedat4"), exposure_point="end")
    assert len(pairs) == 12 and counts["images dropped: after the last event"] == 1


# these pixels' events come some 8 ms after the change that the frames show: without an offset the
# largest gradient lies one pixel back along the motion, with it at 0
@pytest.mark.parametrize("offset_us", [0, 8000])
def test_frame_before_the_first_event_is_dropped_and_counted(offset_us):
    path = real("davis/event-vision-library/sample.aedat4")
    pairs, counts = prepared(path, offset_us=offset_us)
    if not offset_us:
        assert len(pairs) == 3 and counts["images"] == 4
        assert counts["images dropped: before the first event"] == 1
    x, y = shift(pairs)
    assert y == 0 and abs(x) <= (0 if offset_us else 1)


@pytest.mark.parametrize("offset_us", [0, 8000])
def test_pictures_listed_beside_events_in_text(offset_us):
    path = real("davis/slider_depth")
    pairs, counts = prepared(path, offset_us=offset_us)
    assert counts["images"] == 87 and counts["events kept"] == 50_000
    x, y = shift(pairs)
    assert y == 0 and abs(x) <= (0 if offset_us else 1)
    if not offset_us:
        assert [pair.image_us for pair in pairs] == [38_766, 77_531, 116_296, 155_062]
        assert counts["images dropped: before the first event"] == 1
        assert counts["images dropped: after the last event"] == 82
        for number, pair in enumerate(pairs, 1):
            assert pair.image == (path / f"images/frame_{number:08d}.png").read_bytes()


def test_a_video_is_as_long_as_counted():
    pytest.importorskip("av")
    path = real("videos/rpg_vid2e/esim_py/video.avi")
    frames = list(video_frames(path))
    assert video_length(path) == len(frames) == 161
    assert frames[0].shape == (180, 240, 3) and frames[0].dtype == np.uint8
    assert frames[0].mean() == pytest.approx(112.6, abs=1)
