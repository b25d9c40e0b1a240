"""Selecting: ranks, shares, what greedy growth reaches, what pruning drops, what is refused."""

import pytest
import torch
import xarray as xr

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits import edge_attribution, select
from caseback.localize.circuits.selecting import edge_table, select_mask
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.graph.graph import Graph, Layer

GRAPH = Graph((Layer(2, 1), Layer(2, 2)))


def of(circuit, **options):
    return select(GRAPH, Circuit(scores={e: circuit.get(str(e), 0.0) for e in GRAPH.edges}), **options)


SCORES = {"embed -> logits": 0.1, "L1H0 -> logits": -3.0, "MLP 0 -> L1H1.k": 9.0, "embed -> L1H0.v": 0.5}


def test_top_edges_are_the_largest_by_size_or_by_sign():
    found = of(SCORES, count=2, prune=False)
    assert found == Circuit.of("L1H0 -> logits", "MLP 0 -> L1H1.k")
    assert of(SCORES, count=2, prune=False, absolute=False) == Circuit.of("MLP 0 -> L1H1.k", "embed -> L1H0.v")
    assert len(found.scores) == len(GRAPH.edges) and found.scores[Edge.parse("L1H0 -> logits")] == -3.0
    # of equals the earlier edge is taken, so the same call gives the same circuit
    flat = {edge: 1.0 for edge in map(str, GRAPH.edges)}
    assert of(flat, count=3, prune=False).edges == frozenset(GRAPH.edges[:3])
    # a share of the edges is rounded down, and one of them is the least
    assert len(of(flat, count=0.5, prune=False)) == len(GRAPH.edges) // 2
    assert len(of(flat, count=0.001, prune=False)) == 1
    assert of(flat, count=1.0) == Circuit(frozenset(GRAPH.edges))


def test_pruning_drops_what_hangs_loose():
    assert of(SCORES, count=3) == Circuit.of("L1H0 -> logits", "embed -> L1H0.v")
    with pytest.raises(CasebackError, match="circuit is disconnected"):
        of(SCORES, count=2)


def test_greedy_growth_only_takes_edges_into_what_is_reached():
    grown = [of(SCORES, count=n, how="greedy", prune=False) for n in range(1, 4)]
    assert grown[0] == Circuit.of("L1H0 -> logits")
    assert grown[1] == Circuit.of("L1H0 -> logits", "embed -> L1H0.v")
    assert "embed -> logits" in grown[2]
    # through a shared key/value head, each query head of whose group passes on what it reads
    shared = {"L0H1 -> logits": 2.0, "embed -> L0KV0.v": 1.0, "embed -> L0H0.q": 5.0}
    assert of(shared, count=2, how="greedy") == Circuit.of("L0H1 -> logits", "embed -> L0KV0.v")
    # all of it reaches the logits, so nothing but inputs can be lacking
    generator = torch.Generator().manual_seed(0)
    random = torch.where(GRAPH.exists, torch.rand(GRAPH.exists.shape, generator=generator), torch.nan)
    mask = select_mask(GRAPH, random, 12, how="greedy", prune=False)
    fed = {node for w in mask.any(1).nonzero()[:, 0].tolist() for node in [GRAPH.writers[w]]}
    readers = {GRAPH.readers[r][0] for r in mask.any(0).nonzero()[:, 0].tolist()}
    assert all(node.kind == "logits" or not fed.isdisjoint(GRAPH.fed_by(node)) for node in readers)
    assert int(mask.sum()) == 12


def test_scores_of_a_method_and_of_the_circuit_made_of_them_choose_alike():
    model = shelf.model("llama")
    scores = edge_attribution(model, shelf.ids((6, 6)), shelf.ids((6, 6), seed=1), cb.logit_diff(3, 5))
    circuit = select(model, scores, 40)
    assert circuit == select(model, circuit, 40) and 0 < len(circuit) <= 40
    assert circuit.about["method"] == "edge_attribution" and circuit.about["metric"] == "logit_diff"
    assert select(model, scores.mean("batch"), 40) == circuit
    graph = Graph.of(model.anatomy)
    torch.testing.assert_close(edge_table(graph, circuit), edge_table(graph, scores), equal_nan=True)


def test_nodes_bring_all_edges_between_them():
    names = [str(node) for node in GRAPH.writers]
    scores = xr.DataArray([0.0, 1.0, -3.0, 0.5, 2.0, 0.1, 0.2], dims="writer", coords={"writer": names})
    found = select(GRAPH, scores, 2)
    # L0H1 and L1H0, what they read of the input and of one another, and what the logits read of them
    into = ["embed -> L0H1.q", "embed -> L0KV0.k", "embed -> L0KV0.v", *(f"embed -> L1H0.{s}" for s in "qkv")]
    assert found == Circuit.of(
        *into, *(f"L0H1 -> L1H0.{s}" for s in "qkv"), "embed -> logits", "L0H1 -> logits", "L1H0 -> logits"
    )
    assert found.scores[Node.parse("L0H1")] == -3.0
    with pytest.raises(CasebackError, match="has no node L7H0"):
        GRAPH.between([Node("head", 7, 0)])


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(CasebackError, match="count=True.*expected a whole number"):
        of(SCORES, count=True)
    for count in (0, -3, len(GRAPH.edges) + 1, 1.5, 0.0):
        with pytest.raises(OutOfRange, match="expected a whole number from 1"):
            of(SCORES, count=count)
    with pytest.raises(CasebackError, match="how 'best' is unknown"):
        of(SCORES, count=2, how="best")
    with pytest.raises(CasebackError, match="have no score in the circuit"):
        select(GRAPH, Circuit.of("L1H0 -> logits"), 2)
    with pytest.raises(CasebackError, match="are not of this model's edges"):
        other = edge_attribution(shelf.model("gpt2"), [[1, 2, 3]], [[4, 5, 6]], cb.logit(3))
        select(shelf.model("llama"), other, 2)
    holes = torch.where(GRAPH.exists, torch.nan, 0.0)
    with pytest.raises(CasebackError, match="have no score"):
        edge_table(GRAPH, holes)
