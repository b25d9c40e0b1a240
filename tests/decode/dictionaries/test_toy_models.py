"""Toy models of superposition: what theory says of dense, linear and sparse ones, and the shapes that emerge."""

from typing import Any

import numpy as np
import pytest
import torch

from caseback.decode.dictionaries import superposition_phases, toy_superposition
from caseback.decode.dictionaries.toy_models import dimensionality
from caseback.errors import ArgumentError, OutOfRange


def test_dense_features_leave_the_most_important_ones_as_pca_does():
    """The optimum of a linear map of rank m is the m features of most weighted variance: I_i / 12 each."""
    table = toy_superposition(6, 3, sparsity=[0.0], importance=0.7, steps=4000, batch_size=512, lr=5e-3)
    W = table.W.values[0, 0]
    np.testing.assert_allclose(W @ W.T, np.diag([1, 1, 1, 0, 0, 0]), atol=0.04)
    np.testing.assert_allclose(table.b.values[0, 0, 3:], 0.5, atol=0.03)
    assert table.loss.item() == pytest.approx(sum(0.7**i for i in range(3, 6)) / 12, rel=0.02)
    data = np.random.default_rng(0).random((20_000, 6)) * 0.7 ** (np.arange(6) / 2)
    top = np.linalg.eigh(np.cov(data.T))[1][:, -3:]
    np.testing.assert_allclose(top @ top.T, np.diag([1, 1, 1, 0, 0, 0]), atol=0.02)


def test_linear_models_never_superpose():
    table = toy_superposition(6, 3, sparsity=[0.0, 0.9, 0.97], importance=0.7, linear=True, steps=3000, batch_size=512, lr=1e-2)  # fmt: skip
    W = torch.from_numpy(table.W.values)
    projection = W @ W.mT
    np.testing.assert_allclose(projection @ projection, projection, atol=0.1)  # of rank m: nothing is shared
    assert table.stored.values.ravel().tolist() == [3, 3, 3]
    np.testing.assert_allclose(table.interference.where(table.norm > 0.5, 0), 0, atol=0.1)


def test_a_pentagon_emerges_from_five_sparse_features_in_a_plane():
    table = toy_superposition(5, 2, sparsity=[0.95], importance=1.0, n_seeds=8, steps=3000, batch_size=512, lr=1e-2)
    best = table.isel(sparsity=0, draw=int(np.argmin(table.loss.values[0])))
    np.testing.assert_allclose(best.dimensionality, 0.4, atol=0.03)
    assert float(best.dimensionality.sum()) == pytest.approx(2, abs=0.05)
    W = best.W.values
    angles = np.sort(np.arctan2(W[:, 1], W[:, 0]))
    np.testing.assert_allclose(np.diff(angles), 2 * np.pi / 5, atol=0.1)


def test_sparser_features_are_stored_in_larger_numbers():
    table = toy_superposition(20, 5, sparsity=[0.0, 0.8, 0.99], steps=2500, batch_size=256, lr=1e-2)
    stored = table.stored.values.ravel()
    assert stored[0] == 5 and stored[0] < stored[1] < stored[2]
    assert (table.dimensionality.sum("feature") < 5.01).all()


def test_shares_of_dimensions_that_are_known():
    eye = torch.eye(3, dtype=torch.float64)
    pairs = torch.cat([eye, -eye])
    np.testing.assert_allclose(dimensionality(pairs), 0.5)
    np.testing.assert_allclose(dimensionality(eye), 1)
    tetrahedron = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
    np.testing.assert_allclose(dimensionality(tetrahedron), 0.75)
    assert dimensionality(torch.zeros(2, 3)).tolist() == [0, 0]


def test_the_phase_picture_has_three_phases():
    table = superposition_phases(sparsity=[0.0, 0.97], importance=[0.2, 5.0], n_seeds=6, steps=1500, lr=1e-2)
    assert table.phase.values.tolist() == [["left out", "alone"], ["superposed", "superposed"]]
    np.testing.assert_allclose(table.last_norm[0], [0, 1], atol=0.1)
    np.testing.assert_allclose(table.last_interference[1], 1, atol=0.35)
    assert table.last_norm.dims == ("sparsity", "importance")


def test_models_trained_together_do_not_move_each_other():
    """The gradient of each model's loss is its own: the same seed alone gives the same first model."""
    how: dict[str, Any] = {"importance": 1.0, "steps": 50, "batch_size": 64}
    one = toy_superposition(4, 2, sparsity=[0.5], **how)
    again = toy_superposition(4, 2, sparsity=[0.5], **how)
    assert one.equals(again) and one.attrs["seed"] == 0 and one.attrs["entry"] == "4.2.12"
    assert not one.equals(toy_superposition(4, 2, sparsity=[0.5], seed=1, **how))


def test_bad_sizes_are_refused():
    bad: Any
    for bad in ({"sparsity": []}, {"sparsity": [1.0]}, {"sparsity": [-0.1]}, {"steps": 0}, {"lr": 0.0}, {"n_seeds": 0}):
        with pytest.raises(OutOfRange):
            toy_superposition(3, 2, **bad)
    for bad in ([1.0], [1.0, -1.0, 1.0]):
        with pytest.raises(ArgumentError):
            toy_superposition(3, 2, importance=bad, steps=1)
    for bad in ({"importance": []}, {"importance": [0.0]}, {"sparsity": [2.0]}):
        with pytest.raises(OutOfRange):
            superposition_phases(**bad)
