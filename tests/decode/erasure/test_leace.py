"""LEACE and its kin on planted data in float64: what they promise, and the numbers of another implementation."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from caseback.decode import class_moments, erasure
from caseback.decode.erasure import leace, mean_projection, oracle_leace, sal, target_moments
from caseback.decode.erasure.shrinkage import optimal_linear_shrinkage
from caseback.errors import CasebackError, OutOfRange

REFERENCE = "concept-erasure is the other implementation: pip install concept-erasure"


def planted(n=800, d=12, k=2, places=2, seed=0):
    """Correlated features of unequal sizes in which classes differ."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (n,), generator=draw)
    shift = torch.randn(places, k, d, generator=draw, dtype=torch.float64) * 2
    mix = torch.randn(places, d, d, generator=draw, dtype=torch.float64)
    x = torch.randn(places, n, d, generator=draw, dtype=torch.float64) @ mix + shift[:, y] + 3
    return x, y


def covariance_with(x, z):
    z = torch.as_tensor(z).double() if torch.is_tensor(z) and z.ndim == 2 else torch.nn.functional.one_hot(z).double()
    return ((x - x.mean(1, keepdim=True)).mT @ (z - z.mean(0))) / len(z)


@pytest.mark.parametrize("k", [2, 4])
def test_nothing_linear_is_left_and_no_affine_map_with_that_changes_less(k):
    x, y = planted(k=k)
    exact = {"shrinkage": False, "svd_tol": 1e-9}
    erasers = [leace(x, y, **exact), leace(x, y, method="orth", **exact), mean_projection(x, y), sal(x, y, k=k)]
    changes = []
    for eraser in erasers:
        r = eraser.apply(x)
        assert covariance_with(r, y).abs().max() < 1e-12
        change = (r - x).square().sum(-1).mean(1)
        removed = 1 - (r.var(1).sum(-1) / x.var(1).sum(-1))
        assert np.allclose(eraser.checks["change"], change, rtol=1e-9)
        assert np.allclose(eraser.checks["removed"], removed, rtol=1e-9)
        assert eraser.checks["rank"] == [k - 1] * 2 and max(eraser.checks["left"]) < 1e-12
        assert torch.allclose(r.mean(1), x.mean(1), atol=1e-10)
        changes.append(change)
    oracle = oracle_leace(x, y)
    r = oracle.apply(x, y)
    assert covariance_with(r, y).abs().max() < 1e-12
    assert np.allclose(oracle.change, (r - x).square().sum(-1).mean(1), rtol=1e-9)
    assert (torch.tensor(oracle.change) < changes[0]).all() and (changes[0] < 0.95 * changes[1]).all()
    assert torch.allclose(changes[1], changes[2]) and torch.allclose(changes[1], changes[3])
    # the least change: that of LEACE grows in whatever direction one goes among maps with the same property
    draw, own = torch.Generator().manual_seed(1), erasers[0]
    for _ in range(5):
        p = torch.eye(12) - own.proj_left @ own.proj_right
        off = torch.randn(2, 12, 12, generator=draw, dtype=torch.float64) @ (
            torch.eye(12) - erasers[1].proj_left @ erasers[1].proj_right
        )
        moved = x.mean(1, keepdim=True) + (x - x.mean(1, keepdim=True)) @ (p + 1e-3 * off).mT
        assert covariance_with(moved, y).abs().max() < 1e-10
        assert ((moved - x).square().sum(-1).mean(1) > changes[0]).all()


