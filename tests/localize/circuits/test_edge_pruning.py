"""Learned gates: their distribution, both ends of the penalty, a planted circuit, interruption, what is refused."""

import math

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.localize.circuits import edge_pruning, run_circuit, subnetwork_probing
from caseback.localize.circuits.machinery import gates as module
from caseback.localize.circuits.machinery.gates import (
    BETA,
    GAMMA,
    ZETA,
    Gates,
    hard_concrete,
    log_odds,
    open_probability,
)
from caseback.model.circuit import Circuit
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.model.graph.graph import Graph
from exact import exact

PAIR = shelf.ids((5, 4)), shelf.ids((5, 4), seed=1)


def test_3_2_27_gates_have_the_published_distribution():
    generator = torch.Generator().manual_seed(0)
    for a in (-2.0, 0.0, 1.5):
        u = torch.rand(200_000, generator=generator, dtype=torch.float64)
        z = hard_concrete(torch.full_like(u, a), u)
        assert float(z.min()) == 0.0 and float(z.max()) == 1.0
        expected = 1 / (1 + math.exp(-(a - BETA * math.log(-GAMMA / ZETA))))
        assert abs(float((z > 0).double().mean()) - expected) < 0.005
        assert float(open_probability(torch.tensor(a, dtype=torch.float64))) == pytest.approx(expected)
    assert float(open_probability(torch.tensor(log_odds(0.9)))) == pytest.approx(0.9)


def test_3_2_27_without_a_penalty_all_gates_open_and_with_a_great_one_all_shut():
    model = shelf.model("llama")
    graph = Graph.of(model.anatomy)
    free = subnetwork_probing(model, *PAIR, penalty=0.0, steps=60, lr=0.1)
    assert free == Circuit(frozenset(graph.edges))
    assert np.mean(list(free.scores.values())) > 0.95 > 0.9  # where they start
    for of in ("nodes", "edges"):
        dear = subnetwork_probing(model, *PAIR, penalty=1e4, of=of, steps=25, lr=0.5)
        assert all(score < 0.5 for score in dear.scores.values())
        assert len(dear) == (1 if of == "nodes" else 0)  # inputs and logits are in every circuit of nodes


