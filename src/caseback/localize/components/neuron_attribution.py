"""Logit attribution by neuron: the best of all neurons of all layers, and all that they leave (PRIMER 3.2.3).

    A(u) = n_u w_out_u [M diag(gamma) u] / s,    sum_u A(u) + A(b_out) = A(MLP)

W_out is projected on the metric's direction first, so that nothing of the size (neuron, d_model) is formed, and the
layers are gone through one by one, the best kept.
"""

from __future__ import annotations

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import OutOfRange, SiteAbsent
from caseback.localize.components.logit_attribution import row_labels
from caseback.model.algebra.decompose import Row
from caseback.model.algebra.direct import LAST, Direction, direction_attrs, direction_of
from caseback.model.algebra.readout import Readout
from caseback.model.algebra.under_edits import expect_unedited
from caseback.model.algebra.writes import mlp_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.graph.units import Neuron, name_of
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike


@technique(role="component effect", entry=("3.2.3", "3.2.5"), citation="Geva et al. 2022", cost="one forward")
def neuron_attribution(
    model: Model, tokens: PromptsLike, metric: Metric, *, top: int | None = 20, per_prompt: bool = False
) -> xr.DataArray:
    """The neurons with the largest direct shares in a logit or a logit difference, and the rest of the MLPs.

    Layers whose MLP is a mixture of experts have no neurons of their own and are left out.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position, as for ``logit_attribution``.
    top
        How many neurons to keep: those whose share is largest in size, on average over the prompts. None for every
        neuron, as a map of layers and neurons.
    per_prompt
        Choose the ``top`` neurons for each prompt by itself.

    Returns
    -------
    xr.DataArray
        (component, batch): the neurons, largest first, with names that ``ablate`` takes (``"L3N17"``), then ``MLP
        bias 3`` for what a layer's MLP writes whatever its neurons do, then ``other neurons``. They sum to the rows of
        those MLPs in ``logit_attribution``. Beside them ``kind`` (neuron, mlp_bias, other), ``layer`` and
        ``neuron``, -1 where there is none.
        With ``per_prompt`` (rank, batch), largest first, with ``layer_index`` and ``neuron_index`` beside each; with
        ``top=None`` (layer, neuron, batch), NaN where a layer has fewer neurons.
        Attributes: ``layers`` that were read; one number per prompt, ``metric_value`` (before a soft-cap), ``mlps``,
        the share of these layers' MLPs as the model wrote them, and ``gap``, all neurons and biases less that.

    Raises
    ------
    SiteAbsent
        For a model without dense MLPs.
    OutOfRange
        For ``top`` below 1.
    CasebackError
        For a metric that is not linear in the logits, or reads more than one position.

    Notes
    -----
    TransformerLens's ``stack_neuron_results(apply_ln=True)`` forms (neuron, ..., d_model) unless given
    ``project_output_onto``, and has no row for b_out: it is in its ``remainder``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> best = neuron_attribution(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), top=5)
    >>> best.kind.values[:5].tolist(), best.component.values[-1].item()
    (['neuron', 'neuron', 'neuron', 'neuron', 'neuron'], 'other neurons')
    >>> abs(float(best.sum()) - best.attrs["mlps"][0]) < 1e-3
    True
    """
    if top is not None and top < 1:
        raise OutOfRange(f"top={top}: expected at least 1, or None for all neurons")
    anatomy, tokens = model.anatomy, model.tokens(tokens)
    dense = [i for i, p in enumerate(anatomy.layers) if p.w_out is not None]
    if not dense:
        raise SiteAbsent(f"this model ({anatomy.model_type}) has no neurons: {anatomy.lacks['mlp_post']}")
    direction = direction_of(model, tokens, metric)
    expect_unedited(model.anatomy, "a split among neurons", {"mlp_out"}, "edit the neurons, mlp_post")
    reads = [(name, i) for i in dense for name in ("mlp_post", "mlp_out")]
    run = execute(anatomy, tokens, read=[*reads, LAST], logits=False)
    stream = direction.stream(run)
    reading = direction.reading(stream)
    best = _Best(top, per_prompt, len(tokens))
    biases: list[tuple[Row, Tensor]] = []
    every, all_of, written = [], stream.new_zeros(len(tokens)), stream.new_zeros(len(tokens))
    for layer in dense:
        shares, bias, whole = _layer(direction, run, reading, layer)
        all_of, written = all_of + shares.sum(-1), written + whole
        if bias is not None:
            biases.append(((f"MLP bias {layer}", "mlp_bias", layer, -1), bias))
            all_of = all_of + bias
        best.take(layer, shares) if top is not None else every.append(shares)
    attrs = {
        "name": "share",
        "technique": neuron_attribution,
        "model": model,
        "metric_value": direction.measured(stream).tolist(),
        "mlps": written.tolist(),
        "gap": (all_of - written).tolist(),
        "layers": dense,
        **direction_attrs(direction, metric),
    }
    if top is None:
        return labelled(_stacked(every), ["layer", "neuron", "batch"], {"layer": dense}, **attrs)
    if per_prompt:
        beside = {"layer_index": (("rank", "batch"), best.layer.T), "neuron_index": (("rank", "batch"), best.neuron.T)}
        return labelled(best.values.T, ["rank", "batch"], beside, **attrs)
    at = list(zip(best.layer[0].tolist(), best.neuron[0].tolist(), strict=True))
    rows: list[Row] = [(name_of(Neuron(*where)), "neuron", where[0], -1) for where in at]
    values = [*best.values.T, *(bias for _, bias in biases)]
    rows += [*(row for row, _ in biases), ("other neurons", "other", -1, -1)]
    values.append(all_of - torch.stack(values).sum(0))
    coords = row_labels(rows)
    coords["neuron"] = ("component", [neuron for _, neuron in at] + [-1] * (len(rows) - len(at)))
    del coords["head"]
    return labelled(torch.stack(values), ["component", "batch"], coords, **attrs)


