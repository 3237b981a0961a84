"""What a checkpoint promises: whole, ours, of the right kind, unchanged."""

import ast
import json
import random
import subprocess
import sys
from contextlib import suppress
from importlib import resources
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import scaleevent
from scaleevent.checkpoint import load_encoder, load_model, load_task, save_encoder, save_task
from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.decoders.linear import Linear
from scaleevent.encoders import tensor_files
from scaleevent.encoders.encoder import ARCHS, Encoder, build_encoder
from scaleevent.errors import CheckpointError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.sealed import FORMAT, read_description, read_header
from scaleevent.training.state import load_state, save_state
from scaleevent.training.tensors import content_hash, load_tensors, save_tensors
from tests.conftest import DATA

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3, dtype=torch.int64)}
SPEC = {
    "name": "vit_small_patch16_dinov3",
    "kwargs": {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3, "init_values": 0.1},
}
RECORDINGS = {"recordings": ["zurich_city_00_a", "interlaken_00_c"]}
OLDER = [DATA / f"{name}_v1.safetensors" for name in ("encoder", "task", "state")]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_round_trip_with_description(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"kind": "state", "step": 7})
    tensors, description = load_tensors(path, "state")
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert description["step"] == 7 and description["format"] == FORMAT == 2
    assert set(load_file(path)) == {"a", "b"}


def test_the_same_content_gives_the_same_bytes(tmp_path):
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_tensors(one, TENSORS, {"kind": "state", "step": 7})
    again, description = load_tensors(one, "state")
    assert list(again) == sorted(again)
    reordered = dict(reversed(list(description.items())))
    save_tensors(two, dict(reversed(list(TENSORS.items()))), reordered)
    assert one.read_bytes() == two.read_bytes()


def test_any_type_and_shape_comes_back_and_lies_where_safetensors_wants_it(tmp_path):
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
             torch.int16, torch.int8, torch.uint8, torch.bool)  # fmt: skip
    shapes = ((), (0, 3), (1,), (3, 1, 5))
    tensors = {
        f"{dtype}/{shape}": torch.randint(0, 2, shape).to(dtype)
        for dtype in types
        for shape in shapes
    }
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).T
    path = tmp_path / "x.safetensors"
    save_tensors(path, tensors, {"kind": "state", "step": 7})
    for found in (load_file(path), load_tensors(path, "state")[0]):
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    head = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert head % 8 == 0
    for entry in read_header(path).tensors.values():
        size = max(1, (entry.end - entry.begin) // max(1, torch.Size(entry.shape).numel()))
        assert entry.begin % size == 0


def test_the_hash_sees_names_types_shapes_and_values():
    base = content_hash(TENSORS)
    for changed in (
        {"b": TENSORS["b"], "c": TENSORS["a"]},
        {"b": TENSORS["b"].double(), "a": TENSORS["a"]},
        {"b": TENSORS["b"].reshape(3, 2), "a": TENSORS["a"]},
        {"b": TENSORS["b"] + 1e-7, "a": TENSORS["a"]},
    ):
        assert content_hash(changed) != base


def test_non_finite_weights_are_never_written(tmp_path):
    with pytest.raises(CheckpointError, match="not finite"):
        save_tensors(tmp_path / "x.safetensors", {"w": torch.tensor([1.0, torch.nan])}, {})
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"kind": "state", "step": 7})
    content = path.read_bytes()

    def refused(data, message, kind="state"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            load_tensors(path, kind)

    refused(content, "another kind", kind="encoder")
    refused(content[:-1], "whole")
    refused(b"", "whole")
    refused(content[:-1] + bytes([content[-1] ^ 1]), "changed")
    save_tensors(path, TENSORS, {"kind": "state", "step": 7, "format": 99, "version": "9.1"})
    refused(path.read_bytes(), r"newer version(.|\n)*9\.1(.|\n)*0\.1\.0")
    newer = {"scaleevent": json.dumps({"format": 99, "version": "9.1", "shape": "unknown"})}
    save_file(TENSORS, path, newer)
    refused(path.read_bytes(), r"newer version(.|\n)*9\.1(.|\n)*0\.1\.0")
    save_file(TENSORS, path)
    refused(path.read_bytes(), "not a ScaleEvent checkpoint")
    with pytest.raises(CheckpointError, match="not found"):
        load_tensors(tmp_path / "absent", "state")


def test_missing_and_foreign_keys_are_named(tmp_path):
    encoder = Encoder(ARCHS["tiny"])
    state = encoder.vit.state_dict()
    state["extra.weight"] = state.pop("norm.weight").clone()
    description = {"kind": "encoder", "arch": dict(encoder.spec), "input": None}
    save_tensors(tmp_path / "x.safetensors", state, description)
    with pytest.raises(CheckpointError, match=r"norm\.weight") as error:
        load_encoder(tmp_path / "x.safetensors")
    assert "extra.weight" in str(error.value)


def test_tensors_are_hashed_wherever_they_live():
    class Elsewhere(torch.Tensor):
        """A tensor of another device: no NumPy before it is brought here."""

        def numpy(self):
            raise TypeError("can't convert a tensor of another device")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    value = torch.arange(6.0).reshape(2, 3)
    assert content_hash({"a": value.as_subclass(Elsewhere)}) == content_hash({"a": value})


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"w": 3}',
        b'{"w": {"dtype": "F32"}}',
        b'{"__metadata__": {}, "__metadata__": {}}',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"w": ' + b"9" * 5000 + b"}",
        b'{"__metadata__": {"a": "\\ud800"}}',
        b'{"__metadata__": {"scaleevent": 3}}',
        b'{"w": {"shape": ["a"], "dtype": "F32"}}',
        b"\xff\xfe",
    ],
)
def test_info_refuses_a_header_that_cannot_be(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="not a whole safetensors file") as caught:
        info.run(InfoConfig(path=path))
    assert str(path) in str(caught.value)


