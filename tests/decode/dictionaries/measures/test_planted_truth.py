"""A generator whose statistics are those asked for, and measures that see what a dictionary lacks."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef

from caseback.decode.dictionaries import Standard
from caseback.decode.dictionaries.measures import (
    Planted,
    hedging,
    planted_absorption,
    planted_features,
    recovery_measures,
)
from caseback.decode.dictionaries.measures.recovery import matched
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import override
from simple_dictionaries import noise


def exact_dictionary(truth: Planted, rows=None, bias=-0.005) -> Standard:
    """Features of the truth's directions, in which it is read without an error where these are orthogonal."""
    rows = truth.directions if rows is None else rows
    one = Standard(truth.states.shape[1], len(rows), dtype=torch.float64)
    one.W_enc.data, one.W_dec.data = rows.clone(), rows.clone()
    one.b_enc.data += bias
    return one


def test_states_are_what_they_are_said_to_be():
    truth = planted_features(10, 40, 20_000, l0=4, zipf=1.0, magnitude=2, spread=0.2, noise=0.1, seed=3)
    p = truth.firing.double().mean(0)
    assert float(p.sum()) == pytest.approx(4, abs=0.1)
    wanted = torch.arange(1, 41).double() ** -1.0
    rest = p < 0.9
    assert float((p[rest] / wanted[rest]).std() / (p[rest] / wanted[rest]).mean()) < 0.1
    left = truth.states - truth.codes @ truth.directions
    assert float(left.std()) == pytest.approx(0.1, abs=0.002)
    amounts = truth.codes[truth.firing]
    assert float(amounts.mean()) == pytest.approx(2, abs=0.01) and float(amounts.std()) == pytest.approx(0.2, abs=0.01)
    np.testing.assert_allclose(truth.directions.norm(dim=1), 1)
    assert torch.equal(truth.states, planted_features(10, 40, 20_000, l0=4, zipf=1.0, magnitude=2, spread=0.2, noise=0.1, seed=3).states)  # fmt: skip


def test_groups_fire_together_and_others_do_not():
    truth = planted_features(16, 8, 20_000, l0=2, group_size=2, correlation=0.9)
    together = np.corrcoef(truth.firing.numpy().T.astype(float))
    assert min(together[i, i + 1] for i in range(0, 8, 2)) > 0.5
    assert max(abs(together[i, j]) for i in range(8) for j in range(8) if i // 2 != j // 2) < 0.05
    np.testing.assert_allclose(truth.firing.double().mean(0), 0.25, atol=0.02)


def test_children_need_their_parents():
    truth = planted_features(16, 4, 20_000, probabilities=[0.5, 0.4, 0.5, 0.5], parents=[-1, 0, 0, 1])
    fires = truth.firing
    assert bool((fires[:, 1:3] <= fires[:, :1]).all()) and bool((fires[:, 3] <= fires[:, 1]).all())
    np.testing.assert_allclose(fires.double().mean(0), [0.5, 0.2, 0.25, 0.1], atol=0.02)


def test_directions_are_orthogonal_where_they_can_be():
    one, other = planted_features(8, 8, 5, l0=1), planted_features(8, 9, 5, l0=1)
    np.testing.assert_allclose(one.directions @ one.directions.T, np.eye(8), atol=1e-12)
    assert float((other.directions @ other.directions.T - torch.eye(9)).abs().max()) > 0.1
    with pytest.raises(ArgumentError, match="9 orthogonal"):
        planted_features(8, 9, 5, orthogonal=True)


def test_the_truth_is_recovered_and_its_order_found():
    truth = planted_features(12, 10, 800, l0=2)
    order = torch.tensor([3, 1, 9, 0, 2, 4, 8, 7, 6, 5])
    with override(feature_scores=50):
        table = recovery_measures(exact_dictionary(truth, truth.directions[order]), truth)
    for name in ("mmcs", "matched_cosine", "recovered", "f1", "mcc"):
        assert table[name].item() == pytest.approx(1)
    assert order[torch.from_numpy(table.match.values[0])].tolist() == list(range(10))
    assert table.parts.values.tolist() == [[1] * 10]


def test_firing_is_scored_as_scikit_learn_scores_it():
    truth = planted_features(6, 9, 500, l0=2)
    one = exact_dictionary(truth, truth.directions + 0.3 * noise(9, 6), bias=-0.4)
    table = recovery_measures(one, truth)
    fires = (one.encode(truth.states) != 0).numpy()
    for j, feature in enumerate(table.match.values[0]):
        a, b = truth.firing[:, j].numpy(), fires[:, feature]
        assert table.feature_f1[0, j].item() == pytest.approx(f1_score(a, b))
        assert table.feature_mcc[0, j].item() == pytest.approx(matthews_corrcoef(a, b))


def test_the_match_is_the_best_of_all():
    rows, directions = noise(4, 5), noise(4, 5, seed=1)
    _, cosine = matched(rows, directions)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (directions, rows)]
    cosines = unit[0] @ unit[1].T
    best = max(sum(float(cosines[i, p]) for i, p in enumerate(order)) for order in itertools.permutations(range(4)))
    assert float(cosine.sum()) == pytest.approx(best)


