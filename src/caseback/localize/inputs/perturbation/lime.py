"""LIME: a linear model of the metric, fitted around the prompt (PRIMER 3.1.8).

    argmin_g sum_z pi(z) (metric(x_z) - g(z))^2 + ridge |b|^2,    g(z) = a + b . z,    z in {0, 1}^features
    pi(z) = exp(-D(z, 1)^2 / width^2),    D cosine: 1 - sqrt(|z| / n),  or hamming: 1 - |z| / n

Conventions differ. Here pi is the paper's. The authors' code for text takes its square root and multiplies D by 100
(its width of 25 is 0.25 * sqrt(2) here); captum has exp(-D^2 / (2 width^2)), which is a width * sqrt(2) here, and fits
with lasso by default; inseq masks each token with probability 0.3, 50 times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.random import Generator, default_rng
from numpy.typing import ArrayLike
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.perturbation.coalitions import at_least, game_of, spread_over
from caseback.localize.inputs.perturbation.linear_fit import robust_covariance, weighted_fit
from caseback.model.prompts.granularity import Given
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

DISTANCES = {
    "cosine": lambda present: 1 - np.sqrt(present.mean(-1)),
    "hamming": lambda present: 1 - present.mean(-1),
}


@technique(
    role="input attribution",
    entry=("3.1.8",),
    citation="Ribeiro et al. 2016",
    cost="samples x one forward, shared prefixes once",
)
def lime(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    baseline: str | int | Tensor = "mean",
    samples: int = 1000,
    masked: float | None = None,
    distance: str = "cosine",
    width: float = 0.25,
    ridge: float = 0.0,
    top: int | None = None,
    masks: np.ndarray | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Coefficients of a linear model of which features are present, fitted to the metric near the prompt.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    features, keep, baseline
        What is masked, what is not, and what stands in its place; see ``occlusion``. The authors delete words.
    samples
        Masks per prompt, the first of which masks nothing. The authors' code takes 5000, inseq 50.
    masked
        Probability with which each feature is masked, independently (inseq: 0.3; captum: 0.5). None draws how many
        are masked evenly from 1 to all, then which, as the authors do.
    distance
        ``"cosine"`` or ``"hamming"``, from the mask to the prompt as it is.
    width
        Width of the kernel; 0.25 as the authors' 25 for distances in hundredths.
    ridge
        Penalty on the coefficients' squares (the authors': 1). 0 recovers a linear metric exactly.
    top
        Fit again with so many features alone, those of largest coefficient; the others get 0.
    masks
        Masks to use instead of drawing them: (sample, feature), True where a feature is present.
    seed
        Same seed, same result. The masks are drawn with it.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (batch, pos), or (batch, feature), signed. Coordinate ``std_error``: how far a coefficient moves with other
        masks, one standard deviation, to first order. Attributes, one number per prompt: ``fidelity`` (weighted R^2 of
        the linear model: a low one says not to believe it), ``intercept``, ``metric_value``.

    Raises
    ------
    OutOfRange
        For no samples, a probability outside (0, 1), or a width that is not positive.
    CasebackError
        For too few samples to determine all coefficients, an unknown distance, masks that do not fit, or no token
        to perturb.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = lime(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), samples=60)
    >>> scores.dims, scores.std_error.dims, 0 <= scores.attrs["fidelity"][0] <= 1
    (('batch', 'pos'), ('batch', 'pos'), True)
    """
    if distance not in DISTANCES:
        raise CasebackError(f"distance {distance!r} is unknown. {did_you_mean(distance, DISTANCES)}")
    if not width > 0 or ridge < 0:
        raise OutOfRange(f"width is {width} and ridge {ridge}: expected a positive width and a ridge of 0 or more")
    if masked is not None and not 0 < masked < 1:
        raise OutOfRange(f"masked is {masked}: expected a probability between 0 and 1, such as 0.3")
    if top is not None:
        at_least("top", top)
    at_least("samples", samples)
    game = game_of(
        model,
        tokens,
        metric,
        features=features,
        keep=keep,
        baseline=baseline,
        token_budget=token_budget,
        progress=progress,
        checkpoint=checkpoint,
    )
    drawn = [_masks(len(mine), samples, masked, default_rng(seed), masks) for mine in game.players]
    values = game.values(present_rows(drawn, game.players, game.features.most))
    fits = [
        _fit(z, values[: len(z), b], np.exp(-((DISTANCES[distance](z) / width) ** 2)), ridge, top)
        for b, z in enumerate(drawn)
    ]
    scores, errors, fidelity, intercept = zip(*fits, strict=True)
    n = game.features.most
    return game.scores(
        spread_over(scores, game.players, n),
        lime,
        {"std_error": spread_over(errors, game.players, n)},
        fidelity=list(fidelity),
        intercept=list(intercept),
        samples=len(drawn[0]),
        masked="given" if masks is not None else "count" if masked is None else masked,
        distance=distance,
        width=float(width),
        ridge=float(ridge),
        top=top,
        seed=seed,
    )


def present_rows(drawn: list[np.ndarray], players: list[list[int]], n_features: int) -> np.ndarray:
    """Coalitions (sample, player) of each prompt as one array (sample, batch, feature), all else present."""
    present = np.ones((max(len(z) for z in drawn), len(drawn), n_features), dtype=bool)
    for b, (z, mine) in enumerate(zip(drawn, players, strict=True)):
        present[: len(z), b, mine] = z
    return present


def given_masks(masks: ArrayLike, n: int) -> np.ndarray:
    """Masks of a caller, checked against the number of features."""
    z = np.asarray(masks)
    if z.ndim != 2 or z.shape[1] != n or not len(z):
        raise CasebackError(f"masks of shape {z.shape}: expected (samples, {n}), one for each feature that can matter")
    return z.astype(bool)


def _masks(n: int, samples: int, masked: float | None, rng: Generator, given: np.ndarray | None) -> np.ndarray:
    if given is not None:
        return given_masks(given, n)
    if masked is not None:
        z = rng.random((samples, n)) >= masked
    else:
        # argsort twice ranks random numbers, so that exactly ``count`` features of each row are masked
        count = rng.integers(1, n + 1, samples)
        z = rng.random((samples, n)).argsort(-1).argsort(-1) >= count[:, None]
    z[0] = True
    return z


def _fit(z: np.ndarray, y: np.ndarray, weight: np.ndarray, ridge: float, top: int | None):
    """One prompt's coefficients, their errors, the fit's weighted R^2 and the intercept."""
    which = np.arange(z.shape[1])
    x = np.column_stack([np.ones(len(z)), z])
    penalty = np.r_[0.0, np.full(z.shape[1], ridge)]
    coefficients, inverse = weighted_fit(x, y, weight, ridge=penalty, what="LIME")
    if top is not None and top < len(which):
        which = np.sort(np.abs(coefficients[1:]).argsort()[::-1][:top])
        x, penalty = x[:, np.r_[0, which + 1]], penalty[: top + 1]
        coefficients, inverse = weighted_fit(x, y, weight, ridge=penalty, what="LIME")
    residual = y - x @ coefficients
    errors = np.sqrt(np.diag(robust_covariance(x, residual, weight, inverse)))
    total = (weight * (y - np.average(y, weights=weight)) ** 2).sum()
    fidelity = 1 - (weight * residual**2).sum() / total if total > 0 else 1.0
    out = np.zeros((2, z.shape[1]))
    out[:, which] = coefficients[1:], errors[1:]
    return out[0], out[1], float(fidelity), float(coefficients[0])
