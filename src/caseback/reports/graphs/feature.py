"""What one feature of a dictionary reads on a prompt, as a graph of one step: its writers, and the heads between."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import OutOfRange
from caseback.localize.circuits import feature_attribution, score_attribution
from caseback.model.arguments import checked
from caseback.model.graph.names import parse_name
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.graph import cumulative_shares, graph_document
from caseback.reports.graphs.looks import heaviest

__all__ = ["feature_graph_document"]


@checked
def feature_graph_document(
    model: Model,
    prompt: PromptsLike,
    feature: str,
    dictionaries: Any,
    *,
    pos: int = -1,
    top: int = 200,
    query_key: int = 8,
    k: int = 6,
) -> dict[str, Any]:
    """What one active feature reads, as a graph that can be drawn.

    Parameters
    ----------
    model, prompt, feature, dictionaries, pos
        As for ``feature_attribution``.
    top
        How many of its entries, a writer by one way each, are in the graph.
    query_key
        Of how many heads at a key, those through which most is read, the document says why they look there.
    k
        How many of the model's predictions are listed.

    Returns
    -------
    dict
        The document, as ``graph_document`` makes it: writers, and the feature that is their target. An edge's
        ``heads`` are the ways by which its writer is read, each as a share of all; a node's influence is its share of
        all weights.

    Raises
    ------
    OutOfRange
        For fewer than one entry, less than 0 of ``query_key``, or a position outside of the prompt.
    CasebackError
        As ``feature_attribution``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> stream = [TopK(model.d_model, 64, k=4, seed=i, facts=Facts(site=f"resid_post.{i}")) for i in (0, 1)]
    >>> state = model.run("Mary gave the ball to", read=["resid_post.1"])["resid_post", 1][0, -1:]
    >>> name = f"L1F{int(stream[1].encode(state).argmax())}:resid_post"
    >>> document = feature_graph_document(model, "Mary gave the ball to", name, stream)
    >>> document["nodes"]["name"][-1] == f"{name}@5", document["about"]["method"]
    (True, 'feature')
    """
    if query_key < 0:
        raise OutOfRange(f"query_key={query_key}: expected 0 or more")
    tokens = model.tokens(prompt)
    inputs = feature_attribution(model, tokens, feature, dictionaries, pos=pos, top=top)
    at = int(inputs.attrs["pos"])
    named = inputs.isel(entry=inputs["kind"].values != "bias")
    weights = named["weight"].values
    writers, of = np.unique(named["writer"].values.astype(str), return_inverse=True)
    first = [int(np.flatnonzero(of == i)[0]) for i in range(len(writers))]
    summed = np.bincount(of, weights, len(writers))
    column = {name: named[name].values[first].tolist() for name in ("kind", "layer", "index", "activation")}
    places = named["pos_of"].values[first].tolist()
    influence = (np.abs(summed) / np.abs(weights).sum()).tolist()
    target = parse_name(feature)
    chosen = _most_looked_through(named, query_key)
    texts = tokens.text[0]
    return graph_document(
        model,
        tokens,
        about={"method": "feature", "signed": True, "activation": inputs.attrs["value"], "rest": inputs.attrs["rest"]},
        targets=[{"text": f"{feature}@{at}", "id": None, "probability": None, "weight": 1.0}],
        nodes={
            "name": [*writers.tolist(), f"{feature}@{at}"],
            "kind": [*column["kind"], target.kind],
            "layer": [*column["layer"], target.layer],
            "pos": [*places, at],
            "index": [*(None if i < 0 else i for i in column["index"]), target.index],
            "activation": [*(None if np.isnan(x) else x for x in column["activation"]), inputs.attrs["value"]],
            "influence": [*influence, 1.0],
            "share": [*cumulative_shares(influence), 0.0],
            "text": [
                *(texts[pos] if kind == "embed" else "" for kind, pos in zip(column["kind"], places, strict=True)),
                "",
            ],
        },
        edges={
            "source": list(range(len(writers))),
            "target": [len(writers)] * len(writers),
            "weight": summed.tolist(),
            "heads": [_ways(named, of == i) for i in range(len(writers))],
        },
        thresholds={"node": 0.9, "edge": 1.0},
        scores=[
            {
                "name": "by features",
                "value": float(np.abs(weights[named["kind"].values == "feature"]).sum() / np.abs(weights).sum()),
                "words": "of what is read, signs aside, was written by features, not by tokens, heads, MLPs or errors",
            }
        ],
        attention=[
            _look(score_attribution(model, tokens, head, dictionaries, query=at, key=key), share)
            for head, key, share in chosen
        ],
        k=k,
    )


def _ways(named: xr.Dataset, own: np.ndarray) -> list[list[Any]]:
    """By which heads a writer is read, each as a share of all ways; ``skip`` where by none."""
    weights, ways = named["weight"].values[own], named["through"].values[own].tolist()
    total = float(np.abs(weights).sum())
    return [[way or "skip", float(weight) / total] for way, weight in zip(ways, weights, strict=True)]


def _most_looked_through(named: xr.Dataset, count: int) -> list[tuple[str, int, float]]:
    """The heads and keys through which most is read, with its share of all."""
    sums: dict[tuple[str, int], float] = {}
    for way, pos, weight in zip(
        named["through"].values.tolist(), named["pos_of"].values.tolist(), named["weight"].values.tolist(), strict=True
    ):
        if way:
            sums[way, pos] = sums.get((way, pos), 0.0) + weight
    total = float(np.abs(named["weight"].values).sum())
    order = sorted(sums, key=lambda place: -abs(sums[place]))[:count]
    return [(*place, sums[place] / total) for place in order]


def _look(pairs: xr.DataArray, share: float) -> dict[str, Any]:
    place = {name: pairs.attrs[name] for name in ("head", "query", "key", "pattern")}
    return {**place, "share": share, "score": float(pairs.sum()), "centered": False, "pairs": heaviest(pairs)}
