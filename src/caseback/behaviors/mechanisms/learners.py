"""What a learner would answer: predictions for one more input, from the examples of a prompt alone.

    loss      L(w) = 1/(2n) sum_i (w . x_i - y_i)^2,  w_0 = 0,  C = X^T X / n,  b = X^T y / n
    gradient  w <- w - rate dL/dw,  k times:    w_k = sum_j v_j (1 - (1 - rate l_j)^k) / l_j (v_j . b)   C = sum l v v^T
    linear    w = rate G b,  G = ((1 + 1/n) S + tr(S)/n I)^-1        S the covariance of inputs over all prompts
    ridge     w = (C + strength I)^-1 b;    least squares: strength -> 0, the shortest w
    kernel    sum_i softmax_i(-|x_i - q|^2 / (2 width^2)) y_i
    others    factor * (the mean of outputs;  the last one;  that of the nearest input;  least squares' w . q)

Each has one free number, so that none is nearer to a model for having one. ``linear`` is the best that one layer of
linear attention can do on such prompts (Ahn et al. 2023): one gradient step, preconditioned, which is whitened where
there are many examples. ``kernel`` is what one head of softmax attention does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RATES = np.geomspace(0.02, 1.9, 30)
"""Times 1 / the mean over prompts of the largest eigenvalue of C; from 2 on, steps lead away."""
STRENGTHS = np.geomspace(1e-3, 10, 30)
"""Times the mean eigenvalue of C."""
WIDTHS = np.geomspace(0.05, 2, 30)
"""Times the root mean square distance of examples from queries."""
FACTORS = np.geomspace(0.05, 2, 30)
"""Of predictions; they do not reach 0, which is no learner."""


class Learner(NamedTuple):
    """A learner's predictions by its one free number."""

    free: Float[np.ndarray, " value"]
    predictions: Float[np.ndarray, "value batch"]


def learners(
    inputs: Float[np.ndarray, "batch shot feature"],
    outputs: Float[np.ndarray, "batch shot"],
    queries: Float[np.ndarray, "batch feature"],
    steps: Sequence[int] = (1, 2, 4, 16),
) -> dict[str, Learner]:
    """What each learner predicts for the queries.

    Parameters
    ----------
    inputs, outputs, queries
        As in ``Regression``.
    steps
        Numbers of gradient steps, of which each is a learner.

    Examples
    --------
    Two gradient steps in one dimension, by hand: w = (1 - (1 - rate)^2) y

    >>> x, y, q = np.ones((1, 1, 1)), np.ones((1, 1)), np.ones((1, 1))
    >>> by = learners(x, y, q, [2])["gradient 2"]
    >>> np.allclose(by.predictions[:, 0], 1 - (1 - by.free) ** 2)
    True
    """
    n, features = inputs.shape[1:]
    covariance = np.einsum("bnf,bng->bfg", inputs, inputs) / n
    pull = np.einsum("bnf,bn->bf", inputs, outputs) / n
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(0)
    along = np.einsum("bfj,bf->bj", vectors, pull) * np.einsum("bfj,bf->bj", vectors, queries)
    distances = ((inputs - queries[:, None]) ** 2).sum(-1)
    near = distances <= distances.min(1, keepdims=True) + 1e-9
    by_name = {
        "mean": _by_factor(outputs.mean(1)),
        "last": _by_factor(outputs[:, -1]),
        "nearest": _by_factor((near * outputs).sum(1) / near.sum(1)),
    }
    widths = WIDTHS * max(np.sqrt(distances.mean()), 1e-12)
    scores = -distances / (2 * widths[:, None, None] ** 2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    by_name["kernel"] = Learner(widths, (weights * outputs).sum(-1) / weights.sum(-1))
    rates = RATES / max(values.max(1).mean(), 1e-12)
    safe = np.where(values > 1e-12, values, 1.0)
    for k in steps:
        # where an eigenvalue is 0 nothing pulls, and the step leads nowhere
        grown = (1 - (1 - rates[:, None, None] * values) ** k) / safe
        by_name[f"gradient {k}"] = Learner(rates, (grown * along).sum(-1))
    whole = covariance.mean(0)
    flat = (1 + 1 / n) * whole + np.trace(whole) / n * np.eye(features)
    step = np.einsum("bf,bf->b", queries, np.linalg.solve(flat, pull.T).T)
    by_name["linear"] = _by_factor(step)
    strengths = STRENGTHS * max(values.mean(), 1e-12)
    by_name["ridge"] = Learner(strengths, (along / (values + strengths[:, None, None])).sum(-1))
    pulled = values > 1e-9 * max(values.max(), 1e-12)
    by_name["least squares"] = _by_factor(np.where(pulled, along / safe, 0.0).sum(-1))
    return by_name


def _by_factor(prediction: Float[np.ndarray, " batch"]) -> Learner:
    return Learner(FACTORS, FACTORS[:, None] * prediction)
