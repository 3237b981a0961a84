"""The README tells the truth about commands and files."""

import re
from pathlib import Path

from scaleevent import cli
from scaleevent.config.settings import PartSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_module_is_in_the_file_tree():
    tree = README.split("## Files")[1]
    for path in (ROOT / "scaleevent").rglob("*.py"):
        name = path.stem
        if name not in ("__init__",) and path.parent.name != "commands":
            assert name in tree, path
    for path in (ROOT / "scaleevent/commands").glob("[a-z]*.py"):
        assert path.stem in tree, path


def test_commands_and_flags_exist():
    assert len(re.findall(r"^pip install ", README, re.M)) == 2
    for command, rest in re.findall(r"`?scaleevent (\w+)([^`\n|]*)", README.replace("\\", "")):
        if command not in cli.COMMANDS:
            continue
        model = cli.COMMANDS[command][0]
        models = [model, *model.every_part()] if issubclass(model, PartSettings) else [model]
        fields = {key for one in models for key in one.model_fields}
        for flag in re.findall(r"--([a-z-]+)", rest):
            assert flag.replace("-", "_") in {*fields, "json", "config"}, (command, flag)
    assert set(re.findall(r"`scaleevent (\w+) ", README)) <= set(cli.COMMANDS)
