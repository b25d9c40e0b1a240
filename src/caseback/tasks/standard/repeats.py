"""Random tokens that come again: induction over a whole span, or over one token. (PRIMER 5.1.6, 5.1.4)

    t1 t2 … tn t1 … tk ->  t(k+1)          t1 … ti t(i+1) … tn ti ->  t(i+1)

Nothing but the repetition tells the next token. The counterfactual has other tokens in the first telling, or ends on a
token that was not told before.
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
    """Ids of the vocabulary that are no special tokens and stand for whole characters.

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
    kept = [token for token in range(min(size, len(tokenizer))) if token not in added]
    told = tokenizer.batch_decode([[token] for token in kept], clean_up_tokenization_spaces=False)
    return [token for token, text in zip(kept, told, strict=True) if text and "\N{REPLACEMENT CHARACTER}" not in text]


def induction(*, length: int = 25, corruption: str = "first") -> Task:
    """A span of random tokens, told again up to a random token of it.

    Positions: ``A`` (where the last token stood before), ``B`` (what followed it there, the answer), ``end``.
    Tokens are drawn as ids, so it works with any tokenizer and with none. The foil is another token of the span.

    Parameters
    ----------
    length
        Of the span, at least 3; the paper's is 25.
    corruption
        ``"first"``: other tokens in the first telling; ``"second"``: in the second; both take the answer away.
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
        told = rng.randint(1, length - 1)
        foil = rng.choice([i for i in range(1, length) if i != told])
        corrupt = {
            "first": [*fresh, *span[:told]],
            "second": [*span, *fresh[:told]],
            "end": [*span, *span[: told - 1], span[foil - 1]],
        }[corruption]
        places = {"A": (told - 1, told), "B": (told, told + 1)}
        return Pair.of(
            of_ids([*span, *span[:told]], **places),
            of_ids(corrupt, **places),
            span[told],
            span[foil],
            corrupt_target=span[foil] if corruption == "end" else (),
            group=str(told),
        )

    return Task(
        "induction",
        "A span of random tokens told again: the next token of it over another.",
        draw,
        {"tokens": _enough(2 * length)},
        entry="5.1.6",
        citation="Olsson et al. 2022",
    )


def duplicate(*, length: int = 20) -> Task:
    """Random tokens of which one comes a second time, at the end.

    Positions: ``first`` (of the two), ``end`` (the second); ``first+1`` holds the answer, what followed the first. In
    the counterfactual the last token was not told before. The foil is another token that was told.

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
        *told, fresh = rng.sample(fillers["tokens"], length + 1)
        at = rng.randrange(length - 1)
        foil = rng.choice([token for i, token in enumerate(told) if i not in (at, at + 1)])
        place = {"first": (at, at + 1)}
        return Pair.of(
            of_ids([*told, told[at]], **place), of_ids([*told, fresh], **place), told[at + 1], foil, group=str(at)
        )

    return Task(
        "duplicate",
        "Random tokens of which the last was told before: what followed it there over another.",
        draw,
        {"tokens": _enough(length + 1)},
        entry="5.1.4",
        citation="Wang et al. 2023",
    )


def _enough(needed: int) -> Callable[[Any], Sequence[int]]:
    def tokens(model: Any) -> list[int]:
        found = ordinary_tokens(model)
        if len(found) < needed:
            raise TokensError(
                f"{needed} different tokens are needed, the vocabulary has {len(found)}: ask for a shorter span"
            )
        return found

    return tokens
