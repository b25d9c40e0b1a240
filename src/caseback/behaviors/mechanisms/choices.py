"""Which of several answers a model gives, as one number for a sweep.

says      = k where no token has a higher logit than answer k's first, k = 1, 2 ...;  0 where none of them is first
likeliest = k where none of the others has a higher logit
sort      = 1 where the first choice is right, 2 where it is another of the answers that there are, 0 otherwise
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caseback.model.running.metrics import Bound, Metric, is_first
from caseback.model.running.tokens import Tokens


def says(*answers: Sequence[int]) -> Metric:
    """The number of the answer that is the model's first choice, from 1; 0 where none is.

    Parameters
    ----------
    *answers
        Each a token for every prompt; no two of them are the same in any prompt.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> run = model.run("The capital of Italy is")
    >>> rome, oslo = (model.tokenizer(word)["input_ids"][-1:] for word in (" Rome", " Oslo"))
    >>> says(oslo, rome)(run).tolist()
    [2.0]
    """
    each = [is_first(ids) for ids in answers]

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        bound = [one.bind(tokens, tokenizer, d_vocab) for one in each]

        def value(x: Tensor, rows: Tensor) -> Tensor:
            return torch.stack([k * one.value(x, rows) for k, one in enumerate(bound, 1)]).sum(0)

        return Bound(bound[0].columns, None, value)

    return Metric("says", bind, [list(ids) for ids in zip(*answers, strict=True)])


def likeliest(*answers: Sequence[int]) -> Metric:
    """The number of the answer of the highest logit among these, from 1, whatever else the model would say.

    Parameters
    ----------
    *answers
        Each a token for every prompt.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> run = model.run("The capital of Italy is")
    >>> rome, oslo = (model.tokenizer(word)["input_ids"][-1:] for word in (" Rome", " Oslo"))
    >>> likeliest(oslo, rome)(run).tolist()
    [2.0]
    """
    ids = torch.tensor([list(some) for some in answers]).T

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        return Bound(tokens.column(-1), ids.to(tokens.ids.device), lambda x, rows: x.argmax(-1).to(x) + 1)

    return Metric("likeliest", bind, ids.tolist())


def sort_of_answer(right: Sequence[int], answers: Sequence[int]) -> Metric:
    """Whether the first choice is right (1), another of some answers (2), or neither (0).

    Parameters
    ----------
    right
        A token for every prompt.
    answers
        The tokens that all prompts' answers are among.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> run = model.run("The capital of Italy is")
    >>> rome, oslo = (model.tokenizer(word)["input_ids"][-1] for word in (" Rome", " Oslo"))
    >>> [sort_of_answer([answer], [rome, oslo])(run).tolist() for answer in (rome, oslo)]
    [[1.0], [2.0]]
    """
    own, among = torch.tensor(list(right)), torch.tensor(list(answers))

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        def value(x: Tensor, rows: Tensor) -> Tensor:
            top = x.argmax(-1)
            plausible = torch.isin(top, among.to(x.device)).to(x)
            return torch.where(top == own.to(x.device)[rows], 1.0, 2 * plausible)

        return Bound(tokens.column(-1), None, value)

    return Metric("sort of answer", bind, own.tolist(), among.tolist())
