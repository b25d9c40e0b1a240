"""Switch: a router sends each token to one of N experts, and only this one's features are read (Mudide et al. 2024).

    p = softmax(W_router (x - b_dec - b_router))        e = argmax p
    a = p_e ReLU(TopK(W_enc (x - b_dec) + b_enc))       over the features of expert e, a block of F / N; 0 elsewhere
    L = |x - x^|^2 + balance d N sum_i f_i P_i          f_i the share of tokens sent to i, P_i the mean of p_i

Encoding costs an N-th of a dense product. The router learns through p_e, which is a part of the codes: what they write
is a W_dec + b_dec, as everywhere. The last term keeps experts in use; f is a constant in it. A dead feature learns at
its expert's tokens alone. What several experts need, each must have: directions are found more than once.

The paper's center of the router is a vector of its own; here it is ``b_dec``, where that is subtracted, and an offset.
Its experts have no biases and its dead features learn nothing (``aux_coefficient=0``).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from caseback.decode.dictionaries.architectures.topk import Revived
from caseback.decode.dictionaries.dictionary import random_rows
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, pattern_of_rows, with_gradient
from caseback.errors import OutOfRange


@architecture("switch")
class Switch(Revived):
    """The k highest scores of each token's expert.

    Parameters
    ----------
    k
        Active features a token.
    n_experts
        N: features are so many blocks of equal size, one an expert. The paper has 16 to 128 for wide dictionaries.
    balance
        Of the term that keeps experts in use; states of squared norm d are taken for granted. 0.01 as in its code.
    """

    options = ("k", "n_experts", "balance", "k_aux", "aux_coefficient")
    of_all = ("W_router", "b_router", *Revived.of_all)

    def __init__(self, *sizes: Any, k: int, n_experts: int = 8, balance: float = 0.01, **options: Any):
        super().__init__(*sizes, **options)
        if n_experts < 1 or self.n_features % n_experts:
            raise OutOfRange(
                f"n_experts is {n_experts}: expected a divisor of {self.n_features}, the number of features"
            )
        self.k, self.n_experts, self.balance = k, n_experts, balance
        self.per_expert = self.n_features // n_experts
        if not 1 <= k <= self.per_expert:
            raise OutOfRange(f"k is {k}: expected 1 to {self.per_expert}, the number of features of an expert")
        if not balance >= 0:
            raise OutOfRange(f"balance is {balance}: expected 0 or more")
        seed, dtype = options.get("seed", 0), self.W_enc.dtype
        if seed is None:
            rows = torch.zeros(n_experts, self.d_in)
        else:
            rows = random_rows(n_experts, self.d_in, torch.Generator().manual_seed(seed ^ 1))
        self.W_router = nn.Parameter(rows.to(dtype))
        self.b_router = nn.Parameter(torch.zeros(self.d_in, dtype=dtype))

    def route(self, x: Float[Tensor, "... d_in"]) -> tuple[Int[Tensor, "..."], Float[Tensor, "... expert"]]:
        """The expert of each of some states, and the probabilities of all; of normalized and centered states."""
        chances = linear(x - self.b_router, self.W_router).softmax(-1)
        return chances.argmax(-1), chances

    def experts(self, x: Float[Tensor, "... d_in"]) -> Int[Tensor, "..."]:
        """Which expert each state goes to."""
        return self.route(self._centered(self.normalized(self._expected(x))))[0]

    def read(self, x: Tensor) -> Tensor:
        """Scores times the chance of the token's expert; 0 for features of the others, which are not read."""
        flat = x.reshape(-1, self.d_in)
        expert, chances = self.route(flat)
        order = expert.argsort(stable=True)
        counts = expert.bincount(minlength=self.n_experts).tolist()
        W_enc, b_enc = self.W_enc.split(self.per_expert), self.b_enc.split(self.per_expert)
        parts = [linear(*each) for each in zip(flat[order].split(counts), W_enc, b_enc, strict=True)]
        gated = torch.cat(parts) * chances.amax(-1)[order, None]
        scores = gated.new_zeros(len(flat), self.n_experts, self.per_expert)
        return scores.index_put((order, expert[order]), gated).view(*x.shape[:-1], self.n_features)

    def read_entries(self, x: Tensor, scores: Tensor, pattern: Pattern) -> Tensor:
        chance = self.route(x)[1].amax(-1)[pattern.token]
        alone = scores.detach()[pattern.token, pattern.feature] / chance.detach()
        return chance * with_gradient(alone, x, self.W_enc, self.b_enc, pattern)

    def read_some(self, x: Tensor, features: Tensor) -> Tensor:
        return self.read(x)[:, features]

    def reads(self, x: Tensor, token: Tensor, feature: Tensor) -> Tensor:
        """What active features read; the chance of the token's expert is a factor, and held."""
        chances = self.route(self._centered(self.normalized(self._expected(x))))[1]
        return super().reads(x, token, feature) * chances.amax(-1)[token, None]

    def keep(self, scores: Tensor) -> Tensor:
        best = self.highest(self.ranked(scores), self.k)
        return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True) & (scores > 0)

    def select(self, scores: Tensor) -> Pattern:
        return pattern_of_rows(self.highest(self.ranked(scores), self.k), self.n_features)

    def activate(self, scores: Tensor, at: Tensor | slice) -> Tensor:
        return scores.relu()

    def auxiliary(self, x: Tensor, error: Tensor, dead: Tensor | None) -> Tensor:
        """The loss of dead features, and of experts that are not used alike."""
        expert, chances = self.route(x)
        share = expert.bincount(minlength=self.n_experts).to(chances.dtype) / len(x)
        uneven = self.n_experts * (share @ chances.mean(0))
        return super().auxiliary(x, error, dead) + self.balance * self.d_in * uneven
