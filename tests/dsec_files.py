"""Small roots of the label benchmarks on DSEC in the layouts people have, with planted answers.

The sensor has 136 rows, so that labels of DSEC-Semantic, 40 rows shorter, are 96x128.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import yaml
from PIL import Image

from scaleevent.datasets.flow_png import encode_flow, write_png16
from scaleevent.events import Events
from tests.event_files import some_events, write_dsec

HEIGHT, WIDTH, LABEL_ROWS = 136, 128, 96
START_US, SPAN_US = 5_000_000, 800_000
SEMANTIC_US = tuple(range(START_US + 10_000, START_US + 710_000, 50_000))  # 14 labels, 20 Hz
DEPTH_US = tuple(range(START_US - 40_000, START_US + 760_000, 100_000))  # 8 maps, 10 Hz
SPANS_US = tuple((t, t + 100_003) for t in range(START_US + 100_000, START_US + 600_000, 100_003))
TEST_SPANS_US = tuple((*span, 820 + 20 * k) for k, span in enumerate(SPANS_US))
FOCAL, BASELINE = 557.5, 0.6

# layout: folder of events, of labels, file of times, folder of calibration; {0} is the sequence
SEMANTIC = {
    "A": ("train/{0}/events/left", "train/{0}/11classes",
          "train/{0}/{0}_semantic_timestamps.txt"),
    "A, ESS": ("train/{0}/events/left", "train/{0}/semantic/11classes/data",
               "train/{0}/semantic/timestamps.txt"),
    "A, OpenESS": ("train/{0}/events/left", "train/{0}/semantic/left/11classes",
                   "train/{0}/semantic/semantic_timestamps.txt"),
    "A, labels apart": ("train/{0}/events/left", "labels/train/{0}/11classes",
                        "labels/train/{0}/{0}_semantic_timestamps.txt"),
    "B": ("train_events/{0}/events/left", "train_semantic_segmentation/train/{0}/11classes",
          "train_semantic_segmentation/train/{0}/{0}_semantic_timestamps.txt"),
    "C": ("DSEC/{0}/events_left", "DSEC/{0}/11classes",
          "DSEC/{0}/{0}_semantic_timestamps.txt"),
    "D": ("test/{0}/events_left", "test/{0}/semantic/11classes",
          "test/{0}/semantic/timestamps.txt"),
    "E": ("{0}_events_left", "{0}_semantic/{0}/11classes",
          "{0}_semantic/{0}/{0}_semantic_timestamps.txt"),
    "E, flat": ("{0}_events_left", "{0}_semantic/11classes",
                "{0}_semantic/{0}_semantic_timestamps.txt"),
}  # fmt: skip
DEPTH = {
    "A": ("train/{0}/events/left", "train/{0}/disparity/event",
          "train/{0}/disparity/timestamps.txt", "train/{0}/calibration"),
    "B": ("train_events/{0}/events/left", "train_disparity/{0}/disparity/event",
          "train_disparity/{0}/disparity/timestamps.txt", "train_calibration/{0}/calibration"),
    "C": ("DSEC/{0}/events_left", "DSEC/{0}/disparity_event",
          "DSEC/{0}/disparity_timestamps.txt", "DSEC/{0}/calibration"),
    "E": ("{0}_events_left", "{0}_disparity_event",
          "{0}_disparity_timestamps.txt", "{0}_calibration"),
    "E, one folder": ("{0}/{0}_events_left", "{0}/{0}_disparity_event",
                      "{0}/disparity_timestamps.txt", "{0}/{0}_calibration"),
}  # fmt: skip
FLOW = {
    "A": ("train/{0}/events/left", "train/{0}/flow/forward",
          "train/{0}/flow/forward_timestamps.txt"),
    "B": ("train_events/{0}/events/left", "train_optical_flow/{0}/flow/forward",
          "train_optical_flow/{0}/flow/forward_timestamps.txt"),
    "C": ("DSEC/{0}/events_left", "DSEC/{0}/optical_flow_forward_event",
          "DSEC/{0}/optical_flow_forward_timestamps.txt"),
    "E": ("{0}_events_left", "{0}_optical_flow_forward_event",
          "{0}_optical_flow_forward_timestamps.txt"),
    "E, one folder": ("{0}/{0}_events_left", "{0}/{0}_optical_flow_forward_event",
                      "{0}/{0}_optical_flow_forward_timestamps.txt"),
}  # fmt: skip
FLOW_TEST = {
    "A": ("test/{0}/events/left", "{0}.csv"),
    "B": ("test_events/{0}/events/left", "test_forward_optical_flow_timestamps/{0}.csv"),
    "D": ("test/{0}/events_left", "test/{0}/test_forward_flow_timestamps.csv"),
    "E": ("{0}_events_left", "evaluation/test_forward_optical_flow_timestamps/{0}.csv"),
}


def fake_events(seed: int = 0) -> Events:
    """Random events on the whole sensor, from `START_US` for `SPAN_US`."""
    return some_events(12_000, HEIGHT, WIDTH, start_us=START_US, span_us=SPAN_US, seed=seed)


def rectify_map() -> np.ndarray:
    """(H, W, 2) float32 column and row: a turn and a stretch, so that the border leaves."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    u, v = x - WIDTH / 2, y - HEIGHT / 2
    points = [WIDTH / 2 + 1.07 * u + 0.05 * v + 0.3, HEIGHT / 2 - 0.05 * u + 1.04 * v - 0.4]
    return np.stack(points, -1).astype(np.float32)


