"""Prompts with tokens deleted: what came after them moves up (PRIMER 3.1.7).

    x without D = the other tokens, one after another, up to the one that the metric reads

Position p of a token after a deletion becomes p - |D before it|, so a model sees other distances than in the prompt,
and other absolute positions. The metric is read at the same token, or at the last one left before it where that token
is deleted. The shortened prompts are padded and run together; they share no computation.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.sites import MAPS
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.model.sweeping.room import logits_per_token, tokens_per_pass


def without(
    model: Model,
    tokens: Tokens,
    deleted: Bool[Tensor, "variant batch pos"],
    metric: Metric,
    *,
    token_budget: int | None = None,
    progress: bool = False,
) -> tuple[Float[Tensor, "variant batch"], Float[Tensor, " batch"]]:
    """Measure prompts without some of their tokens.

    Parameters
    ----------
    model, tokens, metric
        The model, its prompts and what is measured, at one position.
    deleted
        Which tokens go, by each prompt's own positions.
    token_budget
        Most tokens in one pass, padding included; by default a sweep's.
    progress
        Show a progress bar.

    Returns
    -------
    The metric of each variant on each prompt, and of the prompts as they are.

    Raises
    ------
    CasebackError
        Where the metric reads all positions, or nothing is left to read it at.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens = model.tokens("Mary and John went to")
    >>> each = torch.eye(tokens.ids.shape[1], dtype=torch.bool)[:, None]
    >>> shortened, clean = without(model, tokens, each, cb.logit(" the"))
    >>> shortened.shape[0] == tokens.ids.shape[1]
    True
    """
    bound = metric.on(tokens, model.anatomy)
    if bound.columns is None:
        raise CasebackError(
            f"{metric.name} reads all positions, which deleting tokens moves: choose removal='replace', or a metric of "
            "one position"
        )
    if bound.site is not None and bound.site.name in MAPS:
        raise CasebackError(f"{metric.name} reads a key's place, which deleting tokens moves: choose removal='replace'")
    _, clean = measured(model.anatomy, tokens, metric)
    by_variant = clean.detach().repeat(len(deleted), 1)
    stop = (bound.columns.cpu() - tokens.first.cpu() + 1).tolist()
    ids = [row[mask].cpu() for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
    todo, rows = [], []
    for v, b in deleted.any(-1).nonzero().tolist():
        gone = deleted[v, b, : stop[b]].cpu()
        if not bool(gone.any()):
            continue
        if bool(gone.all()):
            raise CasebackError(
                f"prompt {b} without {tokens.text[b][: stop[b]]} has no token left to predict from: keep one "
                "(keep=), or choose removal='replace'"
            )
        todo.append((v, b))
        rows.append(ids[b][: stop[b]][~gone])
    logits = logits_per_token(bound, model.d_vocab, tokens.shape[1])
    budget = tokens_per_pass(model.anatomy, tokens, token_budget or None, logits=logits)
    at_once = max(1, budget // max((len(row) for row in rows), default=1))
    with progress_bar(total=len(rows), show=progress, what="deletion", unit="prompt") as bar:
        for start in range(0, len(rows), at_once):
            variant, example = torch.tensor(todo[start : start + at_once]).unbind(-1)
            part = model.tokens(rows[start : start + at_once])
            _, values = measured(model.anatomy, part, _at_the_end(bound, example.to(model.device), metric))
            by_variant[variant, example] = values.detach()
            bar.update(len(part))
    return by_variant, clean.detach()


def _at_the_end(bound: Bound, example: Tensor, metric: Metric) -> Metric:
    """The metric of whole prompts for shortened ones, which end where it is read; ``example`` says whose they are."""

    def bind(part: Tokens, *_) -> Bound:
        vocab = None if bound.vocab is None else bound.vocab[example]
        return Bound(part.column(-1), vocab, lambda x, rows: bound.value(x, example.to(rows.device)[rows]))

    return Metric("shortened", bind, reads=metric.reads)
