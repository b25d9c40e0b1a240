"""A task's prompts, with a unit as in the counterfactual's run.

effect = logit difference with the unit from the corrupt run - as it is
"""

from __future__ import annotations

from collections.abc import Callable

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.proofs.experiment import SITES, Experiment, Unit, address
from caseback.errors import CasebackError, SiteAbsent, TokensError
from caseback.model.running.edits import Edit, Resample
from caseback.tasks.task import Task

PROMPTS = 32


def of_task(name: str, task: Callable[[], Task], seed: int | None = None) -> Callable[[Evidence], Experiment]:
    """What makes the experiment; ``seed`` draws the prompts, by default that of the evidence."""

    def make(evidence: Evidence) -> Experiment:
        model = evidence.model
        try:
            prompts = task().prompts(model, PROMPTS, seed=evidence.seed if seed is None else seed)
        except (TokensError, CasebackError) as error:
            raise SiteAbsent(f"the task {name} does not fit this tokenizer: {error}") from error
        runs = {}

        def replaced(unit: Unit) -> Edit:
            sort, layer, index = unit
            site = SITES[sort]
            if site not in runs:
                runs[site] = model.run(prompts.corrupt, read=[site])
            return Resample(site, layer=layer, source=runs[site], **address(unit))

        metric = prompts.measured("logit_diff")
        worth = float((metric(model.run(prompts.clean)) - metric(model.run(prompts.corrupt))).mean())
        return Experiment(name, prompts.clean, metric, "logits", replaced, worth=worth)

    return make
