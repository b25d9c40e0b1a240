"""Running a model as a circuit: the whole graph is the model, the empty one the other run, one cut edge one patch."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize.circuits.running import CircuitRuns, run_circuit
from caseback.localize.circuits.writes import changes, sites_of_writes
from caseback.model.circuit import Circuit
from caseback.model.graph import Graph
from exact import exact

NAMES = "gpt2 gpt_neox llama gemma2 qwen3 mixtral crystal falcon olmo2 bitnet".split()
CLEAN, CORRUPT = shelf.ids((7, 5)), shelf.ids((7, 5), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])


@pytest.mark.parametrize("name", NAMES)
def test_3_2_21_the_whole_graph_is_the_model_and_the_empty_one_the_counterfactual_run(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    with exact():
        for side in ("left", "right"):
            tokens = model.tokens(CLEAN, padding=side)
            ran = run_circuit(
                model, tokens, CORRUPT, METRIC, torch.stack([graph.exists, torch.zeros_like(graph.exists)])
            )
            np.testing.assert_allclose(ran[0], METRIC(model.run(CLEAN)), rtol=1e-10)
            np.testing.assert_allclose(ran[0], ran.whole, rtol=1e-10)
            np.testing.assert_allclose(ran[1], METRIC(model.run(CORRUPT)), rtol=1e-10)
    assert ran.edges.values.tolist() == [len(graph.edges), 0]


@pytest.mark.parametrize("name", NAMES)
def test_3_2_22_a_circuit_less_one_edge_is_that_edge_patched(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    edges = graph.edges[:: max(1, len(graph.edges) // 12)] + graph.edges[-2:]
    masks = torch.stack([graph.exists & ~graph.mask(Circuit(frozenset([edge]))) for edge in edges])
    with exact():
        tokens, other = model.tokens(CLEAN), model.tokens(CORRUPT)
        ran = run_circuit(model, tokens, other, METRIC, masks)
        reads = sites_of_writes(model, graph)
        change = changes(model, model.run(tokens, read=reads), model.run(other, read=reads), graph)
        for edge, found in zip(edges, ran.values, strict=True):
            value = change[:, graph.writers.index(edge.source)]
            site, layer, head = f"{edge.slot}_in", edge.target.layer, edge.target.index
            if edge.target.kind in ("mlp", "logits"):
                site, head = ("mlp_in", None) if edge.target.kind == "mlp" else ("resid_post", None)
            edit = cb.Add(site, value, layer=layer, head=head)
            np.testing.assert_allclose(found, METRIC(model.run(tokens, edits=edit)), rtol=1e-9, err_msg=str(edge))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_3_2_22_cutting_all_of_a_writers_edges_patches_the_node(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    with exact():
        source = model.run(CORRUPT, read=["z", "mlp_out"])
        for node, edit in (
            ("L1H2", cb.Resample("z", source, layer=1, head=2)),
            ("MLP 0", cb.Resample("mlp_out", source, layer=0)),
        ):
            mask = graph.exists.clone()
            mask[[str(writer) for writer in graph.writers].index(node)] = False
            ran = run_circuit(model, CLEAN, CORRUPT, METRIC, mask)
            np.testing.assert_allclose(ran[0], METRIC(model.run(CLEAN, edits=edit)), rtol=1e-10)


def test_edges_cut_to_zero_or_to_a_mean():
    model = shelf.model("gpt2")
    graph = Graph.of(model.anatomy, ("embed", "pos_embed"))
    row = [str(writer) for writer in graph.writers].index("L0H1")
    mask = graph.exists.clone()
    mask[row] = False
    with exact():
        zero = run_circuit(model, CLEAN, None, METRIC, mask, ablation="zero", inputs=("embed", "pos_embed"))
        expected = METRIC(model.run(CLEAN, edits=cb.Zero("z", layer=0, head=1)))
        np.testing.assert_allclose(zero[0], expected, rtol=1e-10)
        over = shelf.ids((6, 4, 9), seed=5)
        mean = run_circuit(model, CLEAN, None, METRIC, mask, ablation="mean", over=over, inputs=("embed", "pos_embed"))
        expected = METRIC(model.run(CLEAN, edits=cb.Mean("z", model.run(over, read="z"), layer=0, head=1)))
        np.testing.assert_allclose(mean[0], expected, rtol=1e-10)


def test_many_circuits_are_what_each_is_alone(monkeypatch):
    model = shelf.model("llama")
    graph = Graph.of(model.anatomy)
    masks = torch.rand(9, *graph.exists.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    with exact():
        together = run_circuit(model, CLEAN, CORRUPT, METRIC, masks)
        for numbers in (1, len(graph.writers) * model.d_model * 7 * 5):
            monkeypatch.setattr("caseback.localize.circuits.running.NUMBERS_AT_ONCE", numbers)
            np.testing.assert_allclose(run_circuit(model, CLEAN, CORRUPT, METRIC, masks), together, rtol=1e-10)
        for i in (0, 4, 8):
            alone = run_circuit(model, CLEAN, CORRUPT, METRIC, graph.circuit(masks[i] & graph.exists))
            np.testing.assert_allclose(alone[0], together[i], rtol=1e-10)


def test_what_cannot_be_run_is_refused():
    model = shelf.model("llama")
    with pytest.raises(CasebackError, match="this model has no edge L9H0 -> logits"):
        run_circuit(model, CLEAN, CORRUPT, METRIC, Circuit.of("L9H0 -> logits"))
    with pytest.raises(CasebackError, match="ablation 'noise' is unknown"):
        run_circuit(model, CLEAN, CORRUPT, METRIC, Circuit(), ablation="noise")
    with pytest.raises(CasebackError, match="resampling needs corrupt="):
        run_circuit(model, CLEAN, None, METRIC, Circuit())
    with pytest.raises(CasebackError, match=r"expected \(variant, writer, reader\)"):
        run_circuit(model, CLEAN, CORRUPT, METRIC, torch.ones(3, 4))
    with pytest.raises(CasebackError, match="the list is empty"):
        CircuitRuns(model, Graph.of(model.anatomy), CLEAN, CORRUPT, METRIC).metrics(torch.ones(0, 1, 1).bool())
