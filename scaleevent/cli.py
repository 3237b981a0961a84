"""The command line: flags to settings, settings to a command's `run`, its report to the screen."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from scaleevent.config import data, doctor, downstream, export, predict, pretrain, report
from scaleevent.config.catalog import Part
from scaleevent.config.settings import (
    OneOf,
    PartSettings,
    Settings,
    assignments,
    explained_yaml,
    load_config,
    read_yaml,
    unknown_setting,
)
from scaleevent.errors import ConfigError, EnvironmentProblem, ScaleEventError, starved
from scaleevent.system.launchers import find_place, first_of_run, speaks_for_all
from scaleevent.system.locations import EMBEDDED_TEACHER, EMBEDDED_WEIGHTS, weights_within
from scaleevent.system.reports import remarks_said
from scaleevent.usage import refused
from scaleevent.version import __version__

MODEL = ("benchmark", "checkpoint")
# command: settings, positional settings, help
COMMANDS: dict[str, tuple[type[Settings], tuple[str, ...], str]] = {
    "info": (data.InfoConfig, ("path", "more"), "Say what a recording, store or checkpoint is."),
    "prepare": (data.PrepareConfig, ("name", "roots"), "Turn recordings and images into pairs."),
    "voxelize": (data.VoxelizeConfig, ("root",), "Turn recordings into voxel files."),
    "pretrain": (pretrain.PretrainConfig, ("data",), "Pretrain an event encoder."),
    "probe": (downstream.ProbeConfig, MODEL, "Train a linear head on a frozen encoder."),
    "finetune": (downstream.FinetuneConfig, MODEL, "Train a task model on a benchmark."),
    "eval": (downstream.EvalConfig, MODEL, "Score a task model on a benchmark's test set."),
    "predict": (
        predict.PredictConfig,
        ("checkpoint", "recordings"),
        "Show what a model sees in recordings.",
    ),
    "export": (export.ExportConfig, ("checkpoint",), "Write a checkpoint as other formats."),
    "report": (report.ReportConfig, ("runs",), "Show runs as one page for a browser."),
    "doctor": (doctor.DoctorConfig, (), "Say what works on this machine, and what does not."),
}
# commands whose defaults depend on a preset
LOADERS: dict[str, Callable[..., Settings]] = {
    "pretrain": pretrain.pretrain_config,
    "finetune": downstream.finetune_config,
}
PROGRAM, COMPLETE = "scaleevent", "_SCALEEVENT_COMPLETE"  # which a shell sets to complete a line
SHORT = {"out": "-o", "check_only": "--check"}  # other names of options
SWITCHES = ("--print-config", "--json", "--list", "--help", "-h")  # options without a value
# commands with --list: what tells of one of their parts, or of all
LISTINGS = {"prepare": Part("scaleevent.datasets.descriptions:listing", "data sets")}


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """The application, with the options of the part (data set, objective) that `arguments` name."""
    app = typer.Typer(
        name="scaleevent",
        help="Distil image foundation models into event-camera encoders.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: half the start-up time
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    command = next((a for a in arguments if a in COMMANDS), None)
    for name, (model, positional, summary) in COMMANDS.items():
        if name == command and issubclass(model, PartSettings) and "--list" not in arguments:
            given = list(arguments[arguments.index(name) + 1 :])
            model, part = _chosen(model, positional, given)
            named = f"\n\n{part}: {model.parts[part].summary}" if part in model.parts else None
            summary += named or _parts_help(model)
        app.command(name, help=summary)(_command(name, model, positional))
    return app


def _chosen(
    model: type[PartSettings], positional: tuple[str, ...], arguments: list[str]
) -> tuple[type[PartSettings], str]:
    """The settings and the name of the part that a command line asks for, in whatever place.

    Raises:
        ConfigError: No such part, or an option that only others have.
    """
    name = next(reversed(_given(arguments, f"--{model.chooser}")), None)
    if model.chooser in positional:
        fitting = (
            a
            for a in arguments
            if a in model.parts
            and _first_positional(model.of_part({model.chooser: a}), arguments) == a
        )
        name = next(fitting, None) or _first_positional(model, arguments)
    if name is None:
        name = assignments(_given(arguments, "--set")).get(model.chooser)
    files = _given(arguments, "--config") + _given(arguments, "-c")
    if name is None and files:
        name = read_yaml(Path(files[-1])).get(model.chooser)
    chosen = model.of_part({model.chooser: name} if name is not None else {})
    for argument in arguments if chosen is not model else ():
        key = argument[2:].partition("=")[0].removeprefix("no-").replace("-", "_")
        known = {*chosen.model_fields, "config", "set", "print_config", "json", "list", "help"}
        if argument.startswith("--") and key not in known and model.owners(key):
            raise unknown_setting(chosen, key, argument)
    return chosen, name or ""


def _given(arguments: list[str], flag: str) -> list[str]:
    """The values of an option: ``--flag value``, ``--flag=value``, ``-f value``, ``-fvalue``."""
    found = []
    for argument, following in pairwise([*arguments, ""]):
        if argument == flag:
            found.append(following)
        elif argument.startswith(joined := flag if len(flag) == 2 else f"{flag}="):
            found.append(argument.removeprefix(joined))
    return found


def _first_positional(model: type[Settings], arguments: list[str]) -> str | None:
    """The first argument that is no option and no option's value, with these settings' options."""
    fields = model.model_fields
    flags = [key for key, field in fields.items() if field.annotation is bool]
    switches = {name for key in flags for name in (f"--{key.replace('_', '-')}", SHORT.get(key))}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            return argument
        joined = "=" in argument or argument[1:2] != "-" and len(argument) > 2  # such as -oFOLDER
        if not joined and argument not in {*switches, *SWITCHES}:
            next(rest, None)
    return None


def _parts_help(model: type[PartSettings]) -> str:
    """The parts to choose from, a line each."""
    width = max(map(len, model.parts))
    lines = "\n".join(f"  {name:{width}}  {part.summary}" for name, part in model.parts.items())
    # \b keeps the lines apart
    return f"\n\n\b\n{model.noun}s, each with options of its own:\n{lines}"


def _command(name: str, model: type[Settings], positional: tuple[str, ...]) -> Callable[..., None]:
    """The function of a command, with a parameter a setting, for Typer to read."""

    def command(**given: Any) -> None:
        as_json, file = given.pop("json"), given.pop("config")
        assigned, only_printed = given.pop("set") or (), given.pop("print_config")
        if given.pop("list", False):
            LISTINGS[name].load()(given[positional[0]]).show(as_json)
            return
        flags = {key: value for key, value in given.items() if value not in (None, [])}
        load = LOADERS.get(name) or partial(load_config, COMMANDS[name][0])
        if "device" in model.model_fields:  # a command that joins the processes of a launcher
            find_place()
        try:
            settings = load(flags, file, assigned=assigned)
        except ConfigError as error:
            error.where = error.where or f"{PROGRAM} {name}"
            raise
        if only_printed:
            if first_of_run():
                _print_settings(name, settings, as_json)
            return
        settings.check()
        if getattr(settings, "gpus", 1) > 1:
            launching = importlib.import_module("scaleevent.commands.launching")
            if (code := launching.launch_ranks(name, settings)) is not None:
                raise typer.Exit(code)
        module = importlib.import_module(f"scaleevent.commands.{name}")
        try:
            report = module.run(settings, quiet=as_json)
        except EOFError as error:  # which Typer would take for a user who leaves a prompt
            raise RuntimeError("unexpected end of a file or pipe") from error
        if report.rows or report.notes:
            report.show(as_json)
        if report.exit_code:
            raise typer.Exit(report.exit_code)

    keep = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(key, keep, default=None, annotation=_flag(model, key, key in positional))
        for key in _own_first(model, positional)
    ]
    parameters += [
        inspect.Parameter("config", keep, default=None, annotation=Annotated[
            Path | None, typer.Option("--config", "-c", help="YAML file of settings")]),
        inspect.Parameter("set", keep, default=None, annotation=Annotated[
            list[str] | None, typer.Option("--set", help="a setting as in the file, NAME=VALUE, "
            "or NAME.PART=VALUE; lists as JSON (repeat the flag)", show_default=False)]),
        inspect.Parameter("print_config", keep, default=False, annotation=Annotated[
            bool, typer.Option("--print-config", help="print the settings and where each comes "
            "from, as YAML for -c, and run nothing")]),
        inspect.Parameter("json", keep, default=False, annotation=Annotated[
            bool, typer.Option("--json", help="one JSON document on stdout, nothing else")]),
    ]  # fmt: skip
    if name in LISTINGS:
        told = f"tell what {LISTINGS[name].summary} there are, or all about the one named"
        parameters.append(inspect.Parameter("list", keep, default=False, annotation=Annotated[
            bool, typer.Option("--list", help=told)]))  # fmt: skip
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _print_settings(name: str, settings: Settings, as_json: bool) -> None:
    """Print the settings of a command, and where each comes from."""
    if as_json:
        facts = {"schema": "scaleevent.config/1", "version": __version__, "command": name}
        print(json.dumps(facts | settings.with_origins(), indent=2))
        return
    print(f"# scaleevent {name} -c FILE reads this back; what is a comment is at its default")
    print(explained_yaml(settings), end="")


def _own_first(model: type[Settings], positional: tuple[str, ...]) -> list[str]:
    """The names of a command's settings: arguments in their order, what many commands have last."""
    own = [key for part in model.__mro__ for key in part.__dict__.get("__annotations__", {})]
    names = [*positional, *own]
    return [key for key in dict.fromkeys(names) if key in model.model_fields]


