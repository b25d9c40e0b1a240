"""A patch to first order: what a part changes by, times the gradient at it (PRIMER 3.2.15).

    estimate(c) = (f^c(source) - f^c(base)) . d metric / d f^c

A ``Part`` holds the change of one site of one layer and knows which gradients it needs, so that one backward pass
serves all parts, and so can several passes each. Of what heads write nothing of size (head, d_model) is formed: z
stands for it, through W_O, whose transpose the backward pass has already applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, SiteAbsent
from caseback.model.algebra.writes import attention_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site, kind_of
from caseback.model.prompts.embedding_points import rows_at_once
from caseback.model.prompts.per_token import aligned
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens
from caseback.model.sweeping.room import numbers_of

Estimate = Float[Tensor, "batch pos *unit"]
_UNITS = ("head", "kv_head", "neuron", "expert")
VARIABLES = {"expert": "expert_weight"}
"""A site whose name is a dimension's goes by another in datasets."""
_NOT_NODES = {
    "scores": "its entries are edges of attention; take the queries 'q' and keys 'k' that make them",
    "pattern": "its entries are edges of attention; take 'z', or the queries 'q' and keys 'k'",
    "logits": "the metric is a function of them",
}


@dataclass(frozen=True)
class Part:
    """One site of one layer with its change between the two runs.

    Attributes
    ----------
    site
        What is patched.
    needs
        The sites whose gradients the estimate takes.
    estimate
        From a run of gradients to (batch, pos), with the site's heads, neurons or experts behind.
    """

    site: Site
    needs: tuple[Site, ...]
    estimate: Callable[[Run], Estimate]


def nodes(model: Model, sites: str | Sequence[Any]) -> list[Site]:
    """The sites asked for, in every layer that has them, each once.

    Raises
    ------
    SiteAbsent
        For a site without parts to patch, saying what to take instead.
    CasebackError
        Where none is given.
    """
    given = [sites] if isinstance(sites, str) else list(sites)
    chosen = list(dict.fromkeys(site for s in given for site in model.anatomy.sites(s)))
    if not chosen:
        raise CasebackError("no site to attribute to: give names such as 'z', 'mlp_out' or 'resid_pre'")
    for site in chosen:
        why = _NOT_NODES.get(site.name, None if site.kind.editable else "it is read-only")
        if why is not None:
            raise SiteAbsent(f"{site.name!r} has no parts to patch: {why}")
    return chosen


def reads(model: Model, sites: Sequence[Site]) -> list[Site]:
    """What a run must read for these sites' parts."""
    needed = (_stand_ins(model, site) for site in sites)
    return list(dict.fromkeys(site for group in needed for site in group))


def _stand_ins(model: Model, site: Site) -> tuple[Site, ...]:
    if site.name != "head_out" or model.anatomy.head_site == "head_out":
        return (site,)
    z = Site("z", site.layer)
    post = model.anatomy.layers[site.layer or 0].attn_post_norm
    return (z,) if post is None else (z, Site("attn_out", site.layer))


def pairs_at_once(model: Model, base: Tokens, metric: Metric, read: Sequence[Site], held: int) -> int:
    """How many prompts go forward and back together with their counterfactuals.

    Parameters
    ----------
    model, base, metric
        The model, all prompts that are patched, and what is measured.
    read
        The sites that both runs read.
    held
        How many times the numbers of these sites are held: both runs' values, their difference, gradients, estimates.
    """
    numbers = sum(numbers_of(model.anatomy, site, base.shape[1]) for site in read)
    return rows_at_once(model, base, metric, held * max(4, model.dtype.itemsize) * numbers)


def parts_of(model: Model, sites: Sequence[Site], base: Run, source: Run | None) -> list[Part]:
    """The parts of some sites, from the run that is patched and the run that the patch comes from (None: zeros)."""
    return [_part(model, site, base, source) for site in sites]


def _part(model: Model, site: Site, base: Run, source: Run | None) -> Part:
    if site.name == "head_out" and model.anatomy.head_site == "z":
        return _head_writes(model, site, base, source)
    return difference(site, site, base, source)


