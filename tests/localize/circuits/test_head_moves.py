"""From where to where heads carry a graph: over queries and keys it is what the edges' loadings are, and pairs sum to scores."""

import numpy as np
import pytest
import torch

import shelf
from caseback.jobs.budget import override
from caseback.localize.circuits import (
    attribution_graph,
    edge_influence,
    head_loadings,
    head_moves,
    prune_graph,
    query_key_attribution,
)
from caseback.organisms.compiled import programs
from caseback.reports.graphs.attribution import attribution_graph_document
from exact import exact
from graph_parts import PROMPT, transcoders


@pytest.mark.parametrize("name", "gpt2 llama qwen3 gemma2 gptj olmo2 crystal bloom".split())
def test_b_5_moves_sum_to_the_loadings_of_all_edges(name):
    model = shelf.model(name)
    parts = transcoders(model)
    with exact():
        graph = prune_graph(attribution_graph(model, PROMPT, parts, first=0, most_logits=2, max_nodes=10_000), node=0.9)
        moves = head_moves(model, graph, parts)
        with override(graph_stream=1):  # writers one at a time
            np.testing.assert_allclose(head_moves(model, graph, parts).share, moves.share, atol=1e-12)
        heads = head_loadings(model, graph, parts, top=model.n_layers * model.n_heads)
        run = model.run(PROMPT, read=["pattern"])
    weight, passing = (x.sel(writer=heads["writer"].values).values for x in (graph.weight, edge_influence(graph)))
    factor = np.divide(passing, weight, out=np.zeros_like(weight), where=weight != 0)
    for head in moves["head"].values:
        own = heads["loading"].where(heads["head"] == head, 0).sum("k").values
        assert float(moves.share.sel(head=head).sum()) == pytest.approx((own * factor).sum(), abs=1e-9)
    patterns = torch.cat([run["pattern", layer][0] for layer in range(model.n_layers)])
    np.testing.assert_allclose(moves.pattern, patterns, atol=1e-12)
    assert abs(moves.share).max() > 1e-3 and bool((moves.share.where(moves.key > moves["query"], 0) == 0).all())


def test_b_5_a_planted_induction_head_moves_from_the_word_after():
    organism = programs.induction()
    ids = organism.ids([["a", "b", "c", "d", "a"]]).tolist()
    graph = attribution_graph(organism.model, ids, "neurons", first=0, max_nodes=0, targets="b")
    moves = head_moves(organism.model, graph)
    head, query, key = np.unravel_index(int(abs(moves.share.values).argmax()), moves.share.shape)
    (looks,) = (
        str(node)
        for node in organism.circuit.nodes
        if node.kind == "head" and organism.circuit.roles.get(node) != "previous token" and node.layer > 0
    )
    assert (str(moves["head"].values[head]), query, key) == (looks, 5, 2)


def test_pairs_of_a_document_are_those_of_the_library():
    model = shelf.model("llama")
    parts = transcoders(model)
    with exact():
        graph = attribution_graph(model, PROMPT, parts, first=0, most_logits=2, max_nodes=100)
        document = attribution_graph_document(
            model, PROMPT, parts, graph=graph, node=1, edge=1, interventions=0, query_key=3
        )
        assert len(document["attention"]) == 3
        row = document["attention"][0]
        place = {"query": row["query"], "key": row["key"]}
        pairs = query_key_attribution(model, graph, row["head"], parts, **place)
        moves = head_moves(model, graph, parts)
    assert row["score"] == pytest.approx(float(pairs.sum()))
    assert row["share"] == pytest.approx(float(moves.share.sel(head=row["head"], **place)))
    for query, key, value in row["pairs"]:
        if "rest" not in (query, key):
            assert value == pytest.approx(float(pairs.sel(query_writer=query, key_writer=key)))
    share = abs(moves.share.values) * ~np.eye(len(PROMPT[0]), dtype=bool)
    assert abs(row["share"]) == pytest.approx(share.max())
    none = attribution_graph_document(model, PROMPT, parts, graph=graph, interventions=0, query_key=0)
    assert "attention" not in none
