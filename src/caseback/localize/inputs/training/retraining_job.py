"""Retraining as a job in a folder: a shard is one subset of the training examples, and what its model makes of queries.

The folder holds outcomes and digests; models are trained and let go. A worker is given the training by the process
that starts it, or has it from the same call made elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.jobs.fingerprint import code_of, fingerprint, fingerprints
from caseback.jobs.job import Job, Plan
from caseback.localize.inputs.training.examples import queries_of
from caseback.localize.inputs.training.objectives import in_turn, log_likelihood
from caseback.localize.inputs.training.prepared import query_objective
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute

KIND = "retraining"


class Retraining:
    """The work of a shard: a model trained on a subset, and the metric of queries by it."""

    def __init__(
        self,
        train: Callable[[list[int]], Model],
        subsets: Bool[np.ndarray, "variant example"],
        queries: Any,
        metric: Metric | None,
    ):
        self.train, self.subsets, self.queries, self.metric = train, subsets, queries, metric

    def content(self) -> dict[str, Any]:
        """By name what all outcomes follow from, the training as its code."""
        return {
            "subsets": self.subsets,
            "queries": self.queries,
            "metric": self.metric,
            "training": _content_of(self.train),
        }

    def plan(self, threads: int) -> Plan:
        """The job: a shard a subset, so that more of them at the end keep what is done."""
        content = self.content()
        subsets = [fingerprint(subset) for subset in content.pop("subsets")]
        return Plan(KIND, {}, fingerprints(content), subsets, [], threads, "model")

    def outcomes(self, variant: int) -> Float[np.ndarray, " query"]:
        """Train on one subset, and measure the queries."""
        model = self.train(np.flatnonzero(self.subsets[variant]).tolist())
        asked = queries_of(model, self.queries)
        objective = query_objective(model, asked, self.metric, log_likelihood())
        values = [objective(execute(model.anatomy, b.tokens).logits, b) for b in in_turn(model, asked)]
        return torch.cat(values).cpu().double().numpy()

    def __call__(self, job: Job, shard: int) -> dict[str, Tensor]:
        return {"outcomes": torch.from_numpy(self.outcomes(shard))}


def _content_of(train: Callable[..., Any]) -> Any:
    """What a training is known by: its code, and what a partial or a record holds; a function may hold a counter."""
    if isinstance(train, functools.partial):
        return [_content_of(train.func), train.args, train.keywords]
    return train if is_dataclass(train) or hasattr(train, "fingerprint_parts") else code_of(train)
