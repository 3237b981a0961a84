"""The weights in the package, by name: wherever a teacher or an encoder is asked for."""

from types import SimpleNamespace

import pytest
import torch

from scaleevent.benchmarks.task_model import task_model
from scaleevent.config.downstream import ProbeConfig
from scaleevent.encoders.encoder import build_encoder
from scaleevent.errors import CheckpointError
from scaleevent.objectives.scaleevent import Settings
from scaleevent.objectives.teacher import teacher_and_student, teacher_name
from scaleevent.street.scene import DEFAULT_LAYOUT
from scaleevent.system import locations
from scaleevent.system.locations import (
    EMBEDDED_WEIGHTS,
    EVENT_ENCODERS,
    embedded_file,
    embedded_name,
)

NOW = locations.EMBEDDED_DEFAULT


@pytest.fixture
def run():
    """What a run says, and a CPU."""
    said = []
    ranks = SimpleNamespace(world=1, main=True, device=torch.device("cpu"))
    return SimpleNamespace(quiet=False, say=said.append, said=said, ranks=ranks)


@pytest.mark.parametrize("name", ["embedded", *sorted(EMBEDDED_WEIGHTS.keys() - EVENT_ENCODERS)])
def test_every_name_builds_an_encoder_that_says_which_it_is(name):
    encoder = build_encoder("tiny", name)
    same = build_encoder(None, embedded_file(name)).vit.state_dict()
    assert all(torch.equal(one, same[key]) for key, one in encoder.vit.state_dict().items())
    assert encoder.remarks[0].startswith(f"{embedded_name(name)}: taught by street images")
    assert encoder.history == {"recordings": []}
    with pytest.raises(CheckpointError):
        build_encoder("vits", name)


def test_embedded_is_the_one_of_the_default_layout(monkeypatch, tmp_path):
    assert embedded_name("embedded") == NOW
    assert (NOW == "embedded-v1") == (DEFAULT_LAYOUT == "fixed")
    monkeypatch.setitem(EMBEDDED_WEIGHTS, "embedded-v9", "data/other.safetensors")
    monkeypatch.setattr(locations, "EMBEDDED_DEFAULT", "embedded-v9")
    assert embedded_file("embedded").name == "other.safetensors"
    assert embedded_file("embedded-v1").name == "tiny_teacher.safetensors"
    assert teacher_name(Settings(arch="tiny")) == "embedded-v9"
    assert embedded_name("embedded-v7") is None


def test_a_file_of_that_name_needs_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "encoder.safetensors").touch()
    assert not locations.is_weight_file("embedded") and locations.is_weight_file("./embedded")
    assert Settings(teacher="embedded").teacher == "embedded"
    assert Settings(teacher="./embedded").teacher.endswith("encoder.safetensors")
    assert build_encoder(None, "embedded").width == 96


def test_a_run_names_its_teacher(run):
    for cfg in (Settings(arch="tiny"), Settings(teacher="embedded"), Settings(teacher=NOW)):
        run.said.clear()
        teacher, student = teacher_and_student(cfg, run)
        assert teacher_name(cfg) == NOW
        assert run.said[0] == teacher.remarks[0] and NOW in run.said[0]
        assert student.history == {"recordings": []}
        x = torch.randn(1, 3, 16, 24)
        assert torch.equal(teacher(x), student.eval()(x))


def test_a_probe_takes_it():
    cfg = ProbeConfig(benchmark="street-semantic", checkpoint="embedded")
    start = task_model(cfg.as_finetuning())
    assert NOW in start.describe()[0]
    assert start.pretraining["kind"] == "encoder" and start.pretraining["sha256"]
    other = ProbeConfig(benchmark="street-semantic", checkpoint="random")
    assert task_model(other.as_finetuning()).pretraining == {}


def test_it_is_no_benchmark():
    with pytest.raises(Exception, match="have changed places"):
        ProbeConfig(benchmark="embedded", checkpoint="street-semantic")
