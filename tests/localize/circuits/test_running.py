"""Running a model as a circuit: the whole graph is the model, the empty one the other run, one cut edge one patch."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, TokensError
from caseback.jobs import budget
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns, mean_writes
from caseback.localize.circuits.machinery.writes import changes, sites_of_writes
from caseback.localize.circuits.running import run_circuit
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from exact import exact

NAMES = "gpt2 gpt_neox llama gemma2 qwen3 mixtral crystal falcon olmo2 bitnet".split()
FIVE = "gpt2 gpt_neox llama gemma2 qwen3".split()
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


def test_many_circuits_are_what_each_is_alone():
    model = shelf.model("llama")
    graph = Graph.of(model.anatomy)
    masks = torch.rand(9, *graph.exists.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    with exact():
        together = run_circuit(model, CLEAN, CORRUPT, METRIC, masks)
        for numbers in (1, len(graph.writers) * model.d_model * 7 * 5):
            with budget.override(circuit_numbers=numbers):
                parts = run_circuit(model, CLEAN, CORRUPT, METRIC, masks)
            np.testing.assert_allclose(parts, together, rtol=1e-10)
        for i in (0, 4, 8):
            alone = run_circuit(model, CLEAN, CORRUPT, METRIC, graph.circuit(masks[i] & graph.exists))
            np.testing.assert_allclose(alone[0], together[i], rtol=1e-10)


@pytest.mark.parametrize("name", FIVE)
def test_3_2_22_cutting_all_edges_into_a_reader_patches_its_input(name):
    model = cb.load(zoo.tiny(name))
    for layer in model.anatomy.layers:
        # a bias before a norm behind attention is in no write, and that norm's scale differs between the runs
        if layer.attn_post_norm is not None:
            torch.nn.init.zeros_(layer.o.bias)
    graph, shared = Graph.of(model.anatomy), "KV" if model.n_kv_heads < model.n_heads else "H"
    last = model.n_layers - 1
    with exact():
        source = model.run(CORRUPT, read=["attn_in", "mlp_in", "resid_post"])
        stream = source["attn_in", 1]
        for reader, edit in (
            ("L1H2.q", cb.Replace("q_in", stream, layer=1, head=2)),
            (f"L1{shared}1.k", cb.Replace("k_in", stream, layer=1, head=1)),
            (f"L1{shared}0.v", cb.Replace("v_in", stream, layer=1, head=0)),
            ("MLP 1", cb.Resample("mlp_in", source, layer=1)),
            ("logits", cb.Resample("resid_post", source, layer=last)),
        ):
            ran = run_circuit(model, CLEAN, CORRUPT, METRIC, graph.exists & ~graph.into([reader]))
            np.testing.assert_allclose(ran[0], METRIC(model.run(CLEAN, edits=edit)), rtol=1e-9, err_msg=reader)
        # all that reaches the logits taken from the other run, the metric is the other run's
        np.testing.assert_allclose(ran[0], METRIC(model.run(CORRUPT)), rtol=1e-9)
    with pytest.raises(CasebackError, match="nothing in this model reads as 'L1H9.q'"):
        graph.into(["L1H9.q"])


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_circuit_of_nodes_replaces_what_all_others_write_at_its_positions(name, side):
    model = shelf.model(name)
    positions = {"early": torch.tensor([1, 0]), "late": torch.tensor([[4, 5], [3, 3]])}
    kept = Circuit.of("L0H1", "MLP 0@early", "L1H0@late", "L1H2@-1", "MLP 2")
    with exact():
        tokens = model.tokens(CLEAN, padding=side)
        ran = run_circuit(model, tokens, CORRUPT, METRIC, kept, positions=positions)
        source = model.run(CORRUPT, read=["head_out", "mlp_out"])
        whole = {"L0H1": [range(7), range(5)], "MLP 2": [range(7), range(5)]}
        stays = whole | {"MLP 0": [[1], [0]], "L1H0": [[4, 5], [3]], "L1H2": [[6], [4]]}
        each = []
        for b, length in enumerate((7, 5)):
            edits = []
            for layer in range(model.n_layers):
                for name_of, site, head in [(f"MLP {layer}", "mlp_out", None)] + [
                    (f"L{layer}H{h}", "head_out", h) for h in range(model.n_heads)
                ]:
                    gone = [i for i in range(length) if i not in stays.get(name_of, [(), ()])[b]]
                    value = source[site, layer][b : b + 1, gone]
                    value = value if head is None else value[:, :, head]
                    if gone:
                        edits.append(cb.Replace(site, value, layer=layer, head=head, pos=gone))
            metric = cb.logit_diff([3, 8][b], [5, 11][b])
            each.append(float(metric(model.run(CLEAN[b], edits=edits))))
        np.testing.assert_allclose(ran[0], each, rtol=1e-8)


def test_an_edge_at_a_position_is_kept_there_and_cut_elsewhere():
    model = shelf.model("llama")
    graph = Graph.of(model.anatomy)
    with exact():
        everywhere = Circuit(frozenset(graph.edges))
        # every edge but one, which stands at the end alone: as if it were cut at all other positions
        edge = "L0H1 -> MLP 1"
        rest = everywhere - Circuit.of(edge)
        one = run_circuit(model, CLEAN, CORRUPT, METRIC, rest | Circuit.of(f"{edge}@end"), positions={"end": -1})
        change = model.run(CORRUPT, read="head_out")["head_out", 0] - model.run(CLEAN, read="head_out")["head_out", 0]
        change = change[:, :, 1]
        for b in range(2):
            change[b, len(CLEAN[b]) - 1] = 0
        expected = METRIC(model.run(CLEAN, edits=cb.Add("mlp_in", change, layer=1)))
        np.testing.assert_allclose(one[0], expected, rtol=1e-9)
        assert one.edges.item() == (len(graph.edges) - 1) * 2 + 1


def test_means_by_position_and_constants_given():
    model = shelf.model("gpt2")
    graph = Graph.of(model.anatomy)
    mask = graph.exists.clone()
    mask[[str(writer) for writer in graph.writers].index("L0H1")] = False
    over = shelf.ids((8, 7, 9), seed=5)
    with exact():
        run = model.run(over, read="z")
        by_position = cb.Mean("z", run, per_position=True, layer=0, head=1)
        ran = run_circuit(model, CLEAN, None, METRIC, mask, ablation="mean_by_position", over=over)
        np.testing.assert_allclose(ran[0], METRIC(model.run(CLEAN, edits=by_position)), rtol=1e-9)
        mean = run_circuit(model, CLEAN, None, METRIC, mask, ablation="mean", over=over)
        given = run_circuit(model, CLEAN, None, METRIC, mask, ablation=mean_writes(model, over))
        np.testing.assert_allclose(given, mean, rtol=1e-9)
        with pytest.raises(CasebackError, match="their later positions have no mean"):
            run_circuit(model, CLEAN, None, METRIC, mask, ablation="mean_by_position", over=[[1, 2]])
        with pytest.raises(CasebackError, match="expected \\(writer, d_model\\)"):
            run_circuit(model, CLEAN, None, METRIC, mask, ablation=torch.zeros(2, 3))


def test_optimal_constants_lose_less_than_means():
    model = shelf.model("llama")
    graph = Graph.of(model.anatomy)
    masks = torch.rand(1, *graph.exists.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    with exact():
        kl = cb.kl(model.run(CLEAN))
        lost = {
            how: run_circuit(model, CLEAN, None, kl, masks, ablation=how).mean("batch") for how in ("mean", "optimal")
        }
        assert (lost["optimal"] < 0.7 * lost["mean"]).all()
        none = run_circuit(model, CLEAN, None, kl, graph.exists, ablation="optimal")
        np.testing.assert_allclose(none, 0, atol=1e-12)


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
    with pytest.raises(CasebackError, match="it is disconnected"):
        run_circuit(model, CLEAN, CORRUPT, METRIC, Circuit.of("MLP 0 -> logits", "embed -> L1H0.q"))
    with pytest.raises(TokensError, match="not token-aligned"):
        run_circuit(model, CLEAN, shelf.ids((7, 6)), METRIC, Circuit())
    for circuit, says in (
        (Circuit.of("L9H0"), "has no writer L9H0"),
        (Circuit.of("L0H0@S1"), "no position is called 'S1'"),
        (Circuit.of("embed@0 -> logits@1"), "ends at another position"),
        (Circuit.of("L0H0@end", "L0H1@-1"), "name each position once"),
    ):
        with pytest.raises(CasebackError, match=says):
            run_circuit(model, CLEAN, CORRUPT, METRIC, circuit, positions={"end": -1})
    with pytest.raises(CasebackError, match="the list is empty"):
        CircuitRuns(model, Graph.of(model.anatomy), CLEAN, CORRUPT, METRIC).metrics(torch.ones(0, 1, 1).bool())
