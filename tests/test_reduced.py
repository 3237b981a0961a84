"""Deployable files: reduced precision with its measured loss, fixed batches, latency."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from scaleevent.checkpoint import save_encoder, save_task
from scaleevent.commands import eval as scoring
from scaleevent.commands import export, prepare
from scaleevent.config.data import PrepareConfig
from scaleevent.config.downstream import EvalConfig
from scaleevent.config.export import ExportConfig
from scaleevent.decoders.linear import Linear
from scaleevent.deployment import latency, reduced
from scaleevent.deployment.latency import measured
from scaleevent.deployment.parity import Limits, parity_inputs
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.encoders.encoder import Encoder
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.grids.inputs import InputSettings
from scaleevent.system.reports import Report

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 32, 48
SPEC = {
    "name": "vit_small_patch16_dinov3",
    "kwargs": {
        "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 1, "init_values": 0.1,
    },
}  # fmt: skip
CLASSES = 8  # of street-semantic


@torch.no_grad()
def checkpoint(folder, task=None):
    """A file of an encoder, or of a task model on one."""
    torch.manual_seed(1)
    model = encoder = Encoder(SPEC)
    if task is not None:
        model = Linear(encoder, task, CLASSES if task == "segmentation" else None)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    encoder.input = InputSettings(HEIGHT, WIDTH, 8)
    path = folder / "model.safetensors"
    if task is None:
        save_encoder(path, model, {})
    else:
        name = {"segmentation": "street-semantic"}.get(task, f"street-{task}")
        save_task(path, model, {"benchmark": name})
    return path


def exported(path, out, format, **options) -> Report:
    return export.run(ExportConfig(checkpoint=path, out=out, format=format, **options), quiet=True)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def outputs(path, inputs) -> np.ndarray:
    """Of a file, one sample at a time."""
    run = session(path)
    feeds = [{"voxel": voxel.numpy()} for voxel, _ in inputs]
    return np.stack([run.run(None, feed)[0][0] for feed in feeds])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, what was exported of it, and its report."""
    folder = tmp_path_factory.mktemp("reduced")
    path = checkpoint(folder)
    report = exported(path, folder / "out", "onnx,onnx-fp16,onnx-int8")
    return path, folder / "out", report


def test_the_loss_is_the_one_that_is_told(files):
    path, out, report = files
    inputs = parity_inputs(LoadedCheckpoint(path).predictor.settings)
    inputs.append(tuple(torch.cat([inputs[0][0], inputs[-1][0]]) for _ in "ab"))
    exact = outputs(out / "encoder.onnx", inputs[:-1]).astype(np.float64)
    weight = np.array([2, *[1] * 6, 2])[:, None, None]  # the batch of two has the first and last
    document = json.loads((out / "export.json").read_text())["files"]
    for name, largest in {"encoder_fp16.onnx": 5e-3, "encoder_int8.onnx": 0.2}.items():
        found = outputs(out / name, inputs[:-1])
        off = found - exact
        rms = np.sqrt((weight * off**2).sum() / (weight * exact**2).sum())
        assert document[name]["loss"]["rms"] == pytest.approx(rms, rel=0.02)
        assert 1e-5 < rms < largest
        worst = np.abs(off).max() / np.abs(exact).max()
        assert document[name]["difference"] == pytest.approx(worst, rel=0.02)
        cosine = (found * exact).sum(-1) / np.linalg.norm(found, axis=-1)
        cosine = (weight[..., 0] * cosine / np.linalg.norm(exact, axis=-1)).sum() / (10 * 24)
        told = re.findall(r"mean cosine of the tokens (\S+)", "\n".join(report.notes))
        assert min(abs(float(one) - cosine) for one in told) < 2e-5  # five digits are printed
    sizes = [(out / f"encoder{kind}.onnx").stat().st_size for kind in ("", "_fp16", "_int8")]
    assert sizes == sorted(sizes, reverse=True)


