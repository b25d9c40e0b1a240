"""Attention of one layer, head by head, and one score split by the dimensions of its query and key.

q · k = sum_d q_d k_d        what softmax turns into attention, before scale and mask
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.coerce import in_float64
from caseback.model.arguments import checked
from caseback.model.results import labelled
from caseback.model.running.run import Run
from caseback.reports.tokens_text import visible

__all__ = ["attention_of_layer", "score_by_dimension"]


@checked
def attention_of_layer(run: Run, layer: int, *, batch: int = 0) -> xr.DataArray:
    """The attention patterns of a layer's heads on one prompt.

    Parameters
    ----------
    run
        A run that read the site ``pattern``.
    layer
        Which layer.
    batch
        Which prompt.

    Returns
    -------
    xr.DataArray
        (head, query, key), shares of 1, with the prompt's tokens as ``token``; padding is left out.

    Raises
    ------
    OutOfRange
        For a layer or a prompt that is not there.
    CasebackError
        For a run that did not read the layer's pattern.

    Examples
    --------
    >>> import caseback as cb
    >>> run = cb.load("meadow").run("the cat and the dog", read=["pattern"])
    >>> attention_of_layer(run, 0).dims
    ('head', 'query', 'key')
    """
    _expect_place(run, layer, batch)
    if ("pattern", layer) not in run:
        raise CasebackError(f"this run did not read attention at layer {layer}: run with read=['pattern']")
    real = run.tokens.mask[batch].cpu()
    pattern = run["pattern", layer][batch].detach().cpu()[:, real][:, :, real]
    places = list(range(pattern.shape[-1]))
    tokens = list(run.tokens.text[batch])
    coords = {"query": places, "key": places, "token": ("key", tokens)}
    prompts = len(run.tokens)
    return labelled(pattern, ["head", "query", "key"], coords, name="attention", layer=layer, prompts=prompts)


@checked
def score_by_dimension(
    run: Run, layer: int, head: int, *, query: int = -1, key: int = 0, batch: int = 0
) -> xr.DataArray:
    """The product of one query and one key, by dimension: their sum is q · k, before scale and mask.

    Parameters
    ----------
    run
        A run that read the sites ``q`` and ``k``.
    layer, head
        Which head.
    query, key
        Positions of the prompt, counted from its end where they are negative.
    batch
        Which prompt.

    Returns
    -------
    xr.DataArray
        (d_head,), with ``query_token`` and ``key_token`` among its attributes.

    Raises
    ------
    OutOfRange
        For a head, a position or a prompt that is not there.
    CasebackError
        For a run that did not read queries and keys.

    Examples
    --------
    >>> import caseback as cb
    >>> run = cb.load("meadow").run("the cat and the dog", read=["q", "k"])
    >>> score_by_dimension(run, 0, 1, query=-1, key=2).dims
    ('d_head',)
    """
    _expect_place(run, layer, batch)
    if ("q", layer) not in run or ("k", layer) not in run:
        raise CasebackError(f"this run did not read queries and keys at layer {layer}: run with read=['q', 'k']")
    q, k = run["q", layer][batch].detach(), run["k", layer][batch].detach()
    n_heads, n_kv_heads = q.shape[1], k.shape[1]
    if not 0 <= head < n_heads:
        raise OutOfRange(f"head {head}: layer {layer} has {n_heads}, 0 to {n_heads - 1}")
    real = run.tokens.mask[batch].nonzero()[:, 0]
    at = []
    for name, place in (("query", query), ("key", key)):
        if not -len(real) <= place < len(real):
            raise OutOfRange(f"{name}={place}: the prompt has {len(real)} tokens, 0 to {len(real) - 1}")
        at.append(place % len(real))
    products = in_float64(q[real[at[0]], head]) * in_float64(k[real[at[1]], head * n_kv_heads // n_heads])
    text = run.tokens.text[batch]
    about: dict[str, Any] = {"layer": layer, "head": head, "query": at[0], "key": at[1]}
    about |= {"query_token": visible(text[at[0]]), "key_token": visible(text[at[1]])}
    coords = {"d_head": np.arange(products.shape[0])}
    return labelled(products, ["d_head"], coords, name="q · k", **about)


def _expect_place(run: Run, layer: int, batch: int) -> None:
    n_layers, n = run.anatomy.n_layers, len(run.tokens)
    if not 0 <= layer < n_layers:
        raise OutOfRange(f"layer {layer}: the model has {n_layers}, 0 to {n_layers - 1}")
    if not 0 <= batch < n:
        raise OutOfRange(f"prompt {batch}: the run has {n}, 0 to {n - 1}")
