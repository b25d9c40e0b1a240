"""Integrated gradients: the gradient, averaged on the straight way from a baseline to the prompt (PRIMER 3.1.3).

    A_i = (x_i - x'_i) . integral_0^1 d metric / d x_i (x' + a (x - x')) da

The scores sum to metric(x) - metric(x'): the attribution is complete, and by how much a quadrature misses that is its
own measure of error. The path runs through what the embedding writes; positions stay. A mixture of experts jumps where
its choice changes along the path; no gradient sees a jump, so there a gap remains whatever the steps.

Any path is complete in this sense (the gradient theorem), so one may choose where it starts and where its points lie.
What cannot be chosen is how steep the metric is: a deep model's may change by a fourth of the whole within a hundredth
of the way, where equal steps see nothing or far too much. Two things make the default complete in 64 points. It starts
at a baseline from which the model's attention sink stays where it is (``model.prompts.baselines`` derives why others
jump), and it puts its points where the metric changes, which is known, panel by panel, from its values there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.warned import warn
from caseback.localize.inputs.gradients.quadrature import FEWEST, RULES, Panels
from caseback.model.anatomy.coerce import in_float64
from caseback.model.prompts.baselines import baseline_embedding, baseline_name, usual_baseline
from caseback.model.prompts.embedding_points import Points
from caseback.model.prompts.per_token import prepared, token_scores
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

ADAPTIVE = "adaptive"
_USUAL, _FEW, _MANY = 50, 64, 1600  # equal steps; the most nodes, unless said otherwise, and where more was asked for
_SHARE = 0.01  # of the metric's change: the adaptive rule's tolerance where none is given


@technique(
    role="input attribution", entry=("3.1.3",), citation="Sundararajan et al. 2017", cost="steps x (forward + backward)"
)
def integrated_gradients(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    baseline: str | int | Float[Tensor, "*batch pos d_model"] | None = None,
    steps: int | None = None,
    rule: str | None = None,
    tolerance: float | None = None,
    max_steps: int | None = None,
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
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    baseline
        Where the path starts, at every position: the ``"mean"`` of the vocabulary's embeddings, ``"zero"`` (the
        paper's black image), a special token's (``"pad"``, ``"eos"``, ``"bos"``, ``"unk"``, ``"mask"``) or that of
        the token with a given id; or a tensor, (d_model,), (pos, d_model) or (batch, pos, d_model) by each prompt's
        own positions. ``"mean_after_first"`` leaves the first token in place, whose score is then 0. By default that
        one for models without position embeddings, and else the mean. Not zero: a norm without positions or biases
        before it jumps there from 0 to its full size within a millionth of the way.
    steps
        Nodes of the quadrature. Captum and inseq take 50 (the paper: 20 to 300), as do the rules of equal steps here
        where none is given.
    rule
        ``"adaptive"``: Boole's rule on panels, halved where their own completeness gap is large. It computes no node
        twice, begins with 9, and puts the others where the path bends. Or ``"gauss_legendre"``, ``"riemann_left"``,
        ``"riemann_right"``, ``"riemann_middle"``, ``"trapezoid"``. By default the adaptive one; Gauss-Legendre where
        ``steps`` are given.
    tolerance
        Double the steps of a prompt until its completeness gap is at most this, in the metric's unit. None takes the
        steps as they are; for ``"adaptive"``, a hundredth of the metric's change.
    max_steps
        Most nodes per prompt; where they do not suffice, a warning that says where the metric is too steep, and
        ``tolerance_reached`` 0 in the attributes. By default 64, or 1600 where a rule or a tolerance is given.
    max_batch
        Path points run at once; memory is bounded by it and the scores do not depend on it. By default as many as
        make 512 tokens (8192 on an accelerator).
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token. Attributes, one
        number per prompt: ``metric_value``, ``baseline_value``, ``completeness_gap`` (the scores' sum less the
        metric's change), ``steps`` (nodes in the scores) and ``evaluations`` (nodes computed, those of coarser tries
        included); for ``"adaptive"`` also ``score_error``, an upper estimate of the scores' errors, added up, and
        ``steepest``, from where to where on the way the sum is furthest off, and the metric's change over that part:
        three numbers a prompt.

    Raises
    ------
    OutOfRange
        For a number of steps or a batch below 1.
    TargetError
        Where a foil is the target.
    CasebackError
        For an unknown rule or baseline, a special token that the tokenizer lacks, a baseline of a wrong shape, or a
        ``metric`` that is not a ``Metric``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = integrated_gradients(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), tolerance=0.01)
    >>> abs(scores.attrs["completeness_gap"][0]) <= 0.01
    True
    """
    tokens, metric = prepared(model, tokens, metric)
    if max_steps is None:
        max_steps = _FEW if rule is None and steps is None and tolerance is None else _MANY
    if rule is None:
        rule = ADAPTIVE if steps is None else "gauss_legendre"
    steps = _USUAL if steps is None else steps
    check_rule(rule, steps, (*RULES, ADAPTIVE))
    baseline = usual_baseline(model, tokens) if baseline is None else baseline
    fewest = FEWEST if rule == ADAPTIVE else 1
    if max_steps < fewest:
        raise OutOfRange(f"max_steps is {max_steps}: expected at least {fewest}")
    if tolerance is not None and not tolerance > 0:
        raise OutOfRange(f"tolerance is {tolerance}: expected a positive number, in the metric's unit")
    path = straight_path(Points(model, tokens, metric, max_batch), model, baseline)
    integral = (
        _adaptive(path, tolerance, max_steps, by_dimension)
        if rule == ADAPTIVE
        else _doubling(path, rule, steps, tolerance, max_steps, by_dimension)
    )
    reached = integral.reached
    if reached is not None and not bool(reached.all()):
        worst = int((~reached).nonzero()[0, 0])
        warn(
            f"integrated gradients: after {int(integral.steps[worst])} steps the completeness gap is "
            f"{abs(float(integral.gap[worst])):.3g}, above tolerance={float(integral.tolerance[worst]):g}"
            f"{'' if integral.steepest is None else '; ' + steepest_words(integral.steepest[worst])}; "
            "raise max_steps or choose another baseline",
            stacklevel=2,
        )
    return token_scores(
        integral.scores,
        model,
        tokens,
        metric,
        technique=integrated_gradients,
        name="integrated_gradients",
        baseline=baseline_name(baseline),
        rule=rule,
        steps=integral.steps.tolist(),
        evaluations=integral.evaluations.tolist(),
        metric_value=path.at_input.tolist(),
        baseline_value=path.at_baseline.tolist(),
        completeness_gap=integral.gap.tolist(),
        score_error=None if integral.score_error is None else integral.score_error.tolist(),
        tolerance=None if reached is None else _one(integral.tolerance),
        tolerance_reached=None if reached is None else reached.tolist(),
        steepest=integral.steepest and [x for place in integral.steepest for x in place],
    )


