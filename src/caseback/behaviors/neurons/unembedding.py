"""Moments over the vocabulary of what a row of numbers adds to the logits, without forming the logits.

    logits v = w U,  U centered over the vocabulary, so that mean v = 0
    sum_t v_t^2 = w (U U^T) w^T            with columns of length 1:  the same with U / |U_t|
    cos(v, f) = w (U f) / (sqrt(w (U U^T) w^T) |f|),    f centered

d x d once instead of a vocabulary per neuron.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.model.algebra.folding import Folded
from caseback.model.anatomy.coerce import in_float64

_products: WeakKeyDictionary[Folded, dict[bool, Tensor]] = WeakKeyDictionary()


def squares(folded: Folded, *, unit_columns: bool = False) -> Float[Tensor, "d_model d_model"]:
    """U U^T in float64, some of the vocabulary at a time; held, since several kinds read it.

    Parameters
    ----------
    folded
        Weights whose logits are centered.
    unit_columns
        Of columns less their mean after each was brought to length 1 (entry 5.2.18's variance).
    """
    held = _products.setdefault(folded, {})
    if unit_columns not in held:
        u = folded.W_U
        total = in_float64(u.new_zeros(len(u), len(u)))
        mean = total.new_zeros(len(u))
        for some in u.split(max(1, limit("weight_products", u.device) // len(u)), 1):
            own = in_float64(some)
            if unit_columns:
                own = own / own.norm(dim=0).clamp_min(torch.finfo(own.dtype).tiny)
            total += own @ own.T
            mean += own.sum(1)
        held[unit_columns] = total - torch.outer(mean, mean) / u.shape[1]
    return held[unit_columns]


def logit_variance(
    folded: Folded, rows: Float[Tensor, "row d_model"], *, unit_columns: bool = False
) -> Float[Tensor, " row"]:
    """The variance over the vocabulary of what rows add to the logits, in float64."""
    rows = in_float64(rows)
    product = squares(folded, unit_columns=unit_columns)
    return ((rows @ product) * rows).sum(1).clamp_min(0) / folded.W_U.shape[1]


class Cosines:
    """Cosines between what rows add to the logits and numbers of every vocabulary entry, both centered.

    Attributes
    ----------
    folded
        Weights whose logits are centered.
    over
        The numbers.
    """

    def __init__(self, folded: Folded, over: Float[Tensor, "vocab k"]):
        over = (over - over.mean(0)).to(folded.W_U)
        self.folded = folded
        self.target = in_float64(folded.W_U @ over) / in_float64(over).norm(dim=0)
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row k"]:
        """(row, k), in float64; 0 of rows that add nothing. Of the same rows again it is held."""
        if self._last is not None and self._last[0] is rows:
            return self._last[1]
        length = (logit_variance(self.folded, rows) * self.folded.W_U.shape[1]).sqrt()[:, None]
        dots = in_float64(rows) @ self.target
        cosines = torch.where(length > 0, dots / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
        self._last = rows, cosines
        return cosines
