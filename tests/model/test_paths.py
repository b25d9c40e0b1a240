"""Paths through the weights (PRIMER 2.7): they are the terms of a product, and what a run shows of a head."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import shelf
from caseback.errors import CasebackError, OutOfRange, TargetError
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.paths import copying_score, copying_scores, paths, top_entries, top_tokens, virtual_head
from caseback.model.algebra.sources import source_parts
from caseback.model.algebra.weights import Weights
from exact import exact

FAMILIES = "gpt2 gpt_neox llama gemma2 olmo2 cohere granite phi3 falcon_grouped bloom opt_projected codegen".split()


def close(a, b, tol=1e-10):
    assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tol, atol=tol)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("folded", [True, False])
def test_2_7_the_four_terms_sum_to_the_product(name, folded):
    """W_E (I + OV_1)(I + OV_2) W_U, of two heads in rising layers."""
    model = shelf.model(name)
    weights = Weights(model.anatomy).folded() if folded else Weights(model.anatomy)
    found = paths(model, [(2, 1), (0, -1)], folded=folded)
    last = model.n_heads - 1
    assert [p.heads for p in found] == [(), ((0, last),), ((2, 1),), ((0, last), (2, 1))]
    assert str(found[3]) == f"W_E OV[L0H{last}] OV[L2H1] W_U" and found[3].matrix.inner == weights.W_O[0].shape[1]
    eye = torch.eye(model.d_model, dtype=torch.float64)
    one, two = weights.OV[0, -1].dense(), weights.OV[2, 1].dense()
    close(sum(p.matrix.dense() for p in found), weights.W_E @ (eye + one) @ (eye + two) @ weights.W_U)


def test_2_7_an_attention_only_model_is_the_sum_of_its_paths():
    """Two layers of one head, a token attending to itself alone: the logits are x times the paths' sum."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=1,
        vocab_size=20,
        head_dim=6,
    )
    hf = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.mlp.down_proj.weight.zero_()
            for norm in (layer.input_layernorm, hf.model.norm):
                norm.weight.copy_(torch.rand(16) + 0.5)
            layer.self_attn.o_proj.weight.mul_(20)
    model = shelf.cb.load(hf)
    ids = torch.tensor([[7]])
    with exact():
        run = model.run(ids, read=["attn_norm.scale", "final_norm.scale"])
    first, second = (float(run["attn_norm.scale", i]) for i in (0, 1))
    terms = paths(model, [(0, 0), (1, 0)])
    divisors = {(): 1.0, ((0, 0),): first, ((1, 0),): second, ((0, 0), (1, 0)): first * second}
    made = sum(p.matrix.rows(7).dense()[0] / divisors[p.heads] for p in terms) / float(run["final_norm.scale"])
    close(made, run.logits[0, 0])


@pytest.mark.parametrize("name", ["llama", "phi3", "granite", "olmo2", "falcon", "mixtral"])
def test_2_7_a_full_ov_circuit_is_what_a_first_layer_head_does(name):
    """a_ij W_E W_OV W_U over the norms' denominators, with b_V's share, is the head's share by source."""
    model = shelf.model(name)
    weights, prompt = Weights(model.anatomy), shelf.ids((8,))
    with exact():
        run = model.run(prompt, read=[("pattern", 0), ("attn_in", 0), ("z", 0), "final_norm.scale"])
        shares = source_parts(model, prompt, [3, 7], layers=[0])
    norm = weights.attn_norm[0]
    read = 1.0 if norm is None else norm.scale(run["attn_in", 0])[0, :, 0]
    behind = weights.attn_post_norm[0]
    o = run["z", 0].flatten(2) @ weights.W_O[0].flatten(0, 1) + weights.b_O[0]
    written = run["final_norm.scale"][0, -1] * (1.0 if behind is None else behind.scale(o)[0, -1, 0])
    folded = weights.folded()
    for h in (0, model.n_heads - 1):
        circuit = paths(model, [(0, h)])[1].matrix
        made = circuit.rows(prompt[0]).cols([3, 7]).dense()
        bias = folded.b_V.per_head[0][h] @ folded.W_O[0][h] @ folded.W_U[:, [3, 7]]
        made = (made / torch.as_tensor(read).expand(8)[:, None] + bias) * run["pattern", 0][0, h, -1][:, None]
        close(made / written, shares.values[0, 0, h])


