"""Limits of the code itself. A number here may fall, never rise."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "scaleevent").rglob("*.py"))
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
LONGEST_FUNCTION = 84
LINES_OF_A_COMMAND, LINES_OF_ALL_COMMANDS = 120, 1209
TYPE_IGNORES, ANYS, EXEMPT_FROM_MYPY = 1, 111, 0


def functions():
    """Functions of the package with their lengths in lines."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1


def test_no_function_is_longer_than_a_screen_or_two():
    assert [name for name, lines in functions() if lines > LONGEST_FUNCTION] == []


def test_commands_only_compose():
    lines = {path.name: len(path.read_text().splitlines()) for path in SOURCES
             if path.parent.name == "commands"}  # fmt: skip
    assert {name for name, count in lines.items() if count > LINES_OF_A_COMMAND} == set()
    assert sum(lines.values()) <= LINES_OF_ALL_COMMANDS


def test_types_get_no_looser():
    text = [path.read_text() for path in SOURCES]
    assert sum(len(re.findall(r"# type: ignore", part)) for part in text) <= TYPE_IGNORES
    used = [re.sub(r"^from typing import .*$", "", part, flags=re.M) for part in text]
    assert sum(len(re.findall(r"\bAny\b", part)) for part in used) <= ANYS
    (exempt,) = [o for o in CONFIG["tool"]["mypy"]["overrides"] if o.get("ignore_errors")] or [{}]
    assert len(exempt.get("module", [])) <= EXEMPT_FROM_MYPY


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda p: p.name)
def test_tests_use_no_private_names(path):
    """Of the package: neither imported nor reached through a module or class of it."""
    tree = ast.parse(path.read_text())
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scaleevent"):
            private = [alias.name for alias in node.names if alias.name.startswith("_")
                       and alias.name != "__version__"]  # fmt: skip
            assert not private, private
            ours |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            named = re.match(r"_[a-z_]*[a-z]$|_[A-Z_]+$", node.attr)
            assert not (node.value.id in ours and named), f"{node.value.id}.{node.attr}"
