"""JSON, YAML, manifests and pictures are judged before they are used."""

import errno
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from scaleevent.config.data import PrepareConfig, VoxelizeConfig
from scaleevent.config.downstream import EvalConfig, FinetuneConfig
from scaleevent.config.settings import load_config
from scaleevent.datasets.calibration import read_homography, read_rectified_rig, read_rig
from scaleevent.datasets.custom import unique_names
from scaleevent.datasets.frame_times import read_frame_times
from scaleevent.datasets.frames import picture_size, read_bytes
from scaleevent.errors import DataError, EnvironmentProblem, ScaleEventError
from scaleevent.images import MAX_PIXELS
from scaleevent.pairs.pair import decode_image, encode_image
from scaleevent.pairs.store import MANIFEST, PairStore, shard_done
from scaleevent.system.documents import MalformedError, parse_json, parse_yaml
from scaleevent.system.files import read_json
from tests import fakes
from tests.mutations import changed_bytes, changed_values
from tests.test_store import SOURCES, write_store

ROOT = Path(__file__).parent.parent
MUTATIONS = 2000


def json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def yaml_bytes(value: object) -> bytes:
    return yaml.dump(value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)).encode()


def outcomes(use, path: Path, data: bytes, value: object, dump) -> dict[str, int]:
    """How often a mutated document is read, and how often refused; anything else is raised."""
    counts = {"read": 0, "refused": 0}
    values = changed_values(value, MUTATIONS // 2, dump)
    for mutated in chain(changed_bytes(data, MUTATIONS // 2), values):
        path.write_bytes(mutated)
        try:
            use(path)
            counts["read"] += 1
        except ScaleEventError as error:
            assert len(str(error)) < 20_000
            counts["refused"] += 1
    return counts


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documents") / "pairs"
    folder.mkdir()
    write_store(SOURCES, folder, {"name": "custom"})
    return folder


def use_store(manifest: Path) -> None:
    store = PairStore(manifest.parent)
    assert len(store) <= 5
    if len(store):
        store.locate(len(store) - 1)[0].events(0)
        assert len(store.recordings) == len(store.windows_us) == len(store)
    str(store.manifest["settings"].get("name", store.manifest["kind"]))


@pytest.mark.slow
def test_a_mutated_manifest_is_read_or_refused(store, tmp_path):
    copied = shutil.copytree(store, tmp_path / "copy")
    data = (copied / MANIFEST).read_bytes()
    counts = outcomes(use_store, copied / MANIFEST, data, json.loads(data), json_bytes)
    assert min(counts.values()) > 100, counts


def test_a_mutated_entry_means_that_the_shard_is_not_done(store, tmp_path):
    copied = shutil.copytree(store, tmp_path / "copy")
    path = next(path for path in copied.glob("*.json") if path.name != MANIFEST)
    data = path.read_bytes()
    whole = json.loads(data)

    def use(path: Path) -> None:
        entry = shard_done(path.with_suffix(".h5"), whole["job"])
        assert entry is None or entry["pairs"] == whole["pairs"] or not entry["pairs"]

    counts = outcomes(use, path, data, whole, json_bytes)
    assert counts["refused"] == 0, counts


SETTINGS = {
    "root": "recordings", "out": "voxels", "bins": 5, "window": "time", "window_ms": 20.0,
    "size": "480x640", "jobs": 2, "tau": 32.0, "resume": False,
}  # fmt: skip


@pytest.mark.slow
def test_mutated_settings_are_read_or_refused(tmp_path):
    path = tmp_path / "settings.yaml"
    data = yaml_bytes(SETTINGS)
    counts = outcomes(
        lambda path: load_config(VoxelizeConfig, {}, path), path, data, SETTINGS, yaml_bytes
    )
    assert min(counts.values()) > 50, counts
    prepared = {"name": "street", "scenes": 4, "seed": 3, "size": "96x128"}
    counts = outcomes(
        lambda path: load_config(PrepareConfig, {}, path), path, yaml_bytes(prepared), prepared,
        yaml_bytes,
    )  # fmt: skip
    assert min(counts.values()) > 50, counts
    scored = {"benchmark": "street-semantic", "checkpoint": "runs/mine", "size": "96x128"}
    for model in (EvalConfig, FinetuneConfig):
        counts = outcomes(
            lambda path, model=model: load_config(model, {}, path), path, yaml_bytes(scored),
            scored, yaml_bytes,
        )  # fmt: skip
        assert min(counts.values()) > 50, counts


@pytest.mark.slow
@pytest.mark.parametrize("read", [read_rig, read_rectified_rig])
def test_a_mutated_calibration_is_read_or_refused(tmp_path, read):
    path = fakes.write_calibration(tmp_path / "cam_to_cam.yaml")
    data = path.read_bytes()
    counts = outcomes(read, path, data, yaml.safe_load(data.replace(b"%YAML:1.0", b"")), yaml_bytes)
    assert min(counts.values()) > 50, counts


def test_mutated_frame_times_and_homographies_are_read_or_refused(tmp_path):
    times = b"# time file\n" + b"".join(b"%d.25 frame_%02d.png\n" % (k, k) for k in range(20))
    path = tmp_path / "times.txt"
    for mutated in changed_bytes(times, MUTATIONS):
        path.write_bytes(mutated)
        try:
            read_frame_times(path, "s", "middle")
        except ScaleEventError:
            pass
    np.save(tmp_path / "h.npy", np.eye(3))
    for path in (tmp_path / "h.npy", tmp_path / "h.txt"):
        data = path.read_bytes() if path.exists() else b"1 0 2\n0 1 3\n0 0 1\n"
        for mutated in changed_bytes(data, MUTATIONS // 2):
            path.write_bytes(mutated)
            try:
                read_homography(path)
            except ScaleEventError:
                pass


# What documents may not be


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"[" * 100_000, "deeply"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"[" + b"[]," * 2_000_001 + b"[]]", "values"),
        (b"\xff\xfe", "decode"),
        (b"", "Expecting value"),
    ],
    ids=["deep", "twice", "digits", "values", "bytes", "empty"],
)
def test_json_that_is_refused(data, what, tmp_path):
    with pytest.raises(MalformedError, match=what):
        parse_json(data)
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(DataError, match="not a JSON file"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"a: " + b"[" * 100_000, "deeply"),
        (b"a: 1\nb: 2\na: 3\n", "twice"),
        (b"a: " + b"9" * 5000, "digits"),
        (b"a: 2020-13-45\n", "month"),
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"a: !!python/object/apply:os.system [true]\n", "constructor"),
        (b"? [1, 2]\n: 3\n", "no text"),
        (b"a: 1\n" * 250_000, "bytes"),
        (b"a: \xff\n", "invalid|acceptable"),
    ],
    ids=["deep", "twice", "digits", "date", "alias", "tag", "key", "large", "bytes"],
)
def test_yaml_that_is_refused(data, what):
    with pytest.raises(MalformedError, match=what):
        parse_yaml(data)


