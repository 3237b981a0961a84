"""The layout `fixed` gives the same bytes for ever: golden numbers and weights rest on it."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from scaleevent.street.scene import StreetScene, StreetSettings, render_scene

SMALL = StreetSettings(height=48, width=64, layout="fixed")
RECORDED = [
    # settings, scenes of seed 7, SHA-256 over them (recorded before there was another layout)
    ({}, 6, "18b2030f45aca1654b6ea3f1802ca73bf680a6a49ea96f55e7be2549fd1ab172"),
    (
        {"height": 96, "width": 128},
        3,
        "7615de1258b7b16e6c672a108c133ca650cedc1e3b44338513c76665bf34812b",
    ),
    ({"darkness": 0.8}, 3, "25439969b5c5cf2eff037dc017ebe20b0df343c31255145d22da9cc0f83e5941"),
    (
        {"after": True, "speed": 2.0},
        3,
        "8352f198fb26165bef9e52c52841374ca9fb676be375e73c16e284d3069a1ff3",
    ),
    (
        {"speed": 8.0, "standing": 0.0, "shutter_us": 40_000},
        3,
        "33a2d2178fc851f1de42d06b9da5cee2a522465f94ae905d192e3c1aef0cb7d3",
    ),
    (
        {"exposure": 1.5, "window_us": 20_000, "noise_hz": 5.0},
        3,
        "c0b31668388fa6ee33b206a1b61a2fd0f50f50ae2212dc43a38e1283bbcdb28d",
    ),
]


def add(digest, scene: StreetScene) -> None:
    for array in (scene.image, scene.semantics, scene.depth, scene.flow):
        digest.update(np.ascontiguousarray(array).tobytes())
    for events in (scene.events, scene.after):
        for column in () if events is None else (events.t, events.x, events.y, events.p):
            digest.update(column.tobytes())


@pytest.mark.parametrize(("change", "scenes", "recorded"), RECORDED)
def test_fixed_scenes_keep_their_bytes(change, scenes, recorded):
    digest = hashlib.sha256()
    for number in range(scenes):
        add(digest, render_scene(7, number, replace(SMALL, **change)))
    assert digest.hexdigest() == recorded