# The seal


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small checkpoint of each kind, and what loads it."""
    folder = tmp_path_factory.mktemp("sealed")
    encoder = Encoder(SPEC)
    encoder.input = InputSettings(16, 24, 4)
    save_encoder(folder / "encoder", encoder, {"step": 1, "data": RECORDINGS, "token_scale": 1.5})
    about = {"benchmark": "street-depth", "protocol": "full", "pretraining": RECORDINGS}
    save_task(folder / "task", Linear(encoder, "depth", max_depth=50.0), about)
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(5)).sum().backward()
    optimizer.step()
    save_state(folder, 3, model, optimizer, {"seed": 0})
    saved = folder / "state" / "step-00000003.safetensors"
    found = {name: (folder / name).read_bytes() for name in ("encoder", "task")}
    found["state"] = saved.read_bytes()

    def resume(path: Path) -> None:
        saved.write_bytes(path.read_bytes())
        load_state(folder, model, optimizer, {"seed": 0})

    loaders = {
        "encoder": (load_model, load_encoder, lambda path: build_encoder(weights=path)),
        "task": (load_model, load_task),
        "state": (resume,),
    }
    return found, loaders


def header_end(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("part", ["header", "body"])
@pytest.mark.parametrize("kind", ["encoder", "task", "state"])
def test_no_flipped_bit_is_loaded(kind, part, files, tmp_path, capsys):
    """Not silently, not with a warning, not as another exception, through any loader."""
    content, load = files[0][kind], files[1][kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for loader in load:
        loader(path)
    assert capsys.readouterr().err == ""
    rng = random.Random(f"{kind} {part}")
    first, last = (0, header_end(content)) if part == "header" else (header_end(content), None)
    for _ in range(200):
        place = rng.randrange(first, last or len(content))
        path.write_bytes(flipped(content, place, rng.randrange(8)))
        for loader in (*load, read_header):
            with pytest.raises(CheckpointError):
                loader(path)
        with pytest.raises(CheckpointError):
            info.run(InfoConfig(path=path))
    assert capsys.readouterr().err == ""


def test_no_bit_of_the_header_can_be_flipped(tmp_path):
    """Every one of them: none makes the file older, of another origin, or another kind of file."""
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"w": torch.ones(2)}, {"kind": "state", "step": 7, "x": "\u00e9"})
    content = path.read_bytes()
    assert read_description(path)["x"] == "\u00e9"
    for place in range(header_end(content)):
        for bit in range(8):
            path.write_bytes(flipped(content, place, bit))
            with pytest.raises(CheckpointError):
                read_description(path)


def test_no_bit_of_an_older_file_makes_it_one_of_another_origin(tmp_path):
    content, path = OLDER[2].read_bytes(), tmp_path / "x.safetensors"
    first = content.index(b"scaleevent")
    for place in range(first, first + 30):
        for bit in range(8):
            path.write_bytes(flipped(content, place, bit))
            with suppress(CheckpointError):
                assert read_header(path).description is not None


def test_a_damaged_brace_is_no_pickle(tmp_path):
    path = tmp_path / "x.safetensors"
    for padding in range(0, 1000, 8):
        save_tensors(
            path, {"w": torch.ones(2)}, {"kind": "state", "step": 7, "padding": "x" * padding}
        )
        content = path.read_bytes()
        if content[0] == 0x80:
            break
    assert content.startswith(b"\x80")
    path.write_bytes(flipped(content, 8, 0))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_description(path)


@settings(max_examples=200, deadline=None)
@given(edit=st.binary(min_size=1, max_size=12), share=st.floats(0, 1, exclude_max=True))
def test_no_stretch_of_bytes_can_be_replaced(edit, share, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "replaced.safetensors"
    save_tensors(path, TENSORS, {"kind": "state", "step": 7})
    content = path.read_bytes()
    place = int(share * len(content))
    changed = (content[:place] + edit + content[place + len(edit) :])[: len(content)]
    path.write_bytes(changed)
    if changed == content:
        assert read_description(path)["step"] == 7
    else:
        with pytest.raises(CheckpointError):
            read_description(path)


def test_a_rewritten_file_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"kind": "state", "step": 7})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), tmp_path / "other.safetensors", metadata | {"step": "8"})
    with pytest.raises(CheckpointError, match="changed since"):
        read_header(tmp_path / "other.safetensors")
    del metadata["scaleevent.sha256"]
    save_file(load_file(path), tmp_path / "other.safetensors", metadata)
    with pytest.raises(CheckpointError, match="changed since"):
        read_header(tmp_path / "other.safetensors")
    save_file(load_file(path), tmp_path / "other.safetensors")  # nothing of ours is left
    assert read_description(tmp_path / "other.safetensors") is None


def test_one_place_opens_weight_files():
    package = Path(scaleevent.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "id", None), getattr(node, "attr", None)}
            if isinstance(node, ast.ImportFrom | ast.Import):
                names |= {part for alias in node.names for part in alias.name.split(".")}
            if names & {"safe_open", "load_file", "save_file", "deserialize"}:
                found.add(path.relative_to(package).as_posix())
    assert found == {"encoders/tensor_files.py"}


def test_the_check_and_info_do_without_torch(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"kind": "encoder", "arch": SPEC})
    code = f"""
