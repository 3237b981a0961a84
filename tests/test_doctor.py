"""What `doctor` says of a machine that is well, and of one on which something is broken."""

import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from test_end_to_end import call

import scaleevent
from scaleevent.config.doctor import DoctorConfig
from scaleevent.system.doctor import (
    LAUNCHERS,
    VARIABLES,
    examine,
    folder_size,
    requirements,
    satisfies,
)
from scaleevent.system.vitals import PACKAGES

WELL = {name: {"found": {}} for name in PACKAGES}
WELL["hdf5plugin"] = {"found": {"blosc": True, "zstd": True}}
WELL["torch"] = {"found": {"threads": 2, "CUDA": None, "mps": False, "gpus": []}}


def told(monkeypatch, out, trials=None):
    """The report, with trials as planted."""
    monkeypatch.setattr("scaleevent.system.doctor._trials", lambda: (WELL | (trials or {})).items())
    return examine(out)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEEVENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.10.0", ">=2.10", True),
        ("2.9.1", ">=2.10", False),
        ("2.10.0+cpu", "==2.10.0", True),
        ("2.10.1", "==2.10.0", False),
        ("2.10", "==2.10.0", True),
        ("2.10.4", "==2.10.*", True),
        ("2.11.0", "==2.10.*", False),
        ("1.5", ">=1,<2", True),
        ("2.0", ">=1,<2", False),
        ("1.4.9", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("1.4.1", "~=1.4.2", False),
        ("3.0", "!=3.0", False),
        ("3.0rc1", "> 2.9", True),
        ("anything", "", True),
    ],
)
def test_versions(version, wanted, fits):
    assert satisfies(version, wanted) == fits


def test_versions_as_pip_judges_them():
    specifiers = pytest.importorskip("packaging.specifiers")
    for version in ("1.0", "1.2.3", "2.0", "2.10.1", "10.0"):
        for rule in (">=1.2", "<2.0", "==1.2.3", "==2.*", "!=2.0", "~=1.2", "<=2.10.1", ">1.2.3"):
            wanted = specifiers.SpecifierSet(rule).contains(version)
            assert satisfies(version, rule) == wanted, (version, rule)


def test_all_that_is_needed_is_tried():
    """Every dependency is imported by the process that tries them, or by the program itself."""
    needed = {name.lower() for name, _, extra in requirements("scaleevent") if not extra}
    started = {"typer", "rich", "pydantic", "pyyaml"}
    assert needed - started == {name.lower() for name in PACKAGES} - {"pil"} | {"pillow"}


def test_every_variable_that_is_read_is_told():
    read = set()
    for path in Path(scaleevent.__file__).parent.rglob("*.py"):
        found = re.findall(r"environ(?:\.get)?[\[(]\"(\w+)\"|\"(\w+)\" (?:not )?in os\.environ",
                           path.read_text())  # fmt: skip
        read |= {name for pair in found for name in pair if name}
    ours = {"_TYPER_COMPLETE_ARGS", "COMP_WORDS", "COMP_CWORD"}  # set by a shell that completes
    assert len(read) > 10
    assert {name for name in read - VARIABLES.keys() - ours if not LAUNCHERS.match(name)} == set()


def test_a_machine_that_is_well(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "SLURM_JWT"):
        monkeypatch.setenv(name, "hf_do_not_tell")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/kept").write_bytes(bytes(3000))
    report = told(monkeypatch, tmp_path / "not" / "yet")
    assert report.exit_code == 0 and report.notes[-1] == "everything that is needed works"
    facts = report.to_json()
    assert facts["schema"] == "scaleevent.doctor/1" and facts["problems"] == []
    versions = {row["package"]: row for row in facts["versions"]}
    assert versions["torch"]["version"] == metadata.version("torch")
    assert {row["works"] for row in facts["versions"]} == {"yes"}
    assert [row["bytes"] for row in facts["caches"]][0] == 3000
    output, cache = facts["disk"]
    assert output["folder"] == str(tmp_path) and output["can be written"] == "yes"
    assert cache["folder"] == str(tmp_path / "cache")
    values = {row["variable"]: row["value"] for row in facts["variables"]}
    assert values["HF_TOKEN"] == values["SLURM_JWT"] == "set"
    assert values["SCALEEVENT_DATA"] == "-"
    assert "hf_do_not_tell" not in json.dumps(facts)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "kept"]  # nothing is left


