"""The README tells the truth about commands and files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scaleevent import cli
from scaleevent.checkpoint import load_encoder, save_encoder
from scaleevent.config.settings import PartSettings
from scaleevent.encoders.encoder import ARCHS, Encoder

ROOT = Path(__file__).parent.parent
FREE = ("json", "config", "list", "set", "print_config")  # options of the command line alone
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
            assert flag.replace("-", "_") in {*fields, *FREE}, (command, flag)
    assert set(re.findall(r"`scaleevent (\w+) ", README)) <= set(cli.COMMANDS)


@pytest.mark.parametrize("arch", ["tiny", "vits"])  # the first command's, and a published size
def test_the_lines_that_load_an_encoder_without_us_work_as_printed(tmp_path, arch):
    (lines,) = re.findall(r"```python\n(import json, safetensors, timm\n.*?)```", README, re.S)
    path = tmp_path / "runs/pretrain/encoder.safetensors"
    assert f'"{path.relative_to(tmp_path)}"' in lines and "scaleevent." not in lines
    encoder = Encoder(ARCHS[arch])
    save_encoder(path, encoder, {})
    code = lines + "import sys, torch; torch.save(vit.state_dict(), 'state.pt')\n"
    code += "assert not any(name.startswith('scaleevent') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    own = load_encoder(path).vit.state_dict()
    assert state.keys() == own.keys() and all(torch.equal(state[n], own[n]) for n in own)
