"""Text with two things to learn: which word follows which, and that what was said before is said again.

    p(b | a)    .85 to four followers of a (.4 .3 .2 .1 of it),  .15 to any word by its rank, 1 / (rank + 1)
    a row       8 to 24 words of that chain | 3 to 9 words drawn evenly, said 2 to 5 times | ...,   .6 and .4 of them

The chain is all that bigrams can know; who guesses a repeated span must look back.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from caseback.organisms.prose.world import WHOLE_WORDS

START = "<|endoftext|>"
WORDS = WHOLE_WORDS[::3][:199]
VOCABULARY, LENGTH = len(WORDS) + 1, 64
FOLLOWERS, OFTEN = (0.4, 0.3, 0.2, 0.1), 0.85
SPANS = 0.4
"""Of the stretches of a row, how many are repeated spans."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; ``<|endoftext|>``, token 0, opens every text and stands for unknown words."""
    backend = Tokenizer(models.WordLevel({START: 0} | {word: i + 1 for i, word in enumerate(WORDS)}, unk_token=START))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), START)
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LENGTH, **names)


def chain(seed: int) -> Float[np.ndarray, "word next"]:
    """The probability of every word after every other; token 0 follows nothing.

    Parameters
    ----------
    seed
        Same seed, same result. Draws the followers of each word.
    """
    rng = np.random.default_rng(seed)
    ids = np.arange(1, VOCABULARY)
    by_rank = 1 / (ids + 1)
    by_rank /= by_rank.sum()
    table = np.zeros((VOCABULARY, VOCABULARY))
    table[:, 1:] = (1 - OFTEN) * by_rank
    for row in table:
        row[rng.choice(ids, len(FOLLOWERS), replace=False, p=by_rank)] += OFTEN * np.array(FOLLOWERS)
    return table


def rows(table: Float[np.ndarray, "word next"], count: int, seed: tuple[int, ...]) -> Int[Tensor, "row pos"]:
    """Rows of ``LENGTH`` tokens and the one that follows, each opened by token 0.

    Parameters
    ----------
    table
        What ``chain`` gave.
    count
        How many.
    seed
        Same seed, same result.
    """
    rng, below = np.random.default_rng(seed), table.cumsum(1)
    drawn = []
    for _ in range(count):
        row = [0]
        while len(row) <= LENGTH:
            if rng.random() < SPANS:
                row += rng.integers(1, VOCABULARY, rng.integers(3, 10)).tolist() * int(rng.integers(2, 6))
                continue
            for u in rng.random(rng.integers(8, 25)):
                row.append(min(VOCABULARY - 1, int(np.searchsorted(below[row[-1]], u, side="right"))))
        drawn.append(row[: LENGTH + 1])
    return torch.tensor(drawn)


def texts(count: int, seed: int = 0) -> list[str]:
    """Rows as text, of the chain that the bundled run was trained on, and from none of its rows.

    Examples
    --------
    >>> len(texts(1)[0].split())
    63
    """
    return [" ".join(WORDS[i - 1] for i in row[1:-1]) for row in rows(chain(0), count, (seed, 2**31)).tolist()]
