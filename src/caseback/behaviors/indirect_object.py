"""Indirect object identification, head by head: who does what, and with what effect (PRIMER 5.4.4).

    duplicate token   S2 looks at S1           previous token   S1+1 looks at S1      induction   S2 looks at S1+1
    S-inhibition      END looks at S2, and what it writes there moves the name movers' queries
    name mover        END looks at IO, and what it writes there raises IO over S; a negative one lowers it
    subject mover     END looks at S1, and what it writes there raises S over IO
    S2 mover          END looks at S2, and what it writes there raises IO over S: the position of S2 already holds the
                      other name, and END takes it from there
    first-name mover  END looks at the name that was said first, whoever it is, and what it writes there raises that
    second-name mover name over the other: it takes a name by its place in the text, so it works for IO in the one order
                      of mention and against it in the other

Both orders are looked at apart: in ``ABBA`` prompts IO is said before S, in ``BABA`` prompts after it. A mean over both
would show a first-name mover as a head that looks at both names and does nothing. A role is given plainly if it holds
in every order that the prompts have and these are two; otherwise it says where: ``"induction (BABA)"``.

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
from caseback.model.arguments import checked
from caseback.model.findings import Finding, Findings, band_of_best, graded, ordered
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.prompts import Prompts

ORDERS = ("ABBA", "BABA")
"""Who is said first: IO, or S."""

KINDS = {
    "name mover": "end_to_io",
    "subject mover": "end_to_s1",
    "negative name mover": "end_to_io",
    "S-inhibition": "end_to_s2",
    "S2 mover": "end_to_s2",
    "induction": "s2_to_s1_next",
    "duplicate token": "s2_to_s1",
    "previous token": "s1_next_to_s1",
}
"""Where a head of each role looks."""

BY_PLACE = ("first-name mover", "second-name mover")
"""Roles of heads that look at IO in one order of mention and at S1 in the other."""

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
        the head adds to the logit difference of IO and S (positive: it works for IO; the last by the queries of heads
        that are name movers in every order of mention), and the attention weights
        ``end_to_io``, ``end_to_s1``, ``end_to_s2``, ``s2_to_s1``, ``s2_to_s1_next``, ``s1_next_to_s1``. Coordinates
        are each head's ``role``, empty for none, the metrics ``clean`` and ``corrupt``, and each prompt's ``order``,
        by which ``ioi_by_order`` takes means: a role without an order in brackets holds in both.

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
    orders = _orders(prompts)
    rows_of = {order: orders == order for order in ORDERS if (orders == order).any()}
    moving = [_moves_io(looks, direct, strong, least, rows) for rows in rows_of.values()]
    movers = [heads[i] for i in np.flatnonzero(np.all(moving, axis=0))]
    through = np.zeros_like(direct)
    if any(layer for layer, _ in movers):
        queries = [f"{head_name(layer, h)}.q" for layer, h in movers]
        metric = prompts.measured("logit_diff")
        options = {"receivers": queries, "senders": names, "pos": -1, "progress": progress}
        through = -path_patch(model, prompts.clean, prompts.corrupt, metric, **options).values
    fits = {order: _fits(looks, direct, total, through, strong, least, rows) for order, rows in rows_of.items()}
    roles = [_role(fits, i) for i in range(len(heads))]
    values = {"direct": direct, "total": total, "through_name_movers": through, **looks}
    coords: dict[str, Any] = {
        "component": names,
        "layer": ("component", [layer for layer, _ in heads]),
        "head": ("component", [h for _, h in heads]),
        "role": ("component", roles),
        "order": ("batch", orders),
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
    when its z is replaced by the corrupt run's. A role that holds in one order of mention names it, and score, control,
    band and effect are means over the prompts of that order. First- and second-name movers are no findings: they look
    at their place whether the relation is there or not.

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
    orders = measured["order"].values
    least = effect * abs(float((measured.clean - measured.corrupt).mean()))
    findings = []
    for i, role in enumerate(measured.role.values.tolist()):
        kind, _, only = role.removesuffix(")").partition(" (")
        if kind not in KINDS:
            continue
        look = KINDS[kind]
        rows = orders == only if only else np.ones(len(orders), dtype=bool)
        controls = corrupt[WITHOUT[look]][:, rows]
        band = band_of_best(controls, seed=seed)
        score = float(measured[look].values[i, rows].mean())
        total = float(measured.total.values[i, rows].mean())
        grade = graded(score, band, total, least)
        if grade is None:
            continue
        query, key = LOOKS[look]
        findings.append(
            Finding(
                component=head_name(*heads[i]),
                kind=role,
                score=score,
                control=float(controls[i].mean()),
                band=band,
                effect=total,
                unit="logit difference",
                grade=grade,
                draw={"query": query, "key": key, "direct": float(measured.direct.values[i, rows].mean())},
            )
        )
    return Findings(ordered(findings), {key: str(value) for key, value in measured.attrs.items()})


@checked
def ioi_by_order(measured: xr.Dataset) -> xr.Dataset:
    """Means of what ``ioi_heads`` gave over the prompts of each order of mention.

    Parameters
    ----------
    measured
        What ``ioi_heads`` gave.

    Returns
    -------
    xr.Dataset
        The same variables over (order, component), and ``prompts``, how many of each order there are. ``"ABBA"``: IO is
        said first; ``"BABA"``: S is. An order without prompts is missing.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> apart = ioi_by_order(ioi_heads(model, cb.tasks.ioi().prompts(model, 20)))
    >>> head = apart.sel(component="L2H0")
    >>> str(head.role.item()), (head.end_to_io > 0.9).values.tolist(), (head.direct > 0).values.tolist()
    ('first-name mover', [True, False], [True, False])
    """
    orders = measured["order"].values
    held = [order for order in ORDERS if (orders == order).any()]
    parts = [measured.isel(batch=np.flatnonzero(orders == order)) for order in held]
    of_order = {side: ("order", [float(part[side].mean()) for part in parts]) for side in ("clean", "corrupt")}
    of_order["prompts"] = ("order", [part.sizes["batch"] for part in parts])
    means = [part.mean("batch", keep_attrs=True) for part in parts]
    apart = xr.concat(means, xr.IndexVariable("order", held))
    return apart.assign_coords(of_order)


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
        at[name] = np.stack([run["pattern", layer][rows, h, q, k].cpu().double().numpy() for layer, h in heads])
    return at


def _orders(prompts: Prompts) -> np.ndarray:
    """Each prompt's order of mention, one of ``ORDERS``, from where its names stand."""
    io_first = (prompts.at("IO") < prompts.at("S1")).cpu().numpy()
    return np.where(io_first, *ORDERS)


