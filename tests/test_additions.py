"""What the README's table "How to add something" says: a file or an entry, and a line.

Data sets, objectives and decoders have toys of their own: test_prepare.py, test_objectives.py,
test_decoders.py.
"""

import sys
from types import ModuleType
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field
from test_end_to_end import call

from scaleevent import cli, formats
from scaleevent.benchmarks import registry
from scaleevent.config import benchmarks
from scaleevent.config.benchmarks import BenchmarkEntry
from scaleevent.config.settings import Settings
from scaleevent.formats.arrays import open_source
from scaleevent.objectives import structure_loss
from scaleevent.objectives.structures import Structure
from scaleevent.system.reports import Report
from scaleevent.tasks.depth import Depth

pytestmark = pytest.mark.slow


class ToySettings(Settings):
    times: Annotated[int, Field(ge=1, description="how often")] = 1


def test_a_command_is_a_module_and_a_line(monkeypatch, capsys):
    module = ModuleType("scaleevent.commands.toy")
    module.run = lambda cfg, quiet: Report("toy", "toy", ("times",), ((cfg.times,),))
    monkeypatch.setitem(sys.modules, "scaleevent.commands.toy", module)
    monkeypatch.setitem(cli.COMMANDS, "toy", (ToySettings, (), "Say how often."))
    call("toy --times 3")
    assert "3" in capsys.readouterr().out
    call("toy --times 0", 2)
    call("--help")
    assert "Say how often." in capsys.readouterr().out


def test_a_file_format_is_a_module_and_a_line(monkeypatch, tmp_path):
    module = ModuleType("toy_format")
    module.matches = lambda head, path: head.startswith(b"TOY")
    plain = tmp_path / "plain.npz"
    np.savez(plain, t=np.arange(5) * 1000, x=np.arange(5), y=np.arange(5), p=np.ones(5, int))
    module.open_source = lambda path, options: open_source(plain, options)
    monkeypatch.setattr(formats, "FORMATS", {"toy": module, **formats.FORMATS})
    (tmp_path / "a.toy").write_bytes(b"TOY and more")
    assert len(formats.read_events(tmp_path / "a.toy", size=(8, 8))) == 5


def test_a_benchmark_on_a_known_data_set_is_two_entries(monkeypatch, tmp_path, capsys):
    call(f"prepare street -o {tmp_path / 'pairs'} --scenes 10 --size 32x48")
    monkeypatch.setitem(benchmarks.BENCHMARKS, "street-near", BenchmarkEntry("depth", "street"))
    monkeypatch.setitem(
        registry.BENCHMARKS, "street-near", registry.Benchmark(Depth(20.0), (32, 48))
    )
    capsys.readouterr()
    call(
        f"probe street-near random --arch tiny --data {tmp_path / 'pairs'} --epochs 1 --batch 4"
        f" --device cpu -o {tmp_path / 'run'}"
    )
    assert "probe street-near" in capsys.readouterr().out
    call(f"probe street-nere random --data {tmp_path / 'pairs'} -o {tmp_path / 'other'}", 2)
    assert "did you mean street-near?" in capsys.readouterr().err


def test_a_form_of_the_structure_loss_is_an_entry(monkeypatch):
    import torch

    raw = Structure("dot", "l1", None, "mean")
    monkeypatch.setitem(structure_loss.STRUCTURES, "toy", raw)
    student, teacher = torch.rand(2, 1, 6, 4)
    terms = structure_loss.distillation_terms(student, teacher, torch.ones(1, 6), "toy")
    gram = teacher @ teacher.transpose(1, 2)
    difference = student @ student.transpose(1, 2) - gram
    assert float(terms["intra"]) == pytest.approx(float(difference.abs().mean()), rel=1e-5)
