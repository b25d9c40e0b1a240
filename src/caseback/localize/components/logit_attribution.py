"""Direct logit attribution: the metric as a sum of what each component wrote (PRIMER 3.2.2, 3.2.5).

    metric = sum_v a_v logit_v    ->    A(c) = c [M diag(gamma) u] / s,    u = scale * sum_v a_v W_U[:, v]

with c a write to the final stream and s the final norm's denominator, held at this run's. For a logit difference u is
the difference of two columns of W_U. The attributions and the biases' share sum to the metric. Only direct effects
count: what a component changes in later ones is theirs, and what a later one erases stays on its account
(``erased_writes``, PRIMER 3.2.6).
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.model.algebra.decompose import Row
from caseback.model.algebra.direct import Direction, direction_attrs, direction_of, shares_of, writes_run
from caseback.model.algebra.readout import Readout
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

BY = ("component", "branch", "layer", "head")
_OF_LAYER = {
    "branch": {"head": "attn", "attn_bias": "attn"},
    "layer": dict.fromkeys(("head", "attn_bias", "mlp"), "layer"),
}


@technique(
    role="component effect",
    entry=("3.2.2", "3.2.5"),
    citation="nostalgebraist 2020, Elhage et al. 2021, Wang et al. 2023",
    cost="one forward",
)
def logit_attribution(model: Model, tokens: PromptsLike, metric: Metric, *, by: str = "component") -> xr.DataArray:
    """The direct share of every head, MLP, embedding and bias in a logit or a logit difference.

    Multipliers, norms behind branches, parallel blocks and the logit scale are accounted for; all norms on the way
    are held at their denominators in this run. Where the model caps its logits softly, it is the metric of the
    logits before the cap that is split, and the attribute ``softcap`` says so.

    Beside this there are ``neuron_attribution`` (the MLPs' rows by neuron), ``source_attribution`` (the heads' rows by
    the position attended to) and ``cumulative_attribution`` (the rows by layer, summed up).

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position: ``cb.logit``, ``cb.logit_diff``, or ``cb.function`` of any linear function of them.
    by
        ``"component"``: embeddings, heads, attention biases (b_O), MLPs (b_out in them), bias. ``"branch"``: heads
        and b_O summed, one row per attention block and one per MLP. ``"layer"``: one row per layer. These three sum to
        the metric. ``"head"``: the heads alone, as a map of layers and heads.

    Returns
    -------
    xr.DataArray
        (component, batch), with the ``kind`` (embed, pos_embed, head, attn_bias, attn, mlp, layer, bias), ``layer``
        and ``head`` of each row beside it; -1 where it has none. By head (layer, head, batch), NaN where a layer has
        fewer heads than others.
        The row ``bias`` is the final norm's and the unembedding's. Attributes, one number per prompt:
        ``metric_value`` (before a soft-cap) and ``gap``, the sum of all rows less that; ``norm_scale``, what the
        final norm divides by, and how ``bias`` splits into ``norm_bias`` and ``unembed_bias``.

    Raises
    ------
    CasebackError
        For a metric that is not linear in the logits, or reads more than one position, and an unknown ``by``.
    SiteAbsent
        For a model whose heads do not write z W_O.

    Notes
    -----
    TransformerLens's ``cache.logit_attrs(stack, target, foil)`` multiplies a stack by columns of W_U and divides by
    the cached scale, without the final norm's gain. With its weights folded (``enable_compatibility_mode``) that is
    the same number; without, only where the gain is 1. Folding also centers W_U over the vocabulary, so that a single
    logit is split less the mean of all logits, and moves what values hold of biases, (b_V + beta W_V) W_O, from the
    heads to their layer's b_O. A ``logit_diff`` knows nothing of the first, ``by="branch"`` nothing of the second.
    Its stacks have no row for the final norm's and the unembedding's biases.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> shares = logit_attribution(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> abs(float(shares.sum()) - shares.attrs["metric_value"][0]) < 1e-3
    True
    >>> heads = shares[shares.kind == "head"]
    """
    if by not in BY:
        raise CasebackError(f"by={by!r} is unknown. {did_you_mean(by, BY)}")
    tokens = model.tokens(tokens)
    direction = direction_of(model, tokens, metric)
    run = writes_run(model, tokens)
    stream = direction.stream(run)
    reading = direction.reading(stream)
    rows, values = shares_of(direction, run, reading)
    metric_value = direction.measured(stream).to(values)
    attrs = {
        "name": "share",
        "technique": logit_attribution,
        "model": model,
        "metric_value": metric_value.tolist(),
        "gap": (values.sum(0) - metric_value).tolist(),
        **_norm_attrs(direction, reading),
        **direction_attrs(direction, metric),
    }
    if by == "head":
        mapped = _by_head(model, rows, values)
        return labelled(mapped, ["layer", "head", "batch"], {"layer": range(len(mapped))}, **attrs)
    rows, values = _grouped(rows, values, _OF_LAYER.get(by, {}))
    return labelled(values, ["component", "batch"], row_labels(rows), **attrs)


def row_labels(rows: list[Row]) -> dict[str, Any]:
    """Coordinates of rows: their names, and beside them kind, layer and head."""
    name, *beside = (list(column) for column in zip(*rows, strict=True))
    return {
        "component": name,
        **{key: ("component", column) for key, column in zip(("kind", "layer", "head"), beside, strict=True)},
    }


def _norm_attrs(direction: Direction, reading: Readout) -> dict[str, Any]:
    """What the final norm divides by, and what it and the unembedding add whatever the stream holds."""
    scale = None if reading.scale is None else reading.scale[:, 0].tolist()
    return {
        "norm_scale": scale,
        "norm_bias": reading.constant[:, 0].tolist(),
        "unembed_bias": direction.unembed_bias.tolist(),
    }


def _grouped(
    rows: list[Row], values: Float[Tensor, "component batch"], kinds: dict[str, str]
) -> tuple[list[Row], Float[Tensor, "component batch"]]:
    """Rows whose kind belongs to a larger one summed up within their layer."""
    merged: dict[Row, int] = {}
    place = []
    for name, kind, layer, head in rows:
        larger = kinds.get(kind)
        row = (name, kind, layer, head) if larger is None else (f"{larger} {layer}", larger, layer, -1)
        place.append(merged.setdefault(row, len(merged)))
    summed = values.new_zeros(len(merged), values.shape[1])
    return list(merged), summed.index_add(0, torch.tensor(place, device=values.device), values)


def _by_head(model: Model, rows: list[Row], values: Tensor) -> Float[Tensor, "layer head batch"]:
    width = max(p.dims.n_heads for p in model.anatomy.layers)
    by_head = values.new_full((model.n_layers, width, values.shape[1]), torch.nan)
    at = [(i, layer, head) for i, (_, kind, layer, head) in enumerate(rows) if kind == "head"]
    index, layer, head = torch.tensor(at, device=values.device).T
    by_head[layer, head] = values[index]
    return by_head