def _flag(model: type[Settings], name: str, positional: bool) -> Any:
    """Typer annotation of a setting; every flag defaults to "not given"."""
    field = model.model_fields[name]
    kind, completion = field.annotation, _completion(model, name)
    if positional:
        many = get_origin(kind) is list
        return Annotated[
            (list[Path] if many else _accepted(kind)) | None,
            typer.Argument(help=field.description, show_default=False, autocompletion=completion),
        ]
    if get_origin(kind) is dict:  # NAME=VALUE, one a flag
        name, kind = name.removesuffix("s"), list[str]
    flag = f"--{name.replace('_', '-')}"
    flags = [f"{flag}/--no-{flag[2:]}"] if kind is bool and field.default else [flag]
    accepted = str if field.json_schema_extra == {"flag": "text"} else _accepted(kind)
    return Annotated[
        accepted | None,
        typer.Option(
            *flags, *filter(None, [SHORT.get(name)]), help=_help(field), show_default=False,
            autocompletion=completion,
        ),
    ]  # fmt: skip


def _help(field: FieldInfo) -> str:
    """Description, choices and default of a setting."""
    choices = "|".join(_names(field))
    default = field.default
    shown = ""
    if isinstance(default, tuple):
        shown = f"default {'x'.join(map(str, default))}"
    elif isinstance(default, str | int | float | Path) and not isinstance(default, bool):
        shown = f"default {default:g}" if isinstance(default, float) else f"default {default}"
    extra = "; ".join(filter(None, [choices, shown]))
    return f"{field.description} ({extra})" if extra else str(field.description)


