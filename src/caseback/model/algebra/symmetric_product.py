"""x^T x for the price of little more than half: what lies below the diagonal is what lies above it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def symmetric_product(x: Float[Tensor, "*batch example d"], blocks: int = 4) -> Float[Tensor, "*batch d d"]:
    """Products of all pairs of columns, of which a block of rows is formed from the diagonal on.

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(12.0).view(4, 3)
    >>> bool((symmetric_product(x, blocks=2) == x.T @ x).all())
    True
    """
    width = x.shape[-1]
    product = x.new_empty(*x.shape[:-2], width, width)
    step = max(1, -(-width // blocks))
    for first in range(0, width, step):
        own = x[..., first : first + step].mT @ x[..., first:]
        product[..., first : first + step, first:] = own
        product[..., first:, first : first + step] = own.mT
    return product
