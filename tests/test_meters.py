"""Meters against plain loops, and on students of whom one knows what they have learnt."""

import numpy as np
import pytest
import torch
from test_distillation import Patches, batch

from scaleevent.objectives import meters as module
from scaleevent.objectives.distillation import Distillation
from scaleevent.objectives.meters import MapCorrelation, Meters, PlaceMean, evaluation_masks

N, L, D = 5, 6, 4


def tokens(seed=0, samples=N):
    """Teacher and student, the mean token of a place, and masks."""
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, samples, L, D, generator=generator)
    place = torch.randn(L, D, generator=generator)
    shown = torch.rand(samples, L, generator=generator) < 0.8
    active = shown & (torch.rand(samples, L, generator=generator) < 0.5)
    return student, teacher, place, shown, active


def measured(student, teacher, place, shown, active, size=N):
    found = Meters(place)
    for parts in zip(*(x.split(size) for x in (student, teacher, shown, active)), strict=True):
        found.add(*parts)
    return found.result()


def cosine(a, b):
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length else 0.0


def by_loops(student, teacher, place, shown, active):
    """The same numbers, a token at a time."""
    k, q, p = (x.double().numpy() for x in (student, teacher, place))
    shown, active = shown.numpy(), active.numpy()
    found = {}
    for n in range(len(k)):
        own = [np.mean([x[n, i] - p[i] for i in range(L) if shown[n, i]], 0) for x in (k, q)]
        for i in range(L):
            a, b = k[n, i] - p[i], q[n, i] - p[i]
            if shown[n, i]:
                found.setdefault("cosine_all", []).append(cosine(k[n, i], q[n, i]))
            if active[n, i]:
                found.setdefault("cosine", []).append(cosine(k[n, i], q[n, i]))
            if shown[n, i]:
                part = "_active" if active[n, i] else "_inactive"
                for name in ("residual", "residual" + part):
                    found.setdefault(name, []).append(cosine(a, b))
                for name in ("scene", "scene" + part):
                    found.setdefault(name, []).append(cosine(a - own[0], b - own[1]))
    means = {name: np.mean(values) for name, values in found.items()}
    ours, theirs = [], []
    for i in range(L):
        for j in range(L):
            both = [n for n in range(len(k)) if shown[n, i] and shown[n, j]]
            for maps, x in ((ours, k), (theirs, q)):
                own = [cosine(x[n, i] - p[i], x[n, j] - p[j]) for n in both]
                maps += [value - np.mean(own) for value in own]
    return means | {"map": np.corrcoef(ours, theirs)[0, 1], "active": active.mean()}


def test_every_meter_is_that_of_a_loop_whatever_the_batches():
    given = tokens()
    expected = by_loops(*given)
    for size in (1, 2, N):
        assert measured(*given, size=size) == pytest.approx(expected, abs=1e-9)


def test_the_teacher_scores_one_and_its_mean_layout_nothing():
    _, teacher, place, shown, active = tokens(1)
    same = measured(teacher, teacher, place, shown, active)
    assert all(value == pytest.approx(1) for name, value in same.items() if name != "active")
    layout = measured(place.expand(N, L, D), teacher, place, shown, active)
    of_place = {name: v for name, v in layout.items() if name.split("_")[0] not in
                ("cosine", "active")}  # fmt: skip
    assert set(of_place.values()) == {0.0} and len(of_place) == 7


def test_the_kind_of_scene_scores_nothing_once_its_mean_is_off():
    _, teacher, place, shown, active = tokens(2)
    teacher = teacher + 2 * torch.randn(N, 1, D, generator=torch.Generator().manual_seed(3))
    residual = (teacher - place) * shown[..., None]
    kind = place + residual.sum(1, keepdim=True) / shown.sum(1)[:, None, None]
    exact = measured(kind, teacher, place, shown, active)
    assert exact["residual"] > 0.5
    assert exact["scene"] == exact["scene_active"] == exact["scene_inactive"] == 0


def test_maps_that_do_not_follow_the_scene_score_nothing():
    """Any fixed layout, and maps that are alike only because neighbours are."""
    _, teacher, place, shown, active = tokens(4, 400)
    smooth = teacher.cumsum(1)
    layout = torch.randn(L, D, generator=torch.Generator().manual_seed(5)).expand_as(teacher)
    assert measured(layout, smooth, place, shown, active)["map"] == 0
    other = tokens(6, 400)[1].cumsum(1)
    zero = torch.zeros_like(place)
    assert abs(measured(other, smooth, zero, shown, active)["map"]) < 0.05
    assert measured(smooth + 0.1 * other, smooth, zero, shown, active)["map"] > 0.9


def test_maps_of_many_tokens_are_sampled(monkeypatch):
    monkeypatch.setattr(module, "MAP_TOKENS", 3)
    k, q = torch.randn(2, N, 5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    shown = torch.ones(N, 5, dtype=torch.bool)
    some, few = MapCorrelation(5), MapCorrelation(3)
    some.add(k, q, shown)
    few.add(k[:, ::2], q[:, ::2], shown[:, ::2])
    assert some.result() == pytest.approx(few.result()) and some.result() != 0


def test_the_mean_token_of_a_place():
    x = torch.randn(7, L, D, generator=torch.Generator().manual_seed(8))
    mean = PlaceMean()
    assert mean.mean() is None
    for part in x.split(3):
        mean.add(part, torch.ones(len(part), L, dtype=torch.bool))
    assert torch.allclose(mean.mean(), x.mean(0), atol=1e-6)


def test_the_mean_token_of_a_place_is_over_images_that_show_it():
    x = torch.randn(7, L, D, generator=torch.Generator().manual_seed(8))
    shown = torch.rand(7, L, generator=torch.Generator().manual_seed(9)) < 0.6
    shown[:, 1] = False
    mean = PlaceMean()
    for part, seen in zip(x.split(3), shown.split(3), strict=True):
        mean.add(torch.where(seen[..., None], part, torch.nan), seen)
    for place, found in enumerate(mean.mean()):
        own = [x[n, place] for n in range(7) if shown[n, place]]
        others = [x[n, i] for n in range(7) for i in range(L) if shown[n, i]]
        assert torch.allclose(found, torch.stack(own or others).mean(0), atol=1e-6), place


def test_a_group_without_tokens_is_left_out():
    student, teacher, place, shown, active = tokens(9)
    found = measured(student, teacher, place, shown, torch.zeros_like(active))
    assert "residual_active" not in found and "cosine" not in found and found["active"] == 0


def test_every_arm_is_measured_on_the_same_tokens():
    arms = [{}, {"mask": "none"}, {"mask": "soft"}, {"tau": 16.0}, {"tau": 512.0}]
    found = [Distillation(Patches(1.0), Patches(1.3), **arm).validate([batch(4)]) for arm in arms]
    for name in ("val_cosine", "val_cosine_all", "val_active", "val_rank"):
        assert len({one[name] for one in found}) == 1, name
    assert len({one.get("val_loss") for one in found}) > 1  # none where no token counts
    shown, active = evaluation_masks(batch()["density"], batch()["valid"])
    assert shown[0].tolist() == [True, True, True, True, False, False]
    assert active[0].tolist() == [False, False, True, False, False, False]
    assert found[0]["val_active"] == pytest.approx(1 / 6)
