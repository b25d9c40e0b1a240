"""Edges at named spans: schemas, scores beside patches at single places, what hangs together, runs and curves."""

import itertools

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize.circuits import (
    edge_attribution,
    faithfulness_curve,
    find_circuit,
    node_attribution,
    run_circuit,
    select,
    span_schema,
)
from caseback.localize.circuits.machinery.placed_graph import connected_at, greedy_at, sees_of
from caseback.localize.circuits.machinery.writes import changes, sites_of_writes
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph, Layer
from caseback.model.prompts.per_token import aligned
from exact import exact

CLEAN = shelf.ids((7, 5))
CORRUPT = shelf.ids((7, 5), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])
SPANS = {"subject": [[1, 2], [0]], "end": [[6], [4]]}


def schema_of(model):
    return span_schema(model, CLEAN, SPANS)


def test_a_schema_names_every_token_once():
    model = shelf.model("gpt2")
    schema = schema_of(model)
    assert schema == {
        "beginning": [[0], []],
        "subject": [[1, 2], [0]],
        "after subject": [[3, 4, 5], [1, 2, 3]],
        "end": [[6], [4]],
    }
    # a token of two spans is the shorter's
    nested = span_schema(model, CLEAN, {"long": [[1, 2, 3], [0, 1]], "short": [[2], [1]]})
    assert nested["long"] == [[1, 3], [0]] and nested["short"] == [[2], [1]]
    ioi = cb.tasks.ioi().prompts(cb.load("meadow"), 6)
    named = span_schema(cb.load("meadow"), ioi.clean, ioi.spans)
    for b, length in enumerate(ioi.clean.lengths.tolist()):
        assert sorted(at for rows in named.values() for at in rows[b]) == list(range(length))
    with pytest.raises(CasebackError, match="no spans"):
        span_schema(model, CLEAN, {})
    with pytest.raises(CasebackError, match="another name"):
        span_schema(model, CLEAN, {"a": 1, "after a": 2})


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_b_30_a_score_at_a_place_is_the_derivative_of_the_edge_patched_there_alone(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    with exact():
        schema = schema_of(model)
        scores = edge_attribution(model, CLEAN, CORRUPT, METRIC, positions=schema)
        reads, tokens = sites_of_writes(model, graph), model.tokens(CLEAN)
        other = model.tokens(CORRUPT)
        change = changes(model, model.run(tokens, read=reads), model.run(other, read=reads), graph)
        for edge in graph.edges[:: max(1, len(graph.edges) // 8)] + graph.edges[-2:]:
            written = change[:, [str(w) for w in graph.writers].index(str(edge.source))]
            for place, rows in schema.items():
                at = torch.zeros(tokens.shape)
                for b, row in enumerate(rows):
                    at[b, tokens.mask[b].nonzero()[row, 0]] = 1.0
                slopes = []
                for size in (1e-4, -1e-4):
                    # an edit's rows are a prompt's own positions
                    own = aligned(size * written * at[..., None], tokens)
                    slot, layer, head = edge.slot, edge.target.layer, edge.target.index
                    if edge.target.kind == "logits":
                        edit = cb.Add("resid_post", own, layer=-1)
                    elif edge.target.kind == "mlp":
                        edit = cb.Add("mlp_in", own, layer=layer)
                    else:
                        edit = cb.Add(f"{slot}_in", own, layer=layer, head=head)
                    slopes.append(METRIC(model.run(tokens, edits=edit)))
                slope = ((slopes[0] - slopes[1]) / 2e-4).numpy()
                reader = str(edge.target) + (f".{edge.slot}" if edge.slot else "")
                mine = scores.sel(writer=str(edge.source), reader=reader, pos=place).values
                np.testing.assert_allclose(mine, slope, rtol=1e-5, atol=1e-5, err_msg=f"{edge} {place}")


@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"steps": 2, "along": "activations"}, {"along": "ends"}])
def test_places_sum_to_the_scores_without_them(options):
    model = shelf.model("llama")
    with exact():
        schema = schema_of(model)
        placed = edge_attribution(model, CLEAN, CORRUPT, METRIC, positions=schema, batch_size=1, **options)
        whole = edge_attribution(model, CLEAN, CORRUPT, METRIC, **options)
        nodes = node_attribution(model, CLEAN, CORRUPT, METRIC, positions=schema, **options)
    np.testing.assert_allclose(placed.sum("pos", skipna=False), whole, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(nodes, placed.sum("reader").transpose(*nodes.dims), rtol=1e-9, atol=1e-12)
    # a place that a prompt lacks does nothing in it
    assert float(abs(placed.sel(pos="beginning").isel(batch=1)).max()) == 0
    assert placed.begins.values.tolist() == [[0, -1], [1, 0], [3, 1], [6, 4]]
    assert placed.ends.values.tolist() == [[0, -1], [2, 0], [5, 3], [6, 4]]


def test_a_token_without_a_name_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="position 1 of prompt 0.*has no name"):
        edge_attribution(model, CLEAN, CORRUPT, METRIC, positions={"a": 0, "b": -1})


