"""Consistent directions, words' directions, concept activation vectors, agreement and subspaces on planted concepts."""

import copy

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import caseback as cb
import shelf
from caseback.decode import read_states
from caseback.decode.directions import (
    analogy,
    causal_inner_product,
    concept_subspace,
    consistent_directions,
    direction_agreement,
    find_directions,
    tcav,
    word_direction,
)
from caseback.errors import CasebackError
from exact import exact


def statements(truth_size=3.0, distractor_size=1.0, n=400, d=10, seed=0):
    """Pairs that differ by the word (always), by truth, and by a distractor; in noise."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(n, generator=draw) < 0.5
    other = torch.rand(n, generator=draw) < 0.5
    axes = torch.eye(d, dtype=torch.float64)
    sign = lambda what: torch.where(what, 1.0, -1.0)[:, None].double()  # noqa: E731
    opposite = truth_size * sign(truth) * axes[2] + distractor_size * sign(other) * axes[5]
    shared = torch.randn(n, d, generator=draw, dtype=torch.float64)
    noise = 0.3 * torch.randn(2, n, d, generator=draw, dtype=torch.float64)
    word = 8 * axes[7]
    return shared + opposite + word + noise[0], shared - opposite - word + noise[1], truth


@pytest.mark.parametrize("method", ["ccs", "crc"])
def test_consistent_directions_find_the_more_salient_opposition(method):
    plus, minus, truth = statements()
    found = consistent_directions(plus, minus, truth, method=method, steps=600, lr=1e-2)
    assert found.table.accuracy[0] > 0.97 and found.table.auroc[0] > 0.97
    unit = found.weight[0] / found.weight[0].norm()
    assert unit[2] > 0.9 and abs(unit[7]) < 0.2  # not the word, which every pair has
    plus, minus, truth = statements(truth_size=0.5, distractor_size=4.0)
    lost = consistent_directions(plus, minus, truth, method=method, steps=600, lr=1e-2)
    assert abs(lost.weight[0, 5]) > 5 * abs(lost.weight[0, 2])


def test_joint_centering_would_find_the_word():
    """Why each half is centered by itself: of differences that are not, the word is the first component."""
    plus, minus, _ = statements()
    first = torch.linalg.svd(plus - minus, full_matrices=False)[2][0]
    assert abs(first[7]) > 0.95


def test_the_sign_is_that_of_labels_or_said_to_be_open():
    plus, minus, truth = statements()
    for method in ("ccs", "crc"):
        open_ = consistent_directions(plus, minus, method=method, steps=200, lr=1e-2)
        assert open_.table.attrs["sign"] == "not identified" and "accuracy" not in open_.table
        one, other = (
            consistent_directions(plus, minus, labels, method=method, steps=200, lr=1e-2) for labels in (truth, ~truth)
        )
        assert torch.allclose(one.weight, -other.weight) and torch.allclose(one.bias, -other.bias)
        assert torch.allclose(one.probability(plus, minus), 1 - other.probability(plus, minus), atol=1e-12)


def test_restarts_and_places_are_fitted_as_if_alone():
    plus, minus, _ = statements()
    stacked = [torch.stack([x, 2 * x.flip(-1)]) for x in (plus, minus)]
    both = consistent_directions(*stacked, method="crc")
    for place in range(2):
        alone = consistent_directions(stacked[0][place], stacked[1][place], method="crc")
        assert torch.allclose(both.weight[place].abs(), alone.weight[0].abs(), atol=1e-10)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"minus": torch.randn(9, 3)}, "expected one of each"),
        ({"labels": [0, 1]}, "True or False for each of 20"),
        ({"labels": [2] * 20}, "True or False"),
        ({"steps": 0}, "steps 0"),
    ],
)
def test_pairs_that_are_none_are_refused(change, words):
    draw = torch.Generator().manual_seed(0)
    given = {"minus": torch.randn(20, 3, generator=draw), **change}
    with pytest.raises(CasebackError, match=words):
        consistent_directions(
            torch.randn(20, 3, generator=draw), given.pop("minus"), given.pop("labels", None), **given
        )


def with_tables(**tables):
    """A tiny model with words of our own in its embedding or unembedding."""
    model = copy.deepcopy(shelf.model("llama"))  # which other tests share
    hf = model.hf
    with torch.no_grad():
        for name, rows in tables.items():
            matrix = hf.get_input_embeddings() if name == "embedding" else hf.get_output_embeddings()
            matrix.weight[: len(rows)] = rows.to(matrix.weight)
    return model


@pytest.mark.parametrize("notion", ["embedding", "unembedding"])
def test_additive_words_agree_and_analogies_are_exact(notion):
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(8, 32, generator=draw, dtype=torch.float64)
    shift = torch.randn(32, generator=draw, dtype=torch.float64)
    model = with_tables(**{notion: torch.cat([base, base + shift])})
    pairs = [(i, i + 8) for i in range(8)]
    for inner in ("euclidean", "causal"):
        found = word_direction(model, pairs, notion=notion, inner=inner)
        assert np.allclose(found.agreement, 1) and float(found.by_chance[1]) < 0.9
        assert np.allclose(found.direction, shift)
    nearest = analogy(model, [0, 8, 3], notion=notion, top=2)
    assert nearest.token.values[0] == "11" and abs(float(nearest[0]) - 1) < 1e-12


def test_the_causal_inner_product_is_euclidean_after_whitening():
    model = shelf.model("llama")
    metric = causal_inner_product(model)
    columns = model.weights.W_U.double()
    values, vectors = torch.linalg.eigh(columns.cov(correction=0))
    white = (vectors / values.sqrt()) @ vectors.T
    u, v = columns[:, 3], columns[:, 7]
    assert torch.allclose(u @ metric @ v, (white @ u) @ (white @ v))
    whitened = (white @ columns).cov(correction=0)
    assert torch.allclose(whitened, torch.eye(32, dtype=torch.float64), atol=1e-9)


def test_words_that_are_none_are_refused():
    model = shelf.model("llama")
    with pytest.raises(CasebackError, match="1 pairs: expected two"):
        word_direction(model, [(1, 2)])
    with pytest.raises(CasebackError, match="pair 1 is 3: expected two words|pair 1 is"):
        word_direction(model, [(1, 2), (3, 4, 5)])
    with pytest.raises(CasebackError, match="2 words: expected three"):
        analogy(model, [1, 2])


def test_a_concept_that_the_metric_rises_towards_is_told_from_random_ones():
    """The metric reads resid_post along a vector: S is the concept's component of it, one sign for every input."""
    model = shelf.model("llama")
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(0, 61, (80, 5), generator=draw).tolist()
    with exact():
        pool = read_states(model, texts, sites=["resid_post.1", "resid_post.2"])
        reads = model.weights.W_U[:, 7].double()
        toward = pool.x.std(1).mean() * 6 * reads / reads.norm()
        lifted = type(pool)(pool.x[:, :12] + toward, pool.places, pool.prompt[:12])
        found = tcav(model, texts[:10], cb.logit(7), lifted, pool, n_random=20)
        assert float(found.score.sel(site="resid_post.2")) == 1.0  # the last layer reads through the final norm alone
        assert (found.random_low < 0.5).all() and (found.random_high > 0.5).all()
        assert float(found.p_value.sel(site="resid_post.2")) < 1e-3
        away = type(pool)(pool.x[:, :12] - toward, pool.places, pool.prompt[:12])
        assert float(tcav(model, texts[:10], cb.logit(7), away, pool, n_random=20).score[1]) == 0.0
        nothing = type(pool)(pool.x[:, 40:52], pool.places, pool.prompt[40:52])
        rest = type(pool)(pool.x[:, :40], pool.places, pool.prompt[:40])
        assert float(tcav(model, texts[:10], cb.logit(7), nothing, rest, n_random=20).p_value[1]) > 1e-3
        with pytest.raises(CasebackError, match="twice as many"):
            tcav(model, texts[:10], cb.logit(7), pool, lifted)
        with pytest.raises(CasebackError, match="different places"):
            tcav(model, texts[:10], cb.logit(7), pool, read_states(model, texts, sites=["resid_post.0"]))


