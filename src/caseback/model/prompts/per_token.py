"""Scores of input tokens: aligned to each prompt's own positions, labeled with its tokens.

A batch may be padded on either side. What a technique returns counts a prompt's own tokens from 0 and holds NaN past
the end of a shorter prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, TargetError
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric, target_ids
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


def aligned(values: Float[Tensor, "batch column *rest"], tokens: Tokens) -> Float[Tensor, "batch pos *rest"]:
    """Columns of a padded batch moved so that each prompt begins at 0; zeros past its end.

    Examples
    --------
    >>> ids, mask = torch.tensor([[0, 7, 8]]), torch.tensor([[False, True, True]])
    >>> aligned(torch.tensor([[9.0, 1.0, 2.0]]), Tokens(ids, mask, [["a", "b"]]))
    tensor([[1., 2., 0.]])
    """
    if not tokens.padded:
        return values
    moved = torch.zeros_like(values)
    for row, (first, n) in enumerate(zip(tokens.first.tolist(), tokens.lengths.tolist(), strict=True)):
        moved[row, :n] = values[row, first : first + n]
    return moved


def expect_metric(metric: Any) -> Metric:
    """Refuse what is not a ``Metric``, saying how to make one of it."""
    if not isinstance(metric, Metric):
        raise CasebackError(
            f"metric is a {type(metric).__name__}, expected one of caseback's: cb.logit_diff(target, foil), "
            "cb.logit(target) ..., or cb.function(f) of any function f of the logits"
        )
    return metric


def prepared(model: Model, tokens: PromptsLike, metric: Metric) -> tuple[Tokens, Metric]:
    """Prompts as tokens and the metric, checked: it is a ``Metric``, and does not contrast a token with itself.

    Raises
    ------
    TargetError
        Where some prompt's foil is its target.
    CasebackError
        Where ``metric`` is not a ``Metric``.
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if metric.name != "logit_diff":
        return tokens, metric
    target, foil = (
        target_ids(t, tokens, model.anatomy.classes or model.tokenizer, model.anatomy.d_logits, what)
        for t, what in ((metric.target, "target"), (metric.foil, "foil"))
    )
    for row in (target == foil).nonzero()[:, 0].tolist():
        raise TargetError(
            f"target and foil of prompt {row} are the same token, {model.token_text(target[row])!r}: their difference "
            "is 0 whatever the model does; give another foil, or cb.logit for the target alone"
        )
    return tokens, metric


def token_scores(
    scores: Float[Tensor, "batch pos *d_model"],
    model: Model,
    tokens: Tokens,
    metric: Metric,
    *,
    technique: Callable[..., Any],
    name: str,
    **attrs: Any,
) -> xr.DataArray:
    """Label aligned scores, one per token or one per dimension of its embedding."""
    inside = torch.arange(scores.shape[1]) < tokens.lengths.cpu()[:, None]
    scores = (
        at_least_float32(scores.detach())
        .cpu()
        .masked_fill(~inside.view(*inside.shape, *[1] * (scores.ndim - 2)), float("nan"))
    )
    width = scores.shape[1]
    return labelled(
        scores,
        ["batch", "pos", "d_model"][: scores.ndim],
        {"token": (("batch", "pos"), [row + [""] * (width - len(row)) for row in tokens.text])},
        name=name,
        technique=technique,
        model=model,
        metric=metric.name,
        target=_plain(metric.target),
        foil=_plain(metric.foil),
        metric_pos=_plain(metric.pos),
        **attrs,
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
