"""The graph of a model: its counts, masks and paths."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph, Layer


def test_3_2_22_the_graph_of_gpt2_small_has_32491_edges():
    graph = Graph((Layer(12, 12),) * 12)
    assert int(graph.exists.sum()) == len(graph.edges) == len(set(graph.edges)) == 32_491
    # in a parallel block no MLP reads the heads of its own layer
    assert int(Graph((Layer(12, 12, parallel=True),) * 12).exists.sum()) == 32_491 - 12 * 12


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mixtral", "gemma2", "falcon"])
def test_every_reader_reads_what_was_written_before_it(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    dims = [p.dims for p in model.anatomy.layers]
    assert len(graph.writers) == 1 + sum(d.n_heads + 1 for d in dims)
    assert len(graph.readers) == 1 + sum(d.n_heads + 2 * d.n_kv_heads + 1 for d in dims)
    assert bool(graph.exists[:, -1].all()) and bool(graph.exists[0].all())
    for edge in graph.edges:
        assert edge.source.depth < edge.target.depth


def test_masks_and_circuits_are_two_forms_of_one_thing():
    graph = Graph((Layer(2, 1), Layer(2, 2)))
    circuit = Circuit.of("embed -> L0KV0.v", "L0H1 -> L1H0.q", "L1H0 -> logits", "MLP 0 -> L1H1.k")
    assert graph.circuit(graph.mask(circuit)) == circuit
    assert graph.circuit(graph.exists) == Circuit(frozenset(graph.edges))
    for other in ("L0H1 -> L0H0.k", "embed -> L0H0.v", "L4H0 -> logits", "L1H0@end -> logits@end"):
        with pytest.raises(CasebackError):
            graph.mask(Circuit.of(other))
    with pytest.raises(CasebackError, match="false where there is no edge"):
        graph.circuit(~graph.exists)


def test_only_edges_on_a_path_from_input_to_logits_are_connected():
    graph = Graph((Layer(2, 1), Layer(2, 2)))
    path = ["embed -> L0KV0.v", "L0H1 -> L1H0.q", "L1H0 -> logits", "L0H0 -> MLP 1", "MLP 1 -> logits"]
    loose = ["MLP 0 -> L1H1.k", "embed -> L1H1.q", "L1H1 -> MLP 1", "embed -> MLP 0"]
    # MLP 0 is reached from the embedding and feeds L1H1, which feeds MLP 1: all of these are on a path
    mask = graph.mask(Circuit.of(*path, *loose))
    assert torch.equal(graph.connected(mask), mask)
    cut = graph.mask(Circuit.of(*path, "MLP 0 -> L1H1.k", "embed -> L1H1.q", "embed -> MLP 0"))
    assert graph.circuit(graph.connected(cut)) == Circuit.of(*path)
    assert not graph.connected(torch.zeros_like(mask)).any()
    assert torch.equal(graph.connected(graph.exists), graph.exists)


def test_position_embeddings_are_an_input_of_their_own_where_there_are_some():
    graph = Graph.of(cb.load("meadow").anatomy, ("embed", "pos_embed"))
    assert [str(node) for node in graph.writers[:2]] == ["embed", "pos_embed"]
    with pytest.raises(CasebackError, match="no position embeddings"):
        Graph.of(shelf.model("llama").anatomy, ("embed", "pos_embed"))
