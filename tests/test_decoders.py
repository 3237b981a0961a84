"""The contract of decoders: every one of the catalogue is built for its tasks, with its options."""

import json

import pytest
import torch

from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.config.catalog import DECODERS, DEFAULT_DECODERS
from scaleevent.decoders import build_decoder, decoder_name
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.errors import ConfigError

TASKS = {BENCHMARKS[name].task.name: BENCHMARKS[name].task for name in BENCHMARKS}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(ARCHS["tiny"]).eval()


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_serves_the_tasks_of_its_catalogue_line(encoder, name):
    assert set(DECODERS[name].tasks) <= set(DEFAULT_DECODERS) == set(TASKS)
    for task in TASKS.values():
        if task.name not in DECODERS[name].tasks:
            with pytest.raises(ConfigError, match="for another task"):
                build_decoder(name, encoder, task)
            continue
        decoder = build_decoder(name, encoder, task)
        assert decoder.task == task.name and decoder_name(decoder) == name
        assert task.decoder_settings.get("classes") == decoder.settings.get("classes")
        again = type(decoder)(encoder, **json.loads(json.dumps(decoder.settings)))
        assert again.settings == decoder.settings
        if task.name != "segmentation":
            with pytest.raises(ConfigError, match=type(decoder).__name__):
                decoder.scores(torch.zeros(1, 2, 4, 6), (32, 48))
        if not decoder.head_only:
            with pytest.raises(ConfigError, match=type(decoder).__name__):
                decoder.head(torch.zeros(1, 24, 96), (4, 6))


def test_options_belong_to_the_decoder(encoder):
    flow, segmentation = TASKS["flow"], TASKS["segmentation"]
    assert build_decoder(None, encoder, flow).settings["size"] == "tiny"  # by width
    assert build_decoder(None, encoder, flow, {"size": "S"}).settings["size"] == "S"
    assert build_decoder("eomt", encoder, segmentation).settings["mode"] == "scaleevent"
    with pytest.raises(ConfigError, match="tiny, S or M"):
        build_decoder("sea_raft", encoder, flow, {"size": "XL"})
    with pytest.raises(ConfigError, match="linear has no such option") as error:
        build_decoder("linear", encoder, flow, {"mode": "upstream"})
    assert error.value.found == "mode=upstream" and error.value.expected == "no options"


def test_one_window_over_everything_is_the_prediction(encoder):
    decoder = build_decoder("linear", encoder, TASKS["segmentation"]).eval()
    voxel = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = decoder.predict(decoder(voxel), (32, 32))
        assert torch.equal(decoder.predict_windows(voxel, (32, 32), 32), whole)
