"""All candidates' proofs, one sweep an experiment, beside units that are like them.

    matched(c) = the 20 units, no candidates of the kind, nearest in |layer - layer_c| / L + |log size - log size_c|
    proved     : sign x effect(c) > quantile .95 of sign x effect(matched)      for sign -1 or 1
                 |effect(c)| < quantile .05 of |effect(matched)|                for sign 0

A head's size is sqrt E||z W_O||^2 over text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Kind
from caseback.behaviors.proofs.experiments import Experiment, Unit
from caseback.model.anatomy.norms import at_least_float32

MATCHED = 20


@dataclass(frozen=True)
class Outcome:
    """What a unit's proof gave.

    Attributes
    ----------
    effect
        Mean over prompts, in the experiment's unit.
    spread
        Its standard error over prompts.
    bound
        The effect that matched units reach: past it (below it, for sign 0) the unit is proved.
    proved
        Whether it is.
    """

    effect: float
    spread: float
    bound: float
    proved: bool


def sizes(evidence: Evidence, sort: str) -> Float[np.ndarray, " unit"]:
    """How large each unit's write is, for matching."""
    stream = TEXT if TEXT in evidence.collections else "fresh"
    if sort == "head":
        moments = torch.as_tensor(
            np.mean([fold["second_moment"].values for fold in evidence.folds(stream, "head_moments")], axis=0)
        )
        out = []
        for layer in range(evidence.model.n_layers):
            write = at_least_float32(evidence.model.weights.W_O[layer].detach()).to(moments)
            out.append(torch.einsum("hio,hjo,hij->h", write, write, moments[layer]))
        return torch.cat(out).clamp_min(0).sqrt().cpu().numpy()
    folds = evidence.folds(stream, "neuron_moments")
    deviation = np.sqrt(np.mean([fold["variance"].values for fold in folds], axis=0))
    rows = [
        at_least_float32(evidence.model.weights.W_out[i].detach()).norm(dim=1).cpu().numpy()
        for i in range(evidence.model.n_layers)
    ]
    return np.concatenate([deviation[i] * row for i, row in enumerate(rows)])


def matched_units(
    evidence: Evidence, sort: str, unit: int, candidates: Sequence[int], size: np.ndarray, n: int = MATCHED
) -> list[int]:
    """The units nearest to one in depth and size, candidates left out."""
    units = evidence.heads if sort == "head" else evidence.neurons
    layer = np.array([layer for layer, _ in units])
    logs = np.log(np.maximum(size, np.finfo(float).tiny))
    distance = np.abs(layer - layer[unit]) / evidence.model.n_layers + np.abs(logs - logs[unit])
    distance[list(candidates)] = np.inf
    order = np.argsort(distance, kind="stable")
    return [int(i) for i in order[:n] if np.isfinite(distance[i])]


def prove(
    evidence: Evidence,
    experiment: Experiment,
    candidates: Mapping[str, Sequence[int]],
    kinds: Mapping[str, Kind],
    *,
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
    kinds
        The kinds by name.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        Outcomes by kind and unit.
    """
    size: dict[str, np.ndarray] = {}
    beside: dict[tuple[str, int], list[int]] = {}
    wanted: dict[Unit, int] = {}
    for name, chosen in candidates.items():
        sort = kinds[name].sort
        if sort not in size:
            size[sort] = sizes(evidence, sort)
        for unit in chosen:
            beside[name, unit] = matched_units(evidence, sort, unit, chosen, size[sort])
            for i in (unit, *beside[name, unit]):
                wanted.setdefault(_unit(evidence, sort, i), len(wanted))
    swept = evidence.model.sweep(
        experiment.tokens, [experiment.replaced(unit) for unit in wanted], experiment.metric, progress=progress
    )
    effects = (swept.values - swept["clean"].values) / experiment.scale
    mean, error = effects.mean(1), effects.std(1) / np.sqrt(effects.shape[1])
    outcomes = {}
    for (name, unit), matched in beside.items():
        kind = kinds[name]
        at = wanted[_unit(evidence, kind.sort, unit)]
        others = np.array([mean[wanted[_unit(evidence, kind.sort, i)]] for i in matched])
        effect = float(mean[at])
        if not len(others):
            bound, proved = float("nan"), False
        elif kind.sign == 0:
            bound = float(np.quantile(np.abs(others), 0.05))
            proved = abs(effect) < bound
        else:
            bound = kind.sign * float(np.quantile(kind.sign * others, 0.95))
            proved = kind.sign * effect > max(kind.sign * bound, 0.0)
        outcomes[name, unit] = Outcome(effect, float(error[at]), bound, bool(proved))
    return outcomes


def _unit(evidence: Evidence, sort: str, index: int) -> Unit:
    layer, number = (evidence.heads if sort == "head" else evidence.neurons)[index]
    return (sort, layer, number)
