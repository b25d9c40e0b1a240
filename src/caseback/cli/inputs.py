"""Prompts, tokens, lists of numbers and files as the command line gives them, for commands that intervene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from caseback.errors import CasebackError, TargetError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from caseback.model.running.metrics import Metric
    from caseback.model.running.model import Model

METRICS = ("logit_diff", "logit", "prob", "log_prob")


def prompt_of(text: str, ids: bool) -> str | list[int]:
    """A prompt, or with ``ids`` its token ids."""
    if not ids:
        if not text.strip():
            raise CasebackError(f"the prompt is empty ({text!r}): expected some text")
        return text
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise CasebackError(f"--ids with {text!r}: expected whole numbers such as 5,1,2") from None


def numbers(text: str | None, option: str) -> list[int] | None:
    """A list such as ``0,2-4,-1``.

    Examples
    --------
    >>> numbers("0,2-4,-1", "--layers")
    [0, 2, 3, 4, -1]
    """
    if text is None:
        return None
    made: list[int] = []
    try:
        for part in text.replace(",", " ").split():
            first, dash, last = part[1:].partition("-")
            made += range(int(part[0] + first), int(last) + 1) if dash else [int(part)]
    except ValueError:
        made = []
    if not made:
        raise CasebackError(f"{option} {text!r}: expected whole numbers such as 0,2-4")
    return made


def file_to(path: Path | None) -> None:
    """Refuse a file in a folder that is not there, before any work is done."""
    if path is not None and not path.parent.is_dir():
        raise CasebackError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")


def contrast(
    model: Model, target: str | None, foil: str | None, final: Tensor, other: Tensor | None = None
) -> tuple[int, int]:
    """Ids of target and foil: the first choices of the model where they are not given.

    ``final`` are the logits (vocab,) at the prompt's end, ``other`` those of its counterfactual, whose first choice
    is the foil where it is another token.
    """
    t = _id(model, target, "target")
    f = _id(model, foil, "foil")
    if t is not None and t == f:
        raise TargetError(f"target and foil are both {model.token_text(t)!r}: choose two tokens")
    t = next(i for i in final.topk(2).indices.tolist() if i != f) if t is None else t
    if f is None:
        choices = [] if other is None else other.topk(1).indices.tolist()
        f = next(i for i in [*choices, *final.topk(2).indices.tolist()] if i != t)
    return t, f


def metric_named(name: str, target: int, foil: int) -> Metric:
    """A metric by its name."""
    from caseback.model.running import metrics

    if name not in METRICS:
        raise CasebackError(f"--metric {name!r} is unknown. {did_you_mean(name, METRICS)}")
    made: Any = getattr(metrics, name)
    return made(target, foil) if name == "logit_diff" else made(target)


def told(model: Model, name: str, target: int, foil: int) -> str:
    """A metric in words, with visible tokens."""
    from caseback.reports.tokens_text import visible

    t, f = (visible(model.token_text(i)) for i in (target, foil))
    return {
        "logit_diff": f"logit of {t} less that of {f}",
        "logit": f"logit of {t}",
        "prob": f"probability of {t}",
        "log_prob": f"log probability of {t}",
    }[name]


def _id(model: Model, text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if model.tokenizer is None:
        try:
            return model.token_id(int(text), what)
        except ValueError:
            raise CasebackError(f"{text!r} is no token id, and this model has no tokenizer: give a number") from None
    return model.token_id(text, what)
