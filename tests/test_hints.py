"""What a message tells the user to do is true: commands that it names parse, and run where told."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from fakes import write_custom
from test_end_to_end import call

import scaleevent
from scaleevent import cli
from scaleevent.config.settings import PartSettings

PACKAGE = Path(scaleevent.__file__).parent
FREE = {"--version", "--help", "--json", "--config"}
SYSTEM = {"--bits"}  # flags of other programs
SHORT = "--epochs 1 --draws 16 --batch 8 --size 48x64 --no-probe --device cpu"
# whose messages only some commands print: every one of them must have the flags named
ROOMS = {
    "training/run.py": ("pretrain", "finetune"),
    "training": ("pretrain", "probe", "finetune"),
    "objectives": ("pretrain",),
    "deployment": ("export",),
    "pairs/preparing.py": ("prepare", "voxelize"),
    "datasets/recordings.py": ("voxelize",),
    "datasets": ("prepare",),
    "system/owner.py": ("prepare", "voxelize", "pretrain", "probe", "finetune", "eval", "export"),
}


def shown(node):
    """A string as the user sees it, with X for what is filled in; None for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
    return None


def texts():
    """(file, line, text) of every string of the package that is no docstring."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in passed or (text := shown(node)) is None:
                continue
            if isinstance(node, ast.JoinedStr):
                passed |= {id(part) for part in node.values}
            yield path.relative_to(PACKAGE).as_posix(), node.lineno, text


TEXTS = list(texts())
NAMED = [
    pytest.param(line, id=f"{file}:{number}")
    for file, number, text in TEXTS
    for line in re.findall(r"`scaleevent ([^`X][^`]*)`", text)
]


def options(command):
    """The flags of a command, those of its parts too."""
    model = cli.COMMANDS[command][0]
    models = [model, *model.every_part()] if issubclass(model, PartSettings) else [model]
    fields = {(key, field.annotation) for one in models for key, field in one.model_fields.items()}
    flags = {f"--{key.replace('_', '-')}" for key, _ in fields}
    flags |= {flag.removesuffix("s") for flag in flags}  # NAME=VALUE, one a flag
    return flags | {f"--no-{key.replace('_', '-')}" for key, kind in fields if kind is bool}


def parse(line):
    """Hand a command line to the application's own parser, which refuses what it does not know."""
    words = [re.sub(r"\{\w*\}", "X", word) for word in shlex.split(line)]
    if words[0] == "prepare" and len(words) > 1 and words[1] == "X":
        words[1] = "custom"
    application = typer.main.get_command(cli.build(words))
    command = application.commands[words[0]]
    return command.make_context(words[0], list(words[1:])).params


def test_messages_name_commands():
    assert len(NAMED) > 12


@pytest.mark.parametrize("line", NAMED)
def test_a_command_that_a_message_names_parses(line):
    parse(line)


def test_the_parser_refuses_what_is_not_there():
    with pytest.raises(Exception, match="No such option"):
        parse("probe X --nothing")
    with pytest.raises(KeyError):
        parse("verify X")


def test_a_command_in_a_message_is_marked_as_one():
    """So that a test finds it: in backticks, or made whole by `PretrainConfig.command`."""
    commands = "|".join(cli.COMMANDS)
    bare = [
        (file, number, text)
        for file, number, text in TEXTS
        if re.search(rf"(?<!`)scaleevent ({commands})\b", text) and file != "config/pretrain.py"
    ]
    assert bare == []


