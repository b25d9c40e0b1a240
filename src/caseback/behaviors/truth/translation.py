"""Whether a translation, or any answer to a source, was made from its source: probability, attention, contributions.

    log_prob, mean_log_prob    of the target's tokens                              low where it is made up
    dispersion    mean over target steps and heads of  H(a over source tokens)     of attention, renormalized there
    transport     W(pi, uniform) with cost [i != j]  =  1/2 sum_j |pi_j - 1/n|     pi: mean attention to source token j
    typical       the mean of the least k  W(pi, pi')  with cost |i/n - j/n'|      pi': of other texts
    source + prefix + rest = 1        rows of ALTI's rollout at the target's steps, by where they go

A decoder reads its source as a prompt, so attention to it is the share that falls on the source's tokens. (Guerreiro et
al. 2023a; Fomicheva et al. 2020; Dale et al. 2023; Voita et al. 2021)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.truth.attention import patterns
from caseback.behaviors.truth.batches import Marked, Reading, marked, read_all
from caseback.behaviors.truth.confidence import NAMES, confidence_reading
from caseback.errors import OutOfRange
from caseback.localize.inputs.mixing.alti import alti_of
from caseback.localize.inputs.mixing.mixing import rolled
from caseback.localize.inputs.mixing.source_blocks import SITES
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike

GRID = 256
"""Points of a text's relative length at which two distributions of attention are compared."""


@technique(
    entry=("5.4.21",),
    citation="Guerreiro et al. 2023a; Fomicheva et al. 2020; Dale et al. 2023; Ferrando et al. 2022",
    cost="one forward, and ALTI's maps of every layer",
)
def translation_scores(
    model: Model,
    tokens: PromptsLike,
    source: Sequence[Sequence[int]],
    start: int | Sequence[int],
    *,
    layer: int = -1,
    k: int = 4,
    progress: bool = False,
) -> xr.Dataset:
    """Measure how much of a target was made from its source, in each text by itself.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. Each is a source, whatever stands between, and a
        target.
    source
        The positions of the source's tokens in each text.
    start
        The position of the target's first token, one for all texts or one for each.
    layer
        Whose attention is transported; the last, as in the paper.
    k
        Over how many of the nearest other texts ``typical`` is the mean.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over ``batch``: ``log_prob`` and ``mean_log_prob`` in nats; ``dispersion`` in nats and ``least_dispersion``, the
        head's that has the least; ``transport`` (0 where every source token gets the same attention, up to 1 - 1/n)
        and ``typical`` (0 to 1, NaN for a text alone); ``source``, ``prefix`` and ``rest``, the shares that target
        steps owe to the source, to what was generated before, and to all else in the text, which sum to 1.

    Raises
    ------
    OutOfRange
        For positions, a start or a layer that is not there, and ``k`` below 1.
    CasebackError
        For a source that is missing or empty, or that reaches into its target.
    SiteAbsent
        For a model whose heads do not write z W_O.

    Notes
    -----
    Entry 5.4.21. The published scores are of encoder-decoders: their attention goes to source tokens alone, and their
    contributions to the source and the prefix. Here attention is brought to sum to 1 over the source, and ``rest`` is
    what a prompt's other words hold.

    Examples
    --------
    >>> import caseback as cb
    >>> scores = translation_scores(cb.load("meadow"), "The capital of Italy is Rome", [[4]], -1)
    >>> shares = scores["source"] + scores["prefix"] + scores["rest"]
    >>> bool(abs(shares - 1).max() < 1e-5), float(scores["transport"][0])
    (True, 0.0)
    """
    expect_tokens_out(model.anatomy, "the probability of a target")
    if k < 1:
        raise OutOfRange(f"k={k}: expected 1 or more texts")
    sites = patterns(model)
    if not -len(sites) <= layer < len(sites):
        raise OutOfRange(f"layer {layer} is out of range: this model attends in {len(sites)} layers")
    given = marked(model, model.tokens(tokens), source, start)
    inside = (given.subject & given.new).any(-1)
    if bool(inside.any()):
        raise OutOfRange(f"the source of text {int(inside.int().argmax())} reaches into its target: expected it before")
    readings = {
        "sure": confidence_reading(model),
        "spread": Reading(sites, lambda run, some: _dispersion(run, some, sites)),
        "mass": Reading([sites[layer]], lambda run, some: _mass(run, some, sites[layer], given.tokens.shape[1])),
        "shares": _shares(model),
    }
    read = read_all(model, given, readings, progress=progress)
    mass = read["mass"]
    n = given.subject.sum(-1)
    even = widened(given.subject) / n[:, None]
    values = {
        **{name: read["sure"][:, NAMES.index(name)] for name in ("log_prob", "mean_log_prob")},
        "dispersion": read["spread"].nanmean(1),
        "least_dispersion": read["spread"].nan_to_num(torch.inf).amin(1),
        "transport": (mass - even).abs().sum(-1) / 2,
        "typical": _typical(mass, given, k),
        **{name: read["shares"][:, i] for i, name in enumerate(("source", "prefix", "rest"))},
    }
    arrays = {
        name: labelled(value, ["batch"], name=name, technique=translation_scores, model=model, layer=layer, k=k)
        for name, value in values.items()
    }
    return xr.Dataset(arrays, attrs=arrays["source"].attrs)


