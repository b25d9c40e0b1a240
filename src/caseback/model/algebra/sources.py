"""Heads by where they read from (PRIMER 2.3): a head's write is a sum over the tokens that it attends to.

    head_i = sum_j a_ij v_j W_O,     a_ij = pattern, v_j = norm(x_j) W_V + b_V as it enters attention

The addend of source j includes its share of b_V, a_ij b_V W_O, so the addends sum to the head's write exactly, even
where a sink takes part of the pattern and its rows sum to less than one. A norm after attention is held at its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.model.algebra.readout import Directions, Position, picked, readout, token_labels
from caseback.model.algebra.under_edits import attended, expect_in_weights
from caseback.model.algebra.writes import attention_branch, spread
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.attention import repeat_heads
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens


def values_of(run: Run, layer: int) -> Float[Tensor, "batch head key d_head"]:
    """The values of a run that has read ``v``, as each query head sees them."""
    n_heads = run.anatomy.layers[layer].dims.n_heads
    return repeat_heads(at_least_float32(run["v", layer]).transpose(1, 2), n_heads)


def source_writes(anatomy: Anatomy, run: Run, layer: int) -> Float[Tensor, "batch head query key d_model"]:
    """What each head writes at each query from each key; the run has read ``v``, ``pattern`` and ``z``."""
    branch = attention_branch(anatomy, layer, run["z", layer])
    each = torch.einsum("bhje,hed->bhjd", values_of(run, layer), branch.weight)
    weighted = attended(run, layer)[..., None] * each[:, :, None]
    return branch.push(weighted.transpose(1, 2)).transpose(1, 2)


@technique(role="decomposition", entry=("2.3",), citation="Kobayashi et al. 2021", cost="one forward")
def head_sources(model: Model, tokens: PromptsLike, layer: int) -> xr.DataArray:
    """What each head of a layer writes at each position from each position that it attends to.

    It takes heads x positions^2 x d_model numbers per prompt, so it does one layer at a time; ``source_parts`` projects
    on directions without ever forming d_model.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    layer
        The layer; negative ones count from the end.

    Returns
    -------
    xr.DataArray
        (batch, head, query, key, d_model); summed over ``key`` it is the site ``head_out``. Zero at keys that are
        padding. The attribute ``gap`` is the largest difference between that sum and the site.

    Examples
    --------
    ::

        writes = head_sources(model, "a b c a b", layer=5)
        norms = (writes ** 2).sum("d_model") ** 0.5      # output-value-weighted attention
    """
    anatomy, layer = model.anatomy, model.anatomy.layer(layer)
    expect_in_weights(anatomy, "a split among sources", {"head_out", "attn_out"})
    run = model.run(tokens, read=[(name, layer) for name in ("pattern", "v", "z", "head_out")])
    writes = source_writes(anatomy, run, layer)
    off = (writes.sum(3).transpose(1, 2) - run["head_out", layer]).abs()
    return labelled(
        writes,
        ["batch", "head", "query", "key", "d_model"],
        {"head": [head_name(layer, h) for h in range(writes.shape[1])], **_ends(run.tokens, "query", "key")},
        name="write",
        technique=head_sources,
        model=model,
        gap=float(off[run.tokens.mask].max()),
    )


@technique(role="decomposition", entry=("2.3", "2.6"), citation="Ferrando et al. 2023", cost="one forward")
def source_parts(
    model: Model,
    tokens: PromptsLike,
    directions: Directions,
    *,
    pos: Position = -1,
    layers: Sequence[int] | None = None,
) -> xr.DataArray:
    """Each head's share of some logits, by the position that it attended to.

    This is a_ij (v_j W_O u), with u the direction before the frozen final norm: the path from a source token through
    one head to the prediction. Shares are of logits before any soft-cap.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    directions
        Tokens or vectors, as for ``logit_parts``.
    pos
        The position predicted from, or None for all.
    layers
        Which layers; all by default.

    Returns
    -------
    xr.DataArray
        (batch, layer, head, [query,] key, vocab), or k for vectors. Over ``key`` it sums to the heads' rows of
        ``logit_parts``. The attribute ``gap`` is the largest difference between that sum and those rows.

    Examples
    --------
    ::

        shares = source_parts(model, prompt, " Mary")
        shares.sel(layer=9).isel(batch=0, head=9, vocab=0).to_series()      # by source token
    """
    anatomy = model.anatomy
    expect_in_weights(anatomy, "a split among sources", {"head_out", "attn_out"})
    chosen = [anatomy.layer(i) for i in (range(model.n_layers) if layers is None else layers)]
    reads = [(name, i) for i in chosen for name in ("pattern", "v", "z")]
    run = model.run(tokens, read=[*reads, ("resid_post", -1)])
    reading = readout(model, directions, picked(run["resid_post", -1], run.tokens, pos))
    shares, gap, rows = [], 0.0, run.tokens.mask if pos is None else ...
    for layer in chosen:
        z = picked(run["z", layer], run.tokens, pos)
        branch = attention_branch(anatomy, layer, z)
        worth = torch.einsum(
            f"bhje,{'b' if reading.pulled.ndim == 3 else ''}hek->bhjk",
            values_of(run, layer),
            reading.through(branch),
        )
        pattern = attended(run, layer).transpose(1, 2)
        layer_shares = torch.einsum("b...hj,bhjk->b...hjk", picked(pattern, run.tokens, pos), worth)
        for scale in (branch.scale, reading.scale):
            layer_shares = layer_shares if scale is None else layer_shares / spread(scale, layer_shares)
        gap = max(gap, float((layer_shares.sum(-2) - reading.of_heads(branch, z))[rows].abs().max()))
        shares.append(layer_shares if pos is not None else layer_shares.transpose(1, 2))
    stacked = torch.stack(shares, 1)
    if pos is None and run.tokens.padded:
        stacked = stacked.masked_fill(~run.tokens.mask[:, None, None, :, None, None], torch.nan)
    ends = ["query", "key"] if pos is None else ["key"]
    return labelled(
        stacked,
        ["batch", "layer", "head", *ends, reading.dim],
        {"layer": chosen, **reading.coords, **_ends(run.tokens, *ends)},
        name="share",
        technique=source_parts,
        model=model,
        gap=gap,
        pos=pos,
    )


def _ends(tokens: Tokens, *dims: str) -> dict[str, Any]:
    return {f"{dim}_token": token_labels(tokens, dim)["token"] for dim in dims}
