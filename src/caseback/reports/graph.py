"""The graph behind a prediction, as a document that can be drawn: nodes by layer and position, and weighted edges.

Plain JSON in columns, whatever made it: nodes are streams, heads, MLPs, neurons, features, errors, embeddings and
logits. ``share`` says at which part of all influence a node comes in: those before it in falling order hold that much.
A reader who moves a slider to t sees the nodes of share at most t, so the strongest are seen at 0 and all at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from caseback.errors import CasebackError, OutOfRange
from caseback.model.argument_kinds import JUDGED_BY_THE_FUNCTION
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.document import DocumentKind
from caseback.reports.graphs.paths import from_the_top
from caseback.reports.model_facts import model_facts

__all__ = ["EDGE_COLUMNS", "GRAPH", "KINDS", "NODE_COLUMNS", "cumulative_shares", "graph_document"]

KINDS = (
    *("embed", "pos_embed", "stream", "stream_mid", "attention", "mlp", "head", "neuron", "feature", "error", "bias"),
    "logits",
)
"""What a node may be; embeddings and logits are drawn wherever the slider stands."""
NODE_COLUMNS = (
    *("name", "kind", "layer", "pos", "index", "activation", "influence", "share"),
    *("text", "words", "examples", "probability"),
)
EDGE_COLUMNS = ("source", "target", "weight", "share", "heads")
_METHODS = ("attribution", "flow", "feature circuit", "feature")
Columns = Annotated[Mapping[str, Any], JUDGED_BY_THE_FUNCTION]
Rows = Annotated[Sequence[Any], JUDGED_BY_THE_FUNCTION]


def _expect(fits: bool, what: str, expected: str) -> None:
    if not fits:
        raise CasebackError(f"a graph document {what}: expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expect_columns(columns: Any, names: tuple[str, ...], what: str) -> int:
    """The common length of columns."""
    _expect(isinstance(columns, Mapping), f"whose {what} are {type(columns).__name__}", "columns by name")
    missing = [name for name in names if not isinstance(columns.get(name), list | tuple)]
    _expect(not missing, f"whose {what} have no column {', '.join(missing)}", f"the columns {', '.join(names)}")
    sizes = {name: len(columns[name]) for name in names}
    _expect(len(set(sizes.values())) == 1, f"whose {what} have columns of {sizes} entries", "as many in each")
    return sizes[names[0]]


def _expect_shares(values: Sequence[Any], what: str) -> None:
    wrong = next((value for value in values if not (_is_number(value) and 0 <= value <= 1)), None)
    _expect(wrong is None, f"with {what} {wrong!r}", "a number from 0 to 1")


def _expect_whole(values: Sequence[Any], low: int, high: int, what: str) -> None:
    whole = (isinstance(value, int) and not isinstance(value, bool) and low <= value < high for value in values)
    wrong = next((value for value, fits in zip(values, whole, strict=True) if not fits), None)
    _expect(wrong is None, f"with {what} {wrong!r}", f"a whole number from {low} to {high - 1}")


def _lengths(document: Mapping[str, Any]) -> None:
    nodes, edges = document["nodes"], document["edges"]
    count = _expect_columns(nodes, NODE_COLUMNS, "nodes")
    _expect_columns(edges, EDGE_COLUMNS, "edges")
    _expect(count > 0, "without nodes", "at least one: raise the thresholds that it was pruned by")
    method = document["about"].get("method")
    _expect(method in _METHODS, f"by the method {method!r}", f"{', '.join(_METHODS[:-1])} or {_METHODS[-1]}")
    kind = next((kind for kind in nodes["kind"] if kind not in KINDS), None)
    _expect(kind is None, f"with a node of the kind {kind!r}", f"one of {', '.join(KINDS)}")
    _expect(all(isinstance(x, str) for x in (*nodes["name"], *nodes["text"])), "with a name that is no text", "text")
    _expect_whole(nodes["layer"], -1, 100_000, "a layer")
    _expect_whole([pos for pos in nodes["pos"] if pos is not None], 0, len(document["tokens"]), "a position")
    wrong = next((x for x in nodes["influence"] if not (_is_number(x) and x >= 0)), None)
    _expect(wrong is None, f"with an influence of {wrong!r}", "a number from 0 up")
    _expect_shares(nodes["share"], "a node's share")
    _expect_shares(edges["share"], "an edge's share")
    _expect_shares([document["thresholds"][name] for name in ("node", "edge")], "a threshold")
    _expect(all(map(_is_number, edges["weight"])), "with an edge's weight that is no number", "numbers")
    for end in ("source", "target"):
        _expect_whole(edges[end], 0, count, f"an edge's {end}")
    from_the_top(count, edges["source"], edges["target"])
    for text in (*document["tokens"], *document["predictions"], *document["targets"]):
        _expect(isinstance(text["text"], str), f"with the token {text['text']!r}", "its text")
    _expect(all(_is_number(target["weight"]) for target in document["targets"]), "with a target without weight", "one")
    for group in document["supernodes"]:
        _expect_whole(group["nodes"], 0, count, f"a node of the supernode {group['name']!r}")
    for row in document["interventions"]:
        _expect_whole(row["nodes"], 0, count, f"a node of the intervention {row['name']!r}")
        given = [row["factor"], row["predicted"], row["measured"]]
        _expect(all(map(_is_number, given)), f"whose intervention {row['name']!r} has {given}", "three numbers")
    for row in document.get("attention", ()):
        _expect_whole([row["query"], row["key"]], 0, len(document["tokens"]), f"a place of {row['head']!r}")
        given = [row["share"], row["pattern"], row["score"], *(value for _, _, value in row["pairs"])]
        texts = [row["head"], *(text for pair in row["pairs"] for text in pair[:2])]
        fits = all(map(_is_number, given)) and all(isinstance(text, str) for text in texts)
        _expect(fits, f"whose attention of {row['head']!r} has {given} and {texts}", "numbers, and names of nodes")
    for examples in nodes["examples"]:
        for example in examples or ():
            sizes = len(example["tokens"]), len(example["activations"])
            _expect(sizes[0] == sizes[1], f"with an example of {sizes[0]} tokens and {sizes[1]} activations", "as many")


GRAPH = DocumentKind(
    "caseback.graph",
    1,
    "a graph document",
    "graph_document",
    sections=(
        *("about", "tokens", "predictions", "targets", "nodes", "edges", "thresholds"),
        *("scores", "supernodes", "interventions", "warnings", "provenance"),
    ),
    lengths=_lengths,
)


@checked
def cumulative_shares(sizes: Annotated[Sequence[float], JUDGED_BY_THE_FUNCTION]) -> list[float]:
    """At which share of the whole each entry comes in: what those before it in falling order hold.

    Parameters
    ----------
    sizes
        Numbers; their signs do not count.

    Raises
    ------
    CasebackError
        For what is no row of finite numbers.

    Examples
    --------
    >>> cumulative_shares([1.0, -3.0, 0.0])
    [0.75, 0.0, 1.0]
    """
    try:
        size = np.abs(np.asarray(sizes, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        size = np.full(1, np.nan)
    if size.ndim != 1 or not np.isfinite(size).all():
        raise CasebackError(f"the sizes {str(sizes)[:80]}: expected a row of finite numbers")
    order = np.argsort(-size, kind="stable")
    shares = np.zeros(len(size))
    before = np.cumsum(size[order]) - size[order]
    total = size.sum()
    shares[order] = np.clip(before / total, 0, 1) if total > 0 else 1
    shares[size == 0] = 1
    return shares.tolist()


@checked
def graph_document(
    model: Model,
    prompt: PromptsLike,
    *,
    about: Columns,
    targets: Rows,
    nodes: Columns,
    edges: Columns,
    thresholds: Columns | None = None,
    scores: Rows = (),
    supernodes: Rows = (),
    interventions: Rows = (),
    warnings: Rows = (),
    attention: Rows = (),
    k: int = 6,
) -> dict[str, Any]:
    """Put columns of nodes and edges together with the prompt and what the model predicts there, and check them.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt.
    about
        How it was made: ``method``, one of ``"attribution"``, ``"flow"``, ``"feature circuit"`` and ``"feature"``, and
        more facts. Where ``signed`` is False, weights are shares without a sign; where ``edge_slider`` is ``"weight"``,
        an edge's share is 1 less the weight from which on it is drawn.
    targets
        What it explains: ``text``, ``id``, ``probability`` and ``weight`` of each token; a foil's weight is negative.
    nodes
        The columns ``name``, ``kind``, ``layer``, ``pos``, ``influence``; and where they have any, ``index``,
        ``activation``, ``text``, ``words``, ``examples``, ``probability``, and ``share`` if not by influence.
    edges
        The columns ``source``, ``target`` and ``weight``; where they have any, ``heads``, and ``share`` if not by the
        size of the weight.
    thresholds
        Where the sliders for ``node`` and ``edge`` start; by default 0.8 and 0.98, as circuit-tracer prunes.
    scores
        ``name``, ``value`` and ``words`` of each.
    supernodes
        ``name`` and ``nodes`` of each.
    interventions
        ``name``, ``nodes``, ``factor``, ``predicted`` and ``measured`` of each: effects on the targets' metric.
    warnings
        Sentences.
    attention
        ``head``, ``query``, ``key``, ``share``, ``pattern``, ``score`` and ``pairs`` of each head at a place whose
        score is split: what stands at the query, what stands at the key, and what the two make of it.
    k
        How many of the model's predictions are listed.

    Returns
    -------
    dict
        The document, plain JSON data.

    Raises
    ------
    CasebackError
        For several prompts, and columns that cannot be drawn; the message names what is wrong.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> document = graph_document(
    ...     model, "Mary gave", about={"method": "attribution"},
    ...     targets=[{"text": " the", "id": 3, "probability": 0.2, "weight": 1}],
    ...     nodes={"name": ["embed@0", "logits[3]@1"], "kind": ["embed", "logits"], "layer": [-1, 4], "pos": [0, 1],
    ...            "index": [None, 3], "influence": [0.4, 1.0]},
    ...     edges={"source": [0], "target": [1], "weight": [0.7]},
    ... )
    >>> document["nodes"]["share"], document["edges"]["heads"]
    ([0.7142857142857143, 0.0], [None])
    """
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise CasebackError(f"{len(tokens)} prompts given: expected one")
    if k < 1:
        raise OutOfRange(f"k={k}: expected at least 1 prediction")
    for name, columns, needed in (("nodes", nodes, "influence"), ("edges", edges, "weight")):
        given = isinstance(columns, Mapping) and isinstance(columns.get(needed), Sequence)
        _expect(given, f"whose {name} have no column {needed}", "one")
    start = {"node": 0.8, "edge": 0.98} if thresholds is None else thresholds
    for name, facts in (("about", about), ("thresholds", start)):
        _expect(isinstance(facts, Mapping), f"whose {name} is {facts!r:.80}", "values by name")
    rows = {"targets": targets, "scores": scores, "supernodes": supernodes}
    rows |= {"interventions": interventions, "warnings": warnings}
    rows |= {"attention": attention} if attention else {}
    for name, listed in rows.items():
        _expect(isinstance(listed, list | tuple), f"whose {name} are {listed!r:.80}", "a list")
    nodes = {"share": cumulative_shares(nodes["influence"]), **nodes}
    edges = {"share": cumulative_shares(edges["weight"]), **edges}
    nothing = [None] * len(nodes["influence"])
    optional = {"index": nothing, "activation": nothing, "text": [""] * len(nothing), "words": nothing}
    nodes = {**optional, "examples": nothing, "probability": nothing, **nodes}
    edges = {"heads": [None] * len(edges["weight"]), **edges}
    logits = model.run(tokens).logits[0]
    last = logits[tokens.mask[0].to(logits.device)][-1]
    best = last.float().softmax(-1).topk(min(k, len(last)))
    return GRAPH.document(
        model_facts(model, "name", "family", "n_layers", "n_heads", "d_model", "dtype"),
        about=dict(about),
        tokens=[{"text": text} for text in tokens.text[0]],
        predictions=[
            {"text": model.token_text(i), "prob": p}
            for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
        nodes=nodes,
        edges=edges,
        thresholds=dict(start),
        **{name: list(listed) for name, listed in rows.items()},
        provenance=dict(model.provenance()),
    )
