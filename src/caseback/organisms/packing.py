"""From documents to rows of tokens for training.

A row is documents end to end, each opened by ``<|endoftext|>``, cut at the context. About a fifth of the tokens are
random spans that occur twice or more, drawn uniformly over the whole vocabulary: the only way to guess the second
occurrence is to look back, which makes induction heads form and keeps every embedding in use. At first there are more
of them, and most are short and repeated many times, from which looking back is learned sooner. Each token carries a
weight for the loss: answers count more, and the first occurrence of a random span, which cannot be guessed, counts
less.
"""

from __future__ import annotations

import random

import torch
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerFast

from caseback.organisms.prose import text
from caseback.organisms.prose.documents import Document
from caseback.organisms.tokenizer import end_of_text

ANSWER_WEIGHT = 3.0
CHANCE_WEIGHT = 0.2
SPAN_SHARE = 0.06  # of documents; spans are long, so it is about a fifth of the tokens
EARLY_SHARE = 0.25  # as many more at the very start
BARE_SHARE = 0.1  # of rows that open without <|endoftext|>, so that prompts may lack it too

Weighted = tuple[list[int], list[float]]


def repeated_span(rng: random.Random, vocab: int, special: int) -> Weighted:
    """A random span that occurs two to four times, sometimes with other tokens in between.

    Parameters
    ----------
    rng
        The random generator.
    vocab
        Tokens are drawn uniformly from ``range(vocab)``.
    special
        The token that is never drawn.

    Returns
    -------
    ids, weights
        Of equal length.
    """

    def draw(count: int) -> list[int]:
        drawn = (rng.randrange(vocab - 1) for _ in range(count))
        return [token + (token >= special) for token in drawn]

    span = draw(rng.randint(3, 45))
    ids, weights = list(span), [CHANCE_WEIGHT] * len(span)
    for _ in range(rng.randint(1, 3 if len(span) < 20 else 1)):
        between = draw(rng.randint(1, 8)) if rng.random() < 0.2 else []
        ids += between + span
        # Until the first token comes again, nothing shows that the span starts over.
        weights += [CHANCE_WEIGHT] * (len(between) + 1) + [1.0] * (len(span) - 1)
    return ids, weights


def short_span(rng: random.Random, vocab: int, special: int) -> Weighted:
    """Two to eight random tokens, three to seven times in a row; the arguments are those of ``repeated_span``."""
    span = [token + (token >= special) for token in rng.choices(range(vocab - 1), k=rng.randint(2, 8))]
    more = rng.randint(2, 6)
    return span * (more + 1), [CHANCE_WEIGHT] * (len(span) + 1) + [1.0] * (more * len(span) - 1)


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> list[Weighted]:
    """Ids and weights per document, without the opening ``<|endoftext|>``."""
    pieces = [piece for d in documents for piece in (d.prompt, d.answer, d.rest)]
    ids = iter(tokenizer(pieces, add_special_tokens=False)["input_ids"])
    encoded = []
    for prompt, answer, rest in zip(ids, ids, ids, strict=True):
        weights = [1.0] * len(prompt) + [ANSWER_WEIGHT] * len(answer) + [1.0] * len(rest)
        encoded.append((prompt + answer + rest, weights))
    return encoded


def rows(
    tokenizer: PreTrainedTokenizerFast, count: int, length: int, seed: str, early: float = 0.0, phase: int = 0
) -> tuple[Int[torch.Tensor, "row pos"], Float[torch.Tensor, "row pos"]]:
    """``count`` training rows of ``length`` tokens and the loss weight of each token.

    Parameters
    ----------
    tokenizer
        The bundled model's.
    count, length
        How many rows, and how many tokens per row.
    seed
        Same seed, same result. Draws documents and spans.
    early
        From 1 at the start of training down to 0: how many more random spans there are, and how many more short ones.
    phase
        Which phase's weights in ``text.KINDS`` documents are drawn with.

    Returns
    -------
    ids, weights
        Both ``(row, pos)``. A token's weight is that of predicting it.
    """
    rng = random.Random(seed)
    end, vocab = end_of_text(tokenizer), len(tokenizer)
    ids, weights = [], []
    waiting: list[Weighted] = []
    for _ in range(count):
        bare = rng.random() < BARE_SHARE
        row_ids: list[int] = []
        row_weights: list[float] = []
        while len(row_ids) < length + bare:
            if not waiting:
                waiting = encode(tokenizer, [text.document(rng, phase) for _ in range(4 * count)])
            if rng.random() < SPAN_SHARE + early * EARLY_SHARE:
                span = short_span if rng.random() < 0.2 + 0.6 * early else repeated_span
                new_ids, new_weights = span(rng, vocab, end)
            else:
                new_ids, new_weights = waiting.pop()
            row_ids += [end, *new_ids]
            row_weights += [1.0, *new_weights]
        ids.append(row_ids[bare : length + bare])
        weights.append(row_weights[bare : length + bare])
    return torch.tensor(ids), torch.tensor(weights)