import sys
from pathlib import Path
from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.system.sealed import read_description
assert read_description(Path({str(path)!r}), "encoder")["kind"] == "encoder"
info.run(InfoConfig(path={str(path)!r}))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shipped_weights_are_sealed():
    path = resources.files("scaleevent") / "data/tiny_teacher.safetensors"
    header = read_header(path)
    assert header.protected and header.description["kind"] == "encoder"
    assert Path(str(path)).stat().st_size < 2_000_000
    # the values that examples/train_teacher_v1.py gave
    assert content_hash(load_file(path)) == (
        "92cde601738b5d2fad1e3c2c624e8978fc1ca579f0256687fa20ca04c77bf483"
    )
    assert build_encoder("tiny", path).width == 96


def test_timm_loads_it_alone(files, tmp_path):
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(files[0]["encoder"])
    vit = timm.create_model(SPEC["name"], checkpoint_path=str(path), **SPEC["kwargs"])
    ours = load_encoder(path).vit.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in vit.state_dict().items())


# Older files


@pytest.mark.parametrize("path", OLDER, ids=lambda path: path.stem)
def test_older_files_load_and_say_once_what_is_not_protected(path, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tensor_files, "SAID", set())
    copy = tmp_path / "x.safetensors"
    copy.write_bytes(path.read_bytes())
    kind = path.stem.removesuffix("_v1")
    for _ in range(2):
        tensors, description = load_tensors(copy, kind)
    (line,) = caplog.messages
    assert str(copy) in line and "0.1.0" in line and "not their description" in line
    assert description["sha256"] == content_hash(tensors)
    report = info.run(InfoConfig(path=copy))
    assert "description is not protected" in report.facts["checked"] and report.notes
    copy.write_bytes(flipped(copy.read_bytes(), copy.stat().st_size - 1, 0))
    for read in (lambda: load_tensors(copy, kind), lambda: info.run(InfoConfig(path=copy))):
        with pytest.raises(CheckpointError, match="changed since"):
            read()


