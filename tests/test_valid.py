"""The validity mask reaches the loss: what an image does not show changes nothing."""

from math import floor

import numpy as np
import pytest
import torch
from conftest import random_events
from PIL import Image
from test_end_to_end import call

from scaleevent.checkpoint import load_encoder
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.grids.inputs import InputSettings
from scaleevent.grids.windows import Window
from scaleevent.objectives.comparison import Comparison
from scaleevent.objectives.distillation import Distillation
from scaleevent.objectives.maps import Shown
from scaleevent.pairs.drawing import draw_pairs
from scaleevent.pairs.loading import Pool, in_order
from scaleevent.pairs.pair import Label, Pair, encode_image
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.shard import FORMAT, ShardWriter
from scaleevent.pairs.splits import Split
from scaleevent.pairs.store import MANIFEST, PairStore, finish_shard
from scaleevent.pictures import HATCH, TOKEN
from scaleevent.system.files import write_json

SIZE = (50, 72)
PAIRS = 4
FITS = {
    "as it is": InputSettings(48, 72, 8),  # cut by a row at both ends
    "smaller": InputSettings(24, 32, 8, normaliser="contrast"),
    "larger": InputSettings(64, 96, 8),
    "padded": InputSettings(64, 64, 8, pad=True),
}


def some_masks() -> list[np.ndarray]:
    """A slanted border as a warp leaves it, another one, holes, and everything."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    holes = np.random.default_rng(3).random((5, 8)).repeat(10, 0).repeat(9, 1) > 0.4
    return [y + 0.1 * x < 41, x - 0.2 * y > 6, holes, np.ones(SIZE, bool)]


def write_store(folder, masks, garbage=None):
    """Pairs whose hidden pixels hold what a generator makes, or black."""
    folder.mkdir()
    path = folder / "a.h5"
    noise = None if garbage is None else np.random.default_rng(garbage)
    with ShardWriter(path) as writer:
        for number, mask in enumerate(masks):
            rng = np.random.default_rng(number)
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            if mask is not None:
                image[~mask] = 0 if noise is None else noise.integers(0, 256, (*SIZE, 3))[~mask]
            start = 1000 * number
            writer.add(
                Pair(
                    f"r{number}", start + 1000, encode_image(image, lossless=True),
                    random_events(3000, *SIZE, 1000, number, start), Window(start, start + 1000),
                    valid=mask, labels={"depth": Label(np.ones(SIZE, np.float32), start, start)},
                )
            )  # fmt: skip
    entry = finish_shard(path, len(masks), {}, "job")
    manifest = {"format": FORMAT, "kind": "pairs", "settings": {}, "shards": [entry]}
    write_json(folder / MANIFEST, manifest)
    return PairStore(folder)


def learnt(store, settings, mask="hard"):
    """Everything that a run computes of a store: inputs, calibration, loss, gradients, meters."""
    torch.manual_seed(0)
    teacher, student = Encoder(ARCHS["tiny"]).eval(), Encoder(ARCHS["tiny"])
    objective = Distillation(teacher, student, mask=mask, tau=16.0, scale=None)
    samples = PairSamples([store], settings, objective.sample_inputs())
    everything = np.arange(len(samples))
    objective.calibrate(Pool(samples, everything, 2))
    (batch,) = in_order(samples, everything, len(samples))
    terms, metrics = objective.step(objective.model, batch)
    sum(objective.weights[name] * term for name, term in terms.items()).backward()
    found = {name: value.numpy() for name, value in batch.items()}
    found |= {name: term.detach().numpy() for name, term in terms.items()}
    found |= {name: np.array(metric()) for name, metric in metrics.items()}
    found |= {n: p.grad.numpy() for n, p in student.named_parameters() if p.grad is not None}
    validated = objective.validate(in_order(samples, everything, 2))
    found |= {name: np.array(value) for name, value in validated.items()}
    return found | {"scale": np.array(objective.scale), "place": objective.place.numpy()}


def differing(one, other):
    assert one.keys() == other.keys()
    return {name for name in one if one[name].tobytes() != other[name].tobytes()}


@pytest.mark.parametrize(
    ("name", "mask"),
    [("as it is", "hard"), ("smaller", "none"), ("larger", "soft"), ("padded", "hard")],
)
def test_garbage_where_an_image_shows_nothing_changes_not_a_bit(tmp_path, name, mask):
    masks = some_masks()
    black, garbled = (
        learnt(write_store(tmp_path / f"s{number}", masks, garbage), FITS[name], mask)
        for number, garbage in enumerate([None, 1])
    )
    assert differing(black, garbled) == set()
    assert black["l1"] > 0 and 0.3 < black["valid"].mean() < 1
    assert sum(np.abs(value).sum() > 0 for key, value in black.items() if "blocks" in key) > 10


def test_with_everything_valid_nothing_changes(tmp_path):
    whole = learnt(write_store(tmp_path / "whole", [np.ones(SIZE, bool)] * PAIRS), FITS["larger"])
    without = learnt(write_store(tmp_path / "without", [None] * PAIRS), FITS["larger"])
    assert differing(whole, without) == set()
    garbled = write_store(tmp_path / "masked", some_masks(), 1)  # and the comparison can fail
    assert {"l1", "intra", "scale", "place"} < differing(learnt(garbled, FITS["larger"]), without)


@pytest.mark.parametrize("name", FITS)
def test_share_of_a_token_and_which_count_by_brute_force(tmp_path, name):
    settings, masks = FITS[name], some_masks()
    samples = PairSamples([write_store(tmp_path / "s", masks)], settings)
    objective = Distillation(Encoder(ARCHS["tiny"]), Encoder(ARCHS["tiny"]), mask="none")
    (batch,) = in_order(samples, np.arange(PAIRS), PAIRS)
    weights = objective.token_weights(batch).reshape(batch["valid"].shape)
    fit, fine = settings.fit(*SIZE), 8
    points = np.stack(np.meshgrid(
        (np.arange(settings.width * fine) + 0.5) / fine - 0.5,
        (np.arange(settings.height * fine) + 0.5) / fine - 0.5,
    ), -1)  # fmt: skip
    x, y = np.rint(fit.to_sensor(points)).astype(int).transpose(2, 0, 1)
    inside = (x >= 0) & (x < SIZE[1]) & (y >= 0) & (y < SIZE[0])
    cell = settings.patch * fine
    for number, mask in enumerate(masks):
        seen = inside & mask[y.clip(0, SIZE[0] - 1), x.clip(0, SIZE[1] - 1)]
        share = seen.reshape(len(seen) // cell, cell, -1, cell).mean((1, 3))
        found = batch["valid"][number].numpy()
        # pixels belong to tokens whole: at most the pixels of its border are another's
        border = 2 * max(fit.scale) / settings.patch
        np.testing.assert_allclose(found, share, atol=max(border, 0.02))
        assert np.array_equal(weights[number].numpy(), found >= 0.5)
        clear = abs(share - 0.5) > max(border, 0.02)
        assert np.array_equal((found >= 0.5)[clear], (share >= 0.5)[clear])


def test_masks_of_recordings_are_worked_out_once(tmp_path, monkeypatch):
    import scaleevent.pairs.sample_inputs as module

    module._mask.cache_clear()
    store = write_store(tmp_path / "s", some_masks()[:1] * PAIRS)
    samples = PairSamples([store], FITS["larger"])
    shares = [samples[k]["valid"] for k in range(PAIRS)]
    assert module._mask.cache_info().misses == 1 and module._mask.cache_info().hits >= PAIRS - 1
    assert all(torch.equal(shares[0], one) for one in shares)
    shares[0].zero_()  # what a sample does with its own does not reach the next
    assert torch.equal(samples[1]["valid"], shares[1]) and floor(float(shares[1].sum())) > 0


def test_a_run_on_padded_input_with_masks(tmp_path):
    store = write_store(tmp_path / "s", some_masks() * 2)
    options = "--arch tiny --teacher embedded --size 64x64 --epochs 1 --draws 8 --batch 4"
    call(
        f"pretrain {store.folder} {options} --pad --no-probe --validation 0.25 --device cpu "
        f"--workers 0 -o {tmp_path / 'run'}"
    )
    encoder = load_encoder(tmp_path / "run/encoder.safetensors")
    assert encoder.input.pad and encoder.input.fit(*SIZE).pads
    assert (tmp_path / "run/panel.png").exists()


def lines(picture) -> np.ndarray:
    """(H, W) bool, where a picture has the lines of what does not count."""
    return (np.asarray(picture) == HATCH).all(-1)


def test_a_sheet_of_pairs_hatches_what_images_do_not_show(tmp_path):
    masked, _ = draw_pairs(write_store(tmp_path / "masked", some_masks()))
    plain, _ = draw_pairs(write_store(tmp_path / "plain", [None] * PAIRS))
    assert not lines(plain).any() and masked.height > plain.height  # by the legend
    columns = lines(masked)[: plain.height].sum(0)
    first, second, third = (part.sum() for part in np.array_split(columns, 3))
    assert first > 1000 and third > 1000  # the image, and events over it
    assert second == 0  # all events go into the network


@pytest.mark.parametrize("name", ["as it is", "padded"])
def test_a_pair_as_it_is_drawn_hatches_pixels_and_tokens_that_do_not_count(tmp_path, name):
    samples = PairSamples([write_store(tmp_path / "s", some_masks())], FITS[name])
    fit = FITS[name].fit(*SIZE)
    for number, mask in enumerate(some_masks()):
        one, sample = Shown.of(samples, number), samples[number]
        hidden = ~fit.crop_label(mask)
        assert np.array_equal(one.valid, ~hidden)
        assert not (lines(one.image) & ~hidden).any()
        assert lines(one.image).any() == hidden.any() and not lines(one.events).any()
        counted = sample["valid"].numpy() >= 0.5
        assert np.array_equal(one.counted, counted)
        drawn = one.tokens(np.full((*counted.shape, 3), 7, np.uint8))
        if counted.all():
            assert (drawn == 7).all()
            continue
        changed = (drawn != 7).any(-1).reshape(len(counted), TOKEN, -1, TOKEN).all((1, 3))
        assert np.array_equal(changed, ~counted)


def test_all_sheets_of_a_run_hatch_and_say_so(tmp_path):
    for folder, masks in (("masked", some_masks()), ("plain", [None] * PAIRS)):
        samples = PairSamples([write_store(tmp_path / folder, masks)], FITS["larger"])
        everything = np.arange(PAIRS)
        split = Split(everything, everything[:0])
        teacher, before, after = (Encoder(ARCHS["tiny"]).eval() for _ in range(3))
        paths = Comparison(samples, split, teacher, before, after, 2).pictures(tmp_path / folder)
        assert [path.name for path in paths] == ["panel.png", "maps.png", "scales.png"]
        for path in paths:
            with Image.open(path) as sheet:
                width, drawn = sheet.width, lines(sheet.convert("RGB"))
            columns = sum(part.any() for part in np.array_split(drawn, width // 200, axis=1))
            assert columns == 0 if folder == "plain" else columns >= len(drawn[0]) // 200 - 1
