"""PRIMER 4.3.11: the edit is the model with the low-rank weight in place; Eckart and Young; LASER's search."""

import copy

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import LowRank, accuracy, laser
from caseback.errors import CasebackError, SiteAbsent, UnknownSite
from exact import exact

NAMES = ("gpt2", "llama", "gemma2", "gpt_neox", "gptj", "phi3", "starcoder2", "olmo2")


def with_weight(model, matrix, layer, weight):
    """A copy of the model that holds this matrix."""
    changed = cb.load(copy.deepcopy(model.hf))
    view = changed.weights.W_O[layer] if matrix == "o" else getattr(changed.weights, f"W_{matrix}")[layer]
    with torch.no_grad():
        view.copy_(weight.view_as(view))
    return changed


@pytest.mark.parametrize("matrix", ["in", "gate", "out", "o"])
@pytest.mark.parametrize("name", NAMES)
def test_4_3_11_the_edit_is_the_model_with_the_weight_replaced(name, matrix):
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    with exact():
        p = model.anatomy.layers[1]
        if matrix == "gate" and p.w_gate is None and p.gate_up is None:
            with pytest.raises(SiteAbsent, match="W_gate"):
                LowRank(model, matrix, 1)
            return
        low = LowRank(model, matrix, 1)
        changed = with_weight(model, matrix, 1, low.at(3))
        tokens = [model.tokens(prompts, padding=side) for side in ("left", "right")]
        found = [model.run(t, edits=low.edit(3)).logits[t.mask] for t in tokens]
        told = [changed.run(t).logits[t.mask] for t in tokens]
        plain = model.run(tokens[0]).logits[tokens[0].mask]
        # what is kept and what is dropped add up to the weight
        rest = with_weight(model, matrix, 1, weight_of(low) - low.at(3)).run(tokens[0]).logits[tokens[0].mask]
        dropped = model.run(tokens[0], edits=low.edit(3, drop=True)).logits[tokens[0].mask]
        full = model.run(tokens[0], edits=low.edit(low.full)).logits[tokens[0].mask]
    for a, b in zip(found, told, strict=True):
        assert torch.allclose(a, b, atol=1e-9)
    assert torch.allclose(found[0], found[1], atol=1e-9)
    assert not torch.allclose(found[0], plain, atol=1e-3)
    assert torch.allclose(dropped, rest, atol=1e-9) and torch.allclose(full, plain, atol=1e-9)


def weight_of(low):
    return low.at(low.full)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_4_3_11_eckart_young(name):
    model = shelf.model(name)
    low = LowRank(model, "out", 0)
    whole = model.weights.W_out[0]
    for rank in (0, 1, 5, low.full):
        lost = (whole - low.at(rank)).pow(2).sum()
        assert torch.allclose(lost, low.S[rank:].pow(2).sum(), atol=1e-10)
        assert low.lost(rank) == pytest.approx(float(lost / whole.pow(2).sum()), abs=1e-12)
        assert torch.linalg.matrix_rank(low.at(rank)) == rank
    # no other matrix of the rank comes nearer
    other = torch.randn(len(whole), 5, dtype=whole.dtype)
    best = other @ torch.linalg.lstsq(other, whole).solution
    assert (whole - best).pow(2).sum() > low.S[5:].pow(2).sum()


def test_4_3_11_the_search_tells_each_run_and_its_best():
    model, prompts = shelf.model("llama"), shelf.ids((5, 7, 6))
    before = shelf.tensors(model.anatomy)
    with exact():
        metric = cb.log_prob(3)
        found = laser(model, prompts, metric, matrices=("in", "out", "o"), rho=(1.0, 0.5, 0.01, 0.0))
        for layer, matrix in ((0, "in"), (1, "out"), (1, "o")):
            low = LowRank(model, matrix, layer)
            kept = int(found["kept"].sel(layer=layer, component=matrix, rank=0.5))
            assert kept == low.full // 2
            told = metric(model.run(prompts, edits=low.edit(kept))).numpy()
            row = found.sel(layer=layer, component=matrix)
            assert np.allclose(row["value"].sel(rank=0.5), told, atol=1e-9)
            assert float(row["lost"].sel(rank=0.5)) == pytest.approx(low.lost(kept))
        clean = metric(model.run(prompts)).numpy()
    assert np.allclose(found["clean"], clean, atol=1e-10)
    assert np.allclose(found["value"].sel(rank=1.0), clean, atol=1e-9)
    assert (found["kept"].sel(rank=0.01) == 1).all() and (found["kept"].sel(rank=0.0) == 0).all()
    best = found.attrs
    at = {"layer": best["best_layer"], "component": best["best_matrix"], "rank": best["best_rho"]}
    means = found["value"].mean("batch")
    assert float(means.sel(at)) == float(means.max())
    # the choice of two prompts, judged on the third
    judge = int(np.abs(clean - best["held_out_clean"]).argmin())
    assert best["held_out_clean"] == pytest.approx(clean[judge])
    values = found["value"].values.reshape(-1, 3)
    chosen = np.delete(values, judge, 1).mean(1).argmax()
    assert best["held_out"] == pytest.approx(values[chosen, judge])
    assert all(torch.equal(before[name], now) for name, now in shelf.tensors(model.anatomy).items())


