"""Composition scores (PRIMER 2.8): those of the dense matrices, from their thin factors."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import shelf
from caseback.errors import CasebackError, SiteAbsent
from caseback.model.algebra.composition import composition, overlap, random_scores, read_side, write_side
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.weights import Weights

FAMILIES = "gpt2 gpt_neox llama gemma2 olmo2 cohere granite phi3 falcon_grouped bloom opt gpt_oss codegen".split()


def drawn(d: int, r: int, heads: int = 1) -> Factored:
    return Factored(torch.randn(heads, d, r, dtype=torch.float64), torch.randn(heads, r, d, dtype=torch.float64))


def dense_score(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first @ second).norm() / (first.norm() * second.norm()))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_2_8_scores_are_those_of_the_dense_matrices(name, kind):
    model = shelf.model(name)
    folded = Weights(model.anatomy).folded()
    scores = composition(model, kind, baseline=None)
    assert scores.dims == ("layer", "head", "layer_to", "head_to")
    for i, h, j, g in [(0, 0, 1, 0), (0, 1, 2, 3), (1, model.n_heads - 1, 2, 0)]:
        first = folded.OV[i, h].dense()
        second = folded.OV[j, g] if kind == "V" else folded.QK[j, g]
        second = second.dense().T if kind == "K" else second.dense()
        assert float(scores[i, h, j, g]) == pytest.approx(dense_score(first, second), rel=1e-10)
    values = scores.values
    above = [values[i, :, j] for i in range(3) for j in range(3) if j > i]
    below = [values[i, :, j] for i in range(3) for j in range(3) if j <= i]
    assert np.isnan(below).all() and (np.array(above) >= 0).all() and (np.array(above) <= 1 + 1e-12).all()


def test_2_8_is_one_for_aligned_rank_one_maps_and_nought_for_orthogonal_ones():
    u, v, w = torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64)).Q.T
    first = Factored(u[None, :, None], v[None, None])
    aligned, crossed = (
        Factored(5 * v[None, :, None], w[None, None]),
        Factored(w[None, :, None], u[None, None]),
    )
    assert float(overlap(write_side(first), read_side(aligned))) == pytest.approx(1.0, abs=1e-12)
    assert float(overlap(write_side(first), read_side(crossed))) == pytest.approx(0.0, abs=1e-12)


def test_2_8_is_about_one_over_root_d_for_random_maps():
    like = drawn(64, 8)
    scores = random_scores(like, like, samples=400, seed=0)
    assert float(scores.mean()) == pytest.approx(1 / 64**0.5, rel=0.02)
    one, other = drawn(64, 8, heads=3), drawn(64, 8, heads=2)
    made = overlap(write_side(one), read_side(other))
    for i in range(3):
        for j in range(2):
            assert float(made[i, j]) == pytest.approx(dense_score(one[i].dense(), other[j].dense()), rel=1e-12)


def test_2_8_the_random_baseline_is_subtracted_and_told():
    model = shelf.model("llama")
    plain, less = (composition(model, "V", baseline=b) for b in (None, "random"))
    again, other = composition(model, "V"), composition(model, "V", seed=1)
    mean = less.attrs["baseline_mean"]
    assert_close(torch.from_numpy(less.values), torch.from_numpy(plain.values - mean), equal_nan=True)
    assert less.attrs["baseline_std"] > 0 and less.attrs["samples"] == 100 and "baseline_mean" not in plain.attrs
    assert again.identical(less) and other.attrs["baseline_mean"] != mean
    assert mean == pytest.approx(1 / 32**0.5, rel=0.1)


def test_2_8_a_planted_previous_token_head_composes_with_the_induction_head_alone():
    """Head L0H2 writes into the subspace that L1H1's keys read and no other head's."""
    model = shelf.zoo.tiny("gpt2")
    layers = model.transformer.h
    d, e = 32, 8
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
        layers[0].attn.c_proj.weight[2 * e : 3 * e] = basis[:e]
        keys = layers[1].attn.c_attn.weight[:, d + e : d + 2 * e]
        keys.copy_(basis[:e].T)
    loaded = shelf.cb.load(model)
    scores = composition(loaded, "K", folded=False).sel(layer=0, layer_to=1)
    assert np.unravel_index(scores.values.argmax(), scores.shape) == (2, 1)
    assert float(scores[2, 1]) > 3 * float(np.partition(scores.values.ravel(), -2)[-2])


def test_2_8_a_dead_head_composes_with_nothing():
    model = shelf.zoo.tiny("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, :12] = 0
    scores = composition(shelf.cb.load(model), "Q", baseline=None).sel(layer=0, layer_to=1)
    assert (scores.sel(head=0) == 0).all() and (scores.sel(head=1) > 0).all()


def test_errors_say_what_is_wrong():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="expected 'Q' or 'K' or 'V'"):
        composition(model, "O")
    with pytest.raises(CasebackError, match="'random' or None"):
        composition(model, "K", baseline="shuffled")
    with pytest.raises(SiteAbsent, match="latent"):
        composition(shelf.model("deepseek_v3"), "V")
