"""What the parser of the command line refuses, in the form of every other error."""

from __future__ import annotations

import re
from difflib import get_close_matches

import typer
from pydantic import ValidationError

from scaleevent.errors import ConfigError

CLICK_ERROR = typer.BadParameter.__mro__[2]  # Click's, which newer releases of Typer hold within
# what Click says, with a group for what was found: our words, and what was expected instead
_SAID = {
    "No such option": ("no such option", "an option that `{line} --help` lists"),
    "No such command '(.+?)'": ("no such command", "one of {names}"),
    "requires an argument": ("the option needs a value", "{found} VALUE, see `{line} --help`"),
    "does not take a value": ("the option takes no value", "{found} alone"),
    r"unexpected extra argument\S* \((.+)\)": ("more arguments than the command takes", "{usage}"),
}


def refused(error: BaseException, line: str) -> ConfigError | None:
    """What is told where the parser refuses a word; None for errors that are not the parser's.

    Args:
        error: That was raised.
        line: The command line as far as it is understood, such as ``scaleevent prepare dsec``.
    """
    if not isinstance(error, CLICK_ERROR):
        return None
    message: str = getattr(error, "message", str(error))
    context, parameter, found = (getattr(error, k, None) for k in ("ctx", "param", "option_name"))
    if parameter is not None:
        return _wrong_value(f"{line} {max(parameter.opts, key=len)}", message, error.__cause__)
    known = [(match, *told) for said, told in _SAID.items() if (match := re.search(said, message))]
    if not known:
        return ConfigError(message, where=line)
    match, what, expected = known[0]
    usage, names, hint = "", [], None
    if context is not None:
        usage = " ".join(context.get_usage().split()).removeprefix("Usage: ")
        names = [*getattr(context.command, "commands", ())]
        if found is not None:  # an option
            parameters = context.command.get_params(context)
            names = [name for one in parameters for name in (*one.opts, *one.secondary_opts)]
            hint = "options come after the command" if context.parent is None else None
    found = found or match[1]
    plain = {name.lstrip("-"): name for name in names}  # two dashes are not what is alike
    if near := get_close_matches(found.lstrip("-"), plain, 1):
        hint = f"did you mean {plain[near[0]]}?"
    expected = expected.format(line=line, names=", ".join(names), found=found, usage=usage)
    return ConfigError(what, where=line, found=found, expected=expected, hint=hint)


def _wrong_value(where: str, message: str, cause: BaseException | None) -> ConfigError:
    """The error for a value that is not of its option's type, in Typer's words, or pydantic's."""
    what = "the value cannot be used"
    if not isinstance(cause, ValidationError):
        return ConfigError(what, where=where, found=message)
    expected = message.removeprefix("Input should be ").partition(",")[0]
    return ConfigError(what, where=where, found=cause.errors()[0]["input"], expected=expected)
