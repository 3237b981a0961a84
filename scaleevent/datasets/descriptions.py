"""What `prepare --list` tells of the data sets: what to download, from where, and in what layout.

Nothing heavy is imported. Sizes and licences are those of the pages and repositories named, and
"not stated" where these say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from textwrap import wrap
from typing import Any

from scaleevent.config.catalog import DATASETS, UNDOCUMENTED
from scaleevent.config.data import PrepareConfig
from scaleevent.config.settings import nearest
from scaleevent.config.tags import UNKNOWN
from scaleevent.errors import ConfigError
from scaleevent.system.reports import Report

WRITTEN = "not verified on real files, only on files written after its documentation"
OURS = "ours"
WIDE = 100  # characters of a cell


@dataclass(frozen=True)
class Description:
    """A data set, for people.

    Args:
        content: What was recorded, with what.
        download: What to download.
        page: The official page.
        size: Of the download.
        licence: Of the data.
        layout: Files below the root, a line each.
        verified: On what the layout was verified.
        doubts: What of it no source says for certain.
        tags: What is known of its pairs (`config.tags`), by pattern of their recordings' names:
            "*" of all, then what differs.
    """

    content: str
    download: str
    page: str
    size: str
    licence: str
    layout: str
    verified: str = WRITTEN
    doubts: str = ""
    tags: dict[str, str] = field(default_factory=dict)


_DRIVING = "real, moving, outdoor"
_DSEC = {"page": "https://dsec.ifi.uzh.ch", "licence": "CC BY-SA 4.0 (unverified)"}
_DSEC_TAGS = {"*": f"{_DRIVING}, sensor=Prophesee Gen3.1"}
_DSEC_EVENTS = (
    "SEQ/events/left/{events.h5, rectify_map.h5}; also one folder a product,\n"
    "and the layouts of E-RAFT and tonic"
)
_MVSEC = {
    "page": "https://daniilidis-group.github.io/mvsec",
    "licence": "CC BY-SA 4.0 (unverified)",
}
_MVSEC_TAGS = {
    "*": "real, moving, sensor=DAVIS346", "indoor_*": "indoor", "outdoor_*": "outdoor",
    "motorcycle*": "outdoor",
}  # fmt: skip
_M3ED = {
    "*": "real, moving, sensor=Prophesee IMX636", "car_*": "outdoor", "*_indoor_*": "indoor",
    "*_outdoor_*": "outdoor", "*_forest_*": "outdoor",
}  # fmt: skip

DESCRIPTIONS: dict[str, Description] = {
    "street": Description(
        "a procedural street world with classes, depth and flow", "nothing", "-", "none",
        "that of this package", "rendered from a seed", OURS,
        tags={"*": "simulated, moving, outdoor"},  # its source tells which cameras are static
    ),
    "custom": Description(
        "your own recordings, with frames", "nothing", "-", "-", "yours",
        "a recording, with frames inside it or in images, frames, rgb or a video beside it,\n"
        "and their times in timestamps.txt; files of `labels`, DIR, in DIR/RECORDING or\n"
        "RECORDING/DIR and classes.yaml: PNG ids, 16-bit PNG or NPY depth, 16-bit PNG or FLO\n"
        "flow, timed by a file of times, frames of the same names, stamps in names, or one a frame",
        "real files of most formats", tags={"*": ""},
    ),
    "dsec": Description(
        "driving; Prophesee Gen3.1, 640x480, and a colour camera, 1440x1080",
        "train_events, train_images, train_calibration; or DSEC-Det's *_left_images_distorted",
        size="events 125 + 27 GB, images 216 + 43 GB (train + test)",
        layout=f"{_DSEC_EVENTS}\nSEQ/images/left/{{rectified, distorted}}/*.png\n"
        "SEQ/images/timestamps.txt\nSEQ/calibration/cam_to_cam.yaml", **_DSEC, tags=_DSEC_TAGS,
    ),
    "dsec-semantic": Description(
        "DSEC with 11 classes", "events, and {train,test}_semantic_segmentation.zip",
        size="88.6 + 28.9 MB of labels", layout=f"{_DSEC_EVENTS}\nSEQ/11classes/*.png\n"
        "SEQ/SEQ_semantic_timestamps.txt", **_DSEC, tags=_DSEC_TAGS,
    ),
    "dsec-depth": Description(
        "DSEC with disparity", "train_events, train_disparity, train_calibration",
        size="12 GB of disparity", layout=f"{_DSEC_EVENTS}\nSEQ/disparity/event/*.png\n"
        "SEQ/disparity/timestamps.txt\nSEQ/calibration/cam_to_cam.yaml", **_DSEC, tags=_DSEC_TAGS,
    ),
    "dsec-flow": Description(
        "DSEC with optical flow", "train_events, train_optical_flow; the test set's .csv",
        size="3.7 GB of flow", layout=f"{_DSEC_EVENTS}\nSEQ/flow/forward/*.png\n"
        "SEQ/flow/forward_timestamps.txt", **_DSEC, tags=_DSEC_TAGS,
    ),
    "ddd17-seg": Description(
        "driving; DAVIS346, six classes of Ev-SegNet", "ddd17_seg.tar.gz of ESS",
        "https://download.ifi.uzh.ch/rpg/ESS", "not stated", "CC BY-SA 4.0 (unverified)",
        "dirN/{events.dat.t, events.dat.xyp}\ndirN/index/index_50ms.npy\n"
        "dirN/segmentation_masks/*.png\ndirN/imgs/*.png (ffmpeg -i video.mp4 imgs/img_%08d.png)",
        tags={"*": f"{_DRIVING}, sensor=DAVIS346"},
    ),
    "mvsec-depth": Description(
        "driving; DAVIS346, LiDAR depth", "SCENE_data.hdf5 and SCENE_gt.hdf5",
        size="not stated", layout="SCENE_data.hdf5\nSCENE_gt.hdf5", **_MVSEC, tags=_MVSEC_TAGS,
    ),
    "mvsec-flow": Description(
        "flying indoors and driving; DAVIS346, flow", "SCENE_data.hdf5, SCENE_gt_flow_dist.npz",
        size="not stated", layout="SCENE_data.hdf5\nSCENE_gt_flow_dist.npz or SCENE_gt.hdf5",
        **_MVSEC, tags=_MVSEC_TAGS,
    ),
    "mvsec": Description(
        "flying indoors, driving, motorcycle; two DAVIS346, grey images of the same pixels",
        "SCENE_data.hdf5", size="not stated",
        layout="SCENE_data.hdf5: davis/{left,right}/{events, image_raw, image_raw_ts}", **_MVSEC,
        tags=_MVSEC_TAGS,
    ),
    "ddd17": Description(
        "driving; DAVIS346, grey images of the same pixels",
        "ddd17_seg.tar.gz of ESS, or recordings of DDD17 or DDD20",
        "https://download.ifi.uzh.ch/rpg/ESS; https://github.com/SensorsINI/ddd20-utils",
        "DDD17 about 400 GB, DDD20 about 1.3 TB (unverified)", "CC BY-SA 4.0 (unverified)",
        "dirN/{events.dat.t, events.dat.xyp}, dirN/index/index_50ms.npy,\n"
        "dirN/imgs/*.png (numbered from 1) or dirN/video.mp4\n"
        "rec*.hdf5: dvs/data, rows of host time, packet header and packet",
        doubts="rec*.hdf5 is read as its recorder's source writes it",
        tags={"*": f"{_DRIVING}, sensor=DAVIS346"},
    ),
    "m3ed": Description(
        "cars, a drone and a legged robot; two Prophesee IMX636, 1280x720, and cameras, 1280x800",
        "SEQ_data.h5; of 27 sequences also SEQ_semantics.h5", "https://m3ed.io",
        "1 to 20 GB a sequence, 68 sequences", "CC BY-SA 4.0",
        "SEQ_data.h5 or SEQ/SEQ_data.h5: prophesee/{left,right}, ovc/{rgb,left,right}, ovc/ts\n"
        "SEQ_semantics.h5 beside it: warped_image, predictions, ts",
        doubts="that colours are stored blue first, and the direction of T_to_prophesee_left, "
        "are read from the authors' scripts",
        tags=_M3ED,
    ),
    "visevent": Description(
        "traffic, people, animals; DAVIS346; its own test subset is for tracking",
        "the videos with their .aedat4 files",
        "https://github.com/wangxiao5791509/VisEvent_SOT_Benchmark", "about 216 GB", "MIT",
        "SUBSET/VIDEO/VIDEO.aedat4; pip install 'scaleevent[aedat]'",
        doubts="AEDAT4 itself is verified on two real files of a DAVIS346",
        tags={"*": "real, sensor=DAVIS346"},
    ),
    "coesot": Description(
        "objects of 90 classes; colour DAVIS346; its own test subset is for tracking",
        "the videos with their .aedat4 files", "https://github.com/Event-AHU/COESOT",
        "160 + 105 GB (train + test)", "none stated: research only",
        "SUBSET/VIDEO/VIDEO.aedat4; pip install 'scaleevent[aedat]'",
        doubts="AEDAT4 itself is verified on two real files of a DAVIS346; start_end_index.txt, "
        "whose meaning is not documented, is not read: frames have their times in the recording",
        tags={"*": "real, sensor=DAVIS346"},
    ),
    "eventscape": Description(
        "driving in the simulator CARLA, simulated events; colour images of the same pixels",
        "Town01-03_train.zip, Town05_val.zip, Town05_test.zip",
        "https://rpg.ifi.uzh.ch/RAM_Net.html", "71 + 12 + 14 GB", "not stated",
        "TOWN/SEQUENCE/rgb/data/*_image.png\nTOWN/SEQUENCE/events/data/*_events.npz\n"
        "TOWN/SEQUENCE/{rgb,events}/data/timestamps.txt",
        doubts="the unit of the events' times is found by comparing them with the images'",
        tags={"*": "simulated, moving, outdoor"},
    ),
    "scaleevent-release": Description(
        "what ScaleEvent's authors rendered of Cityscapes, KITTI, DECD, M3ED, Waymo, and VisEvent\n"
        "with COESOT",
        "the archives that its README names", "https://github.com/zhiwen-xdu/ScaleEvent",
        "not stated", "not stated, that of each data set",
        "SEQUENCE/{image,voxel,evimg}/00001.jpg, ..",
        doubts="events cannot be had back from 8-bit pictures; their grey level without events "
        "is not documented",
        tags={
            "*": "",  # names as in zhiwen-xdu/ScaleEvent:scale_event/dataset/data_specs
            "segment-*": "simulated, moving, outdoor",  # Waymo
            **dict.fromkeys(("train_00*", "test_00*"), "simulated, moving, outdoor"),  # KITTI
            **{
                f"{carrier}_*": ", ".join([_M3ED["*"], *found])
                for carrier, *found in (("car", "outdoor"), ("falcon",), ("spot",))
            },
        },
    ),
    "decd": Description(
        "driving; Samsung DVS Gen3, 640x480; its ROS bags hold events alone",
        "DECD's archive of the release that ScaleEvent's README names",
        "https://github.com/zhiwen-xdu/ScaleEvent; the data set: "
        "https://rpg.ifi.uzh.ch/event_driving_datasets.html",
        "not stated", "not stated", "SEQUENCE/{image,voxel,evimg}/00001.jpg, ..",
        doubts="which camera gave the images, and how they were aligned, is not documented; its "
        "pairs are among those that the paper simulated (Table 8)",
        tags={"*": "simulated, moving, outdoor"},
    ),
    "rgbe-seg": Description(
        "clips of VisEvent and COESOT that EventSAM's authors cut; colour DAVIS346",
        "the data set that EventSAM's README names", "https://github.com/zhiwen-xdu/EventSAM",
        "not stated", "MIT (the repository)",
        "SEQUENCE/event/NAME.npz, SEQUENCE/rgb_image/NAME.png",
        doubts="the unit of the times and the time of a picture among its events are not "
        "documented",
        tags={"*": "real, sensor=DAVIS346"},
    ),
    "cityscapes": Description(
        "driving in 50 cities; stereo colour video, 2048x1024, 17 frames a second; filmed by a\n"
        "simulated event camera",
        "leftImg8bit_sequence_trainvaltest.zip; also timestamp_sequence_trainvaltest.zip, and\n"
        "rightImg8bit_sequence_trainvaltest.zip for the right camera",
        "https://www.cityscapes-dataset.com", "about 324 GB a camera (unverified)",
        "its own: research, not commercial; registration",
        "{left,right}Img8bit_sequence/SPLIT/CITY/CITY_SEQUENCE_FRAME_{left,right}Img8bit.png\n"
        "timestamp_sequence/SPLIT/CITY/CITY_SEQUENCE_FRAME_timestamp.txt",
        doubts="the lower rows show the car's hood; that a file of a time holds one number is "
        "read from its description",
        tags={"*": "simulated, moving, outdoor"},
    ),
    "kitti": Description(
        "driving; two colour cameras, about 1242x375, 10 frames a second; filmed by a simulated\n"
        "event camera",
        "DATE_drive_NNNN_sync.zip of the raw data, or data_tracking_image_2.zip",
        "https://www.cvlibs.net/datasets/kitti", "Tracking 15 GB a camera; raw not stated",
        "CC BY-NC-SA 3.0 (unverified)",
        "DATE/DATE_drive_NNNN_sync/image_0{2,3}/{data/NNNNNNNNNN.png, timestamps.txt}\n"
        "or {training,testing}/image_0{2,3}/NNNN/NNNNNN.png",
        doubts="at 10 frames a second much of the motion between pictures is interpolated",
        tags={"*": "simulated, moving, outdoor"},
    ),
    "waymo": Description(
        "driving; five cameras, 1920x1280 in front, 10 frames a second; filmed by a simulated\n"
        "event camera",
        "the TFRecord files of Perception 1.x (TensorFlow is not needed), or Ev-Waymo's pictures",
        "https://waymo.com/open; Ev-Waymo: https://github.com/mickeykang16/Ev3DOD",
        "not stated", "its own: not commercial; registration",
        "{training,validation,testing}/segment-*.tfrecord\nor segment-*/image_0/NNNN.png",
        doubts="at 10 frames a second much of the motion between pictures is interpolated; the "
        "events of Ev-Waymo are not read",
        tags={"*": "simulated, moving, outdoor"},
    ),
    "gopro": Description(
        "streets and people from the hand; 1280x720, 240 frames a second; filmed by a simulated\n"
        "event camera",
        "GOPRO_Large_all.zip, not GOPRO_Large.zip",
        "https://seungjunnah.github.io/Datasets/gopro", "not stated", "CC BY 4.0 (unverified)",
        "{train,test}/GOPRxxxx_yy_zz/NNNNNN.png",
        doubts="the rate is that of the paper",
        tags={"*": "simulated, moving"},
    ),
    "sdsd": Description(
        "70 scenes indoors and 80 outdoors, each under normal and under low light; 1920x1080;\n"
        "filmed by a simulated event camera",
        "indoor_png and outdoor_png, not the arrays in *_np",
        "https://github.com/dvlab-research/SDSD", "not stated", "not stated",
        "{indoor,outdoor}_png/{GT,LQ}/pairN/*.png",
        doubts="the frame rate and the names of the pictures are not documented: the rate must be "
        "stated",
        tags={"*": "simulated", "indoor*": "indoor", "outdoor*": "outdoor"},
    ),
    "davis-2017": Description(
        "short videos of people, animals and vehicles, 854x480 or more; filmed by a simulated\n"
        "event camera",
        "DAVIS-2017-trainval-480p.zip; also the archives of test-dev and test-challenge",
        "https://davischallenge.org/davis2017/code.html", "not stated", "CC BY 4.0 (unverified)",
        "JPEGImages/480p/SEQUENCE/NNNNN.jpg\n"
        "ImageSets/2017/{train,val,test-dev,test-challenge}.txt",
        doubts="24 frames a second is what the paper of DAVIS 2016 says; no file tells",
        tags={"*": "simulated"},
    ),
    "video": Description(
        "plain videos and sequences of pictures, filmed by a simulated event camera", "nothing",
        "-", "-", "yours",
        "a video, a folder of PNG or JPEG pictures, or a folder of these;\n"
        "the times of pictures in timestamps.txt, there or beside them, or at a given rate;\n"
        "videos need the package av (extra video)", "real videos and picture sequences",
        doubts="the events are simulated; which values of the camera model are published and "
        "which are assumed is said before anything is written",
        tags={"*": "simulated"},
    ),
}  # fmt: skip


def listing(name: str | None) -> Report:
    """All data sets in a table; of one, everything that is known.

    Raises:
        ConfigError: No data set of this name.
    """
    if name is None:
        return _table()
    if name in UNDOCUMENTED:
        rows: tuple[tuple[Any, ...], ...] = (
            ("what", UNDOCUMENTED[name]), ("layout", "unknown"),
            ("instead", "`scaleevent prepare custom FOLDER -o PAIRS`, a recording at a time"),
        )  # fmt: skip
        return Report("prepare", name, ("of", "told"), rows, (), {"name": name})
    if name not in DATASETS:
        raise ConfigError(
            f"unknown data set{nearest(name, [*DATASETS, *UNDOCUMENTED])}",
            where="--list", found=name, expected=", ".join([*DATASETS, *UNDOCUMENTED]),
        )  # fmt: skip
    known = DESCRIPTIONS.get(name)
    facts = {"what": DATASETS[name].summary, **(vars(known) if known else {})}
    if known:
        verified = facts.pop("verified")
        only = WRITTEN.partition(", ")[2]
        facts["layout verified"] = f"no, {only}" if verified == WRITTEN else verified
        facts["tags"] = "\n".join(
            f"{pattern}: {words or UNKNOWN}" for pattern, words in known.tags.items()
        )
    if not facts.get("doubts", "none"):
        facts.pop("doubts")
    tests = import_module("scaleevent.datasets.held_out").scored_recordings(name)
    by_benchmark: dict[str, list[str]] = {}
    for recording, benchmarks in tests.items():
        for benchmark in benchmarks:
            by_benchmark.setdefault(benchmark, []).append(recording)
    facts["test recordings of"] = "none that benchmarks here are scored on"
    if by_benchmark:
        facts["test recordings of"] = "\n".join(
            f"{benchmark}: {_some(recordings)}" for benchmark, recordings in by_benchmark.items()
        )
    return Report("prepare", name, ("of", "told"), tuple(facts.items()), (), {"name": name})


def _some(recordings: list[str], most: int = 12) -> str:
    """Some names, and how many more."""
    more = f" and {len(recordings) - most} more" if len(recordings) > most else ""
    names = f"{', '.join(sorted(recordings)[:most])}{more}"
    return "\n  ".join(wrap(names, WIDE))


def _table() -> Report:
    """A line for each data set."""
    rows = []
    for name, part in DATASETS.items():
        known = DESCRIPTIONS.get(name)
        told = (known.size, known.licence) if known else ("not stated",) * 2
        verified = "" if known is None else "no" if known.verified == WRITTEN else known.verified
        rows.append((name, part.summary, *told, verified))
    rows += [
        (name, what, "-", "-", "layout unknown: as custom") for name, what in UNDOCUMENTED.items()
    ]
    columns = ("name", "what", "download", "licence", "layout verified")
    notes = (
        "`scaleevent prepare --list NAME` tells what to download and where, the layout, and which "
        "recordings test benchmarks",
    )
    return Report("prepare", "data sets of prepare", columns, tuple(rows), notes)


def tags_for(config: PrepareConfig) -> dict[str, str]:
    """What is known of the pairs of a store, by pattern of their recordings' names.

    What the user tells prevails over what is known of the data set.
    """
    known = DESCRIPTIONS.get(config.name)
    described = {"*": ""} | (known.tags if known else {})
    return {
        pattern: ", ".join([*filter(None, [words]), *config.told_tags])
        for pattern, words in described.items()
    }


def unverified(name: str) -> list[str]:
    """What a user is told when such a data set is prepared: a line, or none."""
    known = DESCRIPTIONS.get(name)
    if known is None or known.verified != WRITTEN:
        return []
    doubts = f"; {known.doubts}" if known.doubts else ""
    look = "`scaleevent info PAIRS --picture pairs.png` shows whether events lie on the edges"
    return [f"layout of {name} {WRITTEN}{doubts}: {look}"]
