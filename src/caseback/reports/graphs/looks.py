"""Why the heads that carry most of a graph look where they look, as rows of its document.

Of all (head, query, key) with another token at the key those through which most influence moves; of each the pairs of
nodes, one at the query and one at the key, that make most of its score, less each pair's mean over the keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from caseback.localize.circuits import head_moves, query_key_attribution
from caseback.model.running.model import Model

_PAIRS = 6  # of a row
_WRITERS = 200  # whose pairs are looked at, those of most influence; what others bring is "rest"


def looks(model: Model, graph: xr.Dataset, dictionaries: Any, count: int) -> list[dict[str, Any]]:
    """The rows, those through which most moves first; none for families whose scores are not split."""
    if not count or {"q_in", "k_in"} & set(model.anatomy.lacks):
        return []
    moves = head_moves(model, graph, dictionaries)
    share = np.abs(moves["share"].values) * ~np.eye(moves.sizes["query"], dtype=bool)
    order = np.argsort(-share.ravel(), kind="stable")[:count]
    best = np.argsort(-graph["influence"].values, kind="stable")[:_WRITERS]
    small = graph.isel(writer=np.sort(best))
    rows = []
    for place in zip(*np.unravel_index(order[share.ravel()[order] > 0], share.shape), strict=True):
        one = moves.isel(dict(zip(moves["share"].dims, place, strict=True)))
        head, query, key = str(one["head"].item()), int(place[1]), int(place[2])
        pairs = query_key_attribution(model, small, head, dictionaries, query=query, key=key)
        rows.append(
            {
                **{"head": head, "query": query, "key": key, "share": float(one["share"])},
                **{"pattern": float(one["pattern"]), "score": float(pairs.sum()), "pairs": heaviest(pairs)},
            }
        )
    return rows


def heaviest(pairs: xr.DataArray) -> list[list[Any]]:
    """The pairs that make most of a score: what stands at the query, what at the key, and what the two make."""
    largest = np.argsort(-np.abs(pairs.values), axis=None, kind="stable")[:_PAIRS]
    ends = zip(*np.unravel_index(largest, pairs.shape), strict=True)
    names = [pairs[side].values for side in ("query_writer", "key_writer")]
    return [[str(names[0][i]), str(names[1][j]), float(pairs.values[i, j])] for i, j in ends]
