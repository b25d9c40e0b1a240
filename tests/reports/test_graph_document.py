"""Graph documents: what is refused, what is read off any graph, and information flow routes as one."""

import copy
import itertools

import numpy as np
import pytest

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits import flow_routes
from caseback.reports.graph import GRAPH, cumulative_shares, graph_document
from caseback.reports.graphs.flow import flow_graph_document
from caseback.reports.graphs.paths import effects, from_the_top, strongest_paths
from exact import exact
from planted_graph import planted_graph

PROMPT = "Mary gave the ball to"


def changed(document, path, value):
    """A copy in which one place has another value."""
    document = copy.deepcopy(document)
    *way, last = path
    at = document
    for step in way:
        at = at[step]
    at[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("about", "method"), "guessing", "by the method 'guessing'"),
        (("nodes", "name"), ["one"], "columns of"),
        (("nodes", "kind", 0), "token", "kind 'token': expected one of embed"),
        (("nodes", "pos", 3), 11, "a position 11: expected a whole number from 0 to 10"),
        (("nodes", "pos", 3), True, "a position True"),
        (("nodes", "layer", 3), 1.5, "a layer 1.5"),
        (("nodes", "share", 3), 1.2, "a node's share 1.2"),
        (("nodes", "influence", 3), -0.1, "an influence of -0.1"),
        (("nodes", "influence", 3), float("nan"), "not finite"),
        (("nodes", "text", 3), None, "a name that is no text"),
        (("edges", "source", 3), 40, "an edge's source 40"),
        (("edges", "weight", 3), "1", "weight that is no number"),
        (("edges", "heads"), [], "edges have columns of"),
        (("thresholds", "edge"), 2, "a threshold 2"),
        (("thresholds",), {}, "KeyError: 'node'"),
        (("supernodes", 0, "nodes"), [99], "the supernode 'Texas' 99"),
        (("interventions", 0, "measured"), None, "the intervention|whose intervention 'Texas'"),
        (("targets", 0, "weight"), "1", "a target without weight"),
        (("tokens", 0, "text"), 3, "with the token 3"),
        (("version",), 2, "of version 2"),
    ],
)
def test_a_document_that_cannot_be_drawn_truthfully_is_refused(path, value, says):
    with pytest.raises(CasebackError, match=says):
        GRAPH.check(changed(planted_graph(), path, value))


def test_circles_empty_graphs_and_uneven_examples_are_refused():
    document = planted_graph()
    circle = copy.deepcopy(document)
    for name, value in (("source", circle["edges"]["target"][0]), ("target", circle["edges"]["source"][0])):
        circle["edges"][name].append(value)
    for name, value in (("weight", 1.0), ("share", 0.5), ("heads", None)):
        circle["edges"][name].append(value)
    with pytest.raises(CasebackError, match="lead back to it: expected edges that form no circle"):
        GRAPH.check(circle)
    empty = document | {"nodes": {k: [] for k in document["nodes"]}, "edges": {k: [] for k in document["edges"]}}
    with pytest.raises(CasebackError, match="without nodes: expected at least one: raise the thresholds"):
        GRAPH.check(empty)
    i = next(i for i, examples in enumerate(document["nodes"]["examples"]) if examples)
    uneven = changed(document, ("nodes", "examples", i), [{"tokens": ["a"], "activations": []}])
    with pytest.raises(CasebackError, match="1 tokens and 0 activations"):
        GRAPH.check(uneven)


def test_shares_are_what_stronger_entries_hold():
    rng = np.random.default_rng(0)
    sizes = rng.normal(size=50)
    shares = np.array(cumulative_shares(sizes.tolist()))
    for i in range(50):
        stronger = np.abs(sizes) > abs(sizes[i])
        assert shares[i] == pytest.approx(np.abs(sizes[stronger]).sum() / np.abs(sizes).sum())
    assert cumulative_shares([]) == [] and cumulative_shares([0.0, 0.0]) == [1.0, 1.0]
    for bad in (3, ["a"], [[1.0], [2.0]], [float("nan")]):
        with pytest.raises(CasebackError, match="a row of finite numbers"):
            cumulative_shares(bad)


