"""What a message tells the user to do is true: commands that it names parse and do what it says.

Each message of the package that names a command or a flag has its situation, in
`hint_situations.py`: there it comes about, and what it says is done.
"""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from hint_files import INPUTS
from hint_situations import NOT_RUN, SITUATIONS

import scaleevent
from scaleevent import cli
from scaleevent.config.settings import PartSettings
from scaleevent.errors import DataError
from scaleevent.formats import open_recording

PACKAGE = Path(scaleevent.__file__).parent
FREE = {
    "--version", "--help", "--json", "--config", "--list", "--set", "--print-config",
    *cli.SHORT.values(),
}  # fmt: skip
SYSTEM = {  # flags of other programs
    "--bits", "--array", "--nthreads", "--nworkers", "--upgrade", "--force-reinstall",
}  # fmt: skip
LABEL = re.compile(r"(X, )?--[\w-]+( X)?(, --[\w-]+)*")  # which flag it is about
# whose messages only some commands print: every one of them must have the flags named
ROOMS = {
    "training/run.py": ("pretrain", "finetune"),
    "training": ("pretrain", "probe", "finetune"),
    "objectives": ("pretrain",),
    "prediction": ("predict",),
    "live": ("predict",),
    "deployment": ("export",),
    "reporting": ("report",),
    "pairs/preparing.py": ("prepare", "voxelize"),
    "datasets/recordings.py": ("voxelize",),
    "datasets/video_pairs.py": ("pretrain",),
    "datasets": ("prepare",),
    "system/owner.py": (
        "prepare",
        "voxelize",
        "pretrain",
        "probe",
        "finetune",
        "eval",
        "predict",
        "export",
    ),
}


def shown(node):
    """A string as the user sees it, with X for what is filled in; None for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
    return None


SETTINGS = set()  # (file, line) of descriptions of settings


def texts():
    """(file, line, text) of every string of the package that is no docstring."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        file = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "description":
                SETTINGS.update((file, line) for line in range(node.lineno, node.end_lineno + 1))
            if id(node) in passed or (text := shown(node)) is None:
                continue
            if isinstance(node, ast.JoinedStr):
                passed |= {id(part) for part in node.values}
            yield file, node.lineno, text


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
    if words[0] == "prepare" and len(words) > 1 and set(words[1]) == {"X"}:
        words[1] = "custom"
    application = typer.main.get_command(cli.build(words))
    command = application.commands[words[0]]
    return command.make_context(words[0], list(words[1:])).params


def with_defaults(script):
    """A script of shell in which numbers that variables may set, `a=${A:-3}`, are as they are."""
    for name, number in re.findall(r"^(\w+)=\$\{\w+:-(\d+)\}$", script, re.M):
        script = script.replace(f'"${name}"', number)
    return script


QUICKSTART = with_defaults((PACKAGE.parent / "examples/quickstart.sh").read_text())


def test_messages_name_commands():
    assert len(NAMED) > 12


@pytest.mark.parametrize("line", NAMED)
def test_a_command_that_a_message_names_parses(line):
    parse(line)


def test_every_command_of_the_quickstart_parses():
    script = QUICKSTART.replace("\\\n", " ")
    lines = re.findall(r"^scaleevent (.*)$", script, re.M)
    assert len(lines) >= 10
    named = {parse(line).get("checkpoint") for line in lines}
    assert any(str(name) == "embedded-event" for name in named)


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


# Situations: the message is made, what it says is done


def messages():
    """(key, text) of every text that tells the user to give a command or a flag."""
    for file, number, text in TEXTS:
        command = re.search(rf"`({'|'.join(cli.COMMANDS)}|scaleevent \w+)\b|same command", text)
        flag = re.search(r"(?<![\w-])--[a-z]{2,}", text)
        if file == "cli.py" or (file, number) in SETTINGS or LABEL.fullmatch(text):
            continue
        if command or flag:
            yield f"{file}: {text}", text


MESSAGES = dict(messages())


def meant(part):
    """The text of the message that "file: part of the text" stands for."""
    file, _, words = part.partition(": ")
    found = {text for name, _, text in TEXTS if name == file and words in text}
    found = found & {words} or found
    assert len(found) == 1, (part, found)
    return found.pop()


