"""What one token and two say of the next: the statistics that a language model learns before it looks back further.

    u(b) = (n_b + 1) / (n + vocab)        p(b | a) = (n_ab + k_a u(b)) / (n_a + k_a)

k_a is how many different tokens follow a (Witten and Bell 1991): the more, the less is known of what else may. Counted
on one half of the rows; losses and distances are of the other half. A token that was counted fewer than ``OFTEN`` times
says too little of what follows it, and is left out of distances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix

OFTEN = 16


class NGrams:
    """Counts of tokens and of pairs.

    Parameters
    ----------
    rows
        Token ids, a row each.
    n_vocab
        The size of the vocabulary.

    Examples
    --------
    >>> counts = NGrams([[0, 1, 0, 1, 0, 1]], 2)
    >>> [round(float(p), 3) for p in counts.after(torch.tensor([0]))[0]]
    [0.107, 0.893]
    """

    def __init__(self, rows: Sequence[Sequence[int]], n_vocab: int):
        first = np.concatenate([np.asarray(row[:-1], np.int64) for row in rows])
        second = np.concatenate([np.asarray(row[1:], np.int64) for row in rows])
        # how often a token is predicted: the first of a row is not
        counts = np.bincount(second, minlength=n_vocab)
        self.unigram = torch.from_numpy((counts + 1) / (counts.sum() + n_vocab))
        self.pairs = coo_matrix((np.ones(len(first)), (first, second)), (n_vocab, n_vocab)).tocsr()
        self.before = torch.from_numpy(np.bincount(first, minlength=n_vocab))
        self.different = torch.from_numpy(np.diff(self.pairs.indptr).astype(np.int64)).clamp_min(1)

    def after(self, tokens: Int[torch.Tensor, " token"]) -> Float[torch.Tensor, "token vocab"]:
        """The distribution of what follows each token."""
        rows = torch.from_numpy(self.pairs[tokens.numpy()].toarray())
        different = self.different[tokens, None]
        return (rows + different * self.unigram) / (self.before[tokens, None] + different)

    def often(self, tokens: Int[torch.Tensor, "..."]) -> Bool[torch.Tensor, "..."]:
        """Which tokens were counted often enough to say what follows them."""
        return self.before[tokens] >= OFTEN

    def losses(self, row: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of every token of a row but the first, in nats: by the token alone, and after the one before it."""
        first, second = np.asarray(row[:-1], np.int64), np.asarray(row[1:], np.int64)
        alone = self.unigram.numpy()[second]
        pairs, different = np.asarray(self.pairs[first, second]).reshape(-1), self.different.numpy()[first]
        return -np.log(alone), -np.log((pairs + different * alone) / (self.before.numpy()[first] + different))
