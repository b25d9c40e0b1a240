"""Linear probes against scikit-learn at the optimum, on planted data, and on inputs that cannot be probed."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from caseback.decode.probes import linear_probe
from caseback.decode.probes.closed_forms import fit_lda, fit_mass_mean, fit_ridge
from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.splits import folds, repeated_rows
from caseback.decode.probes.standard import Standard
from caseback.errors import CasebackError
from caseback.jobs import budget


def planted(n_classes=2, n=600, d=12, sites=3, seed=0, dtype=torch.float64):
    """Correlated features of unlike scales and means; a label that is readable, with noise, at every site."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    x = normal(sites, n, d) @ (normal(d, d) * torch.logspace(1, -2, d, dtype=torch.float64)) + 5 * normal(sites, 1, d)
    y = ((x[0] - x[0].mean(0)) / x[0].std(0) @ normal(d, n_classes) + normal(n, n_classes)).argmax(-1)
    return x.to(dtype), y


def sites_of(x, y, model):
    for site in x.numpy():
        scaler = StandardScaler().fit(site)
        fitted = model.fit(scaler.transform(site), y.numpy())
        w = np.atleast_2d(fitted.coef_).T / scaler.scale_[:, None]
        yield w, fitted.intercept_ - scaler.mean_ @ w


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_logistic_weights_are_scikit_learns(n_classes, l2):
    x, y = planted(n_classes)
    standard = Standard.of(x)
    w, b = standard.folded(*fit_logistic(standard, y, n_classes, l2=l2, tolerance=1e-11))
    theirs = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-12, max_iter=200, solver="newton-cholesky")
    for own_w, own_b, (their_w, their_b) in zip(w, b, sites_of(x, y, theirs), strict=True):
        scale = np.abs(their_w).max()
        np.testing.assert_allclose(own_w, their_w, atol=1e-6 * scale)
        np.testing.assert_allclose(own_b - own_b.mean() if n_classes > 2 else own_b, their_b, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_logistic_ends_where_the_gradient_is_zero(n_classes):
    x, y = planted(n_classes)
    standard, l2 = Standard.of(x), torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64)
    w, b = fit_logistic(standard, y, n_classes, l2=l2)
    w, b = w.requires_grad_(), b.requires_grad_()
    z = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) @ w + b[:, None]
    z = torch.cat([torch.zeros_like(z), z], -1) if n_classes == 2 else z
    loss = sum(torch.nn.functional.cross_entropy(site, y) for site in z) + (l2[:, None, None] * w**2).sum() / 2
    for gradient in torch.autograd.grad(loss, (w, b)):
        assert gradient.abs().max() < 1e-8


def test_logistic_holds_where_classes_are_separable_or_features_repeat():
    x, _ = planted()
    x = torch.cat([x, x[..., :3], torch.ones_like(x[..., :1])], -1)  # repeated, and one that never varies
    y = (x[0, :, 0] > x[0, :, 0].median()).long()
    standard = Standard.of(x)
    w, b = fit_logistic(standard, y, 2, l2=1e-6)
    assert w.isfinite().all() and b.isfinite().all()
    assert ((standard.times(w)[0, :, 0] + b[0] > 0) == y.bool()).all()
    assert torch.allclose(w[:, :3], w[:, 12:15], atol=1e-6 * float(w.abs().max())) and (w[:, -1] == 0).all()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_closed_forms_are_scikit_learns(n_classes):
    x, y = planted(n_classes)
    standard, zero = Standard.of(x), torch.zeros(3, dtype=torch.float64)
    penalty = torch.full((3,), 0.3, dtype=torch.float64)
    w, b = standard.folded(*fit_ridge(standard, y, n_classes, penalty))
    for own_w, own_b, (their_w, their_b) in zip(w, b, sites_of(x, y, RidgeClassifier(alpha=0.3 * len(y))), strict=True):
        np.testing.assert_allclose(own_w, their_w, atol=1e-9 * np.abs(their_w).max())
        np.testing.assert_allclose(own_b, their_b, atol=1e-9)
    for shrinkage in (0.0, 0.3):
        w, b = standard.folded(*fit_lda(standard, y, n_classes, zero + shrinkage))
        for site, own_w, own_b in zip(x.numpy(), w, b, strict=True):
            lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None).fit(site, y.numpy())
            z = site @ own_w.numpy() + own_b.numpy()
            theirs = lda.decision_function(site).reshape(len(site), -1)
            if n_classes > 2:  # scores of classes are known up to what they share
                z, theirs = z - z.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True)
            np.testing.assert_allclose(z, theirs, atol=1e-6 * np.abs(theirs).max())
    w, b = standard.folded(*fit_mass_mean(standard, y, n_classes, zero))
    for site, own_w, own_b in zip(x.numpy(), w, b, strict=True):
        z = site @ own_w.numpy() + own_b.numpy()
        own = (z[:, 0] > 0).astype(int) if n_classes == 2 else z.argmax(1)
        assert (own == NearestCentroid().fit(site, y.numpy()).predict(site)).all()


