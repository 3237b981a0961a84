"""Damaged and incomplete files of MVSEC and DDD17: what is wrong is said, and where."""

import zipfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from scaleevent.datasets import hdf5_frames
from scaleevent.datasets.mvsec_flow import NpzFlow
from scaleevent.errors import ConfigError, DataError
from tests.davis_files import (
    DAVIS,
    DEPTHS_US,
    FLOW_US,
    class_masks,
    flow_maps,
    sources,
    write_depth,
    write_drive,
    write_flow,
    write_flow_npz,
)


def stepping_back(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        times = file[name][()]
        times[2] = times[0]
        file[name][...] = times


def replaced(path: Path, name: str, data: np.ndarray) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = data


def declared_only(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        old = file[name]
        shape, dtype = old.shape, old.dtype
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]))


def linked(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        with h5py.File(path.with_name("other.hdf5"), "w") as other:
            other["maps"] = file[name][()]
        del file[name]
        file[name] = h5py.ExternalLink(path.with_name("other.hdf5"), "/maps")


def shortened(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


DEPTH = "davis/left/depth_image_raw"
SPOILT_MVSEC = {
    "no ground truth": lambda data, truth: truth.unlink(),
    "found twice": lambda data, truth: (
        (data.parent / "copy").mkdir()
        or (data.parent / "copy" / data.name).write_bytes(data.read_bytes())
    ),
    "times step back.*entry 2": lambda data, truth: stepping_back(truth, f"{DEPTH}_ts"),
    "image_raw_ts, entry 2": lambda data, truth: stepping_back(data, "davis/left/image_raw_ts"),
    "another size": lambda data, truth: replaced(truth, DEPTH, np.ones((4, 346, 260))),
    "3 times|(3,)": lambda data, truth: replaced(truth, f"{DEPTH}_ts", DEPTHS_US[:3] / 1e6),
    "out of range": lambda data, truth: replaced(truth, f"{DEPTH}_ts", np.full(4, np.nan)),
    "no such dataset": lambda data, truth: replaced(truth, DEPTH, np.array([b"depth"])),
    "float64.*expected: uint8": lambda data, truth: replaced(
        data, "davis/left/image_raw", np.ones((5, *DAVIS))
    ),
    "data are missing": lambda data, truth: declared_only(truth, DEPTH),
    "another file": lambda data, truth: linked(truth, DEPTH),
    "damaged": lambda data, truth: shortened(truth),
    "damaged HDF5": lambda data, truth: shortened(data),
    "no events of the left": lambda data, truth: replaced(data, "davis/left/events", np.ones(3)),
    "wrong time stamps": lambda data, truth: replaced(
        data, "davis/left/events", np.array([[1, 1, 9.5, 1.0], [2, 3, 4.25, -1.0]])
    ),
    "off the sensor": lambda data, truth: replaced(
        data, "davis/left/events", np.array([[346, 1, 9.5, 1.0], [2, 3, 9.75, -1.0]])
    ),
}


@pytest.mark.parametrize("what", SPOILT_MVSEC)
def test_spoilt_mvsec_files_are_errors(tmp_path, what):
    write_depth(tmp_path)
    files = tmp_path / "outdoor_night2_data.hdf5", tmp_path / "outdoor_night2_gt.hdf5"
    SPOILT_MVSEC[what](*files)
    with pytest.raises(DataError, match=f"(?s){what}") as caught:
        for source in sources("mvsec-depth", tmp_path):
            list(source.pairs(Counter()))
    assert "outdoor_night2" in str(caught.value)


@pytest.mark.parametrize("name", ["mvsec-depth", "mvsec-flow", "ddd17-seg"])
def test_nothing_to_prepare(tmp_path, name):
    with pytest.raises(ConfigError, match="folder"):
        sources(name)
    with pytest.raises(ConfigError, match="no such sequence"):
        sources(name, tmp_path, sequences=["motorcycle1"])
    with pytest.raises(DataError, match=str(tmp_path)):
        sources(name, tmp_path)


def cut_member(path: Path) -> None:
    """The archive anew, one array with half its bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["y_flow_dist.npy"] = members["y_flow_dist.npy"][: len(members["y_flow_dist.npy"]) // 2]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def declare_many(path: Path) -> None:
    """A header of the times that declares far more than there are, as zeros would unpack to."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("timestamps.npy", "w") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**10,)}
        np.lib.format.write_array_header_1_0(file, header)


SPOILT_FLOW = {
    "too many maps": declare_many,
    "damaged NumPy": shortened,
    "buffer is smaller": cut_member,
    "another size": lambda path: write_flow_npz(path, flow_maps()[1:], FLOW_US),
    "Object arrays|not an array": lambda path: np.savez(path, timestamps=np.array([None])),
    "two ground-truth maps": lambda path: write_flow_npz(
        path, flow_maps(), [*FLOW_US[:-1], FLOW_US[-2]]
    ),
    "no item named": lambda path: np.savez(path, timestamps=FLOW_US / 1e6),
}


@pytest.mark.parametrize("what", SPOILT_FLOW)
def test_spoilt_flow_archives_are_errors(tmp_path, what):
    root = write_flow(tmp_path)
    path = root / "gt_flow" / "indoor_flying2_gt_flow_dist.npz"
    SPOILT_FLOW[what](path)
    with pytest.raises(DataError, match=f"(?s){what}") as caught:
        for source in sources("mvsec-flow", root, all_frames=True):
            list(source.pairs(Counter()))
    assert path.name in str(caught.value)


def test_a_flipped_bit_of_flow_is_found_though_the_end_is_not_needed(tmp_path, monkeypatch):
    for name in ("BLOCK_BYTES", "BLOCK_MAPS"):
        monkeypatch.setattr(hdf5_frames, name, 1)
    path = write_flow(tmp_path) / "gt_flow" / "indoor_flying2_gt_flow_dist.npz"
    data = bytearray(path.read_bytes())
    data[data.index(b"y_flow_dist.npy") + 200_003] ^= 1
    path.write_bytes(data)
    with NpzFlow(path) as flow:
        assert not np.array_equal(flow[0], flow_maps()[0], equal_nan=True)
        with pytest.raises(DataError, match="Bad CRC-32"):
            flow.verify()


# --- ddd17-seg


def with_mask(folder: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(folder / "segmentation_masks" / "segmentation_00000002.png")


def with_id(folder: Path, value: int) -> None:
    mask = class_masks(2)[2]
    mask[7, 9] = value
    with_mask(folder, mask)


def with_event(folder: Path, column: int, value: int) -> None:
    rows = np.fromfile(folder / "events.dat.xyp", "<i2").reshape(-1, 3)
    rows[100, column] = value
    rows.tofile(folder / "events.dat.xyp")


def with_index(folder: Path, change: object) -> None:
    path = folder / "index" / "index_50ms.npy"
    np.save(path, change(np.load(path)))


SPOILT_DDD17 = {
    "row 7, column 9.*6; 1 such": lambda folder: with_id(folder, 6),
    "label and events differ in size": lambda folder: with_mask(
        folder, np.zeros((260, 346), np.uint8)
    ),
    "no picture of class ids": lambda folder: with_mask(
        folder, np.random.default_rng(0).integers(0, 6, (200, 346, 3), np.uint8)
    ),
    "image cannot be read": lambda folder: shortened(
        folder / "segmentation_masks" / "segmentation_00000002.png"
    ),
    "without a number": lambda folder: (folder / "segmentation_masks" / "x.png").write_bytes(b""),
    "masks/\\*.png": lambda folder: [
        path.unlink() for path in (folder / "segmentation_masks").iterdir()
    ],
    "no events.dat.xyp": lambda folder: (folder / "events.dat.xyp").unlink(),
    "no index/index_50ms": lambda folder: (folder / "index" / "index_50ms.npy").unlink(),
    "fit each other": lambda folder: shortened(folder / "events.dat.xyp"),
    "image 5": lambda folder: with_index(folder, lambda rows: rows[:4]),
    "row 3": lambda folder: with_index(folder, lambda rows: rows[[0, 1, 4, 2, 3]]),
    "not an index": lambda folder: with_index(folder, lambda rows: rows[:, 0]),
    "image times.*allow_pickle": lambda folder: with_index(folder, lambda rows: np.array([None])),
    "cannot read the image times": lambda folder: shortened(folder / "index" / "index_50ms.npy"),
    "event 100\n.*x = 346": lambda folder: with_event(folder, 0, 346),
    "y = 260": lambda folder: with_event(folder, 1, 260),
    "polarity out of range": lambda folder: with_event(folder, 2, 2),
    "no label has events": lambda folder: with_index(folder, lambda rows: rows + 10**12),
    "picture and events differ": lambda folder: Image.new("L", (346, 259)).save(
        folder / "imgs" / "img_00000002.png"
    ),
}


@pytest.mark.parametrize("what", SPOILT_DDD17)
def test_spoilt_ddd17_is_an_error(tmp_path, what):
    SPOILT_DDD17[what](write_drive(tmp_path))
    with pytest.raises(DataError, match=f"(?s){what}") as caught:
        for source in sources("ddd17-seg", tmp_path):
            list(source.pairs(Counter()))
    assert str(tmp_path) in str(caught.value)
