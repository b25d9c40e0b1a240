"""``Factored``: a matrix held as the product of two thin ones, and formed only on request.

A head's circuits W_V W_O and W_Q W_K^T are d_model x d_model of rank d_head, and W_E W_V W_O W_U is V x V of the same
rank. Everything worth knowing about such an M = left right costs what its factors cost:

    left = Q R, right^T = P S:   singular values of M = those of R S^T
    nonzero eigenvalues of left right = those of right left
    |M|_F^2 = tr((left^T left)(right right^T)),     tr M = sum(left * right^T)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.norms import at_least_float32


class Factored:
    """The matrix ``left @ right``, or a batch of them, held as its factors.

    ``@`` with a tensor or another ``Factored`` on either side gives a ``Factored`` (a tensor if the other side is a
    vector). Indexing addresses the leading dimensions, ``rows`` and ``cols`` the matrix itself.

    Parameters
    ----------
    left
        (..., n, rank)
    right
        (..., rank, m); leading dimensions broadcast with those of ``left``.

    Raises
    ------
    CasebackError
        If the factors do not fit each other.

    Examples
    --------
    >>> a = Factored(torch.ones(5, 1), torch.ones(1, 5))
    >>> a.shape, a.inner, float(a.norm()), float(a.trace())
    ((5, 5), 1, 5.0, 5.0)
    >>> (a @ a).inner, bool((a @ a).dense().eq(5).all())
    (1, True)
    """

    def __init__(self, left: Float[Tensor, "*batch n rank"], right: Float[Tensor, "*batch rank m"]):
        if left.ndim < 2 or right.ndim < 2 or left.shape[-1] != right.shape[-2]:
            raise CasebackError(
                f"factors {tuple(left.shape)} and {tuple(right.shape)} make no product: expected "
                "(..., n, rank) and (..., rank, m)"
            )
        self.left, self.right = left, right

    @property
    def batch(self) -> tuple[int, ...]:
        """The leading dimensions, those before the matrix's own two."""
        return tuple(torch.broadcast_shapes(self.left.shape[:-2], self.right.shape[:-2]))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix (or batch of matrices) that this stands for."""
        return (*self.batch, self.left.shape[-2], self.right.shape[-1])

    @property
    def inner(self) -> int:
        """The factors' common dimension, an upper bound of the rank."""
        return self.left.shape[-1]

    def __repr__(self) -> str:
        return f"<Factored {self.shape} through {self.inner}>"

    def dense(self) -> Float[Tensor, "*batch n m"]:
        """Form the matrix."""
        return self.left @ self.right

    @property
    def T(self) -> Factored:
        """The transpose of each matrix."""
        return Factored(self.right.mT, self.left.mT)

    def __matmul__(self, other: Factored | Tensor) -> Any:
        if isinstance(other, Factored):
            middle = self.right @ other.left
            if self.inner <= other.inner:
                return Factored(self.left, middle @ other.right)
            return Factored(self.left @ middle, other.right)
        if other.ndim == 1:
            return (self.left @ (self.right @ other).unsqueeze(-1)).squeeze(-1)
        return Factored(self.left, self.right @ other)

    def __rmatmul__(self, other: Tensor) -> Any:
        if other.ndim == 1:
            return ((other @ self.left).unsqueeze(-2) @ self.right).squeeze(-2)
        return Factored(other @ self.left, self.right)

    def __mul__(self, scale: float) -> Factored:
        return Factored(self.left * scale, self.right)

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> Factored:
        """Some matrices of the batch; the index must not reach into the matrices themselves."""
        lead, index = self.batch, index if isinstance(index, tuple) else (index,)
        spare = len(lead) - sum(i is not None and i is not ... for i in index)
        if spare < 0:
            raise CasebackError(
                f"index {index!r} reaches into the matrices of {self!r}: its leading dimensions are {lead}; "
                "use .rows(...) and .cols(...) for the matrix itself"
            )
        dots = next((at for at, i in enumerate(index) if i is ...), len(index))
        index = (*index[:dots], *[slice(None)] * spare, *index[dots + 1 :])
        left = self.left.expand(*lead, *self.left.shape[-2:])
        right = self.right.expand(*lead, *self.right.shape[-2:])
        return Factored(left[index], right[index])

    def rows(self, index: int | slice | Sequence[int] | Tensor) -> Factored:
        """The matrix with only these rows (a single index keeps the dimension)."""
        return Factored(self.left[..., _listed(index), :], self.right)

    def cols(self, index: int | slice | Sequence[int] | Tensor) -> Factored:
        """The matrix with only these columns (a single index keeps the dimension)."""
        return Factored(self.left, self.right[..., _listed(index)])

    @classmethod
    def stack(cls, items: Sequence[Factored]) -> Factored:
        """Several of equal shape as a batch."""
        return cls(torch.stack([f.left for f in items]), torch.stack([f.right for f in items]))

    def svd(
        self,
    ) -> tuple[Float[Tensor, "*batch n k"], Float[Tensor, "*batch k"], Float[Tensor, "*batch k m"]]:
        """The reduced singular value decomposition, by QR of the factors.

        Returns
        -------
        U, S and Vh such that ``U @ diag(S) @ Vh`` is the matrix; k is the smallest of n, m and ``inner``.
        """
        q, r = torch.linalg.qr(at_least_float32(self.left))
        p, s = torch.linalg.qr(at_least_float32(self.right).mT)
        u, values, vh = torch.linalg.svd(r @ s.mT, full_matrices=False)
        return q @ u, values, vh @ p.mT

    def singular_values(self) -> Float[Tensor, "*batch k"]:
        """Only the singular values, largest first."""
        r = torch.linalg.qr(at_least_float32(self.left), mode="r").R
        s = torch.linalg.qr(at_least_float32(self.right).mT, mode="r").R
        return torch.linalg.svdvals(r @ s.mT)

    def rank(self, rtol: float | None = None) -> Tensor:
        """How many singular values are above ``rtol`` times the largest.

        None takes the default of ``torch.linalg.matrix_rank``: machine epsilon times the larger side.
        """
        values = self.singular_values()
        if rtol is None:
            rtol = torch.finfo(values.dtype).eps * max(self.shape[-2:])
        return (values > rtol * values[..., :1]).sum(-1)

    def eigenvalues(self) -> Complex[Tensor, "*batch k"]:
        """The eigenvalues that can be nonzero, largest modulus first; k is at most ``inner``.

        Raises
        ------
        CasebackError
            If the matrix is not square.
        """
        n, m = self.shape[-2:]
        if n != m:
            raise CasebackError(f"{self!r} is not square and has no eigenvalues; for singular values, .svd()")
        small = self.right @ self.left if self.inner <= n else self.left @ self.right
        values = torch.linalg.eigvals(at_least_float32(small))
        return values.gather(-1, values.abs().argsort(-1, descending=True))

    def norm(self) -> Float[Tensor, "*batch"]:
        """The Frobenius norm, by the factors' Gram matrices.

        Its square is exact up to a rounding error of |left|^2 |right|^2: where the product almost cancels, use
        ``singular_values``.
        """
        left, right = at_least_float32(self.left), at_least_float32(self.right)
        return ((left.mT @ left) * (right @ right.mT)).sum((-2, -1)).clamp_min(0).sqrt()

    def trace(self) -> Float[Tensor, "*batch"]:
        """The sum of the diagonal.

        Raises
        ------
        CasebackError
            If the matrix is not square.
        """
        if self.shape[-2] != self.shape[-1]:
            raise CasebackError(f"{self!r} is not square, so it has no trace")
        return (at_least_float32(self.left) * at_least_float32(self.right).mT).sum((-2, -1))

    def numel(self) -> int:
        """How many numbers the dense matrices would hold."""
        return prod(self.shape)


def _listed(index: Any) -> Any:
    return [index] if isinstance(index, int) else list(index) if isinstance(index, range) else index
