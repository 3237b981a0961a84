"""Propagated ground-truth flow against recorded numbers of EV-FlowNet's code, and planted walks."""

import numpy as np
import pytest
from conftest import DATA

from scaleevent.datasets.flow_propagation import propagate_flow
from scaleevent.errors import DataError

WITH = np.load(DATA / "flow.npz")
MAPS = np.stack([WITH["prop_u"], WITH["prop_v"]], 1)


@pytest.mark.parametrize("i", range(4))
def test_equals_the_reference(i):
    ours = propagate_flow(MAPS, WITH["prop_gt_t"], *WITH["prop_windows"][i])
    np.testing.assert_allclose(ours, WITH[f"prop_out_{i}"], atol=1e-4, rtol=0)


def constant(*flows, size=(6, 9)):
    return np.stack([np.broadcast_to(np.reshape(f, (2, 1, 1)), (2, *size)) for f in flows]) * 1.0


def test_constant_flow_adds_up_inside_the_image():
    maps = constant((1, 0.5), (2, -1), (4, 2), (0, 0))
    flow = propagate_flow(maps, [0, 1, 2, 3], 0.5, 2.25)
    # half of the first, all of the second, a quarter of the third
    np.testing.assert_allclose(flow[:, 3, 3], [0.5 + 2 + 1, 0.25 - 1 + 0.5])
    assert not flow[:, 3, 8].any()  # leaves at the right


def test_the_flow_is_read_where_the_pixel_has_gone():
    maps = constant((2, 0), (9, 9), (0, 0))
    maps[0, 1], maps[1] = 0.125, 0
    maps[1, :, 2, 5] = 1, 1
    flow = propagate_flow(maps, [0, 1, 2], 0, 2)
    np.testing.assert_allclose(flow[:, 2, 3], [3, 1.125])
    flow[:, 2, 3] = 0
    assert not flow.any()  # all others meet flow 0 in the second map


def test_only_the_component_that_meets_zero_is_lost():
    maps = constant((1, 1), (0, 1), (0, 0))
    flow = propagate_flow(maps, [0, 1, 2], 0, 2)
    np.testing.assert_allclose(flow[:, 2, 2], [0, 2])


def test_a_short_window_takes_one_map_even_across_two():
    maps = constant((1, 1), (100, 100), (0, 0))
    flow = propagate_flow(maps, [0, 10, 20], 6, 14)
    np.testing.assert_allclose(flow, constant((0.8, 0.8))[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("window", [(0, 0.5), (0, 2), (0, 3)])
def test_flow_that_is_not_finite_leaves_the_pixel_unknown(bad, window):
    maps = constant((0.25, 0.25), (0.25, 0.25), (0.25, 0.25), (0, 0))
    maps[0, 0, 3, 4] = bad
    flow = propagate_flow(maps, [0, 1, 2, 3], *window)
    assert np.isnan(flow[:, 3, 4]).all()
    assert np.isfinite(flow).sum() == flow.size - 2


@pytest.mark.parametrize("window", [(-1, 1), (1, 4), (1, 1), (2, 1)])
def test_windows_that_are_not_covered_are_refused(window):
    maps = constant((1, 1), (1, 1), (1, 1), (1, 1))
    with pytest.raises(DataError, match="no ground-truth flow"):
        propagate_flow(maps, [0, 1, 2, 3], *window)


@pytest.mark.parametrize("times", [[0, 1, 1], [0, 1], [0, 2, 1]])
def test_times_must_ascend(times):
    with pytest.raises(DataError, match="ascending times"):
        propagate_flow(constant((1, 1), (1, 1), (1, 1)), times, 0, 1)


def test_no_maps_at_all():
    with pytest.raises(DataError, match="no ground-truth flow"):
        propagate_flow([], [], 0, 1)
