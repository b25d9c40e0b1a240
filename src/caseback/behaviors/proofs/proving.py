"""All candidates' proofs, one sweep an experiment, beside units that are like them.

    matched(c)   the 20 units nearest in |layer - layer_c| / L + |log size - log size_c|, of a pool of 40 without any of
                 the experiment's labels, into which candidates put their nearest in turn
    alone        sign x effect(c) > quantile .95 of sign x effect(matched), two of its standard errors, and a twentieth
                 of what the relation is worth to the metric (for sign 1: of what it can rise, where that is less)
                 |effect(c)| < quantile .05 of |effect(matched)|                for sign 0
                 where a path stands still (``Experiment.still``), half of |effect(c)| in place of that twentieth
    restores     effect(G without c) - effect(G), as a share of -effect(G),     G all units with the kind's label

Units of a kind make up for one another: each of five induction heads may be dispensable, and all of them are not. So
all that have the label are replaced together, beside random sets of units matched to them one by one; where that goes
further than .95 of those sets, a unit that brings back a tenth of the effect by itself is proved too.

A head's size is sqrt E||z W_O||^2, a neuron's its standard deviation times ||w_out||, an expert's its mean weight.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Kind
from caseback.behaviors.proofs.experiment import Experiment, Replaced, Unit
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.edits import Edit, listed

MATCHED = 20
POOL = 40
SETS = 20
TRIED = 8  # sets beyond the first whose time is taken, where a time is to be kept
ALONE, AMONG = "alone", "among its kind"
SMALLEST = 0.05
"""The least effect that proves anything, as a share of what the metric loses where the relation is absent."""
RESTORED = 0.1
"""The share of a group's effect that a unit must bring back by itself."""
ALONG = 0.5
"""The share of an effect that must go along the path that the label claims."""


@dataclass(frozen=True)
class Outcome:
    """What a unit's proof gave.

    Attributes
    ----------
    unit
        What effects are measured in.
    effect
        Of the unit alone, the mean over prompts.
    error
        Its standard error over prompts.
    bound
        The effect that matched units reach: past it (below it, for sign 0) the unit is proved.
    together, together_bound
        The effect of all units with the label, and that of random sets; None where fewer than two have it.
    restores
        The share of ``together`` that the unit brings back by itself; None likewise.
    proved
        ``"alone"``, ``"among its kind"``, or empty where it is not.
    """

    unit: str
    effect: float
    error: float
    bound: float
    together: float | None
    together_bound: float | None
    restores: float | None
    proved: str


def sizes(evidence: Evidence, sort: str) -> Float[np.ndarray, " unit"]:
    """How large each unit's write is, for matching; of experts how much weight they have."""
    if sort == "expert":
        return evidence.by_expert(TEXT, "router_counts", "weight", group="any").mean(1)
    table = {"head": "head_moments", "neuron": "neuron_moments"}[sort]
    # of a few kinds alone the text may have been read without it
    stream = TEXT if any(table in collection for collection in evidence.collections.get(TEXT, ())) else "fresh"
    if sort == "head":
        moments = torch.as_tensor(
            np.mean([fold["second_moment"].values for fold in evidence.folds(stream, table)], axis=0)
        )
        out = []
        for layer in range(evidence.model.n_layers):
            write = at_least_float32(evidence.model.weights.W_O[layer].detach()).to(moments)
            out.append(torch.einsum("hio,hjo,hij->h", write, write, moments[layer]))
        return torch.cat(out).clamp_min(0).sqrt().cpu().numpy()
    variance = evidence.by_neuron(stream, table, "mlp_post_variance").mean(1)
    rows = [at_least_float32(evidence.model.weights.W_out[i].detach()).norm(dim=1) for i in evidence.neuron_layers]
    return np.sqrt(variance) * torch.cat(rows).cpu().numpy()


class Likeness:
    """How like units of a sort are to each other, in depth and size.

    Parameters
    ----------
    evidence
        What was measured.
    sort
        Of which units.
    labelled
        Units that are no control: they have one of the experiment's labels.
    before
        Nor are units of layers from this one on; None for no such layer.
    """

    def __init__(self, evidence: Evidence, sort: str, labelled: Sequence[int], before: int | None = None):
        units = evidence.units(sort)
        self._depth = np.array([layer for layer, _ in units]) / evidence.model.n_layers
        self._log = np.log(np.maximum(sizes(evidence, sort), np.finfo(float).tiny))
        self._free = np.ones(len(units), dtype=bool)
        self._free[list(labelled)] = False
        if before is not None:
            self._free &= np.array([layer < before for layer, _ in units])

    def nearest(self, unit: int, among: Sequence[int] | None = None) -> list[int]:
        """The units that may be its controls, the nearest first."""
        own = np.flatnonzero(self._free) if among is None else np.asarray(among, dtype=int)
        distance = np.abs(self._depth[own] - self._depth[unit]) + np.abs(self._log[own] - self._log[unit])
        order = np.argsort(distance, kind="stable")
        return [int(i) for i in own[order] if i != unit]

    def pool(self, candidates: Sequence[int], size: int = POOL) -> list[int]:
        """Controls for all candidates: each in turn puts its nearest that is not there yet."""
        queues = [iter(self.nearest(unit)) for unit in candidates]
        pool: dict[int, None] = {}
        while queues and len(pool) < size:
            for queue in list(queues):
                fresh = next((i for i in queue if i not in pool and i not in candidates), None)
                if fresh is None:
                    queues.remove(queue)
                elif len(pool) < size:
                    pool[fresh] = None
        return list(pool)


