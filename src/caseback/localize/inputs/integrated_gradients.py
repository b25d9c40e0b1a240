"""Integrated gradients: the gradient, averaged on the straight way from a baseline to the prompt (PRIMER 3.1.3).

    A_i = (x_i - x'_i) . integral_0^1 d metric / d x_i (x' + a (x - x')) da

The scores sum to metric(x) - metric(x'): the attribution is complete, and by how much a quadrature misses that is its
own measure of error. The path runs through what the embedding writes; positions stay. A mixture of experts jumps where
its choice changes along the path; no gradient sees a jump, so there a gap remains whatever the steps.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.baselines import baseline_embedding, told
from caseback.localize.inputs.per_token import aligned, expect_metric, token_scores
from caseback.model.edits import Replace
from caseback.model.metrics import Bound, Metric
from caseback.model.model import Model
from caseback.model.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.run import Run
from caseback.model.tokens import Tokens

_MOST_AT_ONCE, _LOGITS_AT_ONCE = 16, 2**25


def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in (0, 1) and weights that integrate polynomials up to degree 2n - 1 exactly.

    Examples
    --------
    >>> at, weight = gauss_legendre(2)
    >>> round(float((weight * at**3).sum()), 12)
    0.25
    """
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


def _riemann(offset: float):
    return lambda n: ((np.arange(n) + offset) / n, np.full(n, 1 / n))


def _trapezoid(n: int) -> tuple[np.ndarray, np.ndarray]:
    if n < 2:
        raise OutOfRange(f"the trapezoid rule needs at least 2 steps, {n} given")
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, n), weights


RULES = {
    "gauss_legendre": gauss_legendre,
    "riemann_left": _riemann(0.0),
    "riemann_right": _riemann(1.0),
    "riemann_middle": _riemann(0.5),
    "trapezoid": _trapezoid,
}


