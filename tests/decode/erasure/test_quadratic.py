"""Quadratic LEACE: classes alike in mean and covariance, with the least change, and the numbers of another code."""

from dataclasses import replace

import pytest
import torch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

import caseback as cb
import shelf
from caseback.decode import Place, States, class_moments, read_states
from caseback.decode.erasure import leace, load_eraser, load_oracle_eraser, oracle_leace, quadratic_leace, save_eraser
from caseback.decode.erasure.quadratic import barycenter
from caseback.decode.steering.transport import transport_map
from caseback.errors import CasebackError, LoadError
from exact import exact


def planted(k, n=900, d=6, places=2):
    """Classes of unequal sizes that differ in mean and covariance."""
    draw = torch.Generator().manual_seed(k)
    y = torch.randint(k * k, (n,), generator=draw).sqrt().long()
    shift = torch.randn(places, k, d, generator=draw, dtype=torch.float64)
    mix = torch.randn(places, k, d, d, generator=draw, dtype=torch.float64)
    x = torch.randn(places, n, d, generator=draw, dtype=torch.float64)
    return torch.einsum("pnd,pnde->pne", x, mix[:, y]) + shift[:, y], y


@pytest.mark.parametrize("k", [2, 4])
def test_means_and_covariances_are_alike_and_nothing_moved_farther_than_it_must(k):
    x, y = planted(k)
    eraser = quadratic_leace(x, y, shrinkage=False)
    after = class_moments(eraser.apply(x, y), y, each=True)
    torch.testing.assert_close(after.means, x.mean(1)[:, None].expand_as(after.means), rtol=0, atol=1e-10)
    covariances = after.class_covariances * (after.counts / (after.counts - 1))[:, None, None]
    torch.testing.assert_close(covariances, covariances[:, :1].expand_as(covariances), rtol=1e-9, atol=1e-9)
    erased, mean = eraser.apply(x, y), x.mean(1, keepdim=True)
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):  # any other covariance that all classes share, even a near one, changes more
        nudge = torch.eye(6) + 0.05 * torch.randn(6, 6, generator=draw).double()
        assert ((erased - mean) @ nudge + mean - x).square().sum() > (erased - x).square().sum()


def test_a_quadratic_classifier_finds_nothing_where_oracle_leace_leaves_it_the_covariance():
    x, y = planted(2, n=4000)
    chance = max(float((y == c).double().mean()) for c in range(2))

    def accuracy(r):
        return QuadraticDiscriminantAnalysis(priors=[1 - y.double().mean(), y.double().mean()]).fit(r, y).score(r, y)

    assert accuracy(oracle_leace(x[0], y).apply(x[0], y)) > chance + 0.05
    assert abs(accuracy(quadratic_leace(x[0], y, shrinkage=False).apply(x[0], y)) - chance) < 1e-3


