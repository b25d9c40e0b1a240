"""Features as classifiers: of labels, beside neurons and chance, and of boards whose state is planted."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score

from caseback.decode import States
from caseback.decode.dictionaries import Standard
from caseback.decode.dictionaries.measures import (
    board_measures,
    neuron_dictionary,
    planted_features,
    probe_features,
    reconstruction_measures,
    supervised_dictionary,
)
from caseback.decode.states import Place
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError
from simple_dictionaries import noise


def exact_features(truth) -> Standard:
    one = Standard(truth.states.shape[1], len(truth.directions), dtype=torch.float64)
    one.W_enc.data, one.W_dec.data = truth.directions.clone(), truth.directions.clone()
    one.b_enc.data -= 0.005
    return one


def rotated(n_tokens=1200, d=12):
    """Features that stand across all neurons."""
    return planted_features(d, d, n_tokens, l0=4, seed=5)


def test_a_feature_that_is_there_is_read_by_one_and_neurons_need_many():
    truth = rotated()
    y = truth.firing[:, 3].tolist()
    table = probe_features({"exact": exact_features(truth)}, truth.states, y, k=(1, 2))
    assert table.dictionary.values.tolist() == ["exact", "exact, random", "states"]
    assert int(table.best_feature.sel(dictionary="exact")) == 3
    assert float(table.f1.sel(dictionary="exact", k=1)) == 1
    for other in ("exact, random", "states"):
        assert float(table.f1.sel(dictionary=other, k=1)) < 0.9
    assert table.attrs["dense_accuracy"] > 0.98


def test_codes_are_averaged_over_the_tokens_of_a_prompt():
    truth = rotated(600)
    prompt = torch.arange(200).repeat_interleave(3)
    states = States(truth.states[None], [Place("resid_post", 0)], prompt)
    means = exact_features(truth).encode(truth.states).detach().reshape(200, 3, -1).mean(1)
    y = (means[:, 2] > 0.2).tolist()
    table = probe_features(exact_features(truth), states, y, k=(1,), random=False)
    alone = probe_features(neuron_dictionary(12).double(), means, y, k=(1,), random=False)
    assert int(table.best_feature[0]) == int(alone.best_feature[0]) == 2
    np.testing.assert_allclose(table.auroc[0], alone.auroc[0])


def test_neurons_are_a_dictionary_that_every_measure_takes():
    truth = rotated()
    several = {"neurons": neuron_dictionary(12).double(), "two": neuron_dictionary(12, k=2).double()}
    table = reconstruction_measures({**several, "features": exact_features(truth)}, truth.states)
    np.testing.assert_allclose(table.explained_variance[0], 1)
    some = float((truth.states != 0).any(1).double().mean())
    np.testing.assert_allclose(table.l0[:2], [12 * some, 2 * some])
    assert 3 < table.l0[2] < 5
    assert table.explained_variance[1] < 0.8 < table.explained_variance[2]
    with pytest.raises(OutOfRange):
        neuron_dictionary(4, k=5)


def test_a_planted_board_is_covered_by_features_and_not_by_neurons():
    truth = rotated(3000)
    several = {"features": exact_features(truth), "neurons": neuron_dictionary(12).double()}
    table = board_measures(several, truth.states, truth.firing)
    assert table.coverage[0] == 1 and table.reconstruction[0] == 1
    assert table.best_feature[0].values.tolist() == list(range(12)) and (table.classifiers[0] >= 1).all()
    assert table.coverage[1] < 0.9 and table.reconstruction[1] < 0.6


def test_board_numbers_are_scikit_learns():
    truth = planted_features(6, 9, 800, l0=2, noise=0.2)
    one = Standard(6, 20, dtype=torch.float64, seed=4)
    table = board_measures(one, truth.states, truth.firing, levels=(0.0, 0.3, 0.6)).isel(dictionary=0)
    codes = one.encode(truth.states).detach()
    top, half = codes[:400].amax(0), slice(400, None)
    for j in range(9):
        y = truth.firing[:, j].numpy()
        scores = {
            (i, t): f1_score(y[:400], (codes[:400, i] > t * top[i]).numpy(), zero_division=0.0)  # pyright: ignore[reportArgumentType]
            for i in range(20)
            for t in (0.0, 0.3, 0.6)
        }
        i, t = int(table.best_feature[j]), float(table.best_level[j])
        assert scores[i, t] == pytest.approx(max(scores.values()))
        guess = (codes[:, i] > t * top[i]).numpy()
        assert float(table.f1[j]) == pytest.approx(f1_score(y[half], guess[half]))
        assert float(table.precision[j]) == pytest.approx(precision_score(y[:400], guess[:400]))


def test_slots_that_add_up_are_explained_by_their_values():
    draw = torch.Generator().manual_seed(0)
    who, where = torch.cartesian_prod(torch.arange(3), torch.arange(4)).T
    x = noise(3, 10)[who] + noise(4, 10, seed=1)[where]
    table = supervised_dictionary(x, {"who": who.tolist(), "where": where.tolist()})
    assert float(table.explained_variance[-1]) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(table.direction[0], x[who == 0].mean(0) - x.mean(0), atol=1e-12)
    assert table.slot.values.tolist() == ["who"] * 3 + ["where"] * 4
    chance = supervised_dictionary(x, {"noise": torch.randint(2, (12,), generator=draw).tolist()})
    assert float(chance.explained_variance[-1]) < 0.4


def test_what_cannot_be_judged_is_refused():
    truth = rotated(100)
    one = exact_features(truth)
    bad: Any
    with pytest.raises(TokensError):
        board_measures(one, truth.states, truth.firing[:-1])
    with pytest.raises(ArgumentError):
        board_measures(one, truth.states, torch.ones(100, 2))
    for bad in ({"levels": [1.0]}, {"levels": []}, {"precision": 0.0}, {"train_share": 1.0}):
        with pytest.raises(OutOfRange):
            board_measures(one, truth.states, truth.firing, **bad)
    for bad in ([1] * 100, [0, 1], None):
        with pytest.raises(CasebackError):
            probe_features(one, truth.states, bad)
    with pytest.raises(OutOfRange):
        probe_features(one, truth.states, [0, 1] * 50, k=(13,))
    with pytest.raises(ArgumentError):
        supervised_dictionary(truth.states, {})
    with pytest.raises(ArgumentError):
        supervised_dictionary(torch.ones(5, 3), {"a": [0, 1, 0, 1, 0]})
