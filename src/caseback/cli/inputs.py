"""Prompts, tokens, metrics and lists of numbers as the command line gives them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from caseback.errors import CasebackError, did_you_mean

if TYPE_CHECKING:
    from caseback.cli.options import Measured
    from caseback.model.running.metrics import Metric
    from caseback.model.running.model import Model
    from caseback.model.running.tokens import Tokens


def prompt_of(text: str, ids: bool) -> str | list[int]:
    """A prompt, or with ``ids`` its token ids.

    Examples
    --------
    >>> prompt_of("5,1 2", ids=True)
    [5, 1, 2]
    """
    if not ids:
        if not text.strip():
            raise CasebackError(f"the prompt is empty ({text!r}): expected some text")
        return text
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise CasebackError(f"--ids with {text!r}: expected whole numbers such as 5,1,2") from None


def chat_of(prompt: str | list[int], chat: bool) -> Any:
    """A prompt, or with ``chat`` the conversation that it begins.

    Examples
    --------
    >>> chat_of("Hello", chat=True)
    [{'role': 'user', 'content': 'Hello'}]
    """
    if chat and not isinstance(prompt, str):
        raise CasebackError("both --chat and --ids given: a message is text")
    return [{"role": "user", "content": prompt}] if chat else prompt


def as_text(prompt: str | list[int]) -> str:
    """A prompt of ``prompt_of`` as a page shows it.

    Examples
    --------
    >>> as_text([5, 1, 2])
    '5 1 2'
    """
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def continuation_of(text: str | None, ids: bool) -> str | list[int] | None:
    """What stands beside or behind a prompt; unlike one, it may be a space alone."""
    return prompt_of(text, True) if text is not None and ids else text


_MOST_NUMBERS = 1_000_000  # more than any model has of anything that has a number


def numbers(text: str | None, option: str) -> list[int] | None:
    """A list such as ``0,2-4,-1``.

    Examples
    --------
    >>> numbers("0,2-4,-1", "--layers")
    [0, 2, 3, 4, -1]
    """
    if text is None:
        return None
    listed: list[int] = []
    try:
        for part in text.replace(",", " ").split():
            first, dash, last = part[1:].partition("-")
            some = range(int(part[0] + first), int(last) + 1) if dash else [int(part)]
            if len(listed) + len(some) > _MOST_NUMBERS:
                raise CasebackError(f"{option} {text!r} names more than {_MOST_NUMBERS:,} numbers")
            listed += some
    except ValueError:
        listed = []
    if not listed:
        raise CasebackError(f"{option} {text!r}: expected whole numbers such as 0,2-4")
    return listed


def names_in(text: str) -> list[str]:
    """Names parted by commas.

    Examples
    --------
    >>> names_in("L3H2, MLP 4,")
    ['L3H2', 'MLP 4']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def token_in(model: Model, text: str | None) -> str | int | None:
    """A token as a model looks it up: its text, or its number where the model has no tokenizer."""
    if text is None or model.tokenizer is not None:
        return text
    try:
        return int(text)
    except ValueError:
        raise CasebackError(f"{text!r} is not a token id, and this model has no tokenizer: give a number") from None


def measure(model: Model, measured: Measured, *prompts: Tokens) -> tuple[Metric, str]:
    """The metric that is asked for, and its words.

    Tokens that are not given are the model's first choices after the first of ``prompts``. Where there is a second, its
    counterfactual, that one's first choice is the foil if it is another token.
    """
    from caseback.model.running import metrics
    from caseback.model.running.targets import target_and_foil
    from caseback.reports.metric_words import METRICS, metric_words

    if measured.metric not in METRICS:
        raise CasebackError(f"--metric {measured.metric!r} is unknown. {did_you_mean(measured.metric, METRICS)}")
    ends = [model.run(tokens).logits[0, int(tokens.column(-1)[0])] for tokens in prompts]
    given = token_in(model, measured.target), token_in(model, measured.foil)
    target, foil = target_and_foil(model, ends[0], *given, *ends[1:2])
    metric: Any = getattr(metrics, measured.metric)
    words = metric_words(model, measured.metric, target, foil)
    return metric(target, foil) if measured.metric == "logit_diff" else metric(target), words


def found_counterfactual(model: Any, prompt: Any, target: Any = None, foil: Any = None) -> Any:
    """A prompt's counterfactual where none was given, which a line on stderr names.

    Raises
    ------
    CasebackError
        Where nothing that was tried moves the answer.
    """
    from caseback.localize.counterfactuals import find

    search = find(model, prompt, target=target, foil=foil)
    best = search.best
    if best is None:
        raise CasebackError(f"no counterfactual given, and none was found ({search}): give one")
    print(f"counterfactual, {best}", file=sys.stderr)
    return best.tokens
