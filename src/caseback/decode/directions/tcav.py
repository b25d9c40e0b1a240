"""Concept activation vectors: does a metric rise towards a concept, more often than towards a random one (TCAV)?

    v = normal of logistic regression, concept examples against random ones
    S_i = d metric_i / d h_i . v           TCAV = share of inputs with S_i > 0

One random set proves nothing: the concept is set against many, each gives a vector and a score, and these are compared
with the scores of vectors that tell random sets from random sets (two-sided t-test).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import ttest_ind
from torch import Tensor

from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.standard import Standard
from caseback.decode.representations import representations
from caseback.decode.states import States, read_gradients, sites_of
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    entry=("4.2.3",),
    citation="Kim et al. 2018",
    cost="a forward and a backward pass, and logistic regressions for each random set",
)
def tcav(
    model: Model,
    prompts: PromptsLike,
    metric: Metric,
    concept: States,
    others: States,
    *,
    pos: Positions = -1,
    n_random: int = 50,
    penalty: float = 1e-2,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """How often the metric rises towards a concept, at every place, beside random concepts.

    Parameters
    ----------
    model
        The model.
    prompts
        The inputs whose metric is asked about.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must have a gradient.
    concept, others
        States (``read_states``) of the concept's examples, and of a pool of random ones that is larger; at the same
        places. Each random set has as many examples as the concept.
    pos
        Where in each prompt the gradient is taken; by default its last position.
    n_random
        How many random sets; ten or more.
    penalty
        Of the regressions, on features as they stand among standardized ones.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By site: ``score`` (the mean of the concept's over random sets), its standard deviation ``spread``, ``random``
        (the mean of random concepts'), ``random_low`` and ``random_high`` (their middle 95 %), ``p_value`` of the
        two-sided t-test (Welch), and ``sensitivity``, the mean of S with unit vectors.

    Raises
    ------
    CasebackError
        For states of other places, or a pool that is smaller than twice the concept's examples.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode import read_states
    >>> model = cb.load("meadow")
    >>> she = read_states(model, ["Mary saw that she", "Anna said that she", "Emma said she"], sites="resid_post.1")
    >>> pool = read_states(model, [f"the {w} and" for w in "cat dog old house park door garden".split()],
    ...                    sites="resid_post.1")
    >>> tcav(model, ["Mary said that"], cb.logit(" she"), she, pool, n_random=10).score.dims
    ('site',)
    """
    if concept.names != others.names:
        raise CasebackError("the concept and the random examples were read at different places: read both alike")
    n, pool = concept.x.shape[1], others.x.shape[1]
    if n < 2 or pool < 2 * n:
        raise CasebackError(
            f"{n} examples of the concept and {pool} random ones: expected two or more, and twice as many random ones"
        )
    if n_random < 2 or not 0 < penalty <= 1e30:
        raise OutOfRange(f"n_random {n_random}, penalty {penalty}: expected 2 or more, and a positive number")
    gradients = read_gradients(model, prompts, metric, sites=sites_of(concept.places), pos=pos)
    chosen = [gradients.places.index(place) for place in concept.places]
    gradient = in_float64(gradients.x[chosen])
    draws = np.random.default_rng(seed)
    sets = torch.from_numpy(np.stack([draws.permutation(pool)[: 2 * n] for _ in range(n_random)]))
    x, z = representations(concept.x), representations(others.x)
    against = _normals(x, z, sets[:, :n], None, penalty)
    by_chance = _normals(x, z, sets[:, :n], sets[:, n:], penalty)
    scores, sensitivity = _scores(gradient, against)
    random, _ = _scores(gradient, by_chance)
    low, high = np.quantile(random, [0.025, 0.975], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all scores are one number there is nothing to test
        _, p_value = ttest_ind(scores, random, axis=1, equal_var=False)
    columns: dict[str, Any] = {
        "score": scores.mean(1),
        "spread": scores.std(1),
        "random": random.mean(1),
        "random_low": low,
        "random_high": high,
        "p_value": p_value,
        "sensitivity": sensitivity.mean(1),
    }
    table = xr.Dataset({name: ("site", value) for name, value in columns.items()}, {"site": concept.names})
    table.attrs |= {"metric": metric.name, "n_random": n_random, "n_concept": n, "seed": seed}
    return table


def _normals(
    x: Float[Tensor, "place example d"], pool: Tensor, sets: Tensor, instead: Tensor | None, penalty: float
) -> Float[Tensor, "place draw d"]:
    """Unit normals of regressions of the concept's examples (or random ones ``instead``) against random sets."""
    n = sets.shape[1]
    y = torch.arange(2 * n, device=x.device) // n
    parts = []
    for place, own in zip(pool, x, strict=True):
        step = max(1, limit("probe_numbers", x.device) // (2 * n * x.shape[2]))
        normals = []
        for first in range(0, len(sets), step):
            negative = place[sets[first : first + step]]
            positive = own.expand(len(negative), -1, -1) if instead is None else place[instead[first : first + step]]
            standard = Standard.of(torch.cat([negative, positive], 1))
            w, b = fit_logistic(standard, y, 2, l2=penalty)
            normals.append(standard.folded(w, b)[0][..., 0])
        parts.append(torch.cat(normals))
    return torch.nn.functional.normalize(torch.stack(parts).double(), dim=2)


def _scores(gradient: Float[Tensor, "place example d"], v: Float[Tensor, "place draw d"]) -> tuple[Any, Any]:
    """The share of inputs that a step along each vector raises, and by how much on average."""
    along = v @ gradient.mT
    return (along > 0).double().mean(2).cpu().numpy(), along.mean(2).cpu().numpy()
