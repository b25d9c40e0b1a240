"""Several dictionaries' codes of a corpus, in one pass of the model, as sparse matrices (token, feature)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.given import rows_in_hand
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.stream.documents import Corpus, documents
from caseback.stream.packing import Block, rows_of


@dataclass(frozen=True)
class CorpusTokens:
    """The tokens of a corpus that count: not the first of a row, which is a sink, nor what stands in front of it.

    Attributes
    ----------
    block
        The rows.
    place
        Which tokens of the block count, in their order.
    ids, previous, row
        Of each: its id, that of the token before (-1 where that does not count), its row.
    """

    block: Block
    place: np.ndarray
    ids: np.ndarray
    previous: np.ndarray
    row: np.ndarray

    def windows(self, size: int) -> np.ndarray:
        """The first token of each window: ``size`` tokens of one row, its last window what is left."""
        first_of_row = np.searchsorted(self.row, self.row)
        return np.flatnonzero((np.arange(len(self.row)) - first_of_row) % size == 0)

    def in_training(self, seed: int) -> np.ndarray:
        """Half of the documents, as a mask of tokens: a document is never on both sides."""
        document = self.block.document.numpy()[self.row]
        known, at = np.unique(document, return_inverse=True)
        order = np.random.default_rng(seed).permutation(len(known))
        return order[at] < len(known) / 2


def corpus_tokens(model: Model, corpus: Corpus, length: int | None) -> CorpusTokens:
    """Read a corpus as tokens.

    Raises
    ------
    CasebackError
        For one with fewer than two documents that have tokens that count.
    """
    block = Block.of(list(rows_of(model, documents(corpus), length=length)))
    starts, lengths = block.row_starts.numpy(), block.lengths.numpy()
    row = np.repeat(np.arange(len(block)), lengths)
    position = np.arange(block.n_tokens) - starts[row]
    place = np.flatnonzero(position >= np.maximum(1, block.front.numpy())[row])
    ids, own = block.ids.numpy().astype(np.int64)[place], row[place]
    counted_before = np.r_[False, (np.diff(place) == 1) & (np.diff(own) == 0)] if len(place) else np.zeros(0, bool)
    if len(np.unique(block.document.numpy()[own])) < 2:
        raise CasebackError(
            "the corpus has fewer than two documents with tokens enough: expected one to fit, one to test"
        )
    return CorpusTokens(block, place, ids, np.where(counted_before, np.roll(ids, 1), -1), own)


def states_over(
    model: Model, site: Site, tokens: CorpusTokens, *, progress: bool = False
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """A site's states over a corpus, pass by pass, (token, d), and which of its tokens they are of."""
    number = np.full(tokens.block.n_tokens, -1)
    number[tokens.place] = np.arange(len(tokens.place))
    starts = tokens.block.row_starts
    passes = list(tokens.block.batches(limit("stream_tokens", model.device)))
    for batch, rows in progress_bar(passes, "explain", show=progress, unit="batch"):
        own = batch.to(model.device)
        run = execute(model.anatomy, own, read=[site], logits=False)
        at = number[(starts[rows][:, None] + batch.mask.cumsum(1) - 1)[batch.mask].numpy()]
        states = run[site][own.mask].flatten(1)
        yield at[at >= 0], states[torch.from_numpy(at >= 0).to(states.device)]


def codes_over(
    model: Model, site: Site, dictionaries: Mapping[str, Dictionary], tokens: CorpusTokens, *, progress: bool = False
) -> dict[str, sparse.csr_matrix]:
    """The codes that each dictionary has for each token, negative ones left out."""
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in dictionaries}
    for at, states in states_over(model, site, tokens, progress=progress):
        for name, one in dictionaries.items():
            step = rows_in_hand(one)
            for first in range(0, len(states), step):
                codes = one.codes(states[first : first + step].to(one.W_enc)).coalesce()
                token, feature = codes.indices().cpu().numpy()
                values = codes.values().float().cpu().numpy()
                fires = values > 0
                parts[name].append((values[fires], at[first + token[fires]], feature[fires]))
    joined = {}
    for name, one in dictionaries.items():
        values, token, feature = (np.concatenate(column) for column in zip(*parts[name], strict=True))
        joined[name] = sparse.csr_matrix((values, (token, feature)), shape=(len(tokens.ids), one.n_features))
    return joined
