"""Temporal: the first features are to say the same of neighboring tokens, and so hold what a text is about (B.10).

    L = sum_g w_g |x - (sum_{i < m_g} a_i d_i + b_dec)|^2 + contrast d C + auxiliary          m_1 high-level features
    C = -1/2 mean_n [ log softmax_m(c_nm) + log softmax_m(c_mn) ] at m = n          c_nm = cos(h_n, h'_m) / temperature

h_n are the high-level codes of token n and h'_n those of the token before it in its text: which of all tokens before
was this one's is told by them in both directions (InfoNCE). What a text keeps saying is told apart so, what changes
with each token is not, and is left to the other features. The rest is a Matryoshka of two prefixes: the high-level
features reconstruct alone, then all together. Codes in C are those of a token alone, above the threshold.

Bhalla, Oesterling, Verdun, Lakkaraju & Calmon 2025 (temporal SAEs). Tokens without one before are left out of C alone;
``contrast`` is times d, since states have the squared norm d. Another "temporal" dictionary, of SAELens (Lubana et al.
2025), predicts codes by attention over the whole text: it is not this one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from caseback.decode.dictionaries.architectures.matryoshka import Matryoshka
from caseback.decode.dictionaries.dictionary import Losses
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, pattern_of, sparse_decode, with_gradient
from caseback.errors import OutOfRange


class Pairs(NamedTuple):
    """Which tokens of a batch have one before them in their text.

    Attributes
    ----------
    token
        (pair), their places in the batch.
    before
        (pair, d_in), the state before each.
    """

    token: Int[Tensor, " pair"]
    before: Float[Tensor, "pair d_in"]


@architecture("temporal")
class Temporal(Matryoshka):
    """High-level features, which neighboring tokens share, before all others.

    Parameters
    ----------
    k
        Active features a token, on average.
    prefixes
        How many features are high-level, and all of them; a fifth and all by default, as its authors have it.
    weights
        Of the errors of both; .2 and .8 there.
    contrast
        Of the contrast, in units of a state's squared norm.
    temperature
        What cosines are divided by.
    """

    options = ("contrast", "temperature", *Matryoshka.options)
    paired = True
    shares, weighed = (1 / 5, 1.0), (0.2, 0.8)

    def __init__(self, *sizes: Any, contrast: float = 0.1, temperature: float = 0.1, **options: Any):
        super().__init__(*sizes, **options)
        if not (contrast >= 0 and temperature > 0):
            raise OutOfRange(
                f"contrast {contrast}, temperature {temperature}: expected contrast from 0, temperature above 0"
            )
        self.contrast, self.temperature = contrast, temperature

    @property
    def n_high(self) -> int:
        """How many features are high-level: the first ones."""
        return self.prefixes[0]

    def losses(self, x: Tensor, target: Tensor | None = None, *, pairs: Pairs | None = None, **more: Any) -> Losses:
        """What a step minimizes; the contrast is part of ``auxiliary``, and 0 where no pairs are given.

        Parameters
        ----------
        x, target, more
            As of other dictionaries.
        pairs
            Which tokens have one before them, and its state.
        """
        losses = super().losses(x, target, **more)
        if pairs is None or not self.contrast or len(pairs.token) < 2:
            return losses
        contrast = self.contrast * self.d_in * self.contrast_of(x[pairs.token], pairs.before)
        return losses._replace(total=losses.total + contrast, auxiliary=losses.auxiliary + contrast)

    def contrast_of(self, x: Float[Tensor, "pair d_in"], before: Float[Tensor, "pair d_in"]) -> Float[Tensor, ""]:
        """C: how badly the high-level codes of states tell which states were before them, in nats."""
        n = len(x)
        values, pattern = self._directions(torch.cat([x, before]))
        first = pattern.token < n
        own, other = pattern.only(first), pattern.only(~first)
        columns = values.new_zeros(self.n_high, n).index_put((other.feature, other.token - n), values[~first])
        cosines = sparse_decode(values[first], columns, Pattern(own.token, own.feature, n, self.n_high))
        logits = cosines / self.temperature
        return ((logits.logsumexp(0) + logits.logsumexp(1)) / 2 - logits.diagonal()).mean()

    def _directions(self, x: Tensor) -> tuple[Float[Tensor, " entry"], Pattern]:
        """High-level codes of states, each state's of norm 1, where they are not 0."""
        read = self._centered(self.normalized(self._expected(x)))
        W_enc, b_enc = self.W_enc[: self.n_high], self.b_enc[: self.n_high]
        with torch.no_grad():
            scores = linear(read, W_enc, b_enc).to(read.dtype)
            ranked = scores * self.norms()[: self.n_high] if self.facts.by_norm else scores
            pattern = pattern_of((scores > 0) & (ranked > self.threshold.to(scores.dtype)))
            known = scores[pattern.token, pattern.feature]
        codes = with_gradient(known, read, W_enc, b_enc, pattern)
        squares = codes.new_zeros(len(x)).index_add(0, pattern.token, codes.square())
        return codes * squares.clamp_min(1e-24).rsqrt()[pattern.token], pattern
