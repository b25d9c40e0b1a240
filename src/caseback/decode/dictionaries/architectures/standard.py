"""The standard sparse autoencoder: every positive score is active, and activity is penalized (entry 4.2.13).

    a = ReLU(W_enc (x - b_dec) + b_enc)       L = |x - x^|^2 + lambda sum_i a_i |d_i|

With the norm of what a feature writes in the penalty (Conerly et al. 2024) rows need no constraint; with unit rows it
is the plain L1 of Bricken et al. 2023.
"""

from __future__ import annotations

from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.registry import architecture


@architecture("standard")
class Standard(Dictionary):
    """Rectified scores with an L1 penalty."""

    reborn = 0.2  # Bricken et al. 2023: of positive scores all are active, and a long row would be so everywhere

    def keep(self, scores: Tensor) -> Tensor:
        return scores > 0

    def penalty(self, scores: Tensor, codes: Tensor, at: Tensor | slice, n_tokens: int) -> Tensor:
        weighted = codes if self.facts.unit_rows else codes * self.norms()[at]
        return weighted.sum() / n_tokens
