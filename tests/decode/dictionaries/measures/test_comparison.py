"""Several dictionaries beside random ones and frozen decoders: rows are the measures' own, controls are controls."""

import copy

import numpy as np
import pytest
import torch

import shelf
from caseback.decode.dictionaries import BatchTopK, Facts, JumpReLU, Standard, TopK
from caseback.decode.dictionaries.measures import (
    compare_dictionaries,
    frozen_decoder,
    planted_features,
    random_dictionary,
    reconstruction_measures,
    recovery_measures,
    replacement_measures,
)
from caseback.decode.dictionaries.measures.pareto import _frontier
from caseback.errors import CasebackError, OutOfRange, TokensError
from exact import exact
from simple_dictionaries import identity, noise

TEXTS = [[5, 1, 2, 3, 9], [4, 5, 1, 9, 7, 2, 11], [8, 3, 4]]


def l0(one, x):
    return float((one.encode(x) != 0).sum(1).double().mean())


@pytest.mark.parametrize(
    "one",
    [
        Standard(8, 64, dtype=torch.float64),
        Standard(8, 64, 5, dtype=torch.float64),
        TopK(8, 64, k=5, dtype=torch.float64),
        BatchTopK(8, 64, k=5, dtype=torch.float64),
        JumpReLU(8, 64, threshold=0.4, dtype=torch.float64),
        TopK(8, 64, k=5, dtype=torch.float64, facts=Facts(normalization="layer_norm", by_norm=True)),
    ],
    ids=str,
)
def test_a_random_dictionary_has_the_same_sizes_and_l0_and_nothing_else(one):
    x = noise(3000, 8) + 2
    with torch.no_grad():
        one.W_dec *= torch.linspace(1, 2, 64)[:, None]
        one.b_enc -= 0.7
    other = random_dictionary(one, x, seed=1)
    assert l0(other, x) == pytest.approx(l0(one, x), rel=0.02)
    np.testing.assert_allclose(other.norms().detach(), one.norms().detach())
    cosines = torch.nn.functional.cosine_similarity(other.W_dec.detach(), one.W_dec.detach())
    assert float(cosines.abs().mean()) < 0.5
    assert torch.equal(random_dictionary(one, x, seed=1).W_dec, other.W_dec)
    assert not torch.equal(random_dictionary(one, x, seed=2).W_dec, other.W_dec)


@pytest.mark.parametrize(
    "facts", [Facts(), Facts(site="mlp_in.0", target="mlp_out.0", centered=False)], ids=["states", "transcoder"]
)
def test_a_random_dictionary_does_not_depend_on_how_lengths_are_shared_between_rows(facts):
    x = noise(2000, 8) + 2
    one = JumpReLU(8, 64, threshold=0.4, dtype=torch.float64, facts=facts)
    other = copy.deepcopy(one)
    lengths = torch.linspace(0.2, 5, 64, dtype=torch.float64)
    with torch.no_grad():  # the same dictionary, as another layout has it
        other.W_dec *= lengths[:, None]
        other.W_enc /= lengths[:, None]
        other.b_enc /= lengths
        other.threshold /= lengths
        np.testing.assert_allclose(other(x), one(x), rtol=1e-9)
        randoms = [random_dictionary(each, x)(x) for each in (one, other)]
    np.testing.assert_allclose(randoms[1], randoms[0], rtol=1e-6, atol=1e-6)


def test_a_frozen_decoder_learns_to_read_and_not_to_write():
    truth = planted_features(16, 24, 4000, l0=2)
    x = truth.states
    start = TopK(16, 64, k=3, dtype=torch.float64)
    random, frozen = random_dictionary(start, x), frozen_decoder(start, x, steps=300, lr=3e-3)
    assert torch.equal(frozen.W_dec, random.W_dec) and frozen.W_dec.requires_grad
    table = reconstruction_measures({"random": random, "frozen": frozen}, x)
    assert table.explained_variance[1] > table.explained_variance[0] + 0.1
    found = recovery_measures({"random": random, "frozen": frozen}, truth)
    assert found.recovered[1] == found.recovered[0] < 0.1  # variance is explained, and no feature is there


def test_a_row_is_what_the_two_measures_say_of_it():
    model = shelf.model("llama")
    d = model.d_model
    several = {
        "a": TopK(d, 40, k=3, dtype=torch.float64, facts=Facts(site="resid_post.1")),
        "b": identity(d, site="resid_post.1"),
        "c": Standard(d, 20, dtype=torch.float64, facts=Facts(site="mlp_in.0", target="mlp_out.0", centered=False)),
    }
    with exact():
        table = compare_dictionaries(model, several, TEXTS, train_prompts=TEXTS, frozen_steps=3)
        replaced = replacement_measures(model, several, TEXTS)
        runs = [model.run(text, read=["resid_post.1"]) for text in TEXTS]
        x = torch.cat([run["resid_post", 1][0, 1:] for run in runs])
    rebuilt = reconstruction_measures({name: several[name] for name in "ab"}, x)
    for measures, names in ((replaced, "abc"), (rebuilt, "ab")):
        for name in measures.data_vars:
            if measures[name].dims == ("dictionary",):
                have = table[name].sel(dictionary=list(names)).values
                np.testing.assert_allclose(have, measures[name].values, atol=1e-8, err_msg=str(name))
    assert table.kind.values.tolist() == ["trained", "frozen decoder", "random"] * 3
    assert table.of.values.tolist() == [name for name in "abc" for _ in range(3)]
    assert table.site.values.tolist() == ["resid_post.1"] * 6 + ["mlp_in.0"] * 3
    assert not table.frontier[table.kind != "trained"].any() and table.frontier.groupby("site").any().all()
    columns = [name for name in table if table[name].dims == ("dictionary",)]
    assert len(table[columns].to_dataframe()) == 9
    assert np.isnan(table.density.sel(dictionary="c")[20:]).all()


def test_the_frontier_is_of_those_that_none_beats():
    sparse, loss = np.array([1, 2, 2, 3, 1]), np.array([0.5, 0.4, 0.6, 0.4, 0.1])
    trained, sites = np.array([True, True, True, True, False]), np.array(["s"] * 5)
    assert _frontier(sparse, loss, trained, sites).tolist() == [True, True, False, False, False]
    apart = np.array(["s", "s", "t", "t", "s"])
    assert _frontier(sparse, loss, trained, apart).tolist() == [True, True, True, True, False]


def test_what_cannot_be_compared_is_refused():
    x, one = noise(20, 8), TopK(8, 16, k=2, dtype=torch.float64)
    with pytest.raises(TokensError):
        random_dictionary(one, x[:0])
    with pytest.raises(TokensError):
        random_dictionary(one, noise(20, 7))
    with pytest.raises(TokensError):
        frozen_decoder(one, x, noise(19, 8))
    with pytest.raises(OutOfRange):
        frozen_decoder(one, x, steps=0)
    model = shelf.model("llama")
    with pytest.raises(CasebackError):
        compare_dictionaries(model, one, TEXTS)
    fits = TopK(model.d_model, 16, k=2, facts=Facts(site="resid_post.0"))
    with pytest.raises(TokensError):
        compare_dictionaries(model, fits, [[1]])
