"""An attribution graph as a document: pruned as far as the sliders may need, with words, heads and measured effects.

Beside what the graph says stands what the model does: the strongest units are taken out one by one, and the document
warns where errors carry the influence or where what was measured does not follow what was predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.decode.dictionaries import dictionary_digest
from caseback.decode.vocabulary.weights.named_matrices import table_of, weights_of
from caseback.errors import ArgumentError, OutOfRange
from caseback.localize.circuits import (
    attribution_graph,
    edge_influence,
    graph_effects,
    graph_scores,
    head_loadings,
    node_influence,
    prune_graph,
)
from caseback.localize.circuits.attribution_graphs.restored import places_of, replaced_of
from caseback.localize.circuits.attribution_graphs.sources import listed_dictionaries
from caseback.model.anatomy.sites import as_site
from caseback.model.arguments import checked
from caseback.model.graph.names import parse_name
from caseback.model.notes import Notes
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.dictionaries.features import FEATURES
from caseback.reports.document import Document
from caseback.reports.graph import cumulative_shares, graph_document
from caseback.reports.graphs.looks import looks

__all__ = ["attribution_graph_document"]

_FEW = 3  # effects of which a correlation says nothing
_EXAMPLES = 3  # texts on a card
_WORDS_OF_SCORES = {
    "replacement": "of what leads to the targets begins at the prompt's tokens, the rest at errors",
    "completeness": "of what nodes with inputs read is no error",
    "completeness_with_leaves": "the same with tokens and errors counted as complete, as public code has it",
}


@checked
def attribution_graph_document(
    model: Model,
    prompt: PromptsLike,
    dictionaries: Any = "neurons",
    *,
    targets: Any = None,
    foil: str | int | None = None,
    max_nodes: int = 2000,
    node: float = 0.8,
    edge: float = 0.98,
    gate: str = "half",
    interventions: int = 10,
    query_key: int = 8,
    most_nodes: int = 1000,
    most_edges: int = 20_000,
    k: int = 6,
    notes: Notes | Sequence[Notes] = (),
    supernodes: Mapping[str, Sequence[str]] | None = None,
    features: Sequence[Document] = (),
    graph: xr.Dataset | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """What led to a prediction, unit by unit, as a graph that can be drawn.

    Parameters
    ----------
    model, prompt, dictionaries, targets, foil, max_nodes, gate
        As for ``attribution_graph``.
    node, edge
        Where the sliders start: as for ``prune_graph``. More is in the document, as far as ``most_nodes`` allows.
    interventions
        How many of the strongest units are taken out of the model, one by one.
    query_key
        Of how many heads at a query and a key, those through which most influence moves, the document says why they
        look there: ``attention``, with the heaviest pairs of nodes in each score.
    most_nodes, most_edges
        What a page holds at most.
    k
        Tokens of each unit's words, and predictions listed.
    notes
        What people say of the model's neurons, or of a dictionary's features: labels of nodes.
    supernodes
        Groups of units and embeddings by name: pinned, and each taken out of the model together, predicted beside
        measured.
    features
        Documents of the dictionaries' features, as ``features_document`` gives them: texts where a feature is active
        stand on its node's card, as far as the document has a card of it.
    graph
        The graph, if it is there already.
    progress
        Show progress bars.

    Returns
    -------
    dict
        The document, as ``graph_document`` makes it. A unit's ``words`` are what it writes here, read by the final
        norm's gain and the unembedding, less the mean over the vocabulary.

    Raises
    ------
    OutOfRange
        For shares outside 0 to 1, fewer than one node or edge, and where pruning leaves no unit.
    ArgumentError
        For notes on another model, or on a dictionary that is not among these, and supernodes of nodes that are none of
        the graph's or not shown, and documents of features of other dictionaries.
    CasebackError
        As ``attribution_graph``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> document = attribution_graph_document(model, "Mary gave the ball to", targets=" John", max_nodes=40)
    >>> document["about"]["method"], [score["name"] for score in document["scores"]][0]
    ('attribution', 'replacement')
    """
    if min(interventions, query_key) < 0 or most_nodes < 1 or most_edges < 1 or k < 1:
        raise OutOfRange(
            f"interventions={interventions}, query_key={query_key}, most_nodes={most_nodes}, most_edges={most_edges}, "
            f"k={k}: expected 0 or more interventions and query_key, and 1 or more of the others"
        )
    labels = _labels(model, dictionaries, [notes] if isinstance(notes, Notes) else list(notes))
    if graph is None:
        options = {"targets": targets, "foil": foil, "max_nodes": max_nodes, "gate": gate, "progress": progress}
        graph = attribution_graph(model, prompt, dictionaries, **options)
    shown = _within(prune_graph(graph, node=max(node, 0.9), edge=max(edge, 0.995)), most_nodes, most_edges)
    shown = shown.isel(writer=shown["kind"].values != "bias")
    scores = graph_scores(graph)
    names = [
        *shown["writer"].values.tolist(),
        *shown["reader"].values[shown["reader_kind"].values == "logits"].tolist(),
    ]
    number = {name: i for i, name in enumerate(names)}
    nodes = _nodes(model, graph, shown, names, dictionaries, labels, k)
    texts = _examples(dictionaries, features)
    nodes["examples"] = [texts.get(name.partition("@")[0]) for name in names]
    rows, columns = (places.tolist() for places in np.nonzero(shown["weight"].values))
    passing = edge_influence(shown).values[rows, columns]
    heads = head_loadings(model, shown, dictionaries, top=3)
    readers = [number[name] for name in shown["reader"].values.tolist()]
    edges = {
        "source": columns,
        "target": [readers[row] for row in rows],
        "weight": shown["weight"].values[rows, columns].astype(float).tolist(),
        "share": cumulative_shares(passing.tolist()),
        "heads": [_heads(heads, row, column) for row, column in zip(rows, columns, strict=True)],
    }
    effects = _effects(model, graph, shown, dictionaries, interventions)
    groups = {name: list(members) for name, members in (supernodes or {}).items()}
    hidden = [(name, one) for name, members in groups.items() for one in members if one not in number]
    if hidden:
        raise ArgumentError(
            f"{hidden[0][1]!r} of {hidden[0][0]!r} is not among the {len(names)} nodes shown: name others, or show "
            "more of them (node=1, or --node 1)"
        )
    together = graph_effects(model, graph, dictionaries, groups) if groups else None
    return graph_document(
        model,
        [graph["id"].values.tolist()],
        about=_about(graph, shown, effects),
        targets=_targets(model, graph),
        nodes=nodes,
        edges=edges,
        thresholds={"node": node, "edge": edge},
        scores=[{"name": name, "value": value, "words": _WORDS_OF_SCORES[name]} for name, value in scores.items()],
        supernodes=[{"name": name, "nodes": [number[one] for one in members]} for name, members in groups.items()],
        interventions=[
            *(
                []
                if together is None
                else _interventions(together, {n: [number[i] for i in g] for n, g in groups.items()})
            ),
            *([] if effects is None else _interventions(effects, {name: [i] for name, i in number.items()})),
        ],
        warnings=_warnings(graph, scores, effects),
        attention=looks(model, shown, dictionaries, query_key),
        k=k,
    )


def _within(graph: xr.Dataset, most_nodes: int, most_edges: int) -> xr.Dataset:
    """The nodes of most influence, and the edges along which most passes."""
    order = np.argsort(-graph["influence"].values, kind="stable")
    keep = np.zeros(len(order), dtype=bool)
    keep[order[:most_nodes]] = True
    keep |= np.isin(graph["kind"].values, ("embed", "bias"))
    units = set(graph["writer"].values[keep].tolist())
    readers = [name in units or kind == "logits" for name, kind in _pairs(graph, "reader", "reader_kind")]
    graph = graph.isel(writer=keep, reader=np.array(readers))
    passing = edge_influence(graph).values
    if np.count_nonzero(passing) <= most_edges:
        return graph
    least = np.partition(passing.ravel(), -most_edges)[-most_edges]
    biases = (graph["kind"].values == "bias")[None]
    return graph.assign(weight=(("reader", "writer"), np.where((passing >= least) | biases, graph["weight"].values, 0)))


def _pairs(graph: xr.Dataset, *names: str) -> Any:
    return zip(*(graph[name].values.tolist() for name in names), strict=True)


def _nodes(
    model: Model,
    graph: xr.Dataset,
    shown: xr.Dataset,
    names: list[str],
    dictionaries: Any,
    labels: Mapping[str, str],
    k: int,
) -> dict[str, Any]:
    """Columns of the nodes: writers, then logits."""
    influence = node_influence(graph)
    every = dict(zip(influence["writer"].values.tolist(), influence.values.tolist(), strict=True))
    shares = dict(zip(every, cumulative_shares(list(every.values())), strict=True))
    targets = {name: weight for name, weight in _pairs(graph, "reader", "target_weight") if name not in every}
    chances = dict(_pairs(graph, "reader", "probability"))
    writers, logits = shown.sizes["writer"], names[shown.sizes["writer"] :]
    ids = [int(name.partition("[")[2].partition("]")[0]) for name in logits]
    last = graph.sizes["pos"] - 1
    tokens = graph["token"].values.tolist()
    kinds, at = shown["kind"].values.tolist(), shown["pos_of"].values.tolist()
    activation = [None if np.isnan(value) else value for value in shown["activation"].values.tolist()]
    return {
        "name": names,
        "kind": [*kinds, *["logits"] * len(ids)],
        "layer": [*shown["layer"].values.tolist(), *[model.n_layers] * len(ids)],
        "pos": [*at, *[last] * len(ids)],
        "index": [*(None if i < 0 else i for i in shown["index"].values.tolist()), *ids],
        "activation": [*activation, *[None] * len(ids)],
        "influence": [*(every[name] for name in names[:writers]), *(targets[name] for name in logits)],
        "share": [*(shares[name] for name in names[:writers]), *[0.0] * len(ids)],
        "text": [
            *(
                tokens[pos] if kind == "embed" else labels.get(name.partition("@")[0], "")
                for name, kind, pos in zip(names[:writers], kinds, at, strict=True)
            ),
            *map(model.token_text, ids),
        ],
        "words": [*_words(model, graph, names[:writers], dictionaries, k), *[None] * len(ids)],
        "probability": [*[None] * writers, *(chances[name] for name in logits)],
    }


def _labels(model: Model, dictionaries: Any, notes: Sequence[Notes]) -> dict[str, str]:
    """What people call units, by the units' names; of features each dictionary's notes name its own layer's."""
    every = listed_dictionaries(dictionaries)
    layers = {} if isinstance(every, str) else {dictionary_digest(one): as_site(one.facts.site).layer for one in every}
    labels: dict[str, list[str]] = {}
    for one in notes:
        own = one.dictionary
        if own and own not in layers:
            raise ArgumentError("notes are on a dictionary that is not among those of this graph: leave them out")
        one.expect(model, own)
        for note in one:
            unit = parse_name(note.unit)
            if unit.kind != "feature" or layers.get(own) in (None, unit.layer):
                labels.setdefault(note.unit, []).append(note.label)
    return {unit: "; ".join(dict.fromkeys(names)) for unit, names in labels.items()}


