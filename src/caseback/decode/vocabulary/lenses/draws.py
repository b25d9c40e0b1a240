"""Batches of a corpus by step, for what is trained on it: which rows a step sees follows from seed and step alone.

So a training that is interrupted goes on with the rows that it would have seen, and none before them is drawn again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from caseback.errors import CasebackError, OutOfRange
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.corpus import corpus_rows


class Draws:
    """The rows of a corpus, from which each step of a training draws some.

    Within a step no row comes again before all have come.

    Parameters
    ----------
    model, texts, length, batch, least
        As for ``corpus_rows``.
    seed
        Same seed, same result. It draws the order of the rows.

    Attributes
    ----------
    rows
        The corpus as rows of token ids.
    seen
        How many tokens were drawn so far, repeated ones each time.

    Raises
    ------
    CasebackError
        For an empty corpus.

    Examples
    --------
    >>> import caseback as cb
    >>> drawn = Draws(cb.load("meadow"), ["the cat", "the dog", "the park"], batch=2)
    >>> [batch.shape for batch in drawn.of_step(0, tokens=8)], drawn.seen
    ([(2, 3), (2, 3)], 12)
    >>> first, again = ([batch.ids.tolist() for batch in drawn.of_step(7, tokens=8)] for _ in range(2))
    >>> first == again
    True
    """

    def __init__(
        self,
        model: Model,
        texts: Iterable[str],
        *,
        length: int | None = None,
        batch: int = 8,
        least: int = 2,
        seed: int = 0,
    ):
        self.model, self.batch, self.least, self.seed, self.seen = model, batch, least, seed, 0
        self.rows: list[list[int]] = [
            ids[mask].tolist()
            for tokens in corpus_rows(model, texts, length=length, batch=batch, least=least)
            for ids, mask in zip(tokens.ids, tokens.mask, strict=True)
        ]
        if not self.rows:
            raise CasebackError(f"the corpus is empty: no text has the {least} tokens that are needed")

    def of_step(self, step: int, tokens: int) -> Iterator[Tokens]:
        """Batches of at least so many tokens, the same ones whatever was drawn before.

        Parameters
        ----------
        step
            Which step.
        tokens
            How many tokens it sees.
        """
        return self._draw(random.Random(f"{self.seed}-{step}"), tokens)

    def some(self, tokens: int) -> Iterator[Tokens]:
        """Batches that no step is tied to, each row once at most.

        Parameters
        ----------
        tokens
            How many tokens, if the corpus has as many.
        """
        return self._draw(random.Random(f"{self.seed}-start"), min(tokens, sum(map(len, self.rows))), again=False)

    def _draw(self, rng: random.Random, tokens: int, again: bool = True) -> Iterator[Tokens]:
        # as many rows as these tokens can take, so that a step does not shuffle a corpus of which it reads a little
        most = min(len(self.rows), tokens // self.least + self.batch)
        order: list[int] = []
        while tokens > 0:
            if len(order) < self.batch and (again or not order):
                order = rng.sample(range(len(self.rows)), most) + order
            some = [self.rows[order.pop()] for _ in range(min(self.batch, len(order)))]
            tokens -= sum(map(len, some))
            self.seen += sum(map(len, some))
            yield self.model.tokens(some)


def expect_steps(steps: int, per_step: int, lr: float, what: str = "tokens") -> None:
    """Refuse a training of nothing.

    Raises
    ------
    OutOfRange
        For steps, tokens (or ``what`` else a step sees) or a learning rate that are not above 0.
    """
    if steps < 1 or per_step < 1 or not lr > 0:
        raise OutOfRange(f"{steps} steps of {per_step} {what} at rate {lr}: expected more than 0 of each")