@pytest.fixture(scope="module")
def small():
    return planted_graph(18, 30, 4, seed=1)


def every_path(document):
    """All paths from a node that nothing feeds to a target, with the products of their shares, by walking."""
    nodes, edges = document["nodes"], document["edges"]
    ends = list(zip(edges["source"], edges["target"], edges["weight"], strict=True))
    total = {t: sum(abs(w) for _, u, w in ends if u == t) for t in edges["target"]}
    weight = {target["id"]: target["weight"] for target in document["targets"]}
    fed = set(edges["target"])

    def onward(i, strength, path):
        if nodes["kind"][i] == "logits":
            yield path, strength * weight[nodes["index"][i]]
        for s, t, w in ends:
            if s == i:
                yield from onward(t, strength * w / total[t], (*path, t))

    for i in range(len(nodes["name"])):
        if i not in fed and nodes["kind"][i] != "logits":
            yield from onward(i, 1.0, (i,))


def test_strongest_paths_are_those_of_a_walk_over_all(small):
    walked = sorted(every_path(small), key=lambda path: -abs(path[1]))
    best = strongest_paths(small, 6)
    assert [abs(path.strength) for path in best] == pytest.approx([abs(s) for _, s in walked[:6]])
    assert dict(walked)[best[0].nodes] == pytest.approx(best[0].strength)
    value = effects(small)
    for i in {path[0] for path, _ in walked}:
        assert value[i] == pytest.approx(sum(strength for path, strength in walked if path[0] == i))


def test_effects_follow_signs_and_a_foil_speaks_against():
    document = planted_graph(18, 30, 4)
    kinds = document["nodes"]["kind"]
    value = effects(document)
    assert [value[i] for i, kind in enumerate(kinds) if kind == "logits"] == [1.0, -1.0]
    turned = effects(changed(document, ("targets", 1, "weight"), 0.0))
    assert any(a != b for a, b in zip(value, turned, strict=True))
    nameless = effects(document | {"targets": []})
    assert [nameless[i] for i, kind in enumerate(kinds) if kind == "logits"] == [1.0, 1.0]


def test_the_order_has_each_node_behind_all_that_it_feeds():
    document = planted_graph(200, 900)
    edges = document["edges"]
    order = from_the_top(200, edges["source"], edges["target"])
    place = {node: i for i, node in enumerate(order)}
    assert sorted(order) == list(range(200))
    assert all(place[s] > place[t] for s, t in zip(edges["source"], edges["target"], strict=True))


def test_columns_that_are_left_out_are_filled_in_and_prompts_counted():
    model = cb.load("meadow")
    told = {
        "about": {"method": "feature circuit"},
        "targets": [],
        "nodes": {"name": ["a", "b"], "kind": ["feature"] * 2, "layer": [0, 1], "pos": [None, 1], "influence": [1, 2]},
        "edges": {"source": [0], "target": [1], "weight": [-2.0]},
    }
    document = graph_document(model, PROMPT, **told)
    assert document["nodes"]["share"] == [2 / 3, 0.0] and document["edges"]["share"] == [0.0]
    assert document["nodes"]["words"] == [None, None] and document["thresholds"] == {"node": 0.8, "edge": 0.98}
    assert sum(p["prob"] for p in document["predictions"]) <= 1 and len(document["predictions"]) == 6
    with pytest.raises(CasebackError, match="2 prompts given"):
        graph_document(model, [PROMPT, PROMPT], **told)
    with pytest.raises(CasebackError, match="nodes have no column influence"):
        graph_document(model, PROMPT, **told | {"nodes": {}})
    with pytest.raises(OutOfRange, match="k=0"):
        graph_document(model, PROMPT, **told, k=0)


FIVE = "gpt2 gpt_neox llama gemma2 qwen3".split()


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("pos", [-1, 3])
def test_3_2_28_the_slider_shows_exactly_the_routes_of_its_threshold(name, pos):
    """Edges of share at most 1 - t that lead to the logit are what ``flow_routes`` keeps at the threshold t."""
    model, ids = shelf.model(name), shelf.ids((6,))
    with exact():
        document = flow_graph_document(model, ids, least=0.0, pos=pos)
        for threshold in (0.0, 0.02, 0.1, 0.3):
            routes = flow_routes(model, ids, threshold=threshold, renormalise=False, pos=pos).isel(batch=0)
            assert edges_shown(document, threshold) == edges_of(model, routes, pos % 6)


