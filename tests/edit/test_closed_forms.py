"""Closed forms of weight edits: beside independent dense computations in float64."""

import numpy as np
import pytest
import torch

from caseback.edit.closed_forms import in_null_space, least, null_space, spectrum, two_keys
from caseback.edit.key_moments import KeyMoments
from caseback.errors import CasebackError, EditError

D, N, FACTS = 7, 12, 3


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(c, keys, ridge):
    return KeyMoments([0], c[None], 1, "a model", "a corpus").solved(0, keys, ridge)


@pytest.fixture
def planted():
    """W, keys, wanted values, and the second moment of many old keys."""
    old = normal(500, N, seed=1) @ normal(N, N, seed=2)
    return normal(D, N), normal(FACTS, N, seed=3), normal(FACTS, D, seed=4), old, old.T @ old / len(old)


def test_rome_is_exact_at_its_key(planted):
    w, keys, wanted, _, c = planted
    for key, value in zip(keys, wanted, strict=True):
        right = least(key[None], solved(c, key[None], 0.0))
        changed = w + (value - w @ key)[:, None] @ right
        assert float((changed @ key - value).abs().max()) < 1e-12
        u = np.linalg.solve(c.numpy(), key.numpy())  # the published formula, by other code
        by_hand = w.numpy() + np.outer((value - w @ key).numpy() / (u @ key.numpy()), u)
        assert changed.numpy() == pytest.approx(by_hand, abs=1e-10)


def test_exact_edits_change_old_keys_the_least(planted):
    """Among all changes that are exact at all facts' keys: E |dW k|^2 is minimal."""
    w, keys, wanted, old, c = planted
    residual = wanted - keys @ w.T
    change = residual.T @ least(keys, solved(c, keys, 0.0))
    assert torch.allclose(change @ keys.T, residual.T, atol=1e-11)

    def cost(x):
        return float((old @ x.T).pow(2).sum(-1).mean())

    _, _, free = torch.linalg.svd(keys)
    for seed in range(20):
        other = change + 0.1 * normal(D, N - FACTS, seed=seed) @ free[FACTS:]  # exact too
        assert torch.allclose(other @ keys.T, residual.T, atol=1e-11)
        assert cost(other) > cost(change)


def test_memit_is_the_dense_solution_and_has_its_limits(planted):
    w, keys, wanted, _, c = planted
    residual, whitened = wanted - keys @ w.T, solved(planted[4], keys, 0.0)
    for weight in (0.1, 1.0, 30.0):
        dense = residual.T @ keys @ torch.linalg.inv(weight * c + keys.T @ keys)
        assert torch.allclose(residual.T @ least(keys, whitened, weight), dense, atol=1e-10)
    exact = residual.T @ least(keys, whitened)
    near, far = (residual.T @ least(keys, whitened, weight) for weight in (1e-9, 1e9))
    assert torch.allclose(near, exact, atol=1e-7) and float(far.abs().max()) < 1e-6


def test_published_rome_is_exact_at_the_bare_key_only(planted):
    w, keys, wanted, _, c = planted
    bare, mean, value = keys[:1], keys[1:2], wanted[:1]
    right = two_keys(bare, solved(c, mean, 0.0))
    changed = w + (value - bare @ w.T).T @ right
    assert torch.allclose(changed @ bare[0], value[0], atol=1e-11)
    assert float((changed @ mean[0] - value[0]).norm()) > 0.1 * float(value.norm())
    assert torch.allclose(right / right.norm(), solved(c, mean, 0.0) / solved(c, mean, 0.0).norm())


def test_alphaedit_leaves_keys_of_the_corpus_as_they_are():
    basis = torch.linalg.qr(normal(N, N))[0]
    old = normal(400, 8, seed=1) @ basis[:, :8].T  # four directions are never used
    moment = old.T @ old / len(old)
    free = null_space(spectrum(moment), 1e-9)
    assert free.shape == (N, 4)
    keys, residual, past = normal(FACTS, N, seed=3), normal(FACTS, D, seed=4), normal(2, N, seed=5)
    for ridge in (1e-6, 10.0):
        read = in_null_space(keys, free, past, ridge)
        change = residual.T @ read
        assert float((change @ old.T).abs().max()) < 1e-10 * float(residual.norm() / ridge + 1)
        p = free @ free.T
        dense = torch.linalg.solve(
            p @ (keys.T @ keys + past.T @ past) + ridge * torch.eye(N), p @ keys.T @ residual
        )  # the published solve, in all dimensions
        assert torch.allclose(change, dense.T, atol=1e-6)
    many = normal(9, N, seed=6)  # more keys than free directions: the other system
    both = in_null_space(torch.cat([keys, many]), free, None, 10.0)
    assert torch.allclose(both[:FACTS], in_null_space(keys, free, many, 10.0), atol=1e-12)
    alone = in_null_space(keys, free, None, 1e-10)
    assert torch.allclose(alone @ keys.T, torch.eye(FACTS).double(), atol=1e-6)
    kept = residual.T @ in_null_space(keys[:1], free, past, 1e-9)[[0] * FACTS]
    assert float((kept @ past.T).abs().max()) < 1e-5


def test_a_table_of_orthogonal_keys_keeps_its_neighbors():
    """W = sum of v k^T: a new value under one key leaves the others' exactly."""
    keys = torch.linalg.qr(normal(N, N))[0][:5]
    values, new = normal(5, D, seed=1), normal(1, D, seed=2)
    w = values.T @ keys
    c = keys.T @ keys / 5 + 1e-9 * torch.eye(N)
    for whitened in (keys[:1], solved(c, keys[:1], 0.0)):
        changed = w + (new - keys[:1] @ w.T).T @ least(keys[:1], whitened)
        assert torch.allclose(changed @ keys[0], new[0], atol=1e-12)
        assert torch.allclose(changed @ keys[1:].T, values[1:].T, atol=1e-12)


def test_what_has_no_solution_is_refused():
    keys = torch.ones(2, N).double()
    with pytest.raises(EditError, match="the same key"):
        least(keys, keys)
    with pytest.raises(CasebackError, match="no inverse"):
        solved(torch.ones(N, N).double(), keys, 0.0)
    with pytest.raises(EditError, match="no direction"):
        null_space(spectrum(torch.eye(N)), 1e-3)
    with pytest.raises(EditError, match="between 0 and 1"):
        null_space(spectrum(torch.eye(N)), 1.5)
