"""One behavior in one model: whether it is there, who does what in it, and which places of the stream carry it.

    prompts, half for choosing and half for judging  ->  margin beside shuffled answers  ->  roles, one after another

A model whose margin is what shuffled answers give does not do the task: then no head is named.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from caseback.behaviors.mechanisms.chance import margin
from caseback.behaviors.mechanisms.declared import BEHAVIORS
from caseback.behaviors.mechanisms.judging import chosen, judged, like
from caseback.behaviors.mechanisms.report import BehaviorReport, Carried, RoleReport
from caseback.behaviors.mechanisms.role import DIRECT, TOTAL, Behavior
from caseback.behaviors.mechanisms.scene import Part, Scene, parts_of
from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.findings import Finding, Findings, ordered
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.tasks.prompts import Prompts
from caseback.tasks.task import Task

LAYERS = 12
"""The most layers of which the stream is exchanged; of more, so many at even distances."""


@technique(
    entry=("5.4.4", "5.4.5", "5.4.6", "5.4.7", "5.4.8", "5.4.9", "5.4.10", "5.4.11", "5.4.12"),
    citation="Wang et al. 2023, Hanna et al. 2023, Heimersheim & Janiak 2023, Merullo et al. 2024",
    cost="a sweep of the heads that look, and one of candidates and as many random ones",
)
def behavior(
    model: Model,
    name: str | Behavior,
    *,
    task: Task | None = None,
    prompts: int = 20,
    top: int = 5,
    places: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> BehaviorReport:
    """Whether a model does a task, which heads and MLPs have which role in it, and what proves them.

    Parameters
    ----------
    model
        The model.
    name
        One of ``caseback.behaviors.BEHAVIORS``, or a ``Behavior`` of your own.
    task
        The task in other words than the behavior's own, with the same places; its own by default.
    prompts
        Prompts that parts are chosen on, and as many others that they are judged on; at least 4.
    top
        Candidates of each role at most.
    places
        Exchange the stream at the behavior's places too.
    seed
        Same seed, same result. Draws prompts, shuffled answers and random parts.
    progress
        Show a progress bar.

    Returns
    -------
    BehaviorReport
        Of an absent behavior it has the margin alone. Effects are in the task's measure, with the role's sign: above 0
        where the part works as its role says.

    Raises
    ------
    CasebackError
        For an unknown behavior, too few prompts, or a task without the behavior's places.
    TokensError
        If the task has too few prompts for the model's tokenizer.

    References
    ----------
    Wang et al. 2023, "Interpretability in the wild"; each behavior's ``citation``.

    Examples
    --------
    >>> import caseback as cb
    >>> report = behavior(cb.load("meadow"), "induction", prompts=8, places=False)
    >>> report.margin.clean > report.margin.band, report.proved("induction")[0][:2]
    (True, 'L2')
    """
    own = BEHAVIORS.get(name) if isinstance(name, str) else name
    if own is None:
        raise CasebackError(
            f"no behavior is called {name!r}. {did_you_mean(str(name), BEHAVIORS, most=len(BEHAVIORS))}"
        )
    if prompts < 4:
        raise OutOfRange(f"{prompts} prompts: expected 4 or more, to choose on and as many to judge on")
    if top < 1:
        raise OutOfRange(f"top is {top}: expected 1 candidate or more")
    drawn = (task or own.task()).prompts(model, 2 * prompts, seed=seed)
    selection, held_out = drawn[:prompts], drawn[prompts:]
    report = BehaviorReport(
        own.name,
        own.about,
        own.entry,
        own.citation,
        (prompts, prompts),
        _example(held_out),
        margin(model, held_out, seed=seed),
        about_model={**model.provenance(), "seed": seed, "parts": len(parts_of(model, "head"))},
    )
    if not report.present:
        return report
    choosing, judging = (Scene(model, own, some, progress=progress) for some in (selection, held_out))
    roles, findings = _roles(model, own, choosing, judging, top, seed)
    about = {key: str(value) for key, value in report.about_model.items()}
    carried = _carried(model, own, judging) if places else None
    return replace(report, roles=tuple(roles), heads=Findings(ordered(findings), about), carried=carried)


def _carried(model: Model, own: Behavior, scene: Scene) -> Carried:
    layers = np.unique(np.linspace(0, model.n_layers - 1, min(LAYERS, model.n_layers)).astype(int)).tolist()
    shares = scene.carried(layers).tolist()
    return Carried(own.places, tuple(layers), tuple(map(tuple, shares)))


def _roles(
    model: Model, own: Behavior, choosing: Scene, judging: Scene, top: int, seed: int
) -> tuple[list[RoleReport], list[Finding]]:
    """Every role's candidates and what became of them, role by role: some work through others."""
    taken: dict[tuple[str, str], list[Part]] = {}
    proved: dict[str, list[str]] = {}
    reports, findings = [], []
    for role in own.roles:
        report = RoleReport(role.name, role.about, role.at, role.to, role.proof)
        if role.by not in (TOTAL, DIRECT) and not proved.get(role.by):
            reports.append(replace(report, missing=f"no {role.by} was proved, through which it works"))
            continue
        parts = parts_of(model, role.sort)
        if len(parts) < 2:
            reports.append(replace(report, missing=f"of {role.sort}s there are {len(parts)}, and none to compare with"))
            continue
        candidates = chosen(role, choosing, parts, proved, top)
        at_place = taken.setdefault((role.at, role.sort), [])
        at_place += candidates
        own_findings, together = judged(
            role, judging, parts, candidates, like(candidates, parts, at_place), proved, seed
        )
        proved[role.name] = [finding.component for finding in own_findings if finding.grade == "proved"]
        findings += own_findings
        numbers = {"candidates": len(candidates), "proved": len(proved[role.name])}
        reports.append(replace(report, **numbers, together=together.fall, together_band=together.band))
    return reports, findings


def _example(prompts: Prompts) -> dict[str, str]:
    pair = prompts.pairs[0]
    sides = {side: "".join(getattr(prompts, side).text[0]) for side in ("clean", "corrupt")}
    return sides | {name: ", ".join(map(str, getattr(pair, name)[:3])) for name in ("target", "foil")}
