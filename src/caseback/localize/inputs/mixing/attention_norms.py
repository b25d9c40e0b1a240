"""Attention weights times what they weigh: norms of the vectors that heads move (PRIMER 3.1.13).

    value     ||a_ij v_j||                     output           ||sum_h a_ij v_j W_O||
    residual  ||T_i(x_j)||, T_i(x_j) = sum_h a_ij v_j W_O + [i = j] x_i
    norm      ||N(T_i(x_j))||, N the norm that reads the sum next, its denominator held

In a decoder with norms before its branches v_j = norm(x_j) W_V + b_V, so the norm at the source is always inside; the
norm that follows is the MLP's. A token that a head looks at but whose value is short counts for little.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, SiteAbsent, did_you_mean
from caseback.localize.inputs.mixing.mixing import (
    Across,
    by_own_positions,
    chosen_layers,
    heads_by_own_positions,
    labelled_maps,
    row_scores,
    row_shares,
)
from caseback.localize.inputs.mixing.rollout import residual_share
from caseback.localize.inputs.mixing.source_blocks import SITES, Rows, measured_blocks, through
from caseback.model.algebra.sources import values_of
from caseback.model.algebra.under_edits import attended
from caseback.model.algebra.writes import attention_branch, spread
from caseback.model.prompts.per_token import aligned
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike

OF = ("output", "value")


@technique(
    role="context mixing",
    entry=("3.1.13",),
    citation="Kobayashi et al. 2020, Kobayashi et al. 2021",
    cost="one forward",
)
def norm_maps(
    model: Model,
    tokens: PromptsLike,
    *,
    of: str = "output",
    residual: bool = False,
    norm: bool = False,
    heads: str = "sum",
    p: float = 2.0,
    normalise: bool = False,
    layers: Sequence[int] | None = None,
) -> xr.DataArray:
    """Norms of what each position takes from each other, of all heads together or head by head.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    of
        ``"output"``, the value through W_O as it reaches the stream, or ``"value"``, before W_O.
    residual
        Count the position's own stream to what it takes from itself (``of="output"``).
    norm
        Take vectors behind the frozen norm through which the MLP reads their sum; needs ``residual``.
    heads
        ``"sum"`` adds the heads' vectors (puts their values side by side) before the norm; ``"each"`` keeps them.
    p
        Which norm; 2 as in the papers.
    normalise
        Divide each row by its sum.
    layers
        All unless given; negative ones count from the end.

    Returns
    -------
    xr.DataArray
        (batch, layer, [head,] query, key), at least 0. The attribute ``holds_residual`` says whether a rollout needs
        the identity; ``empty_rows`` how many rows were zeros and were given to the position itself.

    Raises
    ------
    CasebackError
        For options that do not go together.
    SiteAbsent
        For ``norm`` where attention and MLP run in parallel: no norm reads the stream between them. For a model whose
        heads do not write z W_O.
    OutOfRange, UnknownSite
        For ``p`` below 1, or a layer that the model lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> norms = norm_maps(model, "the cat and the dog", residual=True, normalise=True)
    >>> norms.dims, bool(abs(norms.sum("key") - 1).max() < 1e-5)
    (('batch', 'layer', 'query', 'key'), True)
    """
    _expect(of, residual, norm, heads, p)
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    _expect_norms(model, chosen, norm)
    run = execute(model.anatomy, tokens, read=[(name, i) for i in chosen for name in SITES], logits=False)
    maps = []
    for layer in chosen:
        if of == "value" or heads == "each":
            norms = _of_each_head(model, run, layer, of, p)
            norms = norms if heads == "each" else norms.norm(p=p, dim=1)
        else:
            norms = measured_blocks(
                model,
                run,
                layer,
                lambda rows, at=layer: _behind(model, at, rows, norm).norm(p=p, dim=-1),
                residual=residual,
            )
        maps.append(heads_by_own_positions(norms, tokens) if heads == "each" else by_own_positions(norms, tokens))
    stacked, empty = torch.stack(maps, 1), None
    if normalise:
        stacked, empty = row_shares(stacked, tokens)
    return labelled_maps(
        stacked,
        model,
        tokens,
        chosen,
        technique=norm_maps,
        name="norm",
        of=of,
        residual=residual,
        norm=norm,
        heads=heads,
        p=float(p),
        normalised=normalise,
        holds_residual=residual,
        empty_rows=empty,
    )


def _expect(of: str, residual: bool, norm: bool, heads: str, p: float) -> None:
    if of not in OF:
        raise CasebackError(f"of={of!r} is unknown. {did_you_mean(str(of), OF)}")
    if heads not in ("sum", "each"):
        raise CasebackError(f"heads={heads!r} is unknown: expected 'sum' or 'each'")
    if not p >= 1:
        raise OutOfRange(f"p is {p}: expected 1 or more, such as 1, 2 or float('inf')")
    if residual and (of == "value" or heads == "each"):
        raise CasebackError(
            "residual=True adds the stream to the heads' sum in the stream: it needs of='output' and heads='sum'"
        )
    if norm and not residual:
        raise CasebackError(
            "norm=True needs residual=True: what the next norm reads is the stream with attention added"
        )


def _expect_norms(model: Model, layers: list[int], norm: bool) -> None:
    parallel = [i for i in layers if model.anatomy.layers[i].parallel]
    if norm and parallel:
        raise SiteAbsent(
            f"norm=True: in layers {parallel} of this model ({model.anatomy.model_type}) attention and MLP run in "
            "parallel, so no norm reads the stream with attention's write alone; globenc_maps takes the one that "
            "reads the next layer's"
        )


def _behind(model: Model, layer: int, rows: Rows, norm: bool) -> Tensor:
    return through(model.anatomy.layers[layer].mlp_norm, model, rows.parts, rows.whole) if norm else rows.parts


def _of_each_head(model: Model, run: Run, layer: int, of: str, p: float) -> Float[Tensor, "batch head query key"]:
    """a_ij times the norm of what it weighs: no vector is made for a pair of positions."""
    pattern, values = attended(run, layer).abs(), values_of(run, layer)
    branch = attention_branch(model.anatomy, layer, run["z", layer])
    if of == "value":
        return pattern * values.norm(p=p, dim=-1)[:, :, None]
    each = torch.einsum("bhje,hed->bhjd", values, branch.weight) * branch.factor
    if branch.norm is not None and branch.scale is not None:
        each = branch.norm.centre(each) * branch.norm.gamma.to(each)
        pattern = pattern / spread(branch.scale, pattern.transpose(1, 2)).transpose(1, 2)
    return pattern * each.norm(p=p, dim=-1)[:, :, None]


@technique(
    role="input attribution",
    entry=("3.1.13",),
    citation="Kobayashi et al. 2020, Kobayashi et al. 2021",
    cost="one forward",
)
def attention_norms(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    across: Across = "mean",
    of: str = "output",
    residual: bool = False,
    norm: bool = False,
) -> xr.DataArray:
    """How long the vectors are that the position which the metric reads takes from each token.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts: norms know no
        target.
    across
        ``"mean"`` of each layer's shares, ``"rollout"`` of them (with half the identity where ``residual`` is left
        out), or one layer by number.
    of, residual, norm
        As for ``norm_maps``.

    Returns
    -------
    xr.DataArray
        (batch, pos), shares that sum to 1; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        As for ``norm_maps``, and for a ``metric`` that is not a ``Metric``, or that reads all positions.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> round(float(attention_norms(model, "the cat and the dog", cb.logit(" cat")).sum()), 4)
    1.0
    """
    tokens = model.tokens(tokens)
    maps = norm_maps(model, tokens, of=of, residual=residual, norm=norm, normalise=True)
    share = residual_share(maps, None)
    return row_scores(
        maps, model, tokens, metric, across, technique=attention_norms, name="attention_norms", residual=share
    )


@technique(role="context mixing", entry=("3.1.13",), citation="Kobayashi et al. 2021", cost="one forward")
def mixing_ratio(
    model: Model,
    tokens: PromptsLike,
    *,
    residual: bool = True,
    norm: bool = False,
    layers: Sequence[int] | None = None,
) -> xr.DataArray:
    """How much of a position behind attention comes from the others: r = m / (m + k).

    m is the norm of the sum of what it takes from other positions, k that of what it keeps of its own.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    residual
        Count the position's own stream to what it keeps; without it only attention is looked at.
    norm
        Measure behind the frozen norm that the MLP reads through; needs ``residual``.
    layers
        All unless given.

    Returns
    -------
    xr.DataArray
        (batch, layer, pos), from 0 (all its own; a first token always) to 1; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError, SiteAbsent, UnknownSite
        As for ``norm_maps``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> ratio = mixing_ratio(model, "the cat and the dog")
    >>> ratio.dims, float(ratio.isel(pos=0).max())
    (('batch', 'layer', 'pos'), 0.0)
    """
    _expect("output", residual, norm, "sum", 2.0)
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    _expect_norms(model, chosen, norm)
    run = execute(model.anatomy, tokens, read=[(name, i) for i in chosen for name in SITES], logits=False)

    def ratio(layer: int, rows: Rows) -> Tensor:
        parts = _behind(model, layer, rows, norm)
        here = torch.arange(rows.queries.start, rows.queries.stop, device=parts.device)
        own = parts[:, here - rows.queries.start, here]
        own_size, mixed = own.norm(dim=-1), (parts.sum(2) - own).norm(dim=-1)
        # a sum taken back again leaves rounding where there was no other position at all
        alone = (parts != 0).any(-1).sum(-1) <= (own != 0).any(-1)
        mixed = mixed.masked_fill(alone, 0.0)
        return mixed / (mixed + own_size).clamp_min(torch.finfo(own_size.dtype).tiny)

    ratios = [measured_blocks(model, run, i, lambda rows, at=i: ratio(at, rows), residual=residual) for i in chosen]
    stacked = torch.stack([aligned(m, tokens) for m in ratios], 1)
    outside = torch.arange(stacked.shape[-1], device=stacked.device) >= tokens.lengths.to(stacked.device)[:, None]
    width = stacked.shape[-1]
    return labelled(
        stacked.masked_fill(outside[:, None], torch.nan),
        ["batch", "layer", "pos"],
        {"layer": chosen, "token": (("batch", "pos"), [row + [""] * (width - len(row)) for row in tokens.text])},
        name="mixing_ratio",
        technique=mixing_ratio,
        model=model,
        residual=residual,
        norm=norm,
    )