def test_an_older_state_is_resumed(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-00000007.safetensors").write_bytes(OLDER[2].read_bytes())
    last = {"file": "step-00000007.safetensors", "step": 7}
    (tmp_path / "state" / "last.json").write_text(json.dumps(last))
    (tmp_path / "log.jsonl").write_text("")
    assert load_state(tmp_path, model, optimizer, {"seed": 0, "data": ["abc"]}) == 7
    assert torch.equal(model.weight, load_file(OLDER[2])["model/weight"])


# Descriptions that no version of ours wrote, under a seal that holds


def sealed(path: Path, encoder: Encoder, **changes: object) -> Path:
    about = {"kind": "encoder", "arch": SPEC, "input": {"height": 16, "width": 24, "patch": 4}}
    description = {name: v for name, v in (about | changes).items() if v is not ...}
    save_tensors(path, encoder.vit.state_dict(), description)
    return path


WRONG = [0, -1, "x", [], [1], {}, {"a": 1}, True, 1.5, None, "\u0000", 10**30, float("nan")]


@pytest.mark.parametrize(
    "key",
    [
        "format",
        "version",
        "kind",
        "arch",
        "input",
        "data",
        "layout",
        "step",
        "pretraining",
        "benchmark",
    ],
)
def test_every_key_is_checked_before_it_is_used(key, tmp_path):
    encoder = Encoder(SPEC)
    path = tmp_path / "x.safetensors"
    harmless = {
        "version": ("x", "\u0000"), "input": (None, {}), "data": ({}, {"a": 1}),
        "layout": (None, "x", "\u0000"), "pretraining": ({}, {"a": 1}), "step": (0, -1, 10**30),
        "benchmark": (None, "x", "\u0000"),
    }.get(key, ())  # fmt: skip
    for value in [..., *WRONG]:
        sealed(path, encoder, **{key: value})
        for load in (load_encoder, load_model, lambda path: build_encoder(weights=path)):
            if value in harmless or (value is ... and key not in ("kind", "arch")):
                load(path)
                continue
            with pytest.raises(CheckpointError) as caught:
                load(path)
            assert f", {key}" in str(caught.value) or key in ("kind", "format")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 10**9), ("depth", 4096), ("embed_dim", 4000), ("embed_dim", -8), ("num_heads", 0),
        ("patch_size", 0), ("num_heads", 5), ("in_chans", 1), ("nonsense", 3), ("depth", "1"),
        ("pretrained", 1), ("features_only", 1), ("checkpoint_path", 1),
        ("patch_size", float("nan")),
    ],
)  # fmt: skip
def test_no_option_of_an_encoder_is_trusted(name, value, tmp_path):
    path = tmp_path / "x.safetensors"
    arch = {"name": SPEC["name"], "kwargs": SPEC["kwargs"] | {name: value}}
    sealed(path, Encoder(SPEC), arch=arch)
    for load in (load_encoder, lambda path: build_encoder(weights=path)):
        with pytest.raises(CheckpointError, match=str(tmp_path)):
            load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0}, {"height": 1.5}, {"height": True}, {"height": "16"}, {"height": 10**9},
        {"width": None}, {"patch": -4}, {"bins": 0}, {"normaliser": "zscore"}, {"normaliser": 3},
        {"stretch": -1}, {"stretch": "a"}, {"mean": [0.5, 0.5]}, {"mean": [0.5, 0.5, "a"]},
        {"std": [0.5, 0.0, 0.5]}, {"std": 1}, {"colour": "red"},
    ],
    ids=str,
)  # fmt: skip
def test_input_settings_are_checked(change, tmp_path):
    (key,) = change
    known = {"height": 16, "width": 24, "patch": 4}
    path = sealed(tmp_path / "x.safetensors", Encoder(SPEC), input=known | change)
    for load in (load_encoder, load_model, lambda path: build_encoder(weights=path)):
        with pytest.raises(CheckpointError, match=f"input, {key}"):
            load(path)
    path = sealed(tmp_path / "x.safetensors", Encoder(SPEC), input={"height": 16, "width": 24})
    with pytest.raises(CheckpointError, match="input, patch"):
        load_encoder(path)


