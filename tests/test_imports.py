"""Imports point backwards along the path of the data, and the command line stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scaleevent
from scaleevent.cli import COMMANDS

PACKAGE = Path(scaleevent.__file__).parent

# The path of the data: a module may import those above it, and its own package's.
ORDER = [
    "version",
    "errors",
    "system",
    "config",
    "events",
    "packing",
    "images",
    "formats",
    "grids",
    "simulation",
    "street",
    "panels",
    "pictures",
    "legends",
    "pairs",
    "datasets",
    "encoders",
    "training",
    "objectives",
    "metrics",
    "tasks",
    "decoders",
    "checkpoint",
    "predictor",
    "benchmarks",
    "prediction",
    "live",
    "deployment",
    "reporting",
    "commands",
    "usage",
    "cli",
    "__main__",
]

# packages of plug-ins: the members that others may build on
PLUGINS = {
    "formats": {
        "source",
        "recording",
        "clock",
        "sensors",
        "columns",
        "words",
        "headers",
        "facts",
        "evt",
        "hdf5_ecf",
        "ros_bags",
        "ros_messages",
        "ros_readers",
        "units",
    },
    "datasets": {
        "calibration",
        "clips",
        "filmed",
        "tfrecord",
        "flow_png",
        "flow_propagation",
        "frame_times",
        "frames",
        "hdf5_frames",
        "recorded_frames",
        "video",
        "custom",
        "custom_files",
        "custom_labels_files",
        "custom_labels_times",
        "dsec",
        "dsec_labels",
        "finding",
        "held_out",
        "simulated",
        "timed_labels",
        "tracking",
        "mvsec",
        "recordings",
    },
    "tasks": {"task"},
    "decoders": {"crops", "decoder", "dpt_blocks", "depth_loss", "segment_loss", "flow_parts"},
    "commands": {"benchmark_data", "launching", "prepare", "street_store", "task_run"},
}


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file; the package's own __init__ is the lazy public API."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Dotted names below the package that a module imports anywhere, except for type checkers."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.split(".")[0] == "scaleevent":
                base = node.module.removeprefix("scaleevent").lstrip(".")
                for alias in node.names:
                    full = f"{base}.{alias.name}".lstrip(".")
                    found.add(full if full in MODULES else base)
        elif isinstance(node, ast.Import):
            for alias in node.names:  # the package itself is its lazy public API: above everything
                assert alias.name != "scaleevent", f"{path}: imports the package itself"
                if alias.name.startswith("scaleevent."):
                    found.add(alias.name.removeprefix("scaleevent."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found - {""}


MODULES = modules()


def test_every_module_has_its_place():
    tops = {name.split(".")[0] for name in MODULES}
    assert tops - set(ORDER) == set(), "add these to ORDER where the data meets them"
    assert set(ORDER) - tops == set(), "these are gone"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_backwards(name):
    own = name.split(".")[0]
    for target in imports(MODULES[name]):
        top = target.split(".")[0]
        if top != own:
            assert ORDER.index(top) < ORDER.index(own), f"{name} imports {target}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in PLUGINS])
def test_plugins_do_not_import_each_other(name):
    package, _, member = name.partition(".")
    for target in imports(MODULES[name]):
        top, _, other = target.partition(".")
        if member and top == package and other:
            part = other.startswith(f"{member}_")  # such as eomt_loss of eomt
            assert part or other in PLUGINS[package], f"{name} imports {target}"


# The command line


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after running this."""
    report = "import sys; print(*{'torch', 'numba', 'h5py'} & sys.modules.keys(), file=sys.stderr)"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(process.stderr.split())


HELP = """
import sys
from scaleevent.cli import main
sys.argv = ["scaleevent", *{arguments}]
try:
    main()
except SystemExit as leave:
    assert not leave.code, leave.code
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)]
)
def test_help_loads_nothing_heavy(arguments):
    assert not loaded_by(HELP.format(arguments=arguments))


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import scaleevent")
    assert not loaded_by("import scaleevent.cli")


@pytest.mark.parametrize("command", ["prepare", "voxelize", "info"])
def test_commands_on_recordings_do_without_torch(command):
    assert f"commands.{command}" in MODULES
    assert "torch" not in loaded_by(f"import scaleevent.commands.{command}")


def test_public_names_are_sorted_and_there():
    assert scaleevent.__all__ == sorted(set(scaleevent.__all__))
    for name in scaleevent.__all__:
        value = getattr(scaleevent, name)
        assert isinstance(value, str) or value.__doc__, f"{name} has no documentation"
    assert set(dir(scaleevent)) == set(scaleevent.__all__)
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        scaleevent.unheard_of  # noqa: B018


def test_the_training_loop_does_without_decoders():
    code = "import scaleevent.training.loop, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "scaleevent.training.loop" in loaded and "scaleevent.decoders" not in loaded
