"""Repeated random tokens: induction over a whole span, or over one token. (PRIMER 5.1.6, 5.1.4)

    t1 t2 … tn t1 … tk ->  t(k+1)          t1 … ti t(i+1) … tn ti ->  t(i+1)

Nothing but the repetition shows what comes next. The counterfactual has other tokens in one of the two occurrences, or
ends on another token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from caseback.errors import CasebackError, TokensError
from caseback.tasks.align import tokenizer_in
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import of_ids

CORRUPTIONS = ("first", "second", "end")


def ordinary_tokens(model: Any) -> list[int]:
    """The ids of the vocabulary that are not special tokens and stand for whole characters.

    Parameters
    ----------
    model
        A ``Model`` (without a tokenizer: every id), or a tokenizer alone.
    """
    tokenizer = tokenizer_in(model)
    size = getattr(model, "d_vocab", None) or len(tokenizer)
    if tokenizer is None:
        return list(range(size))
    added = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    ordinary = [token for token in range(min(size, len(tokenizer))) if token not in added]
    texts = tokenizer.batch_decode([[token] for token in ordinary], clean_up_tokenization_spaces=False)
    return [
        token for token, text in zip(ordinary, texts, strict=True) if text and "\N{REPLACEMENT CHARACTER}" not in text
    ]


def induction(*, length: int = 25, corruption: str = "first") -> Task:
    """A span of random tokens, repeated up to a random place in it.

    Positions: ``A`` (where the last token stood before), ``B`` (what followed it there, which is the answer), ``end``.
    Tokens are drawn as ids, so it works with any tokenizer or without one. The foil is another token of the span.

    Parameters
    ----------
    length
        Tokens per span, at least 3; 25 in the paper.
    corruption
        ``"first"``: other tokens at the first occurrence; ``"second"``: at the second; both take the answer away.
        ``"end"``: the last token is the one that stood before the foil, which is then right.

    Raises
    ------
    CasebackError
        For an unknown corruption or a shorter span.

    References
    ----------
    Olsson et al. 2022, "In-context learning and induction heads".

    Examples
    --------
    >>> pair = induction(length=4).draw(random.Random(0), {"tokens": range(50)})
    >>> first, second = pair.clean.ids[:4], pair.clean.ids[4:]
    >>> first[: len(second)] == second, first[len(second)] == pair.target[0]
    (True, True)
    """
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")
    if length < 3:
        raise CasebackError(f"a span of {length} tokens: expected at least 3")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        drawn = rng.sample(fillers["tokens"], 2 * length)
        span, fresh = drawn[:length], drawn[length:]
        repeated = rng.randint(1, length - 1)
        foil = rng.choice([i for i in range(1, length) if i != repeated])
        corrupt = {
            "first": [*fresh, *span[:repeated]],
            "second": [*span, *fresh[:repeated]],
            "end": [*span, *span[: repeated - 1], span[foil - 1]],
        }[corruption]
        places = {"A": (repeated - 1, repeated), "B": (repeated, repeated + 1)}
        return Pair.of(
            of_ids([*span, *span[:repeated]], **places),
            of_ids(corrupt, **places),
            span[repeated],
            span[foil],
            corrupt_target=span[foil] if corruption == "end" else (),
            group=str(repeated),
        )

    return Task(
        "induction",
        "A repeated span of random tokens: its next token over another of its tokens.",
        draw,
        {"tokens": _enough(2 * length)},
        entry="5.1.6",
        citation="Olsson et al. 2022",
    )


def duplicate(*, length: int = 20) -> Task:
    """Random tokens, one of which comes a second time, at the end.

    Positions: ``first`` (its first occurrence), ``end`` (its second); ``first+1`` holds the answer, what followed the
    first. In the counterfactual the last token is a new one. The foil is another of the tokens before it.

    Parameters
    ----------
    length
        Tokens before the repeated one, at least 3.

    Raises
    ------
    CasebackError
        For fewer tokens.

    References
    ----------
    Wang et al. 2023, "Interpretability in the wild", for heads that attend from a token to its duplicate.

    Examples
    --------
    >>> pair = duplicate(length=4).draw(random.Random(0), {"tokens": range(50)})
    >>> pair.clean.ids.count(pair.clean.ids[-1]), pair.corrupt.ids.count(pair.corrupt.ids[-1])
    (2, 1)
    """
    if length < 3:
        raise CasebackError(f"{length} tokens: expected at least 3")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        *tokens, fresh = rng.sample(fillers["tokens"], length + 1)
        at = rng.randrange(length - 1)
        foil = rng.choice([token for i, token in enumerate(tokens) if i not in (at, at + 1)])
        place = {"first": (at, at + 1)}
        return Pair.of(
            of_ids([*tokens, tokens[at]], **place),
            of_ids([*tokens, fresh], **place),
            tokens[at + 1],
            foil,
            group=str(at),
        )

    return Task(
        "duplicate",
        "Random tokens, the last of which stood before: what followed it there over another.",
        draw,
        {"tokens": _enough(length + 1)},
        entry="5.1.4",
        citation="Wang et al. 2023",
    )


def _enough(needed: int) -> Callable[[Any], Sequence[int]]:
    """A filler function: the model's ordinary tokens, refused where they are too few."""

    def tokens(model: Any) -> list[int]:
        ids = ordinary_tokens(model)
        if len(ids) < needed:
            raise TokensError(
                f"{needed} different tokens are needed, the vocabulary has {len(ids)}: ask for a shorter span"
            )
        return ids

    return tokens