def test_2_7_virtual_heads_are_products_that_stay_thin():
    model = shelf.model("gpt2")
    weights = Weights(model.anatomy).folded()
    pair = virtual_head(model, (0, 1), (2, 3))
    close(pair.dense(), weights.OV[0, 1].dense() @ weights.OV[2, 3].dense())
    assert pair.inner == model.d_head
    triple = next(p for p in paths(model, [(0, 0), (1, 1), (2, 2)], depth=3) if len(p.heads) == 3)
    product = weights.W_E
    for layer in range(3):
        product = product @ weights.OV[layer, layer].dense()
    close(triple.matrix.dense(), product @ weights.W_U)
    assert len(paths(model, [(0, 0), (0, 1), (1, 1)])) == 1 + 3 + 2


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 30),
    st.integers(1, 4),
    st.booleans(),
)
def test_2_7_top_entries_are_those_of_the_dense_matrix(n, m, rank, k, block, largest):
    matrix = Factored(torch.randn(n, rank), torch.randn(rank, m))
    values, rows, cols = top_entries(matrix, k, largest=largest, block=block)
    dense = matrix.dense()
    told = dense.flatten().topk(min(k, dense.numel()), largest=largest).values
    close(values, told, 1e-5)
    close(dense[rows, cols], values, 1e-5)
    some_rows, some_cols = torch.arange(n).flip(0)[: (n + 1) // 2], torch.tensor([m - 1, 0])[:m]
    values, rows, cols = top_entries(matrix, k, rows=some_rows, cols=some_cols, largest=largest, block=block)
    told = dense[some_rows][:, some_cols].flatten()
    close(values, told.topk(min(k, told.numel()), largest=largest).values, 1e-5)
    assert set(rows.tolist()) <= set(some_rows.tolist()) and set(cols.tolist()) <= set(some_cols.tolist())


def test_2_7_top_tokens_are_rows_of_the_path():
    model = shelf.model("llama")
    path = paths(model, [(1, 2)])[1]
    dense = path.matrix.dense()
    best = top_tokens(model, path, [5, 9], k=4)
    worst = top_tokens(model, path, 5, k=3, largest=False)
    close(best.values, dense[[5, 9]].topk(4).values)
    close(best.target_id.values, dense[[5, 9]].topk(4).indices)
    close(worst.values[0], dense[5].topk(3, largest=False).values)
    assert best.target.values[1][0] == str(int(dense[9].argmax())) and best.attrs["path"] == "W_E OV[L1H2] W_U"


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt_projected"])
def test_2_7_copying_scores_are_eigenvalues_of_the_full_circuit(name):
    model = shelf.model(name)
    scores = copying_scores(model)
    for layer, head in [(0, 0), (2, model.n_heads - 1)]:
        circuit = paths(model, [(layer, head)])[1].matrix
        values = torch.linalg.eigvals(circuit.dense())
        told = float(values.real.sum() / values.abs().sum())
        assert float(scores[layer, head]) == pytest.approx(told, abs=1e-6)
        assert float(copying_score(circuit)) == pytest.approx(told, abs=1e-6)
    assert bool((np.abs(scores) <= 1 + 1e-12).all())


def test_2_7_a_head_that_copies_scores_one_and_its_negative_minus_one():
    tokens = torch.linalg.qr(torch.randn(30, 8, dtype=torch.float64)).Q
    copies = Factored(tokens, tokens.T)
    assert float(copying_score(copies)) == pytest.approx(1.0)
    assert float(copying_score(-1.0 * copies)) == pytest.approx(-1.0)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert float(copying_score(Factored(turn, torch.eye(2, dtype=torch.float64)))) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda m: paths(m, [(0, 4)]), OutOfRange, "no head 4"),
        (lambda m: paths(m, [(3, 0)]), CasebackError, "layers 0 to 2"),
        (lambda m: virtual_head(m, (1, 0), (1, 1)), OutOfRange, "later layer than 1"),
        (lambda m: top_tokens(m, paths(m)[0], [61]), TargetError, "61"),
        (lambda m: top_entries(Factored(torch.ones(2, 3, 1), torch.ones(1, 3))), CasebackError, "one matrix"),
    ],
)
def test_errors_say_what_is_wrong(wrong, error, says):
    with pytest.raises(error, match=says):
        wrong(shelf.model("gpt2"))
