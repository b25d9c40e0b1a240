"""Streams of random tokens, with and without the relations that heads are known for.

    repeated    r1 ... rk  r1 ... rk        every token of the second half stood before, and so did what follows it
    shuffled    r1 ... rk  a permutation    every token stood before, at no fixed distance
    fresh       r1 ... rk  k others         no token stood before: the control

Each begins as the tokenizer begins a text. Labels of the second half: ``same``, where the token stood before, and
``next``, the place behind that; in ``fresh`` they name the places that ``repeated`` would. Rows are in folds, half of
which units are ranked on and half scored on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caseback.errors import TokensError
from caseback.model.running.model import Model
from caseback.stream.packing import front_of
from caseback.tasks.prompts import LabeledRow
from caseback.tasks.standard.repeats import ordinary_tokens

FOLDS = 8
LEAST = 4
STREAMS = ("repeated", "shuffled", "fresh")


def span_of(model: Model, ids: Sequence[int]) -> int:
    """How many tokens are repeated: 50, or fewer where the vocabulary or the context is small.

    Raises
    ------
    TokensError
        Where not even four fit.
    """
    room = model.context
    span = min(50, len(ids) // 2, (room - len(front_of(model))) // 2 if room else 50)
    if span < LEAST:
        raise TokensError(
            f"{len(ids)} ordinary tokens and a context of {room}: expected room for two different spans of {LEAST}"
        )
    return span


def streams(model: Model, ids: Sequence[int] | None = None, *, rows: int = 64, seed: int = 0) -> dict[str, list[list]]:
    """Folds of labeled rows for every stream of ``STREAMS``.

    Parameters
    ----------
    model
        The model; its tokenizer says which tokens are ordinary.
    ids
        The tokens to draw from; by default all that are ordinary.
    rows
        Rows of each stream, in ``FOLDS`` folds.
    seed
        Same seed, same result. Draws the tokens.

    Returns
    -------
    dict[str, list[list]]
        By stream a list of folds, each a corpus for ``collect`` with ``bos=False``.
    """
    ordinary = list(ordinary_tokens(model) if ids is None else ids)
    span = span_of(model, ordinary)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[LabeledRow]] = {name: [] for name in STREAMS}
    for _ in range(rows):
        tokens = rng.choice(ordinary, 2 * span, replace=False)
        first, others = tokens[:span], tokens[span:]
        order = rng.permutation(span)
        drawn["repeated"].append(row(model, first, first, np.arange(span)))
        drawn["shuffled"].append(row(model, first, first[order], order))
        drawn["fresh"].append(row(model, first, others, np.arange(span)))
    return {name: [own[fold::FOLDS] for fold in range(FOLDS)] for name, own in drawn.items()}


def row(model: Model, first: np.ndarray, second: np.ndarray, stood: np.ndarray) -> LabeledRow:
    """One row of two halves; ``stood`` says which token of the first half each of the second is, or would be."""
    front = front_of(model)
    lead = len(front)
    before = [-1] * (lead + len(first))
    in_first = stood + 1 < len(first)  # what follows the last of the first half is the second half's first
    labels = {
        "same": [*before, *(stood + lead).tolist()],
        "next": [*before, *np.where(in_first, stood + 1 + lead, -1).tolist()],
    }
    return [*front, *first.tolist(), *second.tolist()], labels
