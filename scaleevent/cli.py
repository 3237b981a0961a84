"""The command line: flags to settings, settings to a command's `run`, its report to the screen."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from scaleevent.config import data as config
from scaleevent.config import downstream as task_config
from scaleevent.config.settings import Settings, load_config
from scaleevent.errors import ScaleEventError
from scaleevent.version import __version__

app = typer.Typer(
    name="scaleevent",
    help="Distil image foundation models into event-camera encoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the start-up time
    context_settings={"help_option_names": ["-h", "--help"]},
)

SHORT = {"out": "-o"}
MODEL = ("benchmark", "checkpoint")
# command: settings, positional settings, help
COMMANDS: dict[str, tuple[type[Settings], tuple[str, ...], str]] = {
    "info": (config.InfoConfig, ("path",), "Say what a recording, store or checkpoint is."),
    "prepare": (config.PrepareConfig, ("name", "roots"), "Turn recordings and images into pairs."),
    "voxelize": (config.VoxelizeConfig, ("root",), "Turn recordings into voxel files."),
    "pretrain": (config.PretrainConfig, ("data",), "Distil an image teacher into an encoder."),
    "probe": (task_config.ProbeConfig, MODEL, "Train a linear head on a frozen encoder."),
    "finetune": (task_config.FinetuneConfig, MODEL, "Train a task model on a benchmark."),
    "eval": (task_config.EvalConfig, MODEL, "Score a task model on a benchmark's test set."),
    "export": (task_config.ExportConfig, ("checkpoint",), "Write a checkpoint as other formats."),
}
# those whose defaults depend on a preset
LOADERS: dict[str, Callable[..., Settings]] = {
    "pretrain": config.pretrain_config,
    "finetune": task_config.finetune_config,
}


def _command(name: str) -> Callable[..., None]:
    model, positional, _ = COMMANDS[name]

    def command(**given: Any) -> None:
        as_json, file = given.pop("json"), given.pop("config")
        flags = {key: value for key, value in given.items() if value not in (None, [])}
        settings = LOADERS.get(name, _plain(model))(flags, file)
        module = importlib.import_module(f"scaleevent.commands.{name}")
        if getattr(settings, "gpus", 1) > 1:
            launching = importlib.import_module("scaleevent.commands.launching")
            if (code := launching.launch_ranks(name, settings, as_json)) is not None:
                raise typer.Exit(code)
        report = module.run(settings, quiet=as_json)
        if report.rows or report.notes:
            report.show(as_json)

    keep = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(key, keep, default=None, annotation=_flag(key, field, key in positional))
        for key, field in model.model_fields.items()
    ]
    parameters += [
        inspect.Parameter("config", keep, default=None, annotation=Annotated[
            Path | None, typer.Option("--config", "-c", help="YAML file of settings")]),
        inspect.Parameter("json", keep, default=False, annotation=Annotated[
            bool, typer.Option("--json", help="one JSON document on stdout, nothing else")]),
    ]  # fmt: skip
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _plain(model: type[Settings]) -> Callable[..., Settings]:
    return lambda flags, file: load_config(model, flags, file)


def _flag(name: str, field: FieldInfo, positional: bool) -> Any:
    """Typer annotation of a setting; every flag defaults to "not given"."""
    kind, text = field.annotation, field.description
    if field.default not in (None, ..., []) and not field.is_required():
        shown = (
            "x".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        )
        text = f"{text} (default {shown})"
    if positional:
        many = get_origin(kind) is list
        return Annotated[
            (list[Path] if many else _accepted(kind)) | None,
            typer.Argument(help=field.description, show_default=False),
        ]
    flag = f"--{name.replace('_', '-')}"
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool and field.default else [flag]
    choices = _choices(kind)
    accepted = str if field.json_schema_extra == {"flag": "text"} else _accepted(kind)
    text = f"{text} ({'|'.join(choices)})" if choices else text
    return Annotated[
        accepted | None,
        typer.Option(*names, *filter(None, [SHORT.get(name)]), help=text, show_default=False),
    ]


def _choices(kind: Any) -> tuple[str, ...]:
    """The values of a Literal, or of an optional one."""
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            return get_args(part)
    return ()


def _accepted(kind: Any) -> Any:
    """The type Typer parses: sizes and choices are text that the settings check."""
    options = [part for part in get_args(kind) if part is not type(None)] or [kind]
    if get_origin(kind) in (Literal, tuple) or get_origin(options[0]) in (Literal, tuple):
        return str
    if get_origin(kind) is list:
        return list[str]
    return options[0]


for _name, (_, _, _help) in COMMANDS.items():
    app.command(_name, help=_help)(_command(_name))


def _version(value: bool) -> None:
    if value:
        print(f"scaleevent {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: every error becomes its message and exit code."""
    try:
        app()
    except ScaleEventError as error:
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
        _leave(error.exit_code)
    except Exception as error:
        traceback.print_exc()
        print(
            f"error[E100]: this is a bug in scaleevent {__version__}: {error!r}",
            file=sys.stderr,
        )
        _leave(1)


def _leave(code: int) -> None:
    """Exit; a rank also tells the process that launched it, since torchrun maps codes to 1."""
    told = os.environ.get("SCALEEVENT_EXIT_FILE")
    if told and os.environ.get("RANK", "0") == "0":
        Path(told).write_text(str(code))
    sys.exit(code)
