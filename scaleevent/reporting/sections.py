"""The sections of the page: a run, and several runs side by side."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import chain

from scaleevent.reporting.comparison import (
    Group,
    Spread,
    differences,
    differing,
    groups,
    numbers_of,
    varying,
)
from scaleevent.reporting.curves import FIRST, chart_grid, compared_curves, curves
from scaleevent.reporting.markup import Markup, element, markup
from scaleevent.reporting.results import WORDS, result_tables
from scaleevent.reporting.runs import FINISHED, Picture, RunRecord
from scaleevent.reporting.settings import meanings
from scaleevent.reporting.tables import Column, Shown, table
from scaleevent.system.reports import counted

UNRECORDED = "not recorded"
ORDER = {"flag": 0, "given": 0, "file": 1, "preset": 2}  # of origins, others last
ORIGIN = "default: nothing else was asked for; preset; file: of settings; flag: on the command line"


def state_of(run: RunRecord) -> Markup:
    """Finished, running or interrupted, as a badge."""
    return element("span", run.state, class_=f"state {run.state}")


def overview(runs: Sequence[RunRecord]) -> Markup:
    """All runs of the report, a line each."""
    rows = []
    for number, run in enumerate(runs):
        link = element("a", run.name, href=f"#run-{number}")
        steps = int(run.log[-1]["step"]) if run.log else None
        title = run.report.get("title") or run.told
        rows.append((link, run.command, state_of(run), steps, run.settings.get("seed"), title))
    columns = ("run", "command", "state", Column("steps", "optimiser steps done"), "seed", "what")
    return table(f"The {counted(len(runs), 'run')} of this report", columns, rows)


def run_section(run: RunRecord, number: int, alone: bool) -> Markup:
    """Everything about one run."""
    parts: list[object] = [element("h2", run.name, " ", state_of(run), id=f"run-{number}")]
    if run.state != FINISHED:
        parts.append(element("p", f"This run is not finished: {run.told}."))
    if run.report:
        if not run.report["rows"]:
            parts.append(element("p", str(run.report["title"]), class_="faded"))
        parts += [element("h3", "Results"), result_tables(run)]
    notes = [element("li", note) for note in run.report.get("notes", ())]
    if notes:
        parts.append(element("ul", notes, class_="notes"))
    if drawn := curves(run):
        parts += [element("h3", "Curves"), chart_grid(drawn)]
    if run.pictures or run.left_out:
        parts += [element("h3", "Pictures"), [_picture(run, one) for one in run.pictures]]
        parts += [element("p", f"Not all is shown: {one}.", class_="faded") for one in run.left_out]
    if run.settings:
        shown = settings_table(run)
        folded = element(
            "details", element("summary", "all settings"), shown, open=alone, class_="settings"
        )
        parts += [element("h3", "Settings"), folded]
    return element("section", parts, aria_label=f"run {run.name}")


def settings_table(run: RunRecord) -> Markup:
    """Every setting with where it comes from and what it means."""
    told = meanings(run)
    origins = {key: run.origins.get(key, UNRECORDED) for key in run.settings}
    # what somebody asked for first
    asked = sorted(run.settings, key=lambda key: ORDER.get(origins[key].partition(" ")[0], 3))
    rows = [(key, _value(run.settings[key]), origins[key], told.get(key, "")) for key in asked]
    columns = ("setting", "value", Column("origin", ORIGIN), "meaning")
    return table(f"Settings of {run.name}, and where each comes from", columns, rows)


def _value(value: object) -> object:
    """A setting as it is shown: text as typed, an empty list as none."""
    if isinstance(value, str):
        return element("code", value)
    return "none" if value in ([], {}) else value


def side_by_side(family: str, runs: Sequence[RunRecord], everything: Sequence[RunRecord]) -> Markup:
    """Runs of one kind: what differs, results, seeds, differences, curves."""
    anchor = f"family-{family.replace(' ', '-')}"
    parts: list[object] = [element("h2", f"Side by side: {family}", id=anchor)]
    names = [run.name for run in runs]
    keys = differing(runs)
    if keys:
        rows = [(key, *(run.settings.get(key) for run in runs)) for key in keys]
        caption = "Settings that are not the same in all of these runs (output folders aside)"
        parts += [element("h3", "What differs"), table(caption, ("setting", *names), rows)]
    else:
        parts.append(element("p", "All settings of these runs are the same."))
    numbers = numbers_of(runs)
    if numbers:
        parts.append(element("h3", "Results"))
        parts.append(table("Results by run", ("result", *names), [
            (number, *(run.numbers.get(number) for run in runs)) for number in numbers
        ]))  # fmt: skip
        if explained := {name: WORDS[name] for name in map(_column, numbers) if name in WORDS}:
            told = "; ".join(f"{name}: {words}" for name, words in explained.items())
            parts.append(element("p", told, class_="about"))
        scored = [run for run in runs if run.numbers]
        together = groups(scored, everything)
        parts += _seeds(together, varying(scored))
        parts += _differences(together, varying(scored))
    if drawn := compared_curves(runs):
        parts += [element("h3", "Curves"), chart_grid(drawn, FIRST)]
    return element("section", parts, aria_label=f"side by side: {family}")


def _column(number: str) -> str:
    """The column of a result table that a number is of."""
    return number.rpartition(": ")[2]


def _seeds(together: Sequence[Group], numbers: Sequence[str]) -> list[Markup]:
    """Mean and deviation over the runs that differ in seeds alone."""
    if all(len(group.runs) < 2 for group in together):
        told = "No two of these runs differ in their seeds alone, so nothing tells how much of a "
        return [element("p", told, "difference is chance.", class_="faded")]
    members = [
        (group.letter, group.about, len(group.runs), markup("; ".join(group.seeds)),
         markup(", ".join(run.name for run in group.runs)))
        for group in together
    ]  # fmt: skip
    columns: list[Column | str] = ["result"]
    for group in together:
        deviation = f"standard deviation of {group.letter} over its runs, with n - 1"
        columns += [Column(f"{group.letter}: mean"), Column(f"{group.letter}: SD", deviation)]
        columns.append(Column(f"{group.letter}: n", "number of runs"))
    rows = [
        (number, *chain.from_iterable(_columns(group.spread(number)) for group in together))
        for number in numbers
    ]
    return [
        element("h3", "Over seeds"),
        table("Groups: runs whose settings are the same but for the seeds",
              ("group", "settings", "runs", "seeds", "which"), members),
        table("Mean, sample standard deviation (SD, with n - 1) and number of runs (n), of results "
              "that are not the same in all runs",
              columns, rows),
    ]  # fmt: skip


def _columns(spread: Spread | None) -> tuple[float | None, float | None, int]:
    return (None, None, 0) if spread is None else (spread.mean, spread.sd, spread.count)


def _differences(together: Sequence[Group], numbers: Sequence[str]) -> list[Markup]:
    """Each further group less the first, run by run of the same seeds."""
    if len(together) < 2:
        return []
    first, *others = together
    parts = [element("h3", "Differences, seed by seed")]
    for other in others:
        found = differences(first, other, numbers)
        named = f"{other.letter} less {first.letter} ({other.about})"
        if not found:
            told = f"{named}: no run of one has the seeds of exactly one run of the other."
            parts.append(element("p", told, class_="faded"))
            continue
        rows = [
            (one.number, _signed(one.spread.mean), one.spread.sd, one.spread.count)
            for one in found
        ]  # fmt: skip
        columns = ("result", Column("mean difference", f"{other.letter} less {first.letter}"),
                   Column("SD of differences", "sample standard deviation, with n - 1"),
                   Column("pairs", "runs that have the same seeds"))  # fmt: skip
        seeds = "; ".join(found[0].seeds)
        parts.append(table(f"{named}, pairs of the same seeds: {seeds}", columns, rows))
    return parts


def _signed(value: float) -> Shown:
    return Shown(value, f"{value:+.4g}")


def _picture(run: RunRecord, picture: Picture) -> Markup:
    data = base64.b64encode(picture.png).decode()
    width, height = picture.size
    source = f"data:image/png;base64,{data}"
    image = element("img", src=source, alt=picture.about, width=width, height=height)
    box = element("div", image, class_="scroll", tabindex=0, role="region",
                  aria_label=f"picture {picture.name} of {run.name}")  # fmt: skip
    return element("figure", element("figcaption", element("strong", picture.name)), box,
                   class_="picture")  # fmt: skip
