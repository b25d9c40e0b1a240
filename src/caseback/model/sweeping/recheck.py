"""The largest effects of a sweep in half precision, measured again in float32.

    effect = metric(variant) - metric(unedited),        both of a copy of the model whose weights are widened

A weight of half precision is a float32 number, so the copy is the same model with rounding taken out of its passes.
Runs that edits take values from are made again with the copy; one that was itself edited is taken as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from caseback.model.anatomy.assembled import assembled
from caseback.model.anatomy.coerce import in_float64
from caseback.model.running.edits import Edit, listed
from caseback.model.running.metrics import Metric
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import Tokens
from caseback.model.running.user_hooks import drop_output_hooks
from caseback.model.sweeping.sweep import sweep


def rechecked(
    anatomy: Any,
    tokens: Tokens,
    variants: Sequence[Edit | Sequence[Edit]],
    metric: Metric,
    effects: Float[Tensor, "variant batch"],
    top: int,
    *,
    token_budget: int | None = None,
) -> tuple[Int[Tensor, " top"], Float[Tensor, "top batch"]]:
    """The variants of the largest mean effects, and their effects in float32.

    Parameters
    ----------
    anatomy, tokens, variants, metric, token_budget
        As for ``sweep``.
    effects
        What the sweep gave, less the unedited run's metric.
    top
        How many variants; all where there are fewer.

    Examples
    --------
    >>> import torch
    >>> import caseback as cb
    >>> model = cb.load("meadow", dtype=torch.bfloat16)
    >>> heads = [cb.Zero("z", layer=0, head=h) for h in range(model.n_heads)]
    >>> swept = model.sweep("Mary and John went to", heads, cb.logit(" the"), recheck=2)
    >>> int(swept.in_float32.notnull().sum())
    2
    """
    largest = in_float64(effects).mean(1).abs().argsort(descending=True, stable=True)[:top]
    drop_output_hooks(anatomy.hf)
    wide = assembled(copy.deepcopy(anatomy.hf).float(), anatomy.tokenizer)
    runs: dict[int, Run] = {}

    def again(edit: Edit) -> Edit:
        held = {f.name: getattr(edit, f.name) for f in fields(edit)}
        changed = {name: run_again(run) for name, run in held.items() if isinstance(run, Run)}
        return replace(edit, **changed) if changed else edit

    def run_again(run: Run) -> Run:
        if run.edited or run.anatomy.hf is not anatomy.hf:
            return run
        if id(run) not in runs:
            runs[id(run)] = execute(wide, run.tokens, read=run.sites, logits=False)
        return runs[id(run)]

    wide.standing = tuple((site, again(edit)) for site, edit in anatomy.standing)
    chosen = [[again(edit) for edit in listed(variants[i])] for i in largest.tolist()]
    swept = sweep(wide, tokens, chosen, metric, token_budget=token_budget)
    return largest, swept.values - swept.unedited