def test_reduced_files_take_and_give_float32_and_say_how_their_input_is_made(files):
    _, out, _ = files
    for kind in ("fp16", "int8"):
        run = session(out / f"encoder_{kind}.onnx")
        about = json.loads(run.get_modelmeta().custom_metadata_map["scaleevent"])
        assert about["precision"] == kind and about["input"]["normaliser"] == "minmax"
        assert about["window"]["kind"] == "adaptive" and about["inputs"]["voxel"][0] == "N"
        (one,), (other,) = run.get_inputs(), run.get_outputs()
        assert (one.name, one.type, other.name, other.type) == (
            "voxel", "tensor(float)", "tokens", "tensor(float)",
        )  # fmt: skip
        assert (
            run.run(None, {"voxel": np.zeros((5, 3, HEIGHT, WIDTH), np.float32)})[0].shape[0] == 5
        )
    types = {w.data_type for w in onnx.load(out / "encoder_int8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in types


def test_rotary_positions_are_baked_in(files):
    operations = {node.op_type for node in onnx.load(files[1] / "encoder.onnx").graph.node}
    assert "MatMul" in operations and not operations & {"Sin", "Cos", "Range"}


def test_a_large_loss_is_pointed_out_or_refused(files, tmp_path, monkeypatch):
    format = "onnx-int8"
    monkeypatch.setitem(reduced.LIMITS, format, Limits(warn=0.0, refuse=1.0))
    report = exported(files[0], tmp_path / "out", format)
    (note,) = [line for line in report.notes if "root mean square" in line]
    assert "score it before you rely on it" in note
    monkeypatch.setitem(reduced.LIMITS, format, Limits(warn=0.0, refuse=1e-9))
    with pytest.raises(CheckpointError, match=r"not exported: reduced precision loses too much"):
        exported(files[0], tmp_path / "none", format)
    assert not (tmp_path / "none").exists()


def test_a_fixed_number_of_samples(files, tmp_path):
    path, out, _ = files
    exported(path, tmp_path / "out", "onnx,exported", batch=3)
    run = session(tmp_path / "out/encoder_batch3.onnx")
    assert run.get_inputs()[0].shape == [3, 3, HEIGHT, WIDTH]
    x = np.random.default_rng(0).normal(size=(3, 3, HEIGHT, WIDTH)).astype(np.float32)
    expected = session(out / "encoder.onnx").run(None, {"voxel": x})[0]
    assert np.abs(run.run(None, {"voxel": x})[0] - expected).max() < 1e-4 * np.abs(expected).max()
    program = torch.export.load(tmp_path / "out/encoder_batch3.pt2").module()
    assert np.abs(program(torch.from_numpy(x)).detach() - expected).max() < 1e-4
    document = json.loads((tmp_path / "out/export.json").read_text())
    assert {entry["samples"] for entry in document["files"].values()} == {3}


def test_latency(files, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.1)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    report = exported(files[0], tmp_path / "out", "onnx-int8", latency=True)
    rows = {row["program"]: row for row in report.facts["latency"]}
    assert list(rows) == ["torch, eager", "torch, compiled", "encoder_int8.onnx"]
    assert "needs a C++ compiler" in rows["torch, compiled"]["not_measured"]
    for name in ("torch, eager", "encoder_int8.onnx"):
        assert 0 < rows[name]["median_ms"] <= rows[name]["p99_ms"] and rows[name]["runs"] >= 20
        assert rows[name]["threads"] == torch.get_num_threads()
    assert len(report.more[0].rows) == 3


def test_a_failing_tool_chain_is_said(files, tmp_path, monkeypatch):
    def fail(model):
        raise RuntimeError("no such compiler\nand more")

    monkeypatch.setattr(latency, "SECONDS", 0.1)
    monkeypatch.setattr(torch, "compile", fail)
    report = exported(files[0], tmp_path / "out", "meta", latency=True)
    assert report.facts["latency"][1]["not_measured"].endswith("fails: no such compiler")


def test_median_and_percentile_leave_the_first_runs_out(monkeypatch):
    def clock():
        """The run i takes i milliseconds."""
        yield 0.0
        for i in range(1, 101):
            yield from (100.0 * i, 100.0 * i + i / 1000)
        yield 1e9

    times = clock()
    monkeypatch.setattr(latency, "FEWEST", 100)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(times))
    seen = []
    median, p99, count = measured(seen.append)
    assert seen == [*range(latency.WARM_UP), *range(100)] and count == 100
    assert (median, p99) == pytest.approx((50.5, 99.01))


def test_the_metric_of_float32_is_that_of_eval(tmp_path):
    store = tmp_path / "street"
    prepare.run(
        PrepareConfig(name="street", scenes=20, size=(HEIGHT, WIDTH), out=store), quiet=True
    )
    path = checkpoint(tmp_path, "segmentation")
    report = exported(path, tmp_path / "out", "onnx-fp16,onnx-int8", data=[store])
    scored = scoring.run(
        EvalConfig(benchmark="street-semantic", checkpoint=path, data=[store]), quiet=True
    )
    scores = report.facts["scores"]
    assert scores["metric"] == "miou" and scores["samples"] > 1
    assert scores["float32"] == pytest.approx(scored.facts["metrics"]["miou"], abs=1e-4)
    assert scores["segmentation_fp16.onnx"] == pytest.approx(scores["float32"], rel=0.02)
    assert scores["segmentation_int8.onnx"] == pytest.approx(scores["float32"], rel=0.2)
    assert any("miou on" in note for note in report.notes)
    fewer = exported(path, tmp_path / "few", "onnx-fp16", data=[store], limit=2)
    assert fewer.facts["scores"]["samples"] == 2


def test_options_that_do_not_fit(files, tmp_path):
    with pytest.raises(ValueError, match="onnx-int8"):
        ExportConfig(checkpoint="x", format="onnx,onnx-int9")
    with pytest.raises(ValueError, match="folder of its own"):
        ExportConfig(checkpoint="x", format="hub,onnx")
    with pytest.raises(ValueError, match="no data is given"):
        ExportConfig(checkpoint="x", limit=3)
    with pytest.raises(ValueError, match="no file of reduced precision"):
        ExportConfig(checkpoint="x", format="onnx", data=["store"])
    with pytest.raises(ValueError, match="batch is of whole programs"):
        ExportConfig(checkpoint="x", format="safetensors,meta", batch=2)
    store = tmp_path / "street"
    store.mkdir()
    (store / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="only task models"):
        exported(files[0], tmp_path / "out", "onnx-fp16", data=[store])
    assert not (tmp_path / "out").exists()