def as_printed(text):
    """A pattern of a message in which something is filled in for X and {name}."""
    return re.sub(r"X|\\{\w*\\}", r"(?s:.*?)", re.escape(text))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where all of it happens."""
    return tmp_path_factory.mktemp("hints")


def given_inputs(line, place, capfd):
    """Make the inputs that a command line names."""
    for word in re.split(r"[\s/=]+", line):
        if word in INPUTS and not (place / word).exists():
            made = INPUTS[word]
            if isinstance(made, str):
                given_inputs(made, place, capfd)
                run(f"{made} -o {word}", 0, capfd)
            else:
                made(place / word)


def typed(line, capfd):
    """(exit code, stdout, stderr) of a command line."""
    capfd.readouterr()
    arguments, sys.argv = sys.argv, ["scaleevent", *shlex.split(line)]
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = arguments
    return left.value.code or 0, *capfd.readouterr()


def run(line, code, capfd):
    """What a command line prints."""
    left, *printed = typed(line, capfd)
    told = "".join(printed)
    assert left == code, f"{line}\n{told}"
    return told


def filled(way, told, fill):
    """The command line of a way out, with what the message says put in."""
    found = re.findall(r"`scaleevent ([^`]+)`", told) or re.findall(r": scaleevent (.+)", told)
    for name, command in zip(("{hint}", "{second}", "{third}"), found, strict=False):
        for key, value in (pair.split("=", 1) for pair in fill.split()):
            command = re.sub(rf"\b{key}\b", value, command)
        way = way.replace(name, command)
    for flag, value in re.findall(r"<(--?[\w-]+)( _)?>", way):
        printed = re.findall(rf"""(?<![\w-]){flag}\b(?: ("[^"]*"|[^\s;,()`"]+))?""", told)
        assert printed, f"{flag} is not named in {told}"
        said = f"{flag} {printed[-1].rstrip(':')}" if value else flag
        way = way.replace(f"<{flag}{value}>", said, 1)
    return way


WAYS = [
    pytest.param(
        situation, way, number,
        id=f"{situation.texts[0]}-{number}",
        marks=[pytest.mark.slow] if situation.slow else [],
    )
    for number, (situation, way) in enumerate((s, way) for s in SITUATIONS for way in s.then)
]  # fmt: skip


@pytest.mark.parametrize(("situation", "way", "number"), WAYS)
def test_what_a_message_says_works(place, capfd, monkeypatch, situation, way, number):
    folder = place / situation.within
    monkeypatch.chdir(place)
    monkeypatch.delenv("SCALEEVENT_DATA", raising=False)
    monkeypatch.setenv("SCALEEVENT_CACHE", str(place / "cache"))
    names = {"out": f"out{number}", "new": f"new{number}"}

    def named(line):
        for name, value in names.items():
            line = line.replace(f"{{{name}}}", value)
        return line

    for line in (*situation.first, situation.line, way, situation.fill, situation.within):
        given_inputs(line, place, capfd)
    monkeypatch.chdir(folder)
    for limit, value in situation.lowered.items():
        monkeypatch.setattr(limit, value)
    for line in situation.first:
        run(named(line), 0, capfd)
    names["same"] = named(situation.line)
    with monkeypatch.context() as during:
        if situation.fault:
            situation.fault(during)
        told = run(names["same"], situation.code, capfd)
    patterns = [as_printed(meant(part)) for part in situation.texts]
    for pattern in patterns:
        assert re.search(pattern, told), f"not printed: {pattern}\n{told}"
    for line in named(filled(way, told, named(situation.fill))).split(" && "):
        now = run(line, 0, capfd)
    assert situation.sees in now or re.search(situation.sees, now, re.S)
    for pattern in patterns if not situation.stays else ():
        assert not re.search(pattern, now), f"said again: {pattern}\n{now}"


def test_every_message_has_its_situation():
    """And the ways out of a situation use every command and flag that its messages name."""
    covered = {meant(part): s for s in SITUATIONS for part in s.texts}
    excepted = {meant(part) for part in NOT_RUN}
    told = {text for text in MESSAGES.values() if text not in excepted}
    assert told - covered.keys() == set()
    assert not excepted & covered.keys()
    unused = []
    for text in {meant(part) for situation in SITUATIONS for part in situation.texts}:
        those = [one for one in SITUATIONS if text in map(meant, one.texts)]
        ways = " ".join(way for one in those for way in one.then)
        plain = re.sub("`[^`]*`|without --\\S+", "", text)
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", plain))
        if "`" not in text and "{hint}" in ways:  # a part of a command
            continue
        flags -= {*re.findall(r"<(--[\w-]+)", ways), *" ".join(o.line for o in those).split()}
        commands = len(re.findall("`scaleevent", text))
        if flags or commands > len(set(re.findall(r"{(hint|second|third)}", ways))):
            unused.append((text, sorted(flags), commands))
    assert unused == []


@pytest.mark.slow
def test_the_command_in_an_exported_readme(place, capfd, monkeypatch):
    monkeypatch.chdir(place)
    given_inputs("run", place, capfd)
    run("export run --format safetensors -o deployed", 0, capfd)
    told = (place / "deployed/README.md").read_text()
    assert re.search(as_printed(meant("deployment/model_card.py: Made by")), told)
    line = filled("{hint} --format safetensors", told, "CHECKPOINT=run FOLDER=again")
    run(line, 0, capfd)


def test_a_folder_given_to_the_reader_in_python(place, capfd, monkeypatch):
    monkeypatch.chdir(place)
    given_inputs("recordings", place, capfd)
    with pytest.raises(DataError) as caught:
        open_recording("recordings")
    assert re.search(
        as_printed(meant("formats/__init__.py: takes all recordings below")), str(caught.value)
    )
    run(filled("{hint} --size 48x64 -o taken", str(caught.value), "FOLDER=recordings"), 0, capfd)
