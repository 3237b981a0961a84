"""The page: one HTML file without a network, that browsers refuse to let reach for one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleevent.errors import EnvironmentProblem
from scaleevent.reporting.comparison import families
from scaleevent.reporting.markup import Markup, element
from scaleevent.reporting.runs import RunRecord
from scaleevent.reporting.sections import overview, run_section, side_by_side
from scaleevent.system.files import Json, write_bytes
from scaleevent.system.locations import PACKAGE
from scaleevent.system.reports import Report, counted
from scaleevent.version import __version__

GENERATOR = "ScaleEvent report"
_MARK = f'<meta name="generator" content="{GENERATOR}'
_ICON = "data:,"  # none, so that no browser asks a server for one


@dataclass(frozen=True, kw_only=True)
class PageResult(Report):
    """What `report` has written.

    Attributes:
        page: The HTML file.
        bytes: Its size.
        curves: The PNG files of the curves, where they were asked for.
    """

    page: Path
    bytes: int
    curves: tuple[Path, ...] = ()

    def own(self) -> Json:
        """See `Report`."""
        curves = [str(path) for path in self.curves]
        return {"page": str(self.page), "bytes": self.bytes, "curves": curves}


def page(runs: Sequence[RunRecord]) -> bytes:
    """The report of runs, in UTF-8; the same runs give the same bytes."""
    style = (PACKAGE / "data" / "report.css").read_text(encoding="utf-8")
    script = (PACKAGE / "data" / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    title = f"{runs[0].name}: {runs[0].command}" if len(runs) == 1 else counted(len(runs), "run")
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href=_ICON),
        element("title", f"ScaleEvent report: {title}"),
        element("style", Markup(style)),
    ]
    body = element("body", _body(runs), element("script", Markup(script)))
    document = f"<!doctype html>\n{element('html', element('head', head), body, lang='en')}\n"
    return document.encode("utf-8", "replace")


def _body(runs: Sequence[RunRecord]) -> list[Markup]:
    together = {name: found for name, found in families(runs).items() if len(found) > 1}
    links = [(f"#family-{name.replace(' ', '-')}", f"side by side: {name}") for name in together]
    links += [(f"#run-{number}", run.name) for number, run in enumerate(runs)]
    places = element("ul", [element("li", element("a", text, href=to)) for to, text in links])
    told = "Tables are sorted by a click on a column's name. Numbers that are shown with four "
    told += "digits are kept in full. The page needs no network and nothing beside it."
    return [
        element("header", element("h1", "ScaleEvent report"), element("p", told, class_="faded")),
        element("nav", places, aria_label="contents") if len(links) > 1 else Markup(),
        element(
            "main", overview(runs),
            [side_by_side(name, found, runs) for name, found in together.items()],
            [run_section(run, number, len(runs) == 1) for number, run in enumerate(runs)],
        ),
        element("footer", element("p", f"Written by scaleevent {__version__}.", class_="faded")),
    ]  # fmt: skip


def write_page(path: Path, runs: Sequence[RunRecord], overwrite: bool) -> int:
    """Write the page; gives its bytes.

    Raises:
        EnvironmentProblem: Something else than such a page is there, without consent.
    """
    check_free(path, overwrite)
    data = page(runs)
    write_bytes(path, data)
    return len(data)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse a path where something is that is no report: those are written anew.

    Raises:
        EnvironmentProblem: A folder, or a file that nothing here has written, without consent.
    """
    if path.is_dir():
        raise EnvironmentProblem(
            "the report's file is a folder", where=path,
            hint="name a file with --out, such as report.html",
        )  # fmt: skip
    if not path.exists() or overwrite:
        return
    with open(path, "rb") as file:
        ours = _MARK.encode() in file.read(4096)
    if not ours:
        raise EnvironmentProblem(
            "the file is there already, and is no report", where=path,
            hint="choose another --out; --overwrite replaces it",
        )  # fmt: skip
