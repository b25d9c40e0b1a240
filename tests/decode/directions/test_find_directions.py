"""Directions against their formulas and scikit-learn's, on planted shifts, and as edits of models."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

import caseback as cb
import shelf
from caseback.decode import Place, read_states
from caseback.decode.directions import find_directions, load_directions, save_directions
from caseback.decode.directions.estimators import principal, shrunk, two_centers
from caseback.decode.directions.find import auroc
from caseback.decode.moments import class_moments
from caseback.errors import CasebackError, EditError, LoadError
from exact import exact

WAYS = ("mean_difference", "lda", "logistic", "ridge", "pca", "kmeans")


def planted(n=2000, d=8, places=2, shift=4.0, seed=0):
    """Two classes a known vector apart, in noise with a known covariance, the same at each place."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    root = normal(places, d, d) / d**0.5
    delta = normal(places, d)
    delta *= shift / delta.norm(dim=1, keepdim=True)
    y = torch.arange(n) % 2
    x = normal(places, n, d) @ root + y[:, None] * delta[:, None] + 3
    return x, y, delta, root.mT @ root


def cosine(a, b):
    return torch.cosine_similarity(a, b, dim=-1)


def test_each_way_is_its_definition():
    x, y, delta, covariance = planted(20_000)
    assert (cosine(find_directions(x, y).write, delta) > 0.999).all()
    lda = find_directions(x, y, method="lda", shrinkage=0)
    assert (cosine(lda.detect, torch.linalg.solve(covariance, delta)) > 0.99).all()
    for way in ("lda", "logistic"):
        # what a read-out is changed by is the shift, whatever the noise is like (Haufe)
        found = find_directions(x, y, method=way, shrinkage=0, penalty=1e-6)
        assert (cosine(found.write, delta) > 0.99).all(), way
    exact_pattern = find_directions(x, y, method="lda", shrinkage=0)
    assert torch.allclose(exact_pattern.write, find_directions(x, y).write, atol=1e-8)


@pytest.mark.parametrize("way", WAYS)
def test_writing_moves_the_score_from_one_class_to_the_other(way):
    x, y, _, _ = planted()
    found = find_directions(x, y, method=way)
    scores = found.scores(x)
    means = torch.stack([scores[:, y == c].mean(1) for c in (0, 1)])
    assert (means[0] < 0).all() and (means[1] > 0).all()
    moved = found.scores(x + found.write[:, None])
    gap = (moved - scores)[:, 0]
    assert torch.allclose(gap, means[1] - means[0], rtol=0.1)
    assert (found.table.auroc > 0.9).all()
    if way not in ("pca", "kmeans"):  # these do not see the labels but for the sign
        assert (abs(found.table.shuffled - 0.5) < 0.35).all()


def test_lda_pca_kmeans_and_auroc_are_scikit_learns():
    x, y, _, _ = planted(400)
    moments = class_moments(x, y)
    difference = moments.means[:, 1] - moments.means[:, 0]
    ours = torch.linalg.solve(shrunk(moments.within, 0.3), difference)
    for place in range(len(x)):
        data = x[place].numpy()
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(data, y.numpy())
        np.testing.assert_allclose(ours[place], lda.coef_[0], rtol=1e-8)
        first = PCA(1).fit(data).components_[0]  # pyright: ignore[reportOptionalSubscript]
        assert abs(float(cosine(principal(x)[place], torch.from_numpy(first)))) > 1 - 1e-10
        centers = KMeans(2, n_init=10, random_state=0).fit(data).cluster_centers_  # pyright: ignore[reportArgumentType]
        theirs = torch.from_numpy(centers[1] - centers[0])
        assert abs(float(cosine(two_centers(x, seed=0)[place], theirs))) > 0.999
        scores = x[place] @ difference[place]
        assert auroc(scores[None], y == 1)[0] == pytest.approx(roc_auc_score(y, scores), abs=1e-12)
    wide = x[:, :5]
    assert (
        cosine(principal(wide), torch.linalg.svd(wide - wide.mean(1, keepdim=True))[2][:, 0]).abs() > 1 - 1e-10
    ).all()


def test_principal_components_of_pairs_find_the_shift_that_centered_ones_lose():
    draw = torch.Generator().manual_seed(1)
    delta = torch.zeros(10, dtype=torch.float64)
    delta[3] = 2.0
    base = 5 * torch.randn(1, 300, 10, generator=draw, dtype=torch.float64)
    base[..., 0] *= 3
    noise = 0.5 * torch.randn(2, 1, 300, 10, generator=draw, dtype=torch.float64)
    x = torch.stack([base + noise[0], base + noise[1] + delta], 2).flatten(1, 2)
    y, pairs = [0, 1] * 300, torch.arange(300).repeat_interleave(2)
    paired = find_directions(x, y, method="pca", pairs=pairs)
    assert cosine(paired.detect, delta) > 0.99
    assert abs(cosine(find_directions(x, y, method="pca").detect, delta)) < 0.5
    differences = (x[:, 1::2] - x[:, ::2])[0].numpy()
    centered = torch.from_numpy(PCA(1).fit(differences).components_)
    assert abs(cosine(centered, delta)) < 0.7  # sklearn's takes the mean difference away first