def _layer(direction: Direction, run: Run, reading: Readout, layer: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Shares of a layer's neurons (batch, neuron), of what its MLP writes besides, and of the whole of it."""
    neurons = direction.at(run["mlp_post", layer], run.tokens)
    written = at_least_float32(direction.at(run["mlp_out", layer], run.tokens))
    branch = mlp_branch(run.anatomy, layer, neurons)
    constant = branch.constant(written)
    bias = None if constant is None else reading.of(constant)[..., 0]
    return reading.of_neurons(branch, neurons)[..., 0], bias, reading.of(written)[..., 0]


class _Best:
    """The largest shares so far and whose they are, (batch, rank), largest first.

    Where neurons are chosen for all prompts together, ``layer`` and ``neuron`` have one row.
    """

    def __init__(self, top: int | None, per_prompt: bool, batch: int):
        self.top, self.per_prompt = top, per_prompt
        self.values = torch.empty(batch, 0)
        self.layer = self.neuron = torch.empty(batch if per_prompt else 1, 0, dtype=torch.long)

    def take(self, layer: int, shares: Tensor) -> None:
        here = torch.arange(shares.shape[-1], device=shares.device).expand(len(self.neuron), -1)
        values = torch.cat([self.values.to(shares), shares], -1)
        layers = torch.cat([self.layer.to(shares.device), torch.full_like(here, layer)], -1)
        neurons = torch.cat([self.neuron.to(shares.device), here], -1)
        sizes = values.abs() if self.per_prompt else values.abs().mean(0, keepdim=True)
        # the best so far and this layer's compete; all neurons of all layers are never held at once
        best = sizes.topk(min(self.top or 0, sizes.shape[-1]), dim=-1).indices
        self.values = values.gather(-1, best.expand(len(values), -1))
        self.layer, self.neuron = layers.gather(-1, best), neurons.gather(-1, best)


def _stacked(every: list[Tensor]) -> Tensor:
    """(layer, neuron, batch), NaN where a layer has fewer neurons than the widest."""
    stacked = every[0].new_full((len(every), max(x.shape[1] for x in every), len(every[0])), torch.nan)
    for layer, x in enumerate(every):
        stacked[layer, : x.shape[1]] = x.T
    return stacked