GRAPH = Graph((Layer(2, 1), Layer(2, 2)))
ORDER = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])


def paths(graph, mask, sees):
    """All edges on a path from an input to the logits, found by walking them."""
    used = torch.zeros_like(mask)
    writers = {node: i for i, node in enumerate(graph.writers)}

    def walk(writer, place, trail):
        for reader in mask[place, writer].nonzero()[:, 0].tolist():
            node, slot = graph.readers[reader]
            step = [*trail, (place, writer, reader)]
            if node.kind == "logits":
                for edge in step:
                    used[edge] = True
                continue
            queries = sees[place].nonzero()[:, 0].tolist() if slot in ("k", "v") else [place]
            for fed, query in itertools.product(graph.fed_by(node), queries):
                walk(writers[fed], query, step)

    for writer, place in itertools.product(range(len(graph.inputs)), range(len(mask))):
        walk(writer, place, [])
    return used


@pytest.mark.parametrize("seed", range(12))
def test_what_hangs_together_is_what_paths_pass(seed):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(3, *GRAPH.exists.shape, generator=generator) < 0.3) & GRAPH.exists
    assert torch.equal(connected_at(GRAPH, mask, ORDER), paths(GRAPH, mask, ORDER))
    one = mask[:1]
    assert torch.equal(connected_at(GRAPH, one, ORDER[:1, :1])[0], GRAPH.connected(one[0]))
    ranked = torch.where(GRAPH.exists, torch.rand(mask.shape, generator=generator), -torch.inf)
    grown = greedy_at(GRAPH, ranked, 10, ORDER)
    # with all that inputs write beside it, every edge that has grown lies on a path to the logits
    fed = grown.clone()
    fed[:, : len(GRAPH.inputs)] = GRAPH.exists[: len(GRAPH.inputs)]
    assert int(grown.sum()) == 10 and bool(paths(GRAPH, fed, ORDER)[grown].all())


def test_what_sees_what():
    begins, ends = torch.tensor([[0, -1], [2, 0], [3, 1]]), torch.tensor([[1, -1], [2, 0], [5, 4]])
    assert sees_of(begins, ends).tolist() == [[True, True, True], [False, True, True], [False, False, True]]


def test_circuits_at_places_are_selected_run_saved_and_judged(tmp_path):
    model = cb.load("meadow")
    drawn = cb.tasks.ioi().prompts(model, 12)
    schema = span_schema(model, drawn.clean, drawn.spans)
    scores = edge_attribution(model, drawn.clean, drawn.corrupt, drawn.metric, positions=schema)
    total = len(schema) * len(Graph.of(model.anatomy).edges)
    circuit = select(model, scores, 120)
    assert 0 < len(circuit) <= 120 and len(circuit.scores) == total
    assert all(edge.source.pos == edge.target.pos in schema for edge in circuit.edges)
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == circuit
    pair = drawn.clean, drawn.corrupt, drawn.metric
    ran = run_circuit(model, *pair, [circuit, select(model, scores, total)], positions=schema)
    assert ran.edges.values.tolist() == [len(circuit), total]
    np.testing.assert_allclose(ran[1], ran.whole, atol=1e-4)
    curve = faithfulness_curve(model, *pair, scores, sizes=[120], positions=schema)
    gap = curve.attrs["whole"] - curve.attrs["empty"]
    np.testing.assert_allclose(curve.recovered[0], (float(ran[0].mean()) - curve.attrs["empty"]) / gap, atol=1e-5)
    assert curve.edges.values.tolist() == [120, total] and float(curve.recovered[1]) == pytest.approx(1, abs=1e-5)
    found = find_circuit(model, *pair, method="eap", edges=120, positions=schema)
    assert found == circuit
    nodes = select(model, node_attribution(model, *pair, positions=schema), 10)
    assert len(nodes.nodes) == 10 and {node.pos for node in nodes.nodes} <= set(schema)
    assert np.isfinite(run_circuit(model, *pair, nodes, positions=schema)).all()
    with pytest.raises(CasebackError, match="expected one of eap"):
        find_circuit(model, *pair, method="acdc", edges=120, positions=schema)
