"""How each message that tells a user what to do comes about, and what the user does then.

`test_hints.py` runs them: the command line, then what its message says.
"""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from importlib import import_module
from typing import NamedTuple

import pytest
import torch

from scaleevent.pairs.loading import LATE
from scaleevent.pairs.shard import Shard


class Situation(NamedTuple):
    """A command line whose message names a command or flags, and the commands that follow it.

    In `then`: {same} is the same line; {hint}, {second} the commands that the message names;
    <--flag> and <--flag _> a flag that it names, the latter with the value printed; anything else
    is what the user knows. Inputs are made by name (`hint_files.INPUTS`), {out} is a new folder.
    """

    texts: tuple[str, ...]  # "file: part of the text" of each message
    line: str
    then: tuple[str, ...]  # ways that the message offers, each of which is tried
    code: int = 0  # of the first line
    fill: str = ""  # what the words in capitals are here: FOLDER=rig
    fault: Callable[[pytest.MonkeyPatch], None] | None = None  # of the system, during the first
    first: tuple[str, ...] = ()  # what is run before
    within: str = ""  # folder in which all of it happens
    stays: bool = False  # whether the message comes again, as a note about the same thing
    lowered: dict[str, int] = {}  # limits in the package, so that small inputs reach them
    sees: str = ""  # what is printed then
    slow: bool = False


S = Situation

READING = [
    S(
        ("usage.py: an option that",),
        "info plain.npz -z",
        ("{hint}",),
        2,
        sees="Usage: scaleevent info .* --full ",
    ),
    S(
        ("usage.py: VALUE, see",),
        "prepare custom rig --frames",
        ("{hint}",),
        2,
        sees="Usage: scaleevent prepare .* --frames <",
    ),
    S(
        ("commands/info.py: the clock was reset",),
        "info reset.npz",
        ("prepare custom reset <--segment> 2 --size 48x64 -o {out}",),
    ),
    S(
        ("pairs/describing.py: (--json lists all)",),
        "info resets.npz",
        ("{same} <--json>",),
        lowered={"scaleevent.pairs.describing.SEGMENTS": 10},
        stays=True,
        sees=r'("first_us".*?){13}',
    ),
    S(
        ("formats/facts.py: --full reads all",),
        "info long.h5",
        ("{same} <--full>",),
        lowered={"scaleevent.formats.facts.SAMPLED_ABOVE": 1000},
    ),
    S(
        ("formats/aedat.py: such as --camera DAVIS346",),
        "info new.aedat",
        ("{same} <--camera _>",),
        3,
    ),
    S(
        ("formats/aedat.py: such as --camera DVS128", "formats/aedat.py: or say its size"),
        "info old.aedat",
        ("{same} <--camera> DAVIS240", "{same} <--size> 180x240"),
        3,
    ),
    S(
        ("formats/aedat.py: --camera DVS128",),
        "info one.aedat --camera DAVIS346",
        ("info one.aedat <--camera _>",),
        2,
    ),
    S(
        ("formats/arrays.py: say where they are",),
        "info strange.npz",
        ('{same} <--columns> "t=a x=b y=c p=d"',),
        3,
    ),
    S(
        ("formats/arrays.py: say where they are",),
        "info wide.npz",
        ('{same} <--columns> "t x y p - -"',),
        3,
    ),
    S(("formats/columns.py: give the order",), "info ambiguous.txt", ("{same} <--columns _>",), 3),
    S(("formats/text.py: name the four columns",), "info six.txt", ("{same} <--columns _>",), 3),
    S(
        ("formats/hdf5_datasets.py: --topic takes another",),
        "info stereo.h5",
        ("{same} <--topic> /davis/right/events",),
    ),
    S(
        ("formats/hdf5_datasets.py: --topic takes one of these",),
        "info stereo.h5 --topic middle",
        ("info stereo.h5 <--topic> /davis/right/events",),
        2,
    ),
    S(("formats/matlab.py: name one",), "info both.mat", ("{same} <--topic _>",), 3),
    S(("formats/matlab.py: reads them as events",), "info em.mat", ("{same} <--topic _>",), 3),
    S(("formats/ros_topics.py: (--topic)",), "info wordy.bag", ("{same} <--topic> /b/events",)),
    S(
        ("formats/ros_topics.py: (--image-topic)",),
        "info images.bag",
        ("{same} <--image-topic> /dvs/image_too",),
    ),
    S(
        ("formats/ros_topics.py: may be of another camera",),
        "prepare custom apart.bag -o {out}",
        (
            "prepare custom apart.bag <--homography> one.txt -o {new}",
            "prepare custom apart.bag <--calibration> davis.yaml -o {new}",
        ),
        stays=True,
    ),
    S(
        ("formats/ros.py: uses the events alone",),
        "info otherclock.bag --image-topic /image",
        ("{hint} -o {out}",),
        2,
        "FOLDER=otherclock.bag",
    ),
    S(
        ("formats/sensors.py: --size 480x640",),
        "voxelize huge.npz -o {out}",
        ("{same} <--size> 48x3100", '{same} <--columns> "t=t x=u y=v p=p"'),
        3,
    ),
    S(
        ("formats/units.py: give the time unit",),
        "info doubt.npz --size 48x64",
        ("{same} <--time-unit> us", "{same} <--time-unit> ms"),
        3,
    ),
    S(("formats/units.py: would fit too",), "info rig/events.npz", ("{same} <--time-unit> us",)),
    S(
        ("formats/units.py: another column may be the time",),
        "info counter.npz",
        ('{same} <--columns> "t=aux x=x y=y p=p"',),
        3,
    ),
    S(
        ("formats/recording.py: the times may be in",),
        "info secs.npz --size 48x64 --time-unit us",
        ("info secs.npz --size 48x64 <--time-unit> s",),
        3,
        lowered={"scaleevent.formats.clock.CROWD": 1000},
    ),
    S(
        ("formats/recording.py: another column may be the time",),
        "voxelize shuffled.npz --on-error skip -o {out}",
        ('{same} <--columns> "t=aux x=x y=y p=p"',),
        3,
        lowered={"scaleevent.formats.recording.MAX_SEGMENTS": 1},
    ),
    S(
        ("formats/recording.py: ; --on-error skip leaves it out",),
        "voxelize bad.npz --size 48x64 -o {out}",
        ("{same} <--on-error _>",),
        3,
    ),
    S(
        ("formats/recording.py: allow more with --max-bad",),
        "voxelize worse.npz --on-error skip -o {out}",
        ("{same} <--max-bad> 20%",),
        3,
    ),
    S(
        ("formats/recording.py: (in Python, segment=0",),
        "prepare custom reset --segment 9 -o {out}",
        ("prepare custom reset <--segment _> -o {out}",),
        2,
    ),
    S(
        ("formats/recording.py: reads the parts as segments",),
        "voxelize reset.npz -o {out}",
        ("{same} <--on-error _>",),
        3,
    ),
    S(
        ("formats/aedat4.py: of stream",),
        "info two.aedat4",
        ("{same} <--topic> 2 <--image-topic> 3",),
    ),
    S(
        ("formats/kinds.py: frames go with",),
        "info filmed/000000.png",
        ("{hint} -o {out}",),
        3,
        "RECORDING=rig/events.npz",
    ),
]


