"""Which device a process computes on, decided before anything is computed."""

import pytest
import torch
from conftest import free_port

from scaleevent.errors import ConfigError, EnvironmentProblem
from scaleevent.system.ranks import Ranks, choose_device, ranks


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that says it has two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, two_gpus):
    assert choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(EnvironmentProblem, match="no CUDA device here"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="no such device"):
        choose_device("gpu")


def test_a_gpu_that_is_not_here_is_refused(monkeypatch, two_gpus, capsys):
    assert choose_device("cuda:1").index == 1
    with pytest.raises(EnvironmentProblem, match="no GPU of this number") as caught:
        choose_device("cuda:2")
    assert "GPU 2" in str(caught.value) and "0 to 1" in str(caught.value)
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "7"} | meet).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left, ranks("cuda"):
        pass
    assert left.value.code == 5 and "GPU 7" in capsys.readouterr().err


def test_loader_processes_are_for_gpus(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 24)
    assert Ranks(0, 4, torch.device("cuda", 0)).loader_workers(None) == 6
    assert Ranks(0, 1, torch.device("cuda", 0)).loader_workers(None) == 8
    assert Ranks(0, 1, torch.device("cpu")).loader_workers(None) == 0
    assert Ranks(0, 1, torch.device("cpu")).loader_workers(3) == 3