def check_rule(rule: str, steps: int, known: tuple[str, ...]) -> None:
    """Refuse an unknown quadrature and fewer steps than one."""
    if rule not in known:
        raise CasebackError(f"rule {rule!r} is unknown. {did_you_mean(rule, known)}")
    if steps < 1:
        raise OutOfRange(f"steps is {steps}: expected at least 1")


def _one(tolerance: Float[Tensor, " batch"]) -> float | list[float]:
    same = bool((tolerance == tolerance[0]).all())
    return float(tolerance[0]) if same else tolerance.tolist()


@dataclass
class _Integral:
    scores: Float[Tensor, "batch pos *d_model"]
    gap: Float[Tensor, " batch"]
    steps: Int[Tensor, " batch"]
    evaluations: Int[Tensor, " batch"]
    tolerance: Float[Tensor, " batch"]
    reached: Tensor | None
    score_error: Float[Tensor, " batch"] | None = None
    steepest: list[tuple[float, float, float]] | None = None


@dataclass(frozen=True)
class Path:
    """The straight way from the baseline to the prompts, and the metric at both ends."""

    points: Points
    start: Float[Tensor, "batch pos d_model"]
    way: Float[Tensor, "batch pos d_model"]
    at_input: Float[Tensor, " batch"]
    at_baseline: Float[Tensor, " batch"]

    @property
    def change(self) -> Float[Tensor, " batch"]:
        """The metric at the prompts less that at the baselines."""
        return self.at_input - self.at_baseline

    def at(self, prompts: Int[Tensor, " row"], share: Float[Tensor, " row"]) -> Float[Tensor, "row pos d_model"]:
        """Embeddings a share of the way."""
        return self.start[prompts] + share.to(self.start)[:, None, None] * self.way[prompts]

    def integrate(
        self, prompts: Int[Tensor, " row"], nodes: np.ndarray, weights: np.ndarray
    ) -> Float[Tensor, "row pos d_model"]:
        """(x - x') times the weighted sum of gradients, for some of the prompts."""
        total = torch.zeros_like(self.way[prompts])
        which = torch.arange(len(prompts)).repeat_interleave(len(nodes))
        share, weight = (torch.from_numpy(np.tile(x, len(prompts))) for x in (nodes, weights))
        mine = prompts[which]
        for part, _, gradient in self.points.gradients(mine, lambda part: self.at(mine[part], share[part])):
            total.index_add_(0, which[part].to(total.device), gradient * weight[part].to(gradient)[:, None, None])
        return total * self.way[prompts]


