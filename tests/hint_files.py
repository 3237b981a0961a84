"""Small inputs by name, for the messages that tell a user what to do: see `test_hints.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import clip_files
import fakes
import filmed_files
import h5py
import label_files
import numpy as np
import torch
from davis_files import write_scene
from dsec_files import write_flow, write_flow_test, write_semantic
from event_files import (
    aedat3_packet,
    evt3_words,
    some_events,
    write_aedat2,
    write_aedat3,
    write_aedat4,
    write_dsec,
    write_raw,
    write_text,
)
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from test_alignment import MOVING, write_film
from test_end_to_end import call
from test_eomt_weights import encoder_to_published, own_to_published
from test_foreign import K, authors_encoder, random_encoder, shaken, write_authors_eomt
from test_formats_aedat import frame, short_records, without_camera
from test_formats_hdf5 import two_cameras
from test_formats_ros import GREY, array, image, packet, types, write_bag
from test_own_labels import SIZE, ids, write_labelled

from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.eomt import EoMT
from scaleevent.decoders.sea_raft import SeaRaft
from scaleevent.events import Events
from scaleevent.system.owner import Owner
from scaleevent.system.platform import process_started
from scaleevent.training.tensors import load_tensors, save_tensors

EVENTS = fakes.fake_events()


def columns(events: Events = EVENTS, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """The four columns of events by name, some of them changed."""
    return {name: getattr(events, name) for name in "txyp"} | changes


def right() -> Events:
    """Events that are all in the right half of their sensor."""
    events = some_events(9000)
    return replace(events, x=events.x + np.uint16(300), width=640)


def reset(times: int = 1) -> dict[str, np.ndarray]:
    """Columns of events whose clock begins anew so many times."""
    parts = [columns() for _ in range(times + 1)]
    return {name: np.concatenate([part[name] for part in parts]) for name in "txyp"}


def npz(**arrays: np.ndarray) -> Callable[[Path], object]:
    """A writer of a NumPy file."""
    return lambda path: np.savez(path, **arrays)


def table(order: str) -> np.ndarray:
    """(K, C) columns in an order, random small numbers where it has -."""
    rng = np.random.default_rng(1)
    stored = columns(EVENTS[:3000])
    filler = [rng.normal(size=3000) for _ in order]
    return np.stack([stored.get(c, filler[k]) for k, c in enumerate(order)], axis=1)


def bag(**topics: list) -> Callable[[Path], object]:
    """A writer of a ROS bag; in a topic's name two underlines stand for a slash."""
    store = types(False)
    start = int(BAG_EVENTS.t[0])
    kinds = {
        "events": lambda: [array(store, BAG_EVENTS)],
        "image": lambda: [
            image(store, start + us, GREY, "mono8") for us in range(20_000, 50_000, 10_000)
        ],
        "packets": lambda: [packet(store, "evt3", b"\0\0" * 8)],
    }
    named = [(f"/{name.replace('__', '/')}", kinds[kind]()) for name, kind in topics.items()]
    return lambda path: write_bag(path, store, *named)


BAG_EVENTS = some_events(1500, start_us=1_600_000_000_000_007)


def rig(
    events: Callable[[Path], object] | None = None, name: str = "events.npz", **changes: object
) -> Callable[[Path], None]:
    """A writer of a folder with a recording, pictures and their times."""

    def write(root: Path) -> None:
        fakes.write_custom(root)
        if events is not None:
            (root / "events.npz").unlink()
            events(root / name)
        if "times" in changes:
            fakes.write_times(root / "timestamps.txt", changes["times"])
        for old, new in changes.get("moved", {}).items():
            (root / old).rename(root / new)
        for picture in (root / "images").glob("*.png") if "pictures" in changes else ():
            Image.fromarray(changes["pictures"]()).save(picture)
        for picture in (root / "images").glob("*.png") if "scaled" in changes else ():
            with Image.open(picture) as opened:
                larger = opened.resize((fakes.WIDTH * 2, fakes.HEIGHT * 2))
            larger.save(picture)

    return write


