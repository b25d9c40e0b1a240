"""Sparse probes: scores against scikit-learn's, planted neurons, and noise, which must stay noise."""

import numpy as np
import pytest
import torch
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score as their_f1
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from caseback.decode.probes import sparse_probe
from caseback.decode.probes.feature_scores import (
    BINS,
    f_statistic,
    feature_scores,
    l1_path,
    mean_difference,
    mutual_information,
)
from caseback.decode.probes.sparse_probe import auroc, f1_score
from caseback.errors import CasebackError
from caseback.jobs import budget

SELECTS = ("mean_difference", "mutual_information", "f", "l1")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_are_those_of_others(n_classes):
    x = noise(2, 400, 9).relu()
    y = (x[0, :, :n_classes] + noise(400, n_classes, seed=2)).argmax(-1)
    x += 5 * noise(2, 1, 9, seed=1)
    for site, f, mean, shared in zip(
        x.numpy(),
        f_statistic(x, y, n_classes),
        mean_difference(x, y, n_classes),
        mutual_information(x, y, n_classes),
        strict=True,
    ):
        np.testing.assert_allclose(f, f_classif(site, y.numpy())[0], rtol=1e-6)
        means = np.stack([site[y.numpy() == c].mean(0) for c in range(n_classes)])
        np.testing.assert_allclose(mean, np.ptp(means, axis=0), rtol=1e-9)
        for column, bits in zip(site.T, shared, strict=True):
            edges = np.sort(column)[(np.arange(1, BINS) / BINS * len(column)).astype(int)]
            bins = np.digitize(column, edges)
            assert float(bits) == pytest.approx(mutual_info_score(bins, y.numpy()) / np.log(2), abs=1e-9)


def test_the_l1_path_ends_where_scikit_learns_does():
    x = noise(1, 300, 20)
    y = (x[0, :, 3] - x[0, :, 8] + 0.5 * x[0, :, 11] + noise(300, seed=1) > 0).long()
    order = l1_path(x, y, 2)[0].argsort(descending=True).tolist()
    scaled = StandardScaler().fit_transform(x[0].numpy())
    for strength in (0.02, 0.05):  # of which only the strongest features are left
        theirs = LogisticRegression(l1_ratio=1, C=strength, solver="saga", max_iter=5000, tol=1e-8).fit(
            scaled, y.numpy()
        )
        support = np.flatnonzero(theirs.coef_[0])
        assert set(order[: len(support)]) == set(support.tolist())


@pytest.mark.parametrize("select", SELECTS)
def test_a_planted_neuron_is_found(select):
    x = noise(2, 800, 100).relu()
    y = x[1, :, 42] > 0.4
    table = sparse_probe(x, y.tolist(), k=(1, 5), select=select, sites=["elsewhere", "here"])
    here = table.sel(site="here")
    assert here.feature[0] == 42 and here.f1.sel(k=1) > 0.98 and here.auroc.sel(k=1) == 1
    assert (table.f1.sel(site="elsewhere") < 0.6).all() and here.low.sel(k=1) > 0.9


@pytest.mark.parametrize("select", SELECTS)
def test_a_feature_that_is_spread_is_read_the_better_the_more_neurons(select):
    x = noise(1, 3000, 60)
    y = x[0, :, :8].sum(1) > 0
    table = sparse_probe(x, y.tolist(), k=(1, 2, 4, 8), select=select)
    share = 0.5 + np.arcsin(np.sqrt(np.array([1, 2, 4, 8]) / 8)) / np.pi  # of pairs of Gaussians with equal signs
    accuracy = table.accuracy[0].values
    assert (np.abs(accuracy - share) < 3 * np.sqrt(share * (1 - share) / 750) + 0.01).all()
    assert (np.diff(table.f1[0]) > 0).all()
    assert set(table.feature[0].values.tolist()) == set(range(8))


@pytest.mark.parametrize("select", SELECTS)
def test_noise_is_at_chance_though_its_best_features_are_chosen(select):
    nested, leaking = [], []
    for seed in range(3):
        x = noise(4, 400, 400, seed=seed)
        y = (noise(400, seed=100 + seed) > 0).long()
        nested.append(sparse_probe(x, y, k=(5,), select=select).auroc.values)
        # the same of features that were chosen with the tested examples in sight
        best = feature_scores(x, y, 2, select).topk(5, dim=1).indices
        few = x.gather(2, best[:, None].expand(-1, 400, -1))
        leaking.append(sparse_probe(few, y, k=(5,), select=select).auroc.values)
    error = ((100 + 1) / (12 * 50 * 50)) ** 0.5  # of an area of 100 examples
    assert abs(np.mean(nested) - 0.5) < 3 * error / 12**0.5
    if select != "mutual_information":  # what it finds in noise is no difference of means, which a plane would read
        assert np.mean(leaking) > 0.6


@pytest.mark.parametrize("n_classes", [2, 3])
def test_measures_are_scikit_learns(n_classes):
    z = noise(2, 200, n_classes).round(decimals=1)  # with ties
    y = (z[0] + noise(200, n_classes, seed=1)).argmax(-1)
    p = z.softmax(-1)
    for site, f1, area in zip(p, f1_score(p.argmax(-1), y, n_classes), auroc(p, y), strict=True):
        guess = site.argmax(-1)
        average = "binary" if n_classes == 2 else "macro"
        assert float(f1) == pytest.approx(their_f1(y, guess, average=average), abs=1e-12)
        theirs = roc_auc_score(y, site[:, 1]) if n_classes == 2 else roc_auc_score(y, site, multi_class="ovr")
        assert float(area) == pytest.approx(theirs, abs=1e-9)


def test_sites_are_fitted_alike_together_and_apart():
    x = noise(3, 200, 20)
    y = (x[0, :, 0] + noise(200, seed=1) > 0).tolist()
    for select in SELECTS:
        options = {"select": select, "types": [i % 7 for i in range(200)], "k": (1, 3), "penalty": 0.01}
        together = sparse_probe(x, y, **options)
        with budget.override(probe_numbers=1):
            apart = sparse_probe(x, y, **options)
        assert (together.feature == apart.feature).all() and np.allclose(together.accuracy, apart.accuracy)
        assert together.selectivity.dims == ("site", "k")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": (0,)}, "from 1 to 20"),
        ({"k": (21,)}, "from 1 to 20"),
        ({"k": ()}, "from 1 to 20"),
        ({"select": "best"}, "select"),
        ({"penalty": -1.0}, "penalty"),
        ({"resamples": 0}, "resamples"),
        ({"n_folds": 1}, "n_folds"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_words(options, says):
    x = noise(1, 100, 20)
    with pytest.raises(CasebackError, match=says):
        sparse_probe(x, (x[0, :, 0] > 0).tolist(), **options)
