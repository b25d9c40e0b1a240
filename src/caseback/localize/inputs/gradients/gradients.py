"""Gradients as input attribution: how much the metric would move with each token's embedding (PRIMER 3.1.1, 3.1.2).

    gradient norm    A_i = || d metric / d x_i ||_p              how sensitive it is to token i
    gradient x input A_i = (d metric / d x_i) . x_i              what token i adds, to first order

x_i is what the embedding writes into the stream, without position. A contrastive attribution (why this token and not
that) is the same with a contrastive metric, ``cb.logit_diff``.
"""

from __future__ import annotations

import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.prompts.per_token import aligned, prepared, token_scores
from caseback.model.registry import technique
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


@technique(
    role="input attribution",
    entry=("3.1.1",),
    citation="Simonyan et al. 2014, Li et al. 2016",
    cost="one forward + one backward",
)
def gradient_norm(model: Model, tokens: PromptsLike, metric: Metric, *, p: float = 2.0) -> xr.DataArray:
    """Sensitivity of the metric to each token: the norm of its gradient at the token's embedding.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. A logit and a probability rank tokens
        differently.
    p
        Which norm; 2 by default, 1 is the other one in use, ``inf`` the largest entry.

    Returns
    -------
    xr.DataArray
        (batch, pos), at least 0; NaN where a shorter prompt has no token; 0 after the position that the metric
        reads.

    Raises
    ------
    OutOfRange
        For ``p`` below 1.
    TargetError
        Where a foil is the target.
    CasebackError
        Where ``metric`` is not a ``Metric``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = gradient_norm(model, "the cat and the dog", cb.logit(" cat"))
    >>> scores.dims, bool((scores >= 0).all())
    (('batch', 'pos'), True)
    """
    if not p >= 1:
        raise OutOfRange(f"p is {p}: expected 1 or more, such as 1, 2 or float('inf')")
    tokens, metric = prepared(model, tokens, metric)
    _, gradient = embedding_and_gradient(model, tokens, metric)
    scores = gradient.norm(p=p, dim=-1)
    return token_scores(scores, model, tokens, metric, technique=gradient_norm, name="gradient_norm", p=float(p))


@technique(
    role="input attribution",
    entry=("3.1.2",),
    citation="Denil et al. 2015, Shrikumar et al. 2017",
    cost="one forward + one backward",
)
def gradient_x_input(model: Model, tokens: PromptsLike, metric: Metric, *, by_dimension: bool = False) -> xr.DataArray:
    """What each token adds to the metric, to first order: its embedding times the gradient there.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token.

    Raises
    ------
    TargetError
        Where a foil is the target.
    CasebackError
        Where ``metric`` is not a ``Metric``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> gradient_x_input(model, "the cat and the dog", cb.logit_diff(" cat", " dog")).attrs["entry"]
    '3.1.2'
    """
    tokens, metric = prepared(model, tokens, metric)
    embedding, gradient = embedding_and_gradient(model, tokens, metric)
    scores = embedding * gradient
    scores = scores if by_dimension else scores.sum(-1)
    return token_scores(scores, model, tokens, metric, technique=gradient_x_input, name="gradient_x_input")


def embedding_and_gradient(
    model: Model, tokens: Tokens, metric: Metric
) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
    """What the embedding writes and the metric's gradient there, each prompt beginning at 0, in float32 at least."""
    run, value = measured(model.anatomy, tokens, metric, read=["embed"], grad=True)
    gradient = run.grad(value, ["embed"], retain=False)["embed"]
    both = (aligned(at_least_float32(x.detach()), tokens) for x in (run["embed"], gradient))
    return next(both), next(both)