def two_units(root: Path) -> None:
    """Two clips of RGBE-SEG, one of them in seconds."""
    for name in ("a", "b"):
        fakes.write_rgbe_seg(root, name)
    fakes.in_seconds(root / "train/b")


def one_bag(root: Path) -> None:
    """A folder with a ROS bag of events."""
    root.mkdir()
    bag(dvs__events="events")(root / "back1.bag")


def two_rigs(root: Path) -> None:
    """Two recordings, each with its pictures."""
    for one in ("first", "second"):
        fakes.write_custom(root / one)


def odd_units(root: Path) -> None:
    """Events in ms that could be us, frames in s."""
    us = np.sort(np.random.default_rng(0).integers(0, 10_000_000, 43_200))
    events = some_events(43_200, span_us=10_000_000)
    rig(npz(**columns(events, t=us // 1000)))(root)
    fakes.write_pictures(root / "images", [np.full((180, 240), 9, np.uint8)] * 20)
    fakes.write_times(root / "timestamps.txt", [f"{0.4 + k / 2.5:.6f}" for k in range(20)])


def davis_rig(path: Path) -> None:
    """The calibration of a rig whose cameras both have 180x240 pixels."""
    document = fakes.cam_to_cam()
    for camera in document["intrinsics"].values():
        camera["resolution"] = [240, 180]
    fakes.write_calibration(path, document)


def moved_rig(path: Path) -> None:
    """Two pinhole cameras alike, the frames' with its axis 4 pixels to the right and 3 higher."""
    document = fakes.cam_to_cam()
    for name, camera in document["intrinsics"].items():
        x, y = (68, 45) if name in ("cam1", "camRect1") else (64, 48)
        camera |= {"camera_matrix": [100, 100, x, y], "resolution": [128, 96]}
        if "distortion_coeffs" in camera:
            camera["distortion_coeffs"] = [0, 0, 0, 0]
    turns = {name: np.eye(3).tolist() for name in ("R_rect0", "R_rect1")}
    document["extrinsics"] |= turns | {"T_10": np.eye(4).tolist()}
    fakes.write_calibration(path, document)


def one_clock(path: Path) -> None:
    """AEDAT4 whose events were reset, and whose frames were not."""
    parts = some_events(4000, start_us=100_000), some_events(3000, start_us=0, span_us=30_000)
    pictures = [(t, t + 1000, np.full((180, 240), 9, np.uint8)) for t in (110_000, 130_000)]
    write_aedat4(path, parts, pictures)


def shifted(root: Path) -> None:
    """A recording whose frames come 20 ms late."""
    write_film(root, MOVING, late_ms=20)


def damaged(share: float) -> Callable[[Path], object]:
    """A writer of a recording of which a share of the pixels lies outside."""
    x = EVENTS.x.copy()
    x[: int(share * len(x))] = 9000
    return npz(**columns(x=x), height=np.int64(fakes.HEIGHT), width=np.int64(fakes.WIDTH))


def folder(**files: Callable[[Path], object]) -> Callable[[Path], None]:
    """A writer of a folder of files; in a file's name two underlines stand for a dot."""

    def write(root: Path) -> None:
        root.mkdir()
        for name, make in files.items():
            make(root / name.replace("__", "."))

    return write


def dsec(*sequences: str, lacking: str = "") -> Callable[[Path], None]:
    """A writer of a DSEC root; one sequence may lack its pictures' times."""

    def write(root: Path) -> None:
        for sequence in sequences:
            fakes.write_dsec_root(root, "A", sequence)
        if lacking:
            (root / f"train/{lacking}/images/timestamps.txt").unlink()

    return write


def text(content: str) -> Callable[[Path], object]:
    """A writer of a text file."""
    return lambda path: path.write_text(content)


def aedat30(path: Path) -> None:
    """AEDAT 3.0 of a camera that nobody knows."""
    write_aedat3(path, aedat3_packet(some_events()))
    data = path.read_bytes().replace(b"DAT3.1", b"DAT3.0")
    path.write_bytes(data.replace(b"DAVIS240C", b"NewCamera"))


def aedat4(path: Path) -> None:
    """Two cameras, each with events and frames."""
    more = [("EVTS", "two", [some_events(300, seed=5)]), ("FRME", "two", [frame(3)])]
    write_aedat4(path, [some_events()], [frame(1)], more=more)


def six_columns(path: Path) -> None:
    """Text of two more columns, further left than a camera's."""
    write_text(path, [[f"{v:g}" for v in row] for row in table("-txyp-")[:500].tolist()])


SHORT = "--epochs 1 --draws 8 --batch 8 --size 48x64 --no-probe --device cpu"
TASK = "--data labelled --size 48x64 --epochs 1 --batch 4 --pictures 0 --device cpu"
STORE = "prepare street --scenes 12 --size 48x64"


def without(line: str, *names: str) -> Callable[[Path], None]:
    """A writer of what a command makes, which has lost some of its files."""

    def write(path: Path) -> None:
        call(f"{line} -o {path.name}")
        for name in names:
            for file in path.glob(name):
                file.unlink()

    return write


def bad_shard(path: Path) -> None:
    """A store with a shard that is damaged, and as long as before."""
    call(f"{STORE} -o {path.name}")
    shard = next(path.glob("*.h5"))
    places: list[int] = []

    def note(name: str, part: object) -> None:
        if isinstance(part, h5py.Dataset) and part.chunks and part.id.get_num_chunks():
            places.append(part.id.get_chunk_info(0).byte_offset)

    with h5py.File(shard) as file:
        file.visititems(note)
    data = bytearray(shard.read_bytes())
    for place in places:
        data[place + 4] ^= 0xFF
    shard.write_bytes(data)


def bad_states(path: Path) -> None:
    """A run whose saved states are damaged."""
    call(f"pretrain pairs {SHORT} -o {path.name}")
    for state in (path / "state").glob("*.safetensors"):
        state.write_bytes(state.read_bytes()[:-9])


def other_states(path: Path) -> None:
    """A run whose saved states are whole, and of a network of another size."""
    call(f"pretrain pairs {SHORT} -o {path.name}")
    for state in (path / "state").glob("*.safetensors"):
        tensors, description = load_tensors(state, "state")
        save_tensors(state, {k: v[:1] if v.ndim else v for k, v in tensors.items()}, description)


def claimed(host: str) -> Callable[[Path], None]:
    """A writer of a folder that a process on this host owns; "" is here, and lives."""

    def write(path: Path) -> None:
        path.mkdir()
        owner = replace(Owner.this(), **({"host": host} if host else {"pid": os.getppid()}))
        if not host:
            owner = replace(owner, started=process_started(os.getppid()))
        (path / ".owner-1").write_text(json.dumps(asdict(owner)))

    return write


def published(name: str) -> Callable[[Path], object]:
    """A writer of a task model of others."""

    def write(path: Path) -> None:
        if name == "eomt":
            write_authors_eomt(path)
        elif name == "depth":
            decoder = shaken(DPT(random_encoder(1.5), 40.0))
            state = {f"depth_head.{name}": v for name, v in decoder.own_state().items()}
            state |= {f"encoder.{n}": t for n, t in authors_encoder(decoder.encoder).items()}
            torch.save(state, path)
        elif name == "flow":
            torch.save(SeaRaft(random_encoder(), "S", 2, fuse=False).eval().own_state(), path)
        elif name == "encoder":
            torch.save(authors_encoder(random_encoder()), path)
        elif name == "head":
            decoder = shaken(DPT(random_encoder(1.5), 40.0))
            state = {f"depth_head.{name}": v for name, v in decoder.own_state().items()}
            state |= {f"encoder.{n}": t for n, t in authors_encoder(decoder.encoder).items()}
            torch.save({k: v for k, v in state.items() if "projects.0" not in k}, path)
        elif name == "delta":
            decoder = shaken(
                EoMT(random_encoder(embed_dim=128, num_heads=2), K, queries=12, blocks=3)
            )
            stored = {n: 1e-3 * v for n, v in decoder.encoder.vit.state_dict().items()}
            state = encoder_to_published(stored, "tue-mps")
            state |= own_to_published(decoder.own_state(), "tue-mps")
            torch.save(state, path)
            torch.save(
                {n: torch.randn_like(v) for n, v in stored.items()}, path.parent / "dinov3.pth"
            )
        else:
            state = authors_encoder(random_encoder())
            save_file({k: v.contiguous().clone() for k, v in state.items()}, path)

    return write


# a command line, or a writer of the file or folder
def write_untimed(root: Path, names: tuple[str, ...]) -> Path:
    """Labels whose names are no times of the events in microseconds."""
    for recording in write_labelled(root).glob("labels/*"):
        for path, name in zip(sorted(recording.glob("*.png")), names, strict=True):
            path.rename(path.with_name(name))
        fakes.write_times(recording / "stamps.log", (1_060_000, 1_120_000))
    return root


def write_deep(root: Path) -> Path:
    """Depth in 16 bits."""
    for path in write_labelled(root).glob("labels/*/*.png"):
        label_files.write_depth16(path, np.full(SIZE, 2560, np.uint16))
    (root / "classes.yaml").unlink()
    return root


def write_mixed(root: Path) -> Path:
    """Two tasks in one folder, and one of them in another."""
    for path in write_labelled(root).glob("labels/*/*.png"):
        label_files.write_ids(root / "ids" / path.parent.name / path.name, ids())
        if path.parent.name == "b":
            path.unlink()
            label_files.write_npy(path.with_suffix(".npy"), np.full(SIZE, 2.5))
    return root


def write_alone(root: Path) -> Path:
    """One recording with one label, and a split that says it tests."""
    write_labelled(root, ("a",), (1_060_000,))
    (root / "tests.yaml").write_text("test: [lonelabel]\n")
    return root


def write_on_frames(root: Path, size: tuple[int, int]) -> Path:
    """Labels on the pixels of frames that are larger than the sensor, timed by themselves."""
    write_labelled(root, ("a",), fakes.IMAGES_US)
    for path in root.glob("labels/a/*.png"):
        label_files.write_ids(path, np.zeros(size, np.uint8))
    (root / "split.yaml").write_text(f"test: [{root.name}]\n")
    fakes.write_pictures(root / "images", [np.zeros(size, np.uint8)] * len(fakes.IMAGES_US))
    fakes.write_times(root / "timestamps.txt", fakes.IMAGES_US)
    return root


def write_three_parts(root: Path) -> None:
    """Labelled recordings and which of them train, choose and test."""
    write_labelled(root, "abc")
    (root / "split.yaml").write_text("train: [a]\nvalidation: [b]\ntest: [c]\n")


INPUTS: dict[str, str | Callable[[Path], object]] = {
    "pairs": STORE,
    "ownpairs": "prepare custom rig",
    "mylabels": write_labelled,
    "threeparts": write_three_parts,
    "unclassed": lambda path: (write_labelled(path) / "classes.yaml").unlink(),
    "untimed": lambda path: write_untimed(path, ("x7.png", "x8.png")),
    "millilabels": lambda path: write_untimed(path, ("1060.png", "1120.png")),
    "deep": write_deep,
    "deepclassed": lambda path: (
        write_deep(path),
        label_files.write_classes(path / "classes.yaml"),
    ),
    "mixedlabels": write_mixed,
    "lonelabel": write_alone,
    "twiceaslarge": lambda path: write_on_frames(path, (96, 128)),
    "othercamera": lambda path: write_on_frames(path, (fakes.FRAME_HEIGHT, fakes.FRAME_WIDTH)),
    "far.yaml": lambda path: path.write_text(
        f"data: [{path.with_name('near').absolute().as_uri()}]\n"
    ),
    "labelled": f"{STORE} --after --seed 7",
    "run": f"pretrain pairs {SHORT}",
    "depth": f"probe street-depth run {TASK}",
    "other": f"{STORE} --after --seed 8",
    "leaky": f"pretrain labelled {SHORT} --validation 0",
    "still": f"{STORE} --speed 0 --noise-hz 0",
    "halfpairs": without(f"{STORE}", "manifest.json"),
    "halfpairs2": without(f"{STORE}", "manifest.json"),
    "semanticpairs": "prepare dsec-semantic semantic",
    "rigs": lambda path: (path.mkdir(), rig()(path / "one"), rig()(path / "two")),
    "lesspairs": without(f"{STORE}", "*.h5"),
    "badpairs": bad_shard,
    "halfrun": without(f"pretrain pairs {SHORT}", "report.json", "encoder.safetensors"),
    "halfrun2": without(f"pretrain pairs {SHORT}", "report.json", "encoder.safetensors"),
    "badrun": bad_states,
    "otherrun": other_states,
    "noimages": "voxelize one_recording --size 48x64",
    "one_recording": folder(a__npz=npz(**columns())),
    "counts": "voxelize rig --representation count",
    "abroad": claimed("elsewhere"),
    "busy": claimed(""),
    "elsewhere": lambda path: (
        (path / "pairs").mkdir(parents=True) or (path / "pairs/.scaleevent").write_text("pairs\n")
    ),
    "semantic": lambda path: [
        write_semantic(path, "A", name) for name in ("zurich_city_00_a", "zurich_city_13_a")
    ],
    "dsecpairs": "prepare dsec dsectest --transductive",
    "eomt.pth": published("eomt"),
    "depth.pth": published("depth"),
    "flow.pth": published("flow"),
    "encoder.pth": published("encoder"),
    "head.pth": published("head"),
    "delta.bin": published("delta"),
    "timm.safetensors": published("timm"),
    "customrig": "prepare custom rig",
    "noafter": f"{STORE} --seed 9",
    "walk": lambda path: clip_files.write_sequence(path, clip_files.moving(3)),
    "plain.npz": npz(**columns()),
    "flow": f"probe street-flow run {TASK}",
    "since.txt": text("50000\n150000\n"),
    "millis.txt": text("50.5\n150.5\n"),
    "close.txt": text("50\n100\n150\n"),
    "bare.raw": lambda path: path.write_bytes(evt3_words(some_events(9000)).tobytes()),
    "right.raw": lambda path: write_raw(path, evt3_words(right()), "evt 3.0", "end"),
    "nosize.raw": lambda path: write_raw(path, evt3_words(some_events(9000)), "evt 3.0", "end"),
    "empty.raw": lambda path: path.touch(),
    "walk.txt": lambda path: path.write_text("0\n40000\n80000\n"),
    "walk.mkv": lambda path: clip_files.write_video(path, clip_files.moving(3)),
    "raw.h264": lambda path: clip_files.write_h264(path, clip_files.moving(3)),
    "cutwalk": lambda path: [
        file.write_bytes(file.read_bytes()[:200])
        for file in clip_files.write_sequence(path, clip_files.moving(4))[2:3]
    ],
    "gopro": lambda path: [
        filmed_files.write_gopro(path, split, name)
        for split, name in (("train", "GOPR0372_07_00"), ("test", "GOPR0384_11_00"))
    ],
    "goprotest": lambda path: filmed_files.write_gopro(path, "test", "GOPR0384_11_00"),
    "goprohole": lambda path: (
        filmed_files.write_gopro(path, "train", "GOPR0372_07_00") / "000005.png"
    ).unlink(),
    "cutsnippets": lambda path: (
        filmed_files.write_snippet(path, "train", "ulm", 0, 0),
        filmed_files.write_snippet(path, "train", "ulm", 1, 0, count=12),
    ),
    "sdsd": lambda path: filmed_files.write_pair(path, "indoor_png", "GT", 1),
    "lessdavis": lambda path: (
        filmed_files.write_davis(path, {"train": ["bear"]}),
        (path / "ImageSets/2017/val.txt").write_text("bike-packing\n"),
    ),
    "rig": rig(),
    "rig2": rig(),
    "reset": rig(npz(**reset())),
    "reset.npz": npz(**reset()),
    "resets.npz": npz(**reset(12)),
    "noframes": rig(moved={"images": "else"}),
    "notimes": rig(moved={"timestamps.txt": "stamps.log"}),
    "larger": rig(scaled=True),
    "otherclock": rig(times=[5_000_000_000, 5_000_050_000, 5_000_100_000]),
    "tworigs": two_rigs,
    "moved": lambda root: write_film(root, MOVING, (4, -3)),
    "moved.txt": text("1 0 4\n0 1 -3\n0 0 1\n"),
    "moved.yaml": moved_rig,
    "alone": Path.mkdir,
    "flowroot": lambda path: write_flow(path, "A", "thun_00_a"),
    "flowtestroot": write_flow_test,
    "flowpairs": "prepare dsec-flow flowroot",
    "flowtests": "prepare dsec-flow flowtestroot",
    "framerig": rig(pictures=fakes.frame_picture),
    "nanorig": rig(times=[t * 1000 for t in fakes.IMAGES_US]),
    "oddunits": odd_units,
    "oneclock.aedat4": one_clock,
    "shifted": shifted,
    "secs.npz": npz(**columns(t=EVENTS.t * 1e-6)),
    "shuffled.npz": npz(
        **columns(t=np.random.default_rng(0).permutation(20_000) * 100), aux=EVENTS.t
    ),
    "two.txt": text("2 0 0.5\n0 2 0.5\n0 0 1\n"),
    "one.txt": text("1 0 0\n0 1 0\n0 0 1\n"),
    "davis.yaml": davis_rig,
    "cam_to_cam.yaml": fakes.write_calibration,
    "bad.npz": damaged(0.0005),
    "worse.npz": damaged(0.1),
    "badfolder": folder(a__npz=damaged(0.0005), b__npz=damaged(0.0005), c__npz=npz(**columns())),
    "recordings": folder(a__npz=npz(**columns()), b__npz=npz(**columns())),
    "slow.npz": npz(**columns(EVENTS[:100], t=np.arange(100) * 10)),
    "slow.aedat": lambda path: write_aedat2(path, some_events(100, span_us=990_000_000)),
    "sparse.npz": npz(**columns(EVENTS[:300], t=np.arange(300) * 10_000)),
    "long.h5": lambda path: write_dsec(path, some_events(3_000_000, span_us=3_000_000)),
    "old.aedat": lambda path: without_camera(write_aedat2(path, some_events())),
    "one.aedat": lambda path: path.write_bytes(
        b"#!AER-DAT1.0\r\n" + short_records(some_events(700, 128, 128))
    ),
    "new.aedat": aedat30,
    "two.aedat4": aedat4,
    "strange.npz": npz(a=EVENTS.t, b=EVENTS.x, c=EVENTS.y, d=EVENTS.p),
    "wide.npz": npz(a=table("txyp--"), b=table("-p")),
    "ambiguous.txt": lambda path: write_text(path, [(k, k, k, 1) for k in range(30)]),
    "six.txt": six_columns,
    "stereo.h5": lambda path: two_cameras(path, some_events(seed=1), some_events(seed=2)),
    "em.mat": lambda path: savemat(path, {"EM": columns()}),
    "both.mat": lambda path: savemat(path, {"left": columns(), "right": columns()}),
    "wordy.bag": bag(a__events="events", b__events="events"),
    "images.bag": bag(dvs__events="events", dvs__image="image", dvs__image_too="image"),
    "apart.bag": bag(davis__right__events="events", davis__left__image_raw="image"),
    "otherclock.bag": bag(events="packets", image="image"),
    "huge.npz": npz(**columns(x=EVENTS.x + 3000), u=EVENTS.x, v=EVENTS.y),
    "counter.npz": npz(**columns(t=np.arange(20_000) * 10**11), aux=EVENTS.t),
    "doubt.npz": npz(**columns(EVENTS[:400], t=np.arange(400) * 3000)),
    "dsecroot": dsec("zurich_city_00_a", "zurich_city_01_a", lacking="zurich_city_01_a"),
    "bags": one_bag,
    "twounits": two_units,
    "scene": write_scene,
    "dsectest": dsec("zurich_city_13_a", "zurich_city_00_a"),
    "dsecall": dsec("zurich_city_13_a"),
    "filmed": lambda path: fakes.write_pictures(path, fakes.sensor_pictures()),
    "film.mp4": lambda path: path.write_bytes(b"\0\0\0 ftypisom" + bytes(64)),
}
