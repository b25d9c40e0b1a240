"""Relevance of any site: of heads, neurons, attention patterns, the stream (PRIMER 3.1.5, 3.1.6).

    R(site) = activation * modified gradient

One backward pass under the rules gives it everywhere at once. At every cut through a network without biases where
attention patterns, gates and denominators are held it sums to the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.inputs.gradients.relevance import PRESETS
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import SITES, Site
from caseback.model.backward.rules import Rules
from caseback.model.prompts.per_token import aligned, prepared
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

_SUMMED = ("d_model", "d_head")


@technique(
    role="input attribution of another kind",
    entry=("3.1.5", "3.1.6"),
    citation="Bach et al. 2015, Ali et al. 2022, Achtibat et al. 2024",
    cost="one forward + one backward",
)
def site_relevance(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    sites: str | Sequence[Any],
    *,
    rules: str | Rules = "attn_lrp",
    by_dimension: bool = False,
) -> xr.Dataset:
    """Relevance of sites inside the model, one variable per site.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is what is handed back; see
        ``attn_lrp``.
    sites
        Names (all layers), ``(name, layer)`` pairs, hook names or module paths, as for ``Model.run``.
    rules
        ``"attn_lrp"``, ``"conservative"``, ``"epsilon"``, or ``Rules`` of your own.
    by_dimension
        Keep ``d_model`` and ``d_head``, over which relevance is otherwise added up. Neurons, experts and attention's
        keys always stay.

    Returns
    -------
    xr.Dataset
        One variable per site (``expert``'s is ``expert_weights``), (layer, batch, pos, ...), attention's (layer, batch,
        head, query, key); NaN where a shorter prompt has no token, and where a layer lacks a site that another one
        given has there. What the rules hold constant has relevance 0.

    Raises
    ------
    UnknownSite, SiteAbsent
        For a site that this model lacks, or that has no gradient.
    TargetError
        Where a foil is the target.
    CasebackError
        For unknown rules, no site, or a ``metric`` that is not a ``Metric``.

    Notes
    -----
    Patents are claimed on LRP and AttnLRP; check before commercial use.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> relevance = site_relevance(model, "the cat and the dog", cb.logit(" cat"), ["z", ("mlp_post", 0)])
    >>> relevance["z"].dims, relevance["mlp_post"].dims
    (('layer', 'batch', 'pos', 'head'), ('layer', 'batch', 'pos', 'neuron'))
    """
    tokens, metric = prepared(model, tokens, metric)
    name = rules if isinstance(rules, str) else "own"
    if isinstance(rules, str):
        if rules not in PRESETS:
            raise CasebackError(f"rules {rules!r} are unknown. {did_you_mean(rules, PRESETS)}")
        rules = PRESETS[rules]
    pair = isinstance(sites, tuple) and len(sites) == 2 and isinstance(sites[1], int)
    given: Sequence[Any] = [sites] if isinstance(sites, str) or pair else list(sites)
    wanted = list(dict.fromkeys(site for one in given for site in model.anatomy.sites(one)))
    if not wanted:
        raise CasebackError("no site given: name what should have relevance, such as sites=['resid_post', 'z']")
    run, value = measured(model.anatomy, tokens, metric, read=wanted, grad=True, rules=rules)
    gradients = run.grad(value, wanted, retain=False)
    layers: dict[str, list[Site]] = {}
    for site in wanted:
        layers.setdefault(site.name, []).append(site)
    variables = {}
    for site_name, each in layers.items():
        values = [_aligned(run[s].detach() * gradients[s], s, tokens) for s in each]
        dims = ["batch", *SITES[site_name].dims]
        stacked = torch.stack(values) if SITES[site_name].layered else values[0]
        if dims[-1] in _SUMMED and not by_dimension:
            stacked, dims = stacked.sum(-1), dims[:-1]
        coords = _labels(dims, tokens)
        if SITES[site_name].layered:
            dims, coords = ["layer", *dims], coords | {"layer": [s.layer for s in each]}
        # a variable may not be called as one of its dimensions is
        variable = f"{site_name}_weights" if site_name in dims else site_name
        variables[variable] = labelled(
            stacked,
            dims,
            coords,
            name=variable,
            technique=site_relevance,
            model=model,
            metric=metric.name,
            target=metric.target,
            foil=metric.foil,
            metric_value=value.tolist(),
            rules=name,
            **{f"{step}_rule": choice for step, choice in rules.as_attrs().items()},
        )
    return xr.Dataset(variables)


def _aligned(values: Float[Tensor, "batch *dims"], site: Site, tokens: Tokens) -> Tensor:
    """Each prompt's own positions from 0, at both ends of a map; NaN past its end."""
    values = at_least_float32(values)
    inside = torch.arange(tokens.shape[1], device=values.device) < tokens.lengths.to(values.device)[:, None]
    axes = [i + 1 for i, dim in enumerate(SITES[site.name].dims) if dim in ("pos", "query", "key")]
    for axis in axes:
        values = aligned(values.movedim(axis, 1), tokens).movedim(1, axis)
        shape = [1] * values.ndim
        shape[0], shape[axis] = inside.shape
        values = values.masked_fill(~inside.view(shape), float("nan"))
    return values


def _labels(dims: list[str], tokens: Tokens) -> dict[str, Any]:
    texts = [row + [""] * (tokens.shape[1] - len(row)) for row in tokens.text]
    names = {"pos": "token", "query": "query_token", "key": "key_token"}
    return {names[dim]: (("batch", dim), texts) for dim in dims if dim in names}
