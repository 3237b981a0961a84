"""Which scenes probe, and what the comparison says of encoders, controls and intervals."""

import json

import numpy as np
import pytest
import torch
from test_baselines import write_store

from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.grids.inputs import InputSettings
from scaleevent.objectives import probe_scenes
from scaleevent.objectives.comparison import AFTER, BEFORE, DIFFERENCES, RANDOM, TEACHER, Comparison
from scaleevent.objectives.probe_comparison import (
    BALANCED,
    CONSTANT,
    DEPTH,
    PLACE,
    RIDGE,
    SCENE,
    Probed,
    build_probes,
)
from scaleevent.objectives.probe_scenes import Labelled, ProbeScenes, class_names
from scaleevent.objectives.probing import Features, place_probe
from scaleevent.pairs.samples import PairSamples
from scaleevent.system.reports import Report

SIZE = (24, 32)
GRID = (3, 4)
LAYOUT = np.zeros(SIZE, np.uint8)
LAYOUT[12:] = 1
SEMANTICS = {"semantics": LAYOUT, "depth": np.full(SIZE, 5, np.float32)}


def samples_of(tmp_path, labels, splits=None, name="s"):
    store = write_store(tmp_path / name, labels, splits or ["test"] * len(labels))
    return PairSamples([store], InputSettings(*SIZE, patch=8))


def street(tmp_path, count=24, seed=0):
    """Scenes of two kinds, each with its own class on the left; depth by the kind, with a trend."""
    rng = np.random.default_rng(seed)
    labels, kinds = [], rng.integers(0, 2, count)
    for kind in kinds:
        classes = LAYOUT.copy()
        classes[:, :8] = 2 + kind
        classes[rng.random(SIZE) < 0.05] = 255
        depth = 3 + 4 * kind + np.linspace(0, 9, SIZE[0])[:, None] + np.zeros(SIZE)
        depth[:2] = np.nan
        labels.append({"semantics": classes, "depth": depth.astype(np.float32)})
    return samples_of(tmp_path, labels), kinds


# Scenes


def test_whole_recordings_are_on_one_side(tmp_path):
    samples, _ = street(tmp_path)
    pool = np.arange(5, 24)
    scenes = ProbeScenes.of(samples, pool, 0)
    assert set(scenes.fitted) | set(scenes.scored) == set(pool) and scenes.labelled == 19
    assert not set(scenes.fitted) & set(scenes.scored)
    assert 8 <= len(scenes.fitted) <= 10
    same, other = (ProbeScenes.of(samples, pool, seed).fitted for seed in (0, 1))
    assert np.array_equal(scenes.fitted, same) and not np.array_equal(same, other)


def test_many_tokens_make_fewer_scenes_but_not_few(tmp_path, monkeypatch):
    samples = samples_of(tmp_path, [SEMANTICS] * 40)
    for name, value in {"FITTED": 20, "SCORED": 20, "FEW": 5, "TOKENS": 1200}.items():
        monkeypatch.setattr(probe_scenes, name, value)
    for places, most in ((12, 20), (100, 12), (1000, 5)):
        scenes = ProbeScenes.of(samples, np.arange(40), 0, places)
        assert len(scenes.fitted) == len(scenes.scored) == most
        assert not set(scenes.fitted) & set(scenes.scored) and scenes.labelled == 40


def test_a_split_of_the_store_holds_where_it_is_even(tmp_path):
    splits = ["train"] * 6 + ["test"] * 5 + ["train"]
    samples = samples_of(tmp_path, [SEMANTICS] * 12, splits)
    drawn = ProbeScenes.of(samples, np.arange(12), 0)
    assert "by recording" in drawn.how and len(drawn.scored) == 6  # as for rendered scenes
    samples.stores[0].recordings[:] = [*"aaabbbccddde"]
    scenes = ProbeScenes.of(samples, np.arange(12), 0)
    assert scenes.scored.tolist() == [6, 7, 8, 9, 10] and "split of the store" in scenes.how
    few = ProbeScenes.of(samples, np.arange(4, 12), 3)
    assert few.scored.tolist() == [6, 7, 8, 9, 10] and few.fitted.tolist() == [4, 5, 11]
    none = ProbeScenes.of(samples, np.arange(6, 12), 3)  # one of six
    assert "split seed 3" in none.how and 2 <= len(none.fitted) <= 4


