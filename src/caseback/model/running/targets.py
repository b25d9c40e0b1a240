"""The token that is explained and the one that it is contrasted with, as a prompt's own logits suggest them.

A target such as ``Mary`` that the model would only write as `` Mary`` is one token all the same, and everything could
be measured of it. Where the token with a leading space is ``FAR`` times likelier, the space was forgotten: a warning
says so. Another says where the model's own first choice is a guess, of a probability below ``GUESS``: whoever tries a
prompt on a small model would read the story of next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from caseback.errors import TargetError
from caseback.jobs.warned import warn
from caseback.model.anatomy.coerce import in_float64
from caseback.model.running.tokens import one_token, piece

FAR = 1000.0
GUESS = 0.01


class SpaceForgotten(UserWarning):
    """A target or foil without the leading space that the model would write."""


class Guessed(UserWarning):
    """A model's first choice that it hardly prefers to any other token."""


def target_and_foil(
    model: Any,
    final: Float[Tensor, " vocab"],
    target: str | int | None = None,
    foil: str | int | None = None,
    counterfactual: Float[Tensor, " vocab"] | None = None,
) -> tuple[int, int]:
    """The ids of target and foil.

    Parameters
    ----------
    model
        The model.
    final
        The prompt's last logits. Its first choice is the target, unless one is given.
    target, foil
        Tokens, as text or id.
    counterfactual
        The last logits of a prompt with another answer, whose first choice is then the foil.

    Raises
    ------
    TargetError
        For what is not one token, or twice the same.
    """
    t = None if target is None else model.token_id(target)
    f = None if foil is None else model.token_id(foil, "foil")
    if t is not None and t == f:
        raise TargetError(f"target and foil are both {model.token_text(t)!r} (id {t}): choose two tokens")
    for what, given in (("target", target), ("foil", foil)):
        if isinstance(given, str):
            warn_of_space(model.tokenizer, given, final, what)
    if t is None:
        t = next(i for i in final.topk(min(2, len(final))).indices.tolist() if i != f)
        _warn_of_a_guess(model, final.detach(), t)
    if f is None:
        answers = [] if counterfactual is None else counterfactual.topk(1).indices.tolist()
        f = next(i for i in [*answers, *final.topk(min(2, len(final))).indices.tolist()] if i != t)
    return t, f


def _warn_of_a_guess(model: Any, final: Float[Tensor, " vocab"], first: int) -> None:
    chance = float(in_float64(final).softmax(-1)[first])
    if chance < GUESS:
        warn(
            f"{model.name} hardly knows how this text goes on: its likeliest next token, {model.token_text(first)!r}, "
            f"has a probability of {100 * chance:.1g}%. Give a text of the kind that it was trained on, another model "
            "(in commands --model), or a target",
            Guessed,
            stacklevel=3,
        )


def warn_of_spaces(
    anatomy: Any, target: Any, foil: Any, batch: int, final: Callable[[int], Float[Tensor, " vocab"]]
) -> None:
    """Warn of targets and foils that lack their leading space, of a batch that was measured without edits.

    Parameters
    ----------
    anatomy
        The model's; one whose logits are of classes has no spaces to forget.
    target, foil
        As metrics take them: what is not text is left alone.
    batch
        How many prompts there are.
    final
        The logits of one of them where the metric reads them. Called only where a text begins without a space.
    """
    tokenizer = getattr(anatomy, "tokenizer", None)
    if tokenizer is None or getattr(anatomy, "classes", None) is not None:
        return
    for what, given in (("target", target), ("foil", foil)):
        words = [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []
        if not isinstance(given, str) and len(words) != batch:
            continue
        for b, word in enumerate(words):
            if isinstance(word, str) and word and not word[0].isspace():
                warn_of_space(tokenizer, word, final(b).detach(), what)


def warn_of_space(tokenizer: Any, text: str, final: Float[Tensor, " vocab"], what: str = "target") -> None:
    """Warn where the same token with a leading space is ``FAR`` times likelier after the prompt."""
    if tokenizer is None or text[:1].isspace() or not text:
        return
    try:
        token, spaced = (one_token(tokenizer, word, len(final), what) for word in (text, f" {text}"))
    except TargetError:
        return
    likelier = float(in_float64(final[spaced]) - in_float64(final[token]))
    if spaced != token and likelier > math.log(FAR):
        times = "millions of" if likelier > math.log(1e6) else f"{float(f'{math.exp(likelier):.1g}'):,.0f}"
        warn(
            f"{what} {text!r} has no leading space, and {piece(tokenizer, spaced)!r} is {times} times likelier here: "
            f"give {piece(tokenizer, spaced)!r} if that is meant",
            SpaceForgotten,
            stacklevel=3,
        )
