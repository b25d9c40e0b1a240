"""The MLP as a sum of neurons (PRIMER 2.4): neuron u writes n_u w_out_u.

    mlp = sum_u n_u w_out_u + b_out,     n = act(x W_in)   or   act(x W_gate) * (x W_in)

A neuron's share along a direction is n_u (w_out_u . direction): W_out is projected first, so no write of the size
(neuron, d_model) is formed at any position, and only the best neurons so far are kept from layer to layer.
"""

from __future__ import annotations

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import OutOfRange, SiteAbsent
from caseback.model.algebra.readout import Directions, Position, picked, readout, token_labels, unpadded
from caseback.model.algebra.under_edits import expect_unedited
from caseback.model.algebra.writes import mlp_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(role="decomposition", entry=("2.4", "2.6"), citation="Geva et al. 2022", cost="one forward")
def neuron_parts(
    model: Model, tokens: PromptsLike, directions: Directions, *, pos: Position = -1, top: int | None = 20
) -> xr.DataArray:
    """The neurons with the largest shares of some logits, or the shares of all neurons.

    Shares are of logits before any soft-cap, through the frozen final norm (and a norm after the MLP, held at its
    scale). Layers whose MLP is a mixture of experts have no neurons of their own and are left out.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    directions
        Tokens or vectors, as for ``logit_parts``.
    pos
        A position of each prompt (negative from its end), or None for all; NaN at padding.
    top
        How many to keep, by the share's absolute value; None for every neuron of every layer, which needs layers of
        equal width and layers x neurons of memory.

    Returns
    -------
    xr.DataArray
        (batch, [pos,] vocab, rank), or k for vectors in place of vocab, with each one's ``layer_index`` and
        ``neuron_index`` as coordinates; with ``top=None`` (batch, [pos,] vocab, layer, neuron). The attribute ``gap``
        is the largest difference between the sum of a layer's neurons and b_out and the MLP's own share; ``layers``
        says which layers were read.

    Raises
    ------
    SiteAbsent
        For a model without dense MLPs.
    EditError
        For a model under edits of what its MLPs write that are no side terms.

    Examples
    --------
    ::

        best = neuron_parts(model, prompt, " Mary", top=10).isel(batch=0, vocab=0)
        best.to_dataframe()[["layer_index", "neuron_index", "share"]]
    """
    if top is not None and top < 1:
        raise OutOfRange(f"top={top}: expected at least 1, or None for all neurons")
    anatomy = model.anatomy
    expect_unedited(anatomy, "a split among neurons", {"mlp_out"}, "edit the neurons, mlp_post")
    dense = [i for i, p in enumerate(anatomy.layers) if p.w_out is not None]
    if not dense:
        raise SiteAbsent(f"this model ({anatomy.model_type}) has no neurons: {anatomy.lacks['mlp_post']}")
    reads = [(name, i) for i in dense for name in ("mlp_post", "mlp_out")]
    run = model.run(tokens, read=[*reads, ("resid_post", -1)])
    reading = readout(model, directions, picked(run["resid_post", -1], run.tokens, pos))
    rows, gap = run.tokens.mask if pos is None else ..., 0.0
    candidates: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer in dense:
        neurons = picked(run["mlp_post", layer], run.tokens, pos)
        written = at_least_float32(picked(run["mlp_out", layer], run.tokens, pos))
        branch = mlp_branch(anatomy, layer, neurons)
        shares = reading.of_neurons(branch, neurons).movedim(-2, -1)
        constant = branch.constant(written)
        expected = reading.of(written if constant is None else written - constant)
        gap = max(gap, float((shares.sum(-1) - expected)[rows].abs().max()))
        here = torch.arange(shares.shape[-1], device=shares.device).expand(shares.shape)
        candidates.append((shares, here, torch.full_like(here, layer)))
        candidates = [_best(candidates, top)] if top is not None else candidates
    axes = ["batch", *(["pos"] if pos is None else []), reading.dim]
    coords = {**reading.coords, **(token_labels(run.tokens, "pos") if pos is None else {})}
    attrs = {
        "name": "share",
        "technique": neuron_parts,
        "model": model,
        "gap": gap,
        "layers": dense,
        "pos": pos,
    }
    if top is None:
        values = _same_width([shares for shares, _, _ in candidates])
        values = unpadded(values, run.tokens, 0, 1) if pos is None else values
        return labelled(values, [*axes, "layer", "neuron"], {**coords, "layer": dense}, **attrs)
    values, neuron, layer = candidates[0]
    values = unpadded(values, run.tokens, 0, 1) if pos is None else values
    names = (*axes, "rank")
    beside = {"layer_index": (names, layer), "neuron_index": (names, neuron)}
    return labelled(values, names, {**coords, **beside}, **attrs)


def _best(candidates: list[tuple[Tensor, Tensor, Tensor]], top: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest shares so far, with their neurons and layers, largest first."""
    values, neuron, layer = (torch.cat(each, -1) for each in zip(*candidates, strict=True))
    best = values.abs().topk(min(top, values.shape[-1]), dim=-1).indices
    return values.gather(-1, best), neuron.gather(-1, best), layer.gather(-1, best)


def _same_width(values: list[Tensor]) -> Tensor:
    widths = {v.shape[-1] for v in values}
    if len(widths) > 1:
        raise SiteAbsent(f"layers have {sorted(widths)} neurons and do not stack: give top=")
    return torch.stack(values, -2)