def test_agreement_is_the_cosine_in_its_inner_product():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    x = torch.randn(2, 200, 5, generator=draw, dtype=torch.float64) + 2 * y[:, None]
    ways = {way: find_directions(x, y, method=way) for way in ("mean_difference", "lda", "logistic")}
    root = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    for inner in (None, root @ root.T):
        for of in ("detect", "write"):
            agree = direction_agreement(ways, of=of, inner=inner)
            u, v = getattr(ways["lda"], of)[1], getattr(ways["logistic"], of)[1]
            metric = torch.eye(5, dtype=torch.float64) if inner is None else inner
            wanted = (u @ metric @ v) / ((u @ metric @ u) * (v @ metric @ v)).sqrt()
            value = agree.sel(attribution="lda", attribution_to="logistic")[1]
            assert float(value) == pytest.approx(float(wanted), abs=1e-12)
            assert np.allclose(agree.values.diagonal(axis1=1, axis2=2), 1)
    with pytest.raises(CasebackError, match="other places"):
        direction_agreement({"a": ways["lda"], "b": ways["lda"].at("place.1")})
    with pytest.raises(CasebackError, match="inner product of shape"):
        direction_agreement(ways, inner=torch.eye(4))


def test_subspaces_of_several_values_have_their_rank():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 4
    axes = torch.linalg.qr(torch.randn(12, 3, generator=draw, dtype=torch.float64))[0]
    spots = 4 * torch.randn(4, 3, generator=draw, dtype=torch.float64)
    root = torch.randn(12, 12, generator=draw, dtype=torch.float64)
    x = torch.randn(600, 12, generator=draw, dtype=torch.float64) @ root / 20 + (spots @ axes.T)[y]
    for method, spanned in (("means", axes), ("lda", torch.linalg.solve(root.T @ root, axes))):  # read-outs of the axes
        basis = torch.from_numpy(concept_subspace(x, y, rank=3, method=method, shrinkage=0).values[0])  # pyright: ignore[reportArgumentType]
        assert torch.allclose(basis @ basis.T, torch.eye(3, dtype=torch.float64), atol=1e-10)
        assert (torch.linalg.svdvals(basis @ torch.linalg.qr(spanned)[0]) > 0.97).all(), method
    span = torch.from_numpy(LinearDiscriminantAnalysis(solver="eigen").fit(x, y).scalings_[:, :3])
    ours = torch.from_numpy(concept_subspace(x, y, rank=3, method="lda", shrinkage=0).values[0])
    assert (torch.linalg.svdvals(ours @ torch.linalg.qr(span)[0]) > 1 - 1e-6).all()
    with pytest.raises(CasebackError, match="rank 4: expected 1 to 3"):
        concept_subspace(x, y, rank=4)
    with pytest.raises(CasebackError, match="needs pairs="):
        concept_subspace(x, y, method="pairs")
    paired = concept_subspace(x, y, method="pairs", pairs=torch.arange(600) // 2, rank=2)
    assert paired.sizes["k"] == 2 and (paired.share.diff("k") <= 0).all()
