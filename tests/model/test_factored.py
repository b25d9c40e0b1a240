"""Factored: whatever it is asked, it answers as the dense matrix would."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from caseback.errors import CasebackError
from caseback.model.algebra.factored import Factored

sizes = st.integers(1, 6)
batches = st.sampled_from([(), (3,), (2, 3)])
seeds = st.integers(0, 2**16)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(batch, n, r, m, seed=0) -> Factored:
    return Factored(drawn(*batch, n, r, seed=seed), drawn(*batch, r, m, seed=seed + 1))


def same(a, b) -> None:
    assert_close(a, b, rtol=1e-9, atol=1e-9)


@given(batches, sizes, sizes, sizes, sizes, sizes, seeds)
def test_products_are_those_of_the_dense_matrix(batch, n, r, m, q, s, seed):
    f, g = made(batch, n, r, m, seed), made(batch, m, q, s, seed + 2)
    x, y = drawn(4, n, seed=seed + 4), drawn(m, 5, seed=seed + 5)
    dense = f.dense()
    assert dense.shape == f.shape
    same((f @ g).dense(), dense @ g.dense())
    assert (f @ g).inner == min(r, q)
    same((x @ f).dense(), x @ dense)
    same((f @ y).dense(), dense @ y)
    same(x[0] @ f, x[0] @ dense)
    same(f @ y[:, 0], dense @ y[:, 0])
    same(f.T.dense(), dense.mT)
    same((2.5 * f).dense(), 2.5 * dense)
    same((f * -1.0).dense(), -dense)


@given(batches, sizes, sizes, sizes, seeds)
def test_svd_rank_and_norm_are_those_of_the_dense_matrix(batch, n, r, m, seed):
    f = made(batch, n, r, m, seed)
    u, s, vh = f.svd()
    assert s.shape[-1] == min(n, r, m)
    same(u @ torch.diag_embed(s) @ vh, f.dense())
    same(u.mT @ u, torch.eye(s.shape[-1], dtype=torch.float64).expand(*batch, -1, -1))
    same(s, torch.linalg.svdvals(f.dense())[..., : s.shape[-1]])
    same(f.singular_values(), s)
    same(f.norm(), f.dense().flatten(len(batch)).norm(dim=-1) if batch else f.dense().norm())
    assert torch.equal(f.rank(), torch.linalg.matrix_rank(f.dense()))


@given(batches, sizes, sizes, seeds)
def test_trace_and_eigenvalues_are_those_of_the_dense_matrix(batch, n, r, seed):
    f = made(batch, n, r, n, seed)
    same(f.trace(), f.dense().diagonal(dim1=-2, dim2=-1).sum(-1))
    values = f.eigenvalues()
    assert values.shape[-1] == min(n, r)
    assert bool((values.abs().diff(dim=-1) <= 1e-12).all())
    # Power sums tell a multiset of eigenvalues without matching them up.
    power = f.dense()
    for k in (1, 2, 3):
        traces = power.diagonal(dim1=-2, dim2=-1).sum(-1)
        scale = 1 + traces.abs().max()
        same((values**k).sum(-1).real / scale, traces / scale)
        power = power @ f.dense()


@given(sizes, sizes, sizes, seeds)
def test_indices_and_rows_and_columns(n, r, m, seed):
    f = made((2, 3), n, r, m, seed)
    dense = f.dense()
    same(f[1].dense(), dense[1])
    same(f[1, 2].dense(), dense[1, 2])
    same(f[:, 2].dense(), dense[:, 2])
    same(f[..., 0].dense(), dense[:, 0])
    same(f[torch.tensor([1, 0, 1])].dense(), dense[[1, 0, 1]])
    same(f.rows([0, n - 1]).dense(), dense[..., [0, n - 1], :])
    same(f.cols(m - 1).dense(), dense[..., [m - 1]])
    same(f.rows(range(n)).cols(slice(0, 1)).dense(), dense[..., :1])
    same(Factored.stack([f[0], f[1]]).dense(), dense)
    assert f.numel() == dense.numel()


def test_leading_dimensions_broadcast():
    f = Factored(drawn(5, 2, seed=0), drawn(4, 2, 3, seed=1))
    assert f.shape == (4, 5, 3) and f.batch == (4,)
    same(f[2].dense(), f.dense()[2])


def test_a_factored_matrix_never_forms_itself(monkeypatch):
    big = Factored(torch.ones(100_000, 1), torch.ones(1, 100_000))
    monkeypatch.setattr(Factored, "dense", lambda self: pytest.fail("formed"))
    assert big.norm() == pytest.approx(1e5) and big.trace() == pytest.approx(1e5)
    assert big.eigenvalues()[0].real == pytest.approx(1e5)
    assert (big @ big).inner == 1 and big.svd()[1][0] == pytest.approx(1e5, rel=1e-4)


def test_half_precision_is_widened_where_it_must_be():
    f = Factored(torch.randn(6, 2).bfloat16(), torch.randn(2, 6).bfloat16())
    assert f.svd()[1].dtype == f.norm().dtype == torch.float32


def test_it_is_differentiable():
    left = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    f = Factored(left, torch.randn(2, 4, dtype=torch.float64))
    grad = torch.autograd.grad(f.norm(), left)[0]
    same(grad, torch.autograd.grad(f.dense().norm(), left)[0])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Factored(torch.ones(3, 2), torch.ones(3, 2)), "make no product"),
        (lambda: Factored(torch.ones(3), torch.ones(3, 2)), "make no product"),
        (lambda: Factored(torch.ones(3, 2), torch.ones(2, 4)).trace(), "not square"),
        (lambda: Factored(torch.ones(3, 2), torch.ones(2, 4)).eigenvalues(), "not square"),
        (lambda: Factored(torch.ones(5, 3, 2), torch.ones(5, 2, 4))[0, 1], "reaches into the matrices"),
    ],
)
def test_errors_say_what_does_not_fit(wrong, says):
    with pytest.raises(CasebackError, match=says):
        wrong()