def straight_path(points: Points, model: Model, baseline: str | int | Tensor) -> Path:
    """The way from a baseline, as named or given, to the prompts."""
    end = points.embedding
    start = baseline_embedding(model, baseline, end)
    everyone = torch.arange(len(end))
    at_baseline = points.values(everyone, lambda part: start[everyone[part]])
    return Path(points, start, end - start, points.value, at_baseline)


def _doubling(
    path: Path, rule: str, steps: int, tolerance: float | None, max_steps: int, by_dimension: bool
) -> _Integral:
    everyone = torch.arange(len(path.way))
    taken = torch.full((len(everyone),), steps)
    scores = path.integrate(everyone, *RULES[rule](steps))
    computed = taken.clone()
    gap = _gap(path, scores)
    while tolerance is not None:
        again = ((gap.abs() > tolerance) & (2 * taken <= max_steps)).nonzero()[:, 0]
        if not len(again):
            break
        # the prompts that still miss it have all been doubled equally often
        taken[again] *= 2
        computed[again] += taken[again]
        scores[again] = path.integrate(again, *RULES[rule](int(taken[again[0]])))
        gap = _gap(path, scores)
    limit = torch.full((len(everyone),), tolerance or 0.0, dtype=torch.float64)
    reached = None if tolerance is None else (gap.abs() <= tolerance)
    return _Integral(scores if by_dimension else scores.sum(-1), gap, taken, computed, limit, reached)


def _gap(path: Path, scores: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " batch"]:
    return scores.sum((1, 2)).cpu() - path.change


def _adaptive(path: Path, tolerance: float | None, max_steps: int, by_dimension: bool) -> _Integral:
    """Panels of every prompt, refined together: what they want next is one list of points."""
    rounding = 4 * torch.finfo(path.at_input.dtype).eps * torch.maximum(path.at_input.abs(), path.at_baseline.abs())
    limit = (path.change.abs() * _SHARE).clamp_min(rounding) if tolerance is None else path.change * 0 + tolerance
    all_panels = [Panels(float(t), max_steps, tight=float(r)) for t, r in zip(limit, rounding, strict=True)]
    while wanted := [(b, a) for b, panels in enumerate(all_panels) for a in panels.wanted()]:
        _evaluate(path, all_panels, wanted, by_dimension)
    whole = torch.stack([panels.integral() for panels in all_panels])
    shape = path.way.shape if by_dimension else path.way.shape[:2]
    count = torch.tensor([len(panels.values) for panels in all_panels])
    gap = whole.sum(1).to(path.change) - path.change
    return _Integral(
        whole.to(path.way).view(shape),
        gap,
        count,
        count,
        in_float64(limit),
        torch.tensor([panels.reached() for panels in all_panels]),
        torch.stack([panels.change().sum() for panels in all_panels]),
        [_steepest(panels) for panels in all_panels],
    )


def _steepest(panels: Panels) -> tuple[float, float, float]:
    """The part of the way where the quadrature is furthest off, from and to, and the metric's change over it."""
    low, high = panels.steepest()
    return low, high, panels.rise((low, high))


def steepest_words(place: Sequence[float]) -> str:
    """Where a path is too steep, in words.

    Examples
    --------
    >>> steepest_words([0.25, 0.2578125, -3.2])
    'the metric changes by -3.2 between 0.25 and 0.2578 of the way'
    """
    low, high, change = place
    return f"the metric changes by {change:+.3g} between {low:.4g} and {high:.4g} of the way"


def _evaluate(path: Path, all_panels: list[Panels], wanted: list[tuple[int, float]], by_dimension: bool) -> None:
    """Give each prompt's panels the scores' integrand and the metric at the nodes that they want."""
    prompts, share = torch.tensor([b for b, _ in wanted]), torch.tensor([a for _, a in wanted], dtype=torch.float64)
    for part, value, gradient in path.points.gradients(prompts, lambda part: path.at(prompts[part], share[part])):
        scores = gradient * path.way[prompts[part]]
        scores = (scores if by_dimension else scores.sum(-1)).flatten(1).cpu()
        for (b, a), score, height in zip(wanted[part], scores, value.tolist(), strict=True):
            all_panels[b].put(a, score, height)
