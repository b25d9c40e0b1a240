"""Centers of gravity: of planted layers, by hand, and with the interval of other groups."""

import numpy as np
import pytest
import torch
import xarray as xr

from caseback.decode.probes import layer_profile, linear_probe
from caseback.errors import CasebackError


@pytest.mark.parametrize("layer", [1, 3, 5])
def test_a_feature_that_one_layer_writes_has_its_center_there(layer):
    draw = torch.Generator().manual_seed(layer)
    y = torch.rand(2400, generator=draw) > 0.5
    x = torch.randn(6, 2400, 6, generator=draw)
    x[layer:, :, 2] += 8 * y
    profile = layer_profile(linear_probe(x, y.tolist(), groups=[i // 4 for i in range(2400)]).table)
    assert profile.low <= layer + 0.3 and profile.high >= layer - 0.3 and abs(profile.center - layer) < 0.3
    assert profile.gain > 0.4 and profile.with_gain == 1
    assert profile.delta.values.argmax() == layer - 1


def test_the_center_is_the_weighted_mean_of_layers():
    right = np.zeros((4, 10), dtype=bool)
    for layer, count in enumerate((2, 4, 5, 9)):
        right[layer, :count] = True
    table = xr.Dataset({"right": (("site", "example"), right)}, {"site": ["embed", "a", "b", "c"]})
    profile = layer_profile(table)
    assert float(profile.center) == pytest.approx((1 * 2 + 2 * 1 + 3 * 4) / 7)
    assert profile.site.values.tolist() == ["a", "b", "c"]


def test_a_layer_that_tells_less_than_the_one_before_adds_nothing():
    right = np.zeros((4, 10), dtype=bool)
    for layer, count in enumerate((2, 8, 5, 9)):
        right[layer, :count] = True
    table = xr.Dataset({"right": (("site", "example"), right)}, {"site": [0, 1, 2, 3]})
    profile, plain = layer_profile(table), layer_profile(table, cumulative=False)
    np.testing.assert_allclose(profile.delta, [0.6, 0, 0.1])
    assert float(profile.center) == pytest.approx((1 * 6 + 3 * 1) / 7)
    np.testing.assert_allclose(plain.delta, [0.6, -0.3, 0.4])
    assert float(plain.center) == pytest.approx((1 * 6 - 2 * 3 + 3 * 4) / 7) and plain.gain == pytest.approx(0.7)


def test_without_a_gain_there_is_no_center():
    right = np.ones((3, 10), dtype=bool)
    profile = layer_profile(xr.Dataset({"right": (("site", "example"), right)}, {"site": [0, 1, 2]}))
    assert np.isnan(profile.center) and profile.with_gain == 0 and np.isnan(profile.low)


@pytest.mark.parametrize("table", [xr.Dataset(), xr.Dataset({"right": (("site", "example"), np.ones((1, 3)))})])
def test_what_is_no_table_of_layers_is_refused_in_words(table):
    with pytest.raises(CasebackError, match="the table has"):
        layer_profile(table)
