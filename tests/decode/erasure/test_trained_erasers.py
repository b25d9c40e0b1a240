"""INLP and R-LACE on planted data: a classifier that is trained anew is at the majority, and the projection is one."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from caseback.decode.erasure import inlp, leace, rlace
from caseback.decode.probes.splits import folds
from caseback.errors import CasebackError, OutOfRange


def planted(n=2000, d=10, directions=1, seed=0, noise=0.0):
    """White features; the class is the sign of one direction's shift, of which ``directions`` hold a copy."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, d, generator=draw, dtype=torch.float64)
    x[:, :directions] += 4.3 * (y[:, None] - 0.5)
    return x @ torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64)).Q, y


def accuracy_of_a_new_one(x, y, seed=0):
    held = folds(y.numpy(), None, 5, seed)[0]
    known = np.setdiff1d(np.arange(len(y)), held)
    return LogisticRegression().fit(x[known], y[known]).score(x[held], y[held])


@pytest.mark.parametrize("classifier", ["logistic", "ridge", "lda", "mass_mean"])
def test_inlp_leaves_nothing_to_read(classifier):
    x, y = planted()
    eraser = inlp(x, y, classifier=classifier, above=0.03)
    p = torch.eye(10) - eraser.proj_left[0] @ eraser.proj_right[0]
    assert torch.allclose(p, p.T) and torch.allclose(p @ p, p, atol=1e-10)
    assert torch.linalg.matrix_rank(p) == 10 - eraser.rank and eraser.rank <= 3
    history = [at[0] for at in eraser.provenance["accuracy"]]
    assert history[0] > 0.96 and history[-1] <= 0.53 and len(history) == eraser.rank + 1
    assert accuracy_of_a_new_one(x, y) > 0.96
    assert accuracy_of_a_new_one(eraser.apply(x), y) < 0.55
    assert torch.allclose(eraser.apply(x), x @ p, atol=1e-10)  # linear, as in the paper
    kept = inlp(x, y, classifier=classifier, above=0.03, affine=True).apply(x)
    assert torch.allclose(kept.mean(0), x.mean(0), atol=1e-10)


def test_each_place_stops_by_itself_and_several_classes_take_several_directions():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(1500) % 3
    shift = torch.zeros(2, 3, 8, dtype=torch.float64)
    shift[0, :, :3] = 5 * torch.eye(3)
    x = torch.randn(2, 1500, 8, generator=draw, dtype=torch.float64) + shift[:, y]
    eraser = inlp(x, y, above=0.05)
    assert eraser.checks["rank"][1] == 0 and eraser.checks["rank"][0] in (2, 4)
    first, *later = eraser.provenance["accuracy"]
    assert first[0] > 0.95 and first[1] < 0.39 and all(at[1] is None for at in later)
    assert torch.equal(eraser.apply(x)[1], x[1])
    q = eraser.proj_left[0]
    own = q[:, q.norm(dim=0) > 0]
    assert torch.allclose(own.T @ own, torch.eye(own.shape[1], dtype=torch.float64), atol=1e-10)


def test_the_intersection_of_nullspaces_is_taken():
    x, y = planted(directions=3)
    skewed = x @ torch.randn(10, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with pytest.warns(UserWarning, match="after 2 iterations a classifier is right"):
        eraser = inlp(skewed, y, iterations=2)
    p = torch.eye(10) - eraser.proj_left[0] @ eraser.proj_right[0]
    assert torch.allclose(p @ p, p, atol=1e-10) and torch.allclose(p, p.T, atol=1e-10)
    assert eraser.rank == 2


def test_places_that_are_fitted_in_parts_are_the_same():
    from caseback.jobs.budget import override

    x = torch.stack([planted(400, seed=seed)[0] for seed in range(3)])
    y = planted(400)[1]
    whole = inlp(x, y, above=0.1)
    with override(probe_numbers=1):
        parts = inlp(x, y, above=0.1)
    assert torch.allclose(whole.apply(x), parts.apply(x), atol=1e-8)
    assert whole.provenance["accuracy"] == parts.provenance["accuracy"]


def test_rlace_erases_a_concept_of_one_direction_with_one_direction():
    x, y = planted()
    eraser = rlace(x, y, steps=1500, every=250, above=0.03)
    p = torch.eye(10) - eraser.proj_left[0] @ eraser.proj_right[0]
    assert torch.allclose(p, p.T) and torch.allclose(p @ p, p, atol=1e-10) and eraser.rank == 1
    assert accuracy_of_a_new_one(eraser.apply(x), y) < 0.55
    # on white features the best projection is LEACE's direction
    own = leace(x, y, method="orth").proj_left[0, :, 0]
    assert abs(float(eraser.proj_left[0, :, 0] @ own)) > 0.98


def test_rlace_with_one_direction_too_few_says_so_and_with_enough_erases():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(1500) % 3
    x = torch.randn(1500, 6, generator=draw, dtype=torch.float64) + 5 * torch.eye(6, dtype=torch.float64)[y]
    with pytest.warns(UserWarning, match="a larger k"):
        one = rlace(x, y, steps=600, every=200)
    two = rlace(x, y, k=2, steps=2500, every=250, above=0.06)
    assert one.provenance["accuracy"][0] > 0.5 and two.provenance["accuracy"][0] < 0.4
    again = rlace(x, y, k=2, steps=2500, every=250, above=0.06)
    assert torch.equal(two.proj_left, again.proj_left)


def test_the_fantope_is_met():
    from caseback.decode.erasure.rlace import _on_fantope

    draw = torch.Generator().manual_seed(0)
    p = torch.randn(3, 7, 7, generator=draw, dtype=torch.float64)
    nearest = _on_fantope(p + p.mT, 2)
    values = torch.linalg.eigvalsh(nearest)
    assert values.min() > -1e-12 and values.max() < 1 + 1e-12
    assert torch.allclose(values.sum(1), torch.full((3,), 2.0, dtype=torch.float64))
    q = torch.linalg.qr(torch.randn(3, 7, 2, generator=draw, dtype=torch.float64)).Q
    assert torch.allclose(_on_fantope(q @ q.mT, 2), q @ q.mT, atol=1e-10)  # what is on it stays


@pytest.mark.parametrize(
    "function, options",
    [
        (inlp, {"iterations": 0}),
        (inlp, {"penalty": 0.0}),
        (inlp, {"above": float("nan")}),
        (inlp, {"n_folds": 1}),
        (rlace, {"k": 10}),
        (rlace, {"k": 0}),
        (rlace, {"lr": float("inf")}),
        (rlace, {"rows": 0}),
    ],
)
def test_numbers_that_cannot_be_are_refused(function, options):
    with pytest.raises(OutOfRange):
        function(*planted(100), **options)


def test_too_few_of_a_class_are_refused():
    x, _ = planted(30)
    for function in (inlp, rlace):
        with pytest.raises(CasebackError, match="a class has 1 examples"):
            function(x, [0] * 29 + [1])
        with pytest.raises(CasebackError, match="2 groups"):
            function(x, [0, 1] * 15, groups=[0, 1] * 15)