def _examples(dictionaries: Any, documents: Sequence[Document]) -> dict[str, list[dict[str, Any]]]:
    """Texts where features are active, by feature, from documents of their dictionaries."""
    listed = [] if isinstance(dictionaries, str) else listed_dictionaries(dictionaries)
    known = {(one.facts.site, one.facts.target or one.facts.site, one.n_features) for one in listed}
    texts = {}
    for document in documents:
        with FEATURES.drawing(document):
            own = document["dictionary"]
            if (own["site"], own["target"], own["n_features"]) not in known:
                raise ArgumentError(
                    f"features of a dictionary of {own['site']} that is not among the graph's: expected such as "
                    f"{', '.join(sorted(site for site, _, _ in known)) or 'none, since units are neurons'}"
                )
            for card in document["cards"]:
                texts[f"L{as_site(own['site']).layer}F{card['feature']}"] = [
                    {"tokens": list(one["tokens"]), "activations": list(one["values"])}
                    for one in card["examples"][:_EXAMPLES]
                ]
    return texts


@torch.no_grad()
def _words(model: Model, graph: xr.Dataset, names: list[str], dictionaries: Any, k: int) -> list[dict[str, Any] | None]:
    """The tokens that each unit's write promotes and suppresses on the direct path; None of what is no unit."""
    replaced = replaced_of(model, graph, dictionaries)
    table = table_of(weights_of(model, True), "out")
    words: list[dict[str, Any] | None] = [None] * len(names)
    for layer, (numbers, entries) in places_of(replaced, names).items():
        sources = replaced.sources[layer]
        parts = [sources.each_written(entries, target) for target in sources.reached()]
        logits = torch.stack(parts).sum(0).to(table) @ table
        logits -= logits.mean(-1, keepdim=True)
        up, down = (logits.topk(min(k, logits.shape[1]), largest=largest).indices.tolist() for largest in (True, False))
        for i, number in enumerate(numbers):
            words[number] = {"up": [*map(model.token_text, up[i])], "down": [*map(model.token_text, down[i])]}
    return words