def test_a_logistic_probe_is_no_better_than_the_majority():
    x, y = planted(n=1000, places=1)
    before = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(x[0], y)
    r = leace(x, y, shrinkage=False).apply(x)[0]
    after = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(r, y)
    share = np.bincount(y) / len(y)
    assert before.score(x[0], y) > 0.95 and after.score(r, y) == share.max()
    log_p = after.predict_log_proba(r)[np.arange(len(y)), y].mean()
    assert abs(log_p - (share * np.log(share)).sum()) < 1e-8


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("method", ["leace", "orth"])
@pytest.mark.parametrize(("n", "d", "k"), [(500, 20, 2), (500, 20, 5), (40, 100, 3)])
def test_it_is_what_concept_erasure_gives(n, d, k, method, shrinkage, affine):
    reference = pytest.importorskip("concept_erasure", reason=REFERENCE)
    x, y = planted(n, d, k)
    own = leace(x, y, method=method, shrinkage=shrinkage, affine=affine)
    z = torch.nn.functional.one_hot(y).double()
    for constrained in (True, False):  # a constraint on the trace changes nothing: the trace cannot grow
        options = {"method": method, "shrinkage": shrinkage, "affine": affine, "constrain_cov_trace": constrained}
        for place in range(2):
            fitter = reference.LeaceFitter(d, k, dtype=torch.float64, **options).update(x[place], z)
            assert torch.allclose(own.apply(x)[place], fitter.eraser(x[place]), atol=1e-8)


@pytest.mark.parametrize("shrinkage", [True, False])
def test_its_oracle_and_its_numbers_are_what_concept_erasure_gives(shrinkage):
    reference = pytest.importorskip("concept_erasure", reason=REFERENCE)
    x, y = planted(k=3)
    z = torch.stack([x[0, :, 0] + y, x[1, :, 3] * 0.5], 1)
    for labels, target, numeric in ((y, torch.nn.functional.one_hot(y).double(), False), (z, z, True)):
        size = target.shape[1]
        oracle = oracle_leace(x, labels, numeric=numeric, shrinkage=shrinkage)
        own = leace(x, labels, numeric=numeric, shrinkage=shrinkage)
        for place in range(2):
            fitter = reference.OracleFitter(12, size, dtype=torch.float64, shrinkage=shrinkage)
            wanted = fitter.update(x[place], target).eraser(x[place], target)
            assert torch.allclose(oracle.apply(x, labels)[place], wanted, atol=1e-8)
            other = reference.LeaceFitter(12, size, dtype=torch.float64, shrinkage=shrinkage).update(x[place], target)
            assert torch.allclose(own.apply(x)[place], other.eraser(x[place]), atol=1e-8)


def test_the_trace_of_the_covariance_cannot_grow():
    for n in (14, 40, 400):
        for seed in range(5):
            x, y = planted(n, 12, 2, places=1, seed=seed)
            r = leace(x, y).apply(x)
            assert r.var(1).sum() < x.var(1).sum()


def test_numbers_are_erased_and_moments_of_parts_add_up():
    x, _ = planted()
    draw = torch.Generator().manual_seed(3)
    z = x[0, :, :2] @ torch.randn(2, 3, generator=draw, dtype=torch.float64) + 5
    eraser = leace(x, z, numeric=True, shrinkage=False, svd_tol=1e-9)
    assert eraser.rank == 2 and eraser.classes is None
    assert covariance_with(eraser.apply(x), z).abs().max() < 1e-11
    parts = target_moments(x[:, :300], z[:300]) + target_moments(x[:, 300:], z[300:])
    assert torch.allclose(leace(parts, shrinkage=False, svd_tol=1e-9).apply(x), eraser.apply(x), atol=1e-8)
    # the direction in which a regression's slope lies alone: without it the slope is 0
    one = sal(x, z[:, 0], numeric=True)
    r = one.apply(x)[0]
    assert (
        np.abs(np.linalg.lstsq((r - r.mean(0)).numpy(), (z[:, 0] - z[:, 0].mean()).numpy(), rcond=None)[0]).max() < 1e-8
    )


def test_moments_by_class_of_parts_give_the_same():
    x, y = planted(k=3)
    parts = class_moments(x[:, :100], y[:100], classes=[0, 1, 2]) + class_moments(
        x[:, 100:], y[100:], classes=[0, 1, 2]
    )
    assert torch.allclose(leace(parts).apply(x), leace(x, y).apply(x), atol=1e-9)
    each = class_moments(x, y, each=True)
    assert torch.allclose(leace(each).apply(x), leace(x, y).apply(x), atol=1e-9)


