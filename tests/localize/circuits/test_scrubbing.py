"""Causal scrubbing: the whole graph is the model, the empty one chance, and a path sees what the hypothesis allows it."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.localize.circuits import causal_scrubbing, run_circuit
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.organisms.compiled import build
from exact import exact

PROMPTS = shelf.ids((6, 6, 6, 6, 6))
METRIC = cb.logit_diff([3, 8, 2, 9, 4], [5, 11, 7, 1, 6])
BOTH = ("embed", "pos_embed")


@pytest.mark.parametrize("name", "gpt2 gpt_neox llama gemma2 qwen3 mixtral".split())
def test_3_2_31_the_identity_recovers_all_and_the_empty_hypothesis_nothing(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    with exact():
        for side in ("left", "right"):
            tokens = model.tokens(PROMPTS, padding=side)
            whole = causal_scrubbing(model, tokens, METRIC, graph.circuit(graph.exists))
            none = causal_scrubbing(model, tokens, METRIC, Circuit())
            assert whole.attrs["recovered"] == pytest.approx(1, abs=1e-9) and whole.attrs["nodes"] == 0
            assert none.attrs["recovered"] == pytest.approx(0, abs=1e-9)
            np.testing.assert_allclose(whole.metric, whole.whole.expand_dims(variant=4), rtol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
def test_3_2_31_with_one_draw_and_no_labels_it_is_the_circuit_with_that_draw_as_counterfactual(name):
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    mask = (torch.rand(graph.exists.shape, generator=torch.Generator().manual_seed(2)) < 0.7) & graph.exists
    with exact():
        found = causal_scrubbing(model, PROMPTS, METRIC, graph.circuit(mask), draws="one", samples=2, seed=7)
        drawn = torch.randint(5, (10,), generator=torch.Generator().manual_seed(7)).view(2, 5)
        for sample in range(2):
            other = [PROMPTS[i] for i in drawn[sample].tolist()]
            ran = run_circuit(model, PROMPTS, other, METRIC, mask)
            np.testing.assert_allclose(found.metric[sample], ran[0], rtol=1e-8, atol=1e-10)


def test_3_2_31_a_true_hypothesis_about_what_a_node_computes_costs_nothing_and_a_false_one_does():
    organism = build("previous_token", alphabet="abc", max_length=4)
    words = [list(p) for p in ("abca", "bbca", "acba", "cbba", "aaca", "caba", "babb", "cbab")]
    tokens = organism.tokens(words)
    metric = cb.logit([row[-1] for row in organism.predict(words)])
    told = {"inputs": BOTH, "samples": 8}
    # at the last word the head writes the word before it: prompts that share that word may stand in for one another,
    # since the metric reads no other position
    true = {"L0H0": [p[2] for p in words]}
    false = {"L0H0": [p[0] for p in words]}
    right = causal_scrubbing(organism.model, tokens, metric, organism.circuit, agree=true, **told)
    wrong = causal_scrubbing(organism.model, tokens, metric, organism.circuit, agree=false, **told)
    assert right.attrs["recovered"] == pytest.approx(1, abs=1e-5)
    assert wrong.attrs["recovered"] < 0.8


def test_every_path_draws_its_own_prompts():
    model = shelf.model("gpt2")
    # L0H0 reaches the logits along two paths; neither of its inputs is in the hypothesis
    circuit = Circuit.of("L0H0 -> MLP 1", "MLP 1 -> logits", "L0H0 -> logits")
    with exact():
        apart = causal_scrubbing(model, PROMPTS, METRIC, circuit)
        shared = causal_scrubbing(model, PROMPTS, METRIC, circuit, draws="one")
    assert apart.attrs["nodes"] == 3 and shared.attrs["nodes"] == 2


def test_what_cannot_be_scrubbed_is_refused():
    model = shelf.model("gpt2")
    graph = Graph.of(model.anatomy)
    circuit = Circuit.of("L0H0 -> logits")
    mask = (torch.rand(graph.exists.shape, generator=torch.Generator().manual_seed(2)) < 0.7) & graph.exists
    for call, error, says in (
        (
            lambda: causal_scrubbing(model, shelf.ids((6, 5)), cb.logit(3), circuit),
            TokensError,
            "prompts of 5, 6 tokens",
        ),
        (
            lambda: causal_scrubbing(model, PROMPTS, METRIC, Circuit.of("L9H0 -> logits")),
            CasebackError,
            "another model",
        ),
        (lambda: causal_scrubbing(model, PROMPTS, METRIC, circuit, draws="two"), CasebackError, "draws 'two'"),
        (lambda: causal_scrubbing(model, PROMPTS, METRIC, circuit, agree={"L1H0": [0] * 5}), CasebackError, "'L1H0'"),
        (lambda: causal_scrubbing(model, PROMPTS, METRIC, circuit, agree={"L0H0": [0]}), CasebackError, "1 labels"),
        (lambda: causal_scrubbing(model, PROMPTS, METRIC, circuit, samples=0), OutOfRange, "samples=0"),
        (lambda: causal_scrubbing(model, PROMPTS, METRIC, graph.circuit(mask), most=5), OutOfRange, "most=5"),
        (lambda: causal_scrubbing(model, [PROMPTS[0]] * 5, cb.logit(3), circuit), CasebackError, "nothing to recover"),
    ):
        with pytest.raises(error, match=says):
            call()
