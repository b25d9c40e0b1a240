"""What is differentiated: one number per example, whose gradient is a training example's or a query's.

    log-likelihood   l(z) = sum_t log p(z_{t+1} | z_<=t)          the loss is -l
    margin           f(z) = sum_t log(p / (1 - p))                TRAK's, of the same p
    sampled          l(z'), z' drawn from p at each position      whose gradients' second moment is the Fisher matrix

Sums run over counted predictions; ``"mean"`` divides by their number, as a training that gives every example the same
weight does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.budget import limit
from caseback.localize.inputs.training.examples import Batch, Example, batch_of
from caseback.localize.inputs.training.per_example import Objective
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.metrics import Metric, expect_logits
from caseback.model.running.model import Model

REDUCTIONS = ("sum", "mean")


def check_reduction(reduction: str) -> str:
    """Refuse an unknown way to add up an example's predictions."""
    if reduction not in REDUCTIONS:
        raise CasebackError(f"reduction {reduction!r} is unknown. {did_you_mean(reduction, REDUCTIONS)}")
    return reduction


def log_likelihood(reduction: str = "sum") -> Objective:
    """Log-likelihood of an example's counted tokens."""
    check_reduction(reduction)
    return lambda logits, batch: _added(_log_p(logits, batch.tokens.ids[:, 1:]), batch, reduction)


def margin(reduction: str = "sum") -> Objective:
    """TRAK's output function: the log odds of the right token, added up."""
    check_reduction(reduction)

    def value(logits: Tensor, batch: Batch) -> Tensor:
        x, right = at_least_float32(logits[:, :-1]), batch.tokens.ids[:, 1:, None]
        others = x.scatter(-1, right, -torch.inf).logsumexp(-1)
        return _added(x.gather(-1, right)[..., 0] - others, batch, reduction)

    return value


def missed(logits: Float[Tensor, "batch pos vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """1 - p of the right token, averaged over an example's counted predictions: TRAK's Q."""
    return _added(1 - _log_p(logits, batch.tokens.ids[:, 1:]).exp(), batch, "mean")


def sampled(seed: int, reduction: str = "sum") -> Objective:
    """Log-likelihood of labels that the model draws itself; the same ones in whatever batch an example stands."""
    check_reduction(reduction)

    def value(logits: Tensor, batch: Batch) -> Tensor:
        cumulative = at_least_float32(logits[:, :-1].detach()).softmax(-1).cumsum(-1)
        at = uniform(seed, batch.numbers, cumulative.shape[1]).to(cumulative)
        drawn = torch.searchsorted(cumulative, (at * cumulative[..., -1])[..., None])[..., 0]
        return _added(_log_p(logits, drawn.clamp_max(logits.shape[-1] - 1)), batch, reduction)

    return value


def of_metric(model: Model, queries: Sequence[Example], metric: Metric) -> Objective:
    """A metric of queries, which are told apart by their numbers."""
    expect_logits(metric, "influence of training examples")
    whole = batch_of(queries, range(len(queries)), model.device)

    def value(logits: Tensor, batch: Batch) -> Tensor:
        part = slice(batch.numbers[0], batch.numbers[-1] + 1)
        return metric.of_rows(whole.tokens, part).on(batch.tokens, model.anatomy).of_logits(logits)

    return value


def in_turn(model: Model, queries: Sequence[Example], token_budget: int | None = None) -> Iterator[Batch]:
    """Queries as batches, in order and padded alike."""
    whole = batch_of(queries, range(len(queries)), model.device)
    step = max(1, limit("influence_tokens", given=token_budget) // whole.tokens.shape[1])
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        yield Batch(whole.numbers[part], whole.tokens[part], whole.counted[part])


def uniform(seed: int, numbers: Sequence[int], width: int) -> Float[Tensor, "batch pos"]:
    """Numbers in (0, 1) that depend on the seed, the example's number and the position alone."""
    with np.errstate(over="ignore"):
        key = _mixed(np.uint64(seed % 2**64) + np.asarray(numbers, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        bits = _mixed(key[:, None] + np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return torch.from_numpy(((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Every bit of the output depends on every bit of the input (the finalizer of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _log_p(logits: Tensor, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    x = at_least_float32(logits[:, : ids.shape[1]])
    return x.gather(-1, ids[..., None])[..., 0] - x.logsumexp(-1)


def _added(by_token: Float[Tensor, "batch pos"], batch: Batch, reduction: str) -> Float[Tensor, " batch"]:
    counted = batch.counted[:, :-1]
    # not a product: what is not counted may be infinite
    total = torch.where(counted, by_token, 0.0).sum(-1)
    return total / counted.sum(-1) if reduction == "mean" else total
