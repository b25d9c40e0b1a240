"""BatchTopK: the B k highest scores of a batch of B tokens are active; alone, those above a threshold (entry 4.2.19).

    training    the B k highest of ReLU(W_enc (x - b_dec) + b_enc), so that tokens may have more or fewer
    inference   scores above theta, an average over the batches of training of the smallest score that was active

A token's codes then depend on no other token. The average starts without bias: it is divided by 1 - beta^t.

Bussmann, Leask & Nanda 2024.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.topk import Revived
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, pattern_of
from caseback.errors import OutOfRange
from caseback.model.anatomy.coerce import widened

GAP = 1e-4
"""Scores that are relatively nearer to each other are one score: of a state that comes again, but for rounding."""


@architecture("batch_topk")
class BatchTopK(Revived):
    """The highest scores of a batch.

    Parameters
    ----------
    k
        Active features a token, on average.
    decay
        beta of the threshold's average over batches.
    """

    options = ("k", "decay", "k_aux", "aux_coefficient")
    threshold: Tensor
    batches: Tensor

    def __init__(self, *sizes: Any, k: float, decay: float = 0.99, **options: Any):
        super().__init__(*sizes, **options)
        if not 0 < k <= self.n_features:
            raise OutOfRange(f"k is {k}: expected more than 0, and at most {self.n_features}, the number of features")
        self.k, self.decay = k, decay
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def keep(self, scores: Tensor) -> Tensor:
        return (scores > 0) & (self.ranked(scores) > self.threshold.to(scores.dtype))

    def select(self, scores: Tensor) -> Pattern:
        ranked = self.ranked(scores)
        count = min(round(self.k * len(scores)), ranked.numel())
        pattern, values = _highest(ranked, count, float(self.threshold))
        if len(values):
            self._remember(values.min())
        return pattern

    def activate(self, scores: Tensor, at: Tensor | slice) -> Tensor:
        return scores.relu()

    def settle(self, x: Tensor) -> None:
        """Put the threshold where k features a token are active: the average lags behind weights that still move.

        It stands between two scores: on one of them, a state that comes again would be above or below it by rounding.
        """
        pieces = [self.ranked(self.scores(some)).relu() for some in x.split(4096)]
        high = torch.cat([piece[piece > 0.5 * self.threshold.to(piece.dtype)] for piece in pieces])
        count = round(self.k * len(x))
        if 0 < count < len(high):
            values = high.topk(count + 1).values
            above = values[values > (1 + GAP) * values[-1]]
            self.threshold.copy_((values[-1] + above[-1]) / 2 if len(above) else values[-1])

    def _remember(self, smallest: Tensor) -> None:
        self.batches += 1
        before = 1 - self.decay ** widened(self.batches - 1)
        now = 1 - self.decay ** widened(self.batches)
        self.threshold.copy_((self.decay * before * self.threshold + (1 - self.decay) * widened(smallest)) / now)


def _highest(ranked: Tensor, count: int, guess: float) -> tuple[Pattern, Tensor]:
    """The ``count`` highest positive entries of a matrix.

    Sorting all entries costs more than a product; those above a guess somewhat below the last threshold are few, and
    if they are enough, the highest are among them.
    """
    mask = ranked > max(0.0, 0.8 * guess)
    if int(mask.count_nonzero()) < count:
        mask = ranked > 0
    pattern = pattern_of(mask)
    values = ranked[pattern.token, pattern.feature]
    if len(values) > count:
        best = values.topk(count, sorted=False).indices.sort().values  # entries stay in the order of tokens
        pattern, values = pattern.only(best), values[best]
    return pattern, values
