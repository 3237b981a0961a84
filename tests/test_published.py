"""The published numbers, spot-checked against the paper's tables, and how they are chosen."""

import pytest

from scaleevent.benchmarks.published import PUBLISHED, comparable
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.config import benchmarks
from scaleevent.config.catalog import DATASETS, DEFAULT_DECODERS


def number(benchmark, method, setting, key):
    rows = [r for r in PUBLISHED[benchmark] if r.method == method and r.setting == setting]
    assert len(rows) == 1
    return rows[0].numbers[key]


@pytest.mark.parametrize(
    ("benchmark", "method", "setting", "key", "value"),
    [
        ("dsec-semantic", "ScaleEvent ViT-L", "full", "miou", 69.65),
        ("dsec-semantic", "ScaleEvent ViT-B", "5%", "miou", 62.87),
        ("dsec-semantic", "OpenESS", "probe", "miou", 44.26),
        ("ddd17-seg", "ScaleEvent ViT-S", "full", "acc", 91.39),
        ("ddd17-seg", "OpenESS", "1%", "miou", 57.58),
        ("dsec-depth", "ScaleEvent ViT-L", "full", "rmse", 3.694),
        ("dsec-depth", "DepthAnyEvent-R", "20%", "rmse", 9.065),
        ("mvsec-depth", "ScaleEvent ViT-B", "full", "d1", 0.594),
        ("mvsec-depth", "ScaleEvent ViT-S", "probe", "rmse", 6.756),
        ("mvsec-flow", "ScaleEvent ViT-S", "full", "epe indoor_flying2", 0.38),
        ("mvsec-flow", "STP Swin-T", "full", "epe indoor_flying3", 0.43),
    ],
)
def test_numbers_of_the_paper(benchmark, method, setting, key, value):
    assert number(benchmark, method, setting, key) == value


def test_rivals_come_best_first_after_the_papers_own():
    for benchmark, key, best in (("dsec-semantic", "miou", max), ("dsec-depth", "rmse", min)):
        rows = comparable(benchmark, "full")
        assert [row.method.split()[0] for row in rows[:3]] == ["ScaleEvent"] * 3
        rivals = [row.numbers[key] for row in rows[3:]]
        assert len(rivals) == 3
        listed = [r.numbers[key] for r in PUBLISHED[benchmark]
                  if r.setting == "full" and not r.method.startswith("ScaleEvent")]  # fmt: skip
        assert rivals[0] == best(listed)
    assert comparable("street-depth", "full") == []


def test_names_and_tasks_agree_everywhere():
    everything = benchmarks.BENCHMARKS
    entries = {name: entry for name, entry in everything.items() if entry.task is not None}
    assert everything.keys() - entries.keys() == {"custom"}  # its stores say
    assert BENCHMARKS.keys() == entries.keys() >= PUBLISHED.keys()
    for name, entry in entries.items():
        assert BENCHMARKS[name].task.name == entry.task and entry.task in DEFAULT_DECODERS
        assert entry.data in DATASETS and (entry.recipe is None) == entry.embedded
