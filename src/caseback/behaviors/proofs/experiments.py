"""Experiments that a label must survive: prompts, a metric on them, and what stands in a unit's place.

    second copy    log probability of the second half of a repeated span, nats a token; mean over unrepeated tokens
    named twice    logit difference of indirect objects; the run in which nobody is named twice
    succession     logit difference of the next member of a series; the run of another place in it
    plain text     KL from the unedited predictions, nats; mean over text

effect = metric with the unit replaced - metric as it is. Means are taken where the relation is absent, so that what a
unit always writes stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from caseback import tasks
from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.synthetic import streams
from caseback.errors import CasebackError, SiteAbsent, TokensError
from caseback.model.running.answer_metrics import answer_log_prob
from caseback.model.running.edits import Edit, Replace, Resample
from caseback.model.running.metrics import Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.task import Task

PROMPTS = 32
Unit = tuple[str, int, int]
"""Its sort (``"head"`` or ``"neuron"``), its layer, its number there."""


@dataclass(frozen=True)
class Experiment:
    """Prompts, a metric, and what replaces a unit.

    Attributes
    ----------
    name
        What kinds call it.
    tokens
        The prompts.
    metric
        What is measured of each prompt.
    unit
        What an effect is measured in.
    replaced
        The edit that takes a unit's contribution out.
    scale
        What an effect is divided by.
    worth
        How much the metric falls where the relation is absent, in the effect's unit; 0 where there is no relation.
    room
        How much it can rise at most; None where there is no end.
    """

    name: str
    tokens: Tokens
    metric: Metric
    unit: str
    replaced: Callable[[Unit], Edit]
    scale: float = 1.0
    worth: float = 0.0
    room: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How an experiment is made, and the tables that it needs by stream."""

    make: Callable[[Evidence], Experiment]
    needs: dict[str, tuple[str, ...]]


def second_copy(evidence: Evidence) -> Experiment:
    """A random span again: how likely is its second half?"""
    model = evidence.model
    drawn = streams(model, rows=PROMPTS // 4, seed=evidence.seed + 1)
    labeled, others = ([row for fold in drawn[name] for row in fold] for name in ("repeated", "fresh"))
    n = sum(place >= 0 for place in labeled[0][1]["same"]) - 1
    tokens, metric = _ending(model, [ids for ids, _ in labeled], n)
    control, same = _ending(model, [ids for ids, _ in others], n)
    as_it_is, without = (float(of(model.run(t)).mean()) / n for of, t in ((metric, tokens), (same, control)))
    by_means = _by_means(evidence, "fresh")
    return Experiment("second copy", tokens, metric, "nats a token", by_means, n, as_it_is - without, -as_it_is)


def _ending(model: Model, rows: list[list[int]], n: int) -> tuple[Tokens, Metric]:
    """Rows, and the log probability of their last n tokens."""
    return model.tokens(rows), answer_log_prob([ids[-n:] for ids in rows])


def plain_text(evidence: Evidence) -> Experiment:
    """Text: do predictions change at all?"""
    model = evidence.model
    if TEXT not in evidence.collections:
        raise SiteAbsent("no text was read")
    tokens = model.tokens(evidence.prompts)
    return Experiment("plain text", tokens, kl(model.run(tokens)), "nats", _by_means(evidence, TEXT))


def _of_task(name: str, task: Callable[[], Task]) -> Callable[[Evidence], Experiment]:
    def make(evidence: Evidence) -> Experiment:
        model = evidence.model
        try:
            prompts = task().prompts(model, PROMPTS, seed=evidence.seed)
        except (TokensError, CasebackError) as error:
            raise SiteAbsent(f"the task {name} does not fit this tokenizer: {error}") from error
        runs = {}

        def replaced(unit: Unit) -> Edit:
            sort, layer, index = unit
            site = {"head": "z", "neuron": "mlp_post"}[sort]
            if site not in runs:
                runs[site] = model.run(prompts.corrupt, read=[site])
            return Resample(site, layer=layer, source=runs[site], **_address(unit))

        metric = prompts.measured("logit_diff")
        worth = float((metric(model.run(prompts.clean)) - metric(model.run(prompts.corrupt))).mean())
        return Experiment(name, prompts.clean, metric, "logits", replaced, worth=worth)

    return make


def _address(unit: Unit) -> dict[str, int]:
    sort, _, index = unit
    return {"head": index} if sort == "head" else {"unit": index}


def _by_means(evidence: Evidence, stream: str) -> Callable[[Unit], Edit]:
    """Means of a stream in a unit's place."""
    means: dict[str, dict[tuple[int, int], Tensor]] = {}

    def of_heads() -> dict[tuple[int, int], Tensor]:
        parts = [fold["mean"].values for fold in evidence.folds(stream, "head_moments")]
        mean = torch.as_tensor(sum(parts) / len(parts))
        return {(layer, head): mean[layer, head] for layer, head in evidence.heads}

    def of_neurons() -> dict[tuple[int, int], Tensor]:
        mean = torch.as_tensor(evidence.by_neuron(stream, "neuron_moments", "mlp_post_mean").mean(1))
        return dict(zip(evidence.neurons, mean, strict=True))

    def replaced(unit: Unit) -> Edit:
        sort, layer, index = unit
        if sort not in means:
            means[sort] = of_heads() if sort == "head" else of_neurons()
        site = {"head": "z", "neuron": "mlp_post"}[sort]
        return Replace(site, layer=layer, value=means[sort][layer, index], **_address(unit))

    return replaced


EXPERIMENTS: dict[str, Recipe] = {
    "second copy": Recipe(second_copy, {"fresh": ("head_moments",)}),
    "plain text": Recipe(plain_text, {TEXT: ("head_moments",)}),
    "named twice": Recipe(_of_task("named twice", lambda: tasks.ioi(corruption="abc")), {TEXT: ("head_moments",)}),
    "succession": Recipe(_of_task("succession", tasks.successor), {TEXT: ("head_moments",)}),
}
"""Every experiment by its name."""
