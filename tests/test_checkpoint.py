"""What a checkpoint promises: whole, ours, of the right kind, unchanged."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaleevent.checkpoint import load_encoder
from scaleevent.commands import info
from scaleevent.config.data import InfoConfig
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import CheckpointError
from scaleevent.training.tensors import content_hash, load_tensors, save_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3, dtype=torch.int64)}


def test_round_trip_with_description(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"kind": "state", "step": 7})
    tensors, description = load_tensors(path, "state")
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert description["step"] == 7 and description["format"] == 1
    assert description["sha256"] == content_hash(dict(reversed(TENSORS.items())))
    assert set(load_file(path)) == {"a", "b"}


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
    save_tensors(path, TENSORS, {"kind": "state"})
    content = path.read_bytes()

    def refused(data, message, kind="state"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            load_tensors(path, kind)

    refused(content, "another kind", kind="encoder")
    refused(content[:-1], "whole")
    refused(b"", "whole")
    refused(content[:-1] + bytes([content[-1] ^ 1]), "changed")
    newer = {"scaleevent": json.dumps({"format": 99, "version": "9", "kind": "state"})}
    save_file(TENSORS, path, newer)
    refused(path.read_bytes(), "newer version")
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
        b'{"__metadata__": {"scaleevent": "{"}}',
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
