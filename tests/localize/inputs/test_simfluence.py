"""PRIMER 3.1.27: a simulator fitted to curves that follow its law foretells other runs exactly."""

import numpy as np
import pytest

from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs import simfluence, simulated


def gradient_descent(batches, x, y, query, target, rate):
    """Squared loss of one-dimensional least squares after each step: for a query at its optimum's distance."""
    w, made = 0.0, []
    for batch in [[], *batches]:
        for i in batch:
            w += rate * x[i] * (y[i] - w * x[i])
        made.append(0.5 * (query * w - target) ** 2)
    return np.array(made)[:, None]


def test_3_1_27_curves_of_linear_regression_that_share_an_optimum_are_reproduced():
    """With y_i = w x_i each step on i shrinks the error by 1 - eta x_i^2: alpha is its square and beta 0."""
    draw, rate, w = np.random.default_rng(0), 0.1, 1.7
    x = draw.uniform(0.3, 1.5, 6)
    runs = [[[int(i)] for i in draw.integers(6, size=25)] for _ in range(3)]
    curves = [gradient_descent(run, x, w * x, 2.0, 2.0 * w, rate) for run in runs]
    fitted = simfluence(runs[:2], curves[:2], 6, ridge=1e-12, kind="multiplicative")
    assert np.allclose(fitted.multiplicative.values[0], (1 - rate * x**2) ** 2 - 1, atol=1e-6)
    assert np.allclose(simulated(fitted, runs[2], curves[2][0]), curves[2], rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_3_1_27_factors_of_both_kinds_are_found(size):
    draw = np.random.default_rng(1)
    a, b = draw.normal(scale=0.1, size=(2, 8)), draw.normal(scale=0.2, size=(2, 8))
    batches = [[int(i) for i in draw.permutation(8)[:size]] for _ in range(200)]
    curve = [np.array([3.0, 1.0])]
    for batch in batches:
        curve.append(curve[-1] * (1 + a[:, batch].sum(1)) + b[:, batch].sum(1))
    fitted = simfluence(batches, np.array(curve), 8, ridge=1e-10)
    assert np.allclose(fitted.multiplicative, a, atol=1e-4) and np.allclose(fitted.additive, b, atol=1e-4)
    assert np.allclose(simulated(fitted, batches, curve[0]), curve, atol=1e-2)
    assert fitted.multiplicative.attrs["batch_size"] == size


def test_additive_factors_are_mean_changes():
    losses = np.array([[4.0], [3.0], [2.5], [1.5]])
    fitted = simfluence([[0], [1], [0]], losses, 2, kind="additive")
    assert np.allclose(fitted.additive.values, [[-1.0, -0.5]], atol=1e-5) and (fitted.multiplicative == 0).all()


def test_bad_logs_are_refused():
    losses = np.ones((3, 1))
    for error, match, given in (
        (CasebackError, "expected \\(step \\+ 1, query\\)", ([[0]], losses, 2)),
        (CasebackError, "expected one size", ([[0], [0, 1]], losses, 2)),
        (CasebackError, "expected as many", ([[[0], [1]]], [losses, losses], 2)),
        (OutOfRange, "example 5 is out of range", ([[0], [5]], losses, 2)),
    ):
        with pytest.raises(error, match=match):
            simfluence(*given)
    with pytest.raises(CasebackError, match="kind 'sum' is unknown"):
        simfluence([[0], [1]], losses, 2, kind="sum")
    with pytest.raises(OutOfRange, match="ridge is 0"):
        simfluence([[0], [1]], losses, 2, ridge=0)
