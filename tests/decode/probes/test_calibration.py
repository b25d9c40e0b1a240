"""Calibration errors and temperatures of linear probes."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from caseback.decode.probes import linear_probe
from caseback.decode.probes.calibration import BINS, calibration_error, inverse_temperature


def test_the_error_is_the_sum_over_bins():
    random = np.random.default_rng(0)
    confidence, right = random.uniform(0.3, 1, 500), random.random(500) < 0.6
    expected = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (confidence > low) & (confidence <= low + 1 / BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    ours = calibration_error(torch.tensor(confidence)[None], torch.tensor(right)[None])
    assert float(ours[0]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_temperature_is_the_best_one(n_classes):
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, 400, n_classes, generator=draw, dtype=torch.float64)
    y = (z[0] + torch.randn(400, n_classes, generator=draw)).argmax(-1)
    scale = torch.tensor([0.1, 7.0], dtype=torch.float64)
    ours = inverse_temperature(z * scale[:, None, None], y)

    def loss(log_b, site):
        return float(torch.nn.functional.cross_entropy(np.exp(log_b) * scale[site] * z[site], y))

    theirs = np.exp(minimize_scalar(loss, bounds=(-8, 8), args=(0,), method="bounded", options={"xatol": 1e-9}).x)
    assert float(ours[0]) == pytest.approx(theirs, rel=1e-4)


def test_a_temperature_mends_a_probe_that_is_too_sure():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(1, 600, 120, generator=draw, dtype=torch.float64)
    y = (x[0, :, 0] + torch.randn(600, generator=draw) > 0).tolist()
    sure = linear_probe(x, y, penalty=1e-6).table
    mended = linear_probe(x, y, penalty=1e-6, temperature=True).table
    assert mended.temperature[0] > 2 and mended.accuracy[0] == sure.accuracy[0]
    assert mended.bits[0] < sure.bits[0] and mended.calibration_error[0] < 0.7 * sure.calibration_error[0]


@pytest.mark.parametrize("method", ["ridge", "mass_mean"])
def test_a_temperature_makes_log_odds_of_any_scores(method):
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(1, 800, 10, generator=draw, dtype=torch.float64)
    y = (2 * x[0, :, 0] + torch.randn(800, generator=draw) > 0).tolist()
    assert linear_probe(x, y, method=method).table.calibration_error.isnull().all()
    table = linear_probe(x, y, method=method, temperature=True).table
    assert table.bits[0] < 0.7 and table.calibration_error[0] < 0.12
    assert linear_probe(x, y).table.calibration_error[0] < 0.12
