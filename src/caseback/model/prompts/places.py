"""Places in prompts: positions by number, or by the text that stands there.

``3``, ``-1``, ``[2, 3]``, ``slice(1, 4)`` and a tensor with one position per prompt mean what they mean in an edit; a
text means the tokens that cover its first occurrence, and ``[[2, 3], [4]]`` the positions of each prompt. A text may
stand at another place in every prompt; ``addresses`` turns the places into positions that edits take.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caseback.errors import TokensError
from caseback.model.running.frames import Positions, positions
from caseback.model.running.tokens import Tokens

Place = Positions | str


def placed(place: Place, tokens: Tokens, *, anywhere: bool = True) -> list[list[int]]:
    """The positions that a place has in each prompt, in their order.

    Parameters
    ----------
    place
        Positions, a list of them for each prompt, or a text that stands in every prompt.
    tokens
        The prompts.
    anywhere
        Each prompt must have such a position; else a list for each prompt may be empty in some.

    Raises
    ------
    TokensError
        For a text that a prompt does not hold, and for no position at all.
    OutOfRange
        For a position that a prompt lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> tokens = cb.load("meadow").tokens("Mary and John went to the store")
    >>> placed("John", tokens) == [[tokens.text[0].index(" John")]], placed(-1, tokens) == [[len(tokens.text[0]) - 1]]
    (True, True)
    """
    if isinstance(place, str):
        return [_covering(place, row, b) for b, row in enumerate(tokens.text)]
    each: Any = place if _is_of_each(place) else [place] * len(tokens.text)
    if len(each) != len(tokens.text):
        raise TokensError(f"positions of {len(each)} prompts: expected a list for each of {len(tokens.text)}")
    spans = [list(positions(each[b], b, len(row))) for b, row in enumerate(tokens.text)]
    for b, row in enumerate(spans):
        if not row and (anywhere or not _is_of_each(place)):
            raise TokensError(f"{place!r} names no position of prompt {b}, which has {len(tokens.text[b])} tokens")
    return spans


def addresses(spans: list[list[int]]) -> list[Positions]:
    """Positions of edits that together address each prompt's own span.

    One list serves where all prompts have the same positions. Else there is one tensor for each token of the longest
    span; a shorter span repeats its last token, so an edit must give the same when it is made twice.

    Examples
    --------
    >>> addresses([[1, 2], [1, 2]])
    [[1, 2]]
    >>> addresses([[1, 2], [4]])
    [tensor([1, 4]), tensor([2, 4])]
    """
    if all(span == spans[0] for span in spans):
        return [spans[0]]
    longest = max(len(span) for span in spans)
    return [torch.tensor([span[min(i, len(span) - 1)] for span in spans]) for i in range(longest)]


def text_at(spans: list[list[int]], tokens: Tokens) -> list[str]:
    """What stands at each prompt's span."""
    return ["".join(tokens.text[b][p] for p in span) for b, span in enumerate(spans)]


def _is_of_each(place: Place) -> bool:
    """Whether a place is a list for each prompt."""
    return isinstance(place, list) and bool(place) and all(isinstance(row, list) for row in place)


def _covering(text: str, row: list[str], b: int) -> list[int]:
    start = "".join(row).find(text) if text else -1
    if start < 0:
        raise TokensError(f"prompt {b} does not hold {text!r}: its tokens are {row}; give a text of it, or positions")
    ends = torch.tensor([len(token) for token in row]).cumsum(0).tolist()
    begins = [end - len(token) for end, token in zip(ends, row, strict=True)]
    return [i for i, (a, z) in enumerate(zip(begins, ends, strict=True)) if a < start + len(text) and z > start]


def named(place: Place) -> str:
    """A place as a label: ``3``, ``1:4``, ``"John"``."""
    if isinstance(place, slice):
        return f"{place.start or 0}:{'' if place.stop is None else place.stop}"
    return str(place.tolist() if isinstance(place, Tensor) else place)
