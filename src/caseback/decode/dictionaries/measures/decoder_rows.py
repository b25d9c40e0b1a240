"""How a dictionary's rows lie to each other.

nearest_i = max_{j != i} cos(d_i, d_j)              near 1: a feature that is there twice
agreement_i = cos(e_i, d_i)                         what a feature reads, and what it writes
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64


def unit_rows(rows: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d"]:
    """Rows of norm 1 in float64; a row of zeros stays one."""
    rows = in_float64(rows.detach())
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)


def best_cosines(
    rows: Float[Tensor, "row d"], others: Float[Tensor, "other d"], *, same: bool = False
) -> tuple[Tensor, Tensor]:
    """The highest cosine of each row with any of the others, and which it is; ``same`` leaves a row itself out."""
    a, b = unit_rows(rows), unit_rows(others)
    values, indices = [], []
    step = max(1, limit("feature_scores", a.device) // max(1, len(b)))
    for first, some in zip(range(0, len(a), step), a.split(step), strict=True):
        cosines = some @ b.T
        if same:
            own = torch.arange(len(some), device=a.device)
            cosines[own, own + first] = -torch.inf
        best = cosines.max(1)
        values.append(best.values)
        indices.append(best.indices)
    return torch.cat(values), torch.cat(indices)


def nearest_rows(dictionary: Dictionary) -> Float[Tensor, " feature"]:
    """The highest cosine of each feature's row of ``W_dec`` with another feature's; NaN where there is no other."""
    if dictionary.n_features < 2:
        return torch.full((dictionary.n_features,), torch.nan, dtype=torch.float64)
    return best_cosines(dictionary.W_dec, dictionary.W_dec, same=True)[0]


def encoder_agreement(dictionary: Dictionary) -> Float[Tensor, " feature"]:
    """The cosine of what each feature reads with what it writes; NaN where they are of different widths."""
    if dictionary.d_in != dictionary.d_out:
        return torch.full((dictionary.n_features,), torch.nan, dtype=torch.float64)
    return (unit_rows(dictionary.W_enc) * unit_rows(dictionary.W_dec)).sum(1)
