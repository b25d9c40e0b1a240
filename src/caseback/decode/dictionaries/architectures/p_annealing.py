"""p-annealing: a penalty that turns from the L1 norm towards the count of active features (entry 4.2.22).

    L = |x - x^|^2 + lambda sum_i (a_i |d_i|)^p          p: 1, then down to p_end over the training

With p below 1 the penalty pulls less at large codes and more at small ones, as a count would; at p = 1 the start is
easy. The pull at 0 would be without bound: codes are counted from a small eps, (a + eps)^p - eps^p.

Karvonen et al. 2024 multiply lambda, whenever p falls, by the ratio of the penalties before and after, so that none of
the falls is a jump. Here the ratio to the L1 norm is taken at each step: the penalty's value is always that of L1, its
gradient that of p.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.registry import architecture
from caseback.errors import OutOfRange


@architecture("p_annealing")
class PAnnealing(Standard):
    """Rectified scores with an Lp penalty whose p falls.

    Parameters
    ----------
    p_end
        p at the end; .2 as its authors have it, who stop before 0.
    begin
        The share of the training after which p starts to fall.
    eps
        What codes are counted from.
    """

    options = ("p_end", "begin", "eps")
    p: Tensor

    def __init__(self, *sizes: Any, p_end: float = 0.2, begin: float = 0.25, eps: float = 1e-2, **options: Any):
        super().__init__(*sizes, **options)
        if not (0 < p_end <= 1 and 0 <= begin < 1 and eps > 0):
            raise OutOfRange(
                f"p_end {p_end}, begin {begin}, eps {eps}: expected p_end above 0 and up to 1, begin from 0 to less "
                "than 1, eps above 0"
            )
        self.p_end, self.begin, self.eps = p_end, begin, eps
        self.register_buffer("p", torch.ones((), dtype=torch.float64))

    def at(self, share: float) -> None:
        """Set p for where a training is."""
        done = min(1.0, max(0.0, (share - self.begin) / (1 - self.begin)))
        self.p.fill_(1 - (1 - self.p_end) * done)

    def penalty(self, scores: Tensor, codes: Tensor, at: Tensor | slice, n_tokens: int) -> Tensor:
        weighted = codes if self.facts.unit_rows else codes * self.norms()[at]
        p = self.p.to(codes.dtype)
        bent = ((weighted + self.eps) ** p - self.eps**p).sum()
        straight = weighted.detach().sum()
        return bent * (straight / bent.detach().clamp_min(1e-30)) / n_tokens
