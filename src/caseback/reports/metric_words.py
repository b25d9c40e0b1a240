"""A metric in words, its tokens visible: what a table, a map or a page says above its numbers."""

from __future__ import annotations

from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.tokens_text import visible

__all__ = ["METRICS", "metric_words"]

METRICS = {
    "logit_diff": "logit of {target} less that of {foil}",
    "logit": "logit of {target}",
    "prob": "probability of {target}",
    "log_prob": "log probability of {target}",
}


@checked
def metric_words(model: Model, name: str, target: int, foil: int) -> str:
    """A metric of one token, or of two, in words.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> metric_words(model, "logit_diff", model.token_id(" Mary"), model.token_id(" John"))
    'logit of ␣Mary less that of ␣John'
    """
    if name not in METRICS:
        raise CasebackError(f"metric {name!r} is unknown. {did_you_mean(name, METRICS)}")
    shown, other = (visible(model.token_text(token)) for token in (target, foil))
    return METRICS[name].format(target=shown, foil=other)