def test_one_feature_is_not_two():
    """MMCS lets one row stand for two truths; a match does not. Two rows of one truth are a split."""
    truth = planted_features(8, 4, 400, l0=1)
    rows = truth.directions[[0, 0, 2]]
    table = recovery_measures(exact_dictionary(truth, rows), truth)
    assert table.parts.values.tolist() == [[2, 0, 1, 0]]
    assert table.recovered.item() == 0.5 and (table.match.values == -1).sum() == 1
    assert table.feature_f1[0, 0].item() == 1 and table.feature_f1[0, 3].item() == 0
    merged = exact_dictionary(truth, (truth.directions[0] + truth.directions[1])[None])
    table = recovery_measures(merged, truth)
    np.testing.assert_allclose(table.best_cosine[0, :2], 0.5**0.5)
    assert (table.match[0] >= 0).sum() == 1


def absorbing(truth: Planted, parent: int, child: int, share: float) -> Standard:
    """The child's feature writes a share of the parent's part; the parent's is off where the child is on."""
    one = exact_dictionary(truth)
    u = truth.directions
    one.W_enc.data[parent] = u[parent] - 3 * u[child]
    one.W_dec.data[child] = u[child] + share * u[parent]
    return one


@pytest.mark.parametrize("scores", [7, 10**6])
def test_absorption_is_seen_where_it_is_and_only_there(scores):
    truth = planted_features(
        10, 6, 3000, probabilities=[0.5, 0.3, 0.5, 0.3, 0.2, 0.2], parents=[-1, 0, -1, 2, -1, -1], spread=0.0
    )
    several = {"clean": exact_dictionary(truth), "absorbs": absorbing(truth, 0, 1, 1.0)}
    several["silent"] = absorbing(truth, 0, 1, 0.0)  # off, but nobody writes for it
    with override(feature_scores=scores):
        table = planted_absorption(several, truth)
    np.testing.assert_allclose(table.absorption[:, 0], [0, 1, 0])
    np.testing.assert_allclose(table.absorption[:, 2], 0)
    np.testing.assert_allclose(table.silent[:, [0, 2]], 0)
    assert np.isnan(table.absorption[:, [1, 3, 4, 5]]).all()
    both, other = (float((truth.firing[:, p] & truth.firing[:, c]).sum()) for p, c in ((0, 1), (2, 3)))
    np.testing.assert_allclose(table.absorption_rate, [0, both / (both + other), 0])


def test_a_share_below_the_least_is_no_absorption():
    truth = planted_features(6, 2, 2000, probabilities=[0.5, 0.3], parents=[-1, 0], spread=0.0)
    rates = [planted_absorption(absorbing(truth, 0, 1, share), truth).absorption_rate.item() for share in (0.3, 0.5)]
    assert rates == [0, 1]


def test_a_narrow_dictionary_that_is_trained_hedges_and_a_wide_one_does_not():
    truth = planted_features(8, 4, 6000, l0=1.2, group_size=2, correlation=0.85)
    x = truth.states
    tables = {}
    for width in (2, 4):
        # the least-squares optimum with so many rows: principal directions are each half of a pair
        one = exact_dictionary(truth, truth.directions[:width] if width == 4 else None)
        if width == 2:
            start = truth.directions[[0, 2]] + 0.05 * truth.directions[[1, 3]]
            one = exact_dictionary(truth, start)
            optimizer = torch.optim.Adam(one.parameters(), lr=0.01)
            for _ in range(300):
                optimizer.zero_grad()
                one.losses(x).total.backward()
                optimizer.step()
        tables[width] = hedging(one, truth)
    assert tables[4].hedging.item() == pytest.approx(0, abs=1e-9)
    assert tables[2].hedging.item() > 0.3
    assert tables[4].companion.values.tolist() == [1, 0, 3, 2] and float(tables[4].correlation.min()) > 0.4


def test_hedging_has_the_sign_of_the_correlation():
    truth = planted_features(4, 2, 4000, probabilities=[0.5, 0.5])
    codes = truth.codes.clone()
    codes[codes[:, 0] != 0, 1] = 0  # never together
    truth = replace(truth, codes=codes, states=codes @ truth.directions)
    u, v = truth.directions
    table = hedging(exact_dictionary(truth, torch.stack([u - 0.5 * v, v])), truth)
    assert float(table.correlation[0]) < -0.3
    np.testing.assert_allclose(table.hedged[0], [0.5 / 1.25**0.5, 0], atol=1e-9)


def test_what_cannot_be_planted_or_compared_is_refused():
    bad: dict[str, Any]
    for bad in ({"d": 0}, {"n_features": 0}, {"n_tokens": 0}, {"l0": 0.0}, {"l0": 9.0}, {"correlation": 1.0}, {"noise": -1.0},
                {"probabilities": [0.1]}, {"probabilities": [2.0] * 8}, {"group_size": 0}, {"magnitude": 0.0}):  # fmt: skip
        with pytest.raises(OutOfRange):
            planted_features(**{"d": 8, "n_features": 8, "n_tokens": 9, **bad})
    for parents in ([0] * 8, [-1], [-2] * 8):
        with pytest.raises(ArgumentError):
            planted_features(8, 8, 9, parents=parents)
    truth = planted_features(8, 8, 20)
    for measure in (recovery_measures, hedging):
        with pytest.raises(TokensError):
            measure(Standard(7, 3), truth)
    with pytest.raises(ArgumentError, match="parent"):
        planted_absorption(Standard(8, 3), truth)
    with pytest.raises(CasebackError):
        hedging(Standard(8, 3), planted_features(8, 1, 20, probabilities=[0.5]))
    with pytest.raises(OutOfRange):
        recovery_measures(Standard(8, 3), truth, recovered_above=2.0)