def step(mu, sigmas, shares, onto):
    """One step of the fixed point: T mu T, T the mean of the maps from mu onto each class's covariance."""
    t = (shares.view(-1, 1, 1) * onto(mu.expand_as(sigmas), sigmas)).sum(0)
    return t @ mu @ t


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("k", [2, 3])
def test_it_is_what_concept_erasure_gives(k, shrinkage):
    """To 1e-8: of two classes as the package has it, in closed form; of more after more steps of its own iteration.

    It stops as soon as its loss falls by less than 2e-16. Within sqrt(2e-16) of the barycenter, in units of the
    covariances, the loss is flat in every bit, so that the package leaves there a residual of its own fixed point
    that ours has not (the next test).
    """
    reference = pytest.importorskip("concept_erasure", reason="the other implementation: pip install concept-erasure")
    from concept_erasure.optimal_transport import ot_barycenter, ot_map

    x, y = planted(k)
    ours = quadratic_leace(x, y, shrinkage=shrinkage)
    for place in range(2):
        fitter = reference.QuadraticFitter(6, k, dtype=torch.float64, shrinkage=shrinkage)
        fitter.n = fitter.n.double()  # it counts in float32, which costs its shares their digits
        theirs = fitter.update(x[place], y).eraser
        if k > 2:
            sigmas, shares = fitter.sigma_xx, fitter.n / fitter.n.sum()
            center = ot_barycenter(sigmas, fitter.n)
            torch.testing.assert_close(theirs.ot_maps, ot_map(sigmas, center), rtol=0, atol=0)
            for _ in range(60):
                center = step(center, sigmas, shares, ot_map)
            theirs = replace(theirs, ot_maps=ot_map(sigmas, center))
        torch.testing.assert_close(ours.maps[place], theirs.ot_maps, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.means[place], theirs.class_means)
        shift = ours.mean[place] - theirs.global_mean  # theirs is the mean of the classes' means
        torch.testing.assert_close(ours.apply(x, y)[place], theirs(x[place], y) + shift, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("k", [3, 5])
def test_the_barycenter_is_a_fixed_point_where_concept_erasure_stops_before(k):
    pytest.importorskip("concept_erasure", reason="the other implementation: pip install concept-erasure")
    from concept_erasure.optimal_transport import ot_barycenter, ot_map

    x, y = planted(k)
    moments = class_moments(x, y, each=True)
    sigmas, shares = moments.class_covariances, moments.shares
    for place, ours in enumerate(barycenter(sigmas, shares)):
        theirs = ot_barycenter(sigmas[place], moments.counts)
        for onto in (transport_map, ot_map):  # by either code's map
            left = [(step(s, sigmas[place], shares, onto) - s).norm() / s.norm() for s in (ours, theirs)]
            assert left[0] < 1e-13 and left[1] > 1e3 * left[0], left


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_edits_are_what_apply_does(name):
    model, draw = shelf.model(name), torch.Generator().manual_seed(0)
    texts = torch.randint(1, 50, (90, 4), generator=draw).tolist()
    labels = ["even" if text[0] % 2 else "odd" for text in texts]
    with exact():
        states = read_states(model, texts, sites="resid_post.1")
        eraser = quadratic_leace(states, labels)
        run = model.run(texts, edits=eraser.edits(labels, pos=-1), read=["resid_post.1"])
        torch.testing.assert_close(run["resid_post.1"][:, -1], eraser.apply(states, labels).x[0], rtol=0, atol=1e-9)


def test_what_it_cannot_do_is_refused():
    x, y = planted(2)
    eraser = quadratic_leace(x, y)
    with pytest.raises(CasebackError, match="each=True"):
        quadratic_leace(class_moments(x, y))
    with pytest.raises(CasebackError, match="class 0 at 1 is singular"):
        x[1, :, 0] = torch.where(y == 0, x[1, :, 1], x[1, :, 0])
        quadratic_leace(x, y, shrinkage=False)
    with pytest.raises(CasebackError, match="the label 2 is not among"):
        eraser.apply(x, [2] * len(y))
    with pytest.raises(CasebackError, match="3 labels for 900 examples"):
        eraser.apply(x, y[:3])
    with pytest.raises(CasebackError, match="knows no sites"):
        eraser.edits(y)
    with pytest.raises(CasebackError, match="needs two classes"):
        quadratic_leace(x, [0] * len(y))
    states = States(x, [Place("resid_post", 0), Place("resid_post", 1)], torch.arange(len(y)))
    assert len(quadratic_leace(states, y).edits([0, 0, 1])) == 4


@pytest.mark.parametrize("fit", [oracle_leace, quadratic_leace])
def test_a_file_holds_it_to_the_bit_and_refuses_what_is_no_such_eraser(fit, tmp_path):
    model, draw = shelf.model("gpt2"), torch.Generator().manual_seed(0)
    texts = torch.randint(1, 50, (90, 4), generator=draw).tolist()
    labels = ["even" if text[0] % 2 else "odd" for text in texts]
    states = read_states(model, texts, sites="resid_post")
    eraser = fit(states, labels)
    save_eraser(eraser, path := tmp_path / "eraser.safetensors", model=model)
    again = load_oracle_eraser(path, model)
    assert type(again) is type(eraser) and again.places == eraser.places and again.classes == eraser.classes
    for name in ("coef", "target_mean", "maps", "means", "mean", "change"):
        if hasattr(eraser, name):
            torch.testing.assert_close(getattr(again, name), getattr(eraser, name), rtol=0, atol=0)
    with pytest.raises(LoadError, match="holds no eraser but 'caseback oracle eraser 1': load_oracle_eraser reads it"):
        load_eraser(path)
    with pytest.raises(LoadError, match="width"):
        load_oracle_eraser(path, cb.load("meadow"))
    save_eraser(leace(states, labels), path)
    with pytest.raises(LoadError, match="holds no oracle eraser but 'caseback eraser 1': load_eraser reads it"):
        load_oracle_eraser(path)
    save_eraser(fit(states.x, labels), path)
    with pytest.raises(LoadError, match="no places of a model"):
        load_oracle_eraser(path, model)
    odd = replace(eraser, classes=[object(), object()])
    with pytest.raises(CasebackError, match="no JSON data"):
        save_eraser(odd, path)


def test_a_file_holds_an_oracle_of_numbers(tmp_path):
    x, numbers = planted(2)[0], torch.randn(900, 2, generator=torch.Generator().manual_seed(1)).double()
    eraser = oracle_leace(x, numbers, numeric=True)
    save_eraser(eraser, path := tmp_path / "eraser.safetensors")
    again = load_oracle_eraser(path)
    assert again.classes is None
    torch.testing.assert_close(again.coef, eraser.coef, rtol=0, atol=0)
    torch.testing.assert_close(again.apply(x, numbers), eraser.apply(x, numbers), rtol=0, atol=1e-12)
