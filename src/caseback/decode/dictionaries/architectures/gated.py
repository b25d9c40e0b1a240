"""Gated: whether a feature is active and how much are two questions (entry 4.2.17; Rajamanoharan et al. 2024a).

    pi = W_enc (x - b_dec) + b_enc                       the gate
    m  = exp(r_mag) W_enc (x - b_dec) + b_mag            the magnitude, of the same directions
    a  = H(pi) ReLU(m)
    L  = |x - x^|^2 + lambda sum_i ReLU(pi_i) |d_i| + |x - (ReLU(pi) W_dec + b_dec)|^2

The penalty falls on the gate alone, so magnitudes do not shrink. No gradient passes H: the gate learns from the last
term, in which ``W_dec`` and ``b_dec`` are constants.

As m = exp(r_mag) (pi - b_enc) + b_mag, a gated dictionary is a JumpReLU of the scores m with the thresholds
b_mag - exp(r_mag) b_enc: ``as_jump_relu``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, sparse_decode


@architecture("gated")
class Gated(Dictionary):
    """A gate, and a magnitude.

    Parameters
    ----------
    frozen
        Whether the decoder is a constant in the gate's own term, as in the paper; SAELens lets it learn there too.
    """

    unit_rows = True
    options = ("frozen",)

    def __init__(self, *sizes: Any, frozen: bool = True, **options: Any):
        super().__init__(*sizes, **options)
        self.frozen = frozen
        self.r_mag = nn.Parameter(torch.zeros_like(self.b_enc))
        self.b_mag = nn.Parameter(torch.zeros_like(self.b_enc))

    def keep(self, scores: Tensor) -> Tensor:
        return scores > 0

    def activate(self, scores: Tensor, at: Tensor | slice) -> Tensor:
        return (self.r_mag[at].exp() * (scores - self.b_enc[at]) + self.b_mag[at]).relu()

    def slopes(self, feature: Tensor) -> Tensor:
        return self.r_mag[feature].exp()

    def penalty(self, scores: Tensor, codes: Tensor, at: Tensor | slice, n_tokens: int) -> Tensor:
        gate = scores.relu()
        return (gate if self.facts.unit_rows else gate * self.norms()[at]).sum() / n_tokens

    def guide(self, scores: Tensor, pattern: Pattern | None, wanted: Tensor) -> Tensor:
        """The squared error of what the gates alone would write."""
        W_dec, b_dec = (self.W_dec.detach(), self.b_dec.detach()) if self.frozen else (self.W_dec, self.b_dec)
        gate = scores.relu()
        written = gate @ W_dec if pattern is None else sparse_decode(gate, W_dec, pattern)
        return (wanted - written - b_dec).square().sum(-1).mean()
