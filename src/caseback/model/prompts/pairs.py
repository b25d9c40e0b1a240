"""Clean and corrupt: prompts that stand token against token, so that one's activations fit in the other's places.

clean    'The' ' cat' →' sat'← ' down'
corrupt  'The' ' cat' →' ran'← ' down'
"""

from __future__ import annotations

from collections.abc import Sequence

from caseback.errors import TokensError
from caseback.model.prompts.copies import repeated
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


def pairs(model: Model, clean: PromptsLike, corrupt: PromptsLike) -> tuple[Tokens, Tokens]:
    """Tokenize clean and corrupt prompts and check that they are aligned; a single one is paired with all others.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.

    Returns
    -------
    tuple of Tokens
        As many clean as corrupt prompts, in pairs of equal length.

    Raises
    ------
    TokensError
        Where numbers or lengths differ; both tokenizations are shown, with the first difference marked.

    Examples
    --------
    >>> import caseback as cb
    >>> clean, corrupt = pairs(cb.load("meadow"), ["Mary gave", "John gave"], "Lily gave")
    >>> len(clean), corrupt.text[0] == corrupt.text[1]
    (2, True)
    """
    clean, corrupt = model.tokens(clean), model.tokens(corrupt)
    if len(clean) == 1 < len(corrupt):
        clean = repeated(clean, len(corrupt))
    _expect_aligned(clean, corrupt)
    return clean, corrupt if len(corrupt) == len(clean) else repeated(corrupt, len(clean))


def counterfactuals(model: Model, tokens: Tokens, corrupt: PromptsLike, first: int = 0) -> Tokens:
    """Counterfactuals of prompts, one for all or one per prompt, checked to be aligned with them.

    Refusals number the prompts from ``first`` on.

    Raises
    ------
    TokensError
        As ``pairs``.
    """
    others = model.tokens(corrupt)
    _expect_aligned(tokens, others, first)
    return others


def _expect_aligned(tokens: Tokens, others: Tokens, first: int = 0) -> None:
    if len(others) not in (1, len(tokens)):
        raise TokensError(f"{len(others)} counterfactuals for {len(tokens)} prompts: give one, or one per prompt")
    for b, row in enumerate(tokens.text):
        other = others.text[b if len(others) > 1 else 0]
        if len(other) != len(row):
            at = first_difference(row, other)
            raise TokensError(
                f"prompt {first + b} and its counterfactual are not token-aligned. {len(row)} tokens: "
                f"{_marked(row, at)}; and {len(other)} tokens: {_marked(other, at)}. They first differ at position "
                f"{at}; reword one so that each token stands against one of the other"
            )


def first_difference(row: Sequence[str], other: Sequence[str]) -> int:
    """The first position at which two rows of tokens differ; where one begins the other, the length of the shorter.

    Examples
    --------
    >>> first_difference(["a", "b"], ["a", "c"]), first_difference(["a"], ["a", "c"])
    (1, 1)
    """
    differ = (i for i, (a, b) in enumerate(zip(row, other, strict=False)) if a != b)
    return next(differ, min(len(row), len(other)))


def _marked(row: Sequence[str], at: int) -> str:
    shown = [f"→{token!r}←" if i == at else repr(token) for i, token in enumerate(row)]
    return " ".join(shown if at < len(row) else [*shown, "→end←"])
