"""Teacher tokens that are kept are those that would be computed, to the bit."""

import copy

import pytest
import torch
from test_balance import Samples, distillation

from scaleevent.encoders.encoder import ARCHS, Encoder, as_teacher
from scaleevent.errors import DataError
from scaleevent.objectives import distillation as module
from scaleevent.objectives.teacher_tokens import TeacherTokens


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return as_teacher(Encoder(ARCHS["tiny"]))


def drawn(*numbers):
    data = Samples().data
    return {name: value[list(numbers)] for name, value in data.items()}


def test_what_is_kept_is_not_computed_again(teacher):
    kept = TeacherTokens(teacher, keeps=True)
    for numbers in ((0, 1, 2), (3, 4, 5), (2, 3, 1), (5, 0, 4)):
        with torch.no_grad():
            assert torch.equal(kept(drawn(*numbers)), teacher.tokens(drawn(*numbers)["image"]))
    assert kept.computed == 2
    kept(drawn(0, 5))
    assert kept.computed == 2


def test_a_batch_with_a_new_sample_is_computed_as_a_whole(teacher, monkeypatch):
    kept, sizes = TeacherTokens(teacher, keeps=True), []
    compute = teacher.tokens
    monkeypatch.setattr(teacher, "tokens", lambda x: sizes.append(len(x)) or compute(x))
    kept(drawn(0, 1))
    kept(drawn(1, 2, 3))
    kept(drawn(3, 0, 2))
    assert sizes == [2, 3]


def test_each_precision_has_its_own_tokens(teacher):
    kept = TeacherTokens(teacher, keeps=True)
    full = kept(drawn(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        low = kept(drawn(0, 1))
        assert torch.equal(low, kept(drawn(0, 1)))
    assert kept.computed == 2 and not torch.equal(full, low)
    assert torch.equal(full, kept(drawn(0, 1)))


def test_a_copy_for_steps_that_are_tried_knows_and_keeps_nothing_more(teacher):
    kept = TeacherTokens(teacher, keeps=True)
    kept(drawn(0, 1))
    tried = copy.deepcopy(kept)
    tried(drawn(0, 1))
    assert tried.computed == 0 and tried.teacher is teacher
    tried(drawn(2, 3))
    tried(drawn(2, 3))
    assert tried.computed == 2
    kept(drawn(2, 3))
    assert kept.computed == 2


def test_without_an_index_or_where_not_asked_nothing_is_kept(teacher):
    for keeps, named in ((True, False), (False, True)):
        kept = TeacherTokens(teacher, keeps)
        data = drawn(0, 1) if named else {"image": drawn(0, 1)["image"]}
        kept(data)
        kept(data)
        assert kept.computed == 2


@pytest.mark.parametrize(("draws", "looked_at"), [(10, 64), (80, 80), (5000, 100)])
def test_a_short_run_is_not_calibrated_for_longer_than_it_trains(draws, looked_at):
    objective = distillation(scale=1.0, draws=draws)
    objective.calibrate(Samples(100))
    assert objective.targets.computed == looked_at // 2  # batches of two


def test_tokens_are_kept_where_all_fit(monkeypatch):
    size = 4 * 6 * (2 * 3) * 96
    for limit, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr(module, "CACHE_BYTES", limit)
        objective = distillation(cache=True)
        objective.calibrate(Samples())
        assert objective.targets.keeps == fits
        seen = objective.targets.computed
        objective.step(objective.model, drawn(0, 3))
        assert objective.targets.computed == seen + (not fits)
    objective = distillation(cache=False)
    objective.calibrate(Samples())
    assert not objective.targets.keeps and "index" not in objective.sample_inputs()


@pytest.mark.parametrize(("mask", "tau"), [("hard", 1e9), ("hard", 64.0), ("none", 1e9)])
def test_training_on_nothing_is_refused(mask, tau):
    """Of a hard mask whose threshold no token reaches; a lower one, or no mask, is trained on."""
    objective = distillation(scale=1.0, mask=mask, tau=tau)
    samples = Samples()
    if (mask, tau) == ("hard", 1e9):
        with pytest.raises(DataError, match="no token of the training pairs counts"):
            objective.calibrate(samples)
    else:
        objective.calibrate(samples)