def test_a_single_recording_is_halved_in_time_without_a_shared_event(tmp_path):
    one = {"semantics": LAYOUT}
    folder = tmp_path / "r"
    samples = samples_of(tmp_path, [one] * 8, name="r")
    store = samples.stores[0]
    store.recordings[:] = "one"
    scenes = ProbeScenes.of(samples, np.arange(8), 0)
    assert scenes.scored.tolist() == [4, 5, 6, 7] and scenes.fitted.tolist() == [0, 1, 2, 3]
    store.windows_us[:, 0] -= 1500  # every window now begins in the one before it
    scenes = ProbeScenes.of(samples, np.arange(8), 0)
    assert scenes.scored.tolist() == [4, 5, 6, 7] and scenes.fitted.tolist() == [0, 1]
    assert folder.exists()


def test_too_few_are_said_and_none_are_not(tmp_path):
    samples = samples_of(tmp_path, [{"semantics": LAYOUT}] + [{"flow": np.zeros((2, *SIZE))}] * 3)
    alone = ProbeScenes.of(samples, np.arange(4), 0)
    assert not alone.usable and "1 have labels" in alone.refusal()[0]
    nothing = ProbeScenes.of(samples, np.arange(1, 4), 0)
    assert not nothing.usable and nothing.refusal() == []


def test_labels_without_a_pixel_that_counts_make_no_probe(tmp_path):
    empty = {"semantics": np.full(SIZE, 255, np.uint8), "depth": np.full(SIZE, np.nan, np.float32)}
    samples = samples_of(tmp_path, [SEMANTICS, SEMANTICS, empty, empty])
    scenes = ProbeScenes(np.array([0, 1]), np.array([2, 3]), "")
    assert Labelled.of(samples, scenes, "semantics") is None
    assert build_probes(samples, scenes, GRID, 0) == {}
    far = {"depth": np.full(SIZE, 200, np.float32)}
    samples = samples_of(tmp_path, [far] * 4, name="far")
    assert build_probes(samples, scenes, GRID, 0) == {}


def test_classes_have_the_names_of_their_data_set(tmp_path):
    samples = samples_of(tmp_path, [SEMANTICS] * 2)
    labels = [torch.from_numpy(LAYOUT)]
    assert class_names(samples, labels) == ("0", "1")
    samples.stores[0].manifest["settings"] = {"name": "street"}
    assert class_names(samples, labels)[:2] == ("sky", "road")
    assert len(class_names(samples, [torch.tensor([[9, 255]])])) == 10


# Rows


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    samples, kinds = street(tmp_path_factory.mktemp("probed"), 60)
    scenes = ProbeScenes.of(samples, np.arange(60), 0)
    found = Probed(scenes, build_probes(samples, scenes, GRID, 0), 0)
    generator = torch.Generator().manual_seed(0)

    def tokens(indices, telling):
        noise = torch.randn(len(indices), 12, 2, generator=generator)
        kind = torch.from_numpy(kinds[indices]).float()[:, None, None].expand(-1, 12, 1)
        where = torch.eye(12).expand(len(indices), -1, -1)
        parts = {"noise": [noise], "place and noise": [noise, where]}
        return torch.cat(parts.get(telling, [noise, where, kind * where]), 2)

    images = [tokens(side, "images") for side in (scenes.fitted, scenes.scored)]
    found.add_controls(*images)
    for name in ("noise", "place and noise", "images"):
        sides = (tokens(side, name) for side in (scenes.fitted, scenes.scored))
        found.add(name, *map(Features.tokens, sides))
    return found


def test_controls_stand_where_they_must(probed):
    numbers = {row: {p: probed.number(row, p) for p in probed.probes} for row in probed.rows}
    assert probed.rows == [CONSTANT, PLACE, SCENE, "noise", "place and noise", "images"]
    for name in (RIDGE, BALANCED):
        ordered = [numbers[row][name] for row in (CONSTANT, PLACE, SCENE)]
        assert ordered == sorted(ordered) and ordered[0] < ordered[2] - 10
        assert numbers["images"][name] > numbers[PLACE][name] + 10
        assert numbers["noise"][name] < numbers[PLACE][name]
    depth = {row: numbers[row][DEPTH] for row in probed.rows}
    assert depth[CONSTANT] > depth[PLACE] > depth[SCENE] + 0.5  # the kind shifts it all
    assert depth["images"] < depth[SCENE] + 0.5


def test_place_only_is_the_closed_form_of_the_ridge(probed):
    one = probed.probes[RIDGE]
    fitted, scored = (torch.stack(side) for side in
                      (one.labelled.fitted_labels, one.labelled.scored_labels))  # fmt: skip
    expected = 100 * np.nanmean(place_probe(fitted, scored, GRID, 4))
    assert probed.number(PLACE, RIDGE) == pytest.approx(expected)


