"""PRIMER 3.1.28: agreement among attributions, against scipy and by its definition."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import kendalltau, spearmanr

import caseback as cb
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs import agreement, attribute
from caseback.localize.inputs.trust.agreement import kendall, ranked


def scores(values):
    values = np.asarray(values, dtype=float)
    names = [f"m{i}" for i in range(len(values))]
    return xr.DataArray(values, dims=["attribution", "batch", "pos"], coords={"attribution": names})


def test_rank_correlations_are_scipys_ties_included():
    values = np.random.default_rng(0).integers(-4, 5, (4, 3, 12)).astype(float)
    found = agreement(scores(values), absolute=False)
    sizes = agreement(scores(values))
    for b in range(3):
        for i in range(4):
            for j in range(4):
                x, y = values[i, b], values[j, b]
                assert np.isclose(found.kendall.values[i, j, b], kendalltau(x, y).statistic)
                assert np.isclose(found.spearman.values[i, j, b], spearmanr(x, y).statistic)
                assert np.isclose(sizes.spearman.values[i, j, b], spearmanr(abs(x), abs(y)).statistic)


def test_a_method_agrees_with_itself_and_disagrees_with_its_reverse():
    x = np.random.default_rng(1).normal(size=(1, 2, 9))
    found = agreement(scores(np.concatenate([x, x, -x])), absolute=False)
    for name in ("kendall", "spearman", "top_k"):
        assert (found[name].values[[0, 1, 2], [0, 1, 2]] == 1).all() and (found[name].values[0, 1] == 1).all()
    assert (found.kendall.values[0, 2] == -1).all() and np.allclose(found.spearman.values[0, 2], -1)
    assert (found.top_k.values[0, 2] == 0).all()


def test_the_top_is_a_quarter_of_the_prompt_unless_told():
    x = [[[5.0, 4.0, 3.0, 2.0, 1.0, np.nan]], [[5.0, 1.0, 4.0, 2.0, 3.0, np.nan]]]
    found = agreement(scores(x))
    assert (int(found.k[0]), float(found.chance[0]), float(found.top_k[0, 1, 0])) == (2, 0.4, 0.5)
    assert float(agreement(scores(x), k=1).top_k[0, 1, 0]) == 1.0
    assert int(agreement(scores(x), k=50).k[0]) == 5


def test_shorter_prompts_and_special_tokens_are_left_out():
    model = cb.load("meadow")
    prompts = ["Mary and John went to the store", "Mary went"]
    both = attribute(model, prompts, cb.logit(" the"), ["gradient_norm", "gradient_x_input"])
    alone = attribute(model, prompts[1:], cb.logit(" the"), ["gradient_norm", "gradient_x_input"])
    assert np.isclose(agreement(both).kendall[0, 1, 1], agreement(alone).kendall[0, 1, 0])
    special = np.zeros((1, 3), dtype=bool)
    special[0, 0] = True
    without = agreement(alone, special=special)
    assert np.isclose(without.kendall[0, 1, 0], agreement(alone.isel(pos=slice(1, None))).kendall[0, 1, 0])


def test_scores_without_order_have_no_rank_correlation():
    found = agreement(scores([[[1.0, 1.0, 1.0]], [[1.0, 2.0, 3.0]]]))
    assert np.isnan(found.kendall.values[0]).all() and np.isnan(found.spearman.values[0]).all()
    assert float(found.kendall[1, 1, 0]) == 1


def test_a_thousand_tokens_are_counted_in_pieces():
    x = torch.randn(2, 1200, dtype=torch.float64)
    assert np.isclose(float(kendall(x)[0, 1]), kendalltau(*x.numpy()).statistic)
    assert ranked(x).sort().values[0].tolist() == list(range(1200))


def test_bad_input_is_told():
    with pytest.raises(CasebackError, match="expected \\(attribution, batch, pos\\)"):
        agreement(xr.DataArray(np.zeros((2, 3)), dims=["batch", "pos"]))
    with pytest.raises(OutOfRange, match="k is 0"):
        agreement(scores([[[1.0, 2.0]]]), k=0)
    with pytest.raises(CasebackError, match="special of shape"):
        agreement(scores([[[1.0, 2.0]]]), special=[[True]])
