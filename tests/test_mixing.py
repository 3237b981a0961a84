"""Mixes of stores: who is drawn how often, in which order, and what is told of them."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from test_end_to_end import call
from test_store import write_store

from scaleevent.commands.pretrain_data import pretraining_data
from scaleevent.config.catalog import DATASETS, UNDOCUMENTED
from scaleevent.config.mix import check_weights, store_names
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.config.tags import Tags
from scaleevent.errors import ConfigError, DataError
from scaleevent.events import Events
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window
from scaleevent.pairs.draws import StepBatches, draw_epoch
from scaleevent.pairs.loading import load_batches
from scaleevent.pairs.mix_report import describe_mix
from scaleevent.pairs.mixing import (
    Mix,
    Source,
    among,
    joined,
    keep_tagged,
    lines,
    open_sources,
    section,
    tags_of,
)
from scaleevent.pairs.pair import Pair, encode_image
from scaleevent.pairs.sample_inputs import index as sample_index
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.splits import split_samples
from scaleevent.pairs.store import PairStore
from tests.conftest import DATA

HEIGHT, WIDTH = 32, 48
MIX = Path(__file__).parent.parent / "examples/paper_mix.yaml"
STORES = {  # recordings with their number of pairs, and tags
    "alpha": ({"in_1": 5, "in_2": 1, "out_1": 4}, {"*": "real, moving", "in_*": "indoor",
                                                    "out_*": "outdoor"}),
    "beta": ({"b": 3, "c": 3}, {"*": "simulated, outdoor"}),
    "gamma": ({"in_1": 2}, {}),
}  # fmt: skip


@dataclass(frozen=True)
class Filmed:
    """A task of `write_store`: pairs with events in two patches, one of them beyond tau."""

    name: str
    number: int
    tags: str = ""
    inputs: tuple[Path, ...] = ()
    found: str = ""

    @property
    def expected(self) -> int:
        return self.number

    def pairs(self, counts):
        cells = [(y, x) for y in range(16) for x in range(16)]
        at = cells[:70] + [(y + 16, x + 32) for y, x in cells[:60]]
        y, x = np.array(at).T
        image = encode_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        for number in range(self.number):
            t = np.sort(np.arange(len(at), dtype=np.int64) * 100 + 20_000 * number)
            events = Events(t, x.astype(np.uint16), y.astype(np.uint16), np.ones(len(at), np.uint8),
                            HEIGHT, WIDTH)  # fmt: skip
            counts["images"] += 1
            counts["pairs"] += 1
            window = Window(20_000 * number, 20_000 * (number + 1))
            yield Pair(self.name, window.end_us, image, events, window, tags=self.tags)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for name, (recordings, tags) in STORES.items():
        (folder / name).mkdir()
        films = [Filmed(one, count, "static" if one == "c" else "")
                 for one, count in recordings.items()]  # fmt: skip
        write_store(films, folder / name, {"name": "custom"}, remarks={"tags": tags})
    return folder


@pytest.fixture(scope="module")
def sources(shelf) -> list[Source]:
    return open_sources([shelf / name for name in STORES])


@pytest.fixture(scope="module")
def samples(sources) -> PairSamples:
    stores = [source.store for source in sources]
    return PairSamples(stores, InputSettings(32, 48, 16), {"index": sample_index})


def by_hand(indices, weights, sampling):
    """Probability of every pair, from the names alone, one after the other."""
    names = [(s, r) for s, (recordings, _) in STORES.items() for r, n in recordings.items()
             for _ in range(n)]  # fmt: skip
    taken = [names[index] for index in indices]
    there = Counter(store for store, _ in taken)
    weights = {store: weights.get(store, there[store]) for store in there}
    chances = np.zeros(len(names))
    for index, (store, recording) in zip(indices, taken, strict=True):
        chance = weights[store] / sum(weights.values())
        if sampling == "released":
            chance /= len({r for s, r in taken if s == store}) * taken.count((store, recording))
        else:
            chance /= there[store]
        chances[index] = chance
    return chances


WEIGHTS = {"alpha": 1, "beta": 2.5, "gamma": 0.5}


@pytest.mark.parametrize("weights", [{}, WEIGHTS], ids=["pairs", "weights"])
@pytest.mark.parametrize("sampling", ["released", "uniform"])
@pytest.mark.parametrize("left", [(), (0, 5, 11)], ids=["all", "some"])
def test_pairs_are_drawn_as_their_law_says(sources, samples, weights, sampling, left):
    """The chances that are told, and the frequencies of the draws, against the law by hand."""
    indices = np.setdiff1d(np.arange(18), left)
    expected = by_hand(indices, weights, sampling)
    mix = Mix(among(sources, indices), weights, sampling)
    told = np.zeros(18)
    told[joined(mix.sources)] = np.concatenate(
        [s.chances(sampling) * share for s, share in zip(mix.sources, mix.shares, strict=True)]
    )
    assert np.allclose(told, expected, rtol=1e-12) and told.sum() == pytest.approx(1)
    draws = 40_000
    drawn = draw_epoch(samples, indices, draws, 1, 0, sampling=sampling, shares=mix.given)
    counts = np.bincount(drawn, minlength=18)
    assert not counts[list(left)].any()
    wanted = draws * expected[indices]
    chi_square = ((counts[indices] - wanted) ** 2 / wanted).sum()
    assert chi_square < 40.8  # 0.1 % point of 17 degrees of freedom
    if sampling == "uniform":  # passes: within a store no pair is ahead of another by two
        for source in range(3):
            first, last = ((0, 10), (10, 16), (16, 18))[source]
            mine = counts[[k for k in indices if first <= k < last]]
            assert mine.max() - mine.min() <= 1


@pytest.mark.parametrize("weights", [{}, WEIGHTS], ids=["pairs", "weights"])
@pytest.mark.parametrize("sampling", ["released", "uniform"])
def test_draws_depend_on_seed_and_epoch_alone(sources, samples, weights, sampling):
    shares = Mix(sources, weights, sampling).given

    def drawn(seed, epoch):
        return draw_epoch(samples, np.arange(18), 50, seed, epoch, sampling, shares).tolist()

    every = [drawn(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert every == [drawn(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(map(tuple, every))) == 6


def test_the_order_is_that_of_seed_and_epoch_for_any_workers_and_ranks(sources, samples):
    """Also from the middle of an epoch on: through real loader processes."""
    shares = Mix(sources, WEIGHTS).given

    def draw(epoch):
        return draw_epoch(samples, np.arange(18), 12, 3, epoch, "released", shares)

    steps = np.concatenate([draw(epoch).reshape(2, 6) for epoch in range(2)]).tolist()
    for world in (1, 2, 3):
        for workers in (0, 1, 3):
            for first in (0, 1) if world == 3 or workers == 3 else (1,):
                ranks = []
                for rank in range(world):
                    plan = StepBatches(draw, 2, 2, 6, first, rank, world)
                    loaded = load_batches(samples, plan, workers)
                    ranks.append([batch["index"].tolist() for batch in loaded])
                together = [sum(parts, []) for parts in zip(*ranks, strict=True)]
                assert together == steps[first:], (world, workers, first)


def test_tags_are_those_of_the_pattern_and_over_it_of_the_source(shelf):
    found = {name: tags_of(PairStore(shelf / name)) for name in STORES}
    assert found == {
        "alpha": {**dict.fromkeys(("in_1", "in_2"), Tags("real", "moving", "indoor")),
                  "out_1": Tags("real", "moving", "outdoor")},
        "beta": {"b": Tags("simulated", place="outdoor"),
                 "c": Tags("simulated", "static", "outdoor")},
        "gamma": {"in_1": Tags()},
    }  # fmt: skip


def test_a_store_of_earlier_versions_has_no_tags():
    store = PairStore(DATA / "store_v1")
    assert set(tags_of(store).values()) == {Tags()} and store.manifest["tags"] == {}
    with pytest.raises(DataError, match="no pair has all of these tags") as caught:
        keep_tagged([Source.whole("old", store)], ["simulated"])
    assert "origin: unknown 100%" in caught.value.expected


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        (["real"], range(10)),
        (["outdoor"], range(6, 16)),
        (["real", "outdoor"], range(6, 10)),
        (["indoor", "outdoor"], range(16)),
        (["static"], range(13, 16)),
        (["size=32x48"], range(18)),
        (["indoor", "size=32x48"], range(6)),
    ],
)
def test_only_pairs_with_these_tags_are_there(sources, samples, only, kept):
    left, said = keep_tagged(sources, only)
    indices = joined(left)
    assert indices.tolist() == list(kept)
    assert f"of {18} in all" in said
    split = split_samples(samples, 0.3, among=indices)
    assert set(split.train) | set(split.validation) <= set(kept)
    assert len(split.train) and len(split.validation)


def test_nothing_left_says_what_there_is(sources):
    with pytest.raises(DataError) as caught:
        keep_tagged(sources, ["real", "static"])
    assert caught.value.found == "real, static"
    for part in ("real 56%", "simulated 33%", "motion: moving 56%", "size: 32x48"):
        assert part in caught.value.expected


def test_balance_counts_draws(sources):
    """By hand: within alpha a recording counts a third, within beta a half."""
    balance = Mix(sources, {"alpha": 3, "beta": 2, "gamma": 1}).balance()
    near = {kind: pytest.approx(parts) for kind, parts in {
        "origin": {"real": 1 / 2, "simulated": 1 / 3, "unknown": 1 / 6},
        "motion": {"moving": 1 / 2, "unknown": 1 / 3, "static": 1 / 6},
        "place": {"outdoor": 1 / 2, "indoor": 1 / 3, "unknown": 1 / 6},
        "sensor": {"unknown": 1},
    }.items()}  # fmt: skip
    assert balance == near


def test_activity_is_that_of_the_planted_events(sources):
    """One of six patches has 70 events, another 60."""
    for source in sources:
        measured = source.measure()
        assert measured.active == pytest.approx(1 / 6)
        assert measured.events == pytest.approx(130 / (HEIGHT * WIDTH))
        assert measured.window_ms == 20 and measured.pairs == len(source.rows)
        assert source.measure(tau=55).active == pytest.approx(2 / 6)
    assert sources[0].measure(most=4).pairs == 4
    assert Source.whole("small", PairStore(DATA / "store_v1")).measure() is not None


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"alpha": 0}, "weight of alpha is zero"),
        ({"alpha": -1}, "not a number above zero"),
        ({"alpha": "nan"}, "not a number above zero"),
        ({"alpha": "inf"}, "not a number above zero"),
        ({"alpha": "much"}, "not a number"),
        ({"alpha": None}, "not a number"),
        (["alpha"], "expected NAME=WEIGHT"),
        (["alpha=1", "alpha=2"], "two weights"),
        (3, "NAME: WEIGHT"),
    ],
)
def test_what_is_no_weight_is_refused(weights, said):
    with pytest.raises(ValidationError, match=said):
        PretrainConfig(weights=weights)


def test_weights_belong_to_stores(shelf):
    folders = [shelf / name for name in STORES]
    check_weights({}, folders)
    check_weights(WEIGHTS, folders)
    with pytest.raises(ConfigError, match=r"not among the data \(did you mean gamma\?\)"):
        check_weights(WEIGHTS | {"gama": 1}, folders)
    with pytest.raises(ConfigError, match="some have none") as caught:
        check_weights({"alpha": 1}, folders)
    assert caught.value.found == "none for beta, gamma"
    with pytest.raises(ConfigError, match="not among the data") as caught:
        check_weights({"alpha": 1}, [])
    assert "street is rendered" in caught.value.expected
    config = PretrainConfig(data=folders, weights={"delta": 1})
    with pytest.raises(ConfigError, match="not among the data"):
        config.check()


def test_a_weight_of_what_is_left_out_is_refused(sources):
    left, _ = keep_tagged(sources, ["real"])
    with pytest.raises(DataError, match="no pair to draw") as caught:
        _ = Mix(left, WEIGHTS).shares
    assert caught.value.where == "beta, gamma"
    assert Mix(left, {}).shares.tolist() == [1, 0, 0]


def test_stores_of_one_name_keep_their_paths(tmp_path):
    folders = [tmp_path / "a/pairs", tmp_path / "b/pairs", tmp_path / "c"]
    assert store_names(folders) == [str(folders[0]), str(folders[1]), "c"]
    (tmp_path / "link").symlink_to(tmp_path / "c")
    assert store_names([tmp_path / "link"]) == ["link"]
    with pytest.raises(ConfigError, match="named twice"):
        store_names([tmp_path / "c", tmp_path / "d/../c"])


def test_settings_that_are_not_used_leave_a_run_as_it_was():
    """So that a run of an earlier version can be resumed."""
    plain = PretrainConfig().with_effect()
    assert not {"weights", "only"} & plain.keys()
    assert PretrainConfig(only="real").with_effect() == plain | {"only": ["real"]}
    assert PretrainConfig(weights={"a": 2}).with_effect() == plain | {"weights": {"a": 2}}


def test_a_composition_is_told_as_in_the_papers_tables(sources):
    facts = Mix(sources, WEIGHTS).facts
    shown = section(facts)
    first = dict(zip(shown.columns, shown.rows[0], strict=True))
    assert first["tags"] == "real, moving, indoor 67%, outdoor 33%"
    assert (first["recordings"], first["pairs"], first["share of draws"]) == (3, 10, "25.0%")
    assert first["active patches"] == "16.7%" and first["rows x columns"] == "32x48"
    assert shown.rows[2][1] == "unknown" and shown.rows[3][3:6] == (6, 18, "100.0%")
    said = "\n".join(lines(facts))
    assert "simulated 62.5%" in said and "up to 10 pairs" in said and "given weights" in said
    json.dumps(facts)


# The paper's mix


def test_the_papers_mix_has_the_numbers_of_its_tables():
    mix = yaml.safe_load(MIX.read_text())
    assert list(mix["weights"]) == mix["data"] and len(mix["data"]) == 16
    real = ["ddd17", "mvsec", "see-600k", "visevent", "coesot", "dsec", "fevd", "m3ed", "highrev"]
    assert sum(mix["weights"][name] for name in real) == 130_000
    assert sum(mix["weights"].values()) == 500_000


def test_the_papers_mix_says_what_is_missing(shelf, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SCALEEVENT_DATA", str(tmp_path))
    (tmp_path / "dsec").symlink_to(shelf / "alpha")
    (tmp_path / "kitti").mkdir()  # begun, and not finished
    capsys.readouterr()
    call(f"info {MIX} --json")
    told = json.loads(capsys.readouterr().out)
    mix = yaml.safe_load(MIX.read_text())
    assert [*told["missing"]] == [name for name in mix["data"] if name != "dsec"]
    for name, way in told["missing"].items():
        if name in UNDOCUMENTED:
            assert "layout is unknown" in way and "prepare custom" in way
        elif name in DATASETS and name != "kitti":
            assert f"scaleevent prepare {name} FOLDER -o {tmp_path / name}" in way
    assert [row["source"] for row in told["rows"]] == ["dsec"]
    assert "1 of 16 stores on this disk" in told["notes"]
    call(f"pretrain -c {MIX} -o {tmp_path / 'run'}", 2)
    said = capsys.readouterr().err
    assert "found: 14 of 16: ddd17, mvsec, see-600k" in said
    assert said.count("scaleevent prepare") == 14 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weights: {a: 1}\n", "data is not given"),
        ("data: []\n", "data"),
        ("data: [a]\nweights: {b: 1}\n", "a weight of a store that is not among the data"),
        ("data: [a]\nonly: [green]\n", "unknown tag green"),
    ],
)
def test_a_file_without_a_mix_is_refused(tmp_path, capsys, text, said):
    (tmp_path / "mix.yaml").write_text(text)
    capsys.readouterr()
    call(f"info {tmp_path / 'mix.yaml'}", 2)
    assert said in capsys.readouterr().err


def test_a_store_of_a_mix_keeps_its_weight_where_its_namesake_is_missing(shelf, tmp_path):
    (tmp_path / "mix.yaml").write_text(
        f"data: [{shelf / 'alpha'}, {tmp_path / 'alpha'}]\n"
        f"weights: {{{shelf / 'alpha'}: 1, {tmp_path / 'alpha'}: 3}}\n"
    )
    report = describe_mix(tmp_path / "mix.yaml", ())
    assert [row[0] for row in report.rows] == [str(shelf / "alpha")]
    assert report.facts["composition"]["weights"] == {str(shelf / "alpha"): 1}
    assert [row[:2] for row in report.more[0].rows] == [(str(tmp_path / "alpha"), "75.0%")]


def test_info_of_several_stores_is_their_composition(shelf, tmp_path, capsys):
    capsys.readouterr()
    stores = " ".join(str(shelf / name) for name in STORES)
    call(f"info {stores} --json --verify")
    told = json.loads(capsys.readouterr().out)
    assert [row["pairs"] for row in told["rows"]] == [10, 6, 2, 18]
    assert told["composition"]["sources"][1]["share"] == pytest.approx(6 / 18)
    call(f"info {shelf / 'alpha'}")
    assert "indoor 67%" in capsys.readouterr().out
    call(f"info {stores} --picture {tmp_path / 'x.png'}", 2)
    call(f"info {shelf / 'alpha'} {tmp_path}", 3)
    assert "not a prepared pair store" in capsys.readouterr().err


def test_pretrain_draws_by_weights_what_has_the_tags(shelf, tmp_path, capsys):
    capsys.readouterr()
    call(
        f"pretrain {shelf / 'alpha'} {shelf / 'beta'} --only outdoor --weight alpha=1 "
        "--weight beta=3 --arch tiny --preset demo --size 32x48 --epochs 1 --draws 8 --batch 4 "
        f"--validation 0.2 --device cpu -o {tmp_path / 'run'}"
    )
    said = capsys.readouterr().err
    assert "10 pairs (outdoor, of 16 in all)" in said and "outdoor 100.0%" in said
    data = json.loads((tmp_path / "run/report.json").read_text())["data"]
    assert [one["share"] for one in data["mix"]["sources"]] == [0.25, 0.75]
    assert data["mix"]["balance"]["origin"] == {"simulated": 0.75, "real": 0.25}


def test_one_rank_measures_the_composition(shelf, monkeypatch):
    asked = []
    monkeypatch.setattr(Source, "measure", lambda self: asked.append(self.name))
    cfg = PretrainConfig(data=[shelf / "alpha", shelf / "beta"], validation=0.2)
    settings = InputSettings(32, 48, 16)
    for main in (False, True):
        run = MagicMock(**{"ranks.main": main})
        _, split, mix = pretraining_data(cfg, settings, {"index": sample_index}, run)
        assert len(split.train) and mix.shares.sum() == 1
        assert run.tell.called == main and asked == ["alpha", "beta"] * main
