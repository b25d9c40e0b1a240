"""Sums over the few features that are active at each token, forward and backward, without a matrix (token, feature).

    decode    x_n = sum_i a_ni d_i                over the features i active at token n
    backward  dL/dd_i = sum_n a_ni g_n            over the tokens n at which feature i is active
              dL/de_i = sum_n g_ni x_n            the same sum, for what the feature reads

Both are sums over bags of rows (``bags``, which says what computes them where): a bag is a token of its features, or a
feature of its tokens. The order of entries by feature is found once a step and used by both gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from caseback.decode.dictionaries import bags


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which features are active at which tokens: a matrix's entries, those of a token side by side.

    Attributes
    ----------
    token, feature
        (entry), where each entry is; tokens in rising order.
    n_tokens, n_features
        The matrix's sides.
    """

    token: Int[Tensor, " entry"]
    feature: Int[Tensor, " entry"]
    n_tokens: int
    n_features: int

    @property
    def density(self) -> float:
        """The share of the matrix that is active."""
        return len(self.token) / max(1, self.n_tokens * self.n_features)

    @cached_property
    def starts(self) -> Int[Tensor, " token"]:
        """Where each token's entries start."""
        return _starts(self.token, self.n_tokens)

    @cached_property
    def by_feature(self) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"], Int[Tensor, " feature"]]:
        """The order of entries by feature, their tokens in that order, and where each feature's entries start."""
        order = self.feature.argsort(stable=True)
        return order, self.token[order], _starts(self.feature, self.n_features)

    def only(self, entries: Tensor) -> Pattern:
        """Some of the entries, by a mask."""
        return Pattern(self.token[entries], self.feature[entries], self.n_tokens, self.n_features)

    def counts(self) -> Int[Tensor, " feature"]:
        """At how many tokens each feature is active."""
        return torch.bincount(self.feature, minlength=self.n_features)

    def dense(self, values: Float[Tensor, " entry"]) -> Float[Tensor, "token feature"]:
        """The matrix."""
        return values.new_zeros(self.n_tokens, self.n_features).index_put((self.token, self.feature), values)

    def sparse(self, values: Float[Tensor, " entry"]) -> Tensor:
        """The matrix as a sparse tensor (COO, coalesced), as ``stream.write_codes`` takes it."""
        order = (self.token * self.n_features + self.feature).argsort()
        places = torch.stack([self.token, self.feature[order]])
        size = (self.n_tokens, self.n_features)
        return torch.sparse_coo_tensor(places, values[order], size, is_coalesced=True, check_invariants=False)


def _starts(place: Tensor, count: int) -> Tensor:
    ends = torch.bincount(place, minlength=count).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])[:count]


def pattern_of(mask: Tensor) -> Pattern:
    """The entries of a mask (token, feature).

    Examples
    --------
    >>> found = pattern_of(torch.tensor([[False, True, True], [True, False, False]]))
    >>> found.token.tolist(), found.feature.tolist(), found.starts.tolist()
    ([0, 0, 1], [1, 2, 0], [0, 2])
    """
    token, feature = mask.nonzero(as_tuple=True)
    return Pattern(token, feature, *mask.shape)


def pattern_of_rows(feature: Int[Tensor, "token k"], n_features: int) -> Pattern:
    """As many entries at each token."""
    n, k = feature.shape
    token = torch.arange(n, device=feature.device).repeat_interleave(k)
    return Pattern(token, feature.flatten(), n, n_features)


def sparse_decode(
    values: Float[Tensor, " entry"], W_dec: Float[Tensor, "feature d"], pattern: Pattern
) -> Float[Tensor, "token d"]:
    """Each token's sum of its features' rows; differentiable in the values and the rows."""
    values = values.to(W_dec.dtype)
    if bags.uses_triton(W_dec):
        return _SparseDecode.apply(values, W_dec, pattern)  # pyright: ignore[reportReturnType]
    return bags.sums(values, W_dec, pattern.feature, pattern.starts)


class _SparseDecode(torch.autograd.Function):
    """``sparse_decode`` by kernels, which know no gradients of their own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.pattern = pattern
        return bags.sums(values, W_dec, pattern.feature, pattern.starts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        values, W_dec = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        to_values = to_W = None
        if ctx.needs_input_grad[0]:
            to_values = bags.dots(grad, W_dec, pattern.token, pattern.feature)
        if ctx.needs_input_grad[1]:
            order, token, starts = pattern.by_feature
            to_W = bags.sums(values[order], grad, token, starts)
        return to_values, to_W, None


def selected_scores(
    x: Float[Tensor, "token d"],
    W_enc: Float[Tensor, "feature d"],
    b_enc: Float[Tensor, " feature"],
    scores: Float[Tensor, "token feature"],
    pattern: Pattern,
) -> Float[Tensor, " entry"]:
    """The scores of some entries, x . e_i + b_i, whose gradient is computed for these entries alone.

    Parameters
    ----------
    scores
        All of them; looked at, and not part of the gradient's path.
    """
    return with_gradient(scores.detach()[pattern.token, pattern.feature], x, W_enc, b_enc, pattern)


def with_gradient(
    values: Float[Tensor, " entry"],
    x: Float[Tensor, "token d"],
    W_enc: Float[Tensor, "feature d"],
    b_enc: Float[Tensor, " feature"],
    pattern: Pattern,
) -> Float[Tensor, " entry"]:
    """The scores of a pattern's entries, whose values are known, as functions of what they were computed from."""
    return _SelectedScores.apply(x, W_enc, b_enc, values, pattern)  # pyright: ignore[reportReturnType]


class _SelectedScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.pattern = pattern
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, W_enc = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        needs_x, needs_W, needs_b = ctx.needs_input_grad[:3]
        order, token, starts = pattern.by_feature
        to_x = sparse_decode(grad, W_enc, pattern) if needs_x else None
        to_W = bags.sums(grad[order], x, token, starts) if needs_W else None
        to_b = grad.new_zeros(len(W_enc)).index_add_(0, pattern.feature, grad) if needs_b else None
        return to_x, to_W, to_b, None, None