def test_mass_mean_is_the_difference_of_means_and_lda_its_whitened_form():
    x, y = planted()
    standard, zero = Standard.of(x), torch.zeros(3, dtype=torch.float64)
    difference = x[:, y == 1].mean(1) - x[:, y == 0].mean(1)
    assert torch.allclose(standard.folded(*fit_mass_mean(standard, y, 2, zero))[0][..., 0], difference)
    within = sum(
        (y == c).double().mean() * torch.stack([site[y == c].T.cov(correction=0) for site in x]) for c in (0, 1)
    )
    lda = standard.folded(*fit_lda(standard, y, 2, zero))[0]
    assert torch.allclose((within @ lda)[..., 0], difference, atol=1e-8 * float(difference.abs().max()))


@pytest.mark.parametrize("method", ["logistic", "ridge", "mass_mean", "lda"])
def test_a_planted_label_is_read_where_it_is_and_not_elsewhere(method):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4000, 5, generator=draw)
    flipped = torch.rand(4000, generator=draw) < 0.1
    y = (x[1, :, 4] > 0) ^ flipped
    probe = linear_probe(x, y.tolist(), method=method, sites=["embed", "resid_post.0", "resid_post.1"])
    accuracy = dict(zip(probe.table.site.values, probe.table.accuracy.values, strict=True))
    spread = 3 * (0.9 * 0.1 / 1000) ** 0.5
    # a direction that is learned from 2,250 examples is not quite the planted one
    assert abs(accuracy["resid_post.0"] - 0.9) < spread + 0.01
    for name in ("embed", "resid_post.1"):
        assert abs(accuracy[name] - 0.5) < 3 * (0.25 / 1000) ** 0.5
        here = probe.table.sel(site=name)
        assert here.low < 0.5 < here.high
        assert here.bits > 0.99 if method in ("logistic", "lda") else here.bits.isnull()
    assert (abs(probe.table.shuffled - 0.5) < 0.06).all()
    assert probe.table.low[1] < accuracy["resid_post.0"] < probe.table.high[1]
    predicted = probe.predict(x)[1]
    assert np.mean([p == q for p, q in zip(predicted, y.tolist(), strict=True)]) > 0.86


def test_more_features_than_examples_fit_shuffled_labels_and_say_so():
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randn(1, 120, 400, generator=draw), (torch.rand(120, generator=draw) > 0.5).tolist()
    table = linear_probe(x, y, penalty=1e-5).table
    assert table.train_accuracy[0] == 1 and table.low[0] < 0.6


def test_groups_keep_a_probe_from_knowing_its_test():
    # each group has a label and a vector of its own: what is learned of a group says nothing of another
    draw = torch.Generator().manual_seed(3)
    group = torch.arange(40).repeat_interleave(20)
    x = torch.randn(40, 64, generator=draw)[group] + 0.1 * torch.randn(800, 64, generator=draw)
    y = (torch.rand(40, generator=draw) > 0.5)[group].tolist()
    leaking, honest = linear_probe(x, y).table, linear_probe(x, y, groups=group.tolist()).table
    assert leaking.accuracy[0] > 0.95
    assert honest.accuracy[0] < 0.8 and honest.high[0] - honest.low[0] > 4 * (leaking.high[0] - leaking.low[0])


def test_selectivity_is_nothing_for_types_and_all_for_labels():
    draw = torch.Generator().manual_seed(4)
    types = torch.randint(0, 30, (3000,), generator=draw)
    label_of = torch.rand(30, generator=draw) > 0.5
    y = label_of[types]
    of_type = torch.eye(30)[types]
    of_label = torch.eye(2)[y.long()]
    both = torch.stack([of_type, torch.cat([of_label, torch.zeros(3000, 28)], 1)])
    with pytest.warns(UserWarning, match="held-out examples are the same"):
        table = linear_probe(both, y.tolist(), types=types.tolist(), sites=["type", "label"]).table
    assert table.accuracy.min() == 1
    assert table.control[0] == 1 and table.selectivity[0] == 0
    assert table.selectivity[1] > 0.3


