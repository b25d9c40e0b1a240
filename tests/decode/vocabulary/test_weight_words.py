"""PRIMER 4.3.9 and 4.3.10: neurons, heads and singular vectors as words, against dense products in float64."""

from typing import Any, cast

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import (
    circuit_of_tokens,
    circuit_pairs,
    vectors_as_words,
    vocabulary_circuit,
    weight_svd_words,
    weights_as_words,
)
from caseback.decode.vocabulary.weights.named_matrices import MATRICES, matrix_of
from caseback.errors import CasebackError, OutOfRange, SiteAbsent
from caseback.model.algebra.factored import Factored
from exact import exact

# grouped heads, post-norms, parallel blocks, projections around the embeddings, an embedding norm, multipliers
NAMES = ("gpt2", "llama", "gemma2", "gpt_neox", "gptj", "opt_projected", "bloom", "granite")


def dense(model, name, layer=1, head=2, folded=True, expert=None):
    """A matrix (n, m) and the tables (d_model, vocab) of its sides, formed whole."""
    weights = model.weights.folded() if folded else model.weights
    per_head = None if not MATRICES[name].of_head else head
    found = matrix_of(model, weights, name, layer, per_head, expert)
    found = found.dense() if isinstance(found, Factored) else found
    return found, {"in": weights.W_E.mT.double(), "out": weights.W_U.double()}


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_4_3_9_units_are_rows_and_columns_through_the_embeddings(name, folded):
    model = shelf.model(name)
    with exact():
        for matrix, kind in MATRICES.items():
            if kind.circuit:
                continue
            head = 2 if kind.of_head else None
            try:
                whole, tables = dense(model, matrix, folded=folded)
            except SiteAbsent:
                assert matrix == "gate"
                continue
            words = weights_as_words(model, matrix, 1, head=head, k=4, folded=folded)
            rows = whole if kind.right in tables else whole.mT
            values = (rows @ tables[kind.side]).numpy()
            assert words["top_value"].dims == (kind.unit, "k") and words.sizes[kind.unit] == len(rows)
            order = np.sort(values, -1)
            assert np.allclose(words["top_value"], order[:, ::-1][:, :4], atol=1e-10)
            assert np.allclose(words["bottom_value"], order[:, :4], atol=1e-10)
            assert np.allclose(np.take_along_axis(values, words["top_id"].values, 1), words["top_value"], atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_4_3_9_folded_words_of_a_write_are_what_it_adds_to_the_logits(name):
    """A step of resid_post along a direction changes the logits, at a fixed denominator, by its reading."""
    model, prompt = shelf.model(name), shelf.ids((5,))
    with exact():
        direction = torch.randn(model.d_model, dtype=torch.float64)
        words = vectors_as_words(model, direction, k=model.d_vocab)
        run = model.run(prompt, read=[("resid_post", -1)])
        norm, x = model.weights.folded().final_norm, run["resid_post", -1][0, -1]
        scale = torch.ones(()) if norm is None else norm.scale(x)
        table = model.weights.folded()
        before = x if norm is None else norm.frozen(x, scale)
        after = x + direction if norm is None else norm.frozen(x + direction, scale)
        change = (after - before) @ table.W_U * scale
    told = np.empty(model.d_vocab)
    told[words["top_id"].values] = words["top_value"].values
    assert np.allclose(told, change.numpy(), atol=1e-9)


@pytest.mark.parametrize("matrix", ["ov", "qk"])
@pytest.mark.parametrize("name", NAMES)
def test_4_3_9_pairs_are_the_dense_circuits_best_though_streamed(name, matrix):
    model = shelf.model(name)
    with exact():
        whole, tables = dense(model, matrix)
        values = (tables["in"].mT @ whole @ tables[MATRICES[matrix].right]).numpy()
        assert np.allclose(vocabulary_circuit(model, matrix, 1, 2).dense(), values, atol=1e-9)
        # 3 rows at a time
        pairs = circuit_pairs(model, matrix, 1, 2, k=7, max_logits=3 * values.shape[1])
        rows = circuit_of_tokens(model, matrix, 1, 2, k=3, max_logits=values.shape[1])
    order = np.sort(values.flatten())
    assert np.allclose(pairs["top_value"], order[::-1][:7], atol=1e-9)
    assert np.allclose(pairs["bottom_value"], order[:7], atol=1e-9)
    for end in ("top", "bottom"):
        at = values[pairs[f"{end}_from_id"], pairs[f"{end}_to_id"]]
        assert np.allclose(at, pairs[f"{end}_value"], atol=1e-9)
    own = values.diagonal()
    assert np.allclose(pairs["own_value"], np.sort(own)[::-1][:7], atol=1e-9)
    assert pairs.attrs["copying"] == pytest.approx((values.argmax(1) == np.arange(len(values))).mean())
    assert pairs.attrs["own_mean"] == pytest.approx(own.mean()) and pairs.attrs["mean"] == pytest.approx(values.mean())
    assert np.allclose(rows["top_value"], np.sort(values, 1)[:, ::-1][:, :3], atol=1e-9)
    assert (rows["own_rank"].values == (values > own[:, None]).sum(1) + 1).all()


def planted_copying_head(name="llama"):
    """A model whose head 1 of layer 0 reads each token's embedding and writes its unembedding."""
    import zoo

    hf = zoo.tiny(name)
    size = hf.config.hidden_size
    with torch.no_grad():
        attn = hf.model.layers[0].self_attn
        d_head = attn.head_dim
        # few directions of the stream carry all that tells tokens apart
        hf.model.embed_tokens.weight[:, d_head:] = 0
        keep = hf.model.embed_tokens.weight
        keep /= keep.norm(dim=1, keepdim=True)
        hf.lm_head.weight.copy_(keep)
        hf.model.norm.weight.fill_(1.0)
        hf.model.layers[0].input_layernorm.weight.fill_(1.0)
        attn.v_proj.weight[:d_head].copy_(torch.eye(d_head, size))
        attn.o_proj.weight[:, d_head : 2 * d_head].copy_(torch.eye(size, d_head))
    return cb.load(hf)


def test_4_3_9_a_planted_copying_head_gives_each_token_itself():
    model = planted_copying_head()
    rows = circuit_of_tokens(model, "ov", 0, 1, k=1)
    assert (rows["top_id"].values[:, 0] == np.arange(model.d_vocab)).all() and (rows["own_rank"] == 1).all()
    pairs = circuit_pairs(model, "ov", 0, 1, k=10)
    assert pairs.attrs["copying"] == 1.0 and pairs.attrs["own_mean"] > pairs.attrs["mean"]
    assert (pairs["top_from_id"] == pairs["top_to_id"]).all()
    assert circuit_pairs(model, "ov", 0, 3, k=1).attrs["copying"] < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_4_3_10_singular_words_are_those_of_the_dense_svd(name):
    model = shelf.model(name)
    with exact():
        for matrix in ("in", "out", "o", "ov", "qk"):
            kind = MATRICES[matrix]
            whole, tables = dense(model, matrix)
            words = weight_svd_words(model, matrix, 1, head=2 if kind.of_head else None, top=3, k=2)
            u, s, vh = torch.linalg.svd(whole.double(), full_matrices=False)
            assert np.allclose(words["value"], s[:3], atol=1e-9)
            assert np.allclose(words["share"], (s**2 / (s**2).sum())[:3], atol=1e-10)
            turn = None
            for side, vectors, where in (("right", vh, kind.right), ("left", u.mT, kind.left)):
                if where not in tables:
                    assert f"{side}_top_unit" in words and f"{side}_top_text" not in words
                    continue
                values = (vectors[:3] @ tables[where]).numpy()
                largest = values.max(1) > -values.min(1)
                turn = np.where(largest, 1, -1) if turn is None else turn  # both sides turn together
                values = np.sort(values * turn[:, None], 1)
                assert np.allclose(words[f"{side}_top_value"], values[:, ::-1][:, :2], atol=1e-8)
                assert np.allclose(words[f"{side}_bottom_value"], values[:, :2], atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_4_3_10_what_passes_a_weight_is_the_sum_of_its_directions(name):
    from caseback.decode.vocabulary.weights.singular_words import svd_of

    model = shelf.model(name)
    found = matrix_of(model, model.weights, "ov", 1, 2)
    assert isinstance(found, Factored)
    u, s, vh = svd_of(found)
    z = torch.randn(4, model.d_model, dtype=torch.float64)
    total = torch.stack([(z @ u[:, i])[:, None] * s[i] * vh[i] for i in range(len(s))]).sum(0)
    assert torch.allclose(z @ found.dense(), total, atol=1e-10)
    same = torch.eye(len(s), dtype=s.dtype)
    assert torch.allclose(u.mT @ u, same, atol=1e-10) and torch.allclose(vh @ vh.mT, same, atol=1e-10)


def test_experts_are_read_one_at_a_time():
    model = shelf.model("mixtral")
    with pytest.raises(CasebackError, match="say which with expert"):
        weights_as_words(model, "in", 0)
    words = weights_as_words(model, "out", 0, expert=1, k=2)
    weights = model.weights.folded()
    values = (weights.W_out[0][1] @ weights.W_U).numpy()
    assert np.allclose(words["top_value"][:, 0], values.max(1))
    assert "left_top_text" in weight_svd_words(model, "in", 0, expert=0, k=2)
    with pytest.raises(OutOfRange, match="expert 99"):
        weights_as_words(model, "in", 0, expert=99)


def test_vectors_keep_their_dimensions_and_bounded_steps_change_nothing():
    model = shelf.model("gpt2")
    vectors = torch.randn(2, 3, model.d_model, dtype=torch.float64)
    whole = vectors_as_words(model, vectors, dims=("layer", "head"), k=4)
    assert whole["top_id"].dims == ("layer", "head", "k")
    pieces = vectors_as_words(model, vectors, dims=("layer", "head"), k=4, max_logits=1)
    assert np.allclose(whole["top_value"], pieces["top_value"]) and (whole["top_id"] == pieces["top_id"]).all()
    assert (vectors_as_words(model, vectors[0, 0], k=4)["top_id"].values == whole["top_id"].values[0, 0]).all()


def test_reading_changes_no_weight():
    model = shelf.model("llama")
    before = shelf.tensors(model.anatomy)
    weights_as_words(model, "in", 0, k=1)
    weight_svd_words(model, "ov", 0, head=0, k=1)
    assert all(torch.equal(before[name], now) for name, now in shelf.tensors(model.anatomy).items())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: weights_as_words(m, "outt", 0), "Did you mean out"),
        (lambda m: weights_as_words(m, "ov", 0, head=0), "circuit_pairs"),
        (lambda m: weights_as_words(m, "o", 0), "say which with head"),
        (lambda m: weights_as_words(m, "o", 0, head=99), "head 99"),
        (lambda m: weights_as_words(m, "in", 0, head=1), "no heads"),
        (lambda m: weights_as_words(m, "in", 99), "99"),
        (lambda m: weights_as_words(m, "in", 0, expert=0), "no mixture"),
        (lambda m: weights_as_words(m, "o", 0, head=0, expert=0), "experts are of MLPs"),
        (lambda m: weights_as_words(m, "in", 0, units=[-1]), "no neuron"),
        (lambda m: weights_as_words(m, "in", 0, units=[]), "no neuron"),
        (lambda m: weights_as_words(m, "in", 0, k=0), "at least 1"),
        (lambda m: weights_as_words(m, "gate", 0), "W_gate"),
        (lambda m: circuit_pairs(m, "in", 0, 0), "expected 'ov' or 'qk'"),
        (lambda m: circuit_pairs(m, "ov", 0, 0, tokens=[]), "empty"),
        (lambda m: circuit_of_tokens(m, "ov", 0, 0, [10**6]), "1000000"),
        (lambda m: weight_svd_words(m, "in", 0, top=0), "top=0"),
        (lambda m: vectors_as_words(m, torch.zeros(3)), "width"),
        (lambda m: vectors_as_words(m, cast(Any, [1.0])), "width"),
        (lambda m: vectors_as_words(m, torch.full((m.d_model,), torch.nan)), "NaN"),
        (lambda m: vectors_as_words(m, torch.zeros(m.d_model), side=cast(Any, "up")), "side='up'"),
        (lambda m: vectors_as_words(m, torch.zeros(2, 2, m.d_model)), "name 2 dimensions"),
    ],
)
def test_bad_input_is_told(call, said):
    with pytest.raises(CasebackError, match=said):
        call(shelf.model("gpt2"))
