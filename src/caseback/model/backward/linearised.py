"""The whole network as one affine map of its input embeddings (PRIMER 2.9).

Hold at their forward values the attention patterns a, the norms' denominators and the activations' slopes,
n = slope * (x W_in + b_in) with slope act(g)/g, or the gate's activation where there is one. What is left is
affine, so the stream at position i is a sum over source tokens s, and a slot for what no token sent:

    x_i = sum_s D[i, s] + D[i, bias]
    attention:  D[i, s] += sum_h sum_j a_ij N(D[j, s]) W_V W_O
    MLP:        D[i, s] += (slope_i * N(D[i, s]) W_in) W_out

with N the frozen norm. Norms' biases, b_V, b_O, b_in and b_out enter at the bias slot and travel on from
there. Only the current layer's D is held, positions^2 x d_model per prompt; sources do not meet, so a part of
the slots can go through all layers by itself, and less is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.jobs.budget import limit
from caseback.model.algebra.decompose import capped, read_off
from caseback.model.algebra.readout import Directions, Position, picked, readout, token_labels, unpadded
from caseback.model.algebra.sources import values_of
from caseback.model.algebra.under_edits import BEHIND, QUERIES, STARTS, attended, expect_followed
from caseback.model.algebra.weights import Weights
from caseback.model.algebra.writes import attention_branch, mlp_branch, spread
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.anatomy.stream import expect_sums
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike

Parts = Float[Tensor, "batch pos source d_model"]


@dataclass(frozen=True)
class Step:
    """One layer of the linearised network.

    Attributes
    ----------
    layer
        Which.
    z
        Each head's z by source, (batch, pos, source, head, d_head).
    attn_bias
        What attention adds that does not come from a head, (batch, pos, d_model); None where it adds nothing else.
    mlp
        The MLP's write by source.
    stream
        The stream after the layer by source.
    """

    layer: int
    z: Float[Tensor, "batch pos source head d_head"]
    attn_bias: Float[Tensor, "batch pos d_model"] | None
    mlp: Parts
    stream: Parts


def sites(model: Model) -> list[Any]:
    """What a run must have read for ``steps``.

    Raises
    ------
    SiteAbsent
        For a mixture of experts, whose shared and routed parts are not all known by name, and for latent
        attention, whose values are not linear in the stream.
    EditError
        For a model under edits that the split does not follow.
    """
    anatomy = model.anatomy
    expect_sums(anatomy, "a split over source tokens")
    expect_followed(anatomy, "a split over source tokens", STARTS | QUERIES | BEHIND, ("v", "z", "mlp_post"))
    mixed = [i for i, p in enumerate(anatomy.layers) if p.w_out is None]
    if mixed:
        raise SiteAbsent(
            f"this model ({anatomy.model_type}) cannot be split over source tokens: the MLPs of layers "
            f"{mixed} are mixtures of experts, whose activations are not read"
        )
    if "v_in" in anatomy.lacks:
        raise SiteAbsent(
            f"this model ({anatomy.model_type}) cannot be split over source tokens: {anatomy.lacks['v_in']}"
        )
    ends = ["embed", *(["pos_embed"] if anatomy.pos_embed is not None else []), ("resid_post", -1)]
    return [*ends, "attn_in", "pattern", "v", "z", "mlp_in", "mlp_pre", "mlp_post"]


def start(model: Model, run: Run, slots: range | None = None) -> Parts:
    """The stream before the first layer by source: each position its own, the bias slot (last) empty.

    ``slots`` takes consecutive sources alone; the bias slot comes after all positions.
    """
    x = at_least_float32(run["embed"])
    if model.anatomy.pos_embed is not None:
        x = x + run["pos_embed"]
    batch, pos, d_model = x.shape
    slots = range(pos + 1) if slots is None else slots
    parts = x.new_zeros(batch, pos, len(slots), d_model)
    here = torch.arange(slots.start, min(slots.stop, pos), device=x.device)
    parts[:, here, here - slots.start] = x[:, here]
    return parts


def steps(model: Model, run: Run, slots: range | None = None) -> Iterator[Step]:
    """The layers one after the other, each by source (or by some of them); ``run`` read ``sites(model)``."""
    parts = start(model, run, slots)
    biased = slots is None or slots.stop > parts.shape[1]
    for layer, p in enumerate(model.anatomy.layers):
        z = _attention(model, run, layer, parts, biased)
        branch = attention_branch(model.anatomy, layer, run["z", layer])
        written = branch.push(torch.einsum("bishe,hed->bisd", z, branch.weight))
        constant = branch.constant(at_least_float32(run["attn_in", layer]))
        middle = parts + (_with_bias(written, constant) if biased else written)
        del written
        mlp = _mlp(model, run, layer, parts if p.parallel else middle, biased)
        parts = middle + mlp
        step = Step(layer, z, constant, mlp, parts)
        # Memory is the limit here: while the next layer is computed, only the stream of this one is held.
        del z, mlp, middle
        yield step
        del step


def _with_bias(parts: Parts, bias: Tensor | None) -> Parts:
    """Add to the bias slot, in place."""
    if bias is not None:
        parts[:, :, -1] += bias
    return parts


def _normed(model: Model, module: Any, stream: Tensor, parts: Parts, biased: bool) -> Parts:
    """The norm's output by source, with the denominator of the stream itself."""
    if module is None:
        return parts.clone()
    norm: Norm = model.anatomy.norms[module]
    normed = norm.frozen(parts, spread(norm.scale(stream), parts))
    return _with_bias(normed, norm.beta) if biased else normed


