"""TopK: the k highest scores of each token are active, those above 0 (entry 4.2.18; Gao et al. 2024).

    a = ReLU(TopK(W_enc (x - b_dec) + b_enc))
    L = |x - x^|^2 + alpha |e - e^|^2 / |e - mean e|^2            e = x - x^,  without its gradient

The auxiliary loss asks the dead features to reconstruct what the others left, with the k_aux highest of them at each
token: the share of e's variance that they do not explain. It reaches the encoder too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, pattern_of_rows
from caseback.errors import OutOfRange


class Revived(Dictionary):
    """A dictionary whose dead features learn from what the others leave (AuxK).

    Parameters
    ----------
    k_aux
        Dead features a token in the auxiliary loss; half the width by default, as Gao et al. take it.
    aux_coefficient
        Of the auxiliary loss; 1/32 there.
    """

    def __init__(self, *sizes: Any, k_aux: int | None = None, aux_coefficient: float = 1 / 32, **options: Any):
        super().__init__(*sizes, **options)
        self.k_aux = self.d_out // 2 if k_aux is None else k_aux
        self.aux_coefficient = aux_coefficient

    def highest(self, ranked: Tensor, k: int) -> Tensor:
        """Which k of each row are highest; of signed codes, largest."""
        return (ranked.abs() if self.signed else ranked).topk(k, dim=-1, sorted=False).indices

    def read_some(self, x: Tensor, features: Tensor) -> Tensor:
        """The scores of some features alone, of normalized and centered states."""
        return linear(x, self.W_enc[features], self.b_enc[features])

    def auxiliary(self, x: Tensor, error: Tensor, dead: Tensor | None) -> Tensor:
        """The share of the error's variance that the best dead features do not reconstruct, times the coefficient."""
        if dead is None or not self.aux_coefficient or not (some := dead.nonzero()[:, 0]).numel():
            return error.new_zeros(())
        scores = self.read_some(x, some)
        best = self.highest(scores, min(max(1, self.k_aux), len(some)))
        best_scores = scores.gather(-1, best)
        codes = torch.zeros_like(scores).scatter(-1, best, best_scores if self.signed else best_scores.relu())
        left = (error - codes @ self.W_dec[some]).square().sum(-1).mean()
        spread = (error - error.mean(0)).square().sum(-1).mean()
        return self.aux_coefficient * torch.where(spread > 0, left / spread.clamp_min(1e-30), 0)


@architecture("topk")
class TopK(Revived):
    """The k highest scores of each token.

    Parameters
    ----------
    k
        Active features a token.
    relu
        Whether those below 0 are dropped; circuit-tracer's files keep them.
    """

    options = ("k", "relu", "k_aux", "aux_coefficient")

    def __init__(self, *sizes: Any, k: int, relu: bool = True, **options: Any):
        super().__init__(*sizes, **options)
        if not 1 <= k <= self.n_features:
            raise OutOfRange(f"k is {k}: expected 1 to {self.n_features}, the number of features")
        self.k, self.relu = k, relu

    def keep(self, scores: Tensor) -> Tensor:
        best = self.highest(self.ranked(scores), self.k)
        mask = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
        return mask & (scores > 0) if self.relu else mask

    def select(self, scores: Tensor) -> Pattern:
        best = self.highest(self.ranked(scores), self.k)
        return pattern_of_rows(best, self.n_features)

    def activate(self, scores: Tensor, at: Tensor | slice) -> Tensor:
        return scores.relu() if self.relu else scores