def test_the_constant_is_the_most_frequent_class_and_the_median(probed):
    one, depth = probed.probes[BALANCED], probed.probes[DEPTH]
    pixels = torch.cat([label.flatten() for label in one.labelled.fitted_labels])
    most = int(torch.bincount(pixels[pixels != 255]).argmax())
    known = torch.cat([label.flatten() for label in depth.labelled.fitted_labels])
    median = float(known[known > 0].median())
    assert probed.constants == [f"{most} everywhere", f"{median:.1f} m everywhere"]
    iou = one.by_class(probed.sums[CONSTANT, BALANCED])
    truth = torch.cat([label.flatten() for label in one.labelled.scored_labels])
    share = float((truth == most).sum() / (truth != 255).sum())
    assert iou[str(most)] == pytest.approx(100 * share)
    assert [v for k, v in iou.items() if k != str(most)] == [0, 0, 0]


@pytest.mark.parametrize("name", [RIDGE, BALANCED, DEPTH])
def test_without_information_a_probe_scores_the_place_alone(probed, name):
    """Tokens that hold their place and noise: the difference to the control straddles nothing."""
    metric = next(iter(probed.probes[name].metrics))
    entry = probed.entry("place and noise", name, metric, PLACE)
    low, high = entry.interval
    assert low < entry.value < high and low < 0 < high
    gained = probed.entry("images", name, metric, PLACE).interval
    assert gained[0] > 0 or gained[1] < 0


def test_facts_are_json_in_full_and_the_tables_show_them(probed):
    differences = (("images", PLACE), ("noise", PLACE))
    facts = json.loads(json.dumps(probed.facts(differences), allow_nan=False))
    entry = facts["rows"]["images"][BALANCED]
    assert entry["miou"]["interval"][0] < entry["miou"]["value"] < entry["miou"]["interval"][1]
    assert set(entry["iou"]) == {"0", "1", "2", "3"} and entry["strength"] > 0
    apart = facts["differences"][f"images - {PLACE}"][DEPTH]["abs_rel"]
    parts = [facts["rows"][row][DEPTH]["abs_rel"]["value"] for row in ("images", PLACE)]
    assert apart["value"] == pytest.approx(parts[0] - parts[1])
    assert facts["differences"][f"noise - {PLACE}"][RIDGE]["miou"]["interval"][1] < 0
    assert "one seed" in facts["interval"] and "30 scored recordings" in facts["interval"]
    numbers, classes = probed.sections(differences)
    assert [row[0] for row in numbers.rows] == [*probed.rows, *facts["differences"]]
    assert classes.columns == ("", "0", "1", "2", "3") and len(classes.rows) == 6
    shown = dict(zip(numbers.columns, numbers.rows[-1], strict=True))[RIDGE]
    assert shown.startswith("-") and " to -" in shown


def test_a_comparison_trains_its_probe_on_held_out_pairs_alone(tmp_path, capsys):
    from scaleevent.pairs.splits import Split

    labels = [SEMANTICS | {"semantics": np.roll(LAYOUT, k, 0)} for k in range(20)]
    samples = samples_of(tmp_path, labels)
    torch.manual_seed(0)
    student, teacher = (Encoder(ARCHS["tiny"]).eval() for _ in range(2))
    samples.inputs = {"voxel": samples.inputs["voxel"], "image": samples.inputs["voxel"]}
    seen = []
    shard = samples.shard
    samples.shard = lambda index: (seen.append(index), shard(index))[1]
    split = Split(np.arange(8), np.arange(8, 20), seed=4)
    compared = Comparison(samples, split, teacher, student, student, 4)
    found = compared.probe()
    assert min(seen) >= 8
    assert [row[0] for row in found.rows] == [f"probe {n}" for n in (RIDGE, BALANCED, DEPTH)]
    assert all(before == after for _, before, after in found.rows)
    assert set(found.facts["probes"]["differences"]) == {f"{a} - {b}" for a, b in DIFFERENCES}
    rows = found.facts["probes"]["rows"]
    assert list(rows) == [CONSTANT, PLACE, SCENE, RANDOM, BEFORE, AFTER, TEACHER]
    assert rows[RANDOM] != rows[BEFORE] == rows[AFTER]
    state = torch.get_rng_state()
    drawn = [compared.random(seed).vit.patch_embed.proj.weight for seed in (4, 4, 5)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(state, torch.get_rng_state())
    assert any("split seed 4" in note for note in found.notes)
    assert any("fewer than 50" in note for note in found.notes)
    Report("pretrain", "t", ("a",), (("x",),), more=found.tables).show(as_json=False)
    printed = capsys.readouterr().out
    assert "Linear probes" in printed and "scene + place" in printed
    none = Comparison(samples, Split(np.arange(20), np.arange(0)), teacher, student, student, 4)
    assert none.probe().rows == [] and none.probe().tables == ()
    assert none.probe().notes == ["no probe: no labelled pair is held out (--validation)"]
