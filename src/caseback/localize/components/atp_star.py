"""AtP*: attribution patching without its two blind spots (PRIMER 3.2.16).

    estimate(c) = 1/(L-1) sum_l | change(c) . d metric^(l) / d f^c |

A saturated softmax has no slope: queries and keys get the QK fix, the pattern recomputed exactly. A direct effect may
cancel against an indirect one: GradDrop takes the gradient L times, each time leaving out what flows through one
layer's writes, and averages sizes. Left out, layer l hands the gradient at its output on to its input unchanged, so
the l-th pass goes only through the layers below it; those above keep the plain gradient, and what is inside layer l
has none, which is why the sum is divided by L - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.batches import Batches
from caseback.localize.components.machinery.first_order import (
    Part,
    dataset,
    needed,
    nodes,
    pairs_at_once,
    parts_of,
    reads,
)
from caseback.localize.components.machinery.qk_fix import attention_calls, keys, queries, sites_of
from caseback.model.algebra.under_edits import expect_unedited
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.per_token import expect_metric
from caseback.model.prompts.run_pair import RunPair, base_and_source, joined, run_rows
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike

_STREAM = ("resid_pre", "resid_mid", "resid_post")


@technique(
    role="component effect",
    entry=("3.2.16", "B.9"),
    citation="Kramár et al. 2024",
    cost="3 forwards + about layers/2 + 1 backwards for all parts",
)
def atp_star(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    sites: str | Sequence[Any] = ("q", "k", "v", "z", "mlp_out"),
    direction: str = "noising",
    qk_fix: bool = True,
    grad_drop: bool = True,
) -> xr.Dataset:
    """Estimate what patching each part would change, with the pattern recomputed and cancellation undone.

    With ``grad_drop`` estimates are sizes: they say how much a part matters, not in which direction, and a part whose
    effects cancel in this run is not missed. Without it they are signed as in ``attribution_patching``.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned, one or one per prompt: ``Tokens``, or anything that
        ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must have a gradient.
    sites
        As for ``attribution_patching``; by default heads' queries, keys, values and outputs, and MLPs. The fix is
        for ``q`` and ``k``.
    direction
        ``"noising"`` patches the corrupt run's values into the clean run, ``"denoising"`` the reverse.
    qk_fix
        Recompute the softmax for patched queries and keys.
    grad_drop
        Average sizes over gradients that each leave out one layer.

    Returns
    -------
    xr.Dataset
        As from ``attribution_patching``: one variable per site, (layer, [head, kv_head ...,] pos, batch). One estimate
        per prompt; the paper's score is their mean over prompts.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    CasebackError
        For a metric without gradient, or one whose gradient vanishes at the run that is patched; for ``grad_drop`` in
        a model of one layer.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> sizes = atp_star(model, "the cat and the dog", "the dog and the dog", cb.logit(" cat"), sites=["q", "k"])
    >>> sizes["q"].dims, bool((sizes["k"] >= 0).all())
    (('layer', 'head', 'pos', 'batch'), True)
    """
    metric = expect_metric(metric)
    chosen = nodes(model, sites)
    if corrupt is None:
        raise CasebackError("AtP* needs corrupt=: the pattern is recomputed with the queries and keys of another run")
    if grad_drop and model.n_layers < 2:
        raise CasebackError("GradDrop leaves out one layer at a time and needs at least two: pass grad_drop=False")
    fixed = [site for site in chosen if qk_fix and site.name in ("q", "k")]
    if fixed:
        maps = {"scores", "pattern", "z"}
        expect_unedited(model.anatomy, "a pattern that is recomputed", maps, "pass qk_fix=False")
    patterns = [site for f in fixed for site in (*sites_of(f.layer or 0), Site("z", f.layer))]
    layers = range(model.n_layers) if grad_drop else ()
    stream = [Site(name, layer) for layer in layers for name in ("resid_pre", "resid_post")]
    read = list(dict.fromkeys([*reads(model, chosen), *patterns, *stream]))
    base, source = base_and_source(model, clean, corrupt, direction)

    def of_rows(rows: slice) -> tuple[dict[Site, Tensor], dict[str, Any]]:
        pair = run_rows(model, base, source, metric, rows, read, direction, grad=True)
        parts = _parts(model, chosen, fixed, pair)
        return _dropped(parts, pair) if grad_drop else _plain(parts, pair), pair.coords()

    # both runs' values, their difference, the plain gradients, those with a layer left out, and sums of sizes
    at_once = pairs_at_once(model, base, metric, read, held=6)
    results = [result for _, result in Batches(at_once, "prompts").over(len(base), of_rows)]
    estimates, coords = zip(*results, strict=True)
    return dataset(
        {site: torch.cat([part[site] for part in estimates]) for site in chosen},
        model,
        base,
        metric,
        joined(coords),
        technique=atp_star,
        direction=direction,
        patch="resample",
        qk_fix=qk_fix,
        grad_drop=grad_drop,
        signed=not grad_drop,
    )


def _parts(model: Model, chosen: Sequence[Site], fixed: Sequence[Site], pair: RunPair) -> list[Part]:
    assert pair.source is not None
    calls = attention_calls(model.anatomy, pair.base.tokens) if fixed else []
    by_site = {part.site: part for part in parts_of(model, chosen, pair.base, pair.source)}
    for site in fixed:
        layer = site.layer or 0
        patched = queries if site.name == "q" else keys
        by_site[site] = patched(layer, calls[layer], pair.base, pair.source)
    return [by_site[site] for site in chosen]


def _plain(parts: Sequence[Part], pair: RunPair) -> dict[Site, Tensor]:
    gradients = pair.gradients(needed(parts))
    return {part.site: part.estimate(gradients) for part in parts}


def _dropped(parts: Sequence[Part], pair: RunPair) -> dict[Site, Tensor]:
    """Mean sizes over the layers left out."""
    n = pair.base.anatomy.n_layers
    above = [Site("resid_post", layer) for layer in range(n)]
    plain = pair.gradients([*needed(parts), *above], retain=True)
    # a part keeps the plain gradient while a layer below it is left out; what is behind the last layer always does
    total = {part.site: _depth(part.site, n) * part.estimate(plain).abs() for part in parts}
    for layer in range(n):
        through = plain[above[layer].key]
        for part in parts:
            if part.site.layer == layer and part.site.name in _STREAM:
                total[part.site] += part.estimate(_handed_on(pair.base, part, plain, through)).abs()
        below = [part for part in parts if part.site.layer is None or part.site.layer < layer]
        below = [part for part in below if part.site != Site("final_norm")]
        if not below:
            continue
        enters = pair.base["resid_pre", layer]
        values = (enters * through.to(enters)).flatten(1).sum(1)
        gradients = pair.base.grad(values, needed(below), retain=True)
        for part in below:
            total[part.site] += part.estimate(gradients).abs()
    return {site: x / (n - 1) for site, x in total.items()}


def _depth(site: Site, n_layers: int) -> int:
    """How many layers stand below a site, which it does not notice when they are left out."""
    if site.layer is not None:
        return site.layer
    return n_layers if site.name == "final_norm" else 0


def _handed_on(base: Run, part: Part, plain: Run, through: Tensor) -> Run:
    """Gradients inside the layer that is left out: the stream has that of its output."""
    own = plain[part.site.key]
    inside = own if part.site.name == "resid_post" else through
    return Run(base.anatomy, base.tokens, {part.site: at_least_float32(inside)}, None)
