"""`scaleevent report`: what folders tell, the page's numbers, seeds and differences, refusals."""

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from report_files import pretraining, probing, write_run

from scaleevent import cli
from scaleevent.commands import report as command
from scaleevent.config.report import ReportConfig
from scaleevent.errors import ConfigError, DataError, EnvironmentProblem, MissingPackageError
from scaleevent.reporting.charts import Line, line_chart, thinned, ticks
from scaleevent.reporting.comparison import Spread, differences, groups, numbers_of, varying
from scaleevent.reporting.markup import Markup, element, markup
from scaleevent.reporting.page import page
from scaleevent.reporting.runs import read_run, read_runs
from scaleevent.system.owner import Owner

EVIL = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """A page as the standard library reads it: tables, texts by element, addresses."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.elements, self.open, self.links, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []  # everything that was opened is closed

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        self.links += [attrs[key] for key in ("src", "href", "action", "data") if attrs.get(key)]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append([attrs.get("data-v"), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            return
        self.words.append(data)
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        elif {"td", "th"} & set(self.open):
            self.tables[-1]["rows"][-1][-1][1] += data

    def table(self, start):
        """{row name: {column: number in full, or text}} of the table whose caption begins so."""
        (found,) = [one for one in self.tables if one["caption"].startswith(start)]
        head, *rows = found["rows"]
        names = [text for _, text in head[1:]]
        return {
            row[0][1]: {name: text if number is None else float(number)
                        for name, (number, text) in zip(names, row[1:], strict=True)}
            for row in rows
        }  # fmt: skip


def read(*folders):
    return Reader(page(read_runs(list(folders))).decode())


def test_the_numbers_of_the_page_are_those_of_the_report(tmp_path):
    run = pretraining(tmp_path / "run", loss=0.1 + 0.2, title="the title")
    told = read(run)
    report = json.loads((run / "report.json").read_text())
    rows = {row["on held-out pairs"]: row for row in report["rows"]}
    shown = told.table("the title")
    assert shown == {name: {k: row[k] for k in ("before", "after")} for name, row in rows.items()}
    assert shown["held-out loss"]["after"] == 0.30000000000000004  # in full
    ends = told.table("Loss: the ends")
    assert ends["training"] == {
        "first": 1.9, "last": 1.2, "lowest": 1.2, "at training step": 8.0, "highest": 1.9,
        "at training step ": 1.0, "values": 8.0,
    }  # fmt: skip
    assert ends["held out"]["last"] == 0.30000000000000004 and ends["held out"]["values"] == 2
    assert "a note" in told.words


def test_tasks_show_classes_and_intervals(tmp_path):
    told = read(probing(tmp_path / "p", "random"))
    assert told.table("Each class") == {"sky": {"IoU, %": 40.0}, "road": {"IoU, %": 20.0}}
    (table,) = [one for one in told.tables if one["caption"].startswith("a title")]
    assert [row[1] for row in table["rows"][1:]] == [
        ["30.0", "30 (29 to 31)"], ["9.0", "9 (8 to 10)"], ["60.0", "60"]
    ]  # fmt: skip
    assert told.table("Every number")["pixels"] == {"value": 1234567.0}
    assert any("miou: mean IoU of all classes, %" in words for words in told.words)


def test_settings_have_origins_and_meanings(tmp_path):
    run = pretraining(tmp_path / "run", origins={"lr": "flag", "arch": "preset demo"})
    shown = read(run).table("Settings of")
    assert shown["lr"] == {"value": 1e-4, "origin": "flag", "meaning": "learning rate"}
    assert shown["arch"]["value"] == "tiny" and shown["arch"]["origin"] == "preset demo"
    assert shown["seed"]["origin"] == "not recorded"


def test_mean_deviation_and_paired_differences_are_numpys(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.1, 4), rng.normal(0.8, 0.1, 3)
    folders = [pretraining(tmp_path / f"a{s}", seed=s, loss=float(x)) for s, x in enumerate(a)]
    folders += [
        pretraining(tmp_path / f"b{s}", seed=s + 1, lr=1e-3, loss=float(x), workers=s)
        for s, x in enumerate(b)
    ]
    order = [6, 1, 0, 5, 2, 3, 4]  # pairs are found by seed, not by place
    told = read(*(folders[k] for k in order))
    assert told.table("Groups") == {
        "A": {"settings": "the first runs", "runs": 3.0, "seeds": "seed 3; seed 2; seed 1",
              "which": ", ".join(str(tmp_path / name) for name in ("b2", "b1", "b0"))},
        "B": {"settings": "lr 0.0001 (was 0.001)", "runs": 4.0,
              "seeds": "seed 1; seed 0; seed 2; seed 3",
              "which": ", ".join(str(tmp_path / name) for name in ("a1", "a0", "a2", "a3"))},
    }  # fmt: skip
    over = told.table("Mean, sample standard deviation")
    for number, values in (("held-out loss", (b, a)), ("probe mIoU", (20 + 2 * b, 20 + 2 * a))):
        for letter, one in zip("AB", values, strict=True):
            assert over[number][f"{letter}: mean"] == pytest.approx(np.mean(one), rel=1e-12)
            assert over[number][f"{letter}: SD"] == pytest.approx(np.std(one, ddof=1), rel=1e-12)
            assert over[number][f"{letter}: n"] == len(one)
        gained = told.table("B less A")[number]
        less = values[1][1:] - values[0]
        assert gained["mean difference"] == pytest.approx(np.mean(less), rel=1e-10)
        assert gained["SD of differences"] == pytest.approx(np.std(less, ddof=1), rel=1e-10)
        assert gained["pairs"] == 3


def test_a_single_run_has_no_deviation_and_far_numbers_lose_nothing():
    assert Spread.of([3.0]) == Spread(3.0, None, 1)
    values = [1e9 + x for x in (0.0, 1.0, 2.0)]
    assert Spread.of(values) == Spread(1e9 + 1, 1.0, 3)


def test_probes_of_runs_of_the_report_pair_up_by_the_seeds_of_these(tmp_path):
    runs = []
    for name, lr in (("a", 1e-4), ("b", 1e-3)):
        for seed in (0, 1):
            start = pretraining(tmp_path / f"{name}{seed}", seed=seed, lr=lr)
            at = f"{name}{seed}/encoder.safetensors" if seed else start  # relative to its start
            probe = probing(tmp_path / f"p{name}{seed}", at, miou=10 * seed + lr, seed=0)
            if seed:
                text = (probe / "config.yaml").read_text().replace(f"{tmp_path}{os.sep}p", "p")
                (probe / "config.yaml").write_text(text)
            runs += [start, probe]
    everything = read_runs(runs)
    probes = [run for run in everything if run.command == "probe"]
    first, other = groups(probes, everything)
    assert [run.folder.name for run in first.runs] == ["pa0", "pa1"]
    assert first.seeds == ("seed 0, from a run of seed 0", "seed 0, from a run of seed 1")
    assert other.about == "checkpoint lr 0.001 (was 0.0001)"
    assert varying(probes) == ("ours, all classes: miou",)
    (found,) = differences(first, other, varying(probes))
    assert found.number == "ours, all classes: miou" and found.spread.count == 2
    assert found.spread.mean == pytest.approx(9e-4)
    alone = groups(probes, probes)  # without the runs they start from nothing is the same
    assert [len(group.runs) for group in alone] == [1, 1, 1, 1]


def test_runs_with_the_same_seeds_twice_are_not_paired(tmp_path):
    runs = read_runs([
        pretraining(tmp_path / "a", seed=1), pretraining(tmp_path / "again", seed=1),
        pretraining(tmp_path / "b", seed=1, lr=1.0),
    ])  # fmt: skip
    first, other = groups(runs, runs)
    assert differences(first, other, numbers_of(runs)) == []
    told = Reader(page(runs).decode())
    assert any("no run of one has the seeds" in words for words in told.words)


def test_a_run_that_is_there_twice_takes_no_pair_from_others(tmp_path):
    runs = read_runs([
        *(pretraining(tmp_path / f"a{k}", seed=k, loss=1.0) for k in range(3)),
        pretraining(tmp_path / "again", seed=0, loss=5.0),
        *(pretraining(tmp_path / f"b{k}", seed=k, loss=2.0 + k, lr=1.0) for k in range(3)),
    ])  # fmt: skip
    first, other = groups(runs, runs)
    (found,) = differences(first, other, ["held-out loss"])
    assert found.seeds == ("seed 1", "seed 2")
    assert found.spread.mean == pytest.approx(2.5) and found.spread.count == 2


def test_runs_that_look_alike_but_saw_other_data_or_weights_are_apart(tmp_path):
    """A store that was made again at its place, an encoder that was trained again at its."""

    def run(name: str, seed: int, store: str, encoder: str):
        facts = {"data": {"stores": [store]}, "encoder": {"sha256": encoder}}
        return write_run(
            tmp_path / name,
            "probe",
            rows=[{"": "ours", "miou": 3.0}],
            facts=facts,
            benchmark="custom",
            data=["mine"],
            checkpoint="e.safetensors",
            seed=seed,
        )

    runs = read_runs([
        run("a", 0, "11", "aa"), run("b", 1, "11", "aa"), run("c", 0, "22", "aa"),
        run("d", 1, "11", "bb"),
    ])  # fmt: skip
    found = groups(runs, runs)
    assert [len(group.runs) for group in found] == [2, 1, 1]
    assert "22" in found[1].about and "bb" in found[2].about


def test_published_rows_are_not_results_of_a_run(tmp_path):
    run = read_run(probing(tmp_path / "p", "random"))
    assert run.numbers == {"ours, all classes: miou": 30.0, "ours, all classes: acc": 50.0,
                           "place only: miou": 9.0, "place only: acc": 31.0}  # fmt: skip


def test_runs_of_several_kinds_are_apart(tmp_path):
    told = read(
        pretraining(tmp_path / "a"), pretraining(tmp_path / "b", seed=1),
        probing(tmp_path / "p", "random"),
        write_run(tmp_path / "e", "eval", kind="evaluation", rows=[{"": "ours", "miou": 3.0}],
                  benchmark="street-semantic"),
    )  # fmt: skip
    shown = told.table("The 4 runs")
    assert [row["command"] for row in shown.values()] == ["pretrain", "pretrain", "probe", "eval"]
    headings = [attrs.get("aria-label", "") for _, attrs in told.elements]
    assert [one for one in headings if one.startswith("side by side")] == ["side by side: pretrain"]


def test_an_interrupted_and_a_running_run_say_so(tmp_path):
    half = pretraining(tmp_path / "half", finished=False, pictures=[])
    told = read(half)
    shown = told.table("The 1 run")[str(half)]
    assert shown["state"] == "interrupted" and "step 8, 1 of 1 epochs" in shown["what"]
    claim = {**asdict(Owner.this()), "pid": os.getpid()}
    (half / ".owner-1").write_text(json.dumps(claim))
    assert read(half).table("The 1 run")[str(half)]["state"] == "running"
    done = pretraining(tmp_path / "done")
    (done / ".owner-1").write_text(json.dumps(asdict(replace(Owner.this(), host="elsewhere"))))
    assert "if that still lives" in " ".join(read(done).words)  # resumed, perhaps
    empty = write_run(tmp_path / "empty", finished=False)
    (empty / "config.yaml").unlink()
    assert read(empty).table("The 1 run")[str(empty)]["state"] == "interrupted"


def test_stores_and_exports(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    manifest = {
        "kind": "pairs", "version": "0.1.0", "settings": {"name": "street", "scenes": 3},
        "counts": {"events decoded": 10407055, "pairs": 3},
        "shards": [{"file": "a.h5", "pairs": 3, "bytes": 2_000_000, "sha256": "e3"}],
    }  # fmt: skip
    (store / "manifest.json").write_text(json.dumps(manifest))
    told = read(store)
    assert told.table("a store of pairs")["events decoded"] == {"number": 10407055.0}
    assert told.table("Files")["a.h5"] == {"pairs": 3.0, "MB": 2.0, "SHA-256": "e3"}
    assert told.table("Settings")["scenes"]["meaning"]
    rows = [{"file": "encoder.onnx", "format": "onnx", "samples at once": "any", "MB": 1.5,
             "difference": 1e-7}]  # fmt: skip
    facts = {"settings": {"format": "onnx"}, "origins": {"format": "flag"}}
    export = write_run(tmp_path / "ex", "export", kind="export", rows=rows, title="files",
                       facts=facts)  # fmt: skip
    (export / "report.json").rename(export / "export.json")
    (export / "config.yaml").unlink()
    told = read(export).table("Settings")["format"]
    assert told["value"] == "onnx" and told["origin"] == "flag" and "ONNX" in told["meaning"]
    assert read(export).table("files")["encoder.onnx"]["difference"] == 1e-7


def test_everything_is_escaped(tmp_path):
    name = tmp_path / EVIL.replace("/", "_")
    run = pretraining(
        name, title=EVIL, notes=[EVIL], origins={"lr": EVIL}, teacher=EVIL,
        rows=[{EVIL: EVIL, f"{EVIL}2": 1.0}],
        log=[{"step": 1, EVIL: 1.0}, {"step": 2, EVIL: 2.0}],
    )  # fmt: skip
    other = pretraining(tmp_path / "b", seed=1, log=[{"step": 1, EVIL: 3.0}])
    told = read(run, other)
    assert [tag for tag, _ in told.elements].count("script") == 1
    assert all(not key.startswith("on") for _, attrs in told.elements for key in attrs)
    assert " ".join(told.words).count("<script>alert(1)") > 8
    assert "\N{REPLACEMENT CHARACTER}" in markup("a\x00b")
    assert markup(["<", Markup("<br>")]) == "&lt;<br>"
    assert element("a", "&", href='"><x') == '<a href="&quot;&gt;&lt;x">&amp;</a>'


def test_nothing_outside_the_page_is_named(tmp_path):
    told = read(pretraining(tmp_path / "a"), pretraining(tmp_path / "b", seed=1))
    assert told.links and all(link.startswith(("#", "data:")) for link in told.links)
    targets = {attrs["id"] for _, attrs in told.elements if "id" in attrs}
    assert {link[1:] for link in told.links if link.startswith("#")} <= targets
    (policy,) = [a["content"] for t, a in told.elements if a.get("http-equiv")]
    assert "default-src 'none'" in policy and "unsafe-inline'; script" in policy
    images = [attrs for tag, attrs in told.elements if tag == "img"]
    assert len(images) == 2 and all(attrs["alt"] for attrs in images)
    assert all(attrs["role"] == "img" for tag, attrs in told.elements
               if tag == "svg" and "aria-hidden" not in attrs)  # fmt: skip
    levels = [int(tag[1]) for tag, _ in told.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1 and all(np.diff(levels) <= 1)
    assert len(told.tables) == sum(tag == "caption" for tag, _ in told.elements)


def test_the_same_runs_give_the_same_bytes(tmp_path):
    run = pretraining(tmp_path / "run")
    assert page([read_run(run)]) == page([read_run(run)])


@pytest.mark.parametrize(("harm", "words"), [
    ("missing", "no such run"), ("file", "a file, not a run"), ("foreign", "not a run"),
    ("json", "not a JSON file"), ("other json", "not a report of ours"),
    ("rows", "not a report of ours"), ("log", "damaged log"), ("log line", "damaged log"),
    ("yaml", "cannot read the YAML"), ("origins", "where settings come from"),
])  # fmt: skip
def test_what_is_no_run_or_damaged_is_refused(harm, words, tmp_path):
    run = pretraining(tmp_path / "run", origins={})
    given, file = run, {
        "json": ("report.json", '{"schema": '), "other json": ("report.json", '{"rows": []}'),
        "rows": ("report.json",
                 '{"schema": "scaleevent.x/1", "title": "", "rows": [1], "notes": []}'),
        "log": ("log.jsonl", "broken\n"), "log line": ("log.jsonl", '{"step": 1}\n{"loss": 2}\n'),
        "yaml": ("config.yaml", "a: [\n"), "origins": ("origins.json", '{"lr": 3}'),
    }.get(harm)  # fmt: skip
    if file:
        (run / file[0]).write_text(file[1])
    elif harm == "missing":
        given = tmp_path / "nowhere"
    elif harm == "file":
        given = run / "log.jsonl"
    else:
        given = tmp_path
    with pytest.raises((DataError, ConfigError), match=words) as error:
        command.run(ReportConfig(runs=[given], out=tmp_path / "r.html"))
    assert str(file[0] if file else given) in str(error.value)
    assert not (tmp_path / "r.html").exists()
    if harm == "foreign":
        assert "outputs in it: run" in str(error.value)
        assert error.value.hint == f"`scaleevent report {run}`"


def test_unfinished_lines_and_odd_numbers_are_passed_over(tmp_path):
    run = pretraining(tmp_path / "run")
    with open(run / "log.jsonl", "a") as file:
        file.write(
            '{"step": 9, "loss": NaN}\n{"step": 10, "loss": Infinity, "x": "text"}\n{"step": 1'
        )
    told = read(run)
    assert told.table("Loss: the ends")["training"]["highest"] == 1.9


def test_damaged_and_huge_pictures_are_said(tmp_path):
    run = pretraining(tmp_path / "run", pictures=["panel.png", "b.png"])
    (run / "panel.png").write_bytes((run / "panel.png").read_bytes()[:60])
    (run / "c.png").write_bytes(b"x" * (9 << 20))
    found = read_run(run)
    assert [one.name for one in found.pictures] == ["b.png"]
    assert found.left_out == ("panel.png: damaged", "c.png: more than 8 MB")
    assert "Not all is shown: panel.png: damaged." in read(run).words


def test_some_pictures_of_a_series_are_shown(tmp_path):
    run = write_run(tmp_path / "run", "predict", kind="predictions", pictures=["panel.png"])
    (run / "pictures").mkdir()
    for number in range(9):
        shutil.copy(run / "panel.png", run / f"pictures/{number:06d}.png")
    found = read_run(run)
    assert [one.name for one in found.pictures] == [
        "panel.png", *(f"pictures/{number:06d}.png" for number in (0, 4, 8))
    ]  # fmt: skip
    assert found.left_out == ("9 pictures of a series, of which some are shown",)


def test_only_reports_are_replaced(tmp_path):
    run, out = pretraining(tmp_path / "run"), tmp_path / "r.html"
    for _ in range(2):
        command.run(ReportConfig(runs=[run], out=out))
    out.write_text("mine")
    with pytest.raises(EnvironmentProblem, match="is no report"):
        command.run(ReportConfig(runs=[run], out=out))
    assert out.read_text() == "mine"
    command.run(ReportConfig(runs=[run], out=out, overwrite=True))
    with pytest.raises(EnvironmentProblem, match="is a folder"):
        command.run(ReportConfig(runs=[run], out=tmp_path))
    with pytest.raises(ConfigError, match="named twice"):
        command.run(ReportConfig(runs=[run, tmp_path / "run/../run"], out=out))


def test_curves_as_pictures_are_those_of_the_page(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [pretraining(tmp_path / "a" / "one"), pretraining(tmp_path / "b" / "one", seed=1),
            probing(tmp_path / "p", "random", log=[{"step": 1, "loss": 1.0}])]  # fmt: skip
    cfg = ReportConfig(runs=runs, out=tmp_path / "r.html", curves=tmp_path / "curves")
    told = command.run(cfg).facts["curves"]
    names = {path.name for path in (tmp_path / "curves").glob("*.png")}
    assert {"one-loss.png", "one-loss-2.png", "p-loss.png"} <= names and len(names) == len(told)
    compared = {name for name in names if name.startswith("all-")}
    assert compared == {
        f"all-pretrain-{end}.png"
        for end in ("loss-training", "loss-held-out", "learning-rate-rate",
                    "parts-of-the-loss-training-l1")
    }  # fmt: skip
    before = (tmp_path / "curves/one-loss.png").read_bytes()
    with pytest.raises(EnvironmentProblem, match="not empty"):
        command.run(cfg)
    command.run(cfg.model_copy(update={"overwrite": True}))
    assert (tmp_path / "curves/one-loss.png").read_bytes() == before
    with pytest.raises(DataError, match="not a run"):
        read_run(tmp_path / "curves")


def test_curves_without_matplotlib_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    cfg = ReportConfig(runs=[pretraining(tmp_path / "r")], out=tmp_path / "r.html",
                       curves=tmp_path / "curves")  # fmt: skip
    with pytest.raises(MissingPackageError, match="matplotlib"):
        command.run(cfg)
    assert not cfg.out.exists() and not cfg.curves.exists()


def test_the_command_line(tmp_path, capfd, monkeypatch):
    run = pretraining(tmp_path / "run")
    out = tmp_path / "r.html"
    monkeypatch.setattr(sys, "argv", ["scaleevent", "report", str(run), "-o", str(out), "--json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    told = json.loads(capfd.readouterr().out)
    assert not left.value.code and told["schema"] == "scaleevent.report/1"
    assert told["rows"] == [{"run": str(run), "command": "pretrain", "state": "finished"}]
    assert told["bytes"] == out.stat().st_size


@pytest.mark.parametrize("low, high", [(0, 1), (1, 30), (-3e-7, 9e-6), (0.16637, 1.8), (0, 1e6),
                                       (99.9, 100.0), (-5, -4.99)])  # fmt: skip
def test_ticks_are_round_and_cover_the_range(low, high):
    found = ticks(low, high, 5)
    assert found[0] <= low and found[-1] >= high and 3 <= len(found) <= 8
    assert np.allclose(np.diff(found), found[1] - found[0], rtol=1e-6)
    step = (found[1] - found[0]) / 10 ** np.floor(np.log10(found[1] - found[0]) + 1e-9)
    assert min(abs(step - one) for one in (1, 2, 2.5, 5, 10)) < 1e-6


def test_thinned_lines_keep_their_peaks():
    y = np.sin(np.arange(100_000) / 9000)
    y[4321], y[98765] = 50, -50
    kept = thinned(list(enumerate(y.tolist())))
    assert len(kept) <= 300 and {50, -50} <= {value for _, value in kept}
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


@pytest.mark.parametrize("points", [[(1, 2.0)], [(0, 0.0), (5, 0.0)], [(0, 1e300), (1, -1e300)]])
def test_charts_of_hardly_anything(points):
    drawn = Reader(line_chart("T", "about", [Line("a", tuple(points))]))
    places = [float(attrs[k]) for tag, attrs in drawn.elements if tag == "circle" for k in ("cx", "cy")]  # fmt: skip # noqa: E501
    assert len(places) == 2 * len(points) and all(0 <= place <= 420 for place in places)