def test_the_line_of_a_problem_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("bins: 3\nout: [\nroot: x\n")
    with pytest.raises(ScaleEventError, match=r"c.yaml, line [234]"):
        load_config(VoxelizeConfig, {}, tmp_path / "c.yaml")


def test_a_device_is_not_read_for_ever(tmp_path):
    with pytest.raises(ScaleEventError, match="not a plain file"):
        load_config(VoxelizeConfig, {}, Path("/dev/zero"))
    with pytest.raises(DataError, match="not a plain file"):
        read_json(tmp_path)


def test_long_names_stay_names_of_files():
    names = unique_names(["x" * 250, "x" * 251, "x" * 250])
    assert len({name.lower() for name in names}) == 3
    assert max(map(len, names)) < 200


# Pictures


def png_of(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG file that declares a size, with some rows of zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG file whose header declares another size."""
    data = bytearray(encode_image(np.zeros((8, 8), np.uint8)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


BOMBS = {
    "png 60000": png_of(60_000, 60_000), "png 2^31": png_of(2**31 - 1, 2**31 - 1),
    "png 10000": png_of(10_000, 10_000), "jpeg 65500": jpeg_of(65_500, 65_500),
    "jpeg 12000": jpeg_of(12_000, 12_000),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_bomb_is_refused_before_it_is_decoded(name, tmp_path):
    path = tmp_path / "frame.png"
    path.write_bytes(BOMBS[name])
    with pytest.raises(DataError, match="too large|cannot be read"):
        decode_image(BOMBS[name], path)
    with pytest.raises(DataError, match="too large|cannot be read"):
        picture_size(path)


def test_the_memory_of_the_largest_picture_is_bounded(tmp_path):
    side = int(MAX_PIXELS**0.5)
    Image.new("RGB", (side, side)).save(tmp_path / "large.png")
    code = f"""
from scaleevent.pairs.pair import decode_image
from tests.peak_memory import peak_mib
data = open({str(tmp_path / "large.png")!r}, "rb").read()
before = peak_mib()
decode_image(data)
print(peak_mib() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 400


@pytest.mark.parametrize("lossless", [True, False])
def test_a_mutated_picture_is_decoded_or_refused(lossless):
    grey = np.random.default_rng(0).integers(0, 255, (24, 32), np.uint8)
    for image in (grey, np.repeat(grey[..., None], 3, -1)):
        for mutated in changed_bytes(encode_image(image, lossless), MUTATIONS // 4):
            try:
                pixels = decode_image(mutated, "frame")
            except DataError:
                continue
            assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


def test_random_bytes_after_a_signature_are_refused():
    rng = random.Random(3)
    for head in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"):
        for _ in range(200):
            with pytest.raises(DataError):
                decode_image(head + rng.randbytes(rng.randrange(300)), "frame")


def test_pictures_are_opened_at_one_place():
    text = {path: path.read_text() for path in (ROOT / "scaleevent").rglob("*.py")}
    assert [path.name for path in text if "Image.open(" in text[path]] == ["images.py"]


def test_a_picture_that_the_system_refuses_is_not_damaged(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encode_image(np.zeros((4, 4), np.uint8), True))

    def refuse(*arguments, **options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(EnvironmentProblem, match="Too many open files"):
        picture_size(tmp_path / "a.png")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(EnvironmentProblem, match="Too many open files"):
        read_bytes(tmp_path / "a.png")
