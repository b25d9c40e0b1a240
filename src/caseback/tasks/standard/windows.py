"""Plain text: a window of running text and the token that follows. (PRIMER 3.2.8)

There is no foil; the metric is the log probability of the next token, and ``measured("loss")`` reads whole windows. The
counterfactual is another window of the same length, or the same tokens in another order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from caseback.errors import CasebackError, TokensError
from caseback.jobs.text_file import read_text
from caseback.tasks.align import tokenizer_of
from caseback.tasks.passages import PASSAGES
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import of_ids

CORRUPTIONS = ("other", "shuffled")


def plain_text(
    *,
    texts: Sequence[str] = PASSAGES,
    file: str | Path | None = None,
    length: int = 32,
    corruption: str = "other",
) -> Task:
    """Windows of running text.

    Positions: ``end``. A window may begin at any token, even inside a word, so windows are given as ids.

    Parameters
    ----------
    texts
        What windows are drawn from; by default a few short stories that come with the package.
    file
        A text file (UTF-8) to draw from instead.
    length
        Tokens per window, at least 2.
    corruption
        ``"other"``: another window; ``"shuffled"``: the window's own tokens in another order.

    Raises
    ------
    CasebackError
        For an unknown corruption or a shorter window.
    LoadError
        For a file that cannot be read.

    Examples
    --------
    >>> pair = plain_text(length=3).draw(random.Random(0), {"texts": [[1, 2, 3, 4, 5, 6, 7]]})
    >>> pair.target[0] == pair.clean.ids[-1] + 1
    True
    """
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")
    if length < 2:
        raise CasebackError(f"windows of {length} tokens: expected at least 2")
    if isinstance(texts, str):
        texts = [texts]
    if file is not None:
        texts = [read_text(Path(file))]

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        texts = fillers["texts"]
        # weighted by the number of windows, so that every window of every text is equally likely
        windows = [len(ids) - length for ids in texts]

        def window() -> Sequence[int]:
            (ids,) = rng.choices(texts, windows)
            start = rng.randrange(len(ids) - length)
            return ids[start : start + length + 1]

        *clean, target = window()
        *other, _ = window()
        shuffled = rng.sample(clean, length)
        return Pair.of(of_ids(clean), of_ids(other if corruption == "other" else shuffled), target)

    return Task(
        "plain_text",
        "A window of running text: the log probability of its next token.",
        draw,
        {"texts": _tokens(texts, length)},
        measure="log_prob",
        entry="3.2.8",
    )


def _tokens(texts: Sequence[str], length: int) -> Callable[[Any], list[list[int]]]:
    """A filler function: the texts as ids, without those that are shorter than a window and its next token."""

    def tokens(model: Any) -> list[list[int]]:
        encoded = tokenizer_of(model)(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        usable = [ids for ids in encoded if len(ids) > length]
        if not usable:
            longest = max((len(ids) for ids in encoded), default=0)
            raise TokensError(
                f"no text has the {length + 1} tokens of a window and its next one (the longest of {len(encoded)} has "
                f"{longest}): give longer texts, or a smaller length"
            )
        return usable

    return tokens