@dataclass(frozen=True)
class ProofPlan:
    """Which sets of units are replaced for the candidates of one kind."""

    kind: Kind
    matched: dict[int, list[int]]
    """Of each candidate, and of each unit with the label."""
    group: list[int]
    sets: list[list[int]]

    @property
    def replaced(self) -> list[tuple[int, ...]]:
        """Every set that the sweep has to measure."""
        alone = [(i,) for unit, others in self.matched.items() for i in (unit, *others)]
        if len(self.group) < 2:
            return alone
        rest = [tuple(i for i in self.group if i != unit) for unit in self.matched if unit in self.group]
        return [*alone, tuple(self.group), *rest, *map(tuple, self.sets)]


def _plan(
    kind: Kind, chosen: Sequence[int], group: Sequence[int], like: Likeness, pool: Sequence[int], seed: int
) -> ProofPlan:
    matched = {unit: like.nearest(unit, pool)[:MATCHED] for unit in chosen}
    sets: list[list[int]] = []
    if len(group) > 1 and kind.sign:
        rng = np.random.default_rng(seed)
        near = {unit: like.nearest(unit)[:MATCHED] for unit in group}
        for _ in range(SETS):
            drawn: list[int] = []
            for unit in group:
                free = [i for i in near[unit] if i not in drawn]
                drawn += [int(rng.choice(free))] if free else []
            sets.append(sorted(drawn))
        if any(len(one) < len(group) for one in sets):
            sets = []  # too few units without the label to draw sets as large from
    return ProofPlan(kind, matched, sorted(group) if sets else [], sets)


def prove(
    evidence: Evidence,
    experiment: Experiment,
    candidates: Mapping[str, Sequence[int]],
    labelled: Mapping[str, Sequence[int]],
    kinds: Mapping[str, Kind],
    *,
    together: bool = True,
    progress: bool = False,
) -> dict[tuple[str, int], Outcome]:
    """Run one experiment for the candidates of all kinds that it proves.

    Parameters
    ----------
    evidence
        What was measured.
    experiment
        The experiment.
    candidates
        Numbers of units, by kind.
    labelled
        Numbers of all units with the label, by kind.
    kinds
        The kinds by name.
    together
        Whether all units with a label are replaced together too.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        Outcomes by kind and unit.
    """
    plans = plans_of(evidence, experiment, candidates, labelled, kinds, together=together)
    return outcomes_of(evidence, experiment, plans, progress=progress)


def outcomes_of(
    evidence: Evidence, experiment: Experiment, plans: Sequence[ProofPlan], *, progress: bool = False
) -> dict[tuple[str, int], Outcome]:
    """Run what plans say, in one sweep, and judge it: outcomes by kind and unit."""
    sets = _sets(plans)
    effects, whole = _effects(evidence, experiment, sets, progress)
    least = {-1: SMALLEST * abs(experiment.worth), 0: 0.0}
    least[1] = least[-1] if experiment.room is None else min(least[-1], SMALLEST * experiment.room)
    of: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    least_of: dict[str, dict[tuple[int, ...], float]] = {}
    for (sort, units), effect, all_of_it in zip(sets, effects, whole, strict=True):
        of.setdefault(sort, {})[units] = effect
        least_of.setdefault(sort, {})[units] = max(experiment.least, ALONG * all_of_it)
    outcomes = {}
    for plan in plans:
        sort = plan.kind.sort
        bounds = {units: max(own, least[plan.kind.sign]) for units, own in least_of[sort].items()}
        for unit in plan.matched:
            outcomes[plan.kind.name, unit] = _outcome(plan, unit, of[sort], bounds, experiment.unit)
    return outcomes


def plans_of(
    evidence: Evidence,
    experiment: Experiment,
    candidates: Mapping[str, Sequence[int]],
    labelled: Mapping[str, Sequence[int]],
    kinds: Mapping[str, Kind],
    *,
    together: bool,
) -> list[ProofPlan]:
    """What is replaced for the candidates of every kind."""
    plans = []
    for sort in dict.fromkeys(kinds[name].sort for name in candidates):
        own = {name: units for name, units in candidates.items() if kinds[name].sort == sort}
        like = Likeness(evidence, sort, [i for name in own for i in labelled[name]], experiment.before)
        pool = like.pool(list(dict.fromkeys(unit for units in own.values() for unit in units)))
        for name, units in own.items():
            group = labelled[name] if together else []
            plans.append(_plan(kinds[name], units, group, like, pool, evidence.seed))
    return plans


