"""Tags: how they are written, what a choice of them takes, and what every data set says."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from fakes import write_clip, write_custom
from pydantic import BaseModel, ValidationError
from test_end_to_end import call

from scaleevent.config.catalog import DATASETS
from scaleevent.config.data import PrepareConfig
from scaleevent.config.tags import (
    KINDS,
    WORDS,
    GivenTags,
    Tags,
    WantedTags,
    admits,
    read_tag,
    separate,
)
from scaleevent.datasets.descriptions import DESCRIPTIONS, tags_for
from scaleevent.pairs.mixing import tags_of
from scaleevent.pairs.store import PairStore
from scaleevent.street.scene import StreetSettings, render_scene


class Both(BaseModel):
    """The two kinds of lists that a user writes."""

    given: GivenTags = []
    wanted: WantedTags = []


def recording_tags(name: str, recording: str) -> Tags:
    """As a store of this data set would have them."""
    manifest = {"tags": tags_for(PrepareConfig(name=name))}
    store = PairStore.__new__(PairStore)
    store.manifest, store.shards = manifest, [{"tags": {}}]
    store.recordings, store._ends = np.array([recording]), np.array([1])
    return tags_of(store)[recording]


def test_lists_are_read_with_commas_and_repeated():
    read = Both(given=["real, outdoor", "sensor=Prophesee  Gen3.1"], wanted="real,size=260x346")
    assert read.given == ["real", "outdoor", "sensor=Prophesee Gen3.1"]
    assert read.wanted == ["real", "size=260x346"]
    assert separate(" a ,,b") == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"given": ["indor"]}, "did you mean indoor"),
        ({"given": ["indoor", "outdoor"]}, "indoor and outdoor exclude each other"),
        ({"given": ["size=260x346"]}, "expected one of"),
        ({"given": ["sensor="]}, "expected one of"),
        ({"wanted": ["reel"]}, "unknown tag reel"),
        ({"wanted": ["unknown"]}, "unknown tag unknown"),
        ({"wanted": ["size=260"]}, "rows x columns"),
        ({"wanted": [3]}, "expected tags"),
    ],
)
def test_what_is_no_tag_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        Both(**given)


def test_words_of_later_versions_say_nothing():
    tags = Tags().told("real, night, outdoor, weather=rain, size=2x2")
    assert tags == Tags("real", place="outdoor") and str(tags) == "real, outdoor"
    assert tags.told("indoor, sensor=X") == Tags("real", place="indoor", sensor="X")
    assert str(Tags()) == "unknown"


def test_a_choice_takes_what_its_definition_says():
    """All choices of up to three words, on all tags: any within a kind, all of the kinds."""
    values = {"origin": ("real", "simulated"), "motion": ("moving", "static"),
              "place": ("indoor", "outdoor")}  # fmt: skip
    every = [Tags(*one) for one in itertools.product(*((*v, "unknown") for v in values.values()))]
    number = 0
    for count in range(4):
        for wanted in itertools.combinations(WORDS, count):
            for tags in every:
                expected = True
                for kind, words in values.items():
                    asked = [word for word in wanted if word in words]
                    if asked and getattr(tags, kind) not in asked:
                        expected = False
                assert admits(wanted, tags, (2, 2)) == expected
                number += 1
    assert number == 27 * (1 + 6 + 15 + 20)
    named = Tags(sensor="DAVIS346")
    assert admits(["sensor=davis346"], named, (260, 346))
    assert not admits(["sensor=DVX"], named, (260, 346))
    assert admits(["size=260x346"], named, (260, 346))
    assert not admits(["size=346x260"], named, (260, 346))
    assert admits(["size=346x260", "size=260x346"], named, (260, 346))


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_says_what_is_known_of_its_pairs(name):
    """`Description.tags`: a text for "*" (empty: nothing is known), then for what differs."""
    assert name in DESCRIPTIONS and "*" in DESCRIPTIONS[name].tags
    assert next(iter(DESCRIPTIONS[name].tags)) == "*"  # the others prevail over it
    for text in DESCRIPTIONS[name].tags.values():
        assert all(read_tag(one) and not one.startswith("size=") for one in separate(text)), text
    if name not in ("custom", "scaleevent-release"):  # theirs are not one thing
        assert recording_tags(name, "any").origin != "unknown"


@pytest.mark.parametrize(
    ("name", "recording", "known"),
    [
        ("mvsec", "indoor_flying1", Tags("real", "moving", "indoor", "DAVIS346")),
        ("mvsec-flow", "outdoor_day1", Tags("real", "moving", "outdoor", "DAVIS346")),
        ("mvsec", "motorcycle1", Tags("real", "moving", "outdoor", "DAVIS346")),
        ("m3ed", "car_urban_day_city_hall",
         Tags("real", "moving", "outdoor", "Prophesee IMX636")),
        ("m3ed", "falcon_indoor_flight_1", Tags("real", "moving", "indoor", "Prophesee IMX636")),
        ("m3ed", "falcon_forest_road_1", Tags("real", "moving", "outdoor", "Prophesee IMX636")),
        ("m3ed", "spot_indoor_stairs", Tags("real", "moving", "indoor", "Prophesee IMX636")),
        ("m3ed", "spot_outdoor_day_art", Tags("real", "moving", "outdoor", "Prophesee IMX636")),
        ("dsec", "zurich_city_00_a", Tags("real", "moving", "outdoor", "Prophesee Gen3.1")),
        ("scaleevent-release", "segment-1_with_camera_labels_1",
         Tags("simulated", "moving", "outdoor")),
        ("scaleevent-release", "aachen_000000_left", Tags()),
        ("visevent", "dvSave-2021", Tags("real", sensor="DAVIS346")),
        ("custom", "mine", Tags()),
    ],
)  # fmt: skip
def test_recordings_of_one_data_set_may_differ(name, recording, known):
    assert recording_tags(name, recording) == known


def test_what_the_user_tells_prevails():
    told = tags_for(PrepareConfig(name="mvsec", tag=["indoor", "sensor=mine"]))
    assert Tags().told(told["*"]).told(told["outdoor_*"]) == Tags(
        "real", "moving", "indoor", "mine"
    )
    video = PrepareConfig(name="video", sensor="davis346", tag=["outdoor"])
    assert Tags().told(tags_for(video)["*"]) == Tags(
        "simulated", place="outdoor", sensor="model davis346"
    )


def test_list_tells_the_tags(capsys):
    call("prepare --list mvsec --json")
    rows = {row["of"]: row["told"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert "indoor_*: indoor" in rows["tags"] and "DAVIS346" in rows["tags"]
    call("prepare --list custom")
    assert "*: unknown" in capsys.readouterr().out


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def test_tags_of_ones_own_recordings_can_be_told_later(tmp_path, capsys):
    rig, pairs = write_custom(tmp_path / "rig"), tmp_path / "pairs"
    call(f"prepare custom {rig} -o {pairs}")
    before = content(pairs)
    assert set(tags_of(PairStore(pairs)).values()) == {Tags()}
    call(f"prepare custom {rig} -o {pairs} --resume --tag real,indoor --tag sensor=DVXplorer")
    known = Tags("real", place="indoor", sensor="DVXplorer")
    assert set(tags_of(PairStore(pairs)).values()) == {known}
    assert content(pairs) == before  # tags are in the manifest, not among the pairs
    capsys.readouterr()
    call(f"prepare custom {rig} -o {pairs} --resume --tag indor", 2)
    assert "did you mean indoor" in capsys.readouterr().err


def test_a_simulated_clip_says_so(tmp_path):
    call(f"prepare video {write_clip(tmp_path / 'clip')} --fps 25 -o {tmp_path / 'p'} --tag static")
    (tags,) = set(tags_of(PairStore(tmp_path / "p")).values())
    assert tags == Tags("simulated", "static", sensor="model vid2e")


def test_a_mast_in_the_street_is_a_static_camera(tmp_path):
    call(f"prepare street --scenes 14 --size 32x48 -o {tmp_path / 'p'}")
    tags = tags_of(PairStore(tmp_path / "p"))
    mounts = [render_scene(0, index, StreetSettings(32, 48)).mount for index in range(14)]
    assert "mast" in mounts and set(mounts) != {"mast"}
    for index, mount in enumerate(mounts):
        motion = "static" if mount == "mast" else "moving"
        assert tags[f"street-0-{index:06d}"] == Tags("simulated", motion, "outdoor")


def test_kinds_are_those_of_words():
    assert {*WORDS.values(), "sensor"} == set(KINDS)