@technique(entry=("3.1.3",), citation="Sundararajan et al. 2017", cost="steps x (forward + backward)")
def integrated_gradients(
    model: Model,
    tokens: Any,
    metric: Metric,
    *,
    baseline: str | int | Float[Tensor, "*batch pos d_model"] = "mean",
    steps: int = 50,
    rule: str = "gauss_legendre",
    tolerance: float | None = None,
    max_steps: int = 1600,
    max_batch: int | None = None,
    by_dimension: bool = False,
) -> xr.DataArray:
    """What each token adds to the metric, all of them together making its change from a baseline.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is explained.
    baseline
        Where the path starts, at every position: the ``"mean"`` of the vocabulary's embeddings, ``"zero"`` (the
        paper's black image), a special token's (``"pad"``, ``"eos"``, ``"bos"``, ``"unk"``, ``"mask"``) or that of
        the token with a given id; or a tensor, (d_model,), (pos, d_model) or (batch, pos, d_model) by each prompt's
        own positions. Not zero by default: a norm without positions or biases before it jumps there from 0 to its
        full size within a millionth of the way, and no number of steps sees that.
    steps
        Nodes of the quadrature; 50 as in captum and inseq (the paper: 20 to 300).
    rule
        ``"gauss_legendre"``, ``"riemann_left"``, ``"riemann_right"``, ``"riemann_middle"`` or ``"trapezoid"``.
    tolerance
        Double the steps of a prompt until its completeness gap is at most this, in the metric's unit. None takes the
        steps as they are.
    max_steps
        Where the doubling stops, with a warning and ``tolerance_reached`` 0 in the attributes.
    max_batch
        Path points run at once; the scores do not depend on it. By default as many as keep the logits under 2**25
        entries, 16 at most.
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token. Attributes, one
        number a prompt: ``metric_value``, ``baseline_value``, ``completeness_gap`` (the scores' sum less the
        metric's change) and ``steps``.

    Raises
    ------
    OutOfRange
        For a number of steps or a batch below 1.
    CasebackError
        For an unknown rule or baseline, a special token that the tokenizer lacks, a baseline of a wrong shape, or a
        metric that is none.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = integrated_gradients(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), tolerance=0.01)
    >>> abs(scores.attrs["completeness_gap"][0]) <= 0.01
    True
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if rule not in RULES:
        raise CasebackError(f"rule {rule!r} is unknown. {did_you_mean(rule, RULES)}")
    if max_batch is None:
        max_batch = max(1, min(_MOST_AT_ONCE, _LOGITS_AT_ONCE // (tokens.ids.shape[1] * model.d_vocab)))
    for name, value in (("steps", steps), ("max_batch", max_batch), ("max_steps", max_steps)):
        if value < 1:
            raise OutOfRange(f"{name} is {value}: expected at least 1")
    if tolerance is not None and not tolerance > 0:
        raise OutOfRange(f"tolerance is {tolerance}: expected a positive number, in the metric's unit")
    path = _path(model, tokens, metric, baseline, max_batch)
    taken = torch.full((len(tokens),), steps)
    scores = path.integrate(torch.arange(len(tokens)), *RULES[rule](steps))
    gap = path.gap(scores)
    while tolerance is not None:
        again = ((gap.abs() > tolerance) & (2 * taken <= max_steps)).nonzero()[:, 0]
        if not len(again):
            break
        # the prompts that still miss it have all been doubled equally often
        taken[again] *= 2
        scores[again] = path.integrate(again, *RULES[rule](int(taken[again[0]])))
        gap = path.gap(scores)
    reached = None if tolerance is None else (gap.abs() <= tolerance)
    if reached is not None and not bool(reached.all()):
        warnings.warn(
            f"integrated gradients: after {int(taken.max())} steps the completeness gap is "
            f"{float(gap.abs().max()):.3g}, above {tolerance=:g}; raise max_steps or choose another baseline",
            stacklevel=2,
        )
    return token_scores(
        scores if by_dimension else scores.sum(-1),
        model,
        tokens,
        metric,
        technique=integrated_gradients,
        name="integrated_gradients",
        baseline=told(baseline),
        rule=rule,
        steps=taken.tolist(),
        metric_value=path.at_input.tolist(),
        baseline_value=path.at_baseline.tolist(),
        completeness_gap=gap.tolist(),
        tolerance=tolerance,
        tolerance_reached=None if reached is None else reached.tolist(),
    )


@dataclass(frozen=True)
class _Path:
    """The straight way from the baseline to the prompts, and the metric at both ends."""

    model: Model
    tokens: Tokens
    bound: Bound
    max_batch: int
    start: Float[Tensor, "batch pos d_model"]
    way: Float[Tensor, "batch pos d_model"]
    at_input: Float[Tensor, " batch"]
    at_baseline: Float[Tensor, " batch"]

    def integrate(
        self, prompts: Int[Tensor, " row"], nodes: np.ndarray, weights: np.ndarray
    ) -> Float[Tensor, "row pos d_model"]:
        """(x - x') times the weighted sum of gradients, for some of the prompts."""
        total = torch.zeros_like(self.way[prompts])
        points = [(i, a, w) for i in range(len(prompts)) for a, w in zip(nodes, weights, strict=True)]
        for first in range(0, len(points), self.max_batch):
            index, at, weight = (list(x) for x in zip(*points[first : first + self.max_batch], strict=True))
            run, value = self.run_at(prompts[index], torch.tensor(at), grad=True)
            gradient = run.grad(value, ["embed"], retain=False)["embed"]
            gradient = aligned(at_least_float32(gradient), run.tokens)
            weighted = gradient * torch.tensor(weight).to(gradient)[:, None, None]
            total.index_add_(0, torch.tensor(index, device=total.device), weighted)
        return total * self.way[prompts]

    def run_at(
        self, prompts: Int[Tensor, " row"], at: Float[Tensor, " row"], *, grad: bool
    ) -> tuple[Run, Float[Tensor, " row"]]:
        """Run with the embedding a share ``at`` of the way, one prompt a row; also the metric there."""
        tokens = self.tokens
        rows = Tokens(tokens.ids[prompts], tokens.mask[prompts], [tokens.text[i] for i in prompts.tolist()])
        there = self.start[prompts] + at.to(self.start)[:, None, None] * self.way[prompts]
        run = self.model.run(rows, read=["embed"], edits=[Replace("embed", there)], grad=grad)
        return run, _value(self.bound, run.logits, prompts)

    def gap(self, scores: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " batch"]:
        return scores.sum((1, 2)).cpu() - (self.at_input - self.at_baseline)


def _value(bound: Bound, logits: Tensor, prompts: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """A metric bound to a batch, of logits whose rows are some of its prompts, repeated as it may be."""
    prompts = prompts.to(logits.device)
    if bound.columns is not None:
        logits = logits[torch.arange(len(logits), device=logits.device), bound.columns.to(logits.device)[prompts]]
        if bound.vocab is not None:
            logits = logits.gather(-1, bound.vocab.to(logits.device)[prompts])
    return bound.value(logits, prompts)


def _path(model: Model, tokens: Tokens, metric: Metric, baseline: Any, max_batch: int) -> _Path:
    bound = metric.on(tokens, model.anatomy)
    clean = model.run(tokens, read=["embed"])
    end = aligned(at_least_float32(clean["embed"].detach()), tokens)
    start = baseline_embedding(model, baseline, end)
    here = torch.arange(len(tokens))
    at_input = _value(bound, clean.logits, here).detach().cpu()
    path = _Path(model, tokens, bound, max_batch, start, end - start, at_input, torch.zeros_like(at_input))
    ends = [path.run_at(rows, torch.zeros(len(rows)), grad=False)[1].cpu() for rows in here.split(max_batch)]
    return replace(path, at_baseline=torch.cat(ends))