def edges_shown(document, threshold):
    """What the page's slider shows: light edges go, and with them what then leads nowhere."""
    nodes, edges = document["nodes"], document["edges"]
    reached = {i for i, kind in enumerate(nodes["kind"]) if kind == "logits"}
    shown = set()
    for i in from_the_top(len(nodes["name"]), edges["source"], edges["target"]):
        for source, target, share in zip(edges["source"], edges["target"], edges["share"], strict=True):
            if target == i and i in reached and 1 - share > threshold:
                reached.add(source)
                shown.add((nodes["name"][source], nodes["name"][target].partition("[")[0]))
    return shown


def edges_of(model, routes, end):
    """The edges that a route has, by name."""
    found = {(f"stream {model.n_layers - 1}@{end}", "logits")}
    for layer, query in itertools.product(range(model.n_layers), range(routes.sizes["pos"])):
        below = lambda at, layer=layer: f"stream {layer - 1}@{at}" if layer else f"embed@{at}"  # noqa: E731
        parallel = model.anatomy.layers[layer].parallel
        middle = f"stream {layer}@{query}" if parallel else f"stream {layer}:resid_mid@{query}"
        at = {"layer": layer, "query": query}
        for key in np.flatnonzero((routes.attention.isel(at).fillna(0) > 0).any("head")):
            found.add((below(key), middle))
        here = routes.isel(layer=layer, pos=query)
        if here.attention_skip > 0:
            found.add((below(query), middle))
        if here.mlp > 0:
            mlp = f"MLP {layer}@{query}"
            found |= {(below(query) if parallel else middle, mlp), (mlp, f"stream {layer}@{query}")}
        if here.mlp_skip > 0:
            found.add((middle, f"stream {layer}@{query}"))
    return found


@pytest.mark.parametrize("name", FIVE)
def test_3_2_28_all_routes_begin_at_embeddings_and_heads_part_an_edge(name):
    model = shelf.model(name)
    with exact():
        document = flow_graph_document(model, shelf.ids((6,)), least=0.0)
    nodes, edges = document["nodes"], document["edges"]
    begun = [x for x, kind in zip(nodes["influence"], nodes["kind"], strict=True) if kind == "embed"]
    assert sum(begun) == pytest.approx(1, abs=1e-9)
    for heads in filter(None, edges["heads"]):
        assert sum(share for _, share in heads) == pytest.approx(1)
        assert all(name == "skip" or name.startswith("L") for name, _ in heads)
    into = np.bincount(edges["target"], edges["weight"], minlength=len(nodes["name"]))
    fed = [i for i, kind in enumerate(nodes["kind"]) if kind != "embed"]
    assert np.allclose(into[fed], 1, atol=1e-9), "at the threshold 0 what a sum gets is all of it"


def test_3_2_28_streams_read_as_the_lens_does_and_the_last_as_the_model():
    model = cb.load("meadow")
    document = flow_graph_document(model, PROMPT)
    nodes = document["nodes"]
    top = nodes["kind"].index("logits")
    last = nodes["name"].index(f"stream {model.n_layers - 1}@5")
    assert nodes["text"][top] == nodes["words"][last]["up"][0] == document["predictions"][0]["text"]
    assert nodes["probability"][top] == pytest.approx(document["predictions"][0]["prob"], abs=1e-5)
    lens = cb.decode.vocabulary.logit_lens(model, PROMPT, k=6)
    i = nodes["name"].index("stream 1@5")
    assert nodes["words"][i]["up"] == lens["top_text"].sel(layer="1").isel(batch=0, pos=5).values.tolist()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"threshold": 1.0}, "expected 0 <= least"),
        ({"least": 0.1}, "expected 0 <= least"),
        ({"threshold": float("nan")}, "expected"),
        ({"pos": 9}, "position 9"),
    ],
)
def test_flow_graphs_refuse_what_has_no_routes(how, says):
    with pytest.raises(CasebackError, match=says):
        flow_graph_document(cb.load("meadow"), PROMPT, **how)