def fitting(
    evidence: Evidence, experiment: Experiment, plans: list[ProofPlan], seconds: float
) -> tuple[list[ProofPlan], str]:
    """As much of the plans as fits a time: the first candidate by itself, its clean run included, and one set more.

    Many sets go through the model together, so one more of them costs less than the first; what that is is measured on
    a few of the plan's own, where those fit. Where nothing does, no plan, and why.
    """
    began = time.monotonic()

    def takes(some: Sequence[tuple[str, tuple[int, ...]]]) -> float:
        since = time.monotonic()
        _effects(evidence, experiment, list(some), False)
        return time.monotonic() - since

    every = _sets(plans)
    first = takes(every[:1])
    more = first
    # no more of them than half of what is left has room for
    some = every[: 1 + min(TRIED, int((seconds - first) / (2 * first)))]
    if len(some) > 2:
        more = max(0.0, takes(some) - first) / (len(some) - 1)
    left = seconds - (time.monotonic() - began)
    alone = [replace(plan, group=[], sets=[]) for plan in plans]
    fewer = ([replace(plan, matched=dict(list(plan.matched.items())[:n])) for plan in alone] for n in (3, 2, 1))
    for some in (plans, alone, *fewer):
        if first + (len(_sets(some)) - 1) * more <= left:
            return some, ""
    return [], f"no time: one unit takes about {first:.1f} s, and {seconds:.0f} s are left for this experiment"


def _sets(plans: Sequence[ProofPlan]) -> list[tuple[str, tuple[int, ...]]]:
    """Every set of units that a sweep has to measure, once, with the sort of its units."""
    return list(dict.fromkeys((plan.kind.sort, units) for plan in plans for units in plan.replaced))


def _effects(
    evidence: Evidence,
    experiment: Experiment,
    sets: list[tuple[str, tuple[int, ...]]],
    progress: bool,
) -> tuple[Float[np.ndarray, "variant prompt"], Float[np.ndarray, " variant"]]:
    """Effects, and the size of the whole effect where they are those along a path; 0 elsewhere."""
    run = evidence.model.sweep
    variants = _variants(evidence, experiment.replaced, sets)
    swept = run(experiment.tokens, variants, experiment.metric, progress=progress)
    effects = (swept.values - swept["clean"].values) / experiment.scale
    whole = np.zeros(len(effects))
    if experiment.still is not None:
        metric, replaced = experiment.still
        again = run(experiment.tokens, _variants(evidence, replaced, sets), metric, progress=progress)
        whole = np.abs(effects).mean(1)
        effects = np.abs(effects) - np.abs((again.values - again["clean"].values) / experiment.scale)
    if experiment.either:
        effects = effects * np.where(effects.mean(1, keepdims=True) < 0, -1, 1)
    return effects, whole


def _variants(evidence: Evidence, replaced: Replaced, sets: list[tuple[str, tuple[int, ...]]]) -> list[list[Edit]]:
    """The edits of every set of units."""
    return [[edit for i in units for edit in listed(replaced(_unit(evidence, sort, i)))] for sort, units in sets]


def _outcome(
    plan: ProofPlan,
    unit: int,
    of: Mapping[tuple[int, ...], np.ndarray],
    least: Mapping[tuple[int, ...], float],
    measured_in: str,
) -> Outcome:
    sign = plan.kind.sign
    own = of[unit,]
    effect, error = float(own.mean()), float(own.std() / np.sqrt(len(own)))
    others = np.array([of[i,].mean() for i in plan.matched[unit]])
    if not len(others):
        others = np.zeros(1)  # all other units have a label themselves: there is only no effect to compare with
    if sign == 0:
        bound = float(np.quantile(np.abs(others), 0.05))
        return Outcome(measured_in, effect, error, bound, None, None, None, ALONE if abs(effect) < bound else "")
    bound = sign * float(np.quantile(sign * others, 0.95))
    alone = sign * effect > max(sign * bound, 2 * error, least[unit,])
    if not plan.group:
        return Outcome(measured_in, effect, error, bound, None, None, None, ALONE if alone else "")
    together = of[tuple(plan.group)]
    random = np.array([of[tuple(units)].mean() for units in plan.sets])
    together_bound = sign * float(np.quantile(sign * random, 0.95))
    restores = None
    among = False
    if unit in plan.group:
        rest = of[tuple(i for i in plan.group if i != unit)]
        restores = float((together - rest).mean() / together.mean()) if together.mean() else 0.0
        certain = sign * (together - rest).mean() > 2 * (together - rest).std() / np.sqrt(len(rest))
        among = bool(
            sign * together.mean() > max(sign * together_bound, least[tuple(plan.group)])
            and restores >= RESTORED
            and certain
        )
    proved = ALONE if alone else AMONG if among else ""
    return Outcome(measured_in, effect, error, bound, float(together.mean()), together_bound, restores, proved)


def _unit(evidence: Evidence, sort: str, index: int) -> Unit:
    layer, number = evidence.units(sort)[index]
    return (sort, layer, number)