def class_ids(number: int) -> np.ndarray:
    """(96, 128) uint8 ids 0 .. 10 and 255, other ones for every label."""
    ids = np.random.default_rng(number).integers(0, 12, (LABEL_ROWS, WIDTH), np.uint8)
    ids[ids == 11] = 255
    return ids


def disparity_words(number: int) -> np.ndarray:
    """(136, 128) uint16, 256 times the disparity; a third is 0, unknown."""
    rng = np.random.default_rng(number)
    words = rng.integers(1, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    words[rng.random(words.shape) < 1 / 3] = 0
    return words


def flow_and_valid(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(2, 136, 128) float32 flow in the file's steps of 1/128 pixel, and (136, 128) bool."""
    rng = np.random.default_rng(number)
    flow = rng.integers(-32768, 32768, (2, HEIGHT, WIDTH)).astype(np.float32) / 128
    return flow, rng.random((HEIGHT, WIDTH)) < 0.5


def write_lines(path: Path, lines: object) -> Path:
    """One a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_events(folder: Path, events: Events | None = None, rectify: bool = True) -> None:
    """events.h5 and rectify_map.h5."""
    folder.mkdir(parents=True)
    write_dsec(folder / "events.h5", fake_events() if events is None else events, START_US - 90_000)
    if rectify:
        with h5py.File(folder / "rectify_map.h5", "w") as file:
            file["rectify_map"] = rectify_map()


def write_semantic(
    root: Path, layout: str = "A", sequence: str = "zurich_city_00_a", events: Events | None = None
) -> Path:
    """A root of DSEC-Semantic with one sequence."""
    place, folder, times = (root / part.format(sequence) for part in SEMANTIC[layout])
    write_events(place, events)
    folder.mkdir(parents=True)
    for number in range(len(SEMANTIC_US)):
        Image.fromarray(class_ids(number)).save(folder / f"{number:06d}.png")
    write_lines(times, SEMANTIC_US)
    return root


def write_depth(
    root: Path, layout: str = "A", sequence: str = "zurich_city_00_a", events: Events | None = None
) -> Path:
    """A root of DSEC's disparity with one sequence; files are numbered as the frames, by twos."""
    place, folder, times, calibration = (root / part.format(sequence) for part in DEPTH[layout])
    write_events(place, events)
    folder.mkdir(parents=True)
    for number in range(len(DEPTH_US)):
        words = disparity_words(number)[..., None]
        (folder / f"{2 * number:06d}.png").write_bytes(write_png16(words))
    write_lines(times, DEPTH_US)
    calibration.mkdir(parents=True, exist_ok=True)
    matrix = [[1.0, 0, 0, -64.2], [0, 1.0, 0, -68.1], [0, 0, 0, FOCAL], [0, 0, 1 / BASELINE, 0]]
    write_calibration(calibration / "cam_to_cam.yaml", matrix)
    return root


def write_calibration(path: Path, matrix: object) -> None:
    """cam_to_cam.yaml with the matrix of the event cameras' disparity."""
    document = {"disparity_to_depth": {"cams_03": matrix}}
    path.write_text("%YAML:1.0\n---\n" + yaml.safe_dump(document, default_flow_style=None))


def write_flow(
    root: Path, layout: str = "A", sequence: str = "zurich_city_01_a", events: Events | None = None
) -> Path:
    """A root of DSEC-Flow with one sequence that has ground truth."""
    place, folder, times = (root / part.format(sequence) for part in FLOW[layout])
    write_events(place, events)
    folder.mkdir(parents=True)
    for number in range(len(SPANS_US)):
        path = folder / f"{2 * number + 2:06d}.png"
        path.write_bytes(encode_flow(*flow_and_valid(number)))
    lines = (f"{start}, {end}" for start, end in SPANS_US)
    write_lines(times, ["# from_timestamp_us, to_timestamp_us", *lines])
    return root


def write_flow_test(root: Path, layout: str = "D", sequence: str = "thun_01_a") -> Path:
    """A root of DSEC-Flow with one sequence of the test set."""
    place, times = (root / part.format(sequence) for part in FLOW_TEST[layout])
    write_events(place)
    lines = (f"{start}, {end}, {index}" for start, end, index in TEST_SPANS_US)
    write_lines(times, ["from_timestamp_us, to_timestamp_us, file_index", *lines])
    return root