def test_what_leaks_is_counted():
    x = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(5))
    x[:, 7], x[:, 8], x[0, 9] = x[:, 3], x[:, 3], x[0, 3]
    test = torch.zeros(50, dtype=torch.bool)
    test[[7, 8, 9, 10]] = True
    assert repeated_rows(x, test) == 2  # 9 is the same at one site only


@given(seed=st.integers(0, 10), sizes=st.lists(st.integers(1, 9), min_size=8, max_size=30))
@settings(max_examples=40, deadline=None)
def test_no_group_is_on_both_sides(seed, sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    y = np.random.default_rng(seed).integers(0, 2, len(groups))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that a class is small
        parts = folds(y, groups, 4, seed) if len(set(y)) == 2 else []
    for test in parts:
        assert not set(groups[test]) & set(np.delete(groups, test))
    assert not parts or sorted(np.concatenate(parts)) == list(range(len(groups)))


@pytest.mark.parametrize("method", ["logistic", "ridge", "mass_mean", "lda"])
def test_a_class_that_an_inner_fold_lacks_spoils_nothing(method):
    # two groups have class 2: one is held out, the other is in one inner fold
    draw = torch.Generator().manual_seed(6)
    group = torch.arange(24).repeat_interleave(10)
    y = torch.tensor([0, 1] * 11 + [2, 2])[group]
    x = torch.randn(1, 240, 6, generator=draw) + 3 * torch.eye(6)[y]
    table = linear_probe(x, y.tolist(), groups=group.tolist(), method=method, n_folds=2).table
    assert table.accuracy[0] > 0.8 and np.isfinite(table.penalty[0])


def test_sites_are_fitted_alike_together_and_apart():
    x, y = planted(3, sites=4)
    together = linear_probe(x, y.tolist())
    with budget.override(probe_numbers=1):
        apart = linear_probe(x, y.tolist())
    assert torch.allclose(together.weight, apart.weight, atol=1e-7 * float(apart.weight.abs().max()))
    assert (together.table.accuracy == apart.table.accuracy).all()
    again = linear_probe(x, y.tolist())
    assert torch.equal(together.weight, again.weight)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: (x, [1] * len(y)), "two classes or more"),
        (lambda x, y: (x, torch.tensor(1.0)), "labels are a Tensor: expected several"),
        (lambda x, y: (x, torch.ones(600, 2)), "labels hold \\[1.0, 1.0\\]: expected one name or number"),
        (lambda x, y: (x, y[:-1]), "599 labels for 600 examples"),
        (lambda x, y: (x[:, :3], [0, 1, 2]), "a class has 1 examples"),
        (lambda x, y: (x.index_fill(1, torch.tensor(5), torch.nan), y), "site 0 holds numbers that are not finite"),
        (lambda x, y: (1e-200 * x, y), "numbers up to .*: expected from"),
        (lambda x, y: (1e30 * x.float(), y), "site 0 holds numbers up to .*: expected from"),
        (lambda x, y: (torch.ones_like(x), y), "site 0 is the same at every example"),
        (lambda x, y: (x[0, 0], y), "expected \\(site, example, d_model\\)"),
        (lambda x, y: ("text", y), "expected \\(site, example, d_model\\)"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_words(change, says):
    x, y = planted()
    x, y = change(x, y.tolist())
    with pytest.raises(CasebackError, match=says):
        linear_probe(x, y)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"groups": [0] * 600}, "1 groups: expected 4"),
        ({"groups": [0] * 5}, "5 groups for 600 examples"),
        ({"sites": ["a"]}, "1 names for 3 sites"),
        ({"penalty": float("nan")}, "penalty"),
        ({"penalty": -1.0}, "penalty"),
        ({"n_folds": 1}, "n_folds"),
        ({"method": "svm"}, "method"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_words(options, says):
    x, y = planted()
    with pytest.raises(CasebackError, match=says):
        linear_probe(x, y.tolist(), **options)


@pytest.mark.parametrize("method", ["logistic", "ridge", "lda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_hang_together_need_no_penalty(method, dtype):
    x, y = planted(n=200, sites=1)
    x = torch.cat([x, x, x[..., :1] * 0], -1).to(dtype)
    probe = linear_probe(x, y.tolist(), method=method, penalty=0.0)
    assert probe.weight.isfinite().all() and probe.table.accuracy[0] > probe.table.majority


def test_representations_of_another_width_or_of_other_sites_are_refused():
    x = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    probe = linear_probe(x, [0, 1] * 20)
    for other in (x[..., :5], x[:, :, :1], torch.cat([x, x[:1]])):
        with pytest.raises(CasebackError, match="the probe is of 2 sites and width 6"):
            probe.scores(other)
