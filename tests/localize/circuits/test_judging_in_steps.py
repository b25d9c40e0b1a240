"""Judging by budget: faithfulness after two circuit runs, the rest on request, and nothing lost to an interrupt."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.localize.circuits import completeness, faithfulness, judge, judging, minimality
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.model.graph.graph import Graph
from caseback.reports.task_circuit import task_circuit

CLEAN, CORRUPT = shelf.ids((7, 5)), shelf.ids((7, 5), seed=1)
METRIC = cb.logit_diff([3, 8], [5, 11])
ABLATIONS = ("resample", "mean", "zero")


@pytest.fixture
def runs(monkeypatch):
    """How many circuits have run, on however many prompts."""
    counted = []
    run = CircuitRuns._run

    def count(self, masks, rows, cut):
        counted.append(len(masks) * len(self.tokens[rows]) / len(self.tokens))
        return run(self, masks, rows, cut)

    monkeypatch.setattr(CircuitRuns, "_run", count)
    return counted


@pytest.fixture(scope="module")
def some():
    model = shelf.model("llama")
    graph = Graph.of(model.anatomy)
    mask = (torch.rand(graph.exists.shape, generator=torch.Generator().manual_seed(0)) < 0.6) & graph.exists
    return model, graph.circuit(graph.connected(mask))


def test_the_first_judgement_costs_two_circuit_runs_and_comes_before_all_others(some, runs):
    model, circuit = some
    seen = []
    judge(model, CLEAN, CORRUPT, METRIC, circuit, sets=1, report=lambda made: seen.append((sum(runs), made)))
    costs, judgements = zip(*seen, strict=True)
    assert costs[0] == 2 and costs[1] == 4 and costs[-1] == sum(runs) > 10
    first, last = judgements[0], judgements[-1]
    assert first.faithfulness.ablation.values.tolist() == ["resample"] and first.completeness is None
    low, value, high = (float(first.faithfulness[name][0]) for name in ("recovered_low", "recovered", "recovered_high"))
    assert low <= value <= high and last.minimality is not None and last.left_out == {}


def test_alone_it_costs_no_more_and_says_what_was_left_out(some, runs):
    model, circuit = some
    made = judge(model, CLEAN, CORRUPT, METRIC, circuit, within=0)
    assert sum(runs) == 2 and made.minimality is None
    assert list(made.left_out) == ["mean ablation", "zero ablation", "completeness", "minimality"]
    assert made.to_json()["left_out"] == made.left_out


def test_in_steps_the_numbers_are_those_of_the_criteria_by_themselves(some):
    model, circuit = some
    made = judge(model, CLEAN, CORRUPT, METRIC, circuit, ablations=ABLATIONS, sets=2)
    together = faithfulness(model, CLEAN, CORRUPT, METRIC, circuit, ablations=ABLATIONS)
    assert made.faithfulness.ablation.values.tolist() == list(ABLATIONS)
    for name in together.data_vars:
        np.testing.assert_allclose(made.faithfulness[name], together[name], rtol=1e-12)
    gaps = completeness(model, CLEAN, CORRUPT, METRIC, circuit, count=2)
    least = minimality(model, CLEAN, CORRUPT, METRIC, circuit, count=2)
    assert made.completeness.attrs["worst"] == gaps.attrs["worst"]
    np.testing.assert_allclose(made.minimality.score, least.score)


def test_an_interrupt_while_more_is_judged_keeps_what_was(some, monkeypatch):
    model, circuit = some

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "completeness", stop)
    made = judge(model, CLEAN, CORRUPT, METRIC, circuit)
    assert made.faithfulness.ablation.values.tolist() == list(ABLATIONS)
    assert made.left_out == {"completeness": "interrupted", "minimality": "interrupted"}


def test_a_tasks_circuit_is_judged_first_and_drawn_with_what_there_is(runs):
    model = cb.load("meadow")
    quick = task_circuit(model, "agreement", edges=60, count=4)
    assert sum(runs) == 2 and not quick.interrupted
    assert quick.document["curves"] == [] and "curve" in quick.document["judgement"]["left_out"]
    full = task_circuit(model, "agreement", edges=60, count=4, sets=1, within=None)
    assert full.document["judgement"]["left_out"] == {} and len(full.document["curves"]) == 1
    assert full.document["judgement"]["faithfulness"][0] == quick.document["judgement"]["faithfulness"][0]


@pytest.mark.slow
def test_a_real_model_is_judged_in_two_circuit_runs(smollm, runs):
    result = task_circuit(smollm, "ioi", method="eap", edges=300, count=4)
    row = result.document["judgement"]["faithfulness"][0]
    assert sum(runs) == 2 and row["recovered_low"] <= row["recovered"] <= row["recovered_high"]