def secant(value: Tensor, at: Tensor) -> Tensor:
    """The slope of the line through 0 that has a value at a place; 0 at 0."""
    return torch.where(at == 0, 0.0, value / torch.where(at == 0, 1.0, at))


def value_slopes(model: Model, run: Run, layer: int) -> Float[Tensor, "batch pos head d_head"]:
    """What clipping makes of the values (MPT, OLMo), a slope like any other; 1 where they are as projected."""
    p, weights = model.anatomy.layers[layer], Weights(model.anatomy)
    read = at_least_float32(run["attn_in", layer])
    read = read if p.attn_norm is None else model.anatomy.norms[p.attn_norm](read)
    projected = torch.einsum("bjd,hde->bjhe", read, at_least_float32(weights.W_V[layer]))
    projected = projected + at_least_float32(weights.b_V[layer])
    projected = projected.repeat_interleave(p.dims.n_heads // projected.shape[2], 2)
    actual = values_of(run, layer).transpose(1, 2)
    loose = torch.finfo(projected.dtype).eps ** 0.5
    same = torch.isclose(projected, actual, rtol=loose, atol=loose * float(projected.abs().mean()))
    return torch.where(same, 1.0, actual / torch.where(same, 1.0, projected))


def _attention(
    model: Model, run: Run, layer: int, parts: Parts, biased: bool
) -> Float[Tensor, "batch pos source head d_head"]:
    p, weights = model.anatomy.layers[layer], Weights(model.anatomy)
    read = _normed(model, p.attn_norm, run["attn_in", layer], parts, biased)
    v = torch.einsum("bjsd,hde->bjshe", read, at_least_float32(weights.W_V[layer]))
    del read
    if biased:
        v[:, :, -1] += at_least_float32(weights.b_V[layer])
    v = v.repeat_interleave(p.dims.n_heads // v.shape[3], 3) if v.shape[3] < p.dims.n_heads else v
    v *= value_slopes(model, run, layer).unsqueeze(2)
    return torch.einsum("bhij,bjshe->bishe", attended(run, layer), v)


def _mlp(model: Model, run: Run, layer: int, parts: Parts, biased: bool) -> Parts:
    p, weights = model.anatomy.layers[layer], Weights(model.anatomy)
    pre, neurons = (at_least_float32(run[name, layer]) for name in ("mlp_pre", "mlp_post"))
    slope = secant(neurons, pre)
    branch, w_in = mlp_branch(model.anatomy, layer, neurons), at_least_float32(weights.W_in[layer])
    read = _normed(model, p.mlp_norm, run["mlp_in", layer], parts, biased)
    out = torch.zeros_like(parts)
    # Half of the table is empty, since no token reads a later one: only the pairs that hold something are computed.
    live = parts.ne(0).any(-1).any(0)
    if biased:
        live[:, -1] = True
    at_once = max(1, limit("neuron_numbers") // (len(parts) * w_in.shape[-1]))
    for pairs in live.nonzero().split(at_once):
        i, s = pairs.T
        hidden = read[:, i, s] @ w_in
        if biased:
            hidden[:, s == live.shape[1] - 1] += at_least_float32(weights.b_in[layer])
        hidden *= slope[:, i]
        out[:, i, s] = hidden @ branch.weight
    out = branch.push(out)
    return _with_bias(out, branch.constant(read[:, :, -1])) if biased else out


@technique(
    role="decomposition",
    entry=("2.9",),
    citation="Modarressi et al. 2023",
    cost="one forward + layers x positions^2 x d_model",
)
def source_stream(model: Model, tokens: PromptsLike, *, pos: Position = -1) -> xr.DataArray:
    """The final residual stream as a sum over source tokens, with all nonlinearities frozen.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. Memory is positions^2 x d_model per prompt.
    pos
        The position whose stream is split (negative from the end), or None for all.

    Returns
    -------
    xr.DataArray
        (batch, [pos,] key, d_model). ``key`` is the source position, the last (-1) the slot of the biases.
        The attribute ``gap`` is the most by which the sum over ``key`` misses the stream.

    Raises
    ------
    SiteAbsent
        For mixtures of experts and latent attention.

    Examples
    --------
    ::

        sources = source_stream(model, "When Mary and John went to the store, John gave a drink to")
        (sources**2).sum("d_model")
    """
    run = model.run(tokens, read=sites(model))
    parts = torch.empty(0)
    for step in steps(model, run):
        parts = step.stream
    off = (parts.sum(2) - at_least_float32(run["resid_post", -1])).abs()
    gap = float(off[run.tokens.mask].max())
    dims, coords = _axes(run, pos)
    values = picked(parts, run.tokens, pos)
    values = unpadded(values, run.tokens, 0, 1) if pos is None else values
    attrs = {"name": "write", "technique": source_stream, "model": model, "gap": gap, "pos": pos}
    return labelled(values, [*dims, "d_model"], coords, **attrs)


@technique(
    role="decomposition",
    entry=("2.9",),
    citation="Modarressi et al. 2023",
    cost="one forward + layers x positions^2 x d_model",
)
def source_shares(model: Model, tokens: PromptsLike, directions: Directions, *, pos: Position = -1) -> xr.DataArray:
    """Logits of some tokens as a sum over components and the source tokens behind each of them.

    All nonlinearities are frozen, the final norm included; shares are of logits before any soft-cap.

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

    Returns
    -------
    xr.DataArray
        (component, batch, [pos,] key, vocab), or k for vectors. ``key`` is the source position, the last (-1)
        the slot of the biases. Over ``key`` it sums to ``logit_parts``, over all but batch to the logits;
        the attribute ``gap`` is the most by which it misses them.

    Raises
    ------
    SiteAbsent
        For mixtures of experts and latent attention.

    Examples
    --------
    ::

        shares = source_shares(model, prompt, " Mary")
        shares.sum("component")                          # by source token
        shares.sel(component="L9H9")                     # whom this head's share comes from in the end
    """
    run = model.run(tokens, read=sites(model))
    reading = readout(model, directions, picked(run["resid_post", -1], run.tokens, pos))
    names, rows = ["embed"], [reading.of(picked(start(model, run), run.tokens, pos))[None]]

    def constant(value: Tensor) -> Tensor:
        """A row that is all in the bias slot."""
        row = torch.zeros_like(rows[0][0])
        row[..., -1, :] = value
        return row[None]

    for step in steps(model, run):
        branch = attention_branch(model.anatomy, step.layer, picked(run["z", step.layer], run.tokens, pos))
        heads = reading.of_heads(branch, picked(step.z, run.tokens, pos))
        names += [head_name(step.layer, h) for h in range(heads.shape[-2])]
        rows.append(heads.movedim(-2, 0))
        if step.attn_bias is not None:
            names.append(f"attn bias {step.layer}")
            rows.append(constant(reading.of(picked(step.attn_bias, run.tokens, pos))))
        names.append(f"MLP {step.layer}")
        rows.append(reading.of(picked(step.mlp, run.tokens, pos))[None])
    names.append("bias")
    rows.append(constant(reading.rows(rows[0][0][..., -1, :])))
    values = torch.cat(rows)
    off = (capped(model, reading, values.sum((0, -2))) - read_off(model, run, reading, pos)).abs()
    gap = float((off[run.tokens.mask] if pos is None else off).max())
    values = unpadded(values, run.tokens, 1, 2) if pos is None else values
    dims, coords = _axes(run, pos)
    attrs = {"name": "share", "technique": source_shares, "model": model, "gap": gap, "pos": pos}
    coords |= {"component": names, **reading.coords}
    return labelled(values, ["component", *dims, reading.dim], coords, **attrs)


def _axes(run: Run, pos: Position) -> tuple[list[str], dict[str, Any]]:
    """Dimensions of a result by source, with the source tokens' text beside ``key``."""
    of, texts = token_labels(run.tokens, "key")["token"]
    coords = {
        "key": [*range(run.tokens.ids.shape[1]), -1],
        "key_token": (of, [[*row, "bias"] for row in texts]),
    }
    if pos is not None:
        return ["batch", "key"], coords
    return ["batch", "pos", "key"], coords | token_labels(run.tokens, "pos")
