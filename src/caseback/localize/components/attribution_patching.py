"""Attribution patching: every patch of a sweep at once, to first order (PRIMER 3.2.15).

    A(c) = (f^c(source) - f^c(base)) . d metric / d f^c   at the base run

Two forward passes and one backward pass give the estimate for every part at every position. It is exact where the
metric is linear in the part; elsewhere its error grows with the square of the change. It misses what saturates (a
query or key whose softmax is at its end) and what cancels (a direct effect against an indirect one): ``atp_star``
mends both, ``steps=`` averages the gradient along the way from one input to the other, ``verify_top`` runs real
patches on what ranked highest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.batches import Batches
from caseback.localize.components.machinery.first_order import dataset, needed, nodes, pairs_at_once, parts_of, reads
from caseback.localize.inputs.gradients.integrated_gradients import RULES
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.on_the_way import at_shares, gradients_on_the_way, over_points
from caseback.model.prompts.per_token import aligned, expect_metric
from caseback.model.prompts.run_pair import EMBED, RunPair, base_and_source, joined, run_rows
from caseback.model.registry import technique
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens


@technique(
    role="component effect",
    entry=("3.2.15",),
    citation="Nanda 2023, Hanna et al. 2024",
    cost="2 forwards + 1 backward for all parts",
)
def attribution_patching(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    sites: str | Sequence[Any] = ("z", "mlp_out"),
    direction: str = "noising",
    steps: int | None = None,
    rule: str = "gauss_legendre",
) -> xr.Dataset:
    """Estimate what patching each part of the model would change, for all parts and positions together.

    Positive: the metric would rise if the part took the other run's value. The metric's change is that of the patched
    run less the run that is patched.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned, one or one per prompt: ``Tokens``, or anything that
        ``Model.tokens`` takes. With corrupt None zeros are patched in: a first-order zero ablation, whose size for a
        head is Michel et al.'s pruning score.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must have a gradient.
    sites
        Names (all layers), ``(name, layer)`` pairs or hook names: ``embed``, ``resid_*``, ``attn_in``, ``mlp_in``,
        ``q_in k_in v_in``, ``q k v z``, ``head_out``, ``attn_out``, ``mlp_out``, ``mlp_pre mlp_gate mlp_post``,
        ``expert`` and the norms' outputs. Heads by default as their ``z``, and MLPs.
    direction
        ``"noising"``: the corrupt run's value into the clean run, gradients at the clean run. ``"denoising"``: the
        clean run's into the corrupt run, gradients there.
    steps
        Average the gradient over so many points between the two inputs' embeddings (integrated gradients of every
        part; EAP-IG's choice is 5). None: the gradient of the base run alone.
    rule
        How the points are laid: ``"gauss_legendre"``, ``"riemann_left"``, ``"riemann_right"``, ``"riemann_middle"``
        or ``"trapezoid"``.

    Returns
    -------
    xr.Dataset
        One variable per site, (layer, head, pos, batch), (layer, neuron, pos, batch), (layer, pos, batch) or
        (pos, batch) as the site has them (``expert`` goes by ``expert_weight``); NaN past the end of a shorter
        prompt, and in layers that only another site was asked for in. Beside them the metrics ``clean`` and ``corrupt``
        and ``estimated_change``, the estimate for all embeddings patched at once, whose true value is
        the difference of those two: how far linearity holds on each pair.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    CasebackError
        For a metric without gradient, or one whose gradient vanishes at the base run.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> estimate = attribution_patching(model, "the cat and the dog", "the dog and the dog", cb.logit(" cat"))
    >>> estimate["z"].dims, estimate["mlp_out"].dims
    (('layer', 'head', 'pos', 'batch'), ('layer', 'pos', 'batch'))
    """
    metric = expect_metric(metric)
    chosen = nodes(model, sites)
    if rule not in RULES:
        raise CasebackError(f"rule {rule!r} is unknown. {did_you_mean(rule, RULES)}")
    if steps is not None and steps < 1:
        raise OutOfRange(f"steps is {steps}: expected at least 1, or None for the base run's gradient alone")
    if corrupt is None and (steps is not None or direction != "noising"):
        raise CasebackError(
            "without corrupt= zeros are patched into the clean run: there is no input to interpolate to or to denoise"
        )
    read = list(dict.fromkeys([*reads(model, chosen), EMBED]))
    base, source = base_and_source(model, clean, corrupt, direction)

    def of_rows(rows: slice) -> tuple[dict[Site, Tensor], Tensor, dict[str, Any]]:
        pair = run_rows(model, base, source, metric, rows, read, direction, grad=steps is None)
        parts = parts_of(model, chosen, pair.base, pair.source)
        whole = parts_of(model, [EMBED], pair.base, pair.source)[0]
        at = needed([*parts, whole])
        gradients = pair.gradients(at) if steps is None else _averaged(model, pair, at, *RULES[rule](steps))
        change = whole.estimate(gradients)
        change = change.masked_fill(~pair.base.tokens.mask.to(change.device), 0.0).sum(-1)
        return {part.site: part.estimate(gradients) for part in parts}, change, pair.coords()

    # both runs' values at a site, their difference and the gradient there
    at_once = pairs_at_once(model, base, metric, read, held=4)
    results = [result for _, result in Batches(at_once, "prompts").over(len(base), of_rows)]
    estimates, changes, coords = zip(*results, strict=True)
    return dataset(
        {site: torch.cat([part[site] for part in estimates]) for site in chosen},
        model,
        base,
        metric,
        {**joined(coords), "estimated_change": ("batch", torch.cat(changes))},
        technique=attribution_patching,
        direction=direction,
        patch="zero" if corrupt is None else "resample",
        steps=steps,
        rule=None if steps is None else rule,
    )


def _averaged(model: Model, pair: RunPair, at: Sequence[Site], nodes: np.ndarray, weights: np.ndarray) -> Run:
    """Gradients averaged over points between the two runs' embeddings."""
    assert pair.source is not None
    tokens: Tokens = pair.base.tokens
    start, end = (at_least_float32(aligned(run["embed"].detach(), tokens)) for run in (pair.base, pair.source))
    put: Callable[[Tensor], Edit] = lambda shares: Replace(  # noqa: E731
        "embed", start.repeat_interleave(len(shares), 0) + at_shares(end - start, shares)
    )
    total: dict[Site, Tensor] = {}
    for part, _, gradients in gradients_on_the_way(model, tokens, pair.metric, nodes.tolist(), put, at):
        for site in at:
            step = over_points(gradients[site.key], weights[part].tolist())
            total[site] = step if site not in total else total[site] + step
    return Run(model.anatomy, tokens, total, None)
