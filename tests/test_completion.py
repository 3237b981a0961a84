"""What a shell is told when it asks to complete a command line."""

import os
import shutil
import subprocess
import sys

import pytest

from scaleevent.cli import COMMANDS, split_words
from scaleevent.config.benchmarks import BENCHMARKS
from scaleevent.config.catalog import ARCHITECTURES, DATASETS, DECODERS, OBJECTIVES
from scaleevent.config.downstream import FinetuneConfig
from scaleevent.config.pretrain import PretrainConfig

LIGHT = (
    "import sys; from scaleevent.__main__ import main\n"
    "try: main()\n"
    "finally: assert not {'torch', 'timm', *EXTRA} & set(sys.modules)"
)


def ask(environment, heavy=()):
    """What the program answers; without importing torch or anything of `heavy`."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.replace("EXTRA", repr(heavy))], timeout=120, text=True,
        env=os.environ | environment, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [line for line in done.stdout.split("\n") if line]


def in_bash(*words, heavy=("numpy",)):
    """What bash is offered for the last of these words."""
    return ask(
        {"_SCALEEVENT_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(("scaleevent", *words)),
         "COMP_CWORD": str(len(words))}, heavy,
    )  # fmt: skip


def test_commands_and_their_options():
    assert in_bash("") == list(COMMANDS)
    assert in_bash("pr") == [name for name in COMMANDS if name.startswith("pr")]
    assert {"--seed", "--max-hours", "--set", "--print-config"} <= set(in_bash("probe", "--"))
    assert in_bash("export", "--lat") == ["--latency"]
    assert in_bash("report", "--nothing") == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("prepare", ""), DATASETS),
        (("pretrain", "--objective", ""), OBJECTIVES),
        (("pretrain", "--arch", "v"), [name for name in ARCHITECTURES if name.startswith("v")]),
        (("finetune", ""), BENCHMARKS),
        (("eval", "street-d"), ["street-depth"]),
        (("finetune", "street-depth", "random", "--decoder", ""), DECODERS),
        (
            ("probe", "street-depth", "emb"),
            ["embedded-event", "embedded-event-depth", "embedded-v1", "embedded-v2", "embedded"],
        ),
        (
            ("pretrain", "--preset", "released-"),
            ["released-vits", "released-vitb", "released-vitl"],
        ),
        (("pretrain", "--preset", ""), PretrainConfig.PRESETS),  # each once, and none of others
        (("finetune", "--preset", ""), FinetuneConfig.PRESETS),
        (("predict", "run", "a.raw", "--write", "png,n"), ["png,npy"]),
        (("pretrain", "--structure", "rel"), ["released"]),
        (("predict", "run", ""), []),  # files, which the shell knows
        (("pretrain", "-c", ""), []),
    ],
)
def test_values_are_names_of_ours(words, expected):
    assert sorted(in_bash(*words)) == sorted(expected)


@pytest.mark.parametrize("name", ["street", "custom", "dsec"])
def test_the_options_of_a_chosen_data_set(name):
    from scaleevent.config.data import PrepareConfig

    own = PrepareConfig.of_part({"name": name}).model_fields
    for words in (("prepare", name, "--"), ("prepare", "--jobs", "3", name, "here", "--")):
        offered = in_bash(*words, heavy=())
        assert {f"--{key.replace('_', '-')}" for key in own} - {"--name", "--roots", "--jobs"} <= {
            option.replace("--no-", "--") for option in offered
        }
    # before one is chosen, or with one that does not exist, those of all
    assert "--jobs" in in_bash("prepare", "--") and "--jobs" in in_bash("prepare", "nosuch", "--")
    assert "--scenes" not in in_bash("prepare", "--")


@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "scaleevent prepare street --sce"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "scaleevent prepare street --sce",
                  "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
        ("powershell", {"_TYPER_COMPLETE_ARGS": "scaleevent prepare street --sce",
                        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "--sce"}),
    ],
)  # fmt: skip
def test_other_shells_are_answered_too(shell, environment):
    (line,) = ask({"_SCALEEVENT_COMPLETE": f"complete_{shell}", **environment})
    assert "--scenes" in line and "--seed" not in line


def test_words_may_be_unfinished():
    assert split_words("a 'b c' d") == ["a", "b c", "d"]
    assert split_words("a 'b c") == ["a", "b c"]
    assert split_words("a # b") == ["a", "#", "b"] and split_words("") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself(tmp_path):
    """The script that is shown, in a shell that then presses the tabulator."""
    program = tmp_path / "scaleevent"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scaleevent "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"

    def bash(script):
        done = subprocess.run(
            ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    pressed = (
        "COMP_WORDS=(scaleevent prepare street --sc); COMP_CWORD=3\n"
        "_scaleevent_completion scaleevent; echo ${COMPREPLY[@]}"
    )
    shown = 'eval "$(scaleevent --show-completion bash)"'
    assert bash(f"{shown}\n{pressed}") == "--scenes\n"
    assert "installed" in bash("scaleevent --install-completion bash")
    rc = (tmp_path / ".bashrc").read_text()
    assert bash(f"{rc}\n{pressed}") == "--scenes\n"
