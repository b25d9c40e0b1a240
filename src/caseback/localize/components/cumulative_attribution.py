"""Cumulative logit attribution: what the stream holds of the metric after each layer (PRIMER 3.2.2, 3.2.5).

    A(x^l) = x^l [M diag(gamma) u] / s + beta u + b,    s = scale(x^L), or scale(x^l)

Under the final stream's denominator the rows differ by the layers' own shares: it is the running total of
``logit_attribution``. Under each stream's own it is what the logit lens shows, the metric if the model ended there,
and a step is then not a share: it also holds what the growing stream's denominator takes away.
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.components.logit_attribution import row_labels
from caseback.model.algebra.decompose import Row
from caseback.model.algebra.direct import direction_attrs, direction_of
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike

NORMS = ("final", "own")


@technique(
    role="component effect",
    entry=("3.2.2", "3.2.5"),
    citation="nostalgebraist 2020, Elhage et al. 2021",
    cost="one forward",
)
def cumulative_attribution(
    model: Model, tokens: PromptsLike, metric: Metric, *, norm: str = "final", mid: bool = False
) -> xr.DataArray:
    """What has been written for a logit or a logit difference up to each layer.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position, as for ``logit_attribution``.
    norm
        Whose denominator the final norm divides by: ``"final"`` the last stream's for all, so that steps are shares,
        ``"own"`` each stream's, so that rows are what a logit lens reads.
    mid
        Also after each layer's attention, before its MLP.

    Returns
    -------
    xr.DataArray
        (component, batch): ``embed`` (positions included), then ``layer 0`` ..., or with ``mid`` ``attn 0``,
        ``MLP 0`` ..., each named after what was written last, with its ``layer``. Every row holds the biases, so the
        last is the metric. Attributes, one number per prompt: ``metric_value`` (before a soft-cap) and ``gap``, the
        last row less that.

    Raises
    ------
    UnknownSite
        For ``mid`` in a model whose attention and MLP read the same stream: there is none between them.
    CasebackError
        For a metric that is not linear in the logits, or reads more than one position, and an unknown ``norm``.

    Notes
    -----
    TransformerLens's ``accumulated_resid(apply_ln=True)`` divides by the final stream's scale, or with
    ``recompute_ln`` by each one's own; its ``logit_attrs`` leaves biases out.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> after = cumulative_attribution(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> after.sizes["component"] == model.n_layers + 1
    True
    >>> abs(float(after[-1, 0]) - after.attrs["metric_value"][0]) < 1e-3
    True
    """
    if norm not in NORMS:
        raise CasebackError(f"norm={norm!r} is unknown. {did_you_mean(norm, NORMS)}")
    tokens = model.tokens(tokens)
    direction = direction_of(model, tokens, metric)
    rows: list[Row] = [("embed", "embed", -1, -1)]
    sites: list[Any] = [("resid_pre", 0)]
    for layer in range(model.n_layers):
        if mid:
            rows.append((f"attn {layer}", "attn", layer, -1))
            sites.append(("resid_mid", layer))
        rows.append((f"MLP {layer}", "mlp", layer, -1) if mid else (f"layer {layer}", "layer", layer, -1))
        sites.append(("resid_post", layer))
    run = execute(model.anatomy, tokens, read=sites, logits=False)
    streams = torch.stack([at_least_float32(direction.at(run[site], tokens)) for site in sites])
    last = direction.reading(streams[-1])
    readings = (last if norm == "final" else direction.reading(x) for x in streams)
    values = torch.stack([r.of(x)[:, 0] for r, x in zip(readings, streams, strict=True)]) + direction.constant(last)
    metric_value = direction.measured(streams[-1]).to(values)
    coords = row_labels(rows)
    del coords["head"]
    return labelled(
        values,
        ["component", "batch"],
        coords,
        name="metric",
        technique=cumulative_attribution,
        model=model,
        norm=norm,
        metric_value=metric_value.tolist(),
        gap=(values[-1] - metric_value).tolist(),
        **direction_attrs(direction, metric),
    )
