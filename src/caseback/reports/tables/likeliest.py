"""The tokens that a model finds likeliest next, as rows of plain data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange
from caseback.model.arguments import checked
from caseback.model.running.model import Model

__all__ = ["likeliest"]


@checked
def likeliest(model: Model, logits: Tensor, count: int = 10) -> list[dict[str, Any]]:
    """The tokens with the largest logits, each with its logit and probability.

    Parameters
    ----------
    model
        The model, whose tokenizer gives the texts.
    logits
        (vocab): the logits after one prompt.
    count
        How many, at most the vocabulary.

    Raises
    ------
    OutOfRange
        For a count below 1.
    ArgumentError
        For logits of more than one place.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [row["text"] for row in likeliest(model, model.run("Mary and John went to the").logits[0, -1], 2)]
    [' kitchen', ' village']
    """
    if logits.ndim != 1:
        raise ArgumentError(f"logits of shape {tuple(logits.shape)}: expected those after one prompt, (vocab,)")
    if count < 1:
        raise OutOfRange(f"count={count}: expected 1 or more tokens")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    prob = wide.softmax(-1)
    return [
        {"id": i, "text": model.token_text(i), "logit": float(wide[i]), "prob": float(prob[i])}
        for i in wide.topk(min(count, len(wide))).indices.tolist()
    ]
