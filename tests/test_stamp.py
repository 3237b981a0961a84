"""The protocol stamp: when a published number may stand beside ours without a note."""

from dataclasses import replace

import pytest

from scaleevent.benchmarks import published
from scaleevent.benchmarks.evaluation import Evaluation
from scaleevent.benchmarks.published import PUBLISHED, Published
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.benchmarks.report import result_table, stamp_notes
from scaleevent.benchmarks.stamp import UNKNOWN, Stamp, choice_text, counts_text
from scaleevent.config.data import PrepareConfig, WindowSettings, window_in
from scaleevent.pairs.pairing import window_rule
from scaleevent.pairs.window_words import window_of_text, window_text

STAMP = Stamp(
    {"a": 3, "b": 5}, "all", "every label once", "672x960", "440x640", ("one", "two"),
    "time, 50 ms",
)  # fmt: skip


def test_equal_protocols_need_no_note():
    assert STAMP.against(replace(STAMP)) == ""
    assert STAMP.against(replace(STAMP, metric=("two",), labels=8)) == ""


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"labels": {"a": 3, "b": 4}}, "labels: 7, all (here 8, all)"),
        ({"labels": {"a": 4, "b": 4}}, "labels: {'a': 4, 'b': 4} (here {'a': 3, 'b': 5})"),
        ({"labels": 9}, "labels: 9, all (here 8, all)"),
        ({"choice": "the first half"}, "labels: 8, the first half (here 8, all)"),
        ({"draw": "at random"}, "draw: at random (here every label once)"),
        ({"input": "440x640"}, "input: 440x640 (here 672x960)"),
        ({"scored": "672x960"}, "scored: 672x960 (here 440x640)"),
        ({"metric": ("three",)}, "metric: three (here one and two)"),
        ({"window": "time, 20 ms"}, "window: time, 20 ms (here time, 50 ms)"),
        ({"window": None, "labels": None, "metric": ()}, "not known: labels, window, metric"),
    ],
)
def test_every_difference_is_named(change, note):
    assert STAMP.against(replace(STAMP, **change)) == note


def test_windows_and_choices_come_from_the_settings_of_a_store():
    def texts(name, **settings):
        recorded = PrepareConfig(name=name, **settings).model_dump(mode="json")
        return choice_text(recorded), window_text(recorded)

    adaptive = "adaptive, quantile 0.5, cell 16, at most 200 ms"
    assert texts("dsec-semantic") == ("all", adaptive)
    assert texts("dsec-semantic", labels="ess", window="time") == ("ess", "time, 50 ms")
    assert texts("dsec-depth", label_skip=0, label_stride=3, window="count") == (
        "all, label skip 0, label stride 3",
        "count, 0.33 events a pixel",
    )
    every = {"label_skip": 0, "label_stride": 1}
    assert texts("dsec-semantic", labels="ess", **every)[0] == "all"
    assert choice_text({"name": "dsec-semantic", "label_skip": None}) == "ess"  # an older store
    assert choice_text({"name": "dsec-semantic", **every}) == "all"
    assert texts("mvsec-flow") == ("all, dt 1", "the span of the label")
    assert texts("mvsec-flow", dt=4, all_frames=True)[0] == "all, dt 4, all frames"
    assert texts("street") == ("all", "time, 50 ms")


def test_counts_name_the_first_sequences():
    assert counts_text({"dir1": 3890}) == "3,890 labels of 1 sequence: dir1 3,890"
    scenes = {f"{number:02}": 1 for number in range(15)}
    assert counts_text(scenes) == "15 labels of 15 sequences: 00 1, 01 1, 02 1 and 12 more"
    assert counts_text(dict(list(scenes.items())[:12])).endswith("10 1, 11 1")


def test_published_rows_are_marked_unless_they_are_of_our_protocol(monkeypatch):
    rows = [
        Published("ScaleEvent A", {"miou": 1.0}, stamp=STAMP),
        Published("ScaleEvent B", {"miou": 2.0}, stamp=replace(STAMP, draw="at random")),
        Published("C", {"miou": 3.0}, note="zero-shot"),
        Published("D", {"miou": 4.0}, stamp=replace(STAMP, draw="at random")),
    ]
    monkeypatch.setitem(PUBLISHED, "dsec-semantic", rows)
    task = BENCHMARKS["dsec-semantic"].task
    evaluation = Evaluation({}, 0, 0, {}, STAMP)
    _, table = result_table("dsec-semantic", task, "full", evaluation, {})
    assert [row[0] for row in table] == [
        "ScaleEvent A, as published",
        "ScaleEvent B, as published (a)",
        "C, as published (zero-shot) (b)",
        "D, as published (a)",
    ]
    scored, a, b = stamp_notes("dsec-semantic", "full", STAMP)
    assert scored == "scored: 8 labels of 2 sequences: a 3, b 5 (all), every label once"
    assert a.startswith("(a) ") and a.endswith("draw: at random (here every label once)")
    assert b.startswith("(b) ") and b.endswith(STAMP.against(UNKNOWN))


def test_what_is_known_of_published_protocols():
    """Every label of the three sequences, drawn at random, by the authors; ESS's half of them."""

    def stamp(benchmark, method):
        (found,) = {id(row.stamp): row.stamp for row in PUBLISHED[benchmark]
                    if row.method == method}.values()  # fmt: skip
        return found

    authors, ess = (stamp("dsec-semantic", name) for name in ("ScaleEvent ViT-B", "ESS"))
    assert sum(authors.labels.values()) == 2809 and sum(ess.labels.values()) == 1397
    assert authors.labels == {"zurich_city_13_a": 379, "zurich_city_14_c": 1191,
                              "zurich_city_15_a": 1239}  # fmt: skip
    assert authors.draw == published.RELEASED_DRAW and authors.scored == "672x960"
    depth = stamp("dsec-depth", "DepthAnyEvent-R ViT-S")
    assert sum(depth.labels.values()) == stamp("dsec-depth", "ScaleEvent ViT-S").labels == 7157
    assert stamp("ddd17-seg", "STP R50") == UNKNOWN
    named = {row.method.split()[0] for rows in PUBLISHED.values() for row in rows}
    stamped = {row.method.split()[0] for rows in PUBLISHED.values() for row in rows
               if row.stamp is not UNKNOWN}  # fmt: skip
    assert {"ScaleEvent", "ESS", "OpenESS", "ECDDP", "E2Depth"} <= stamped < named


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window": "time"},
        {"window": "time", "window_ms": 12.5},
        {"window": "count", "window_events": 0.4},
        {"quantile": 0.25, "cell": 8, "window_ms": 100},
    ],
)
def test_a_window_rule_can_be_had_back(settings):
    """From its words, as older checkpoints have it, and from a store's settings."""
    rule = WindowSettings(**settings)
    stored = rule.model_dump()
    again = window_of_text(window_text(stored))
    assert window_rule(WindowSettings(**again)) == window_rule(rule)
    assert WindowSettings(**window_in(stored | {"name": "custom"})) == rule


def test_other_words_are_no_rule():
    assert window_of_text("the span of the label") is None and window_of_text(None) is None
    assert window_of_text("time, 50 ms and time, 20 ms") is None
    assert window_in({"window": None}) is None and window_in({}) is None
