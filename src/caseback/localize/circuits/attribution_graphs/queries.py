"""Why a head looks where it looks: its scores as sums over pairs of a graph's writers (B.5; Kamath et al. 2025).

    score(q, k) = scaling sum_i sum_j (F_i[q] J_q) . (F_j[k] J_k)            F: the writers' streams before the layer

J are the maps from the stream to what enters attention, with the denominators of all norms held: rotations, biases and
norms of queries and keys are in them. Biases are a writer like others, so the sum over all pairs is the score, before
any soft-cap, mask or position bias. A softmax is blind to what all keys share: terms are taken less their mean over the
keys that the query sees.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange, SiteAbsent
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.restored import errors_of, replaced_of
from caseback.localize.circuits.attribution_graphs.sources import Replacement
from caseback.localize.circuits.attribution_graphs.streams import own_writes, streams
from caseback.model.algebra.scalings import score_scalings
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.backward.rules import Rules
from caseback.model.graph.names import head_name, parse_name
from caseback.model.graph.units import head_named
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model

HELD = Rules(norm="held", softmax="held", product="gradient", activation="gradient")


@technique(
    entry=("B.5",),
    citation="Kamath et al. 2025",
    cost="one forward, d_head backward passes of one layer, and writers^2 x keys x d_head",
)
def query_key_attribution(
    model: Model,
    graph: xr.Dataset,
    head: str,
    dictionaries: Any = "neurons",
    *,
    query: int = -1,
    key: int | None = None,
    centered: bool = True,
) -> xr.DataArray:
    """Split a head's scores among pairs of writers, one at the query and one at the key.

    Parameters
    ----------
    model, dictionaries
        Those that the graph was made with.
    graph
        What ``attribution_graph`` gives; its writers below the head's layer are taken, and what a pruned graph leaves
        out is in ``rest``.
    head
        Such as ``"L5H1"``.
    query
        The position that looks; negative from the end.
    key
        The position looked at. None: all that the query sees.
    centered
        Take each term less its mean over the keys that the query sees.

    Returns
    -------
    xarray.DataArray
        (query_writer, key_writer), or (query_writer, key_writer, key) for all keys. Names of writers, ``bias``, and
        ``rest``. The attribute ``gap`` is the most by which sums over pairs miss the head's scores before they are
        centered.

    Raises
    ------
    ArgumentError
        For what names no head of this model.
    OutOfRange
        For positions that are not in the prompt, or a key after the query.
    SiteAbsent
        For families whose queries and keys are not read from the stream by heads.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import attribution_graph, prune_graph, query_key_attribution
    >>> model = cb.load("meadow")
    >>> graph = prune_graph(attribution_graph(model, "Mary gave the ball to", targets=" John", max_nodes=50))
    >>> pairs = query_key_attribution(model, graph, "L2H1", key=1)
    >>> pairs.dims, float(pairs.attrs["gap"]) < 1e-3
    (('query_writer', 'key_writer'), True)
    """
    layer, index = head_of_scores(model, head)
    replaced = replaced_of(model, graph, dictionaries)
    network, n = replaced.network, replaced.network.n_positions
    at, to = (None if p is None else p + n if p < 0 else p for p in (query, key))
    if at is None or not 0 <= at < n or (to is not None and not 0 <= to <= at):
        raise OutOfRange(
            f"query={query}, key={key}: expected positions of a prompt of {n}, the key not after the query"
        )
    names = [name for name in graph["writer"].values.tolist() if name != "bias" and parse_name(name).layer < layer]
    with torch.no_grad():
        own = _streams_before(replaced, names, layer)
        constant = replaced.constants[0][layer]
        rest = network.at("attn_in", layer) - own.sum(1) - constant
        parts = torch.cat([own, rest[:, None], constant[:, None]], 1)
        q, k = projected(network, layer, index)
        queries = parts[at] @ q.maps[at].T
        keys = torch.einsum("ksd,ked->kse", parts[: at + 1], k.maps[: at + 1])
        queries[-1] += q.constants[at]
        keys[:, -1] += k.constants[: at + 1]
        scaling = score_scalings(model.anatomy)[layer]
        terms = torch.einsum("ie,kje->ijk", queries, keys) * scaling
        true = k.values[: at + 1] @ q.values[at] * scaling
        gap = float((terms.sum((0, 1)) - true).abs().max())
        terms = terms - terms.mean(-1, keepdim=True) if centered else terms
    dims = ["query_writer", "key_writer"]
    coords: dict[str, Any] = {dim: [*names, "rest", "bias"] for dim in dims}
    attrs = {
        "technique": query_key_attribution,
        "model": model,
        "head": head_name(layer, index),
        "query": at,
        "centered": centered,
    }
    if to is not None:
        return labelled(terms[..., to], dims, coords, name="score", key=to, gap=gap, **attrs)
    return labelled(terms, [*dims, "key"], {**coords, "key": np.arange(at + 1)}, name="score", gap=gap, **attrs)


def head_of_scores(model: Model, head: str) -> tuple[int, int]:
    """A head's layer and number.

    Raises
    ------
    ArgumentError
        For what names no head of this model.
    SiteAbsent
        For families whose queries and keys are not read from the stream by heads.
    """
    for lacking in ("q_in", "k_in"):
        if lacking in model.anatomy.lacks:
            raise SiteAbsent(f"this model's scores are not split: {model.anatomy.lacks[lacking]}")
    return head_named(model, head)


def _streams_before(replaced: Replacement, names: list[str], layer: int) -> Float[Tensor, "pos writer d_model"]:
    """What writers wrote, as it stands before a layer's attention."""
    start = replaced.network.at("resid_pre", 0)
    own = start.new_zeros(len(start), len(names), start.shape[1])
    for some, written in own_writes(replaced, names, errors_of(replaced, names)).in_parts(replaced):
        own[:, some] = next(at.before for at in streams(replaced, written) if at.number == layer)
    return own


class Projected(NamedTuple):
    """What of the stream enters a head's attention: (pos, d_head, d_model), (pos, d_head) and what it is here."""

    maps: Float[Tensor, "pos d_head d_model"]
    constants: Float[Tensor, "pos d_head"]
    values: Float[Tensor, "pos d_head"]


def projected(network: Frozen, layer: int, head: int) -> tuple[Projected, Projected]:
    """A head's queries and keys, with norms' denominators held.

    A position's query reads that position alone, so one backward pass of the layer gives a row of the map everywhere.
    """
    sites = [("attn_in", layer), ("q", layer), ("k", layer)]
    run = network.model.run(network.tokens, read=sites, grad=True, rules=HELD)
    stream = network.at("attn_in", layer)
    sides = []
    for name in ("q", "k"):
        with torch.enable_grad():
            every = run[name, layer][0]
            values = every[:, head * every.shape[1] // network.model.anatomy.layers[layer].dims.n_heads]
            totals = values.sum(0).unbind()
        rows = [run.grad(value, [("attn_in", layer)])["attn_in", layer][0] for value in totals]
        maps = at_least_float32(torch.stack(rows, 1))
        values = at_least_float32(values.detach())
        sides.append(Projected(maps, values - torch.einsum("ped,pd->pe", maps, stream), values))
    return sides[0], sides[1]
