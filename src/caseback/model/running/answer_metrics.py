"""A metric of answers of several tokens, which the prompts end with.

answer_log_prob = sum_i log p(a_i | prompt, a_<i)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caseback.errors import TargetError
from caseback.jobs.sent_calls import sent_as_a_call
from caseback.model.anatomy.classes import Classes
from caseback.model.anatomy.coerce import are_several, as_indices
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.tokens import Tokens

Answer = str | Sequence[int] | Sequence[str | Sequence[int]]


@sent_as_a_call
def answer_log_prob(answer: Answer) -> Metric:
    """The log probability of a whole answer, of one token or several, that the prompts end with.

        sum_i log p(a_i | prompt, a_<i),    in nats

    Parameters
    ----------
    answer
        Text or token ids, for all prompts or a list with one per prompt. ``model.with_answer(prompts, answer)`` makes
        prompts that end with it.

    Raises
    ------
    TargetError
        Once it meets prompts: for one that does not end with its answer, an empty answer, or a wrong number of them.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> whole = model.with_answer("Mary and John went to", " the store")
    >>> bool(answer_log_prob(" the store")(model.run(whole)) < 0)
    True
    """

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        if isinstance(tokenizer, Classes):
            raise TargetError("an answer is made of tokens, and this model has logits of classes: measure a class")
        answers = answer_ids(answer, len(tokens), tokenizer, d_vocab)
        counts = torch.zeros_like(tokens.mask[:, 1:])
        for b, ids in enumerate(answers):
            own = tokens.ids[b][tokens.mask[b]].tolist()
            if own[-len(ids) :] != ids or len(own) <= len(ids):
                raise TargetError(
                    f"prompt {b} ends with {tokens.text[b][-len(ids) :]}, not with its answer {answer!r} (token ids "
                    f"{ids}) behind a first token: make prompts with model.with_answer(prompts, answer)"
                )
            stop = int(tokens.column(-1)[b])
            counts[b, stop - len(ids) : stop] = True

        def value(x: Tensor, rows: Tensor) -> Tensor:
            ids, counted = (t.to(x.device)[rows] for t in (tokens.ids[:, 1:], counts))
            log_p = at_least_float32(x[:, :-1]).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
            return torch.where(counted, log_p, 0.0).sum(-1)  # a column of padding may hold NaN

        return Bound(None, None, value)

    return Metric("answer_log_prob", bind, target=answer, pos=None)


def as_ids(given: Any) -> list[int]:
    """Token ids as a list of Python's integers."""
    ids = as_indices(given, "the answer", TargetError)
    return [ids] if isinstance(ids, int) else list(ids or [])  # pyright: ignore[reportArgumentType]


def answer_ids(answer: Answer, prompts: int, tokenizer: Any, d_vocab: int) -> list[list[int]]:
    """An answer's token ids for each prompt, without special tokens.

    Raises
    ------
    TargetError
        For an empty answer, an id outside the vocabulary, text without a tokenizer, or a wrong number of answers.
    """
    if not (isinstance(answer, str) or are_several(answer)):
        raise TargetError(f"the answer is {answer!r}: expected its text, its token ids, or one of these per prompt")
    answer = answer.tolist() if isinstance(answer, Tensor) and answer.ndim else answer
    alone = isinstance(answer, str) or all(isinstance(part, int) for part in answer)
    each: list[Any] = [answer] * prompts if alone else list(answer)
    if any(not isinstance(one, str | list | tuple) for one in each):
        raise TargetError(f"the answers are {answer!r}: expected text or token ids of each")
    if len(each) != prompts:
        raise TargetError(f"{len(each)} answers for {prompts} prompts: give one, or one per prompt")
    if tokenizer is None and any(isinstance(one, str) for one in each):
        raise TargetError("this model has no tokenizer: give the answer as token ids")
    encode: Any = tokenizer
    listed = [
        encode(one, add_special_tokens=False)["input_ids"] if isinstance(one, str) else as_ids(one) for one in each
    ]
    for one, ids in zip(each, listed, strict=True):
        if not ids or not all(0 <= i < d_vocab for i in ids):
            raise TargetError(f"answer {one!r}: expected one token or more, ids from 0 to {d_vocab - 1}")
    return listed
