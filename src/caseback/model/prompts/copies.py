"""Copies of prompts, for what is drawn or tried many times on each: prompt 0, 0, 0, 1, 1, 1, ..."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens


def repeated(tokens: Tokens, times: int) -> Tokens:
    """Each prompt ``times`` times, its copies next to each other."""
    return Tokens(
        tokens.ids.repeat_interleave(times, 0),
        tokens.mask.repeat_interleave(times, 0),
        [row for row in tokens.text for _ in range(times)],
    )


def repeated_metric(metric: Metric, tokens: Tokens, times: int) -> Metric:
    """A metric of prompts as a metric of their copies: each copy has its prompt's targets and position."""

    def bind(_: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        bound = metric.bind(tokens, tokenizer, d_vocab)

        def each(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.repeat_interleave(times, 0)

        return Bound(each(bound.columns), each(bound.vocab), lambda x, rows: bound.value(x, rows // times))

    return replace(metric, bind=bind)


def repeated_run(run: Run, copies: Tokens, times: int) -> Run:
    """What a run of the prompts read, as a run of their copies; nothing is computed again."""
    acts = {site: run[site].repeat_interleave(times, 0) for site in run.sites}
    return Run(run.anatomy, copies, acts, None, edited=run.edited)
