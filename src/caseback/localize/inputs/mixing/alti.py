"""ALTI: how near each source comes to the sum (PRIMER 3.1.17).

    d_ij = || y_i - T_i(x_j) ||_1,      C[i, j] = max(0, ||y_i||_1 - d_ij) / sum_k max(0, ||y_i||_1 - d_ik)

y_i is the stream behind attention, the residual and b_O included, T_i(x_j) what of it came from position j. A source
that is y itself has d = 0, one that is no nearer than nothing at all gets nothing. Long vectors that cancel one another
get little, which norms cannot see. The distance is L1, since single outlying dimensions rule L2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.inputs.mixing.mixing import (
    Across,
    by_own_positions,
    chosen_layers,
    labelled_maps,
    row_scores,
    row_shares,
)
from caseback.localize.inputs.mixing.source_blocks import SITES, measured_blocks
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens

MEASURED_FROM = ("nothing", "farthest")


def nearness(
    parts: Float[Tensor, "*rows key d_model"],
    whole: Float[Tensor, "*rows d_model"],
    p: float = 1.0,
    measured_from: str = "nothing",
) -> Float[Tensor, "*rows key"]:
    """How much nearer each part comes to the whole than nothing does (or than the farthest part), at least 0.

    Examples
    --------
    >>> whole = torch.tensor([1.0, -2.0])
    >>> nearness(torch.stack([whole, torch.zeros(2), -whole, whole / 4]), whole)
    tensor([3.0000, 0.0000, 0.0000, 0.7500])
    """
    distance = (whole[..., None, :] - parts).norm(p=p, dim=-1)
    start = whole.norm(p=p, dim=-1, keepdim=True)
    if measured_from == "farthest":
        start = torch.maximum(start, distance.amax(-1, keepdim=True))
    return (start - distance).clamp_min(0.0)


def alti_of(
    model: Model, run: Run, tokens: Tokens, layers: Sequence[int], p: float, measured_from: str
) -> tuple[Float[Tensor, "batch layer query key"], int]:
    """Maps by own positions, and how many rows had no source that is near."""
    maps = []
    for layer in layers:
        near = measured_blocks(model, run, layer, lambda rows: nearness(rows.parts, rows.whole, p, measured_from))
        # later keys have no part at all: what is farther than they are is not counted against them
        near = by_own_positions(near, tokens).tril()
        maps.append(near)
    return row_shares(torch.stack(maps, 1), tokens)


@technique(role="context mixing", entry=("3.1.17",), citation="Ferrando et al. 2022", cost="one forward")
def alti_maps(
    model: Model,
    tokens: PromptsLike,
    *,
    p: float = 1.0,
    measured_from: str = "nothing",
    layers: Sequence[int] | None = None,
) -> xr.DataArray:
    """How near what came from each position is to the stream behind attention.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    p
        Which norm the distance is; 1 as in the paper.
    measured_from
        ``"nothing"``: a part counts by how much nearer it is than a part of zeros. ``"farthest"``: than the farthest
        of the parts and nothing, the other scale in use; then every part but the farthest counts.
    layers
        All unless given; negative ones count from the end.

    Returns
    -------
    xr.DataArray
        (batch, layer, query, key), rows that sum to 1. The attribute ``empty_rows`` counts rows in which no part is
        nearer than nothing; they are given to the position itself.

    Raises
    ------
    SiteAbsent
        For a model whose heads do not write z W_O.
    OutOfRange, UnknownSite, CasebackError
        For ``p`` below 1, a layer that the model lacks, or an unknown ``measured_from``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> maps = alti_maps(model, "the cat and the dog")
    >>> bool(abs(maps.sum("key") - 1).max() < 1e-5), maps.attrs["empty_rows"]
    (True, 0)
    """
    if not p >= 1:
        raise OutOfRange(f"p is {p}: expected 1 or more, such as 1 or 2")
    if measured_from not in MEASURED_FROM:
        raise CasebackError(
            f"measured_from={measured_from!r} is unknown. {did_you_mean(str(measured_from), MEASURED_FROM)}"
        )
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    run = execute(model.anatomy, tokens, read=[(name, i) for i in chosen for name in SITES], logits=False)
    maps, empty = alti_of(model, run, tokens, chosen, p, measured_from)
    return labelled_maps(
        maps,
        model,
        tokens,
        chosen,
        technique=alti_maps,
        name="alti",
        p=float(p),
        measured_from=measured_from,
        holds_residual=True,
        normalised=True,
        empty_rows=empty,
    )


@technique(role="input attribution", entry=("3.1.17",), citation="Ferrando et al. 2022", cost="one forward")
def alti(
    model: Model, tokens: PromptsLike, metric: Metric, *, across: Across = "rollout", p: float = 1.0
) -> xr.DataArray:
    """What the position that the metric reads holds of each token by ALTI's maps.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts; ``alti_logit``
        has the form with a target.
    across
        ``"rollout"`` as in the paper, without identity; ``"mean"`` over the layers, or one by number.
    p
        Which norm the distance is.

    Returns
    -------
    xr.DataArray
        (batch, pos), shares that sum to 1; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions.
    SiteAbsent
        For a model whose heads do not write z W_O.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> round(float(alti(model, "the cat and the dog", cb.logit(" cat")).sum()), 4)
    1.0
    """
    tokens = model.tokens(tokens)
    return row_scores(alti_maps(model, tokens, p=p), model, tokens, metric, across, technique=alti, name="alti")