def _moves_io(looks: dict, direct: Any, strong: float, least: float, rows: np.ndarray) -> np.ndarray:
    """Which heads look at IO from the end, more than at S1, and raise it, in these prompts."""
    at_io = looks["end_to_io"][:, rows].mean(-1)
    at_s1 = looks["end_to_s1"][:, rows].mean(-1)
    return (at_io > np.maximum(strong, at_s1)) & (direct[:, rows].mean(-1) > least)


def _fits(
    looks: dict, direct: Any, total: Any, through: Any, strong: float, least: float, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """For each role, which heads have it in these prompts."""
    at = {name: values[:, rows].mean(-1) for name, values in looks.items()}
    seen = {name: mean > strong for name, mean in at.items()}
    writes = direct[:, rows].mean(-1)
    matters = np.abs(total[:, rows].mean(-1)) > least
    to_io = seen["end_to_io"] & (at["end_to_io"] > at["end_to_s1"])
    to_s1 = seen["end_to_s1"] & (at["end_to_s1"] > at["end_to_io"])
    return {
        "name mover": to_io & (writes > least),
        "subject mover": to_s1 & (writes < -least),
        "negative name mover": to_io & (writes < -least),
        "S-inhibition": seen["end_to_s2"] & (through[:, rows].mean(-1) > least),
        "S2 mover": seen["end_to_s2"] & (writes > least),
        "induction": seen["s2_to_s1_next"] & matters,
        "duplicate token": seen["s2_to_s1"] & matters,
        "previous token": seen["s1_next_to_s1"] & matters,
    }


def _role(fits: dict[str, dict[str, np.ndarray]], head: int) -> str:
    """A head's role: the first that fits in both orders, or else the first that fits in one, which it names."""
    held = {order: [role for role, heads in of_order.items() if heads[head]] for order, of_order in fits.items()}
    if len(held) == len(ORDERS):
        io_first, s_first = (held[order] for order in ORDERS)
        both = [role for role in io_first if role in s_first]
        if "name mover" in io_first and "subject mover" in s_first:
            return "first-name mover"
        if "subject mover" in io_first and "name mover" in s_first:
            return "second-name mover"
        if both:
            return both[0]
    alone = [(role, order) for order, roles in held.items() for role in roles]
    first = min(alone, key=lambda one: list(KINDS).index(one[0]), default=None)
    return "" if first is None else f"{first[0]} ({first[1]})"
