"""Batches of a corpus by step, for what is trained on it: which rows a step sees follows from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from caseback.errors import CasebackError, OutOfRange
from caseback.model.model import Model
from caseback.model.tokens import Tokens
from caseback.tasks.corpus import corpus_rows


def draws(
    model: Model,
    texts: Iterable[str],
    *,
    steps: int,
    tokens_per_step: int,
    length: int | None = None,
    batch: int = 8,
    least: int = 2,
    seed: int = 0,
) -> Iterator[list[Tokens]]:
    """For each step, batches that hold at least so many tokens; the corpus is gone through again when it ends.

    Parameters
    ----------
    model, texts, length, batch, least
        As for ``corpus_rows``.
    steps, tokens_per_step
        How many steps, and how many tokens each sees.
    seed
        Of the order of the rows.

    Raises
    ------
    CasebackError
        For an empty corpus.
    OutOfRange
        For no steps or no tokens.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [len(step) for step in draws(model, ["the cat", "the dog"], steps=2, tokens_per_step=1, batch=1)]
    [1, 1]
    """
    if steps < 1 or tokens_per_step < 1:
        raise OutOfRange(f"{steps} steps of {tokens_per_step} tokens: expected at least 1 of each")
    rows = [
        ids[mask].tolist()
        for tokens in corpus_rows(model, texts, length=length, batch=batch, least=least)
        for ids, mask in zip(tokens.ids, tokens.mask, strict=True)
    ]
    if not rows:
        raise CasebackError(f"the corpus is empty: no text has the {least} tokens that are needed")
    return _drawn(model, rows, steps, tokens_per_step, batch, random.Random(seed))


def _drawn(
    model: Model, rows: list[list[int]], steps: int, tokens_per_step: int, batch: int, rng: random.Random
) -> Iterator[list[Tokens]]:
    order: list[int] = []
    for _ in range(steps):
        seen, made = 0, []
        while seen < tokens_per_step:
            if len(order) < batch:
                order = rng.sample(range(len(rows)), len(rows)) + order
            some = [rows[order.pop()] for _ in range(min(batch, len(order)))]
            seen += sum(map(len, some))
            made.append(model.tokens(some))
        yield made