def _heads(heads: xr.Dataset, row: int, column: int) -> list[list[Any]] | None:
    """The heads of an edge, as shares of all that these and its direct part carry."""
    names, loadings = heads["head"].values[row, column], heads["loading"].values[row, column]
    direct = float(heads["direct"].values[row, column])
    total = float(np.abs(loadings).sum()) + abs(direct)
    listed = [[str(name), float(value) / total] for name, value in zip(names, loadings, strict=True) if name]
    if not listed or total == 0:
        return None
    return [*listed, *([["skip", direct / total]] if direct else [])]


def _effects(model: Model, graph: xr.Dataset, shown: xr.Dataset, dictionaries: Any, count: int) -> xr.Dataset | None:
    units = np.flatnonzero(np.isin(shown["kind"].values, ("feature", "neuron")))
    if not count or not len(units):
        return None
    order = units[np.argsort(-shown["influence"].values[units], kind="stable")][:count]
    return graph_effects(model, graph, dictionaries, shown["writer"].values[order].tolist(), factor=0.0)


def _interventions(effects: xr.Dataset, members: dict[str, list[int]]) -> list[dict[str, Any]]:
    first = effects.isel(vocab=0)
    return [
        {
            "name": f"without {name}",
            "nodes": members[name],
            "factor": 0.0,
            "predicted": float(first["predicted"].values[i]),
            "measured": float(first["measured"].values[i]),
        }
        for i, name in enumerate(first["component"].values.tolist())
    ]


