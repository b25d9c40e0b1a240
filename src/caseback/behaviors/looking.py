"""Looks at all units and facts of the stream, in the time that there is: the cheapest first, and what fits.

    room = time left - the share of it, when looks begin, that proofs are to have; all of it where none would fit that

After each look the rest is planned again: works that are done cost nothing more, and what looks truly took corrects the
estimates of those to come (see ``within``). A look that only reduces tables is always run: its tables are paid for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from caseback.behaviors.costs import HELD, operations, proof_operations, shape_of, speed
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.within import Within, duration
from caseback.errors import CasebackError
from caseback.jobs.progress import progress_bar


@dataclass(frozen=True)
class Step:
    """One look, or one fact.

    Attributes
    ----------
    name
        Of the kind or the fact.
    works
        What it computes beside reducing tables, by the names of ``costs.WORKS``.
    run
        The look.
    """

    name: str
    works: tuple[str, ...]
    run: Callable[[], Any]


def run_steps(
    steps: Sequence[Step],
    evidence: Evidence,
    within: Within | None = None,
    *,
    keep: float = 0.0,
    progress: bool = False,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run looks and facts.

    Parameters
    ----------
    steps
        Which.
    evidence
        What they read.
    within
        The time; None for all of them in their order.
    keep
        The share of what is left that is left over.
    progress
        Show a progress bar.

    Returns
    -------
    tuple
        What each gave, and why others gave nothing, by name.
    """
    results: dict[str, Any] = {}
    missing: dict[str, str] = {}
    done: set[str] = set()
    left_out: dict[tuple[str, frozenset[str]], list[str]] = {}
    costs = dict.fromkeys((step.name for step in steps), 0.0)
    reserve, shape = 0.0, None
    if within is not None:
        within.speed = within.speed or speed(evidence.model.device, within.clock)
        shape, reserve = shape_of(evidence), keep * within.left
        if within.takes(proof_operations(shape)) > reserve:
            reserve = 0.0  # not one proof would fit it
    to_do = list(steps)
    for _ in progress_bar(steps, "looks", show=progress, unit="look"):
        if shape is not None:
            costs = {step.name: operations(step.works, done, shape) for step in to_do}
            to_do.sort(key=lambda step: costs[step.name])
        step = to_do.pop(0)
        cost = costs[step.name]
        if within is not None and cost and within.takes(cost) > within.left - reserve:
            takes = duration(within.takes(cost))
            left_out.setdefault((takes, HELD & set(step.works)), []).append(step.name)
            missing[step.name] = f"left out for time: it would take about {takes}"
            continue
        began = within.clock() if within is not None else math.nan
        try:
            results[step.name] = step.run()
        except CasebackError as error:  # the model has no such part, or the text too little of what is looked for
            missing[step.name] = str(error)
            continue
        done |= HELD & set(step.works)
        if within is not None and cost:
            within.learn(cost, within.clock() - began)
    if within is not None:
        within.left_out += [_words(*one, names) for one, names in left_out.items()]
    return results, missing


def _words(takes: str, shared: frozenset[str], names: Sequence[str]) -> str:
    many = "" if len(names) < 2 else " together" if shared else " each"
    return f"{', '.join(names)} (about {takes}{many})"
