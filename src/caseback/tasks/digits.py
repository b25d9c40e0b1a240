"""How a tokenizer cuts numbers, and prompts whose answers are its next piece of one.

A year is two tokens for GPT-2 (``17`` ``32``), four for tokenizers of single digits, ``173`` ``2`` for those of three.
An answer that is several tokens long is asked for at the first of them in which it differs from its foil: what both
share stands at the prompt's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from caseback.tasks.align import tokenizer_of

Pieces = Callable[[str], list[str]]


def cutting(model: Any) -> list[Pieces]:
    """A filler of tasks: the function that cuts a text as the model's tokenizer does, in running text.

    Examples
    --------
    >>> import caseback as cb
    >>> cutting(cb.load("meadow"))[0](" 19")
    [' 19']
    """
    tokenizer = tokenizer_of(model)

    def pieces(text: str) -> list[str]:
        before = "is ="  # a tokenizer may treat a text's beginning otherwise
        start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
        ids = tokenizer(before + text, add_special_tokens=False)["input_ids"]
        # each piece is what it adds to the text, so that no decoder's own idea of spaces matters
        texts = [tokenizer.decode(ids[:n], clean_up_tokenization_spaces=False) for n in range(start, len(ids) + 1)]
        return [after[len(so_far) :] for so_far, after in zip(texts, texts[1:], strict=False)]

    return [pieces]


def first_difference(pieces: Pieces, answer: str, foil: str) -> tuple[str, str, str] | None:
    """What answer and foil share, and the piece of each in which they differ; None where one is the other's beginning.

    Examples
    --------
    >>> first_difference(list, " 19", " 15")
    (' 1', '9', '5')
    """
    ours, theirs = pieces(answer), pieces(foil)
    for at, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return "".join(ours[:at]), mine, other
    return None


def year_form(pieces: Pieces, year: str = "1732") -> str:
    """``pairs`` where a year is its century and two digits more, else ``digits`` or ``triples``."""
    cut: Sequence[str] = [piece.strip() for piece in pieces(f" {year}") if piece.strip()]
    if cut == [year[:2], year[2:]]:
        return "pairs"
    return "triples" if cut == [year[:3], year[3:]] else "digits" if cut == list(year) else "other"