@pytest.mark.parametrize(
    "decoder",
    [
        None, [], "linear", {}, {"name": "linear"}, {"name": 3, "settings": {}},
        {"name": "nowhere", "settings": {}}, {"name": "linear", "settings": []},
        {"name": "linear", "settings": {"task": "depth", "colour": 3}},
        {"name": "linear", "settings": {"task": "taste"}},
        {"name": "linear", "settings": {"task": "segmentation", "classes": "a"}},
        {"name": "linear", "settings": {"task": "segmentation", "classes": 10**12}},
        {"name": "eomt", "settings": {"classes": -1}},
    ],
    ids=str,
)  # fmt: skip
def test_decoders_are_checked(decoder, files, tmp_path):
    path = tmp_path / "task.safetensors"
    path.write_bytes(files[0]["task"])
    tensors, description = load_tensors(path, "task")
    save_tensors(path, tensors, description | {"decoder": decoder})
    for load in (load_task, load_model):
        with pytest.raises(CheckpointError):
            load(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"x"', "[" * 10_000, '{"a":' * 200 + "1" + "}" * 200,
     '{"format": ' + "9" * 5000 + "}", '{"format": 1, "format": 1}', '{"format": 1}',
     '{"format": 1, "version": "0.1.0", "kind": "encoder"}',
     '{"format": 1, "version": "0.1.0", "kind": "encoder", "sha256": 3}',
     '{"version": "0.1.0", "kind": "encoder", "sha256": "0"}'],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_older_descriptions_that_cannot_be(text, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, {"scaleevent": text})
    for read in (read_header, load_model, lambda path: build_encoder(weights=path)):
        with pytest.raises(CheckpointError, match=r"description|damaged") as caught:
            read(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_what_is_no_file(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "encoder.safetensors").write_bytes(b"")
    for read in (read_description, load_model, lambda path: build_encoder(weights=path)):
        with pytest.raises(CheckpointError, match=r"a folder(.|\n)*run/encoder\.safetensors"):
            read(tmp_path / "run")
        with pytest.raises(CheckpointError, match="file not found"):
            read(tmp_path / "absent.safetensors")
        (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(CheckpointError, match="git lfs pull"):
            read(tmp_path / "lfs.safetensors")