def planted():
    """A model of two layers in which one path alone carries anything: embedding, a head's value, an MLP, logits."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 12, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    hf = CrystalForCausalLM(CrystalConfig(**sizes, hidden_act="relu", initializer_range=0.5)).double().eval()
    with torch.no_grad():
        for i, layer in enumerate(hf.model.layers):
            if i == 0:
                layer.self_attn.o_proj.weight[:, 8:] = 0  # the second head writes nothing
                layer.mlp.down_proj.weight.zero_()
            else:
                layer.self_attn.o_proj.weight.zero_()
        # the logits see the half that the last MLP writes, which sees the half that the head writes
        first, last = hf.model.layers
        first.self_attn.o_proj.weight[:12] = 0
        hf.model.embed_tokens.weight[:, 8:] = 0
        last.mlp.up_proj.weight[:, :12] = 0
        last.mlp.down_proj.weight[:8] = 0
        last.mlp.down_proj.weight[12:] = 0
        hf.lm_head.weight[:, :8] = 0
        hf.lm_head.weight[:, 12:] = 0
    return cb.load(hf)


@pytest.mark.slow
def test_3_2_27_a_planted_circuit_is_found_at_its_size():
    model = planted()
    truth = Circuit.of("embed -> L0H0.v", "L0H0 -> MLP 1", "MLP 1 -> logits")
    rng = np.random.default_rng(0)
    clean, corrupt = rng.integers(1, 12, (2, 6, 4)).tolist()
    graph = Graph.of(model.anatomy)
    mask = graph.mask(truth) | graph.into(["L0H0.q", "L0H0.k"])
    ran = run_circuit(model, clean, corrupt, cb.logit(3), mask)
    np.testing.assert_allclose(ran[0], ran.whole, rtol=1e-9)
    size = 5 / len(graph.edges)
    found = edge_pruning(model, clean, corrupt, sparsity=1 - size, steps=250, lr=0.3, seed=1)
    assert truth.edges <= found.edges and len(found) <= 5
    assert found.about["reached"] == pytest.approx(1 - size, abs=0.12)
    assert found.about["objective"] < 0.02
    probed = subnetwork_probing(model, clean, corrupt, penalty=0.3, steps=120, lr=0.2)
    assert {str(node) for node in probed.nodes} == {"embed", "L0H0", "MLP 1", "logits"}


def test_an_interrupted_fit_goes_on_to_the_same_circuit(tmp_path, monkeypatch):
    model, file = shelf.model("gpt2"), tmp_path / "gates.safetensors"
    options = {"sparsity": 0.6, "steps": 12, "lr": 0.5, "batch_size": 1}
    whole = edge_pruning(model, *PAIR, **options)
    assert edge_pruning(model, *PAIR, **options, seed=1).scores != pytest.approx(whole.scores)
    monkeypatch.setattr(module, "KEEP_EVERY", 4)
    step, done = Gates._step, []

    def stops(self, at, penalty):
        if at == 9 and len(done) == 9:
            raise KeyboardInterrupt
        done.append(at)
        step(self, at, penalty)

    monkeypatch.setattr(Gates, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        edge_pruning(model, *PAIR, **options, checkpoint=file)
    found = edge_pruning(model, *PAIR, **options, checkpoint=file)
    assert done == [*range(9), *range(8, 12)]
    assert found == whole and found.scores == pytest.approx(whole.scores)
    with pytest.raises(CasebackError, match="was written by another call"):
        edge_pruning(model, *PAIR, **{**options, "sparsity": 0.5}, checkpoint=file)


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2", "qwen3"])
def test_a_soft_circuit_has_the_gradient_of_its_gates(name):
    """The metric's slope by each edge's gate is the finite difference, upstream and downstream edges cut in part."""
    model = shelf.model(name)
    graph = Graph.of(model.anatomy)
    runs = module.CircuitRuns(model, graph, *PAIR, cb.logit_diff([3, 8], [5, 11]))
    gates = Gates(
        runs, frozenset({"edges"}), start=0.0, lr=0.1, multiplier_lr=0, batch_size=2, seed=0, checkpoint=None, about={}
    )
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(graph.exists.shape, generator=generator, dtype=torch.float64) * graph.exists
    with exact():
        leaf = kept.clone().requires_grad_()
        slope = torch.autograd.grad(gates._losses(leaf, torch.tensor([0, 1])).sum(), leaf)[0]
        for edge in graph.edges[:: len(graph.edges) // 8]:
            w, r = graph.mask(Circuit(frozenset([edge]))).nonzero()[0].tolist()
            told = []
            for sign in (1, -1):
                moved = kept.clone()
                moved[w, r] += sign * 1e-5
                told.append(float(runs.metrics(moved[None]).sum()))
            assert float(slope[w, r]) == pytest.approx((told[0] - told[1]) / 2e-5, rel=1e-4, abs=1e-7), str(edge)


def test_what_cannot_be_learned_is_refused():
    model = shelf.model("gpt2")
    for options, error, says in (
        ({"sparsity": 1.0}, OutOfRange, "leaves one edge at least"),
        ({"sparsity": 0.0}, OutOfRange, "leaves one edge at least"),
        ({"sparsity": 0.99999}, OutOfRange, "leaves one edge at least"),
        ({"steps": 0}, OutOfRange, "steps=0"),
        ({"lr": 0.0}, OutOfRange, "lr=0.0"),
        ({"ablation": "optimal"}, CasebackError, "against given values"),
        (
            {"loss": cb.function(lambda x: (x > 0).double().sum(-1), name="count"), "steps": 1},
            CasebackError,
            "no gradient",
        ),
    ):
        with pytest.raises(error, match=says):
            edge_pruning(model, *PAIR, **options)
    with pytest.raises(TokensError, match="not token-aligned"):
        edge_pruning(model, PAIR[0], shelf.ids((5, 5)))
    for options, error, says in (
        ({"penalty": -1.0}, OutOfRange, "penalty=-1.0"),
        ({"start": 1.0}, OutOfRange, "start=1.0"),
        ({"of": "neurons"}, CasebackError, "of 'neurons' is unknown"),
    ):
        with pytest.raises(error, match=says):
            subnetwork_probing(model, *PAIR, **options)
