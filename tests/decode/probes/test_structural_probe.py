"""Structural probes on trees that are embedded isometrically, and their parts against scipy."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path

from caseback.decode.probes import structural_probe
from caseback.decode.probes.sentences import ParsedSentences
from caseback.decode.probes.trees import (
    ancestors,
    edges_of,
    rank_correlation,
    spanning_trees,
    tree_depths,
    tree_distances,
)
from caseback.errors import CasebackError
from caseback.jobs import budget

WIDTH = 12


def random_tree(random, n):
    """Each word but the first hangs on one before it; then words are shuffled."""
    parent = np.array([-1, *[random.integers(i) for i in range(1, n)]])
    order = random.permutation(n)
    heads = np.full(n, -1)
    for word in range(1, n):
        heads[order[word]] = order[parent[word]]
    return heads.tolist()


def planted(sentences=300, seed=0):
    """Words as what is above them, turned and with nuisance dimensions beside; and noise, as a second site."""
    random = np.random.default_rng(seed)
    trees = [random_tree(random, int(random.integers(2, WIDTH + 1))) for _ in range(sentences)]
    rows = []
    for heads in trees:
        above = np.zeros((len(heads), WIDTH))
        above[:, : len(heads)] = ancestors(np.array([heads]))[0]
        rows.append(above)
    words = np.concatenate(rows)
    turn = np.linalg.qr(random.normal(size=(WIDTH + 4, WIDTH + 4)))[0]
    x = np.concatenate([words, random.normal(size=(len(words), 4))], 1) @ turn
    return torch.tensor(np.stack([x, random.normal(size=x.shape)])), trees


def test_distances_and_depths_are_those_of_the_graph():
    random = np.random.default_rng(1)
    heads = np.array([random_tree(random, 9) for _ in range(20)])
    distances, depths = tree_distances(heads), tree_depths(heads)
    for one, distance, depth, edges in zip(heads, distances, depths, edges_of(heads), strict=True):
        theirs = shortest_path(edges.astype(float), unweighted=True)
        assert (theirs == distance).all() and (theirs[list(one).index(-1)] == depth).all()
    above = ancestors(heads)
    assert (((above[:, :, None] - above[:, None]) ** 2).sum(-1) == distances).all()


def test_spanning_trees_are_scipys_and_take_zero_for_a_distance():
    random = np.random.default_rng(2)
    points = random.normal(size=(3, 4, 8, 3))
    distances = ((points[..., None, :] - points[..., None, :, :]) ** 2).sum(-1)
    mask = random.random((3, 4, 8)) < 0.7
    ours = spanning_trees(torch.tensor(distances), torch.tensor(mask)).numpy()
    for edges, distance, words in zip(
        ours.reshape(-1, 8, 8), distances.reshape(-1, 8, 8), mask.reshape(-1, 8), strict=True
    ):
        theirs = minimum_spanning_tree(distance[np.ix_(words, words)]).toarray() > 0
        assert (edges[np.ix_(words, words)] == theirs | theirs.T).all()
        assert edges.sum() == 2 * max(words.sum() - 1, 0)
    same = spanning_trees(torch.zeros(1, 4, 4), torch.ones(1, 4, dtype=torch.bool))
    assert same.sum() == 6


def test_rank_correlations_are_scipys():
    random = np.random.default_rng(3)
    one, other = random.normal(size=(5, 7)), random.integers(0, 3, size=(5, 7))
    theirs = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, other), theirs, atol=1e-12)


def test_an_isometric_embedding_is_found_and_noise_has_no_tree():
    x, trees = planted()
    probe = structural_probe(x, trees, rank=16, learning_rate=0.02, sites=["trees", "noise"])
    here, noise = probe.table.sel(site="trees"), probe.table.sel(site="noise")
    assert here.uuas == 1 and here.low == 1
    assert here.spearman > 0.93  # distances of 3 that are not quite equal are ranked, where the tree has ties
    for chance in (noise, here):
        assert chance.shuffled < 0.4 and chance.shuffled_spearman < 0.5
    assert abs(noise.uuas - noise.shuffled) < 0.1 and abs(noise.spearman - noise.shuffled_spearman) < 0.1
    heads = trees[0]
    edges = {(min(i, h), max(i, h)) for i, h in enumerate(heads) if h >= 0}
    assert set(probe.trees(x[:, : len(heads)])[0]) == edges
    # what is learned is the distance itself, and lives where the tree does
    distance = probe.distances(x[:1, : len(heads)])[0].numpy()
    np.testing.assert_allclose(distance, tree_distances(np.array([heads]))[0], atol=0.35)


def test_depth_is_found():
    x, trees = planted()
    probe = structural_probe(x, trees, kind="depth", rank=16, learning_rate=0.02)
    assert probe.table.root_accuracy[0] > 0.97 and probe.table.spearman[0] > 0.9
    assert probe.table.root_accuracy[1] < 0.4 and 0.1 < probe.table.chance < 0.3
    assert probe.table.shuffled[0] < 0.5


def test_sites_are_fitted_alike_together_and_apart():
    x, trees = planted(60)
    together = structural_probe(x, trees, rank=4, epochs=3)
    with budget.override(probe_numbers=1):
        apart = structural_probe(x, trees, rank=4, epochs=3)
    assert torch.allclose(together.weight, apart.weight, atol=1e-9)
    assert together.table.equals(apart.table) or np.allclose(together.table.uuas, apart.table.uuas)


def test_words_outside_the_mask_are_not_scored():
    heads = [np.array([1, -1, 1, 1]), np.array([-1, 0, 1])]
    sentences = ParsedSentences(heads, "distance", np.random.default_rng(0))
    scored = np.array([True, True, False, True, True, True, True])
    sizes, chain = sentences.scorable(scored, np.array([0, 1]))
    # without word 2, words 1 and 3 are neighbors
    assert sizes.tolist() == [2, 2] and chain == 1.0
    depth = ParsedSentences(heads, "depth", np.random.default_rng(0))
    assert depth.scorable(scored, np.array([0]))[1] == pytest.approx(1 / 3)


def test_shuffled_trees_are_the_same_trees():
    heads = [np.array([1, -1, 1, 2, 2])] * 3
    sentences = ParsedSentences(heads, "distance", np.random.default_rng(0))
    (own, shuffled), _ = sentences.golden(np.arange(3), np.ones(15, dtype=bool))
    for one, other in zip(own, shuffled, strict=True):
        assert sorted(one.sum(0)) == sorted(other.sum(0))
    _, _, targets = sentences.padded(np.arange(3), torch.zeros(1))
    assert ((targets[1] == 1).numpy() == shuffled).all()


@pytest.mark.parametrize(
    ("trees", "options", "says"),
    [
        ([[0, 1]] * 8, {}, "expected one -1"),
        ([[-1, 2, 1]] * 8, {}, "round in a circle"),
        ([[-1, 7]] * 8, {}, "expected one -1, others from 0 to 1"),
        ([[-1, 0.5]] * 8, {}, "expected a whole number for each word"),
        ([[-1, 0]] * 7, {}, "14 heads for 16 words"),
        ([[-1]] * 16, {}, "all sentences have one word"),
        ([], {}, "one list of heads"),
        ([[-1, *range(15)]], {}, "1 sentences: expected 8 or more"),
        ([[-1, 0]] * 8, {"rank": 0}, "rank 0"),
        ([[-1, 0]] * 8, {"mask": [True] * 3}, "mask"),
        ([[-1, 0]] * 8, {"mask": [False] * 16}, "mask leaves no word"),
        ([[-1, 0]] * 8, {"groups": [0] * 8}, "1 groups"),
        ([[-1, 0]] * 8, {"learning_rate": 0.0}, "learning_rate"),
        ([[-1, 0]] * 8, {"epochs": 0}, "epochs"),
    ],
)
def test_what_has_no_trees_is_refused_in_words(trees, options, says):
    x = torch.randn(1, 16, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CasebackError, match=says):
        structural_probe(x, trees, **options)