def test_sizes_of_folders(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one").write_bytes(bytes(100))
    (tmp_path / "two").write_bytes(bytes(20))
    (tmp_path / "loop").symlink_to(tmp_path)
    size, files = folder_size(tmp_path)
    assert (size, files) == (120, 2)
    assert folder_size(tmp_path / "none") == (0, 0)


def problems(report):
    assert report.exit_code == 5
    return {one["what"]: one["hint"] for one in report.to_json()["problems"]}


def test_what_is_broken_is_told_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCALEEVENT_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("SCALEEVENT_CACHE_GB", "much")
    gpu = {"number": 0, "name": "H", "bytes": 2e9, "free": 1e9, "capability": "9.0", "error": None}
    torch = WELL["torch"]["found"] | {"CUDA": "13.0", "gpus": [
        gpu, gpu | {"number": 1, "error": "device lost"}]}  # fmt: skip
    found = problems(told(monkeypatch, tmp_path / "file" / "in", {
        "torchvision": {"error": "RuntimeError: operator torchvision::nms does not exist"},
        "hdf5plugin": {"found": {"blosc": False, "zstd": True}},
        "torch": {"found": torch},
    }))  # fmt: skip
    version = metadata.version("torchvision")
    wrong = f"torchvision {version}: RuntimeError: operator torchvision::nms does not exist"
    assert found[wrong] == 'pip install --upgrade "torchvision"'
    assert "h5py hdf5plugin" in found["HDF5 filters that do not work: blosc"]
    assert "CUDA_VISIBLE_DEVICES" in found["cuda:1: device lost"]
    assert found[f"SCALEEVENT_DATA: no folder {tmp_path / 'nowhere'}"] == "make it, or unset it"
    assert "such as 200" in found["SCALEEVENT_CACHE_GB: much is not a size"]
    (written,) = [what for what in found if what.startswith(f"output in {tmp_path / 'file'}")]
    assert "Not a directory" in written and found[written] == "choose another with --out"
    assert len(found) == 6


def test_versions_that_do_not_go_together(tmp_path, monkeypatch):
    real, needed = metadata.version, metadata.requires
    planted = {"torch": "2.10.0+cpu", "numba": "0.50", "timm": None, "av": None}

    def version(name):
        if name in planted and planted[name] is None:
            raise metadata.PackageNotFoundError(name)
        return planted.get(name) or real(name)

    def requires(name):
        return ["numpy", "torch (==2.11.0)"] if name == "torchvision" else needed(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", requires)
    trials = {"timm": {"error": "ModuleNotFoundError: No module named 'timm'"}}
    report = told(monkeypatch, tmp_path, trials)
    found = problems(report)
    pair = f"torchvision {real('torchvision')} is made for torch ==2.11.0, not 2.10.0+cpu"
    assert found == {
        "numba 0.50: too old": 'pip install --upgrade "numba>=0.61"',
        "timm: not installed": 'pip install --upgrade "timm>=1.0.20"',
        pair: "pip install --upgrade torch torchvision",
    }
    extras = {row["extra"]: row for row in report.to_json()["extras"]}
    assert extras["video"] == {
        "extra": "video", "state": "without av", "to install": 'pip install "scaleevent[video]"',
    }  # fmt: skip
    assert extras["ros"]["to install"] == ""


@pytest.mark.slow
def test_a_package_that_ends_the_process_does_not_end_doctor(tmp_path, monkeypatch, capsys):
    """And all that was found before it is told."""
    (tmp_path / "fake/torchvision").mkdir(parents=True)
    (tmp_path / "fake/torchvision/__init__.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    call(f"doctor -o {tmp_path} --json", 5)
    facts = json.loads(capsys.readouterr().out)
    (problem,) = facts["problems"]
    assert "torchvision" in problem["what"] and "ends the process (exit code -9)" in problem["what"]
    filters = [row["what"] for row in facts["devices"] if row["device"] == "HDF5 filters"]
    assert filters == ["blosc, zstd, lz4, bitshuffle, gzip"]


@pytest.mark.slow
def test_this_machine(tmp_path, capsys):
    call(f"doctor -o {tmp_path}")
    shown = capsys.readouterr().out
    assert "everything that is needed works" in shown and f"{sys.version_info[0]}." in shown
    assert DoctorConfig().out == Path()
