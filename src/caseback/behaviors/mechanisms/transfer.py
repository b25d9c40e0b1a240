"""Whether vectors of a function carry it to prompts that do not show it, beside random ones and another function's.

    carries    log p(answer | v) > log p(answer),  > quantile .95 of 100 random vectors of v's norm,  > the other's v

Heads and layer are chosen on one half of the pairs, and all that is scored asks about the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from caseback.behaviors.mechanisms.chance import margin
from caseback.behaviors.mechanisms.function_vectors import (
    WITHOUT,
    FunctionVector,
    finding,
    function_vector,
    indirect_effects,
    put,
    task_vector,
)
from caseback.behaviors.mechanisms.report import BehaviorReport, RoleReport, Transfer
from caseback.behaviors.mechanisms.shots import SHOT, Shots, halves, shots_of
from caseback.model.anatomy.coerce import in_float64
from caseback.model.findings import Finding, Findings, ordered
from caseback.model.graph.names import head_name, parse_name
from caseback.model.registry import technique
from caseback.model.running.model import Model

ROLE = "function-vector head"
DRAWS = 100
RANDOM = 20
LEAST = 0.02
"""The least effect on the answer's probability that proves a head."""


@technique(
    entry=("5.4.1",),
    citation="Todd et al. 2024, Hendel et al. 2023",
    cost="two sweeps of heads at the last token, and one of 100 random vectors for each kind of prompt",
)
def function_behavior(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    *,
    other: Sequence[tuple[str, str]] | None = None,
    name: str = "function",
    shots: int = 5,
    shot: str = SHOT,
    prompts: int = 25,
    top: int = 10,
    without: str | None = None,
    by: str = "prob",
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = False,
) -> tuple[BehaviorReport, dict[str, FunctionVector]]:
    """Find a function's vectors on one half of its pairs, and put them to the test on the other.

    Parameters
    ----------
    model, pairs, shots, shot, top, without, by, seed, progress
        As for ``function_vector``.
    other
        Pairs of another function, whose vectors are put in the same place; none by default.
    name
        What the function is called.
    prompts
        Prompts to find vectors on, and as many to judge them on.
    draws
        Random vectors of the same norm.

    Returns
    -------
    tuple
        The report, and ``"function vector"`` and ``"task vector"``; of a function that the model does not do, the
        report has the margin alone, and there are no vectors.

    Raises
    ------
    CasebackError
        As ``function_vector``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.standard.shots import FUNCTIONS
    >>> model, words = cb.load("meadow"), FUNCTIONS["first_letter"]
    >>> report, vectors = function_behavior(model, words, prompts=8, draws=10)
    >>> sorted(vectors), [one.prompts for one in report.transfers]
    (['function vector', 'task vector'], ['zero-shot', 'shuffled', 'zero-shot', 'shuffled'])
    """
    how = {"shots": shots, "shot": shot, "prompts": prompts, "seed": seed}
    own, held = halves(pairs, shots, seed)
    judging = shots_of(model, held, own, prompts, shots, shot, seed + 1)
    judged = margin(model, judging.prompts, seed=seed)
    pair = judging.prompts.pairs[0]
    example = {"clean": pair.clean.text, "corrupt": pair.corrupt.text}
    example |= {"target": model.token_text(judging.prompts.target[0][0]), "foil": ""}
    n_heads = sum(layer.dims.n_heads for layer in model.anatomy.layers)
    about = {**model.provenance(), **how, "cut": judging.cut, "parts": n_heads}
    report = BehaviorReport(
        f"function-vector: {name}",
        "Pairs of words show a function, and a last first half asks for it.",
        "5.4.1",
        "Todd et al. 2024; Hendel et al. 2023",
        (prompts, len(judging)),
        example,
        judged,
        about_model=about,
    )
    if not judged.present:
        return report, {}
    options = {"top": top, "without": without, "by": by}
    vectors = {
        "function vector": function_vector(model, pairs, **how, **options, progress=progress),
        "task vector": task_vector(model, pairs, **how, progress=progress),
    }
    others: dict[str, Tensor | None] = dict.fromkeys(vectors)
    if other is not None:
        others["function vector"] = function_vector(model, other, **how, **options, progress=progress).vector
        others["task vector"] = _at_layer(model, other, vectors["task vector"].layer, **how)
    transfers = [
        _transfer(model, judging, kind, vector, others[kind], on, draws, seed, progress)
        for kind, vector in vectors.items()
        for on in reversed(WITHOUT)
    ]
    heads, role = _heads(model, pairs, judging, vectors["function vector"], how, progress)
    return replace(report, roles=(role,), heads=heads, transfers=tuple(transfers)), vectors