def test_flags_in_messages_exist_where_they_are_printed():
    everywhere = set().union(*map(options, cli.COMMANDS)) | FREE
    wrong = []
    for file, number, text in TEXTS:
        named = (
            set(
                re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", re.sub("`scaleevent [^`]*`", "", text))
            )
            - FREE
            - SYSTEM
        )
        if file == "cli.py":
            continue
        printing = next((ROOMS[room] for room in ROOMS if file.startswith(room)), None)
        missing = named - everywhere
        for command in printing or ():
            missing |= named - options(command)
        if missing:
            wrong.append((file, number, sorted(missing), text))
    assert wrong == []


# Situations: the message is made, its command is run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pairs of two kinds, a pretrained encoder and a task model."""
    folder = tmp_path_factory.mktemp("hints")
    for name, seed in (("pairs", 0), ("street", 7)):
        call(f"prepare street -o {folder / name} --scenes 12 --size 48x64 --seed {seed}")
    call(f"pretrain {folder / 'pairs'} {SHORT} -o {folder / 'run'}")
    probing = "--epochs 1 --batch 4 --pictures 0 --device cpu"
    data = f"--data {folder / 'street'} --size 48x64"
    call(f"probe street-depth {folder / 'run'} {data} {probing} -o {folder / 'depth'}")
    return folder


def hint_of(line, capfd, code):
    """The hint that a command line ends with."""
    capfd.readouterr()
    call(line, code)
    error = capfd.readouterr().err
    assert "  hint: " in error, error
    return error.partition("  hint: ")[2].strip()


def commands_in(hint):
    return re.findall(r"`scaleevent ([^`]+)`", hint) or re.findall(r"scaleevent (.+)$", hint)


RUNS = [  # what is asked for, its exit code, what is added to the command of its hint
    ("pretrain {0}/pairs --arch vits --offline -o {0}/a", 5, SHORT),
    ("pretrain {0}/pairs --arch vitb --gpus 99 -o {0}/b", 5, SHORT),
    ("pretrain {0}/run -o {0}/c", 3, ""),
    ("eval {0}/depth/task.safetensors street-depth", 2, "--data {0}/street --device cpu"),
    ("eval street-depth {0}/run --data {0}/street", 3, None),
    ("eval {0}/depth", 2, None),
    ("probe street-depth {0}/depth --data {0}/street -o {0}/d", 3, "--size 48x64 -o {0}/out"),
    ("prepare {0}/raw -o {0}/e", 2, "-o {0}/e"),
    ("pretrain {0}/raw -o {0}/f", 3, "-o {0}/f2"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "code", "rest"), RUNS, ids=[line[:40] for line, *_ in RUNS])
def test_the_command_of_a_hint_runs(place, capfd, line, code, rest):
    if not (place / "raw").exists():
        write_custom(place / "raw")
    (command, *_) = commands_in(hint_of(line.format(place), capfd, code))
    if rest is None:  # names in capitals are for the user to fill in
        data = f"--data {place / 'street'} --size 48x64 --epochs 1 --batch 4 --pictures 0"
        if command.startswith("eval"):
            data = f"--data {place / 'street'} --batch 2"
        command = command.replace("BENCHMARK", "street-depth")
        command += f" {data} --device cpu -o {place / ('h' + str(abs(hash(line))))}"
    else:
        command = command.replace(" -o PAIRS", "") + " " + rest.format(place)
    call(command)


@pytest.mark.slow
def test_what_a_hint_adds_to_the_same_command_works(place, capfd):
    line = f"pretrain {place / 'pairs'} {SHORT} -o {place / 'again'}"
    call(line)
    hint = hint_of(line, capfd, 5)
    assert "--resume" in hint and "--overwrite" in hint
    call(f"{line} --resume")
    call(f"{line} --overwrite")
    hint = hint_of(f"{line} --resume --lr 0.1", capfd, 2)
    taken = hint.partition(" takes its settings")[0]
    call(f"pretrain {taken}")
    store = f"prepare street -o {place / 'pairs'} --scenes 12 --size 48x64"
    assert "--resume goes on" in hint_of(store, capfd, 5)
    shard = next((place / "pairs").glob("*.h5"))
    shard.unlink()
    assert "--resume, remakes only these" in hint_of(f"pretrain {place / 'pairs'} -o x", capfd, 3)
    call(f"{store} --resume")
    assert shard.exists()
    (place / "pairs/manifest.json").unlink()
    assert "`prepare`" in hint_of(f"info {place / 'pairs'}", capfd, 3)
    call(f"{store} --resume")
    call(f"info {place / 'pairs'}")
