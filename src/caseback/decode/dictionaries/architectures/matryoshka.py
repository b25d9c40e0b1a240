"""Matryoshka BatchTopK: the first features reconstruct by themselves, and so do more of them (B.10).

    L = sum_g w_g |x - (sum_{i < m_g} a_i d_i + b_dec)|^2 + auxiliary         m_1 < ... < m_G = all features

Features are selected over the whole width, as in BatchTopK; only the loss is nested. The first must be of use without
the later ones, and so stay general where a plain dictionary would split or absorb them. What a group writes is added
to what the groups before it wrote: a step costs about as much as one reconstruction, not G.

Bussmann, Nabeshima, Karvonen & Nanda 2025. Their code sums the groups' errors; here their mean is the default, so that
the auxiliary loss weighs as much as it does elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, sparse_decode
from caseback.errors import OutOfRange


@architecture("matryoshka")
class Matryoshka(BatchTopK):
    """Nested reconstructions.

    Parameters
    ----------
    k
        Active features a token, on average.
    prefixes
        m_g: how many of the first features reconstruct alone, rising; the last is all of them. By default a 16th, an
        8th, a quarter, half and all.
    weights
        w_g of each prefix's error; 1 / G by default.
    """

    options = ("prefixes", "weights", *BatchTopK.options)
    shares: ClassVar[tuple[float, ...]] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the features, in prefixes by default
    weighed: ClassVar[tuple[float, ...]] = ()  # their weights by default; equal ones where none are named

    def __init__(
        self,
        *sizes: Any,
        k: float,
        prefixes: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        **options: Any,
    ):
        super().__init__(*sizes, k=k, **options)
        width = self.n_features
        chosen = (
            list(prefixes) if prefixes is not None else sorted({max(1, int(width * share)) for share in self.shares})
        )
        rising = all(a < b for a, b in zip([0, *chosen], chosen, strict=False))
        if not chosen or chosen[-1] != width or not rising:
            raise OutOfRange(f"prefixes {chosen}: expected rising numbers from 1, the last {width}, all features")
        if weights is None:
            weights = self.weighed if len(self.weighed) == len(chosen) else [1 / len(chosen)] * len(chosen)
        weights = list(weights)
        if len(weights) != len(chosen) or not all(weight >= 0 for weight in weights) or not sum(weights) > 0:
            raise OutOfRange(f"weights {weights}: expected {len(chosen)}, one a prefix, from 0 and not all 0")
        self.prefixes, self.weights = chosen, weights
        group = torch.bucketize(torch.arange(width), torch.tensor(chosen), right=True)
        self.register_buffer("group", group, persistent=False)

    group: Tensor

    def errors(self, codes: Tensor, pattern: Pattern | None, wanted: Tensor) -> tuple[Tensor, Tensor]:
        left = (wanted - self.b_dec)[:, None] - self._nested(codes, pattern)
        weights = left.new_tensor(self.weights)
        return left[:, -1], (left.square().sum(-1).mean(0) * weights).sum()

    def nested(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token prefix d_out"]:
        """The reconstructions by each prefix's features."""
        written = self._nested(self.encode(x), None) + self.b_dec
        states = x[:, None].expand(-1, len(self.prefixes), -1)
        return self._restored(written, states)

    def _nested(self, codes: Tensor, pattern: Pattern | None) -> Float[Tensor, "token prefix d_out"]:
        n_groups = len(self.prefixes)
        if pattern is None:
            starts = [0, *self.prefixes[:-1]]
            parts = [codes[:, a:b] @ self.W_dec[a:b] for a, b in zip(starts, self.prefixes, strict=True)]
            return torch.stack(parts, 1).cumsum(1)
        bag = pattern.token * n_groups + self.group[pattern.feature]  # one bag a token and group
        order = bag.argsort(stable=True)
        bags = Pattern(bag[order], pattern.feature[order], pattern.n_tokens * n_groups, pattern.n_features)
        written = sparse_decode(codes[order], self.W_dec, bags)
        return written.view(pattern.n_tokens, n_groups, -1).cumsum(1)
