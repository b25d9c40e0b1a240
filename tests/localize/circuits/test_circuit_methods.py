"""Methods by name, circuits shrunk to a floor, frontiers, and known circuits found."""

import numpy as np
import pytest

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits import edge_attribution, faithfulness, find_circuit, select, shrink
from caseback.localize.circuits import methods as module
from caseback.localize.circuits.frontier import Frontier, frontier
from caseback.localize.circuits.methods import methods
from caseback.localize.circuits.on_organisms import on_organisms, words
from caseback.model import registry
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.organisms.compiled import build
from exact import exact

CLEAN, CORRUPT = shelf.ids((6, 5)), shelf.ids((6, 5), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])


def test_a_method_by_name_is_the_technique_with_its_settings():
    model = shelf.model("gpt2")
    with exact():
        for name, settings in (("eap", {}), ("eap-ig", {"steps": 5}), ("eap-ends", {"along": "ends"})):
            found = find_circuit(model, CLEAN, CORRUPT, METRIC, method=name, edges=40)
            scores = edge_attribution(model, CLEAN, CORRUPT, METRIC, **settings)
            assert found == select(model, scores, 40) and found.about["found_by"] == name
        share = find_circuit(model, CLEAN, CORRUPT, METRIC, method="eap", edges=0.5, how="greedy")
        half = int(0.5 * len(Graph.of(model.anatomy).edges))
        assert share == select(model, edge_attribution(model, CLEAN, CORRUPT, METRIC), half, how="greedy")
        zero = find_circuit(model, CLEAN, CORRUPT, METRIC, method="eap", edges=40, ablation="zero")
        assert zero == select(model, edge_attribution(model, CLEAN, None, METRIC), 40)


def test_acdc_of_a_size_takes_the_largest_circuit_found_that_is_small_enough(monkeypatch):
    model = shelf.model("gpt2")
    edges, asked = Graph.of(model.anatomy).edges, []

    def search(model, clean, corrupt, metric, *, threshold, **options):
        asked.append(threshold)
        return Circuit(frozenset(edges[: int(1 / threshold)]))

    monkeypatch.setattr(module, "acdc", search)
    monkeypatch.setitem(module.METHODS, "acdc", module.Method("acdc", search))
    found = find_circuit(model, CLEAN, CORRUPT, METRIC, method="acdc", edges=30)
    assert 20 <= len(found) <= 30 and len(asked) <= 7
    assert len(find_circuit(model, CLEAN, CORRUPT, METRIC, method="acdc", threshold=0.2)) == 5 and asked[-1] == 0.2


def test_techniques_that_come_later_are_methods_too(monkeypatch):
    def later_search(model, clean, corrupt, metric, *, edges: int = 3) -> Circuit:
        """Find a circuit in a new way."""
        return Circuit(frozenset(Graph.of(model.anatomy).edges[:edges]))

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    technique(role="circuit finder", entry=("3.2.27",), citation="Somebody 2027", cost="little")(later_search)
    assert methods()["later-search"].about == "Find a circuit in a new way."
    assert len(find_circuit(shelf.model("gpt2"), CLEAN, CORRUPT, METRIC, method="later-search", edges=7)) == 7
    known = methods()
    assert not {"run-circuit", "path-patch", "faithfulness", "judge", "find-circuit"} & set(known)


def test_a_shrunk_circuit_keeps_what_was_asked_whatever_is_tried_at_once():
    model = shelf.model("llama")
    with exact():
        begin = select(model, edge_attribution(model, CLEAN, CORRUPT, METRIC), 60)
        share = float(faithfulness(model, CLEAN, CORRUPT, METRIC, begin).recovered[0])
        bounds = {"least": share - 0.1, "most": share + 0.1}
        small = shrink(model, CLEAN, CORRUPT, METRIC, begin, **bounds)
        left = float(faithfulness(model, CLEAN, CORRUPT, METRIC, small).recovered[0])
        assert len(small) < len(begin) and abs(left - share) <= 0.1
        assert small == shrink(model, CLEAN, CORRUPT, METRIC, begin, at_once=1, **bounds)


