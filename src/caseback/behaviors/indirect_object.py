"""Indirect object identification, head by head: who does what, and with what effect (PRIMER 5.4.4).

    duplicate token   S2 looks at S1           previous token   S1+1 looks at S1      induction   S2 looks at S1+1
    S-inhibition      END looks at S2, and what it writes there moves the name movers' queries
    name mover        END looks at IO, and what it writes there raises IO over S; a negative one lowers it
    S2 mover          END looks at S2, and what it writes there raises IO over S: the position of S2 already holds the
                      other name, and END takes it from there

Looking alone does not make a role: a head counts if both its looking and its effect are strong. Three effects stand
side by side: direct (its write, read by the unembedding), total (its z replaced by the counterfactual's) and, for
S-inhibition, the effect through the name movers' queries alone, with everything else held fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.errors import CasebackError
from caseback.localize.circuits.path_patching import path_patch
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.localize.components.patching import patch
from caseback.model.findings import Finding, Findings, band_of_best, graded, ordered
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.prompts import Prompts

KINDS = {
    "name mover": "end_to_io",
    "negative name mover": "end_to_io",
    "S-inhibition": "end_to_s2",
    "S2 mover": "end_to_s2",
    "induction": "s2_to_s1_next",
    "duplicate token": "s2_to_s1",
    "previous token": "s1_next_to_s1",
}
"""Where a head of each role looks."""

WITHOUT = {**{name: name for name in KINDS.values()}, "s1_next_to_s1": "end_to_s1"}
"""The control for each look, in prompts whose names all differ: the same places without the relation. A head that looks
one back does so there too, so its control is another place."""

LOOKS = {
    "end_to_io": ("end", "IO"),
    "end_to_s1": ("end", "S1"),
    "end_to_s2": ("end", "S2"),
    "s2_to_s1": ("S2", "S1"),
    "s2_to_s1_next": ("S2", "S1+1"),
    "s1_next_to_s1": ("S1+1", "S1"),
}


@technique(role="component effect", entry=("5.4.4",), citation="Wang et al. 2023", cost="a sweep of heads, twice")
def ioi_heads(
    model: Model, prompts: Prompts, *, strong: float = 0.3, effect: float = 0.05, progress: bool = False
) -> xr.Dataset:
    """What every head does on indirect-object prompts, and the role that follows from it.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts of ``cb.tasks.ioi(corruption="abc")`` or another of its corruptions, with the positions IO, S1, S2 and
        end.
    strong
        The mean attention from which a head counts as looking at a place.
    effect
        The share of the logit difference (clean minus corrupt) from which an effect counts.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over (component, batch), where components are heads: ``direct``, ``total`` and ``through_name_movers``, what
        the head adds to the logit difference of IO and S (positive: it works for IO), and the attention weights
        ``end_to_io``, ``end_to_s1``, ``end_to_s2``, ``s2_to_s1``, ``s2_to_s1_next``, ``s1_next_to_s1``. Coordinates
        are each head's ``role``, empty for none, and the metrics ``clean`` and ``corrupt``.

    Raises
    ------
    CasebackError
        For prompts without the task's positions.

    References
    ----------
    Wang et al. 2023, "Interpretability in the wild".

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> heads = ioi_heads(model, cb.tasks.ioi().prompts(model, 20))
    >>> heads.sizes["component"] == model.n_layers * model.n_heads, heads.direct.dims
    (True, ('component', 'batch'))
    """
    missing = [name for name in ("IO", "S1", "S2") if name not in prompts.spans]
    if missing:
        raise CasebackError(f"these prompts name no {missing[0]}: expected those of cb.tasks.ioi()")
    layers = range(model.n_layers)
    heads = [(layer, h) for layer in layers for h in range(model.anatomy.layers[layer].dims.n_heads)]
    names = [head_name(layer, h) for layer, h in heads]
    looks = _looks(model, prompts, heads)
    shares = logit_attribution(model, prompts.clean, prompts.measured("logit_diff"))
    direct = shares.sel(component=names).values
    patched = patch(
        model,
        prompts.clean,
        prompts.corrupt,
        prompts.measured("logit_diff"),
        site="z",
        by=("layer", "head"),
        direction="noising",
        progress=progress,
    )
    total = -np.stack([patched.effect.sel(layer=layer, head=h).values for layer, h in heads])
    gap = float((patched.clean - patched.corrupt).mean())
    least = effect * abs(gap)
    at_io = looks["end_to_io"].mean(-1) > np.maximum(strong, looks["end_to_s1"].mean(-1))
    movers = [heads[i] for i in np.flatnonzero(at_io & (direct.mean(-1) > least))]
    through = np.zeros_like(direct)
    if any(layer for layer, _ in movers):
        queries = [f"{head_name(layer, h)}.q" for layer, h in movers]
        metric = prompts.measured("logit_diff")
        options = {"receivers": queries, "senders": names, "pos": -1, "progress": progress}
        through = -path_patch(model, prompts.clean, prompts.corrupt, metric, **options).values
    roles = _roles(looks, direct, total, through, strong, least)
    values = {"direct": direct, "total": total, "through_name_movers": through, **looks}
    coords: dict[str, Any] = {
        "component": names,
        "layer": ("component", [layer for layer, _ in heads]),
        "head": ("component", [h for _, h in heads]),
        "role": ("component", roles),
        "clean": ("batch", patched.clean.values),
        "corrupt": ("batch", patched.corrupt.values),
    }
    variables = {
        name: labelled(
            value,
            ["component", "batch"],
            coords,
            name=name,
            technique=ioi_heads,
            model=model,
            task=prompts.task,
            strong=strong,
            effect=effect,
        )
        for name, value in values.items()
    }
    return xr.Dataset(variables, attrs=variables["direct"].attrs)


@technique(role="detector", entry=("5.4.4",), citation="Wang et al. 2023", cost="a sweep of heads, twice")
def find_ioi_heads(
    model: Model,
    prompts: Prompts,
    *,
    strong: float = 0.3,
    effect: float = 0.05,
    seed: int = 0,
    progress: bool = False,
) -> Findings:
    """The heads that find the indirect object, each with its control.

    A head with a role is a finding if it looks at the role's place more than the best of all heads does by chance where
    the relation is absent: at the same places of the corrupt prompts (``WITHOUT``). It is proved if the metric moves
    when its z is replaced by the corrupt run's.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts of ``cb.tasks.ioi(corruption="abc")``: in the corrupt ones no name comes twice, so nobody is the
        subject.
    strong, effect
        As for ``ioi_heads``.
    seed
        Same seed, same result. Resamples the prompts behind the band.
    progress
        Show a progress bar.

    Returns
    -------
    Findings
        With score, control and band as mean attention, and the effect in logits. A role that no head has is missing.

    Raises
    ------
    CasebackError
        For prompts without the task's positions.

    References
    ----------
    Wang et al. 2023, "Interpretability in the wild".

    Examples
    --------
    >>> from caseback.organisms.compiled import build
    >>> from caseback.organisms.compiled.indirect_object import NAMES, TEMPLATES
    >>> import caseback as cb
    >>> model = build("indirect_object").model
    >>> task = cb.tasks.ioi(templates=TEMPLATES).with_fillers(names=NAMES)
    >>> movers = find_ioi_heads(model, task.prompts(model, 40)).of("name mover")
    >>> [head.component for head in movers], movers[0].grade
    (['L3H0', 'L3H1'], 'proved')
    """
    measured = ioi_heads(model, prompts, strong=strong, effect=effect, progress=progress)
    heads = list(zip(measured["layer"].values.tolist(), measured["head"].values.tolist(), strict=True))
    corrupt = _looks(model, prompts, heads, prompts.corrupt)
    controls = {look: corrupt[WITHOUT[look]] for look in WITHOUT}
    bands = {name: band_of_best(scores, seed=seed) for name, scores in controls.items()}
    least = effect * abs(float((measured.clean - measured.corrupt).mean()))
    totals = measured.total.mean("batch").values
    findings = []
    for i, role in enumerate(measured.role.values.tolist()):
        if not role:
            continue
        look = KINDS[role]
        score = float(measured[look].values[i].mean())
        grade = graded(score, bands[look], float(totals[i]), least)
        if grade is None:
            continue
        query, key = LOOKS[look]
        findings.append(
            Finding(
                component=head_name(*heads[i]),
                kind=role,
                score=score,
                control=float(controls[look][i].mean()),
                band=bands[look],
                effect=float(totals[i]),
                unit="logit difference",
                grade=grade,
                draw={"query": query, "key": key, "direct": float(measured.direct.values[i].mean())},
            )
        )
    return Findings(ordered(findings), {key: str(value) for key, value in measured.attrs.items()})


def _looks(
    model: Model, prompts: Prompts, heads: list[tuple[int, int]], tokens: Tokens | None = None
) -> dict[str, np.ndarray]:
    """Attention between named positions, (head, batch): in the clean prompts, or in others at the same places."""
    run = model.run(prompts.clean if tokens is None else tokens, read=["pattern"])
    first = prompts.clean.first.cpu()
    rows = torch.arange(len(prompts))
    at: dict[str, np.ndarray] = {}
    for name, (query, key) in LOOKS.items():
        q, k = (prompts.at(pos) + first for pos in (query, key))
        at[name] = np.stack([run["pattern", layer][rows, h, q, k].double().cpu().numpy() for layer, h in heads])
    return at


def _roles(looks: dict, direct: Any, total: Any, through: Any, strong: float, least: float) -> list[str]:
    """One role per head, the first that fits."""
    seen = {name: values.mean(-1) > strong for name, values in looks.items()}
    matters = np.abs(total.mean(-1)) > least
    to_io = seen["end_to_io"] & (looks["end_to_io"].mean(-1) > looks["end_to_s1"].mean(-1))
    to_name = to_io | seen["end_to_s1"]
    fits = {
        "name mover": to_io & (direct.mean(-1) > least),
        "negative name mover": to_name & (direct.mean(-1) < -least),
        "S-inhibition": seen["end_to_s2"] & (through.mean(-1) > least),
        "S2 mover": seen["end_to_s2"] & (direct.mean(-1) > least),
        "induction": seen["s2_to_s1_next"] & matters,
        "duplicate token": seen["s2_to_s1"] & matters,
        "previous token": seen["s1_next_to_s1"] & matters,
    }
    return [next((role for role, held in fits.items() if held[i]), "") for i in range(len(direct))]
