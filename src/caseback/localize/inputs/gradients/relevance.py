"""Relevance propagation: the metric handed back through the network, sums kept, to the tokens (PRIMER 3.1.5, 3.1.6).

    R_i = sum_j (z_ij / (z_j + epsilon sign z_j)) R_j,    z_ij = x_i W_ij,    z_j = sum_i z_ij + b_j

It is activation times a modified gradient, so one forward and one backward give the relevance of everything. The
techniques here differ in the rules for what is not linear; ``caseback.model.backward.rules`` has them and applies
them.

The authors of LRP and AttnLRP claim patents on them: their own library is free for personal and scientific use only.
Whoever uses these functions commercially should check whether a license is needed. (``gradient_x_input`` and
``integrated_gradients`` are not concerned.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from caseback.model.anatomy.norms import at_least_float32
from caseback.model.backward.rules import Rules
from caseback.model.prompts.per_token import aligned, prepared, token_scores
from caseback.model.registry import technique
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

EPSILON = Rules(softmax="held", product="held", epsilon=1e-6)
CONSERVATIVE = Rules(softmax="held", product="held")
ATTN_LRP = Rules()
PRESETS = {"epsilon": EPSILON, "conservative": CONSERVATIVE, "attn_lrp": ATTN_LRP}
"""The rules of ``lrp_epsilon``, ``conservative_propagation`` and ``attn_lrp``."""


@technique(role="input attribution", entry=("3.1.5",), citation="Bach et al. 2015", cost="one forward + one backward")
def lrp_epsilon(
    model: Model, tokens: PromptsLike, metric: Metric, *, epsilon: float = 1e-6, by_dimension: bool = False
) -> xr.DataArray:
    """Layer-wise relevance propagation with the epsilon rule: each sum's relevance shared out by its addends.

    Sums are linear maps, biases included (what is theirs is lost), and values weighted by attention. Attention
    patterns, norms' denominators, gates and experts' weights are held; activation functions pass relevance on.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Its value is what is handed back; for a
        metric that is not linear in the logits it is the logits times the metric's gradient there.
    epsilon
        Added to a sum's size; 1e-6 as in LXT. Larger values (0.01, 0.1) leave out what cancels. Additions of the
        residual stream have none.
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token. Attributes, one
        number per prompt: ``metric_value``, ``position_relevance`` (what went to embedded positions) and
        ``conservation_gap`` (all relevance less the metric: the biases' share, and epsilon's).

    Raises
    ------
    OutOfRange
        For a negative ``epsilon``.
    TargetError
        Where a foil is the target.
    CasebackError
        Where ``metric`` is not a ``Metric``.

    Notes
    -----
    Patents are claimed on LRP; check before commercial use.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> lrp_epsilon(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), epsilon=0.01).dims
    ('batch', 'pos')
    """
    rules = Rules(softmax="held", product="held", epsilon=epsilon)
    return _propagated(model, tokens, metric, rules, lrp_epsilon, by_dimension)


@technique(role="input attribution", entry=("3.1.5",), citation="Ali et al. 2022", cost="one forward + one backward")
def conservative_propagation(
    model: Model, tokens: PromptsLike, metric: Metric, *, activation: str = "identity", by_dimension: bool = False
) -> xr.DataArray:
    """Gradient times input with attention patterns and norms' denominators held, which keeps the sum.

    Gates (the activated factor of a gated MLP) and experts' weights are held too. Without biases the scores sum to
    the metric, whatever the model.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Its value is what is handed back; for a
        metric that is not linear in the logits it is the logits times the metric's gradient there.
    activation
        ``"identity"`` passes an activation function's relevance on, as LXT's CP-LRP does; ``"gradient"`` is the
        paper's letter, which keeps the sum where the function is piecewise linear through 0 (ReLU).
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token. Attributes, one
        number per prompt: ``metric_value``, ``position_relevance`` (what went to embedded positions) and
        ``conservation_gap`` (all relevance less the metric: the biases' share).

    Raises
    ------
    TargetError
        Where a foil is the target.
    CasebackError
        For an unknown ``activation``, or where ``metric`` is not a ``Metric``.

    Notes
    -----
    Patents are claimed on LRP; check before commercial use.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = conservative_propagation(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> attrs = scores.attrs
    >>> total = float(scores.sum()) + sum(attrs.get("position_relevance", [0.0]))
    >>> abs(total - attrs["metric_value"][0] - attrs["conservation_gap"][0]) < 1e-4
    True
    """
    rules = Rules(softmax="held", product="held", activation=activation)
    return _propagated(model, tokens, metric, rules, conservative_propagation, by_dimension)


@technique(
    role="input attribution", entry=("3.1.6",), citation="Achtibat et al. 2024", cost="one forward + one backward"
)
def attn_lrp(
    model: Model, tokens: PromptsLike, metric: Metric, *, epsilon: float = 0.0, by_dimension: bool = False
) -> xr.DataArray:
    """AttnLRP: relevance through attention too, by a rule for softmax and an even split of products.

    softmax: R_i = x_i (R'_i - s_i sum_j R'_j), which is gradient times input of the softmax. Products (queries with
    keys, pattern with values, gate with neuron): half to each. Norms: denominators held. Activation functions:
    relevance passes. Experts' weights are held. The softmax rule has a bias term, so scores do not sum to the metric.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Its value is what is handed back; for a
        metric that is not linear in the logits it is the logits times the metric's gradient there.
    epsilon
        Of the epsilon rule at sums; 0 as in LXT's efficient form, 1e-6 in its explicit one.
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token. Attributes, one
        number per prompt: ``metric_value``, ``position_relevance`` (what went to embedded positions) and
        ``conservation_gap`` (all relevance less the metric: what biases and softmaxes took or gave).

    Raises
    ------
    OutOfRange
        For a negative ``epsilon``.
    TargetError
        Where a foil is the target.
    CasebackError
        Where ``metric`` is not a ``Metric``.

    Notes
    -----
    Its authors claim patents on it; check before commercial use.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> attn_lrp(model, "the cat and the dog", cb.logit(" cat")).attrs["entry"]
    '3.1.6'
    """
    return _propagated(model, tokens, metric, Rules(epsilon=epsilon), attn_lrp, by_dimension)


def _propagated(
    model: Model, tokens: PromptsLike, metric: Metric, rules: Rules, technique: Callable[..., Any], by_dimension: bool
) -> xr.DataArray:
    tokens, metric = prepared(model, tokens, metric)
    sites = ["embed", *(["pos_embed"] if model.anatomy.pos_embed is not None else [])]
    run, value = measured(model.anatomy, tokens, metric, read=sites, grad=True, rules=rules)
    gradients = run.grad(value, sites, retain=False)
    relevance = {s: at_least_float32(run[s].detach() * gradients[s]) for s in sites}
    of_positions = relevance["pos_embed"].sum((1, 2)) if len(sites) > 1 else None
    total = sum(r.sum((1, 2)) for r in relevance.values())
    scores = aligned(relevance["embed"], tokens)
    return token_scores(
        scores if by_dimension else scores.sum(-1),
        model,
        tokens,
        metric,
        technique=technique,
        name="relevance",
        rules=rules.as_attrs(),
        metric_value=value.tolist(),
        position_relevance=None if of_positions is None else of_positions.tolist(),
        conservation_gap=(total - value.detach()).tolist(),
    )