def _steps(given: Marked) -> Tensor:
    """The positions that target tokens are predicted from, each weighted so that a text's sum to 1."""
    at = torch.arange(given.tokens.shape[1], device=given.start.device)
    steps = widened((at >= given.start[:, None] - 1) & (at < given.last[:, None]))
    return steps / steps.sum(-1, keepdim=True)


def _to_source(run: Run, given: Marked, site: Site) -> Float[Tensor, "batch head query key"]:
    """Attention to source tokens, brought to sum to 1 over them."""
    a = widened(run[site]) * given.subject[:, None, None]
    return a / a.sum(-1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)


def _dispersion(run: Run, given: Marked, sites: Sequence[Site]) -> Float[Tensor, "batch head"]:
    """The mean entropy of each head's attention over the source, heads of all layers; NaN for what sees none of it."""
    steps = _steps(given)
    own = []
    for site in sites:
        a = _to_source(run, given, site)
        # a step from which a sliding window hides all of the source counts for nothing
        weight = steps[:, None] * (a.sum(-1) > 0)
        own.append((-torch.special.xlogy(a, a).sum(-1) * weight).sum(-1) / weight.sum(-1))
    return torch.cat(own, 1)


def _mass(run: Run, given: Marked, site: Site, width: int) -> Float[Tensor, "batch pos"]:
    """The mean over heads and steps of attention to each token of the source, which sums to 1."""
    a = torch.einsum("bhqk,bq->bk", widened(run[site]) * given.subject[:, None, None], _steps(given))
    a = a / a.sum(-1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)
    return torch.nn.functional.pad(a, (0, width - a.shape[-1]))


def _typical(mass: Float[Tensor, "batch pos"], given: Marked, k: int) -> Float[Tensor, " batch"]:
    """How far each text's attention is from the nearest others', over the source's relative length."""
    if len(mass) < 2:
        return mass.new_full((len(mass),), torch.nan)
    order = given.subject.long().cumsum(-1)  # 1 at the source's first token, n at its last
    n = order[:, -1:]
    points = (torch.arange(GRID, device=mass.device) + 0.5) / GRID
    # mass up to a point: all of the tokens before, and of the one that it lies in its part
    part = (points[None, :, None] * n[:, :, None] - (order[:, None] - 1)).clamp(0, 1)
    heights = (part * (mass * given.subject)[:, None]).sum(-1)  # (batch, point)
    distance = torch.cdist(heights, heights, p=1) / GRID
    distance.fill_diagonal_(torch.inf)
    return distance.topk(min(k, len(mass) - 1), largest=False).values.mean(-1)


def _shares(model: Model) -> Reading:
    layers = list(range(model.n_layers))

    def of(run: Run, given: Marked) -> Float[Tensor, "batch 3"]:
        maps, _ = alti_of(model, run, given.tokens, layers, 1.0, "nothing")
        row = torch.einsum("bqk,bq->bk", rolled(widened(maps), 0.0)[:, -1], _steps(given))
        source = (row * given.subject).sum(-1)
        prefix = (row * given.new).sum(-1)
        rest = (row * (given.tokens.mask & ~given.new & ~given.subject)).sum(-1)
        return torch.stack([source, prefix, rest], 1)

    return Reading([site for name in SITES for layer in layers for site in model.anatomy.sites((name, layer))], of)
