"""Attention flow: how much could run from a token to a position if attention were pipes (PRIMER 3.1.14).

The layers' maps are a network: a node for each position before the first layer and behind each, an edge from (l - 1, j)
to (l, i) of capacity

    A_l[i, j] = (1 - r) C_l[i, j] + r [i = j]

The score of token j at position i is the maximum flow from (0, j) to (L, i). Unlike a rollout it is not a distribution:
pipes are shared, and each token is asked about as if it were alone.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_flow

from caseback.errors import CasebackError
from caseback.localize.inputs.mixing.mixing import Maps, read_positions, stack_of
from caseback.localize.inputs.mixing.raw_attention import attention_maps
from caseback.localize.inputs.mixing.rollout import residual_share
from caseback.model.prompts.per_token import token_scores
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

UNIT = 1 << 28
"""Capacities are whole multiples of 1 / UNIT: the algorithm wants integers, and a flow is at most one in all."""


@technique(
    role="input attribution",
    entry=("3.1.14",),
    citation="Abnar and Zuidema 2020",
    cost="one forward + a maximum flow per token, on the CPU",
)
def attention_flow(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    maps: xr.DataArray | None = None,
    residual: float | None = None,
) -> xr.DataArray:
    """The most that could flow from each token to the position that the metric reads.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts.
    maps
        Maps of the same prompts whose entries are capacities; raw attention's unless given.
    residual
        Share r of the identity in each layer; by default as for ``rollout``: 1/2 for raw attention.

    Returns
    -------
    xr.DataArray
        (batch, pos), from 0 to 1; NaN where a shorter prompt has no token. Exact to 2**-28 per edge.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions, or maps of other prompts, of some layers
        only, or that go back to the prompt's tokens already.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = attention_flow(model, "the cat and the dog", cb.logit(" cat"))
    >>> bool((scores <= 1).all() and (scores >= 0).all())
    True
    """
    tokens = model.tokens(tokens)
    at = read_positions(model, tokens, metric)
    maps = attention_maps(model, tokens) if maps is None else maps
    share = residual_share(maps, residual)
    values = stack_of(maps)
    if values.shape[0] != len(tokens) or values.shape[-1] != tokens.ids.shape[1]:
        raise CasebackError(
            f"maps of {values.shape[0]} prompts of {values.shape[-1]} tokens at most, for {len(tokens)} of "
            f"{tokens.ids.shape[1]}: expected maps of the same prompts"
        )
    mixed = (1 - share) * values + share * torch.eye(values.shape[-1], dtype=values.dtype)
    scores = torch.zeros(len(values), values.shape[-1], dtype=torch.float64)
    for row, position in enumerate(at.tolist()):
        scores[row, : position + 1] = torch.from_numpy(_flows(mixed[row], position))
    return token_scores(
        scores.to(values.dtype), model, tokens, metric, technique=attention_flow, name="attention_flow", residual=share
    )


def _flows(mixed: Maps, position: int) -> np.ndarray:
    """Maximum flows from each token up to ``position`` to that position behind the last layer.

    Later positions are cut off: nothing flows from them to an earlier one.
    """
    n, n_layers = position + 1, len(mixed)
    layer, to, source = np.nonzero(mixed[:, :n, :n].numpy() > 0)
    capacity = np.rint(mixed[:, :n, :n].numpy()[layer, to, source] * UNIT).astype(np.int32)
    # node l * n + j is position j before layer l, or behind the last layer
    nodes = (n_layers + 1) * n
    graph = coo_matrix((capacity, (layer * n + source, (layer + 1) * n + to)), shape=(nodes, nodes)).tocsr()
    sink = n_layers * n + position
    return np.array([maximum_flow(graph, j, sink).flow_value for j in range(n)]) / UNIT