def test_shrinkage_is_the_best_of_all_linear_ones_on_average():
    draw = torch.Generator().manual_seed(0)
    sizes = torch.linspace(0.1, 3, 40, dtype=torch.float64)
    x = torch.randn(200, 50, 40, generator=draw, dtype=torch.float64) * sizes.sqrt()
    s = x.mT @ x / 50
    eye = torch.eye(40) * (s.diagonal(dim1=1, dim2=2).mean(-1))[:, None, None]

    def error(estimate):
        return float((estimate - torch.diag(sizes)).square().sum((1, 2)).mean())

    best = min(error(a * s + (1 - a) * eye) for a in np.linspace(0, 1, 101))
    assert error(optimal_linear_shrinkage(s, 50)) < 1.02 * best < 0.9 * error(s)


def test_what_singular_values_below_the_tolerance_leave_is_said():
    x, y = planted()
    with pytest.warns(UserWarning, match="100% of the covariance with the labels is left"):
        eraser = leace(x * 1e-6, y, method="orth")
    assert eraser.rank == 0 and torch.equal(eraser.apply(x), x)
    rare = torch.zeros(1000, dtype=torch.long)
    rare[:5] = 1
    with pytest.warns(UserWarning, match="svd_tol"):
        oracle_leace(torch.randn(1000, 4), rare)


def test_constant_features_are_left_alone():
    x, y = planted()
    x[..., 3] = 7.0
    for method in ("leace", "orth"):
        eraser = leace(x, y, method=method, shrinkage=False)
        assert torch.allclose(eraser.apply(x)[..., 3], x[..., 3], atol=1e-9)
        assert covariance_with(eraser.apply(x), y).abs().max() < 1e-12


@pytest.mark.parametrize("function", [leace, oracle_leace, sal, mean_projection, erasure.inlp, erasure.rlace])
def test_bad_input_is_refused(function):
    x, y = planted(40)
    broken = x.clone()
    broken[1, 3, 2] = torch.nan
    for data, labels, words in (
        (x, [0] * 40, "all (labels|40 labels) are 0"),
        (x, y[:39], "39 labels for 40 examples"),
        (broken, y, "site 1 holds numbers that are not finite"),
        (x[:, :2], [0, 1], "2 examples of 2 classes"),
        (torch.ones(2, 40, 3), y, "the same at every example"),
        (x[0, 0], y, "of shape .12,.: expected"),
        ("text", y, "(representations are|expected a)"),
    ):
        with pytest.raises(CasebackError, match=words):
            function(data, labels)


def test_other_bad_input_is_refused():
    x, y = planted(40)
    moments = class_moments(x, y)
    with pytest.raises(CasebackError, match="give no others"):
        leace(moments, y)
    with pytest.raises(CasebackError, match="no labels"):
        leace(x)
    with pytest.raises(CasebackError, match="no example is of the class 2"):
        leace(class_moments(x, y, classes=[0, 1, 2]))
    with pytest.raises(OutOfRange, match="svd_tol"):
        leace(x, y, svd_tol=0)
    with pytest.raises(OutOfRange, match="k 13"):
        sal(x, y, k=13)
    with pytest.raises(CasebackError, match="do not vary"):
        leace(x, torch.ones(40), numeric=True)
    with pytest.raises(CasebackError, match="not finite"):
        leace(x, torch.full((40,), torch.inf), numeric=True)
    with pytest.raises(CasebackError, match="no numbers"):
        leace(x, ["a"] * 40, numeric=True)
    with pytest.raises(CasebackError, match="of 2 places and width 12"):
        leace(x, y).apply(x[..., :5])
    with pytest.raises(CasebackError, match="knows no sites"):
        leace(x, y).edits()
    with pytest.raises(CasebackError, match="the label 7 is not among"):
        oracle_leace(x, y).apply(x, [7] * 40)
    with pytest.raises(CasebackError, match="39 labels for 40"):
        oracle_leace(x, y).apply(x, y[:39])
