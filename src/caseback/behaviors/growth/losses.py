"""Losses of one checkpoint: beside unigrams and bigrams, and late in a row less early in it.

    in-context score      E loss(late) - E loss(early)            (Olsson et al. 2022: token 500 less token 50)
    distance to n-grams   E KL( p(. | a) || q(. | row) ),  u in place of p for unigrams

Early is from .05 to .15 of a row, late its last tenth: 10 and 98 % of the row, as in the paper, over as many tokens as
there are near. The score falls below zero as the model learns from its context; beside it the same of bigrams, which
learn nothing from it. The distance is 0 for a model that is the n-gram itself, and grows again as it knows more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.growth.ngrams import NGrams
from caseback.behaviors.synthetic import span_of, streams
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import widened
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.stream.packing import Block, Row
from caseback.tasks.standard.repeats import ordinary_tokens

EARLY, LATE = (0.05, 0.15), (0.9, 1.0)
SHORTEST = 20
"""Of a row: in a shorter one there is nothing between early and late."""


@dataclass(frozen=True)
class Text:
    """Text as rows of tokens, with what its own statistics say of it.

    Attributes
    ----------
    rows
        The half that losses are of.
    counts
        Unigrams and bigrams of the other half.
    losses
        By ``"unigram"`` and ``"bigram"`` their losses, (row, pos), as ``losses_of`` gives them.
    distances
        The mean distance of bigrams ``"to unigrams"`` and of unigrams ``"to bigrams"``, where bigrams are counted on;
        None where they are nowhere.
    """

    rows: list[list[int]]
    counts: NGrams
    losses: dict[str, np.ndarray]
    distances: dict[str, float] | None

    @classmethod
    def of(cls, rows: Sequence[list[int]], n_vocab: int) -> Text:
        """Every second row is counted, the others are judged.

        Raises
        ------
        CasebackError
            For fewer than two rows.
        """
        if len(rows) < 2:
            raise CasebackError(f"a corpus of {len(rows)} rows: expected two at least, one to count and one to judge")
        counts, judged = NGrams(rows[::2], n_vocab), list(rows[1::2])
        both = [counts.losses(row) for row in judged]
        losses = {name: _padded([one[i] for one in both]) for i, name in enumerate(("unigram", "bigram"))}
        first = np.concatenate([np.asarray(row[:-1], np.int64) for row in judged])
        often, times = np.unique(first[counts.often(torch.from_numpy(first)).numpy()], return_counts=True)
        if not len(often):
            return cls(judged, counts, losses, None)
        u, apart = counts.unigram, np.zeros((len(often), 2))
        for row, token in zip(apart, often, strict=True):  # a table of all would be as large as the vocabulary squared
            p = counts.after(torch.tensor([token]))[0]
            ratio = p.log() - u.log()
            row[:] = float(-(u * ratio).sum()), float((p * ratio).sum())
        to_unigrams, to_bigrams = np.average(apart, axis=0, weights=times)
        return cls(judged, counts, losses, {"to unigrams": float(to_unigrams), "to bigrams": float(to_bigrams)})


@torch.no_grad()
def predictions(model: Model, rows: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches of rows: which they are, their ids and mask (row, pos), and log probabilities (row, pos, vocab)."""
    block = Block.of([Row([*row], number, 0, 0) for number, row in enumerate(rows)])
    fits = limit("lens_logits", model.device) // model.d_vocab
    for tokens, which in block.batches(max(1, min(limit("stream_tokens", model.device), fits))):
        tokens = tokens.to(model.device)
        yield which, tokens.ids, tokens.mask, execute(model.anatomy, tokens).logits.float().log_softmax(-1)


def losses_of(model: Model, rows: Sequence[Sequence[int]]) -> Float[np.ndarray, "row pos"]:
    """The loss of every token but a row's first, in nats; NaN past a row's end."""
    parts: list[np.ndarray] = [np.zeros(0)] * len(rows)
    for which, ids, mask, log_probs in predictions(model, rows):
        own = -log_probs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].cpu().double()
        for number, row in zip(which.tolist(), own.masked_fill(~mask[:, 1:].cpu(), torch.nan).numpy(), strict=True):
            parts[number] = row
    return _padded(parts)


def _padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    table = np.full((len(parts), max(map(len, parts))), np.nan)
    for row, own in zip(table, parts, strict=True):
        row[: len(own)] = own
    return table


def text_losses(model: Model, text: Text) -> tuple[np.ndarray, dict[str, float | None]]:
    """Losses of the text, (row, pos), and mean distances ``"to unigrams"`` and ``"to bigrams"``."""
    parts: list[np.ndarray] = [np.zeros(0)] * len(text.rows)
    unigram = text.counts.unigram
    own_entropy = (unigram * unigram.log()).sum()
    sums = torch.zeros(3, dtype=torch.float64)
    for which, ids, mask, log_probs in predictions(model, text.rows):
        q, inside = widened(log_probs[:, :-1]), mask[:, 1:]
        own = -q.gather(-1, ids[:, 1:, None])[..., 0]
        for number, row in zip(which.tolist(), own.masked_fill(~inside, torch.nan).cpu().numpy(), strict=True):
            parts[number] = row
        before = ids[:, :-1].cpu()
        some = text.counts.often(before) & inside.cpu()
        p, q = text.counts.after(before[some]).to(q), q[some.to(q.device)]
        parts_of = [(own_entropy.to(q) - q @ unigram.to(q)).sum(), (p * (p.log() - q)).sum(), some.sum().to(q)]
        sums += torch.stack(parts_of).cpu()
    to_unigram, to_bigram, n = sums.tolist()
    if not n:
        return _padded(parts), {"to unigrams": None, "to bigrams": None}
    return _padded(parts), {"to unigrams": to_unigram / n, "to bigrams": to_bigram / n}


def late_less_early(losses: Float[np.ndarray, "row pos"]) -> tuple[float, float]:
    """The mean of late tokens less that of early ones over whole rows, and its standard error over rows.

    Raises
    ------
    CasebackError
        Where whole rows are too short or too few.

    Examples
    --------
    >>> falling = np.linspace(4.0, 1.0, 101)[None].repeat(3, 0)
    >>> [round(number, 3) for number in late_less_early(falling)]
    [-2.58, 0.0]
    """
    width = losses.shape[1]
    whole = losses[~np.isnan(losses).any(1)]
    if width < SHORTEST or len(whole) < 2:
        raise CasebackError(
            f"{len(whole)} rows of {width + 1} tokens: expected 2 rows at least as long as the longest, of {SHORTEST} "
            "tokens or more; join short texts to longer ones"
        )
    early, late = (slice(round(a * width), round(b * width)) for a, b in (EARLY, LATE))
    apart = whole[:, late].mean(1) - whole[:, early].mean(1)
    return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))


def in_random_tokens(model: Model, rows: int, seed: int) -> tuple[float, float]:
    """The mean loss of random tokens that come again less that of their first half; the same where others come.

    The first token of the second half is left out, since nothing tells that the row begins again.

    Raises
    ------
    TokensError
        Where the vocabulary or the context is too small for two spans.
    """
    span, drawn = span_of(model, ordinary_tokens(model)), streams(model, rows=rows, seed=seed)
    apart = []
    for name in ("repeated", "fresh"):
        losses = losses_of(model, [ids for fold in drawn[name] for ids, _ in fold])
        apart.append(float(losses[:, 1 - span :].mean() - losses[:, :-span].mean()))
    return apart[0], apart[1]