def _targets(model: Model, graph: xr.Dataset) -> list[dict[str, Any]]:
    own = graph.isel(reader=graph["reader_kind"].values == "logits")
    rows = [
        {"text": model.token_text(int(i)), "id": int(i), "probability": chance, "weight": weight}
        for i, weight, chance in _pairs(own, "reader_index", "target_weight", "probability")
    ]
    foil = graph.attrs.get("foil_id")
    if foil is not None:
        total = sum(row["weight"] for row in rows)
        rows.append({"text": model.token_text(int(foil)), "id": int(foil), "probability": 0.0, "weight": -total})
    return rows


def _about(graph: xr.Dataset, shown: xr.Dataset, effects: xr.Dataset | None) -> dict[str, Any]:
    about: dict[str, Any] = {"method": "attribution", "signed": True}
    about |= {key: graph.attrs[key] for key in ("active", "dropped", "first", "gate", "gap") if key in graph.attrs}
    about |= {"readers": graph.sizes["reader"], "shown": shown.sizes["writer"]}
    if effects is not None and np.isfinite(effects.attrs["correlation"]):
        about["correlation"] = float(effects.attrs["correlation"])
    return about


def _warnings(graph: xr.Dataset, scores: dict[str, float], effects: xr.Dataset | None) -> list[str]:
    attrs, sentences = graph.attrs, []
    largest = float(np.abs(graph["value"].values).max())
    if attrs["gap"] > 0.01 * largest:
        sentences.append(
            f"Rows miss what their readers are by up to {attrs['gap']:.3g}, of at most {largest:.3g}: the model "
            "computes in few digits. Load it with dtype float32 for an exact graph."
        )
    if scores["replacement"] < 0.5:
        sentences.append(
            f"Errors carry most of it: {1 - scores['replacement']:.0%} of what leads to the targets begins at what the "
            "units leave of MLPs."
        )
    if attrs["dropped"]:
        sentences.append(f"{attrs['dropped']:,} active units are no nodes and count as errors.")
    if attrs["without_units"]:
        sentences.append(f"{attrs['without_units']} layers have no dictionary: what their MLPs write is all error.")
    correlation, count = (np.nan, 0) if effects is None else (effects.attrs["correlation"], effects["measured"].size)
    if np.isfinite(correlation) and correlation < 0.5 and count > _FEW:
        how = "only weakly" if correlation >= 0 else "not"
        sentences.append(
            f"What was measured without the strongest units ({count} effects) follows what the graph says {how} "
            f"(correlation {correlation:.2f}). Attention and norms stand still in the graph, and not in the model."
        )
    return sentences
