"""A rotation to be learned: orthonormal rows under torch's orthogonal parametrization.

The product of Householder reflections for a few rows, the matrix exponential of a skew-symmetric matrix for a whole
rotation. Kept in float32 at least: the parametrization has no narrower kernels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from caseback.errors import EditError


class Rotation(nn.Module):
    """Orthonormal rows (k, width) that gradient descent can turn.

    Parameters
    ----------
    k, width
        How many rows, and their size.
    seed
        Same seed, same result. It draws the first rows, uniformly.
    dtype, device
        Of the site.

    Raises
    ------
    EditError
        For no row, or more rows than dimensions.

    Examples
    --------
    >>> rows = Rotation(2, 5).rows
    >>> torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-6)
    True
    """

    weight: Tensor

    def __init__(
        self,
        k: int,
        width: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        if not 1 <= k <= width:
            raise EditError(f"a subspace of {k} dimensions in a site that is {width} wide: expected 1 to {width}")
        self.weight = nn.Parameter(random_rows(k, width, seed).to(torch.promote_types(dtype, torch.float32)))
        # the parametrization completes the rows to a rotation at random: by our seed, with the caller's state untouched
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            orthogonal(self)
        self.to(device)

    @property
    def rows(self) -> Float[Tensor, "k width"]:
        """The rows, with a graph to what is trained."""
        return self.weight


def random_rows(k: int, width: int, seed: int) -> Float[Tensor, "k width"]:
    """Orthonormal rows of a uniformly drawn subspace, the same for the same seed.

    Examples
    --------
    >>> bool((random_rows(2, 4, 0) == random_rows(2, 4, 0)).all())
    True
    """
    drawn = torch.randn(width, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    return (q * r.diagonal().sign()).T.contiguous()
