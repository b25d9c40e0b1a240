"""Parsed sentences whose words stand one after another: padded batches of them, and what is right to say of each.

Every sentence has two trees, its own and the same one with its words shuffled, which a structural probe is to be
compared with: word i plays the part of word order_i.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.decode.probes.trees import edges_of, tree_depths, tree_distances

TASKS = ("task", "shuffled")


class ParsedSentences:
    """Where each sentence's words stand, and its trees.

    Parameters
    ----------
    heads
        Of each sentence's words, from 0 within it, -1 for the root.
    kind
        ``"distance"`` between words or ``"depth"`` below the root.
    random
        Draws the orders of shuffled trees.
    """

    def __init__(self, heads: list[np.ndarray], kind: str, random: np.random.Generator):
        self.heads, self.kind = heads, kind
        self.lengths = np.array([len(h) for h in heads])
        self.first = np.cumsum(self.lengths) - self.lengths
        self._orders = [random.permutation(n) for n in self.lengths]
        self._targets: list[np.ndarray] = [np.zeros(0)] * len(heads)
        for same in self.of_each_length(np.arange(len(heads))):
            of = np.stack([heads[row] for row in same])
            targets = self._in_both(same, tree_distances(of) if kind == "distance" else tree_depths(of))
            for i, row in enumerate(same):
                self._targets[row] = targets[:, i]

    def of_each_length(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Places, among ``rows``, of sentences of one length."""
        for n in np.unique(self.lengths[rows]):
            yield np.flatnonzero(self.lengths[rows] == n)

    def words_of(self, rows: np.ndarray) -> Int[np.ndarray, " word"]:
        """The places of all words of some sentences."""
        return np.flatnonzero(np.isin(np.repeat(np.arange(len(self.heads)), self.lengths), rows))

    def _in_both(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values of words, or of pairs where there are two dimensions of words, by task and sentence."""
        order = np.stack([self._orders[row] for row in rows])
        shuffled = np.take_along_axis(values, order[..., None] if values.ndim == 3 else order, 1)
        shuffled = np.take_along_axis(shuffled, order[:, None], 2) if values.ndim == 3 else shuffled
        return np.stack([values, shuffled])

    def padded(
        self, rows: np.ndarray, like: Tensor
    ) -> tuple[Int[Tensor, "sentence word"], Bool[Tensor, "sentence word"], Float[Tensor, "task sentence *word"]]:
        """Of some sentences: places of words, which of these are words, and distances or depths."""
        lengths = self.lengths[rows]
        n = int(lengths.max())
        inside = np.arange(n) < lengths[:, None]
        places = self.first[rows, None] + np.where(inside, np.arange(n), 0)
        shape = (len(TASKS), len(rows), n, n) if self.kind == "distance" else (len(TASKS), len(rows), n)
        targets = np.zeros(shape)
        for i, row in enumerate(rows):
            targets[(slice(None), i, *[slice(lengths[i])] * (len(shape) - 2))] = self._targets[row]
        to = like.device
        return torch.from_numpy(places).to(to), torch.from_numpy(inside).to(to), torch.from_numpy(targets).to(like)

    def golden(
        self, rows: np.ndarray, scored: Bool[np.ndarray, " word"]
    ) -> tuple[Bool[np.ndarray, "task sentence *word"], Bool[np.ndarray, "task sentence word"]]:
        """Of sentences of one length: which pairs are edges, or which words roots; and which words are scored."""
        of = np.stack([self.heads[row] for row in rows])
        counted = self._in_both(rows, scored[self.first[rows, None] + np.arange(of.shape[1])])
        if self.kind == "distance":
            return self._in_both(rows, edges_of(of)) & counted[..., None] & counted[:, :, None], counted
        return self._in_both(rows, of == -1) & counted, counted

    def scorable(
        self, scored: Bool[np.ndarray, " word"], rows: np.ndarray
    ) -> tuple[Float[np.ndarray, " sentence"], float]:
        """How many edges or roots there are to be right about, and which share a guess without a model has.

        Edges are guessed between neighbors among the words that are scored, a root among these at random.
        """
        sizes, guessed = np.zeros(len(rows)), 0.0
        for some in self.of_each_length(rows):
            (golden, _), (counted, _) = self.golden(rows[some], scored)
            if self.kind == "depth":
                sizes[some] = golden.sum(1)
                guessed += float((golden.sum(1) / counted.sum(1).clip(1)).sum())
                continue
            sizes[some] = golden.sum((1, 2)) / 2
            place = counted.cumsum(1)
            guessed += float((golden & (abs(place[..., None] - place[:, None]) == 1)).sum() / 2)
        return sizes, guessed / max(float(sizes.sum()), 1.0)