def _at_layer(model: Model, pairs: Sequence[tuple[str, str]], layer: int, **how: object) -> Tensor:
    """The task vector of a function at a given layer."""
    few = finding(model, pairs, **how)  # type: ignore[arg-type]
    run = model.run(few.prompts.clean, read=[("resid_post", layer)])
    rows = torch.arange(len(few))
    return run["resid_post", layer][rows, few.prompts.clean.column(-1)].mean(0)


def _transfer(
    model: Model,
    on: Shots,
    kind: str,
    vector: FunctionVector,
    other: Tensor | None,
    prompts: str,
    draws: int,
    seed: int,
    progress: bool,
) -> Transfer:
    """What a vector does to held-out prompts, and what random ones and the other function's do there."""
    rng = torch.Generator().manual_seed(seed)
    random = torch.randn(draws, len(vector.vector), generator=rng).to(vector.vector)
    random *= vector.vector.norm() / random.norm(dim=1, keepdim=True)
    others = [] if other is None else [other]
    edits = [put(one, vector.layer, adds=vector.adds) for one in (vector.vector, *others, *random)]
    shown = model.run(on.prompts.clean)
    by = {}
    for name in ("log_prob", "accuracy"):
        metric = on.log_prob if name == "log_prob" else on.is_first
        swept = model.sweep(on.without(prompts), edits, metric, progress=progress)
        means = swept.values.mean(1)
        by[name] = {
            "without": float(swept["clean"].mean()),
            "with": float(means[0]),
            "band": float(np.quantile(means[1 + len(others) :], 0.95)) if draws else None,
            "other": float(means[1]) if others else None,
            "shown": float(in_float64(metric(shown)).mean()),
        }
    return Transfer(kind, prompts, vector.layer, by)


def _heads(
    model: Model, pairs: Sequence[tuple[str, str]], on: Shots, vector: FunctionVector, how: dict, progress: bool
) -> tuple[Findings, RoleReport]:
    """The vector's heads on held-out prompts, beside heads that are not in it."""
    assert vector.effects is not None
    measure, without = str(vector.about["by"]), str(vector.about["without"])
    shown = finding(model, pairs, **how)
    run = model.run(shown.prompts.clean, read=["z"])
    effects = indirect_effects(model, run, on, without, measure, progress=progress)
    mean, several = effects.mean("batch"), np.sqrt(effects.sizes["batch"])
    error = effects.std("batch", ddof=1) / several
    own = [parse_name(name) for name in vector.heads]
    depths = np.array([head.layer for head in own])
    rest = [(i, h) for i in range(model.n_layers) for h in range(model.anatomy.layers[i].dims.n_heads)]
    rest = [(i, h) for i, h in rest if head_name(i, h) not in vector.heads]
    rest.sort(key=lambda at: int(np.abs(depths - at[0]).min()))
    random = np.array([float(mean.sel(layer=i, head=h)) for i, h in rest[:RANDOM]])
    band = float(np.quantile(random, 0.95))
    findings = []
    for head in own:
        effect, spread = (float(of.sel(layer=head.layer, head=head.index)) for of in (mean, error))
        proved = effect > max(band, 2 * spread, LEAST)
        findings.append(
            Finding(
                component=head_name(head.layer, head.index),
                kind=ROLE,
                score=float(vector.effects.sel(layer=head.layer, head=head.index)),
                control=float(random.mean()),
                band=band,
                effect=effect,
                unit={"prob": "probability", "log_prob": "nats"}[measure],
                grade="proved" if proved else "seen" if effect > band else "unseen",
                draw={"error": spread, "random": band, "random_parts": len(random), "prompts": without},
            )
        )
    role = RoleReport(
        ROLE,
        "writes at the last token which function the examples show",
        "end",
        "",
        f"output at end as in few-shot prompts, in {without} ones",
        len(own),
        sum(finding.grade == "proved" for finding in findings),
    )
    return Findings(ordered(findings)), role
