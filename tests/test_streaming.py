"""Memory of `info`, `voxelize`, `prepare` and `predict` does not grow with the recording."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 480, 640
STEP_US = 64  # events between two time words
PER_STEP, STEPS = 320, 3125  # a million events in 200 ms

# runs a command and prints the peak of resident memory over it and its workers, in MiB
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
assert code == 0, code
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def write_evt2(path: Path, millions: int) -> Path:
    """An EVT2 file of so many million events, 5 million a second."""
    rng = np.random.default_rng(0)
    shape = (STEPS, PER_STEP)
    words = np.empty((STEPS, PER_STEP + 1), "<u4")
    words[:, 1:] = rng.integers(0, 2, shape) << 28
    words[:, 1:] |= (np.arange(PER_STEP) * STEP_US // PER_STEP << 22).astype(np.uint32)
    words[:, 1:] |= (rng.integers(0, WIDTH, shape) << 11).astype(np.uint32)
    words[:, 1:] |= rng.integers(0, HEIGHT, shape).astype(np.uint32)
    with path.open("wb") as file:
        file.write(b"% evt 2.0\n% geometry 640x480\n% end\n")
        for number in range(millions):
            words[:, 0] = (8 << 28) + number * STEPS + np.arange(STEPS)
            file.write(words.tobytes())
    return path


def peak_mib(*arguments: object) -> float:
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "scaleevent"]
    run = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Of 26 and 104 million events, each with frames beside it."""
    folders = {}
    for millions in (26, 104):
        folder = tmp_path_factory.mktemp(f"million{millions}")
        write_evt2(folder / "a.raw", millions)
        (folder / "images").mkdir()
        times = np.linspace(200_000, millions * 199_999, 5).astype(int)
        for number in range(len(times)):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / f"{number}.png")
        (folder / "timestamps.txt").write_text("\n".join(map(str, times)))
        folders[millions] = folder
    yield folders
    for folder in folders.values():
        (folder / "a.raw").unlink()  # half a gigabyte


@pytest.mark.parametrize("command", ["info", "voxelize", "prepare"])
def test_memory_of_a_recording_four_times_as_long(recordings, tmp_path, command):
    def run(millions: int) -> float:
        folder = recordings[millions]
        out = tmp_path / str(millions)
        return {
            "info": lambda: peak_mib("info", folder / "a.raw", "--picture", out),
            "voxelize": lambda: peak_mib("voxelize", folder / "a.raw", "--rate", 1, "-o", out),
            "prepare": lambda: peak_mib(
                "prepare", "custom", folder, "--frame-time-unit", "us", "-o", out
            ),
        }[command]()

    short, long = run(26), run(104)
    print(f"{command}: {short:.0f} MiB for 26 million events, {long:.0f} for 104 million")
    assert long < 400
    assert long <= 1.1 * short


def test_memory_of_predictions(recordings, tmp_path):
    def run(millions: int) -> float:
        out = tmp_path / str(millions)
        options = "--rate 4 --write npy,hdf5 --device cpu".split()
        return peak_mib("predict", "embedded", recordings[millions] / "a.raw", "-o", out, *options)

    short, long = run(26), run(104)
    print(f"predict: {short:.0f} MiB for 26 million events, {long:.0f} for 104 million")
    assert long <= 1.1 * short
