"""Group TopK: features are active in groups, those whose codes are longest (Eldar et al. 2010).

    z = W_enc (x - b_dec) + b_enc        |z_g| the norm of the scores of group g, m features side by side
    a = z in the k / m groups of largest |z_g|, with their sign, else 0           L as of TopK

A group is a subspace: what varies in a plane (a circle of weekdays, Engels et al. 2024) is one group of two, where
single features would cut it into many. Within a group any other basis does as well, so codes have signs and single rows
mean little: what was found are the spans, ``subspaces()``. Groups of one are AbsTopK. Dead features are revived one by
one.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.topk import Revived
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, pattern_of_rows
from caseback.errors import OutOfRange
from caseback.model.anatomy.coerce import in_float64


@architecture("group_topk")
class GroupTopK(Revived):
    """The groups of each token whose scores have the largest norm.

    Parameters
    ----------
    k
        Active features a token, those of whole groups.
    group_size
        m, features of a group.
    """

    signed = True
    options = ("k", "group_size", "k_aux", "aux_coefficient")

    def __init__(self, *sizes: Any, k: int, group_size: int = 2, **options: Any):
        super().__init__(*sizes, **options)
        if group_size < 1 or self.n_features % group_size:
            raise OutOfRange(
                f"group_size is {group_size}: expected a divisor of {self.n_features}, the number of features"
            )
        if not 1 <= k <= self.n_features or k % group_size:
            raise OutOfRange(
                f"k is {k}: expected a multiple of {group_size}, the features of a group, up to {self.n_features}"
            )
        self.k, self.group_size = k, group_size

    def subspaces(self) -> Float[Tensor, "group group_size d_out"]:
        """An orthonormal basis of what each group writes."""
        rows = self.W_dec.detach().unflatten(0, (-1, self.group_size))
        return torch.linalg.qr(in_float64(rows.mT))[0].mT.to(rows)

    def keep(self, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, self._longest(scores), True)

    def select(self, scores: Tensor) -> Pattern:
        return pattern_of_rows(self._longest(scores), self.n_features)

    def _longest(self, scores: Tensor) -> Tensor:
        """The features of the groups that are active: as many of each row."""
        length = self.ranked(scores).unflatten(-1, (-1, self.group_size)).norm(dim=-1)
        group = length.topk(max(1, self.k // self.group_size), dim=-1, sorted=False).indices
        member = torch.arange(self.group_size, device=scores.device)
        return (group[..., None] * self.group_size + member).flatten(-2)
