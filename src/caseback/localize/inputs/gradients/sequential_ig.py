"""Sequential integrated gradients: a path of its own for every token, the others kept as they are (PRIMER 3.1.3).

    A_i = (x_i - x'_i) . integral_0^1 d metric / d x_i (x_1 .. x'_i + a (x_i - x'_i) .. x_n) da

Each score is complete by itself: it is what the metric loses when that token's embedding alone is put at the baseline,
so added up over dimensions it approaches an occlusion. What is new is how it splits over them.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.inputs.gradients.integrated_gradients import check_rule
from caseback.localize.inputs.gradients.quadrature import RULES
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.prompts.baselines import baseline_embedding, baseline_name
from caseback.model.prompts.per_token import aligned, prepared, token_scores
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.model.sweeping.suffix_gradients import suffix_gradients


@technique(
    role="input attribution",
    entry=("3.1.3",),
    citation="Enguehard 2023",
    cost="steps x tokens x half a prompt's (forward + backward)",
)
def sequential_integrated_gradients(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    baseline: str | int | Float[Tensor, "*batch pos d_model"] = "mean",
    steps: int = 50,
    rule: str = "gauss_legendre",
    normalise: bool = False,
    token_budget: int | None = None,
    by_dimension: bool = False,
) -> xr.DataArray:
    """What each token adds to the metric on the way from a baseline of its own, all other tokens in place.

    Only what comes after a token is run anew: keys and values of the prefix are those of the prompt.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    baseline
        Where each token's path starts, as for ``integrated_gradients`` (the paper: a mask token's embedding, which
        decoders mostly lack).
    steps
        Nodes of the quadrature, for every token.
    rule
        ``"gauss_legendre"``, ``"riemann_left"``, ``"riemann_right"``, ``"riemann_middle"`` or ``"trapezoid"``.
    normalise
        Divide by the norm of a prompt's scores, as the paper does at the end; completeness is then lost.
    token_budget
        Most tokens in one pass; memory is bounded by it. By default 512 on a CPU, 8192 on an accelerator.
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token; 0 after the position
        that the metric reads. Beside it ``baseline_value`` (batch, pos), the metric with that token at its baseline,
        and ``completeness_gap`` (batch, pos), a token's score less the metric's change.

    Raises
    ------
    OutOfRange
        For a number of steps or a budget below 1.
    TargetError
        Where a foil is the target.
    CasebackError
        For an unknown rule or baseline, a baseline of a wrong shape, or a ``metric`` that is not a ``Metric``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = sequential_integrated_gradients(model, "the cat and the dog", cb.logit(" cat"), steps=20)
    >>> bool((abs(scores.completeness_gap) < 0.05).all())
    True
    """
    tokens, metric = prepared(model, tokens, metric)
    check_rule(rule, steps, tuple(RULES))
    if token_budget is not None and token_budget < 1:
        raise OutOfRange(f"token_budget is {token_budget}: expected at least 1")
    clean = model.run(tokens, read=["embed", *metric.reads])
    end = aligned(at_least_float32(clean["embed"].detach()), tokens)
    value = metric(clean).detach().cpu()
    start = baseline_embedding(model, baseline, end)
    way = end - start
    nodes, weights = (torch.from_numpy(x) for x in RULES[rule](steps))
    # The last node of every token, with no weight, is the baseline itself: its value tells the gap.
    share, weight = torch.cat([nodes, nodes.new_zeros(1)]), torch.cat([weights, weights.new_zeros(1)])
    inside = torch.arange(end.shape[1]) < tokens.lengths.cpu()[:, None]
    prompts, positions = (x.repeat_interleave(len(share)) for x in inside.nonzero().T)
    which = torch.arange(len(share)).repeat(int(inside.sum()))
    scores, at_baseline = torch.zeros_like(end), value[:, None].repeat(1, end.shape[1])

    def embeddings(points: Tensor) -> Tensor:
        b, i = prompts[points], positions[points]
        return start[b, i] + share[which[points]].to(start)[:, None] * way[b, i]

    batches = suffix_gradients(model.anatomy, tokens, metric, prompts, positions, embeddings, token_budget=token_budget)
    for points, values, gradient in batches:
        b, i, k = prompts[points], positions[points], which[points]
        weighted = at_least_float32(gradient) * weight[k].to(end)[:, None]
        scores.index_put_((b, i), weighted * way[b, i], accumulate=True)
        last = k == steps
        at_baseline[b[last], i[last]] = values.cpu()[last]
    gap = (scores.sum(-1).cpu() - (value[:, None] - at_baseline)).masked_fill(~inside, float("nan"))
    size = scores.sum(-1).norm(dim=1)[:, None, None]
    scores = scores / torch.where(size == 0, 1.0, size) if normalise else scores
    result = token_scores(
        scores if by_dimension else scores.sum(-1),
        model,
        tokens,
        metric,
        technique=sequential_integrated_gradients,
        name="sequential_integrated_gradients",
        baseline=baseline_name(baseline),
        rule=rule,
        steps=steps,
        metric_value=value.tolist(),
        normalised=normalise,
    )
    beside = {"baseline_value": at_baseline.masked_fill(~inside, float("nan")), "completeness_gap": gap}
    return result.assign_coords({name: (("batch", "pos"), x.numpy()) for name, x in beside.items()})
