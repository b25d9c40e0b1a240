"""A covariance matrix of few examples, drawn toward the mean variance.

    S* = a S + (1 - a) (tr S / d) I,       a = 1 - (tr S)^2 / n / (|S|^2 - (tr S)^2 / d)

The best linear combination of the two in the Frobenius norm as d and n grow together, whatever the distribution
(Bodnar, Gupta & Parolya 2014). ``a`` is between 0 and 1; noise in its estimate beyond is cut off, which keeps S* a
covariance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def optimal_linear_shrinkage(s: Float[Tensor, "*place d d"], n: float) -> Float[Tensor, "*place d d"]:
    """Covariance matrices of ``n`` examples, shrunk.

    Examples
    --------
    >>> s = torch.diag(torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64))
    >>> optimal_linear_shrinkage(s, 20).diagonal().round(decimals=2).tolist()
    [3.4, 1.3, 1.3]
    """
    d = s.shape[-1]
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)
    spread = s.square().sum((-2, -1)) - trace.square() / d
    share = (1 - trace.square() / n / spread.clamp_min(torch.finfo(s.dtype).tiny)).clamp(0, 1)[..., None, None]
    eye = torch.eye(d, dtype=s.dtype, device=s.device)
    return share * s + (1 - share) * (trace / d)[..., None, None] * eye
