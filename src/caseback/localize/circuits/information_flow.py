"""Information flow routes: whose write a sum resembles, from the top token down, in one forward (PRIMER 3.2.28).

    y = z_1 + ... + z_k,    e_j = max(0, |y| - |y - z_j|) / sum over k of the same,    | | the l1 norm

Every stream is such a sum: after attention of what each head brings from each earlier token and of the stream before;
after the MLP of its write and of the stream before it. Edges of weight above a threshold are followed down from the
last token. No counterfactual is needed.

On the graph of heads and MLPs the same weight says how much of what a component reads was written by each before it.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.machinery.writes import sites_of_writes, writes
from caseback.localize.circuits.selecting import name_of_reader
from caseback.model.algebra.sources import values_of
from caseback.model.algebra.under_edits import BEHIND, MLPS, QUERIES, STARTS, attended, expect_followed
from caseback.model.algebra.writes import attention_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.frames import positions
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens

_FOLLOWED = STARTS | QUERIES | MLPS | BEHIND | {"resid_pre", "attn_in", "attn_norm", "v_in", "v"}


def weights_of(
    total: Float[Tensor, "*at d_model"], parts: Float[Tensor, "*at part d_model"]
) -> Float[Tensor, "*at part"]:
    """How much nearer each part brings the sum, as shares; all 0 where none does.

    Examples
    --------
    >>> parts = torch.tensor([[4.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    >>> weights_of(parts.sum(0), parts)
    tensor([0.5000, 0.5000, 0.0000])
    """
    near = total.abs().sum(-1, keepdim=True) - (total.unsqueeze(-2) - parts).abs().sum(-1)
    near = near.clamp_min(0)
    return near / near.sum(-1, keepdim=True).clamp_min(torch.finfo(near.dtype).tiny)


@technique(
    role="circuit", entry=("3.2.28",), citation="Ferrando and Voita 2024", cost="1 forward + the writes' distances"
)
def flow_attribution(
    model: Model, tokens: PromptsLike, *, inputs: tuple[str, ...] = ("embed",), progress: bool = False
) -> xr.DataArray:
    """Score every edge by how much of what its reader reads was written by its writer; no counterfactual is needed.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    inputs
        As for ``edge_attribution``.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (writer, reader, batch), the mean over positions of weights that sum to 1 over writers; a head's query, key and
        value read the same stream and have the same. Biases and positions' shares that no writer has are in none.
        NaN where there is no edge. ``select(..., how="greedy")`` makes a circuit of it.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> flow = flow_attribution(model, "Mary gave the ball to")
    >>> bool(abs(flow.sum("writer") - 1).max() < 1e-4)
    True
    """
    graph = Graph.of(model.anatomy, inputs)
    tokens = model.tokens(tokens)
    streams = [Site(name, layer) for layer in range(model.n_layers) for name in ("attn_in", "mlp_in")]
    streams.append(Site("resid_post", model.n_layers - 1))
    run = execute(model.anatomy, tokens, read=[*sites_of_writes(model, graph), *streams], logits=False)
    scores = torch.full((len(tokens), *graph.exists.shape), torch.nan, dtype=torch.float64)
    for b, own in progress_bar(_prompts(tokens), "flow", show=progress):
        part = (slice(b, b + 1), own)
        written = torch.cat([w[:, 0] for w in writes(model, run, graph, part)]).transpose(0, 1)
        start = 0
        for stream in streams:
            layer = graph.layers[stream.layer or 0]
            count = layer.n_heads + 2 * layer.n_kv_heads if stream.name == "attn_in" else 1
            readers = slice(start, start + count)
            start = readers.stop
            before = int(graph.exists[:, readers.start].sum())
            total = at_least_float32(run[stream.name, stream.layer][b, own])
            scores[b, :before, readers] = weights_of(total, written[:, :before]).mean(0).cpu().double()[:, None]
    return labelled(
        scores.permute(1, 2, 0),
        ["writer", "reader", "batch"],
        {"writer": [str(w) for w in graph.writers], "reader": [name_of_reader(r) for r in graph.readers]},
        name="score",
        technique=flow_attribution,
        model=model,
    )


@technique(
    role="circuit",
    entry=("3.2.28",),
    citation="Ferrando and Voita 2024",
    cost="1 forward + layers x heads x positions^2 norms",
)
def flow_routes(
    model: Model,
    tokens: PromptsLike,
    *,
    threshold: float = 0.04,
    renormalise: bool = True,
    pos: int = -1,
    progress: bool = False,
) -> xr.Dataset:
    """The routes by which information reaches a prediction, token by token and head by head.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    threshold
        Edges of at most this weight are dropped; 0 keeps all that bring anything. The paper shows 0.04.
    renormalise
        Let what is kept of each sum add up to 1.
    pos
        The position whose prediction is explained.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Weights of edges on a route, 0 off them: ``attention`` (layer, head, query, key, batch) and ``attention_skip``
        (layer, pos, batch), into the stream after attention; ``mlp`` and ``mlp_skip`` (layer, pos, batch), into that
        after the MLP. In parallel blocks the first three make one sum and ``mlp_skip`` is 0. ``reached``
        (layer, pos, batch): whether the stream before a layer is on a route. NaN past a prompt's end.

    Raises
    ------
    OutOfRange
        For a threshold outside 0 to 1.
    SiteAbsent
        For families whose heads do not write z W_O.
    EditError
        For a model under edits of what attention writes that are not factors of heads, or of the stream behind it.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> routes = flow_routes(model, "Mary gave the ball to")
    >>> into = routes.attention.sum(["head", "key"]) + routes.attention_skip.rename(pos="query")
    >>> bool(abs(into.isel(layer=-1, query=-1) - 1).max() < 1e-5)
    True
    """
    if not 0 <= threshold < 1:
        raise OutOfRange(f"threshold={threshold}: expected a number from 0 to below 1")
    expect_followed(model.anatomy, "a route", _FOLLOWED, ("z",))
    tokens = model.tokens(tokens)
    layers, heads = range(model.n_layers), max(p.dims.n_heads for p in model.anatomy.layers)
    read = ["pattern", "v", "z", "resid_pre", "mlp_out", "resid_post"]
    read += [("resid_mid", i) for i in layers if not model.anatomy.layers[i].parallel]
    run = execute(model.anatomy, tokens, read=read, logits=False)
    longest = int(tokens.lengths.max())
    size = {"head": heads, "query": longest, "key": longest, "pos": longest}
    dims = {
        "attention": ("layer", "head", "query", "key", "batch"),
        **{name: ("layer", "pos", "batch") for name in ("attention_skip", "mlp", "mlp_skip", "reached")},
    }
    routes = {
        name: np.full([model.n_layers, *(size[d] for d in of[1:-1]), len(tokens)], np.nan) for name, of in dims.items()
    }
    for b, own in progress_bar(_prompts(tokens), "routes", show=progress):
        n = own.stop - own.start
        on = torch.zeros(n, dtype=torch.bool)
        on[list(positions(pos, b, n))] = True
        for layer in reversed(layers):
            weights = _layer(model, run, layer, b, own)
            on = _follow(weights, on, threshold, renormalise, parallel=model.anatomy.layers[layer].parallel)
            weights["reached"] = on
            for name, values in weights.items():
                at = (slice(0, values.shape[0]), *[slice(0, n)] * 2) if name == "attention" else (slice(0, n),)
                routes[name][(layer, *at, b)] = values.cpu().double().numpy()
    attrs = {"technique": flow_routes, "model": model, "threshold": threshold, "renormalised": renormalise}
    arrays = {name: labelled(values, list(dims[name]), name=name, **attrs) for name, values in routes.items()}
    return xr.Dataset(arrays, attrs=arrays["mlp"].attrs)


def _layer(model: Model, run: Run, layer: int, b: int, own: slice) -> dict[str, Tensor]:
    """The weights of one layer's sums on one prompt: of attention by (head, query, key), of the others by position."""
    p = model.anatomy.layers[layer]
    at = lambda name: at_least_float32(run[name, layer][b, own])  # noqa: E731
    before, after, mlp = at("resid_pre"), at("resid_post"), at("mlp_out")
    middle = after if p.parallel else at("resid_mid")
    z, a = at("z"), attended(run, layer)[b, :, own, own]
    values = values_of(run, layer)[b, :, own]
    weight = attention_branch(model.anatomy, layer, z).weight
    brought = torch.einsum("hje,hed->hjd", values, weight)
    n, heads = len(before), a.shape[0]
    # some queries at a time, as there is one vector for every query, head and key
    near = []
    for rows in torch.arange(n).split(max(1, limit("flow_numbers") // (heads * n * model.d_model))):
        branch = attention_branch(model.anatomy, layer, z[rows])
        parts = branch.push(a[:, rows].transpose(0, 1)[..., None] * brought)
        others = [before[rows], mlp[rows]] if p.parallel else [before[rows]]
        parts = torch.cat([parts.flatten(1, 2), torch.stack(others, 1)], 1)
        near.append(weights_of(middle[rows], parts))
    shares = torch.cat(near)
    attention = shares[:, : heads * n].view(n, heads, n).transpose(0, 1)
    if p.parallel:
        skip, write = shares[:, -2:].unbind(1)
        return {"attention": attention, "attention_skip": skip, "mlp": write, "mlp_skip": torch.zeros_like(skip)}
    write, past = weights_of(after, torch.stack([mlp, middle], 1)).unbind(1)
    return {"attention": attention, "attention_skip": shares[:, -1], "mlp": write, "mlp_skip": past}


def _follow(
    weights: dict[str, Tensor], on: Bool[Tensor, " pos"], threshold: float, renormalise: bool, *, parallel: bool
) -> Bool[Tensor, " pos"]:
    """Drop light edges and those off the routes, in place; returns which streams before the layer are on one."""
    attention = ("attention", "attention_skip")
    groups = [(*attention, "mlp")] if parallel else [("mlp", "mlp_skip"), attention]
    on = on.to(weights["mlp"].device)
    for group in groups:
        for name in group:
            here = on[None, :, None] if name == "attention" else on
            weights[name] = torch.where(here & (weights[name] > threshold), weights[name], 0.0)
        total = torch.stack([weights[n].sum((0, 2)) if n == "attention" else weights[n] for n in group]).sum(0)
        if renormalise:
            by = torch.where(total > 0, total, 1.0)
            for name in group:
                weights[name] = weights[name] / (by[None, :, None] if name == "attention" else by)
        on = total > 0
    below = (weights["attention"] > 0).any(0).any(0)
    return below | (weights["attention_skip"] > 0) | ((weights["mlp"] > 0) if parallel else torch.zeros_like(on))


def _prompts(tokens: Tokens) -> list[tuple[int, slice]]:
    """Each prompt with its own columns."""
    ends = zip(tokens.first.tolist(), tokens.lengths.tolist(), strict=True)
    return [(b, slice(first, first + n)) for b, (first, n) in enumerate(ends)]