def test_the_label_flip_turns_the_direction_round():
    x, y, _, _ = planted(500)
    for way in WAYS:
        a, b = find_directions(x, y, method=way), find_directions(x, y, method=way, positive=0)
        assert torch.allclose(a.detect, -b.detect, atol=1e-6 * float(a.detect.abs().max())), way
        assert b.classes == (1, 0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"y": [0] * 40}, "1 classes"),
        ({"y": list(range(40))}, "40 classes"),
        ({"y": [0, 1] * 19}, "38 labels for 40 examples"),
        ({"x": torch.full((40, 3), torch.nan)}, "not finite"),
        ({"x": torch.ones(40, 3)}, "the same at every example"),
        ({"positive": 7}, "positive class 7 is not among"),
        ({"pairs": [0] * 40, "method": "pca"}, "groups|pair 0 has 40"),
        ({"sites": ["resid_post.1", "resid_post.2"]}, "2 names for 1 places"),
        ({"shrinkage": 2.0}, "shrinkage 2.0"),
        ({"groups": [0, 1] * 20}, "2 groups: expected 4"),
    ],
)
def test_what_has_no_direction_is_refused(change, words):
    draw = torch.Generator().manual_seed(0)
    given = {"x": torch.randn(40, 3, generator=draw), "y": [0, 1] * 20, **change}
    with pytest.raises(CasebackError, match=words):
        find_directions(given.pop("x"), given.pop("y"), **given)


TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3], [6, 6, 1, 2, 9], [1, 2], [3, 4, 4], [9, 9, 1], [2, 7, 5, 1]]


@pytest.fixture(scope="module")
def of_model():
    model = shelf.model("llama")
    with exact():
        states = read_states(model, TEXTS, sites=["embed", "resid_post"])
    return model, find_directions(states, [0, 1] * 4, n_folds=2)


def test_edits_add_and_remove_what_they_say(of_model):
    model, found = of_model
    one = found.at("resid_post.1")
    with exact():
        plain = model.run(TEXTS, read=["resid_post"])["resid_post", 1]
        mask = model.tokens(TEXTS).mask
        added = model.run(TEXTS, edits=one.edits(-2.0), read=["resid_post"])["resid_post", 1]
        assert torch.allclose(added[mask], (plain - 2 * one.write[0])[mask], atol=1e-10)
        by_norm = model.run(TEXTS, edits=one.edits(0.5, unit="norm"), read=["resid_post"])["resid_post", 1]
        moved = (by_norm - plain)[mask]
        assert torch.allclose(moved.norm(dim=1), 0.5 * one.norm.expand(len(moved)), atol=1e-10)
        gone = model.run(TEXTS, edits=one.ablation(), read=["resid_post"])["resid_post", 1]
        unit = one.write[0] / one.write[0].norm()
        assert torch.allclose(gone[mask], (plain - (plain @ unit)[..., None] * unit)[mask], atol=1e-10)
        every = [place for place in found.places if place.site == "resid_post"]
        run = model.run(TEXTS, edits=one.ablation(places=every), read=["resid_post"])
        assert (run["resid_post"] @ unit)[:, mask].abs().max() < 1e-10
        still = model.run(TEXTS, edits=one.edits(0.0)).logits
        assert torch.equal(still, model.run(TEXTS).logits)


def test_each_prompt_has_its_own_strength(of_model):
    model, found = of_model
    one, strengths = found.at("resid_post.1"), torch.tensor([0.0, 1.0, -2.0])
    with exact():
        for pos in (None, -1):
            together = model.run(TEXTS[:3], edits=one.edits(strengths, pos=pos)).logits
            mask = model.tokens(TEXTS[:3]).mask
            for b, strength in enumerate(strengths.tolist()):
                alone = model.run(TEXTS[b], edits=one.edits(strength, pos=pos)).logits[0]
                assert torch.allclose(together[b][mask[b]], alone, atol=1e-10)
    with pytest.raises(EditError, match="finite number"):
        one.edits(float("nan"))
    with pytest.raises(EditError, match="take one with .at"):
        found.ablation(places=[Place("resid_post", 0)])
    with pytest.raises(CasebackError, match="no direction at 'resid_post.9'"):
        found.at("resid_post.9")


def test_directions_are_the_same_after_they_were_kept(of_model, tmp_path):
    model, found = of_model
    path = tmp_path / "a.safetensors"
    save_directions(found, path)
    again = load_directions(path, model=model)
    for name in ("detect", "write", "bias", "norm"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert again.places == found.places and again.classes == found.classes and again.table.identical(found.table)
    with pytest.raises(LoadError, match="is of width 32: embed of 'meadow'"):
        load_directions(path, model=cb.load("meadow"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LoadError):
        load_directions(path)


def test_the_best_of_places_that_tell_equally_well_is_where_classes_are_farthest_apart():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 2
    x = torch.randn(4, 80, 6, generator=draw)
    for place, size in enumerate((0.0, 20.0, 60.0, 20.0)):
        x[place, :, 0] += size * y
    found = find_directions(x, y, sites=[("resid_post", layer) for layer in range(4)])
    assert found.table.auroc.values[1:].tolist() == [1.0, 1.0, 1.0] and found.best == "resid_post.2"


def test_examples_on_both_sides_are_said_and_a_singular_covariance_is_refused():
    x, y, _, _ = planted(40)
    twice, labels = torch.cat([x, x], 1), torch.cat([y, y])
    with pytest.warns(UserWarning, match="held-out examples are the same as one that was trained on"):
        find_directions(twice, labels)
    with pytest.raises(CasebackError, match="within classes at 0 is singular .6 examples of width 8.*shrinkage"):
        find_directions(x[:, :8], y[:8], method="lda", shrinkage=0.0)
