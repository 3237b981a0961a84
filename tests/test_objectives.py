"""An objective is one file and one line: a toy one goes through the command line."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_end_to_end import call

from scaleevent.checkpoint import load_encoder
from scaleevent.config.catalog import OBJECTIVES, Part
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.system.files import read_json_lines
from scaleevent.training.tensors import load_tensors

pytestmark = pytest.mark.slow

TINY = (
    "--arch tiny --objective toy --size 48x64 --epochs 2 --draws 16 --batch 8 --lr 1e-3"
    " --log-every 1 --save-every 1 --validation 0.3"
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "pairs"
    call(f"prepare street -o {folder} --scenes 12 --size 48x64")
    return folder


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "toy", Part("toy_objective", "counts events"))


def test_a_toy_objective_trains_with_its_own_flag_input_and_number(pairs, tmp_path, capfd):
    call(f"pretrain {pairs} {TINY} --sharpness 2 -o {tmp_path / 'run'}")
    said = capfd.readouterr()
    assert "toy objective, sharpness 2" in said.err
    assert "error of the density" in said.out and "events per sample" in said.out
    log = read_json_lines(tmp_path / "run/log.jsonl")
    checks = [line for line in log if "epoch" in line]
    assert len(checks) == 3 and checks[-1]["val_count"] < checks[0]["val_count"]
    assert checks[0]["val_events"] == checks[-1]["val_events"] > 100
    assert all("largest" in line for line in log if "loss" in line)
    encoder = load_encoder(tmp_path / "run/encoder.safetensors")
    assert encoder.width == 96 and encoder.input is not None
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["config"]["sharpness"] == 2 and "structure" not in report["config"]


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from scaleevent import cli
from scaleevent.config.catalog import OBJECTIVES, Part
from scaleevent.training import loop

def save_and_die(folder, *given):
    save_state(folder, *given)
    os.kill(os.getpid(), signal.SIGKILL)

save_state, loop.save_state = loop.save_state, save_and_die
OBJECTIVES["toy"] = Part("toy_objective", "counts events")
torch.set_num_threads(1)
cli.main()
"""


def test_a_killed_toy_run_resumes_to_the_same_bits(pairs, tmp_path, one_thread):
    call(f"pretrain {pairs} {TINY} -o {tmp_path / 'whole'}")
    line = f"pretrain {pairs} {TINY} -o {tmp_path / 'parts'}"
    command = [sys.executable, "-c", KILLED, *line.split()]
    killed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    call(f"{line} --resume --sharpness 3", 2)
    call(f"{line} --resume")
    states = [
        load_tensors(tmp_path / run / "state/step-00000004.safetensors", "state")[0]
        for run in ("whole", "parts")
    ]
    assert states[0].keys() == states[1].keys() and any("head" in key for key in states[0])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_help_shows_the_options_of_the_chosen_objective_only(capsys):
    call("pretrain --objective toy --help")
    toy = capsys.readouterr().out
    assert "--sharpness" in toy and "--structure" not in toy and "counts events" in toy
    call("pretrain --help")
    default = capsys.readouterr().out
    assert "--sharpness" not in default and "--structure" in default


def test_an_option_of_another_objective_is_refused(capsys):
    call("pretrain --sharpness 2", 2)
    assert "sharpness is only for toy" in capsys.readouterr().err
    call("pretrain --objective toi", 2)
    assert "did you mean toy?" in capsys.readouterr().err


def test_settings_of_an_objective_from_python():
    settings = PretrainConfig(objective="toy", sharpness=3.0)
    assert type(settings).__module__ == "toy_objective" and settings.sharpness == 3
    assert PretrainConfig(structure="equation").structure == "equation"