def test_4_3_11_laser_removes_planted_noise():
    """A weight that is of rank 2 but for noise: the search finds it, and its right rank, by the answers lost to noise."""
    import zoo

    hf = zoo.tiny("gpt2")
    truth = cb.load(hf)
    low = LowRank(truth, "out", 1)
    with torch.no_grad():
        noise = low.U[:, 2:] * (0.9 * low.S[2] * torch.ones_like(low.S[2:])) @ low.Vh[2:]
        truth.weights.W_out[1].copy_(low.at(2))
    prompts = shelf.ids((6,) * 24, seed=5)
    answers = truth.hf(torch.tensor(prompts)).logits[:, -1].argmax(-1).tolist()
    noisy = with_weight(truth, "out", 1, low.at(2) + noise)
    found = laser(noisy, prompts, accuracy(answers), rho=(1.0, 2.2 / low.full, 1.2 / low.full))
    assert float(found["clean"].mean()) < 1.0
    assert (found.attrs["best_layer"], found.attrs["best_matrix"]) == (1, "out")
    assert int(found["kept"].sel(layer=1, component="out")[1]) == 2
    assert float(found["value"].sel(layer=1, component="out")[1].mean()) == 1.0
    assert found.attrs["held_out"] >= found.attrs["held_out_clean"]


def test_accuracy_is_one_where_the_target_is_the_choice():
    model, prompts = shelf.model("gpt2"), shelf.ids((5, 4))
    run = model.run(prompts)
    best = [int(run.logits[b, n - 1].argmax()) for b, n in enumerate((5, 4))]
    assert accuracy(best)(run).tolist() == [1.0, 1.0]
    assert accuracy([best[0], (best[1] + 1) % model.d_vocab])(run).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: LowRank(m, "ov", 0), "cannot be replaced by an edit"),
        (lambda m: LowRank(m, "inn", 0), "Did you mean in"),
        (lambda m: LowRank(m, "in", 99), "99"),
        (lambda m: LowRank(m, "in", 0).edit(10**6), "rank 1000000"),
        (lambda m: LowRank(m, "in", 0).at(-1), "rank -1"),
        (lambda m: laser(m, [[1, 2]], cb.logit(1), rho=[1.5]), "from 0 to 1"),
        (lambda m: laser(m, [[1, 2]], cb.logit(1), rho=[]), "from 0 to 1"),
        (lambda m: laser(m, [[1, 2]], cb.logit(1), layers=[]), "at least one"),
    ],
)
def test_bad_input_is_told(call, said):
    with pytest.raises(CasebackError, match=said):
        call(shelf.model("gpt2"))


def test_a_mixture_of_experts_is_refused_but_its_heads_are_not():
    model = shelf.model("mixtral")
    with pytest.raises(CasebackError, match="mixture of experts"):
        LowRank(model, "out", 0)
    assert LowRank(model, "o", 0).full > 0
    with pytest.raises(UnknownSite, match="layer 77"):
        LowRank(model, "o", 77)


def test_half_precision_is_decomposed_and_projected_in_float32():
    import zoo
    from caseback.decode.vocabulary import Spectrum, backward_lens, weight_svd_words, weights_as_words

    model, prompts = cb.load(zoo.tiny("gpt2", torch.bfloat16)), shelf.ids((5,))
    for matrix in ("in", "out", "o"):
        low = LowRank(model, matrix, 1)
        assert low.S.dtype == torch.float32
        full = model.run(prompts, edits=low.edit(low.full)).logits
        assert torch.allclose(full, model.run(prompts).logits, atol=0.2)
        assert not torch.allclose(model.run(prompts, edits=low.edit(2)).logits, full, atol=0.2)
    assert model.run(prompts, edits=Spectrum(model, 4).filter(0, layer=1)).logits.isfinite().all()
    assert weights_as_words(model, "in", 0, k=2)["top_value"].dtype == np.float32
    assert weight_svd_words(model, "ov", 0, head=0, top=1, k=2)["value"].dtype == np.float32
    assert np.isfinite(backward_lens(model, prompts, cb.log_prob(3), k=2)["shift_top_value"]).all()
