"""Information flow routes as a graph: streams by layer and position, what each read, and the lens at each (3.2.28).

An edge's weight is its share of the sum that it goes into, before renormalising. So the edges of weight t and more that
lead to the prediction are the routes at the threshold t, and a reader who moves the page's slider sees just these.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import xarray as xr

from caseback.decode.vocabulary import logit_lens
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits import flow_routes
from caseback.model.arguments import checked
from caseback.model.graph.names import head_name
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.graph import cumulative_shares, graph_document
from caseback.reports.graphs.paths import effects

__all__ = ["flow_graph_document"]

SKIP = "skip"
"""What an edge's list of heads calls the stream's own way past them."""
_AT = {"stream": "resid_post", "stream_mid": "resid_mid", "mlp": "mlp_out"}


@checked
def flow_graph_document(
    model: Model,
    prompt: PromptsLike,
    *,
    threshold: float = 0.04,
    least: float | None = None,
    pos: int = -1,
    k: int = 6,
    progress: bool = False,
) -> dict[str, Any]:
    """The routes by which information reaches a prediction, as a graph that can be drawn.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt.
    threshold
        Where the slider of edges starts: lighter edges are hidden. The paper shows 0.04.
    least
        Edges of at most this weight are not in the graph at all; by default 0.01, or ``threshold`` if that is less.
    pos
        The position whose prediction is explained.
    k
        How many tokens the lens reads at each node, and how many predictions are listed.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document, as ``graph_document`` makes it. Nodes are the embeddings ``embed@0``, the streams after each layer
        ``stream 3@5`` and after its attention ``stream 3:resid_mid@5``, the MLPs ``MLP 3@5`` and the logit. Their
        ``words`` are the logit lens there; an edge's ``heads`` say which part of it each head brings, and the skip. A
        node's influence is the share of all routes that passes through it.

    Raises
    ------
    OutOfRange
        For thresholds outside 0 to 1, ``least`` above ``threshold``, or a position that there is not.
    CasebackError
        For several prompts.

    Examples
    --------
    >>> import caseback as cb
    >>> document = flow_graph_document(cb.load("meadow"), "Mary gave the ball to")
    >>> document["nodes"]["name"][0], document["targets"][0]["text"] == document["predictions"][0]["text"]
    ('logits[1127]@5', True)
    """
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise CasebackError(f"{len(tokens)} prompts given: expected one")
    least = min(0.01, threshold) if least is None else least
    if not 0 <= least <= threshold < 1:
        raise OutOfRange(f"least={least}, threshold={threshold}: expected 0 <= least <= threshold < 1")
    routes = flow_routes(model, tokens, threshold=least, renormalise=False, pos=pos, progress=progress)
    n = int(tokens.lengths[0])
    end = pos % n
    lens = {
        kind: logit_lens(model, tokens, site=site, k=min(k, model.anatomy.d_logits))
        for kind, site in _AT.items()
        if kind != "stream_mid" or not all(p.parallel for p in model.anatomy.layers)
    }
    best = lens["stream"]["top_id"].isel(layer=-1, batch=0, pos=end, k=0)
    chance = float(lens["stream"]["top_prob"].isel(layer=-1, batch=0, pos=end, k=0))
    token, text = int(best), str(lens["stream"]["top_text"].isel(layer=-1, batch=0, pos=end, k=0).item())
    top = ("logits", model.n_layers, end)
    parts = _parts(model, routes)
    parts[(("stream", model.n_layers - 1, end), top)] = {"": 1.0}
    places = dict.fromkeys([top, *(node for ends in parts for node in reversed(ends))])
    order = sorted(places, key=lambda node: (-node[1], _ORDER.index(node[0]), node[2]))
    number = {node: i for i, node in enumerate(order)}
    words = [_words(lens, node) for node in order]
    nodes: dict[str, Any] = {
        "name": [f"logits[{token}]@{end}" if node == top else _name(node) for node in order],
        "kind": [kind for kind, _, _ in order],
        "layer": [layer for _, layer, _ in order],
        "pos": [at for _, _, at in order],
        "index": [token if node == top else None for node in order],
        "probability": [chance if node == top else None for node in order],
        "text": [text if node == top else up[0] if up else "" for node, up in zip(order, words, strict=True)],
        "words": [{"up": up, "down": []} if up else None for up in words],
    }
    weights = [sum(by.values()) for by in parts.values()]
    edges = {
        "source": [number[source] for source, _ in parts],
        "target": [number[target] for _, target in parts],
        "weight": weights,
        "share": [min(1.0, max(0.0, 1 - max(by.values()))) for by in parts.values()],
        "heads": [
            [[name, value / sum(by.values())] for name, value in sorted(by.items(), key=lambda x: -x[1])]
            if "" not in by
            else None
            for by in parts.values()
        ],
    }
    targets = [{"text": text, "id": token, "probability": chance, "weight": 1.0}]
    nodes["influence"] = effects({"nodes": nodes, "edges": edges, "targets": targets})
    nodes["share"] = cumulative_shares(nodes["influence"])
    about = {"method": "flow", "signed": False, "edge_slider": "weight", "threshold": threshold, "least": least}
    return graph_document(
        model,
        tokens,
        about=about,
        targets=targets,
        nodes=nodes,
        edges=edges,
        thresholds={"node": 1.0, "edge": 1 - threshold},
        warnings=[
            "A weight says how much nearer a write brings the sum that it goes into, not what the prediction would be "
            "without it."
        ],
        k=k,
    )


_Node = tuple[str, int, int]
_ORDER = ["logits", "stream", "mlp", "stream_mid", "embed"]


def _name(node: _Node) -> str:
    kind, layer, at = node
    if kind == "embed":
        return f"embed@{at}"
    return f"MLP {layer}@{at}" if kind == "mlp" else f"stream {layer}{':resid_mid' * (kind == 'stream_mid')}@{at}"


def _words(lens: dict[str, xr.Dataset], node: _Node) -> list[str]:
    kind, layer, at = node
    if kind not in lens or layer < 0:
        return []
    return [str(text) for text in lens[kind]["top_text"].sel(layer=str(layer)).isel(batch=0, pos=at).values]


def _parts(model: Model, routes: xr.Dataset) -> dict[tuple[_Node, _Node], dict[str, float]]:
    """What goes along each edge: its weight by head, by ``SKIP``, or by "" where nothing parts it."""
    parts: dict[tuple[_Node, _Node], dict[str, float]] = defaultdict(dict)
    columns = {name: np.nan_to_num(routes[name].isel(batch=0).values) for name in routes.data_vars}
    for layer in range(model.n_layers):
        parallel = model.anatomy.layers[layer].parallel
        below = lambda at, layer=layer: ("stream", layer - 1, at) if layer else ("embed", -1, at)  # noqa: E731
        read = "stream" if parallel else "stream_mid"
        for head, query, key in np.argwhere(columns["attention"][layer] > 0).tolist():
            weight = columns["attention"][layer, head, query, key]
            parts[below(key), (read, layer, query)][head_name(layer, head)] = float(weight)
        for at in np.flatnonzero(columns["attention_skip"][layer]).tolist():
            parts[below(at), (read, layer, at)][SKIP] = float(columns["attention_skip"][layer, at])
        for at in np.flatnonzero(columns["mlp"][layer]).tolist():
            before = below(at) if parallel else ("stream_mid", layer, at)
            parts[before, ("mlp", layer, at)][""] = 1.0
            parts[("mlp", layer, at), ("stream", layer, at)][""] = float(columns["mlp"][layer, at])
        for at in np.flatnonzero(columns["mlp_skip"][layer]).tolist():
            parts[("stream_mid", layer, at), ("stream", layer, at)][""] = float(columns["mlp_skip"][layer, at])
    return dict(parts)
