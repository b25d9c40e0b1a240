"""Logit attribution by the position that a head reads: the paths from a source token through one head (PRIMER 3.2.4).

    A(j through h) = a_ij (v_j W_O) [M diag(gamma) u] / s,    v_j = norm(x_j) W_V + b_V,    sum_j = A(h)

i is the metric's position. Each source has its share of b_V W_O, a_ij of it, so that the sum is exact also where a
sink keeps part of the pattern from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr

from caseback.model.algebra.direct import direction_attrs, direction_of
from caseback.model.algebra.sources import source_parts
from caseback.model.prompts.per_token import aligned
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(role="component effect", entry=("3.2.4", "3.2.5"), citation="Ferrando et al. 2023", cost="one forward")
def source_attribution(
    model: Model, tokens: PromptsLike, metric: Metric, *, layers: Sequence[int] | None = None
) -> xr.DataArray:
    """Each head's direct share in a logit or a logit difference, by the position that it attended to.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position, as for ``logit_attribution``.
    layers
        All unless given; negative ones count from the end.

    Returns
    -------
    xr.DataArray
        (layer, head, key, batch) by each prompt's own positions, with their ``token`` (batch, key); NaN where a shorter
        prompt has none, 0 after the metric's position. Over ``key`` it sums to ``logit_attribution`` by head, which
        it misses by the attribute ``gap`` at most.

    Raises
    ------
    SiteAbsent
        For a model whose heads do not write z W_O, or hides its pattern.
    CasebackError
        For a metric that is not linear in the logits, or reads more than one position.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt = "the cat and the dog"
    >>> shares = source_attribution(model, prompt, cb.logit_diff(" cat", " dog"), layers=[-1])
    >>> shares.dims, shares.token.values[0].tolist() == model.tokens(prompt).text[0]
    (('layer', 'head', 'key', 'batch'), True)
    """
    tokens = model.tokens(tokens)
    direction = direction_of(model, tokens, metric)
    parts = source_parts(model, tokens, direction.vectors[:, None], pos=direction.pos, layers=layers)
    # before the columns are moved to each prompt's own positions, one axis of them comes first
    by_column = parts.isel(k=0).transpose("batch", "key", "layer", "head")
    shares = aligned(torch.from_numpy(by_column.values.copy()), tokens)
    inside = torch.arange(shares.shape[1]) < tokens.lengths.cpu()[:, None]
    shares = shares.masked_fill(~inside[..., None, None], torch.nan)
    width = shares.shape[1]
    return labelled(
        shares.permute(2, 3, 1, 0),
        ["layer", "head", "key", "batch"],
        {
            "layer": parts.layer.values,
            "token": (("batch", "key"), [row + [""] * (width - len(row)) for row in tokens.text]),
        },
        name="share",
        technique=source_attribution,
        model=model,
        gap=parts.attrs["gap"],
        **direction_attrs(direction, metric),
    )