SHORT = "--epochs 1 --draws 8 --batch 8 --size 48x64 --no-probe --device cpu"
TASK = "--data labelled --size 48x64 --epochs 1 --batch 4 --pictures 0 --device cpu"
SEMANTIC = "--data semanticpairs --size 96x128 --epochs 1 --pictures 0 --device cpu"
STORE = "prepare street --scenes 12 --size 48x64"


def full_disk(patch: pytest.MonkeyPatch) -> None:
    """No byte is free."""
    patch.setattr("scaleevent.system.files._free_bytes", lambda path: 0)


def not_ours(patch: pytest.MonkeyPatch) -> None:
    """Every folder is somebody else's."""
    patch.setattr("os.access", lambda path, mode: False)


def array_with_gaps(patch: pytest.MonkeyPatch) -> None:
    """A task of `sbatch --array=1,3,7`."""
    for name, value in {"ID": 3, "COUNT": 3, "MIN": 1, "MAX": 7, "STEP": 1}.items():
        patch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


def failing(place: str, error: Exception) -> Callable[[pytest.MonkeyPatch], None]:
    """A function of the package, or below it, that raises."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        def fail(*given: object, **named: object) -> None:
            raise error

        patch.setattr(place, fail)

    return fault


def unnumbered(patch: pytest.MonkeyPatch) -> None:
    """Stores as they were written before the numbers of labels were stored."""
    found = Shard.provenance
    patch.setattr(
        "scaleevent.pairs.shard.Shard.provenance",
        lambda self, row: {k: v for k, v in found(self, row).items() if k != "number"},
    )


def half_torchrun(patch: pytest.MonkeyPatch) -> None:
    """One of torchrun's variables."""
    patch.setenv("RANK", "0")