@pytest.mark.slow
def test_3_2_24_known_circuits_are_found_exactly_where_cutting_outside_has_no_effect():
    rows = on_organisms(["previous_token", "induction", "saturated_query", "backup_head"], count=6)
    by_name = {row["name"]: row for row in rows}
    for name in ("previous_token", "induction", "saturated_query"):
        assert by_name[name]["auroc"]["exact, zero"] == by_name[name]["auroc"]["ACDC, zero"] == 1.0, name
        assert by_name[name]["missed"] == []
    # what a second head makes up for changes nothing when it is cut alone
    assert by_name["backup_head"]["auroc"]["exact, zero"] < 1 and "L1H0 -> logits" in by_name["backup_head"]["missed"]
    # a softmax that is hard has no slope: gradients towards zero miss the positions' edges
    assert by_name["induction"]["auroc"]["EAP, zero"] < 1
    more = on_organisms(["previous_token"], count=4, more=["eap"])[0]
    assert 0.5 < more["auroc"]["eap"] <= 1


def test_prompts_of_organisms_are_such_as_they_answer():
    organism = build("recall")
    for prompt in words(organism, 5, seed=0):
        assert organism.function(prompt)[-1] is not None
    assert words(organism, 3, seed=1) == words(organism, 3, seed=1) != words(organism, 3, seed=2)


def test_a_frontier_is_measured_on_other_prompts():
    model = cb.load("meadow")
    drawn = cb.tasks.get("agreement").prompts(model, 12)
    found = frontier(model, drawn[:6], drawn[6:], [0.1, 0.5], rankings=["eap"])
    ranked = found[0]
    scores = edge_attribution(model, drawn[:6].clean, drawn[:6].corrupt, drawn[:6].metric)
    circuit = select(model, scores, 68)
    one = faithfulness(model, drawn[6:].clean, drawn[6:].corrupt, drawn[6:].metric, circuit)
    np.testing.assert_allclose(ranked.at(0.1), float(one.recovered[0]), rtol=1e-4)
    assert ranked.edges[-1] == ranked.total and ranked.recovered[-1] == pytest.approx(1)


def test_the_edges_needed_are_the_fewest_that_recover_no_less_and_no_more():
    made = Frontier("x", 100, [1, 5, 20, 100], [0.2, 1.3, 0.93, 1.0], 2.0, 0.0)
    assert made.edges_for(0.9) == 20 and made.edges_for(0.5) == 5 and made.at(0.05) == 1.3 and made.at(0.1) is None
    assert Frontier("y", 100, [1], [0.2], 2.0, 0.0).edges_for(0.9) is None


def test_what_cannot_be_found_is_refused():
    model = shelf.model("gpt2")
    graph = Graph.of(model.anatomy)
    whole = graph.circuit(graph.exists)
    told = model, CLEAN, CORRUPT, METRIC
    for call, error, says in (
        (lambda: find_circuit(*told, method="eapp"), CasebackError, "no method is called 'eapp'"),
        (lambda: find_circuit(*told, edges=0), OutOfRange, "0 asked for"),
        (lambda: find_circuit(*told, edges=10**6), OutOfRange, "1000000 asked for"),
        (lambda: find_circuit(*told, ablation="mean"), CasebackError, "has no ablation 'mean'"),
        (lambda: find_circuit(*told, threshold=0.1), CasebackError, "has no threshold"),
        (lambda: find_circuit(*told, colour=1), CasebackError, "has no option 'colour'"),
        (lambda: shrink(*told, whole, least=1.0, most=0.5), OutOfRange, "expected least below most"),
        (lambda: shrink(*told, whole, least=1.5, most=2.0), CasebackError, "recovers 1.000 to begin with"),
        (lambda: on_organisms(["inducktion"]), CasebackError, "no organism is called 'inducktion'"),
        (lambda: on_organisms(["recall"], more=["eapp"]), CasebackError, "no method is called 'eapp'"),
    ):
        with pytest.raises(error, match=says):
            call()
