"""What heads of ``heads.answering`` must do to answers that their looks have not seen, or not so.

a function without examples           the head writes its mean of prompts that show the function at the end of queries
                                      without an example: the log probability of the answer rises
a claim that agrees                   at the end the head is as where the context claims what is known:
                                      logit(claimed) - logit(known) falls
the same claim of another subject     at the end it is as where the same is claimed of another subject, whose fact is
                                      asked for: logit(known) - logit(claimed) falls
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from caseback.behaviors.answers_of_heads import Claims, KnownFunction
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.proofs.experiment import Experiment, Unit
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.metrics import log_prob, logit_diff
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens


def without_examples(evidence: Evidence) -> Experiment:
    """Queries of the second half, without examples; means are of prompts of the first half."""
    model = evidence.model
    functions: list[KnownFunction] = evidence.of_answers("functions")
    clean: list[list[int]] = []
    shown: list[list[int]] = []
    answers: list[int] = []
    groups, runs = [], []
    for of in functions:
        first, second = of.shots
        groups.append(list(range(len(clean), len(clean) + len(second.zero))))
        runs.append(model.run(first.prompts.clean, read=["z"]))
        clean += [ids.tolist() for ids in second.zero.host_ids]
        shown += [ids.tolist() for ids in second.prompts.clean.host_ids]
        answers += [ids[0] for ids in second.prompts.target]
    tokens, metric = model.tokens(clean), log_prob(answers)
    as_it_is, with_them = (float(metric(model.run(own)).mean()) for own in (tokens, model.tokens(shown)))

    def replaced(unit: Unit) -> list[Edit]:
        _, layer, head = unit
        return [
            Replace("z", layer=layer, head=head, pos=-1, prompt=prompts, value=_last(run, layer, head).mean(0))
            for prompts, run in zip(groups, runs, strict=True)
        ]

    name = "a function without examples"
    return Experiment(name, tokens, metric, "nats", replaced, worth=with_them - as_it_is, room=-as_it_is)


def _last(run: Run, layer: int, head: int) -> torch.Tensor:
    rows = torch.arange(len(run.tokens))
    return run["z", layer][rows, run.tokens.column(-1), head]


def _of_claims(name: str, sign: int, source: Callable[[Claims], Tokens]) -> Callable[[Evidence], Experiment]:
    """At the end of prompts that claim what is not so, a head as in other prompts."""

    def make(evidence: Evidence) -> Experiment:
        model = evidence.model
        (claims,) = evidence.of_answers("claims")
        facts = np.flatnonzero(claims.second).tolist()
        tokens = claims.claims[facts]
        answers = [[of[i] for i in facts] for of in (claims.claimed, claims.known)]
        metric = logit_diff(*answers[::sign])
        run = model.run(source(claims)[facts], read=["z"])
        worth = float((metric(model.run(tokens)) - metric(run)).mean())

        def replaced(unit: Unit) -> Edit:
            _, layer, head = unit
            return Replace("z", layer=layer, head=head, pos=-1, value=_last(run, layer, head))

        return Experiment(name, tokens, metric, "logits", replaced, worth=worth)

    return make


MAKES: dict[str, Callable[[Evidence], Experiment]] = {
    "a function without examples": without_examples,
    "a claim that agrees": _of_claims("a claim that agrees", 1, lambda claims: claims.agrees),
    "the same claim of another subject": _of_claims(
        "the same claim of another subject", -1, lambda claims: claims.elsewhere
    ),
}
"""What makes each experiment."""