def difference(site: Site, at: Site, base: Run, source: Run | None) -> Part:
    """A part whose change, and whose gradient, are those of the site ``at``."""
    change = change_of(at, base, source)
    if at.kind.dims[-1] in _UNITS:
        return Part(site, (at,), lambda g: change * at_least_float32(g[at.key]))
    return Part(site, (at,), lambda g: (change * at_least_float32(g[at.key])).sum(-1))


def change_of(site: Site, base: Run, source: Run | None) -> Tensor:
    """What stands at a site in the other run less what stands there, in float32 at least."""
    here = at_least_float32(base[site.key].detach())
    return -here if source is None else at_least_float32(source[site.key].detach()) - here


def _head_writes(model: Model, site: Site, base: Run, source: Run | None) -> Part:
    """Heads' writes by their z; behind a norm each run's share is held at that run's denominator."""
    layer = site.layer or 0
    z, out = Site("z", layer), Site("attn_out", layer)
    if model.anatomy.layers[layer].attn_post_norm is None:
        return difference(site, z, base, source)
    runs = [(1.0, source), (-1.0, base)] if source is not None else [(-1.0, base)]
    held = [(sign, at_least_float32(run[z.key].detach())) for sign, run in runs]
    branches = [(sign, acts, attention_branch(model.anatomy, layer, acts)) for sign, acts in held]

    def estimate(gradients: Run) -> Tensor:
        g = at_least_float32(gradients[out.key])
        total = g.new_zeros(())
        for sign, acts, branch in branches:
            # scale (batch, pos, 1) divides what each head is worth on the pulled gradient
            assert branch.scale is not None
            worth = torch.einsum("hed,bpd->bphe", branch.weight, branch.pull(g))
            total = total + sign * (acts * worth).sum(-1) / branch.scale
        return total

    return Part(site, (out,), estimate)


def needed(parts: Sequence[Part]) -> list[Site]:
    """The gradients that some parts need, each once."""
    return list(dict.fromkeys(site for part in parts for site in part.needs))


def dataset(
    estimates: Mapping[Site, Estimate],
    model: Model,
    tokens: Tokens,
    metric: Metric,
    coords: Mapping[str, Any],
    *,
    technique: Callable[..., Any],
    **attrs: Any,
) -> xr.Dataset:
    """Label estimates, one variable per site: (layer, [head, neuron ...,] pos, batch).

    Positions are each prompt's own, from 0; there is NaN past a shorter prompt's end, and in layers that another site
    has.
    """
    variables = {}
    for name in dict.fromkeys(site.name for site in estimates):
        mine = {site.layer: x for site, x in estimates.items() if site.name == name}
        unit = next((d for d in kind_of(name).dims if d in _UNITS), None)
        layered = kind_of(name).layered
        values = _stacked(name, list(mine.values()), tokens)
        counted = {"pos": range(tokens.shape[1])} | ({unit: range(values.shape[1])} if unit else {})
        variable = VARIABLES.get(name, name)
        variables[variable] = labelled(
            values if layered else values[0],
            [*(["layer"] if layered else []), *([unit] if unit else []), "pos", "batch"],
            {**({"layer": list(mine)} if layered else {}), **counted, **coords},
            name=variable,
            technique=technique,
            model=model,
            site=name,
            metric=metric.name,
            target=metric.target,
            foil=metric.foil,
            metric_pos=metric.pos,
            **attrs,
        )
    shared = next(iter(variables.values())).attrs
    return xr.Dataset(variables, attrs={k: v for k, v in shared.items() if k != "site"})


def _stacked(name: str, layers: Sequence[Estimate], tokens: Tokens) -> Tensor:
    """(batch, column, unit) of each layer as (layer, unit, pos, batch)."""
    widths = sorted({x.shape[2:] for x in layers})
    if len(widths) > 1:
        raise CasebackError(
            f"{name!r} has {[w[0] for w in widths]} parts in different layers, which do not stack: ask for one layer, "
            f"as ({name!r}, layer)"
        )
    inside = (torch.arange(tokens.shape[1]) < tokens.lengths.cpu()[:, None]).T
    stacked = aligned(torch.stack([x.to(layers[0].device) for x in layers], 2), tokens).cpu()
    return stacked.permute(2, *range(3, stacked.ndim), 1, 0).masked_fill(~inside, torch.nan)
