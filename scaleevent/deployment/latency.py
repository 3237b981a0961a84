"""How long one prediction takes on this machine: eager, compiled, and by each ONNX file.

One sample at a time, on the CPU, from network input to output: neither reading events nor making
the voxel is in it. All use the same number of threads. The first runs, which load and compile, do
not count.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from scaleevent.deployment.parity import parity_inputs
from scaleevent.deployment.program import LoadedCheckpoint
from scaleevent.system.files import Json
from scaleevent.system.reports import Section

WARM_UP = 5
FEWEST, MOST, SECONDS = 20, 300, 5.0  # runs, or as many as fit into that time


def latency_table(checkpoint: LoadedCheckpoint, files: Mapping[str, Path]) -> tuple[Section, Json]:
    """Median and 99th percentile of the time of one prediction, in milliseconds.

    Args:
        checkpoint: In float32, run by torch.
        files: ONNX files of one sample or of any number, by what they are called.

    Returns:
        The table, and the same as facts.
    """
    model, names = checkpoint.deployed, checkpoint.deployed.inputs
    inputs = [each[: len(names)] for each in parity_inputs(checkpoint.predictor.settings)[:-1]]
    threads = torch.get_num_threads()
    found: dict[str, tuple[float, float, int] | str] = {}
    with torch.no_grad():
        found["torch, eager"] = measured(lambda i: model(*inputs[i % len(inputs)]))
        found["torch, compiled"] = _compiled(checkpoint, inputs)
    for name, path in files.items():
        found[name] = _by_onnxruntime(path, names, inputs, threads)
    rows: list[tuple[object, ...]] = []
    facts: list[Json] = []
    for name, result in found.items():
        if isinstance(result, str):
            rows.append((name, threads, "-", "-", result))
            facts.append({"program": name, "threads": threads, "not_measured": result})
            continue
        median, p99, count = result
        rows.append((name, threads, median, p99, f"{count} runs"))
        facts.append({
            "program": name, "threads": threads, "median_ms": median, "p99_ms": p99, "runs": count,
        })  # fmt: skip
    height, width = model.size
    title = f"latency of one sample of {height}x{width} on this CPU ({os.cpu_count()} cores)"
    return Section(title, ("program", "threads", "median ms", "p99 ms", ""), tuple(rows)), {
        "latency": facts
    }


def measured(run: Callable[[int], object]) -> tuple[float, float, int]:
    """Median and 99th percentile in milliseconds of `run(i)`, and the number of runs.

    Of fewer than a hundred runs the percentile is between the two slowest.
    """
    for i in range(WARM_UP):
        run(i)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < FEWEST or (len(times) < MOST and time.perf_counter() < end):
        start = time.perf_counter()
        run(len(times))
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times)), float(np.percentile(times, 99)), len(times)


def _compiled(
    checkpoint: LoadedCheckpoint, inputs: list[tuple[torch.Tensor, ...]]
) -> tuple[float, float, int] | str:
    """By torch.compile, or why not."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None and shutil.which("clang++") is None:
        return f"not measured: torch.compile needs a C++ compiler, and {compiler} is not here"
    try:
        compiled = torch.compile(checkpoint.deployed)
        return measured(lambda i: compiled(*inputs[i % len(inputs)]))
    except Exception as problem:  # any part of the tool chain may fail
        first = str(problem).strip().partition("\n")[0]
        return f"not measured: torch.compile fails: {first[:120]}"


def _by_onnxruntime(
    path: Path, names: tuple[str, ...], inputs: list[tuple[torch.Tensor, ...]], threads: int
) -> tuple[float, float, int] | str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if session.get_inputs()[0].shape[0] not in ("N", 1):
        return f"not measured: it takes {session.get_inputs()[0].shape[0]} samples at once"
    feeds = [dict(zip(names, (each.numpy() for each in sample), strict=True)) for sample in inputs]
    return measured(lambda i: session.run(None, feeds[i % len(feeds)]))
