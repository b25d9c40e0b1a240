"""A run that ends at a metric: only the logits that it reads are formed.

    value_b = metric(unembed(resid_post[last][b, column_b])[vocab_b])

A full forward unembeds every position into the whole vocabulary, a third of GPT-2-small's work, and a backward pass
from it does as much again. A metric of one position needs one row of that, a logit difference two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.backward.rules import Rules, ruled
from caseback.model.running.edits import Edit, check
from caseback.model.running.metrics import Metric
from caseback.model.running.passing import undisturbed
from caseback.model.running.run import Run, execute
from caseback.model.running.targets import warn_of_spaces
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.running.user_hooks import hooked_by_user
from caseback.model.running.verify import unembed

_AFTER_THE_STREAM = ("final_norm", "final_norm.scale", "logits")


@as_found
def measured(
    anatomy: Anatomy,
    tokens: Tokens,
    metric: Metric,
    *,
    read: Sequence[Any] = (),
    edits: Sequence[Edit] = (),
    grad: bool = False,
    rules: Rules | None = None,
) -> tuple[Run, Float[Tensor, " batch"]]:
    """Run the model once and measure it.

    Parameters
    ----------
    anatomy, tokens, read, edits, grad
        As for ``Model.run``; the last ``resid_post`` is read too.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    rules
        The backward pass of relevance propagation in place of the gradient's, down to the logits that are read.

    Returns
    -------
    The run, and the metric of each prompt. If the metric reads a site, the run holds that site and no logits. Otherwise
    it holds logits only where the metric reads all positions, where something behind the last layer is read or
    edited, or where the user's own hooks may change it.
    """
    bound = metric.on(tokens, anatomy)
    if bound.site is not None:
        run = execute(anatomy, tokens, read=[*read, *metric.reads], edits=edits, grad=grad, logits=False, rules=rules)
        with torch.set_grad_enabled(grad):
            return run, bound.of_run(run)
    reads = [site for given in read for site in anatomy.sites(given)]
    touched = [*reads, *(site for site, _ in anatomy.standing)]
    touched += [site for edit in edits for site, _ in check(edit, anatomy, tokens)]
    behind = any(site.name in _AFTER_THE_STREAM for site in touched) or hooked_by_user(anatomy) is not None
    if bound.columns is None or behind:
        run = execute(anatomy, tokens, read=reads, edits=edits, grad=grad, rules=rules)
        if bound.columns is not None and not edits:
            columns = bound.columns.tolist()
            warn_of_spaces(anatomy, metric.target, metric.foil, len(columns), lambda b: run.logits[b, columns[b]])
        return run, bound.of_logits(run.logits)
    last = Site("resid_post", anatomy.n_layers - 1)
    run = execute(anatomy, tokens, read=[*reads, last], edits=edits, grad=grad, logits=False, rules=rules)
    rows = torch.arange(len(tokens), device=tokens.ids.device)
    with undisturbed(anatomy, grad=grad):
        stream = run[last]
        at = stream[rows.to(stream.device), bound.columns.to(stream.device)]
        with ruled(anatomy, rules):
            logits = unembed(anatomy, at, bound.vocab)
        if not edits:
            warn_of_spaces(
                anatomy, metric.target, metric.foil, len(at), lambda b: unembed(anatomy, at[b : b + 1].detach())[0]
            )
        values = bound.value(logits, rows)
    return run, values