def stopped_at_once(patch: pytest.MonkeyPatch) -> None:
    """A stop signal comes with the first step, or the first shard."""
    sent: list[int] = []
    for place in ("scaleevent.training.loop._log", "scaleevent.pairs.preparing.wait"):
        module, _, name = place.rpartition(".")
        found = getattr(import_module(module), name)

        def signalled(*given: object, found: Callable = found, **named: object) -> object:
            if not sent:
                sent.append(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
            return found(*given, **named)

        patch.setattr(place, signalled)


def stalled(patch: pytest.MonkeyPatch) -> None:
    """No batch comes for as long as a run waits."""
    patch.setattr("scaleevent.pairs.samples.LOAD_SECONDS", 0.1)
    patch.setattr("scaleevent.pairs.loading._next_batch", lambda loaded, processes: LATE)


def diverging(patch: pytest.MonkeyPatch) -> None:
    """Gradients without a bound."""
    patch.setattr(
        "scaleevent.training.loop.clip_grad_norm_", lambda parameters, most: torch.tensor(math.inf)
    )


def onnx_refuses(patch: pytest.MonkeyPatch) -> None:
    """An operation that ONNX does not have."""
    errors = import_module("torch.onnx.errors")
    failing("torch.onnx.export", errors.OnnxExporterError("an operation"))(patch)


PREPARING = [
    S(
        ("datasets/clips.py: give its frame rate",),
        "prepare video raw.h264 -o {out}",
        ("{same} <--fps> 25",),
        3,
    ),
    S(
        ("datasets/clips.py: give their rate",),
        "prepare video walk -o {out}",
        ("{same} <--fps> 25", "{same} <--timestamps> walk.txt"),
        3,
    ),
    S(
        ("datasets/clips.py: give --fps or",),
        "prepare video walk --fps 25 --timestamps walk.txt -o {out}",
        (
            "prepare video walk <--fps> 25 -o {out}",
            "prepare video walk <--timestamps> walk.txt -o {out}",
        ),
        2,
    ),
    S(
        ("datasets/clips.py: --timestamps is for pictures",),
        "prepare video walk.mkv --timestamps walk.txt -o {out}",
        ("prepare video walk.mkv -o {out}", "prepare video walk.mkv <--fps> 25 -o {out}"),
        2,
    ),
    S(
        ("datasets/clips.py: a smaller sensor",),
        "prepare video walk.mkv --size 480x640 -o {out}",
        ("prepare video walk.mkv <--size> 32x48 -o {out}",),
        2,
    ),
    S(
        ("datasets/filmed.py: ; --splits takes them",),
        "prepare gopro gopro -o {out} --dry-run",
        ("{same} <--splits> test",),
    ),
    S(
        ("datasets/filmed.py: --splits X takes them",),
        "prepare gopro goprotest -o {out}",
        ("{same} <--splits _>",),
        3,
    ),
    S(
        ("datasets/filmed.py: a download or an archive that was not unpacked to its end looks",),
        "prepare gopro goprohole -o {out}",
        ("{same} <--on-error _>",),
        3,
    ),
    S(
        ("datasets/cityscapes.py: a download or an archive that was not unpacked to its end",),
        "prepare cityscapes cutsnippets --every 10 -o {out}",
        ("{same} <--on-error _>",),
        3,
    ),
    S(
        ("datasets/davis2017.py: download the archive of this resolution and part",),
        "prepare davis-2017 lessdavis -o {out}",
        ("{same} <--on-error _>",),
        3,
    ),
    S(
        ("datasets/sdsd.py: state it: --fps 30",),
        "prepare sdsd sdsd -o {out}",
        ("{same} <--fps _>",),
        2,
    ),
    S(
        ("datasets/simulated.py: to leave out what is damaged",),
        "prepare video cutwalk -o {out} --fps 25",
        ("{same} <--on-error _>",),
        3,
    ),
    S(
        ("datasets/custom.py: give --homography or",),
        "prepare custom framerig --homography two.txt --calibration cam_to_cam.yaml -o {out}",
        (
            "prepare custom framerig <--homography> two.txt -o {out}",
            "prepare custom framerig <--calibration> cam_to_cam.yaml -o {out}",
        ),
        2,
    ),
    S(
        ("datasets/custom.py: prepare them one by one",),
        "prepare custom tworigs/first tworigs/second --frames tworigs/first/images -o {out}",
        (
            "prepare custom tworigs/first tworigs/second <--frames> images -o {out}",
            "prepare custom tworigs/first -o {out} && prepare custom tworigs/second -o {new}",
        ),
        2,
    ),
    S(
        ("datasets/custom.py: uses the events alone",),
        "prepare custom oneclock.aedat4 --segment 2 -o {out}",
        ("{hint} -o {out}",),
        3,
        "FOLDER=oneclock.aedat4",
    ),
    S(
        ("datasets/custom_files.py: name it: --frames",),
        "prepare custom noframes -o {out}",
        ("{same} <--frames> else", "{hint} -o {out}"),
        3,
        "FOLDER=noframes",
    ),
    S(
        ("datasets/custom_files.py: --timestamps",),
        "prepare custom notimes -o {out}",
        ("{same} <--timestamps> stamps.log",),
        3,
    ),
    S(
        ("datasets/finding.py: --sequences",),
        "prepare dsec dsecroot -o {out}",
        ("{same} <--sequences> zurich_city_00_a",),
        3,
    ),
    S(
        ("datasets/frame_times.py: --frame-time-unit",),
        "prepare custom oddunits --size 180x240 -o {out}",
        ("{same} <--time-unit _> <--frame-time-unit _>",),
        2,
    ),
    S(
        ("datasets/custom.py: another camera", "datasets/frames.py: the same view"),
        "prepare custom larger -o {out}",
        ("{same} <--homography> two.txt", "{same} <--size> 96x128"),
        3,
    ),
    S(
        ("datasets/custom.py: another camera",),
        "prepare custom framerig -o {out}",
        ("{same} <--calibration> cam_to_cam.yaml",),
        3,
    ),
    S(
        ("datasets/custom.py: two clocks or units",),
        "prepare custom otherclock -o {out}",
        ("{same} <--offset-us> -4998900000",),
        3,
    ),
    S(
        ("datasets/custom.py: two clocks or units",),
        "prepare custom nanorig --time-unit us --frame-time-unit us -o {out}",
        ("prepare custom nanorig <--frame-time-unit> ns <--time-unit> us -o {out}",),
        3,
    ),
    S(
        ("datasets/custom_labels_settings.py: has no effect without --labels",),
        "prepare custom rig --split-seed 3 -o {out}",
        ("prepare custom mylabels <--labels> labels --split-seed 3 --size 48x64 -o {out}",),
        2,
    ),
    S(
        ("datasets/custom_labels_finding.py: name another file: --classes",),
        "prepare custom unclassed --labels labels --size 48x64 -o {out}",
        ("{same} <--classes> mylabels/classes.yaml",),
        2,
    ),
    S(
        ("datasets/custom_labels.py: prepare a store for each",),
        "prepare custom mixedlabels --labels labels --size 48x64 -o {out}",
        ("prepare custom mixedlabels <--labels> ids --size 48x64 -o {out}",),
        3,
    ),
    S(
        ("datasets/custom_labels_pairs.py: never resized silently",),
        "prepare custom twiceaslarge --labels labels --size 48x64 --split twiceaslarge/split.yaml "
        "-o {out}",
        ("{same} <--homography> two.txt",),
        3,
    ),
    S(
        ("datasets/custom_labels_pairs.py: never resized silently",),
        "prepare custom othercamera --labels labels --size 48x64 --split othercamera/split.yaml "
        "-o {out}",
        ("{same} <--calibration> cam_to_cam.yaml",),
        3,
    ),
    S(
        ("datasets/custom_labels_split.py: give several recordings",),
        "prepare custom lonelabel --labels labels --size 48x64 -o {out}",
        ("{same} <--split> lonelabel/tests.yaml",),
        3,
    ),
    S(
        ("datasets/custom_labels_times.py: --label-times",),
        "prepare custom untimed --labels labels --size 48x64 -o {out}",
        ("{same} <--label-times> stamps.log",),
        3,
    ),
    S(
        ("datasets/custom_labels_times.py: --label-times",),
        "prepare custom millilabels --labels labels --size 48x64 -o {out}",
        ("{same} <--frame-time-unit> ms",),
        3,
    ),
    S(
        ("datasets/custom_labels_files.py: state it: --depth-scale",),
        "prepare custom deep --labels labels --size 48x64 -o {out}",
        ("{same} <--depth-scale _>",),
        2,
    ),
    S(
        ("datasets/custom_labels_files.py: depth says so with --depth-scale",),
        "prepare custom deepclassed --labels labels --size 48x64 -o {out}",
        ("{same} <--depth-scale> 1000",),
        3,
    ),
    S(
        ("datasets/custom_labels_files.py: --depth-scale is words",),
        "prepare custom deep --labels labels --size 48x64 --depth-scale 0.001 -o {out}",
        ("prepare custom deep --labels labels --size 48x64 <--depth-scale> 1000 -o {out}",),
        2,
    ),
    S(
        ("datasets/held_out.py: --transductive takes them",),
        "prepare dsec dsectest --sequences zurich_city_13_a -o {out}",
        ("{same} <--transductive>",),
        2,
    ),
    S(
        ("datasets/recordings.py: mend or move them",),
        "voxelize badfolder -o {out}",
        ("{same} <--on-error _>",),
        3,
    ),
    S(
        ("datasets/recordings.py: fewer windows",),
        "voxelize slow.aedat --rate 1000 -o {out}",
        ("voxelize slow.aedat <--rate> 1 -o {out}",),
        2,
    ),
    S(
        ("datasets/recordings.py: the time unit may be",),
        "voxelize slow.npz --size 48x64 --time-unit s -o {out}",
        ("voxelize slow.npz --size 48x64 <--time-unit> us -o {out}", "{same} <--rate> 0.01"),
        2,
    ),
    S(
        ("commands/voxelize.py: longer --window-ms",),
        "voxelize sparse.npz --size 48x64 --time-unit us --window time --window-ms 15 -o {out}",
        (
            "voxelize sparse.npz --size 48x64 --time-unit us --window time <--window-ms> 2000 "
            "--tau 0.1 -o {new}",
        ),
    ),
    S(
        ("pairs/pairing.py: takes one", "pairs/pairing.py: lists them"),
        "prepare custom reset --on-error skip -o {out}",
        ("{second}", "{same} <--segment _>", "{hint} reset <--segment _> -o {out}"),
        3,
        "FILE=reset/events.npz",
    ),
    S(
        ("pairs/alignment.py: --offset-us", "pairs/alignment.py: events are off"),
        "prepare custom shifted --size 96x128 -o {out}",
        ("prepare custom shifted --size 96x128 <--offset-us _> -o {new}",),
        slow=True,
    ),
    S(
        ("pairs/alignment.py: --homography or",),
        "prepare custom moved --size 96x128 -o {out}",
        ("prepare custom moved --size 96x128 <--homography> moved.txt -o {new}",),
        slow=True,
    ),
    S(
        ("pairs/alignment.py: --homography or",),
        "prepare custom moved --size 96x128 -o {out}",
        ("prepare custom moved --size 96x128 <--calibration> moved.yaml -o {new}",),
        slow=True,
    ),
    S(
        ("pairs/alignment.py: events are off",),
        "prepare custom shifted --size 96x128 -o {out}",
        ("{hint}",),
        slow=True,
        sees="pairs.png",
    ),
    S(
        ("config/data.py: takes recordings and frames",),
        "prepare rig -o {out}",
        ("{hint}",),
        2,
        "PAIRS={out}",
    ),
    S(
        ("datasets/rgbe_seg.py: prepare those of one unit",),
        "prepare rgbe-seg twounits -o {out}",
        ("{same} <--sequences> a", "{same} <--sequences> b"),
        3,
    ),
    S(
        ("datasets/released.py: takes their events",),
        "prepare decd bags -o {out}",
        ("{hint}",),
        3,
        "FOLDER=bags VOXELS={out}",
    ),
    S(
        ("config/data.py: has no effect without --check",),
        "prepare street --scenes 2 --picture sheet.png -o {out}",
        ("{same} <--check>", "{same} <--dry-run>"),
        2,
    ),
    S(
        ("config/data.py: reads any layout",),
        "prepare highrev rig -o {out}",
        ("{hint}",),
        2,
        "ROOT=rig STORE={out}",
    ),
    S(
        ("datasets/descriptions.py: a recording at a time",),
        "prepare --list fevd",
        ("{hint}",),
        fill="FOLDER=rig PAIRS={out}",
    ),
    S(
        ("datasets/descriptions.py: tells what to download",),
        "prepare --list",
        ("{hint}",),
        fill="NAME=dsec",
    ),
    S(
        ("datasets/descriptions.py: whether events lie on the edges",),
        "prepare mvsec scene -o {out}",
        ("{hint}",),
        fill="PAIRS={out}",
        sees="pairs.png",
    ),
    S(
        ("config/data.py: FOLDER -o PAIRS",),
        "prepare custom -o {out}",
        ("{hint}",),
        2,
        "FOLDER=rig PAIRS={out}",
    ),
    S(
        ("pairs/preparing.py: the same command with --resume",),
        STORE + " -o {out}",
        ("{same} <--resume>",),
        75,
        fault=stopped_at_once,
    ),
    S(
        ("config/data.py: counts processes of this", "config/data.py: leave out --jobs"),
        STORE + " --jobs 2 --dask tcp://127.0.0.1:9 -o {out}",
        (STORE + " --jobs 2 -o {out}",),
        2,
    ),
    S(
        ("config/data.py: would delete what other", "config/data.py: before the first shard"),
        STORE + " --shard 1/1 --overwrite -o {out}",
        (STORE + " --shard 1/1 <--out> {new}",),
        2,
    ),
    S(
        ("system/shares.py: is for the tasks", "system/shares.py: elsewhere name a share"),
        STORE + " --shard slurm -o {out}",
        (STORE + " <--shard _> -o {out}",),
        2,
    ),
    S(
        ("system/shares.py: name the share",),
        STORE + " --shard slurm -o {out}",
        (STORE + " <--shard> 3/8 -o {out}",),
        2,
        fault=array_with_gaps,
    ),
    S(
        ("pairs/preparing.py: missing: --shard", "pairs/preparing.py: the store is not whole"),
        STORE + " --shard 2/2 -o {out}",
        (STORE + " <--shard> 1/2 -o {out}", STORE + " <--resume> -o {out}"),
    ),
    S(
        ("pairs/preparing.py: usually a full disk",),
        STORE + " -o {out}",
        ("{same} <--resume>",),
        5,
        fault=failing("concurrent.futures.Future.result", BrokenExecutor("a worker")),
    ),
    S(
        ("system/files.py: free some space",),
        "eval street-depth depth --data labelled -o {out}",
        ("{same} <--overwrite>",),
        5,
        fault=failing("os.replace", OSError(errno.ENOSPC, "No space")),
        slow=True,
    ),
    S(
        ("system/refusals.py: the same command again",),
        "prepare custom rig -o {out}",
        ("{same} <--resume>",),
        5,
        fault=failing("pathlib.Path.open", OSError(errno.ESTALE, "Stale")),
    ),
    S(
        ("system/files.py: free some space",),
        STORE + " -o {out}",
        ("{same} <--resume>",),
        5,
        fault=failing("os.replace", OSError(errno.ENOSPC, "No space left")),
    ),
    S(
        ("system/files.py: you may write to",),
        STORE + " -o {out}",
        (STORE + " <--out> {new}",),
        5,
        fault=not_ours,
    ),
    S(
        ("system/files.py: choose another --out",),
        STORE + " -o " + "a" * 300,
        (STORE + " <--out> {out}",),
        5,
    ),
    S(
        ("system/files.py: exclude each other", "system/files.py: deletes it"),
        STORE + " -o {out} --resume --overwrite",
        (STORE + " -o {out} <--resume>", STORE + " -o {out} <--overwrite>"),
        2,
        first=(STORE + " -o {out}",),
    ),
    S(
        ("system/files.py: --resume goes on, ", "system/files.py: X--overwrite starts anew"),
        STORE + " -o {out}",
        ("{same} <--resume>", "{same} <--overwrite>"),
        5,
        first=(STORE + " -o {out}",),
    ),
    S(
        ("pairs/preparing.py: a new store: the same",),
        "prepare custom rig --quantile 0.3 -o {out} --resume",
        (
            "prepare custom rig --quantile 0.3 <--out> {new}",
            "prepare custom rig --quantile 0.3 -o {out} <--overwrite>",
        ),
        2,
        first=("prepare custom rig -o {out}",),
    ),
    S(
        ("pairs/preparing.py: a new store: every share",),
        "prepare custom rig --tag indoor --shard 1/1 -o {out}",
        (
            "prepare custom rig --tag indoor --shard 1/1 <--out> {new}",
            "prepare custom rig --tag indoor -o {out} <--resume>",
        ),
        2,
        first=("prepare custom rig -o {out}",),
    ),
    S(
        ("system/owner.py: if that run is dead",),
        STORE + " -o abroad",
        ("{same} <--take-over>",),
        5,
    ),
    S(
        ("system/owner.py: wait until it has ended",),
        STORE + " -o busy",
        (STORE + " <--out> {out}",),
        5,
    ),
    S(
        ("errors.py: free some memory",),
        STORE + " --jobs 2 -o {out}",
        (
            STORE + " <--jobs> 1 -o {out} --resume",
            "prepare street --scenes 12 <--size> 32x48 -o {new}",
        ),
        5,
        fault=failing("concurrent.futures.Future.result", MemoryError()),
    ),
    S(
        ("errors.py: ulimit -u",),
        STORE + " --jobs 2 -o {out}",
        (STORE + " <--jobs> 1 -o {out} --resume",),
        5,
        fault=failing("concurrent.futures.Future.result", RuntimeError("can't start new thread")),
    ),
    S(
        ("datasets/folders.py: command with --resume finishes",),
        "info halfpairs",
        (STORE + " -o halfpairs <--resume> && {same}",),
        3,
    ),
    S(
        ("datasets/folders.py: command with --resume goes on",),
        "info halfrun",
        ("pretrain pairs " + SHORT + " -o halfrun <--resume> && {same}",),
        slow=True,
    ),
    S(("datasets/folders.py: tells more",), "info run", ("{hint}",), slow=True),
    S(("reporting/runs.py: `scaleevent report",), "report elsewhere -o page.html", ("{hint}",), 3),
    S(
        ("reporting/page.py: such as report.html",),
        "report elsewhere/pairs -o elsewhere",
        ("report elsewhere/pairs <--out> page.html",),
        5,
    ),
    S(
        ("reporting/page.py: choose another --out",),
        "report elsewhere/pairs -o walk.txt",
        ("report elsewhere/pairs <--out> {out}.html", "{same} <--overwrite>"),
        5,
    ),
    S(
        (
            "datasets/folders.py: tells about one",
            "datasets/folders.py: pairs one",
            "datasets/folders.py: takes the events",
        ),
        "info rigs",
        ("{hint}", "{second}", "{third} -o {out}"),
        fill="PAIRS={out}",
    ),
    S(
        ("system/weight_facts.py: --json lists all",),
        "info depth/task.safetensors",
        ("{same} <--json>",),
        slow=True,
        stays=True,
        sees="dae_30m",
    ),
    S(
        ("system/refusals.py: the same command again",),
        "info rig/events.npz",
        ("{same}",),
        5,
        fault=failing("pathlib.Path.open", OSError(errno.ESTALE, "Stale file handle")),
    ),
    S(
        ("pairs/store.py: remakes only these",),
        "pretrain lesspairs " + SHORT + " -o {out}",
        (STORE + " -o lesspairs <--resume> && {same}",),
        3,
        slow=True,
    ),
    S(
        ("pairs/shard.py: remakes only damaged",),
        "pretrain badpairs " + SHORT + " -o {out}",
        (STORE + " -o badpairs <--resume> && {same}",),
        3,
        slow=True,
    ),
]

TRAINING = [
    S(
        ("datasets/video_pairs.py: --film X=",),
        "pretrain --videos raw.h264 " + SHORT + " --validation 0 -o {out}",
        ("{same} <--film> fps=25",),
        3,
    ),
    S(
        ("system/locations.py: an interrupted",),
        "pretrain halfpairs2 " + SHORT + " -o {out}",
        (STORE + " -o halfpairs2 <--resume> && {same}",),
        3,
    ),
    S(
        ("system/locations.py: a folder of another kind",),
        "pretrain run " + SHORT + " -o {out}",
        ("{second}",),
        3,
    ),
    S(
        ("system/locations.py: recordings become one", "system/locations.py: writes it"),
        "pretrain rig " + SHORT + " -o {out}",
        ("{second}",),
        3,
        "PAIRS={out}",
    ),
    S(
        ("system/locations.py: command with --resume finishes it",),
        "probe street-depth halfrun2 " + TASK + " -o {out}",
        ("pretrain pairs " + SHORT + " -o halfrun2 <--resume> && {same}",),
        3,
    ),
    S(
        ("system/locations.py: make it with", "system/locations.py: neither --data"),
        "probe dsec-semantic run --size 96x128 --epochs 1 --pictures 0 --device cpu -o {out}",
        ("{hint} && {same} <--data _>",),
        2,
        "FOLDER=semantic",
    ),
    S(
        ("pairs/describing.py: trains on it",),
        "prepare custom mylabels --labels labels --size 48x64 -o {out}",
        ("{hint} --decoder linear --epochs 1 --pictures 0 --device cpu -o {new}",),
        0,
        "ENCODER=run",
    ),
    S(
        ("config/downstream.py: makes one: name it",),
        "probe custom run --data ownpairs --size 48x64 --epochs 1 --pictures 0 --device cpu "
        "-o {out}",
        (
            "{hint} --size 48x64 && probe custom run <--data> {new} --size 48x64 --epochs 1 "
            "--pictures 0 --device cpu -o {out}",
        ),
        3,
        "FOLDER=mylabels LABELS=labels STORE={new}",
    ),
    S(
        ("config/downstream.py: makes one: name it",),
        "probe custom run --size 48x64 --epochs 1 --pictures 0 --device cpu -o {out}",
        ("{hint} --size 48x64 && {same} <--data> {new}",),
        2,
        "FOLDER=mylabels LABELS=labels STORE={new}",
    ),
    S(
        ("config/mix.py: makes one of recordings",),
        "pretrain nowhere " + SHORT + " -o {out}",
        ("{hint} && {same}",),
        2,
        "FOLDER=rig",
    ),
    S(
        ("config/mix.py: `scaleevent prepare X FOLDER -o X`",),
        "pretrain custom " + SHORT + " -o {out}",
        ("{hint} && {same}",),
        2,
        "FOLDER=rig",
    ),
    S(
        ("config/mix.py: its layout is unknown",),
        "pretrain fevd " + SHORT + " -o {out}",
        ("{hint} && {same}",),
        2,
        "FOLDER=rig",
    ),
    S(
        ("config/mix.py: fetched by a training, or by",),
        "info far.yaml",
        ("{hint} && {same}",),
        first=("prepare street --scenes 1 -o near",),
    ),
    S(
        ("pairs/mixing.py: can be added where",),
        "pretrain ownpairs " + SHORT + " --only outdoor -o {out}",
        ("{hint} && {same}",),
        3,
        "FOLDER=rig STORE=ownpairs",
    ),
    S(
        ("system/locations.py: finish it with the same",),
        "pretrain " + SHORT + " -o {out}",
        (STORE + " -o pairs <--resume> && {same}",),
        2,
        within="elsewhere",
    ),
    S(
        ("system/sealed.py: gives an encoder its task",),
        "eval street-depth run --data labelled",
        ("{hint} " + TASK + " -o {out}",),
        3,
        "BENCHMARK=street-depth",
    ),
    S(
        ("system/sealed.py: takes the encoder out",),
        "probe street-depth depth " + TASK + " -o {out}",
        ("{hint} -o {out}",),
        3,
    ),
    S(
        ("config/downstream.py: `scaleevent X`",),
        "eval run/encoder.safetensors",
        ("eval street-depth depth --data labelled",),
        2,
    ),
    S(
        ("config/downstream.py: `scaleevent X`",),
        "eval depth street-depth --data labelled",
        ("{hint} --data labelled",),
        2,
    ),
    S(
        ("config/downstream.py: --labels released is only",),
        "probe street-depth run --labels released " + TASK + " -o {out}",
        ("probe street-depth run <--labels> all " + TASK + " -o {out}",),
        2,
    ),
    S(
        ("config/downstream.py: add --out",),
        "eval street-depth depth --data labelled --pictures 1",
        ("{same} <--out> {out}",),
        2,
    ),
    S(
        (
            "config/pretrain.py: --preset demo",
            "objectives/teacher.py: this runs here",
            "encoders/hub.py: --offline",
        ),
        "pretrain pairs --arch vits --offline -o {out}",
        (
            "{hint} " + SHORT,
            "pretrain pairs --offline <--teacher> encoder.pth " + SHORT + " -o {out}",
        ),
        5,
    ),
    S(
        ("objectives/scaleevent.py: sees events",),
        "pretrain pairs --teacher embedded-event " + SHORT + " -o {out}",
        ("pretrain pairs --arch tiny <--student-init _> " + SHORT + " -o {new}",),
        2,
    ),
    S(
        ("config/pretrain.py: the paper's: --preset",),
        "pretrain pairs --arch tiny " + SHORT + " -o {out}",
        ("pretrain pairs --arch tiny " + SHORT + " <--preset _> -o {new}",),
    ),
    S(
        ("commands/launching.py: the same command with",),
        "finetune street-depth run --decoder linear --gpus 99 "
        + TASK.replace("--device cpu", "")
        + " -o {out}",
        ("finetune street-depth run --decoder linear " + TASK + " <--gpus _> -o {out}",),
        5,
    ),
    S(
        ("system/ranks.py: --device cpu",),
        "pretrain pairs " + SHORT.replace("cpu", "cuda") + " -o {out}",
        ("pretrain pairs " + SHORT + " <--device _> -o {out}",),
        5,
    ),
    S(
        ("system/launchers.py: or --gpus",),
        "pretrain pairs " + SHORT + " -o {out}",
        ("{same}", "{same} <--gpus> 2"),
        5,
        fault=half_torchrun,
    ),
    S(
        ("training/loop.py: the same command with --resume",),
        "pretrain pairs --log-every 1 " + SHORT.replace("--epochs 1", "--epochs 3") + " -o {out}",
        ("{same} <--resume>",),
        75,
        fault=stopped_at_once,
    ),
    S(
        ("training/loop.py: the same command with --resume",),
        "pretrain pairs --max-hours 1e-9 "
        + SHORT.replace("--epochs 1", "--epochs 3")
        + " -o {out}",
        ("{same} <--resume> --max-hours 9",),
        75,
    ),
    S(
        ("benchmarks/selection.py: holds out a tenth",),
        "probe street-depth embedded --validate-every 1 " + TASK + " -o {out}",
        ("{same} <--validation _>",),
        2,
        sees="val_dav2_rmse",
    ),
    S(
        ("benchmarks/selection.py: leave out --validation",),
        "probe custom run --data {out}parts --validation 0.2 --size 48x64 --epochs 1 "
        "--pictures 0 --device cpu -o {out}",
        (
            "probe custom run --data {out}parts --size 48x64 --epochs 1 --pictures 0 "
            "--device cpu -o {out}",
        ),
        2,
        first=(
            "prepare custom threeparts --labels labels --split threeparts/split.yaml "
            "--size 48x64 -o {out}parts",
        ),
        sees="val_miou",
    ),
    S(
        ("training/loop.py: try a lower --lr",),
        "pretrain pairs " + SHORT + " -o {out}",
        ("pretrain pairs <--lr> 1e-4 " + SHORT + " -o {out} <--overwrite>",),
        6,
        fault=diverging,
    ),
    S(
        ("errors.py: free some memory",),
        "pretrain pairs --workers 0 " + SHORT + " -o {out}",
        (
            "pretrain pairs <--workers> 0 "
            + SHORT.replace("--batch 8", "<--batch> 4")
            + " -o {new}",
        ),
        5,
        fault=failing("scaleevent.training.loop._log", MemoryError()),
    ),
    S(
        ("errors.py: ulimit -u",),
        "pretrain pairs --workers 2 " + SHORT + " -o {out}",
        ("pretrain pairs <--workers> 0 " + SHORT + " -o {new}",),
        5,
        fault=failing("scaleevent.training.loop._log", RuntimeError("can't start new thread")),
    ),
    S(
        ("system/doctor.py: choose another with --out",),
        "doctor -o mylabels/classes.yaml",
        ("doctor <--out> {new}",),
        5,
        sees="everything that is needed works",
    ),
    S(
        ("training/state.py: no saved state is whole",),
        "pretrain pairs " + SHORT + " -o badrun --resume",
        ("pretrain pairs " + SHORT + " -o badrun <--overwrite>",),
        3,
    ),
    S(
        ("training/state.py: remove it to resume",),
        "pretrain pairs " + SHORT + " -o otherrun --resume",
        ("pretrain pairs " + SHORT + " -o otherrun <--overwrite>",),
        3,
    ),
    S(
        ("training/state.py: give the same data",),
        "pretrain labelled --transductive " + SHORT + " -o {out} --resume",
        (
            "pretrain pairs " + SHORT + " -o {out} --resume",
            "pretrain labelled --transductive " + SHORT + " -o {out} <--overwrite>",
        ),
        3,
        first=("pretrain pairs " + SHORT + " -o {out}",),
    ),
    S(
        ("training/state.py: takes its settings",),
        "pretrain pairs --lr 0.1 " + SHORT + " -o {out} --resume",
        (
            "pretrain <-c _> <--resume>",
            "pretrain pairs --lr 0.1 " + SHORT + " -o {out} <--overwrite>",
        ),
        2,
        first=("pretrain pairs " + SHORT + " -o {out}",),
    ),
    S(
        ("training/tensors.py: take weights of other",),
        "export timm.safetensors -o {out}",
        ("{hint} pairs " + SHORT + " -o {out}", "{second} " + TASK + " -o {out}"),
        3,
        "BENCHMARK=street-depth",
    ),
    S(
        ("pairs/samples.py: voxelize again without",),
        "pretrain counts " + SHORT + " -o {out}",
        (
            "voxelize rig -o {new} && pretrain {new} " + SHORT + " -o {out}",
            "prepare custom rig -o {new} && pretrain {new} " + SHORT + " -o {out}",
        ),
        3,
    ),
    S(
        ("pairs/samples.py: leave out recordings without",),
        "pretrain noimages " + SHORT + " -o {out}",
        ("{hint} && pretrain {new} " + SHORT + " -o {out}",),
        3,
        "FOLDER=rig PAIRS={new}",
    ),
    S(
        ("pairs/loading.py: usually memory; use fewer --workers (a",),
        "pretrain pairs --workers 2 " + SHORT + " -o {out}",
        ("pretrain pairs <--workers> 0 " + SHORT + " -o {out} <--resume>",),
        5,
        fault=failing("torch.utils.data.DataLoader.__iter__", OSError(errno.EAGAIN, "no more")),
    ),
    S(
        ("pairs/loading.py: a stalled disk",),
        "pretrain pairs --workers 2 " + SHORT + " -o {out}",
        ("{same} <--resume>",),
        5,
        fault=stalled,
    ),
    S(
        ("objectives/balance.py: counts tokens without events",),
        "pretrain still --balance 0.25 " + SHORT + " -o {out}",
        ("pretrain still --balance 0.25 <--mask> none " + SHORT + " -o {out}",),
        2,
    ),
    S(
        ("objectives/distillation.py: pairs with longer windows, a lower",),
        "pretrain pairs --tau 1e6 " + SHORT + " -o {out}",
        (
            "pretrain pairs <--tau> 0 " + SHORT + " -o {out}",
            "pretrain pairs --tau 1e6 <--mask> none " + SHORT + " -o {out}",
        ),
        3,
    ),
    S(
        ("objectives/comparison.py: no labelled pair is held out",),
        "pretrain labelled --validation 0 " + SHORT.replace(" --no-probe", "") + " -o {out}",
        (
            "pretrain labelled <--validation> 0.4 "
            + SHORT.replace(" --no-probe", "")
            + " -o {out}x",
        ),
    ),
    S(
        ("commands/street_store.py: goes on from there",),
        "pretrain " + SHORT + " -o {out}",
        ("{same}",),
        75,
        within="alone",
        fault=stopped_at_once,
        lowered={"scaleevent.commands.street_store.SCENES": 12},
    ),
    S(
        ("benchmarks/registry.py: see --submission",),
        "eval dsec-flow flow.pth --data flowpairs --size 136x128",
        ("eval dsec-flow flow.pth --data flowtests --size 136x128 <--submission> {out}",),
        stays=True,
        sees="files to hand in",
    ),
    S(
        ("benchmarks/report.py: train it with",),
        "eval dsec-flow flow.pth --data flowtests --size 96x128 --submission {out}",
        ("eval dsec-flow flow.pth --data flowtests <--size> 136x128 --submission {new}",),
        2,
    ),
    S(
        ("benchmarks/draws.py: takes any fraction",),
        "probe street-depth run --fraction 0.3 " + TASK + " -o {out}",
        ("{same} <--subset _>",),
        2,
    ),
    S(
        ("benchmarks/evaluation.py: scores it all the same",),
        "probe street-depth leaky " + TASK + " -o {out}",
        (
            "{same} <--transductive>",
            "probe street-depth leaky "
            + TASK.replace("--data labelled", "<--data> other")
            + " -o {out}",
            "probe street-depth run " + TASK + " -o {out}",
        ),
        2,
    ),
    S(
        ("benchmarks/features.py: --no-cache",),
        "probe street-depth run " + TASK + " -o {out}",
        ("{same} <--resume> <--no-cache>",),
        5,
        fault=full_disk,
    ),
    S(
        ("benchmarks/foreign.py: gives an encoder its task",),
        "eval street-depth encoder.pth --data labelled",
        ("{hint} " + TASK + " -o {out}",),
        3,
        "BENCHMARK=street-depth",
    ),
    S(
        ("benchmarks/foreign.py: its depth ends at",),
        "eval street-depth depth.pth --data labelled --size 48x64",
        ("{same} <--decoder-option> max_depth=40",),
    ),
    S(
        ("benchmarks/foreign.py: refinements",),
        "eval street-flow flow.pth --data labelled --size 48x64",
        ("{same} <--decoder-option _>",),
    ),
    S(
        ("benchmarks/leaks.py: prepare these again",),
        "pretrain dsecpairs " + SHORT + " -o {out}",
        (
            "{same} <--transductive>",
            "prepare dsec dsectest -o {new} && pretrain {new} " + SHORT + " -o {out}",
        ),
        2,
    ),
    S(
        ("benchmarks/samples.py: prepare a flow data set",),
        "probe street-flow run " + TASK.replace("labelled", "noafter") + " -o {out}",
        (
            STORE
            + " --seed 9 <--after> -o {new} && probe street-flow run "
            + TASK.replace("labelled", "{new}")
            + " -o {out} --overwrite",
        ),
        3,
    ),
    S(
        ("benchmarks/samples.py: every label with --labels all",),
        "probe dsec-semantic run --labels released " + SEMANTIC + " -o {out}",
        ("probe dsec-semantic run <--labels _> " + SEMANTIC + " -o {out}",),
        3,
        fault=unnumbered,
    ),
    S(
        ("benchmarks/task_model.py: --decoder-weights takes",),
        "finetune street-depth run --decoder dpt " + TASK + " -o {out}",
        (
            "finetune street-depth run --decoder dpt <--decoder-weights> depth.pth "
            + TASK
            + " -o {new}",
        ),
    ),
    S(
        ("commands/benchmark_data.py: makes one",),
        "probe street-depth run " + TASK.replace("labelled", "customrig") + " -o {out}",
        ("{hint} --scenes 12 --size 48x64",),
        3,
    ),
    S(
        ("decoders/eomt_weights.py: name them",),
        "eval street-semantic delta.bin --data labelled --size 48x64",
        ("{same} <--encoder-weights> dinov3.pth",),
        3,
    ),
    S(
        ("deployment/program.py: makes an event encoder",),
        "export embedded -o {out}",
        ("{hint} " + SHORT + " && {second} --format safetensors -o {out}",),
        2,
        fill="PAIRS=pairs RUN={new}",
    ),
    S(
        ("deployment/scoring.py: without --data",),
        "export run --format onnx-fp16 --data labelled -o {out}",
        ("export run --format meta -o {new}",),
        2,
    ),
    S(
        ("deployment/programs.py: exports its weights",),
        "export run -o {out}",
        ("{same} <--format _>",),
        3,
        fault=failing("torch.export.export", RuntimeError("an operation")),
    ),
    S(
        ("deployment/programs.py: keeps torch's operations",),
        "export run --format onnx -o {out}",
        ("export run <--format _> -o {out}",),
        3,
        fault=onnx_refuses,
    ),
    S(
        ("formats/kinds.py: weights are given to",),
        "info encoder.pth",
        (
            "pretrain pairs <--teacher> encoder.pth " + SHORT + " -o {out}",
            "probe street-depth encoder.pth " + TASK + " -o {out}",
        ),
        3,
    ),
]

BARE = "predict embedded bare.raw --follow --idle 1"
PREDICTING = [
    S(
        ("config/predict.py: `scaleevent predict CHECKPOINT",),
        "predict embedded -o {out}",
        ("{hint}",),
        2,
        fill="CHECKPOINT=embedded RECORDING=plain.npz FOLDER={out}",
    ),
    S(
        ("config/predict.py: `scaleevent X`",),
        "predict plain.npz embedded -o {out}",
        ("{hint} -o {out}",),
        2,
    ),
    S(
        ("prediction/models.py: the weights do not store",),
        "predict embedded plain.npz -o {out}",
        ("{same} --overwrite <--input-size> 24x32",),
        stays=True,
        sees="24x32 as asked",
    ),
    S(
        ("prediction/recordings.py: the default: the checkpoint",),
        "predict embedded plain.npz -o {out}",
        ("{same} --overwrite <--window> time",),
    ),
    S(
        ("prediction/recordings.py: an earlier --start",),
        "predict embedded plain.npz --start 7 -o {out}",
        ("{same} <--start> 0.1",),
        2,
    ),
    S(
        ("prediction/recordings.py: a smaller --every-events",),
        "predict embedded plain.npz --every-events 900000 -o {out}",
        ("{same} <--every-events> 9000",),
        2,
    ),
    S(
        ("prediction/recordings.py: --rate", "prediction/recordings.py: , or a longer --duration"),
        "predict embedded plain.npz --duration 0.02 -o {out}",
        ("{same} <--rate> 50", "{same} <--duration> 0.1"),
        2,
    ),
    S(
        ("prediction/recordings.py: shorter windows",),
        "predict flow plain.npz --window time --window-ms 150 --start 0.06 -o {out}",
        ("{same} <--window-ms> 20",),
        2,
        slow=True,
    ),
    S(
        ("prediction/times.py: , as usual for them",),
        "predict embedded plain.npz --at since.txt --at-origin first -o {out}",
        ("{same} --overwrite <--at-unit> us",),
    ),
    S(
        ("prediction/times.py: say it",),
        "predict embedded plain.npz --at close.txt --at-origin first -o {out}",
        ("{same} <--at-unit> ms",),
        3,
    ),
    S(
        ("prediction/times.py: --at-unit X",),
        "predict embedded plain.npz --at millis.txt --at-origin first -o {out}",
        ("{same} <--at-unit> ms",),
        2,
    ),
    S(
        ("prediction/times.py: --at-origin X",),
        "predict embedded plain.npz --at since.txt -o {out}",
        ("{same} <--at-origin> first",),
        2,
    ),
    S(
        ("live/evt_stream.py: say which",),
        f"{BARE} -o {{out}}",
        ("{same} <--format _> <--size _>",),
        3,
    ),
    S(
        ("live/source.py: such as --size 720x1280",),
        "predict embedded nosize.raw --follow --idle 1 -o {out}",
        ("{same} <--size _>",),
        2,
    ),
    S(
        ("live/source.py: is the sensor another",),
        "predict embedded right.raw --follow --idle 1 --size 180x240 -o {out}",
        ("predict embedded right.raw --follow --idle 1 <--size> 480x640 -o {out}",),
        3,
    ),
    S(
        ("live/source.py: read it when it is finished",),
        "predict embedded plain.npz --follow -o {out}",
        ("predict embedded plain.npz -o {out}",),
        3,
    ),
    S(
        ("live/source.py: X (--idle waits longer)",),
        "predict embedded empty.raw --follow --idle 1 -o {out}",
        ("predict embedded nosize.raw --follow --size 180x240 <--idle> 2 -o {out}",),
        5,
    ),
    S(
        ("live/source.py: of silence (--idle), or with Ctrl-C",),
        f"{BARE} --format EVT3 --size 180x240 -o {{out}}",
        ("predict embedded nosize.raw --follow --size 180x240 <--idle> 2 -o {new}",),
        stays=True,
        sees="nothing came for 2 s",
    ),
]

SENT = "somebody must send packets: tests/test_live_predict.py"
KILLED = "a process must be killed: tests/test_kills.py and test_hdf5_damage.py go on as told"
NOT_RUN = {  # file: part of the text: why
    "live/source.py: such as --size 480x640": SENT,
    "live/udp.py: the sender's format is another": SENT,
    "commands/launching.py: --arch X": "needs a GPU, and fewer than asked for",
    "system/files.py: the same command with X": KILLED,
    "system/files.py: --resume goes on": KILLED,
    "system/files.py: --overwrite starts anew": KILLED,
    "system/ranks.py: with --resume goes on (eval": KILLED,
    "system/ranks.py: usually memory": KILLED,
    "pairs/loading.py: --workers or a smaller --batch": KILLED,
    "system/hdf5_process.py: the same command again": KILLED,
    "deployment/model_card.py: Made by": "in a file: run by a test of its own",
    "benchmarks/foreign.py: trains what is missing": "decoders refuse most such files themselves",
    "deployment/weight_files.py: keeps timm's names": "other networks: tests/test_exporting.py",
    "deployment/parity.py: keeps float32": "a model that 8 bits spoil: tests/test_reduced.py",
    "deployment/results.py: before you rely on it": "the same",
    'system/doctor.py: pip install --upgrade "X': "a broken package: tests/test_doctor.py",
    "system/doctor.py: pip install --upgrade torch": "the same",
    "system/doctor.py: --force-reinstall": "the same",
    "system/dask_workers.py: --nthreads 1": "a cluster: tests/test_dask.py",
    "training/run.py: leave out --gpus": "several processes of a launcher: tests/test_launchers.py",
    "formats/__init__.py: takes all recordings below": "from Python: run by a test of its own",
}
SITUATIONS = [*READING, *PREPARING, *PREDICTING, *(one._replace(slow=True) for one in TRAINING)]