def _names(field: FieldInfo) -> Collection[str]:
    """The values of a setting, where they are names of ours."""
    named = [part.names for part in field.metadata if isinstance(part, OneOf)]
    return named[0] if named else _choices(field.annotation)


def _completion(model: type[Settings], key: str) -> Callable[[str], list[str]] | None:
    """What a shell offers for the value of a setting; None leaves it to the shell: files."""
    field = model.model_fields[key]
    presets = getattr(model, "PRESETS", ()) if key == "preset" else ()
    names = presets or _names(field)
    if any(isinstance(part, AfterValidator) and part.func is weights_within
           for part in field.metadata):  # fmt: skip
        names = (*EMBEDDED_WEIGHTS, EMBEDDED_TEACHER)

    def beginning(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")  # of a list, such as png,npy
        return [before + comma + name for name in names if name.startswith(last)]

    return beginning if names else None


def _choices(kind: Any) -> tuple[str, ...]:
    """The values of a `Literal` or a `OneOf`, within an optional one or a list too."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) is Annotated:
        return next((tuple(m.names) for m in kind.__metadata__ if isinstance(m, OneOf)), ())
    return next(filter(None, map(_choices, get_args(kind))), ())


def _accepted(kind: Any) -> Any:
    """The type Typer parses: sizes and choices are text that the settings check."""
    options = [part for part in get_args(kind) if part is not type(None)] or [kind]
    text = (Literal, tuple, Annotated, dict)
    if get_origin(kind) in text or get_origin(options[0]) in text:
        return str
    if get_origin(kind) is list:
        return list[str]
    return options[0]


def _version(value: bool) -> None:
    if value:
        print(f"scaleevent {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


def _typed() -> list[str]:
    """The words of a command line that a shell asks to complete, but for the last."""
    if "COMP_WORDS" in os.environ:  # bash, which counts them
        return split_words(os.environ["COMP_WORDS"])[1 : int(os.environ["COMP_CWORD"])]
    line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return split_words(f"{line}|")[1:-1]


def split_words(line: str) -> list[str]:
    """The words of a command line, which may end within quotes."""
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.commenters = True, ""
    found: list[str] = []
    try:
        found.extend(words)
    except ValueError:
        found.append(words.token)
    return found


def _complete() -> None:
    """Answer a shell that completes a command line; with what cannot be, it offers nothing."""
    try:
        application = build(_typed())
    except Exception:  # no such part yet, or a file that is not there
        application = build()
    with suppress(Exception):
        application(prog_name=PROGRAM)


def _understood(arguments: list[str]) -> str:
    """The command line as far as it names a command and a part: ``scaleevent prepare dsec``."""
    first = next(iter(arguments), "")
    if first not in COMMANDS:
        return PROGRAM
    model, positional, _ = COMMANDS[first]
    parts = model.parts if issubclass(model, PartSettings) and model.chooser in positional else ()
    return " ".join([PROGRAM, first, *[a for a in arguments if a in parts][:1]])


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise EnvironmentProblem("the working folder is not there any more",
                                 hint="change to a folder that exists") from None  # fmt: skip


def main() -> None:
    """Every error becomes its message and exit code."""
    if COMPLETE in os.environ:
        _complete()
        return
    try:
        _check_working_folder()
        with remarks_said():
            arguments = sys.argv[1:]
            # without a word there is nothing to refuse: Click shows the help
            application = build(arguments)
            sys.exit(application(prog_name=PROGRAM, standalone_mode=not arguments))
    except Exception as error:
        told = starved(error) or refused(error, _understood(sys.argv[1:])) or error
        if isinstance(told, ScaleEventError):
            if speaks_for_all():
                print(told, file=sys.stderr)
            sys.exit(told.exit_code)
        traceback.print_exc()
        print(f"error[E100]: this is a bug in scaleevent {__version__}: {error!r}", file=sys.stderr)
        sys.exit(1)
