"""Circuits run on other tasks: shares as circuit runs by hand give them, shared edges beside chance, and the controls."""

import numpy as np
import pytest

import caseback as cb
from caseback.behaviors import circuit_transfer
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits import find_circuit, run_circuit
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from exact import exact

NAMES = ("ioi", "agreement", "relation")


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow", dtype="float64")


@pytest.fixture(scope="module")
def tasks(model):
    return {name: cb.tasks.get(name).prompts(model, 12) for name in NAMES}


@pytest.fixture(scope="module")
def table(model, tasks):
    with exact():
        return circuit_transfer(model, tasks, method="eap", draws=5)


def by_hand(model, circuit, prompts):
    """(m(C) - m(empty)) / (m(M) - m(empty)), each by a run."""
    pair = prompts.clean, prompts.corrupt
    whole = float(prompts.metric(model.run(prompts.clean)).mean())
    empty = float(prompts.metric(model.run(prompts.corrupt)).mean())
    own = float(run_circuit(model, *pair, prompts.metric, circuit).mean())
    return (own - empty) / (whole - empty)


def test_5_4_18_a_circuit_on_another_task_recovers_what_its_run_there_does(model, tasks, table):
    with exact():
        for name, prompts in tasks.items():
            some = prompts[:6]
            circuit = find_circuit(model, some.clean, some.corrupt, some.metric, method="eap", edges=0.1)
            assert int(table.edges.sel(circuit=name)) == len(circuit.edges)
            for other, judged in tasks.items():
                share = by_hand(model, circuit, judged[6:])
                assert float(table.recovered.sel(circuit=name, task=other)) == pytest.approx(share, abs=1e-9)
    assert (table.recovered_low <= table.recovered).all() and (table.recovered <= table.recovered_high).all()


def test_5_4_18_shared_edges_stand_beside_those_of_random_circuits(model, table):
    own = table.iou_edges.values
    np.testing.assert_array_equal(own, own.T)
    assert (np.diag(own) == 1).all() and (np.diag(table.iou_nodes) == 1).all()
    total = table.attrs["total"]
    share = table.edges.values / total
    np.testing.assert_allclose(np.diag(table.iou_chance), share / (2 - share), atol=0.005)  # PRIMER 5.4.18: K / (2 - K)
    assert (table.iou_band >= table.iou_chance).all()


def test_5_4_18_random_circuits_do_little_and_whole_layers_much(model, tasks, table):
    assert (np.abs(table.random) < 0.05).all() and (table.random <= table.band + 1e-12).all()
    graph = Graph.of(model.anatomy)
    every = {name: int(table.edges_of_layers.sel(circuit=name)) == int(graph.exists.sum()) for name in NAMES}
    assert any(every.values())
    for name in [name for name, whole in every.items() if whole]:  # all layers are the model
        np.testing.assert_allclose(table.same_layers.sel(circuit=name), 1, atol=1e-6)
    assert (np.diag(table.recovered) > 0.8).all()


def test_the_same_task_twice_has_one_circuit(model, tasks):
    twice = circuit_transfer(model, {"one": tasks["relation"], "other": tasks["relation"]}, method="eap", draws=2)
    assert (twice.iou_edges == 1).all() and np.ptp(twice.recovered.values) == 0


def test_a_circuit_in_few_layers_stands_beside_the_heads_and_mlps_of_these(model):
    from caseback.behaviors.circuit_transfer import _same_layers

    graph = Graph.of(model.anatomy)
    circuit = Circuit.of("embed -> L0H1.v", "L0H1 -> L2H3.k", "L2H3 -> logits")
    edges = graph.circuit(_same_layers(graph, circuit)).edges
    ends = {(node.kind, node.layer) for edge in edges for node in (edge.source, edge.target)}
    assert {kind for kind, _ in ends} == {"embed", "head", "logits"}
    assert {layer for kind, layer in ends if kind == "head"} == {0, 2}
    heads = {node.index for edge in edges for node in (edge.source,) if node.kind == "head"}
    assert len(heads) == model.n_heads


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda tasks: ({"ioi": tasks["ioi"]}, {}), CasebackError, "1 tasks: expected two or more"),
        (lambda tasks: ({n: p[:3] for n, p in tasks.items()}, {}), OutOfRange, "3 prompts of ioi: expected 4 or more"),
        (lambda tasks: (tasks, {"draws": 0}), OutOfRange, "draws=0"),
        (lambda tasks: (tasks, {"method": "magic"}), CasebackError, "no method is called 'magic'"),
    ],
)
def test_what_cannot_be_compared_is_refused(model, tasks, change, error, says):
    some, options = change(tasks)
    with pytest.raises(error, match=says):
        circuit_transfer(model, some, **options)
